"""The JavaScript client (`clients/js`) in Node and Chromium, on real servers and over bad networks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve

from tests.browser.test_chromium import Site, browse
from tests.clients_js.node import (
    MODULES,
    SCRIPTS,
    JsClient,
    NodeProcess,
    Proxy,
    end,
    node_process,
    require_package,
    start_node,
)
from tests.conftest import StartServer
from tests.serving import ROOT, Server, free_port, require_program, until

PACKAGE = ROOT / "clients" / "js"
SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator of the tests"
# Published by nothing else, so numbered from 1.
OTHERS = ("005380", "105560", "068270", "207940")
SYMBOLS = ("005930", "000660", "035420", "035720")
# Back soon, and alone.
SETTINGS = {
    "admin_token": ADMIN,
    "jwt_secret": SECRET,
    "shutdown_spread": "0",
    "rate_limit": 1000,
    "allowed_origins": "*",
}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with node_process(tmp_path) as process:
        yield process


def publish(server: Server, *messages: dict[str, Any], connection: HTTPConnection | None = None) -> None:
    own = connection or server.http_connection()
    own.request("POST", "/v1/publish", json.dumps(messages), {"Authorization": f"Bearer {ADMIN}"})
    response = own.getresponse()
    body = response.read()
    assert response.status == 202, body
    if connection is None:
        own.close()


def price(code: str, value: int, **members: Any) -> dict[str, Any]:
    return {"type": "price_update", "code": code, "price": value, **members}


def book(code: str, value: int, **members: Any) -> dict[str, Any]:
    levels = {"bids": [{"price": value - 10, "quantity": 1}], "asks": [{"price": value, "quantity": 2}]}
    return {"type": "orderbook_update", "code": code, **levels, **members}


def token(seconds: float | None, user: str = "user-123") -> str:
    expiry = {} if seconds is None else {"exp": time.time() + seconds}
    return jwt.encode({"sub": user, **expiry}, SECRET, "HS256")


def prices(client: JsClient) -> list[tuple[int, bool]]:
    """Price and whether it was a snapshot's, of every price that a client was told."""
    found = [told["event"] for told in client.of_type("price_update")]
    return [(update["price"], "snapshot" in update) for update in found]


async def test_batches_are_unwrapped_and_snapshots_marked(
    shared_server: StartServer, node: NodeProcess
) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    publish(target, price("005930", 73000), book("005930", 73100))
    client = node.make("it", target.url)
    # Before it is connected: that waits.
    outcome = await client.call("subscribe", "stock", ["005930", "999999"])
    assert outcome == {
        "targets": ["005930"],
        "rejected": [{"target": "999999", "reason": "unknown symbol"}],
    }
    await client.until("batch", snapshot=True)
    assert prices(client) == [(73000, True)]
    assert "snapshot" in client.of_type("orderbook_update")[0]["event"]
    publish(target, price("005930", 73100), price("000660", 1), price("005930", 73200), book("005930", 73300))
    batch = await client.until("batch", batch_size=3)
    assert prices(client)[1:] == [(73100, False), (73200, False)]
    kinds = [told["type"] for told in client.events]
    assert kinds[-4:] == ["price_update", "price_update", "orderbook_update", "batch"]
    assert batch["messages"][1]["price"] == 73200
    age = await client.call("age", "005930")
    assert 0 <= age < 5000
    assert await client.call("age", "000660") is None
    assert await client.call("subscriptions") == {"stock": ["005930"]}
    assert await client.call("unsubscribe", "stock", "005930") == {"targets": ["005930"], "rejected": []}
    assert await client.call("age", "005930") is None
    publish(target, price("005930", 73300))
    assert await client.call("send", {"type": "ping", "id": 1})
    await client.until("pong", id=1)
    assert len(prices(client)) == 3
    nothing = await client.call("subscribe", "stock", ["999999"])
    assert nothing["rejected"] == [{"target": "999999", "reason": "unknown symbol"}]
    assert (await client.until("error"))["code"] == "SUBSCRIPTION_FAILED"
    assert await client.call("close") is None
    assert client.events[-1]["event"]["state"] == "closed"


