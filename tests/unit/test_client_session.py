"""A client's session against a model of the server's side of the contract, over any interruptions."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastws.client.backoff import Backoff, Reconnection
from fastws.client.held import UNSAID, Wish
from fastws.client.messages import (
    Error,
    Gap,
    Message,
    Overflow,
    PriceUpdate,
    Restored,
    Unreadable,
    Withdrawn,
)
from fastws.client.session import Session
from fastws.messages import Ping, Resume, Unsubscribe

CODES = ["A", "B", "C"]
TIME = "2025-11-11T09:30:00.123Z"


class Model:
    """A server with one client at a time. `wire` is what it has sent and nobody has received."""

    def __init__(self) -> None:
        self.epoch = 0
        self.n_sessions = 0
        self.refused: set[str] = set()
        self.restart()

    def restart(self) -> None:
        self.epoch += 1
        self.sequence = 0
        self.seqs = dict.fromkeys(CODES, 0)
        self.history: list[dict[str, Any]] = []
        self.kept_from = 0
        self.sessions: dict[str, set[str]] = {}
        self.cut()

    def cut(self) -> None:
        self.session_id = ""
        self.pending: list[dict[str, Any]] = []
        self.wire: deque[dict[str, Any]] = deque()

    @property
    def held(self) -> set[str]:
        return self.sessions[self.session_id]

    def send(self, kind: str, **fields: Any) -> None:
        self.wire.append({"type": kind, "timestamp": TIME, **fields})

    def connect(self, session_id: str = "", last_sequence: str = "0", epoch: str = "") -> None:
        self.cut()
        found = session_id in self.sessions
        self.n_sessions += 1
        self.session_id = session_id if found else f"session {self.n_sessions}"
        self.sessions.setdefault(self.session_id, set())
        self.send(
            "connection",
            status="connected",
            connection_id=self.session_id,
            authenticated=False,
            user_id=None,
            epoch=str(self.epoch),
            sequence=self.sequence,
            batch_interval_ms=30,
            limits={"subscriptions": 50, "rate_limit": 100, "message_bytes": 65536},
            feeds={},
        )
        if not found:
            if session_id:
                code = "SESSION_RESTORATION_FAILED"
                self.send(
                    "error", code=code, error_code=code, message="unknown", details={"reason": "unknown"}
                )
            return
        cursor = int(last_sequence)
        recovered = epoch == str(self.epoch) and cursor >= self.kept_from
        missed = [body for body in self.history if body["sequence"] > cursor and body["code"] in self.held]
        self.send(
            "reconnected",
            session_id=session_id,
            restored_subscriptions={"stock": sorted(self.held)},
            missed_messages_count=len(missed),
            recovered=recovered,
        )
        if recovered:
            self.wire.extend(missed)
        else:
            self.snapshot(self.held)

    def snapshot(self, codes: set[str]) -> None:
        last = {body["code"]: body for body in self.history if body["code"] in codes}
        bodies = sorted(last.values(), key=lambda body: int(body["sequence"]))
        self.send("batch", snapshot=True, batch_size=len(bodies), messages=bodies, sequence=self.sequence)

    def receive(self, text: bytes) -> None:
        request = json.loads(text)
        if request["type"] == "ping":
            self.send("pong", id=request["id"])
            return
        self.flush()
        targets = set(request["targets"])
        if request["type"] == "unsubscribe":
            self.held.difference_update(targets)
            self.send("unsubscribed", subscription_type="stock", targets=request["targets"], id=request["id"])
            return
        refused = self.refused - self.held
        rejected = [{"target": target, "reason": "limit"} for target in sorted(targets & refused)]
        targets -= refused
        if not targets:
            code = "LIMIT_EXCEEDED"
            self.send(
                "error",
                code=code,
                error_code=code,
                message="full",
                details={"rejected": rejected},
                id=request["id"],
            )
            return
        self.held.update(targets)
        more = {"rejected": rejected} if rejected else {}
        self.send("subscribed", subscription_type="stock", targets=sorted(targets), id=request["id"], **more)
        self.snapshot(targets)

    def publish(self, code: str) -> None:
        self.sequence += 1
        self.seqs[code] += 1
        body = {
            "type": "price_update",
            "code": code,
            "name": code,
            "price": self.sequence,
            "timestamp": TIME,
            "sequence": self.sequence,
            "seq": self.seqs[code],
        }
        self.history.append(body)
        if self.session_id and code in self.held:
            self.pending.append(body)

    def flush(self, n_dropped: int = 0) -> None:
        dropped, self.pending = self.pending[:n_dropped], self.pending[n_dropped:]
        items = []
        for code in CODES:
            seqs = [body["seq"] for body in dropped if body["code"] == code]
            if seqs:
                items.append(
                    {
                        "code": code,
                        "channel": "price",
                        "dropped": len(seqs),
                        "from_seq": seqs[0],
                        "to_seq": seqs[-1],
                    }
                )
        if items:
            self.send("overflow", items=items)
        if len(self.pending) == 1:
            self.wire.append(self.pending[0])
        elif self.pending:
            self.send("batch", batch_size=len(self.pending), messages=self.pending, sequence=self.sequence)
        self.pending = []


class User:
    """Follows what it is told, and believes that nothing else has happened."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.n_restored = 0

    def reach(self, code: str) -> int:
        """Up to where it has everything, or knows of its loss."""
        return max(self.last.get(code, 0), self.told.get(code, 0))

    def take(self, message: Message) -> None:
        match message:
            case Gap():
                raise AssertionError(f"the model loses nothing undeclared: {message}")
            case Restored(recovered=recovered):
                self.n_restored += 1
                if not recovered:
                    self.last.clear()
                    self.told.clear()
            case Overflow(items=items):
                for lost in items:
                    assert lost.from_seq == self.reach(lost.code) + 1 or lost.code not in self.last
                    self.told[lost.code] = lost.to_seq
            case Withdrawn(rejected=rejected):
                for item in rejected:
                    self.last.pop(item.target, None)
                    self.told.pop(item.target, None)
            case PriceUpdate(snapshot=True, code=code, seq=seq):
                self.last[code] = max(seq, self.last.get(code, 0))
            case PriceUpdate(code=code, seq=seq):
                last = self.last.get(code, seq - 1)
                assert last < seq <= max(last, self.told.get(code, 0)) + 1, f"{message} after {self.last}"
                self.last[code] = seq
            case Error():
                raise AssertionError(message)


