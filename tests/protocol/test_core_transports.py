"""Connection, hub and flusher against any order of events, on transports that take any number of bytes at a time."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from core_harness import DIALECT, MASK, Handler, _quiet, updates
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastws._core import CHANNEL_PRICE, Channel, Connection, Hub
from fastws._frames import OP_TEXT, FrameReader, build_frame
from tests.fake_transport import FakeTransport

NAMES = ("A", "B", "C")
MODES = st.sampled_from(["all", "latest"])
WISHES = st.one_of(st.just(set(NAMES)), st.sets(st.sampled_from(NAMES)))
SIZES = st.sampled_from([0, 1, 2, 3, 7, 40, 500, 5000, None])


class Listener:
    """The other end of one connection, and what it is owed."""

    def __init__(self, hub: Hub, handler: Handler, transport: FakeTransport, mode: str) -> None:
        self.transport = transport
        self.mode = mode
        self.connection = Connection(hub, transport, handler, DIALECT, max_message_size=65536)
        self.wanted: set[str] = set()
        # What was published of what it wanted then; each value is the number of its publication.
        self.due: list[int] = []
        # The last of that of each symbol.
        self.last: dict[str, int] = {}
        self.values: list[int] = []
        self.lost: set[int] = set()
        self.close_codes: list[int] = []
        self._reader = FrameReader(is_client=True, max_message_size=16 << 20)
        self._n_read = 0
        self.connection.open()

    def read(self, numbers: dict[tuple[str, int], int]) -> None:
        """What has come is whole frames, whatever was taken of them when. `numbers` are the publications by symbol and
        `seq`."""
        new = bytes(self.transport.received[self._n_read :])
        self._n_read += len(new)
        messages = []
        for event in self._reader.feed(new):
            assert event[0] in ("message", "close", "ping", "pong"), event
            if event[0] == "message":
                messages.append(json.loads(event[3]))
            elif event[0] == "close":
                self.close_codes.append(event[1])
        for message in messages:
            for item in message["items"] if message.get("type") == "overflow" else ():
                lost = range(item["from_seq"], item["to_seq"] + 1)
                self.lost.update(numbers[item["code"], seq] for seq in lost)
        self.values += [update["value"] for update in updates(messages)]

    def check(self) -> None:
        """What has come is of what is due, in order, each once. With mode ``all`` nothing before it is missing, but
        what was declared lost."""
        assert self.values == sorted(set(self.values))
        due = [value for value in self.due if value <= max(self.values, default=0)]
        assert set(self.values) <= set(due)
        if self.mode == "all":
            assert set(due) - set(self.values) <= self.lost
            assert not self.lost & set(self.values)

    def check_end(self) -> None:
        """All is taken."""
        if self.mode == "all":
            assert set(self.due) - set(self.values) <= self.lost
        else:
            assert set(self.last.values()) <= set(self.values)


class Machine(RuleBasedStateMachine):
    """1. The ledger adds up, at every moment.
    2. What a client reads are whole frames. In them is what was published of what it wanted then, in order and each
       once; with mode ``all`` nothing is missing but what is declared lost.
    3. Once all is taken, each client has the last value of every symbol, and with mode ``all`` every one that is not
       declared lost, or it was closed for being slow.
    """

    has_socket = False

    @initialize(
        soft=st.sampled_from([600, 4000]),
        hard=st.sampled_from([4000, 100_000]),
        rooms=st.tuples(SIZES, SIZES),
    )
    def begin(self, soft: int, hard: int, rooms: tuple[int | None, int | None]) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._begin(soft, hard))
        for mode, room in zip(("all", "latest"), rooms, strict=True):
            self.connect(mode, room, set(NAMES))

    async def _begin(self, soft: int, hard: int) -> None:
        self.hub = Hub(
            self.loop,
            epoch="test",
            logger=_quiet,
            interval_ms=3_600_000,
            outbox_soft_size=soft,
            outbox_hard_size=hard,
        )
        self.handler = Handler(None)  # type: ignore[arg-type]
        self.channels: dict[str, Channel] = {}
        for name in NAMES:
            topics = (self.hub.topic("stock", name), self.hub.topic("market", "M"))
            self.channels[name] = self.hub.channel(name, "price", topics, bit=CHANNEL_PRICE, numbered=True)
        self.listeners: list[Listener] = []
        self.n_published = dict.fromkeys(NAMES, 0)
        self.numbers: dict[tuple[str, int], int] = {}

    @precondition(lambda self: len(self.listeners) < 3)
    @rule(mode=MODES, room=SIZES, names=WISHES)
    def connect(self, mode: str, room: int | None, names: set[str]) -> None:
        async def made() -> Listener:
            transport = FakeTransport(self.loop, room=room, has_socket=self.has_socket)
            return Listener(self.hub, self.handler, transport, mode)

        self.listeners.append(self.loop.run_until_complete(made()))
        self.subscribe(-1, names)
        self.turn()

    @precondition(lambda self: self.listeners)
    @rule(which=st.integers(0, 2), names=WISHES)
    def change(self, which: int, names: set[str]) -> None:
        self.subscribe(which % len(self.listeners), names)

    def subscribe(self, which: int, names: set[str]) -> None:
        listener = self.listeners[which]
        options = self.hub.options(latest=listener.mode == "latest")
        listener.connection.set_subscriptions({self.hub.topic("stock", name): options for name in names})
        listener.wanted = names

    @rule(name=st.sampled_from(NAMES), n=st.sampled_from([1, 3, 30, 200]), at_once=st.booleans())
    def publish(self, name: str, n: int, at_once: bool) -> None:
        for _ in range(n):
            self.n_published[name] += 1
            value = self.hub.sequence + 1
            self.numbers[name, self.n_published[name]] = value
            assert self.hub.publish(self.channels[name], value) == value
            for listener in self.listeners:
                if name in listener.wanted:
                    listener.due.append(value)
                    listener.last[name] = value
        if at_once:
            self.flush()

    @rule()
    def flush(self) -> None:
        self.hub.flusher.flush_all()
        self.turn()

    @precondition(lambda self: self.listeners)
    @rule(which=st.integers(0, 2), size=SIZES)
    def take(self, which: int, size: int | None) -> None:
        self.listeners[which % len(self.listeners)].transport.take(size)
        self.turn()

    @precondition(lambda self: self.listeners)
    @rule(which=st.integers(0, 2), n=st.integers(1, 4), cut=st.integers(1, 60))
    def say(self, which: int, n: int, cut: int) -> None:
        """Requests, whose answers go past the data that waits."""
        wire = build_frame(OP_TEXT, b'{"mark":1}', mask=MASK) * n
        listener = self.listeners[which % len(self.listeners)]
        listener.transport.deliver([wire[:cut], wire[cut:]])
        self.turn()

    @precondition(lambda self: len(self.listeners) > 1)
    @rule(which=st.integers(0, 2), how=st.sampled_from(["close", "lose"]))
    def leave(self, which: int, how: str) -> None:
        listener = self.listeners.pop(which % len(self.listeners))
        if how == "close":
            listener.connection.close(4000, "enough")
            listener.transport.take(None)
            self.turn()
            listener.read(self.numbers)
            listener.check()
        listener.transport.abort()
        self.turn()
        listener.transport.release()

    def turn(self) -> None:
        """A few turns of the loop. What is not done by then happens between the rules that follow."""

        async def turns() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def settle(self) -> None:
        """Flush and take, until nothing waits any more."""
        deadline = time.monotonic() + 10.0
        is_settled = False
        while not is_settled:
            assert time.monotonic() < deadline, [each.connection.ledger() for each in self.listeners]
            self.hub.flusher.flush_all()
            self.turn()
            is_settled = self.hub.flusher.is_idle and all(
                not each.connection.is_open or each.connection.ledger()["waiting"] == 0
                for each in self.listeners
            )
            # The last of it has been on its way.
            for listener in self.listeners:
                listener.transport.take(None)
            self.turn()

    @invariant()
    def the_ledger_adds_up(self) -> None:
        if not hasattr(self, "hub"):
            return
        for ledger in (self.hub.ledger(), *(listener.connection.ledger() for listener in self.listeners)):
            parts = ("delivered", "conflated", "lost", "undelivered", "waiting")
            assert ledger["published"] == sum(ledger.get(part, 0) for part in parts), ledger
            assert all(value >= 0 for value in ledger.values()), ledger

    @invariant()
    def frames_are_whole_and_in_order(self) -> None:
        for listener in getattr(self, "listeners", ()):
            listener.read(self.numbers)
            listener.check()

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.settle()
        self.the_ledger_adds_up()
        self.frames_are_whole_and_in_order()
        for listener in self.listeners:
            if listener.connection.is_open:
                listener.check_end()
            else:
                assert 4408 in self.handler.closed
            listener.transport.abort()
        self.turn()
        for listener in self.listeners:
            listener.transport.release()
        assert self.hub.n_connections == 0
        assert self.hub.cohorts == {}
        self.hub.stop()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


class SocketMachine(Machine):
    """The same where the core sends to the socket itself, whose kernel takes what it has room for."""

    has_socket = True


@pytest.mark.parametrize("machine", [Machine, SocketMachine])
@pytest.mark.parametrize(
    ("n_examples", "n_steps"),
    [(60, 20), pytest.param(1000, 50, marks=pytest.mark.long)],
    ids=["short", "long"],
)
def test_any_order_of_events(machine: type[Machine], n_examples: int, n_steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=n_examples,
            stateful_step_count=n_steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