async def test_a_restart_is_waited_for_and_everything_asked_for_again(
    server: StartServer, node: NodeProcess
) -> None:
    port = str(free_port())
    first = server("--feed", "none", "--port", port, **SETTINGS)
    client = node.make("it", first.url)
    await client.call("subscribe", "stock", ["005930", "000660"])
    await client.call("subscribe", "stock", ["035420"], {"max_rate": 5, "channels": ["price"]})
    await client.call("subscribe", "market", ["KOSPI"])
    publish(first, price("005930", 73000))
    await client.until("price_update", price=73000)
    first.signal(signal.SIGTERM)
    announced = await client.until("server_shutdown")
    waiting = await client.until("state", state="waiting")
    assert waiting["code"] == 1012
    assert waiting["delayMs"] == announced["reconnect_after_ms"]
    # Called while there is no server.
    pending = asyncio.create_task(client.call("subscribe", "stock", ["035720"]))
    await asyncio.to_thread(first.wait)
    second = server("--feed", "none", "--port", port, **SETTINGS)
    since = len(client.events)
    assert await pending == {"targets": ["035720"], "rejected": []}
    await client.until("state", state="open", recovered=False)
    # The first of them has a snapshot before what is published now.
    publish(second, price("005930", 74000), price("035720", 60000), price("035420", 200000))
    await client.until("price_update", since=since, price=60000)
    held = await client.call("subscriptions")
    assert held == {"stock": ["005930", "000660", "035420", "035720"], "market": ["KOSPI"]}
    [connection] = json.loads(
        second.get("/v1/ws/connections", headers={"Authorization": f"Bearer {ADMIN}"})[1]
    )
    assert {kind: sorted(of) for kind, of in connection["subscriptions"].items()} == {
        kind: sorted(of) for kind, of in held.items()
    }
    # The numbers have begun anew, which is no loss.
    assert client.of_type("gap") == client.of_type("lost") == []


class Published:
    """Publishes at `rate` a second from a thread; `numbers[type, code][seq - 1]` is what each update is known by."""

    def __init__(self, server: Server, rate: float) -> None:
        self.numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.is_stopped = False
        self._server = server
        self._rate = rate

    def run(self) -> None:
        counter = itertools.count()
        connection = self._server.http_connection()
        began = time.monotonic()
        n = 0
        while not self.is_stopped:
            due = int((time.monotonic() - began) * self._rate) - n
            if due > 0:
                publish(self._server, *(self._next(next(counter)) for _ in range(due)), connection=connection)
                n += due
            time.sleep(0.005)
        connection.close()

    def _next(self, number: int) -> dict[str, Any]:
        code = OTHERS[number % len(OTHERS)]
        make = book if number % 5 == 4 else price
        update = make(code, 50_000 + number % 100, n=number)
        self.numbers[update["type"], code].append(number)
        return update


def differences(published: Published, report: dict[str, list[list[Any]]]) -> Iterator[str]:
    """What a client that has lost nothing has got otherwise than it was published."""
    got: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for kind, code, seq, n in report["live"]:
        got[kind, code].append((seq, n))
    for key, numbers in published.numbers.items():
        wanted = list(enumerate(numbers, 1))
        if got[key] != wanted:
            first = next(
                (i for i, pair in enumerate(zip(got[key], wanted, strict=False)) if pair[0] != pair[1]), -1
            )
            yield f"{key}: {len(got[key])} of {len(wanted)}, otherwise from {first}: {got[key][first:][:3]}"
    twice = [
        key for key, n in Counter((kind, code, seq) for kind, code, seq, _ in report["wire"]).items() if n > 1
    ]
    if twice:
        yield f"sent twice: {twice[:5]}"


async def test_nothing_is_missing_or_twice_after_500_cuts(
    shared_server: StartServer, node: NodeProcess
) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    published = Published(target, 500)
    rng = random.Random(7)

    async def live(name: str) -> tuple[JsClient, Proxy]:
        """Be cut off at any moment: also in the handshake, the greeting, and in the middle of what was missed."""
        proxy = await proxies.enter_async_context(Proxy(target.port).serving())
        client = node.make(name, target.url.replace(str(target.port), str(proxy.port)), records=True)
        await client.call("subscribe", "stock", list(OTHERS))
        await begun.wait()
        while proxy.n_cut < 50:
            await asyncio.sleep(rng.choice((0.005, 0.02, 0.05, 0.1)))
            proxy.cut()
        return client, proxy

    async def settled(client: JsClient) -> dict[str, list[list[Any]]]:
        """What it has got once that is as much as was published."""
        wanted = sum(map(len, published.numbers.values()))
        deadline = time.monotonic() + 15
        while True:
            report = await client.report()
            if len(report["live"]) >= wanted or time.monotonic() > deadline:
                return report
            await asyncio.sleep(0.1)

    async with AsyncExitStack() as proxies:
        begun = asyncio.Barrier(11)
        lives = [asyncio.create_task(live(f"client {i}")) for i in range(10)]
        await begun.wait()
        publishing = asyncio.create_task(asyncio.to_thread(published.run))
        try:
            ended = await asyncio.gather(*lives)
        finally:
            published.is_stopped = True
            await publishing
        assert sum(proxy.n_cut for _, proxy in ended) >= 500
        assert sum(map(len, published.numbers.values())) > 1000
        for client, _ in ended:
            assert list(differences(published, await settled(client))) == []
            assert client.of_type("gap") == client.of_type("lost") == []
            restored = [told["event"] for told in client.of_type("reconnected")]
            assert len(restored) > 10
            assert all(told["recovered"] for told in restored)