class World:
    def __init__(self) -> None:
        self.server = Model()
        self.session = Session(Reconnection(Backoff(), lambda: 0.5))
        self.user = User()
        self.is_connected = False

    def connect(self) -> None:
        if not self.is_connected:
            self.server.connect(**self.session.parameters())
            self.is_connected = True

    def cut(self) -> None:
        self.session.connection_lost()
        self.server.cut()
        self.is_connected = False

    def exchange(self, n: int = 1_000_000) -> None:
        """Let the server receive all, and the client up to `n` frames."""
        while True:
            for text in self.session.outgoing:
                self.server.receive(text)
            self.session.outgoing.clear()
            if not n or not self.server.wire or not self.is_connected:
                return
            n -= 1
            for message in self.session.receive(json.dumps(self.server.wire.popleft()).encode(), 0.0):
                self.user.take(message)

    def do(self, name: str, code: str, n: int) -> None:
        server, session = self.server, self.session
        match name:
            case "publish":
                for _ in range(n):
                    server.publish(code)
            case "flush":
                server.flush()
            case "overflow":
                server.flush(n)
            case "exchange":
                self.connect()
                self.exchange(n)
            case "subscribe":
                session.subscribe("stock", [code], Wish(mode="all"), snapshot=True)
            case "unsubscribe":
                session.ask(Unsubscribe(subscription_type="stock", targets=[code]))
            case "cut":
                self.cut()
            case "restart":
                self.cut()
                server.restart()
            case "forget":
                server.kept_from = server.sequence
            case "expire":
                if not self.is_connected:
                    server.sessions.clear()
            case "refuse":
                server.refused ^= {code}

    def settle(self) -> None:
        """With nothing more in the way all is known."""
        self.server.refused.clear()
        self.connect()
        self.exchange()
        self.server.flush()
        self.exchange()


EVENTS = [
    "publish",
    "publish",
    "flush",
    "overflow",
    "exchange",
    "exchange",
    "subscribe",
    "unsubscribe",
    "cut",
    "restart",
]


