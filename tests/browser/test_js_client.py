"""The JavaScript client (`clients/js`) in Node, on real servers and over bad networks."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import jwt

from tests.browser.publishing import ADMIN, SECRET, SETTINGS, book, price, publish
from tests.clients_js.node import JsClient, NodeProcess, Proxy
from tests.conftest import StartServer
from tests.serving import Server, free_port

# Published by nothing else, so numbered from 1.
OTHERS = ("005380", "105560", "068270", "207940")
SYMBOLS = ("005930", "000660", "035420", "035720")


def token(seconds: float | None, user: str = "user-123") -> str:
    expiry = {} if seconds is None else {"exp": time.time() + seconds}
    return jwt.encode({"sub": user, **expiry}, SECRET, "HS256")


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
    assert client.prices() == [(73000, True)]
    assert "snapshot" in client.of_type("orderbook_update")[0]["event"]
    publish(target, price("005930", 73100), price("000660", 1), price("005930", 73200), book("005930", 73300))
    batch = await client.until("batch", batch_size=3)
    assert client.prices()[1:] == [(73100, False), (73200, False)]
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
    assert len(client.prices()) == 3
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
    assert client.prices() == [(73000, False), (73100, False)]
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