async def test_a_dead_network_is_noticed(shared_server: StartServer, node: NodeProcess) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    async with Proxy(target.port).serving() as proxy:
        url = target.url.replace(str(target.port), str(proxy.port))
        client = node.make("it", url, options={"heartbeatMs": 100})
        await client.call("subscribe", "stock", ["005930"])
        # Quiet, and alive.
        await client.until("pong")
        await client.until("pong", since=len(client.events))
        assert len(client.of_type("connection")) == 1
        proxy.stall()
        await client.until("state", state="waiting", code=1006, reason="no sign of life")
        publish(target, price("005930", 73000))
        # The server still has the old connection, and gives the session only to one that is known to be dead.
        await client.until("reconnected", recovered=True)
        await client.until("price_update", price=73000)


async def test_what_the_server_has_forgotten_is_told(server: StartServer, node: NodeProcess) -> None:
    target = server("--feed", "none", **SETTINGS, history_bytes=0)
    async with Proxy(target.port).serving() as proxy:
        url = target.url.replace(str(target.port), str(proxy.port))
        client = node.make("it", url, options={"backoff": {"min": 400, "max": 400}})
        await client.call("subscribe", "stock", ["005930"])
        publish(target, price("005930", 73000))
        await client.until("price_update", price=73000)
        proxy.cut()
        await client.until("state", state="waiting")
        publish(target, *(price("005930", 73000 + i) for i in range(1, 6)))
        await client.until("state", state="open", recovered=False)
        await client.until("price_update", price=73005, snapshot=True)
        lost = {
            "code": "005930",
            "channel": "price",
            "from_seq": 2,
            "to_seq": 5,
            "dropped": 4,
            "cause": "outage",
        }
        assert [told["event"] for told in client.of_type("lost")] == [lost]
        assert client.of_type("gap") == []


async def test_a_token_is_refreshed_before_it_ends(shared_server: StartServer, node: NodeProcess) -> None:
    target = shared_server("--feed", "none", **SETTINGS, allow_anonymous="false")
    client = node.make("it", target.url, asks_for_tokens=True)
    client.give_token(token(2))
    assert (await client.until("connection"))["user_id"] == "user-123"
    await client.call("subscribe", "stock", ["005930"])
    client.give_token({"throw": "the login is down"})
    assert (await client.until("error"))["code"] == "TOKEN_HOOK_FAILED"
    client.give_token(token(3600))
    await client.until("token_refreshed")
    assert len(client.of_type("connection")) == 1
    assert len(client.of_type("token_wanted")) == 3


async def test_an_expired_token_is_replaced_and_the_session_goes_on(
    shared_server: StartServer, node: NodeProcess
) -> None:
    target = shared_server("--feed", "none", **SETTINGS, allow_anonymous="false")
    client = node.make("it", target.url, asks_for_tokens=True)
    client.give_token(token(-1))
    assert (await client.until("error"))["code"] == "INVALID_TOKEN"
    assert (await client.until("state", state="waiting"))["code"] == 4401
    client.give_token(token(1.5))
    await client.call("subscribe", "stock", ["005930"])
    # It is asked before the end already, and answers with what is no token of this user.
    client.give_token(token(3600, "user-456"))
    await client.until("error", code="TOKEN_REFRESH_ERROR")
    publish(target, price("005930", 73000))
    await client.until("error", code="INVALID_TOKEN", details={"reason": "expired"})
    client.give_token(token(3600))
    await client.until("reconnected", recovered=True)
    publish(target, price("005930", 73100))
    await client.until("price_update", price=73100)
    assert prices(client) == [(73000, False), (73100, False)]
    fixed = node.make("with a token that stays", target.url, options={"token": token(-1)})
    assert (await fixed.until("state", state="closed"))["code"] == 4401


async def test_requests_over_the_rate_limit_are_made_again(server: StartServer, node: NodeProcess) -> None:
    target = server("--feed", "none", **SETTINGS | {"rate_limit": 3})
    client = node.make("it", target.url)
    outcomes = await asyncio.gather(
        *(client.call("subscribe", "stock", [symbol]) for symbol in (*SYMBOLS, *OTHERS))
    )
    assert all(len(outcome["targets"]) == 1 for outcome in outcomes)
    assert client.of_type("error")


