"""The JavaScript client with servers that do what one in order never does, or cannot be brought to in a short time."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.clients_js.node import NodeProcess
from tests.clients_js.scripted import accept, greeting, refuse_restoration, restore, scripted, stamped, update


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
            await restore(connection, 1)
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
        await restore(connection)
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
            await restore(connection)
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
        await restore(connection, 9)
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
        assert client.prices() == [(10, True), (11, False), (12, False), (20, True)] + [
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
