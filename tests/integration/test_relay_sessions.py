"""Sessions that go from one server to another, over a real Redis: with what was missed, or without knowing it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from fastws.auth.tokens import sign
from tests.clients import Client, client, updates
from tests.joined import Joined, metric, price, publish
from tests.redis_server import RedisServer
from tests.serving import Server, until

SECRET = "a secret of at least thirty-two bytes"
CODES = [f"C{i}" for i in range(12)]
# Loaded by the servers: a machine with much to do stands still for longer than the product waits for a holder. It is
# well below the time after which a server of which nothing is heard is not counted among the others any more.
PATIENT = """\
from fastws.relay import session_claims, session_keeping

def setup(hub):
    session_claims.SILENCE_SECONDS = session_claims.HEARING_SECONDS = session_claims.LEVEL_SECONDS = 3.0
    session_claims.ANSWER_SECONDS = 20.0
    session_keeping.SETTLING_SECONDS = 3.5
"""
SETTINGS = {"connections_per_user": 0, "jwt_secret": SECRET, "load": "patient:setup"}


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """Two servers for all tests; who kills one starts one for that."""
    directory = tmp_path_factory.mktemp("joined")
    (directory / "patient.py").write_text(PATIENT)
    with RedisServer(directory) as redis, Joined(directory, redis) as servers:
        servers.start(2, **SETTINGS)
        yield servers


_opened: list[ClientConnection] = []


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    """Let a test leave no connection open, also one that fails."""
    yield
    while _opened:
        connection = _opened.pop()
        connection.transport.abort()
        await connection.wait_closed()


async def opened(url: str) -> Client:
    """A client that the test closes, or that is closed after it."""
    one = Client(await connect(url, proxy=None, max_size=None, ping_interval=None))
    _opened.append(one.connection)
    one.greeting = await one.receive()
    return one


def bearer(user: str) -> str:
    return sign({"sub": user}, SECRET.encode(), "HS256")


class Seen:
    """What a client has seen: the prices of each code, and its cursor."""

    def __init__(self) -> None:
        self.prices: dict[str, list[int]] = {}
        self.sequence = 0
        self.epoch = ""
        self.session_id = ""
        self._seqs: dict[str, int] = {}

    def follow(self, one: Client) -> None:
        """Look at a new connection from now on."""
        one.on_message = self._take
        self.epoch = one.greeting["epoch"]
        self.session_id = one.greeting["connection_id"]
        self.sequence = one.greeting["sequence"]
        self._seqs = {}

    def _take(self, message: dict[str, Any]) -> None:
        for update in updates(message):
            code, seq = update["code"], update["seq"]
            assert update["sequence"] > self.sequence, "numbers rise"
            assert self._seqs.get(code, seq - 1) == seq - 1, "none is missing and none twice"
            self._seqs[code] = seq
            self.sequence = update["sequence"]
            self.prices.setdefault(code, []).append(update["price"])
        if message["type"] == "batch":
            self.sequence = max(self.sequence, message.get("sequence", 0))

    def has(self, codes: list[str], message: dict[str, Any]) -> bool:
        """Whether there was a price of each."""
        return all(code in self.prices for code in codes)

    def url(self, server: Server, token: str = "") -> str:
        """Where it goes on at `server`."""
        return (
            f"{server.url}?session_id={self.session_id}&last_sequence={self.sequence}&epoch={self.epoch}"
            + (f"&token={token}" if token else "")
        )


class Known:
    """How many sessions of others a server gets to know from now on; it forgets none meanwhile."""

    def __init__(self, *servers: Server) -> None:
        self._before = {server: server.stats()["sessions_elsewhere"] for server in servers}

    def until(self, n: int) -> None:
        for server, before in self._before.items():
            until(partial(self._is, server, before + n), f"{n} sessions more are known")

    def _is(self, server: Server, n: float) -> bool:
        return bool(server.stats()["sessions_elsewhere"] >= n)


def moved(server: Server, what: str) -> float:
    return metric(server, "fastws_relay_session_moves_total", what=what)


def lists(i: int) -> dict[str, list[str]]:
    """What client `i` holds."""
    held = {"stock": [CODES[(i + k) % 12] for k in range(1 + i % 3)]}
    if i % 4 == 0:
        held["market"] = ["KOSPI"]
    return held


async def hold(one: Client, i: int) -> None:
    for kind, names in lists(i).items():
        options = {"mode": "latest", "max_rate": 2} if i % 5 == 0 else {}
        await one.subscribe(kind, *names, **options)
        await one.until_snapshot()


async def go_on(seen: Seen, server: Server, token: str = "") -> tuple[Client, dict[str, Any]]:
    """Connect to `server` with a session, and return the answer."""
    one = await opened(seen.url(server, token))
    answer = await one.until(lambda message: message["type"] in ("reconnected", "error"))
    return one, answer


async def moved_from_killed(joined: Joined, n: int) -> None:
    """`n` sessions of a server that is killed go on at another one, with what they held."""
    two = joined.servers[1]
    (one,) = joined.start(1, **SETTINGS)
    known, before = Known(two), moved(two, "taken_over")
    seen = [Seen() for _ in range(n)]

    async def begin(i: int) -> Client:
        at_one = await opened(one.url)
        seen[i].follow(at_one)
        await hold(at_one, i)
        return at_one

    clients = [await begin(i) for i in range(n)]
    publish(two, *(price(code, 1) for code in CODES))
    known.until(n)
    joined.kill(one)
    for each in clients:
        assert await each.closed() in (1006, 1000)

    async def again(i: int) -> None:
        at_two, answer = await go_on(seen[i], two)
        assert answer["type"] == "reconnected", answer
        assert answer["recovered"] is False
        assert answer["session_id"] == seen[i].session_id == at_two.greeting["connection_id"]
        assert answer["restored_subscriptions"] == lists(i)
        snapshot = await at_two.until_snapshot()
        assert {message["code"] for message in snapshot["messages"]} >= set(lists(i)["stock"])
        await at_two.send(type="list_subscriptions")
        assert (await at_two.until_type("subscriptions"))["subscriptions"] == lists(i)
        await at_two.connection.close()

    began = time.monotonic()
    for at in range(0, n, 100):
        await asyncio.gather(*(again(i) for i in range(at, min(n, at + 100))))
    print(f"{n} sessions of a killed server in {time.monotonic() - began:.2f} s")
    until(lambda: moved(two, "taken_over") == before + n, "counts")
    assert not any(each.session_id in two.log for each in seen)


async def test_sessions_survive_the_death_of_their_server(joined: Joined) -> None:
    await moved_from_killed(joined, 26)


@pytest.mark.long
async def test_a_thousand_sessions_survive_the_death_of_their_server(joined: Joined) -> None:
    await moved_from_killed(joined, 1000)


async def moved_from_live(joined: Joined, n: int) -> None:
    """`n` sessions of a server that lives go on at another one while both publish; each price comes once."""
    one, two = joined.servers[:2]
    known, known_there = Known(two), Known(one)
    before = moved(two, "taken"), moved(one, "given")
    number = 0

    def publish_some() -> None:
        nonlocal number
        for server, codes in ((one, CODES[:6]), (two, CODES[6:])):
            publish(server, *(price(code, number + k) for k in range(3) for code in codes))
        number += 3

    publish_some()
    seen = [Seen() for _ in range(n)]
    async with AsyncExitStack() as stack:
        # Somebody who looks at all of it: what is not listened to before cannot be gone on with.
        other = await stack.enter_async_context(client(two.url))
        await other.subscribe("stock", *CODES)
        await other.until_snapshot()

        async def begin(i: int) -> Client:
            at_one = await opened(one.url)
            seen[i].follow(at_one)
            await at_one.subscribe("stock", *CODES[i % 6 :: 3])
            await at_one.until_snapshot()
            return at_one

        clients = [await begin(i) for i in range(n)]
        first = number
        await asyncio.to_thread(publish_some)
        known.until(n)

        async def again(i: int) -> None:
            for _ in range(i % 4):
                await clients[i].receive()
            clients[i].connection.transport.abort()
            at_two, answer = await go_on(seen[i], two)
            sequence = seen[i].sequence
            seen[i].follow(at_two)
            assert (answer["type"], answer.get("recovered")) == ("reconnected", True), (answer, sequence)
            clients[i] = at_two

        def publish_more() -> None:
            for _ in range(20):
                publish_some()

        await asyncio.gather(asyncio.to_thread(publish_more), *(again(i) for i in range(n)))
        last = number
        for i, each in enumerate(clients):
            codes = CODES[i % 6 :: 3]
            while not all((seen[i].prices.get(code) or [0])[-1] == last - 1 for code in codes):
                try:
                    await each.receive(5)
                except TimeoutError:
                    raise AssertionError(f"client {i}: {seen[i].prices}, up to {last}") from None
            for code in codes:
                assert seen[i].prices[code] == list(range(first, last)), (i, code)
        until(lambda: (moved(two, "taken"), moved(one, "given")) == (before[0] + n, before[1] + n), "counts")
        # And one that looks at all of it.
        known_there.until(n + 1)
        for each in clients:
            await each.connection.close()


async def test_sessions_of_a_live_server_go_on_without_a_gap(joined: Joined) -> None:
    await moved_from_live(joined, 12)


@pytest.mark.long
async def test_many_sessions_of_a_live_server_go_on_without_a_gap(joined: Joined) -> None:
    await moved_from_live(joined, 300)


async def moved_from_stopped(joined: Joined, n: int, rate: int) -> None:
    """`n` sessions of a server that is stopped go on at another one, where `rate` updates/s are published; each price
    comes once."""
    two = joined.servers[1]
    (one,) = joined.start(1, shutdown_spread=1, **SETTINGS)
    known = Known(two)
    seen = [Seen() for _ in range(n)]
    is_over = asyncio.Event()
    last = 0

    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(client(two.url))
        await other.subscribe("stock", *CODES)
        await other.until_snapshot()

        async def publish_on() -> None:
            """Also what nobody looks at: numbers are not without holes."""
            nonlocal last
            codes = [*CODES, *(f"D{i}" for i in range(12))]
            began = time.monotonic()
            while not is_over.is_set():
                last += 1
                await asyncio.to_thread(publish, two, *(price(code, last) for code in codes))
                await asyncio.sleep(max(0.0, began + last * len(codes) / rate - time.monotonic()))

        async def begin(i: int) -> Client:
            at_one = await opened(one.url)
            seen[i].follow(at_one)
            await at_one.subscribe("stock", *CODES[i % 6 :: 3])
            await at_one.until_snapshot()
            return at_one

        clients = [await begin(i) for i in range(n)]
        known.until(n)
        # Of what nobody has ever published a server that has gone cannot tell how far a client was.
        last = 1
        publish(two, *(price(code, last) for code in CODES))
        for i, each in enumerate(clients):
            await each.until(partial(seen[i].has, CODES[i % 6 :: 3]))
        publishing = asyncio.ensure_future(publish_on())
        recovered = []

        async def go(i: int) -> None:
            told = await clients[i].until_type("server_shutdown", 60)
            assert await clients[i].closed() == 1012
            await asyncio.sleep(told["reconnect_after_ms"] / 1000)
            clients[i], answer = await go_on(seen[i], two)
            seen[i].follow(clients[i])
            assert answer["type"] == "reconnected", answer
            recovered.append(answer["recovered"])

        going = [asyncio.ensure_future(go(i)) for i in range(n)]
        try:
            await other.until(lambda _: last > 5)
            began = time.monotonic()
            one.signal(signal.SIGTERM)
            assert await asyncio.to_thread(one.wait) == 0
            stopped_after = time.monotonic() - began
            await asyncio.gather(*going)
        finally:
            is_over.set()
            await publishing
            for each in going:
                each.cancel()
        assert recovered == [True] * n
        for i, each in enumerate(clients):
            for code in CODES[i % 6 :: 3]:
                while (seen[i].prices.get(code) or [0])[-1] != last:
                    await each.receive()
                assert seen[i].prices[code] == list(range(1, last + 1)), (i, code)
            await each.connection.close()
    print(f"{n} sessions, {last * 24} updates; the stop took {stopped_after:.2f} s")


async def test_sessions_of_a_stopped_server_go_on_without_a_gap(joined: Joined) -> None:
    await moved_from_stopped(joined, 10, 500)


@pytest.mark.long
async def test_many_sessions_of_a_stopped_server_go_on_without_a_gap(joined: Joined) -> None:
    await moved_from_stopped(joined, 200, 500)


async def test_a_session_is_its_users(joined: Joined) -> None:
    """And from a connection that lives it does not go."""
    one, two = joined.servers[:2]
    known, seen = Known(two), Seen()
    async with client(f"{one.url}?token={bearer('kim')}") as at_one:
        seen.follow(at_one)
        await at_one.subscribe("stock", "A")
        await at_one.until_snapshot()
        known.until(1)
        for token in (bearer("lee"), ""):
            other, answer = await go_on(seen, two, token)
            assert (answer["code"], answer["details"]["reason"]) == (
                "SESSION_RESTORATION_FAILED",
                "forbidden",
            )
            await other.connection.close()
        # `websockets` answers pings by itself.
        other, answer = await go_on(seen, two, bearer("kim"))
        assert (answer["code"], answer["details"]["reason"]) == ("SESSION_RESTORATION_FAILED", "in_use")
        await other.connection.close()
        await at_one.sync()
    # What nobody could go on with is not known.
    before = two.stats()["sessions_elsewhere"]
    async with client(one.url) as at_one:
        await at_one.subscribe("stock", "A")
        until(lambda: two.stats()["sessions_elsewhere"] == before + 1, "the session is known")
        await at_one.unsubscribe("stock", "A")
        until(lambda: two.stats()["sessions_elsewhere"] == before, "it is known no more")
    nobody = Seen()
    nobody.session_id = "00000000-0000-4000-8000-000000000000"
    other, answer = await go_on(nobody, two)
    assert answer["details"]["reason"] == "unknown"
    await other.connection.close()


async def test_a_server_that_says_nothing_is_not_waited_for(joined: Joined) -> None:
    """And when it is there again, it ends the old connection."""
    one, two = joined.servers[:2]
    known, seen, before = Known(two), Seen(), moved(one, "replaced")
    async with client(one.url) as at_one:
        seen.follow(at_one)
        await at_one.subscribe("stock", "A", mode="all")
        await at_one.until_snapshot()
        known.until(1)
        one.process.send_signal(signal.SIGSTOP)
        try:
            at_two, answer = await go_on(seen, two)
            assert (answer["type"], answer["recovered"]) == ("reconnected", False)
            assert answer["restored_subscriptions"] == {"stock": ["A"]}
        finally:
            one.process.send_signal(signal.SIGCONT)
        assert await at_one.closed() == 4410
        await at_two.sync()
        until(lambda: moved(one, "replaced") == before + 1, "it is given up")
        await at_two.connection.close()


@pytest.mark.long
async def test_a_server_that_is_slow_is_waited_for(joined: Joined) -> None:
    """It says nothing for a while, and has everything that was missed when it goes on."""
    one, two = joined.servers[:2]
    async with client(two.url) as at_two, client(one.url) as at_one:
        await at_two.subscribe("stock", *CODES)
        await at_two.until_snapshot()
        known, seen = Known(two), Seen()
        seen.follow(at_one)
        await at_one.subscribe("stock", "C0")
        await at_one.until_snapshot()
        known.until(1)
        at_one.connection.transport.abort()
        publish(one, *(price("C0", 1000 + k) for k in range(3)))
        await at_two.until(lambda message: any(each["price"] == 1002 for each in updates(message)))
        one.process.send_signal(signal.SIGSTOP)
        # So long that it has not answered, and so short that it cannot be taken for dead.
        asyncio.get_running_loop().call_later(0.8, one.process.send_signal, signal.SIGCONT)
        try:
            again, answer = await go_on(seen, two)
        finally:
            one.process.send_signal(signal.SIGCONT)
        assert (answer["type"], answer["recovered"], answer["missed_messages_count"]) == (
            "reconnected",
            True,
            3,
        )
        seen.follow(again)
        await again.until(lambda _: len(seen.prices["C0"]) == 3)
        assert seen.prices == {"C0": [1000, 1001, 1002]}


def alert(user: str, number: int) -> dict[str, Any]:
    return {
        "type": "alert",
        "user_id": user,
        "code": "A",
        "alert_type": "price_above",
        "threshold": number,
        "current_price": number,
        "message": "m",
    }


class Alerts:
    """The alerts that a connection has got."""

    def __init__(self, one: Client) -> None:
        self.client = one
        self.numbers: list[int] = []
        one.on_message = self._take

    def _take(self, message: dict[str, Any]) -> None:
        for each in message.get("messages", [message]):
            if each["type"] == "alert":
                self.numbers.append(each["threshold"])

    async def until(self, *numbers: int) -> None:
        if self.numbers != list(numbers):
            await self.client.until(lambda _: self.numbers == list(numbers))


async def left(one: Client, server: Server) -> None:
    """Cut a connection, and wait until its server knows."""
    before = server.stats()["saved_sessions"]
    one.connection.transport.abort()
    await asyncio.to_thread(until, lambda: server.stats()["saved_sessions"] > before, "its session")


async def test_alerts_go_along(joined: Joined) -> None:
    """Those that the client has missed, once; and they are told to nobody again."""
    one, two = joined.servers[:2]
    token, known, seen = bearer("pat"), Known(two), Seen()
    at_one = await opened(f"{one.url}?token={token}")
    seen.follow(at_one)
    await at_one.subscribe("stock", "A")
    await at_one.until_snapshot()
    known.until(1)
    await left(at_one, one)
    publish(one, alert("pat", 1), alert("pat", 2))
    at_two, answer = await go_on(seen, two, token)
    assert (answer["type"], answer["recovered"], answer["missed_messages_count"]) == ("reconnected", True, 2)
    got = Alerts(at_two)
    await got.until(1, 2)
    async with client(f"{one.url}?token={token}") as another:
        others = Alerts(another)
        publish(one, alert("pat", 3))
        await others.until(3)
        await got.until(1, 2, 3)
        await another.sync()
        await at_two.sync()
        assert (got.numbers, others.numbers) == ([1, 2, 3], [3])


async def test_alerts_of_an_answer_that_comes_too_late(joined: Joined) -> None:
    one, two = joined.servers[:2]
    token, known, seen = bearer("max"), Known(two), Seen()
    async with client(f"{one.url}?token={token}") as another:
        at_one = await opened(f"{one.url}?token={token}")
        seen.follow(at_one)
        await at_one.subscribe("stock", "A")
        await at_one.until_snapshot()
        known.until(2)
        await left(at_one, one)
        # Somebody hears it, and so it waits for nobody but the session.
        others = Alerts(another)
        publish(one, alert("max", 1))
        await others.until(1)
        one.process.send_signal(signal.SIGSTOP)
        try:
            at_two, answer = await go_on(seen, two, token)
            assert (answer["type"], answer["recovered"]) == ("reconnected", False)
            got = Alerts(at_two)
            await at_two.sync()
            assert got.numbers == []
        finally:
            one.process.send_signal(signal.SIGCONT)
        await got.until(1)
        await at_two.sync()
        await another.sync()
        assert got.numbers == others.numbers == [1]


async def one_gets_it(seen: Seen, two: Server, three: Server) -> None:
    """A client goes on at two servers at once."""
    found = await asyncio.gather(go_on(seen, two), go_on(seen, three))
    clients = [each for each, answer in found if answer["type"] == "reconnected"]
    refused = [answer for _, answer in found if answer["type"] == "error"]
    if len(clients) == 2:
        ends = [asyncio.ensure_future(each.closed()) for each in clients]
        done, left = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert [each.result() for each in done] == [4410]
        winner = clients[ends.index(next(iter(left)))]
        next(iter(left)).cancel()
        await asyncio.wait(left)
    else:
        (winner,) = clients
        assert refused[0]["code"] == "SESSION_RESTORATION_FAILED"
    await winner.send(type="list_subscriptions")
    assert (await winner.until_type("subscriptions"))["subscriptions"] == {"stock": ["D"]}
    for each, _ in found:
        await each.connection.close()


async def test_who_joins_later_knows_the_sessions(joined: Joined) -> None:
    """Of connections that are open, and of those that have ended; and of two servers one gets a session."""
    (one,) = joined.start(1, **SETTINGS)
    seen, ended, raced = Seen(), Seen(), Seen()
    async with client(one.url) as at_one, client(one.url) as other:
        seen.follow(at_one)
        raced.follow(other)
        await at_one.subscribe("stock", "A", "B")
        await at_one.until_snapshot()
        await other.subscribe("stock", "D")
        await other.until_snapshot()
        async with client(one.url) as each:
            ended.follow(each)
            await each.subscribe("stock", "C", mode="latest")
            await each.until_snapshot()
        (two,) = joined.start(1, **SETTINGS)
        others = [server for server in joined.servers if server is not two]
        stats = [server.stats() for server in others]
        n = sum(each["saved_sessions"] + each["active_connections"] for each in stats)
        until(lambda: two.stats()["sessions_elsewhere"] == n, "all sessions are known")
        at_two, answer = await go_on(ended, two)
        assert answer["restored_subscriptions"] == {"stock": ["C"]}
        await at_two.connection.close()
        joined.kill(one)
    at_two, answer = await go_on(seen, two)
    assert answer["restored_subscriptions"] == {"stock": ["A", "B"]}
    await at_two.connection.close()
    await one_gets_it(raced, joined.servers[0], two)


async def test_who_is_started_anew_gets_its_clients_back(joined: Joined) -> None:
    """A server that is stopped comes again, and so do its clients; of one something was published meanwhile."""
    two = joined.servers[1]
    (one,) = joined.start(1, **SETTINGS)
    known = Known(two)
    seen = [Seen() for _ in range(4)]
    async with client(two.url) as other:
        # Also of what nobody looks at the others know how far its clients are, if somebody looks at it with them.
        await other.subscribe("stock", "E0", "E1", "E2", "E3")
        for i, each in enumerate(seen):
            at_one = await opened(one.url)
            each.follow(at_one)
            await at_one.subscribe("stock", f"E{i}")
            await at_one.until_snapshot()
            publish(two, price(f"E{i}", 1))
            await at_one.until(partial(each.has, [f"E{i}"]))
        known.until(4)
        one.signal(signal.SIGTERM)
        assert await asyncio.to_thread(one.wait) == 0
        publish(two, price("E3", 2), price("E3", 3))
        (new,) = joined.start(1, **SETTINGS)
        for i, each in enumerate(seen):
            again, answer = await go_on(each, new)
            assert (answer["type"], answer.get("recovered")) == ("reconnected", i < 3), answer
            assert answer["restored_subscriptions"] == {"stock": [f"E{i}"]}
            each.follow(again)
            if i == 3:
                snapshot = await again.until_snapshot()
                assert [message["price"] for message in snapshot["messages"]] == [3]
            publish(two, price(f"E{i}", 4))
            while each.prices[f"E{i}"][-1] != 4:
                await again.receive()
            assert each.prices[f"E{i}"] == [1, 4]
            await again.connection.close()
        until(lambda: moved(new, "taken") == 4, "counts")


async def test_who_was_killed_and_is_started_anew_gets_its_clients_back(joined: Joined) -> None:
    """At once, so that the others still count on the one before."""
    two = joined.servers[1]
    (one,) = joined.start(1, **SETTINGS)
    known = Known(two)
    seen = Seen()
    at_one = await opened(one.url)
    seen.follow(at_one)
    await at_one.subscribe("stock", "F")
    await at_one.until_snapshot()
    known.until(1)
    joined.kill(one)
    (new,) = joined.start(1, is_awaited=False, **SETTINGS)
    again, answer = await go_on(seen, new)
    assert (answer["type"], answer.get("recovered")) == ("reconnected", False), answer
    assert answer["restored_subscriptions"] == {"stock": ["F"]}
    publish(two, price("F", 1))
    (update,) = updates(await again.until(updates))
    assert update["price"] == 1
    await again.connection.close()