async def test_the_realtime_dialect(shared_server: StartServer, node: NodeProcess) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    async with Proxy(target.port).serving() as proxy:
        url = target.url.replace(str(target.port), str(proxy.port)).replace("/v1/ws", "/ws/realtime/")
        client = node.make("it", url, dialect="realtime")
        await client.call("subscribe", "asset", ["AAPL", "MSFT"])
        await client.until("subscribed", symbol="MSFT")
        await client.call("unsubscribe", "asset", "MSFT")
        await client.until("unsubscribed", symbol="MSFT")
        publish(target, price("AAPL", 150), price("MSFT", 400))
        await client.until("asset_update", symbol="AAPL", price=150)
        assert 0 <= await client.call("age", "AAPL") < 5000
        since = len(client.events)
        proxy.cut()
        await client.until("state", since, state="waiting")
        publish(target, price("AAPL", 151), price("MSFT", 401))
        await client.until("asset_update", since, symbol="AAPL", price=151)
        await client.call("subscribe", "portfolio", 123)
        assert (await client.until("error"))["code"] == "FORBIDDEN"
        assert await client.call("age", "MSFT") is None
        assert await client.call("subscriptions") == {"asset": ["AAPL"], "portfolio": [123]}


# What a server in order never does, or cannot be brought to in a short time, one does that is told to.


def stamped(**message: Any) -> str:
    return json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", **message})


def greeting(session: str = "one") -> str:
    members = {"connection_id": session, "epoch": "e", "sequence": 0, "feeds": {}}
    return stamped(type="connection", status="connected", authenticated=False, user_id=None, **members)


def update(seq: int, code: str = "005930", kind: str = "price_update") -> dict[str, Any]:
    return {
        "type": kind,
        "code": code,
        "price": seq,
        "seq": seq,
        "sequence": seq,
        "timestamp": "2026-01-01T00:00:00Z",
    }