@settings(max_examples=250, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*EVENTS, "forget", "expire", "refuse"]),
            st.sampled_from(CODES),
            st.integers(1, 6),
        ),
        min_size=10,
        max_size=50,
    )
)
def test_whatever_happens_nothing_is_missed_or_doubled_undeclared(events: list[tuple[str, str, int]]) -> None:
    world = World()
    world.session.subscribe("stock", CODES, UNSAID, snapshot=True)
    for event in events:
        world.do(*event)
    world.settle()
    held = {target for _, target in world.session.held.wishes}
    assert held == world.server.held
    for code in held:
        assert world.user.reach(code) == world.server.seqs[code]
    assert world.session.n_repeated == 0


def test_a_request_of_a_connection_that_ended_is_made_on_the_next() -> None:
    world = World()
    number = world.session.ask(Ping())
    given_up = world.session.ask(Ping())
    world.connect()
    world.exchange(1)
    world.session.abandon(given_up)
    world.cut()
    world.connect()
    world.exchange()
    assert [answer for answer, _ in world.session.answers] == [number]
    assert world.user.n_restored == 1


def test_what_the_server_drops_for_its_rate_is_asked_for_again() -> None:
    world = World()
    world.connect()
    world.exchange()
    number = world.session.ask(Ping())
    world.session.outgoing.clear()
    text = {"type": "error", "code": "RATE_LIMIT_EXCEEDED", "message": "", "details": {}, "timestamp": TIME}
    (error,) = world.session.receive(json.dumps(text).encode(), 0.0)
    assert isinstance(error, Error)
    assert world.session.must_ask_again
    world.session.ask_again()
    world.exchange()
    assert [answer for answer, _ in world.session.answers] == [number]


def test_what_is_no_longer_accepted_is_told() -> None:
    world = World()
    world.session.subscribe("stock", ["A", "B"], UNSAID, snapshot=True)
    world.connect()
    world.exchange()
    world.cut()
    world.server.restart()
    world.server.refused = {"B"}
    world.connect()
    world.exchange()
    assert world.session.held.by_kind() == {"stock": ["A"]}


def price(code: str, seq: int) -> dict[str, Any]:
    numbers = {"price": seq, "timestamp": TIME, "sequence": seq, "seq": seq}
    return {"type": "price_update", "code": code, "name": code, **numbers}


def tell(session: Session, **message: Any) -> list[Message]:
    return session.receive(json.dumps({"timestamp": TIME, **message}).encode(), 0.0)


def test_the_snapshot_of_a_resume_is_its_own_also_where_nothing_was_paused() -> None:
    world = World()
    session = world.session
    world.connect()
    session.subscribe("stock", ["A"], UNSAID, snapshot=True)
    world.exchange()
    resume, (subscribe,) = (
        session.ask(Resume()),
        session.subscribe("stock", ["B"], UNSAID, snapshot=True),
    )
    # Answers overtake data.
    assert tell(session, type="resumed", id=resume) == []
    assert tell(session, type="subscribed", subscription_type="stock", targets=["B"], id=subscribe) == []
    first = {"type": "batch", "snapshot": True, "batch_size": 0, "messages": [], "sequence": 0}
    assert tell(session, **first) == []
    second = first | {"messages": [price("B", 7)], "batch_size": 1, "sequence": 7}
    (update,) = tell(session, **second)
    assert isinstance(update, PriceUpdate)
    (live,) = tell(session, **price("B", 8))
    assert isinstance(live, PriceUpdate)


def test_values_of_before_the_start_of_the_server_are_stale() -> None:
    world = World()
    session = world.session
    world.connect()
    (subscribe,) = session.subscribe("stock", ["A", "B"], UNSAID, snapshot=True)
    tell(session, type="subscribed", subscription_type="stock", targets=["A", "B"], id=subscribe)
    values = [price("A", 1) | {"stale": True}, price("B", 1)]
    tell(session, type="batch", snapshot=True, batch_size=2, messages=values, sequence=2)
    assert [session.ages.is_stale(code) for code in ("A", "B")] == [True, False]
    tell(session, **price("A", 2))
    assert not session.ages.is_stale("A")


