"""A symbol that falls silent on a real server, as everybody there is sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastws.client import Client, SymbolStatus
from fastws.client import PriceUpdate as Price
from fastws.client.realtime import RealtimeClient
from tests.clients import WAIT_SECONDS, client, updates
from tests.conftest import StartServer
from tests.contract import Contract
from tests.serving import Server, until

TOKEN = "administrator"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def publish(target: Server, *messages: dict[str, Any]) -> None:
    status, _ = target.get("/v1/publish", "POST", json.dumps(messages).encode(), HEADERS)
    assert status == 202


def price(code: str, n: int) -> dict[str, Any]:
    return {"type": "price_update", "code": code, "price": 73_000 + n}


def freshness(target: Server, code: str) -> Any:
    return target.get_json(f"/v1/stocks/{code}/freshness")


def teach(target: Server, code: str) -> None:
    """Have the server learn that a symbol is updated all the time, while its market is open."""
    publish(target, {"type": "market_status", "market": "KOSPI", "status": "open"})

    def is_learned() -> bool:
        for n in range(30):
            publish(target, price(code, n))
        limit = freshness(target, code)["stale_after_ms"]
        # So that nothing has to be waited for that is not its subject.
        return limit is not None and limit < 2000

    until(is_learned, "a cadence", WAIT_SECONDS)


async def until_message(
    messages: AsyncIterator[Any], is_it: Callable[[Any], bool], seconds: float = WAIT_SECONDS
) -> Any:
    async with asyncio.timeout(seconds):
        async for message in messages:
            if is_it(message):
                return message
    raise AssertionError("the client has ended")


async def test_a_silent_symbol_is_seen_everywhere_and_is_live_again(server: StartServer) -> None:
    target = server("--feed", "none", admin_token=TOKEN, symbol_stale_min=1, symbol_stale_learning=0)
    contract = Contract(target.get_json("/v1/asyncapi.json"))
    realtime_contract = Contract(target.get_json("/v1/asyncapi.json"), "realtime")
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(client(target.url))
        await raw.subscribe("market", "KOSPI")
        plain = await stack.enter_async_context(client(target.url_of("/ws/realtime/")))
        await plain.send(type="subscribe_asset", data={"symbol": "005930"})
        typed = await stack.enter_async_context(Client(target.url))
        await typed.subscribe("stock", ["005930"])
        other = await stack.enter_async_context(RealtimeClient(target.url_of("/ws/realtime/")))
        await other.subscribe("asset", ["005930"])
        await raw.until_snapshot()
        await asyncio.to_thread(teach, target, "005930")

        async def told(text: Callable[..., Any], checked: Contract) -> Any:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    message = checked.check(await text())
                    for each in [message, *updates(message)]:
                        if each["type"] == "symbol_status" and "stale" in str(each):
                            return each

        of_screener, of_realtime, status, _ = await asyncio.gather(
            told(raw.receive_text, contract),
            told(plain.receive_text, realtime_contract),
            until_message(
                typed, lambda message: isinstance(message, SymbolStatus) and message.status == "stale"
            ),
            until_message(other, lambda message: getattr(message, "status", None) == "stale"),
        )
        assert (of_screener["code"], of_realtime["data"]["symbol"]) == ("005930", "005930")
        assert of_screener["last_update"] < of_screener["timestamp"]
        assert 1000 <= of_screener["stale_after_ms"] == status.stale_after_ms
        assert typed.is_stale("005930")
        assert other.is_stale("005930")
        age = typed.age("005930")
        assert age is not None
        assert 1.0 < age < WAIT_SECONDS
        assert typed.age("000660") is None
        assert target.stats()["symbols_stale"] == 1
        found = freshness(target, "005930")
        assert (found["status"], found["market_phase"]) == ("stale", "open")
        times = found["price"]
        assert times["received"] <= times["published"] <= times["flushed"] <= times["sent"]
        _, text = target.get("/metrics")
        figures = text.decode()
        assert "fastws_stale_symbols 1.0" in figures
        assert "fastws_judged_symbols 1.0" in figures
        # Who comes now is told, too.
        late = await stack.enter_async_context(Client(target.url))
        await late.subscribe("stock", ["005930"])
        first = await until_message(late, lambda message: isinstance(message, SymbolStatus))
        assert (first.snapshot, first.status, late.is_stale("005930")) == (True, "stale", True)
        # And its next update ends it.
        publish(target, price("005930", 2))
        await until_message(late, lambda message: isinstance(message, Price) and not message.snapshot)
        assert not late.is_stale("005930")
        await until_message(
            typed, lambda message: isinstance(message, SymbolStatus) and message.status == "live"
        )
        assert not typed.is_stale("005930")
        # Nor is a halt silence.
        publish(target, {"type": "market_status", "market": "KOSPI", "status": "halted"})
        await asyncio.to_thread(until, lambda: target.stats()["symbols_judged"] == 0, "the halt")
        found = freshness(target, "005930")
        assert (found["status"], found["market_phase"]) == ("unjudged", "halted")
        assert found["stale_after_ms"] is None