@asynccontextmanager
async def scripted(act: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    async def handle(connection: ServerConnection) -> None:
        await act(connection)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as site:
        yield f"ws://127.0.0.1:{site.sockets[0].getsockname()[1]}/v1/ws"


async def accept(connection: ServerConnection, snapshot: list[dict[str, Any]]) -> dict[str, Any]:
    """Answer the next request as `subscribe` is answered; returns it."""
    request: dict[str, Any] = json.loads(await connection.recv())
    kind, targets = request["subscription_type"], request["targets"]
    await connection.send(
        stamped(type="subscribed", subscription_type=kind, targets=targets, id=request["id"])
    )
    size = len(snapshot)
    await connection.send(
        stamped(type="batch", batch_size=size, snapshot=True, messages=snapshot, sequence=0)
    )
    return request


async def refuse_restoration(connection: ServerConnection) -> None:
    error = {"code": "SESSION_RESTORATION_FAILED", "error_code": "SESSION_RESTORATION_FAILED"}
    await connection.send(stamped(type="error", message="unknown", details={}, **error))


async def test_holes_are_lost_where_declared_and_gaps_where_not(node: NodeProcess) -> None:
    async def act(connection: ServerConnection) -> None:
        await connection.send(greeting())
        await accept(connection, [update(10)])
        await accept(connection, [])
        items = [
            {"code": "005930", "channel": "price", "dropped": 2, "from_seq": 12, "to_seq": 13},
            {"code": "005930", "channel": "price", "dropped": 1, "from_seq": 17, "to_seq": 17},
        ]
        await connection.send(json.dumps(update(11)))
        await connection.send(stamped(type="overflow", items=items))
        # 14 and 15 nobody has declared; 18 comes twice. Of mode latest a hole means nothing.
        messages = [update(16), update(18), update(18), update(1, "000660"), update(9, "000660")]
        await connection.send(stamped(type="batch", batch_size=5, messages=messages, sequence=18))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"])
        await client.call("subscribe", "stock", ["000660"], {"mode": "latest"})
        await client.until("batch", batch_size=5)
        assert [told["event"]["seq"] for told in client.of_type("price_update")] == [10, 11, 16, 18, 1, 9]
        assert [told["event"] for told in client.of_type("gap")] == [
            {"code": "005930", "channel": "price", "from_seq": 14, "to_seq": 15, "dropped": 2}
        ]
        assert [(lost["event"]["from_seq"], lost["event"]["cause"]) for lost in client.of_type("lost")] == [
            (12, "overflow"),
            (17, "overflow"),
        ]


async def test_losses_are_not_declared_without_end(node: NodeProcess) -> None:
    """A server that declares what it cannot have is remembered up to a bound, and what lies behind it is a gap."""

    def loss(from_seq: int, to_seq: int) -> dict[str, Any]:
        span = {"from_seq": from_seq, "to_seq": to_seq, "dropped": to_seq - from_seq + 1}
        return {"code": "005930", "channel": "price", **span}

    # Every second number, and one that touches the last that is remembered; what came before is nothing new.
    items = [
        loss(1, 5),
        *(loss(13 + 2 * i, 13 + 2 * i) for i in range(1000)),
        loss(2012, 2013),
        loss(2016, 2016),
    ]

    async def act(connection: ServerConnection) -> None:
        await connection.send(greeting())
        await accept(connection, [update(10)])
        await connection.send(json.dumps(update(11)))
        await connection.send(stamped(type="overflow", items=items))
        await connection.send(json.dumps(update(2015)))
        await connection.send(json.dumps(update(2017)))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"])
        await client.until("price_update", seq=2017)
        assert len(client.of_type("lost")) == len(items)
        gaps = [(told["event"]["from_seq"], told["event"]["to_seq"]) for told in client.of_type("gap")]
        assert gaps == [(first, first) for first in range(12, 2011, 2)] + [(2014, 2014), (2016, 2016)]


async def test_a_second_greeting_ends_the_connection(node: NodeProcess) -> None:
    paths: list[str] = []

    async def act(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        if len(paths) == 1:
            await connection.send(greeting())
            await accept(connection, [update(10)])
            await connection.send(greeting("two"))
            await connection.send(json.dumps(update(11)))
        else:
            await connection.send(greeting())
            members = {
                "session_id": "one",
                "restored_subscriptions": {"stock": ["005930"]},
                "recovered": True,
            }
            await connection.send(stamped(type="reconnected", missed_messages_count=1, **members))
            await connection.send(json.dumps(update(11)))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"])
        waiting = await client.until("state", state="waiting")
        assert waiting["reason"] == "a second greeting came"
        await client.until("state", state="open", recovered=True)
        await client.until("price_update", seq=11)
        # It is the session of the first greeting that was asked for.
        assert paths == ["/v1/ws", "/v1/ws?session_id=one&last_sequence=0&epoch=e"]
        assert not client.of_type("gap")


async def test_a_symbol_is_stale_until_something_says_otherwise(node: NodeProcess) -> None:
    def status(code: str, status: str) -> dict[str, Any]:
        return json.loads(stamped(type="symbol_status", code=code, status=status, last_update="", sequence=9))  # type: ignore[no-any-return]

    async def act(connection: ServerConnection) -> None:
        await connection.send(greeting())
        codes = ("005930", "000660", "035420", "035720")
        await accept(
            connection, [*(update(1, code) for code in codes), *(status(code, "stale") for code in codes)]
        )
        await connection.recv()  # once the page has looked
        await connection.send(json.dumps(update(2)))
        await connection.send(json.dumps(status("000660", "live")))
        request = json.loads(await connection.recv())
        told = {"subscription_type": "stock", "targets": request["targets"], "id": request["id"]}
        await connection.send(stamped(type="unsubscribed", **told))

    async def stale() -> list[bool]:
        return [await client.call("isStale", code) for code in ("005930", "000660", "035420", "035720")]

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930", "000660", "035420", "035720"])
        await client.until("batch", snapshot=True)
        assert await stale() == [True] * 4
        await client.call("send", {"type": "ping"})
        await client.until("symbol_status", status="live")
        assert await stale() == [False, False, True, True]
        await client.call("unsubscribe", "stock", ["035420"])
        assert await stale() == [False, False, False, True]


async def test_a_symbol_with_nothing_but_values_of_before_is_stale(node: NodeProcess) -> None:
    codes = ["005930", "000660", "035420", "035720"]
    old = {"stale": True}

    async def act(connection: ServerConnection) -> None:
        await connection.send(greeting())
        values = [
            *(update(1, code) | old for code in codes[:3]),
            update(1, codes[1], "orderbook_update"),
            update(1, codes[3], "orderbook_update"),
            update(1, codes[3]) | old,
        ]
        await accept(connection, values)
        await connection.recv()  # once the page has looked
        await connection.send(json.dumps(update(2)))

    async def stale() -> list[bool]:
        return [await client.call("isStale", code) for code in codes]

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", codes)
        await client.until("batch", snapshot=True)
        assert await stale() == [True, False, True, False]
        await client.call("send", {"type": "ping"})
        await client.until("price_update", seq=2)
        assert await stale() == [False, False, True, False]


async def test_a_symbol_of_the_realtime_dialect_is_stale(node: NodeProcess) -> None:
    def asset(kind: str, **data: Any) -> str:
        return stamped(type=kind, data={"symbol": "AAPL", **data})

    async def act(connection: ServerConnection) -> None:
        await connection.send(stamped(type="connection", data={"status": "connected"}))
        await connection.recv()
        await connection.send(asset("asset_update", price=1))
        await connection.send(asset("symbol_status", status="stale", last_update=""))
        await connection.recv()
        await connection.send(asset("asset_update", price=2))
        await connection.recv()
        await connection.send(asset("asset_update", price=3, stale=True))
        await connection.recv()
        await connection.send(asset("asset_update", price=4))

    async with scripted(act) as url:
        client = node.make("it", url, dialect="realtime")
        await client.call("subscribe", "asset", ["AAPL"])
        await client.until("symbol_status", status="stale")
        assert await client.call("isStale", "AAPL")
        await client.call("send", {"type": "ping", "data": {}})
        await client.until("asset_update", price=2)
        assert not await client.call("isStale", "AAPL")
        await client.call("send", {"type": "ping", "data": {}})
        await client.until("asset_update", price=3)
        assert await client.call("isStale", "AAPL")
        await client.call("send", {"type": "ping", "data": {}})
        await client.until("asset_update", price=4)
        assert not await client.call("isStale", "AAPL")


async def test_a_snapshot_that_was_lost_with_its_connection_is_asked_for_again(node: NodeProcess) -> None:
    turns = itertools.count()
    seen: list[dict[str, Any]] = []

    async def act(connection: ServerConnection) -> None:
        assert connection.request is not None
        await connection.send(greeting())
        if next(turns) == 0:
            request = json.loads(await connection.recv())
            members = {"subscription_type": "stock", "targets": ["005930"], "id": request["id"]}
            await connection.send(stamped(type="subscribed", **members))
            connection.transport.abort()
            return
        assert "session_id=one&last_sequence=0&epoch=e" in connection.request.path
        members = {
            "session_id": "one",
            "restored_subscriptions": {"stock": ["005930"]},
            "missed_messages_count": 0,
            "recovered": True,
        }
        await connection.send(stamped(type="reconnected", **members))
        seen.append(await accept(connection, [update(10)]))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"])
        await client.until("price_update", snapshot=True)
        assert [request["targets"] for request in seen] == [["005930"]]


async def test_what_is_not_accepted_again_is_withdrawn(node: NodeProcess) -> None:
    n_connections = 0
    may_end = asyncio.Event()
    gone = [{"target": "000660", "reason": "unknown symbol"}]

    async def act(connection: ServerConnection) -> None:
        nonlocal n_connections
        n_connections += 1
        await connection.send(greeting(f"session {n_connections}"))
        if n_connections == 1:
            await accept(connection, [update(1), update(2, "000660")])
            await may_end.wait()
            connection.transport.abort()
            return
        await refuse_restoration(connection)
        request = json.loads(await connection.recv())
        answer = {"subscription_type": "stock", "targets": ["005930"], "rejected": gone, "id": request["id"]}
        await connection.send(stamped(type="subscribed", **answer))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930", "000660"])
        await client.until("batch")
        may_end.set()
        assert await client.until("withdrawn") == {"subscription_type": "stock", "rejected": gone}
        assert await client.call("subscriptions") == {"stock": ["005930"]}
        assert await client.call("age", "000660") is None


async def test_a_greeting_holds_with_the_word_about_the_session(node: NodeProcess) -> None:
    paths: list[str] = []
    asked: list[list[str]] = []
    may_end = asyncio.Event()

    async def act(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        if len(paths) == 1:
            await connection.send(greeting())
            await accept(connection, [update(10)])
            await accept(connection, [])
            await connection.send(json.dumps(update(11)))
            await may_end.wait()
            connection.transport.abort()
        elif len(paths) == 2:
            # It is to be another session, and nobody hears of that.
            await connection.send(greeting("two"))
            connection.transport.abort()
        else:
            await connection.send(greeting())
            members = {
                "session_id": "one",
                "restored_subscriptions": {"stock": ["005930"]},
                "recovered": True,
            }
            await connection.send(stamped(type="reconnected", missed_messages_count=0, **members))
            asked.append((await accept(connection, []))["targets"])

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"])
        await client.call("subscribe", "stock", ["000660"])
        await client.until("price_update", seq=11)
        since = len(client.events)
        may_end.set()
        # One of both is held no more, so that not all can have been recovered.
        await client.until("state", since, state="open", recovered=False)
        await node.until(lambda: asked, "the request for what is missing")
        assert asked == [["000660"]]
        assert paths[1:] == ["/v1/ws?session_id=one&last_sequence=11&epoch=e"] * 2


async def test_a_snapshot_may_be_ahead_of_what_a_restored_session_still_gets(node: NodeProcess) -> None:
    paths: list[str] = []
    may_end = asyncio.Event()

    async def act(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        await connection.send(greeting())
        if len(paths) == 1:
            await accept(connection, [update(10)])
            await connection.send(json.dumps(update(11)))
            await may_end.wait()
            connection.transport.abort()
            return
        members = {"session_id": "one", "restored_subscriptions": {"stock": ["005930"]}, "recovered": True}
        await connection.send(stamped(type="reconnected", missed_messages_count=9, **members))
        if len(paths) == 2:
            # Of what was missed one has been sent when a request is answered.
            await connection.send(json.dumps(update(12)))
            request = json.loads(await connection.recv())
            answer = {"subscription_type": "stock", "targets": ["005930"], "id": request["id"]}
            await connection.send(stamped(type="subscribed", **answer))
            snapshot = {"batch_size": 1, "snapshot": True, "messages": [update(20)], "sequence": 12}
            await connection.send(stamped(type="batch", **snapshot))
            await connection.send(json.dumps(update(13)))
            connection.transport.abort()
            return
        messages = [update(seq) for seq in range(14, 21)]
        await connection.send(stamped(type="batch", batch_size=7, messages=messages, sequence=20))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"])
        await client.until("price_update", seq=11)
        since = len(client.events)
        may_end.set()
        await client.until("price_update", since, seq=12)
        await client.call("subscribe", "stock", ["005930"])
        await client.until("batch", since, batch_size=7)
        assert [path.partition("last_sequence=")[2] for path in paths] == ["", "11&epoch=e", "13&epoch=e"]
        assert prices(client) == [(10, True), (11, False), (12, False), (20, True)] + [
            (seq, False) for seq in range(13, 21)
        ]
        assert client.of_type("gap") == client.of_type("lost") == []


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4410])
async def test_what_must_not_be_repeated_is_not(node: NodeProcess, code: int) -> None:
    n_connections = 0

    async def act(connection: ServerConnection) -> None:
        nonlocal n_connections
        n_connections += 1
        await connection.send(greeting())
        await connection.close(code, "for good")

    async with scripted(act) as url:
        client = node.make("it", url)
        pending = asyncio.create_task(client.call("subscribe", "stock", ["005930"]))
        closed = await client.until("state", state="closed")
        assert closed == {"state": "closed", "code": code, "reason": "for good"}
        assert (await pending)["rejected"] == [{"target": "005930", "reason": "closed"}]
        assert n_connections == 1


async def test_a_slow_consumer_comes_back_with_the_latest_only(node: NodeProcess) -> None:
    requests: list[dict[str, Any]] = []

    async def act(connection: ServerConnection) -> None:
        assert connection.request is not None
        assert "session_id" not in connection.request.path
        await connection.send(greeting(f"session {len(requests)}"))
        requests.append(await accept(connection, []))
        if len(requests) == 1:
            await connection.close(4408, "slow consumer")

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930"], {"channels": ["price"]})
        await node.until(lambda: len(client.of_type("batch")) == 2, "the second snapshot")
        assert [request.get("mode") for request in requests] == [None, "latest"]
        assert requests[1]["channels"] == ["price"]


class ClientSite(Site):
    """Serves a page that imports the client from here, and hears how far it is."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.progress: asyncio.Queue[str] = asyncio.Queue()
        self.has_published = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ClientSite]:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/result", self.take_result)
        app.router.add_post("/progress", self.take_progress)
        app.router.add_get("/target", self.target)
        app.router.add_get("/published", self.published)
        app.router.add_static("/clients/", PACKAGE)
        app.router.add_static("/", SCRIPTS / "pages")
        async with self.running(app):
            yield self

    async def target(self, request: web.Request) -> web.Response:
        return web.json_response(self.server.url)

    async def published(self, request: web.Request) -> web.Response:
        """Answers when the page may go on."""
        await self.has_published.wait()
        return web.Response(status=204)

    async def take_progress(self, request: web.Request) -> web.Response:
        self.progress.put_nowait(await request.text())
        return web.Response(status=204)

    async def until(self, progress: str) -> None:
        async with asyncio.timeout(30):
            assert await self.progress.get() == progress


async def test_a_hidden_tab_pauses(shared_server: StartServer, tmp_path: Path) -> None:
    program = require_program("chromium")
    target = shared_server("--feed", "none", **SETTINGS)
    publish(target, price("005930", 73000))
    site = ClientSite(target)
    async with site.serving():
        # The page opens another tab, and nobody has clicked.
        browsing = asyncio.create_task(
            browse(program, site, tmp_path / "profile", "--disable-popup-blocking")
        )
        try:
            await site.until("shown")
            await site.until("paused")
            publish(target, price("005930", 73100), price("005930", 73200))
            # All of them are flushed, and passed over.
            until(lambda: target.stats()["queued_messages"] == 0, "the flush")
            await site.until("asked")
            publish(target, price("005930", 73300))
            site.has_published.set()
            await site.until("resumed")
            publish(target, price("005930", 73400))
            outcome = await browsing
        finally:
            browsing.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # it was its own failure that is told
                await browsing
    assert outcome["failure"] is None
    assert outcome["prices"] == [[73000, True], [73300, True], [73400, False]]
    assert outcome["faults"] == []
    assert outcome["states"] == ["connecting", "open"]


async def test_the_hook_of_react(shared_server: StartServer, tmp_path: Path) -> None:
    for package in ("react", "react-test-renderer"):
        require_package(package)
    target = shared_server("--feed", "none", **SETTINGS)
    publish(target, price("005930", 73000), price("000660", 250500))
    process = await start_node(tmp_path, "react.mjs", target.url)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None

        def show(*symbols: str) -> None:
            process.stdin.write(json.dumps({"show": {"stock": symbols}}).encode() + b"\n")

        async def until_shown(**wanted: int) -> dict[str, Any]:
            async with asyncio.timeout(15):
                while True:
                    shown = json.loads(await process.stdout.readline())
                    if shown["state"] == "open" and shown["prices"] == {
                        key[1:]: wanted[key] for key in wanted
                    }:
                        return shown

        show("005930")
        first = await until_shown(_005930=73000)
        n_published = 300
        for i in range(n_published):
            publish(target, price("005930", 73001 + i))
        last = await until_shown(_005930=73000 + n_published)
        # Once a frame at most.
        assert last["renders"] - first["renders"] < n_published
        show("005930", "000660")
        await until_shown(_005930=73000 + n_published, _000660=250500)
        show("000660")
        await until_shown(_000660=250500)
        until(lambda: target.stats()["subscriptions_by_type"]["stock"] == 1, "the unsubscription")
        await end(process)
        until(lambda: target.stats()["active_connections"] == 0, "the end of the connection")
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
            process.kill()
        await process.wait()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The package as it is published: where a program of the directory finds it, and what npm says of it."""
    directory = tmp_path_factory.mktemp("packed")
    result = subprocess.run(
        [require_program("npm"), "pack", "--json", f"--pack-destination={directory}"],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    [told] = json.loads(result.stdout)
    with tarfile.open(directory / told["filename"]) as archive:
        archive.extractall(directory / "node_modules", filter="data")
    (directory / "node_modules" / "package").rename(directory / "node_modules" / "fastws")
    return directory, told


def test_the_package_has_what_it_needs_and_no_more(packed: tuple[Path, dict[str, Any]]) -> None:
    directory, told = packed
    package = directory / "node_modules" / "fastws"
    assert sorted(str(path.relative_to(package)) for path in package.rglob("*")) == [
        "LICENSE",
        "README.md",
        "fastws.d.ts",
        "fastws.js",
        "package.json",
        "react.d.ts",
        "react.js",
    ]
    described = json.loads((package / "package.json").read_text(encoding="utf-8"))
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert told["version"] == (ROOT / "fastws" / "_version.py").read_text().split('"')[1]
    exported = {path for entry in described["exports"].values() for path in entry.values()}
    assert exported == {f"./{name}" for name in described["files"]}


def test_the_package_can_be_imported_by_its_name(packed: tuple[Path, dict[str, Any]]) -> None:
    script = 'import { Fastws, FastwsRealtime } from "fastws"; console.log(Fastws.name, FastwsRealtime.name);'
    result = subprocess.run(
        [require_program("node"), "--input-type=module", "--eval", script],
        cwd=packed[0],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("Fastws FastwsRealtime\n", "")


def test_the_types_fit_a_program(packed: tuple[Path, dict[str, Any]]) -> None:
    program = require_program("node")
    require_package("typescript")
    for name in ("tsconfig.json", "types.ts"):
        shutil.copy(SCRIPTS / name, packed[0])
    compiler = MODULES / "typescript" / "bin" / "tsc"
    result = subprocess.run(
        [program, str(compiler), "--project", str(packed[0])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")