def test_what_is_given_up_while_it_is_away_is_not_asked_for_again() -> None:
    world = World()
    world.connect()
    world.session.subscribe("stock", CODES, UNSAID, snapshot=True)
    world.exchange()
    world.cut()
    world.server.restart()
    world.session.ask(Unsubscribe(subscription_type="stock", targets=["B"]))
    world.connect()
    asked = []
    receive = world.server.receive
    world.server.receive = lambda text: (asked.append(json.loads(text)), receive(text))[1]  # type: ignore[method-assign]
    world.exchange()
    assert [(request["type"], request["targets"]) for request in asked] == [
        ("subscribe", ["A", "C"]),
        ("unsubscribe", ["B"]),
    ]
    assert world.session.held.by_kind() == {"stock": ["A", "C"]}


def test_what_nobody_waited_for_is_ended_in_few_requests() -> None:
    """Ten thousand of them, one by one, would be over every limit of their rate."""
    world = World()
    world.connect()
    world.exchange()
    names = [f"{number:05d}" for number in range(10_000)]
    numbers = world.session.subscribe("stock", names, UNSAID, snapshot=True)
    for text in world.session.outgoing:
        world.server.sessions[world.server.session_id].update(json.loads(text)["targets"])
    for number in numbers:
        world.session.abandon(number)
    world.cut()
    world.connect()
    world.exchange(2)
    assert len(world.session.outgoing) == 0
    assert world.server.held == set()
    assert world.session._n_requests == 2 * len(numbers)


def test_only_the_answer_of_a_request_answers_it() -> None:
    world = World()
    world.connect()
    world.exchange()
    (number,) = world.session.subscribe("stock", ["A"], UNSAID, snapshot=True)
    for wrong in (
        {"type": "pong"},
        {"type": "unsubscribed", "subscription_type": "stock", "targets": ["A"]},
        {"type": "subscribed", "subscription_type": "market", "targets": ["A"]},
    ):
        (told,) = tell(world.session, id=number, **wrong)
        assert isinstance(told, Unreadable)
    assert world.session.answers == []
    assert world.session.held.by_kind() == {}
    world.exchange()
    assert [answer for answer, _ in world.session.answers] == [number]


def test_losses_without_end_are_told_as_a_fault_of_the_server() -> None:
    world = World()
    session = world.session
    world.connect()
    session.subscribe("stock", ["A"], UNSAID, snapshot=True)
    world.exchange()

    def declare(first: int) -> list[Message]:
        item = {"code": "A", "channel": "price", "dropped": 1, "from_seq": first, "to_seq": first}
        return tell(session, type="overflow", items=[item])

    told = [declare(first) for first in range(2, 2 * 1500, 2)]
    assert all(isinstance(some[-1], Overflow) for some in told)
    faults = [message for some in told for message in some if isinstance(message, Unreadable)]
    assert 0 < len(faults) == sum(len(some) - 1 for some in told) < 1000
    assert "A" in faults[0].text


def test_a_second_greeting_of_a_connection_changes_nothing() -> None:
    world = World()
    session = world.session
    world.connect()
    greeting = world.server.wire[0]
    world.exchange()
    known = session.greeting
    other = greeting | {"connection_id": "another", "epoch": "another", "sequence": 99}
    for _ in range(2):
        (told,) = tell(session, **other)
        assert isinstance(told, Unreadable)
    assert (session.greeting, session.cursor, session.is_live) == (known, 0, True)
    # Nor while it waits for the word about its session.
    world.cut()
    world.connect()
    greeting = world.server.wire.popleft()
    assert tell(session, **greeting) == []
    (told,) = tell(session, **other)
    assert isinstance(told, Unreadable)
    world.exchange()
    assert session.greeting is not None
    assert session.greeting.connection_id == greeting["connection_id"]
    assert session.is_live


def test_a_resumption_that_was_not_asked_for_awaits_no_snapshot() -> None:
    world = World()
    world.connect()
    world.exchange()
    (told,) = tell(world.session, type="resumed")
    assert isinstance(told, Unreadable)
    # Sent twice for the server's rate, it is answered twice, and has two snapshots.
    number = world.session.ask(Resume())
    world.session.ask_again()
    for _ in range(2):
        assert tell(world.session, type="resumed", id=number) == []
    assert len(world.session._awaited) == 2
    (told,) = tell(world.session, type="resumed", id=number)
    assert isinstance(told, Unreadable)
    # What was sent on a connection that ended is answered by nobody.
    world.session.ask(Resume())
    world.cut()
    (told,) = tell(world.session, type="resumed")
    assert isinstance(told, Unreadable)
