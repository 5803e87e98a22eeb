"""Publishing to a server that takes prices, refuses them, is busy, slow or away; over a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from fastws._market import Instrument, PriceUpdate
from fastws.feeds import publisher as module
from fastws.feeds.publisher import HttpPublisher, PublishRefusedError
from fastws.kis.retry import Backoff

APPLE, MICROSOFT, NVIDIA = (Instrument(code) for code in ("AAPL", "MSFT", "NVDA"))
Respond = Callable[[list[dict[str, Any]]], web.Response | None]


class Target:
    """A server's /v1/publish. `respond` may give another answer than 202; `taken` is what was accepted."""

    def __init__(self) -> None:
        self.respond: Respond = lambda elements: None
        self.taken: list[dict[str, Any]] = []
        self.requests: list[tuple[float, int]] = []
        self.headers: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.Response:
        elements = json.loads(await request.read(), parse_float=str)
        self.requests.append((time.monotonic(), len(elements)))
        self.headers = dict(request.headers)
        answer = self.respond(elements)
        if answer is not None:
            return answer
        self.taken += elements
        body = {"accepted": len(elements), "first_sequence": 1, "last_sequence": len(elements)}
        return web.json_response(body, status=202)


def error(status: int, code: str, message: str = "", **headers: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


@asynccontextmanager
async def publishing(fresh: float = 60.0) -> AsyncIterator[tuple[Target, HttpPublisher, asyncio.Task[None]]]:
    target = Target()
    app = web.Application()
    app.router.add_post("/v1/publish", target.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    publisher = HttpPublisher(
        f"http://127.0.0.1:{port}/", "the token", fresh=fresh, backoff=Backoff(0.05, 0.2)
    )
    task = asyncio.ensure_future(publisher.run())
    try:
        yield target, publisher, task
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await runner.cleanup()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def price(instrument: Instrument, value: str) -> PriceUpdate:
    return PriceUpdate(instrument, value, change="2.50", quality="polled")


async def test_prices_are_published_with_their_digits() -> None:
    async with publishing() as (target, publisher, _):
        publisher.offer([price(APPLE, "150.20"), price(MICROSOFT, "410")])
        await until(lambda: publisher.counts["published"] == 2)
        assert target.taken[0] == {
            "type": "price_update",
            "code": "AAPL",
            "name": "AAPL",
            "price": "150.20",
            "change": "2.50",
            "quality": "polled",
        }
        assert target.taken[1]["price"] == 410
        assert target.headers["Authorization"] == "Bearer the token"
        assert publisher.n_waiting == 0


async def test_a_busy_server_gets_the_newest_prices_when_it_says() -> None:
    async with publishing() as (target, publisher, _):
        target.respond = lambda elements: error(503, "SHUTTING_DOWN", **{"Retry-After": "1"})
        publisher.offer([price(APPLE, "1"), price(MICROSOFT, "2")])
        await until(lambda: target.requests)
        target.respond = lambda elements: None
        publisher.offer([price(APPLE, "3")])
        await until(lambda: publisher.counts["published"] == 2)
        (first, _), (second, _) = target.requests
        assert 1.0 <= second - first < 3.0
        assert [(element["code"], element["price"]) for element in target.taken] == [("MSFT", 2), ("AAPL", 3)]


async def test_a_server_that_is_away_is_tried_again() -> None:
    with capture_logs() as logs:
        async with publishing() as (target, publisher, task):
            publisher.offer([price(APPLE, "1")])
            await until(lambda: publisher.counts["published"] == 1)
            target.respond = lambda elements: web.Response(status=502, text="<html>")
            publisher.offer([price(APPLE, "2")])
            await until(lambda: len(target.requests) >= 3)
            # Also a token that it does not know any more: another one may be on its way.
            target.respond = lambda elements: error(401, "INVALID_TOKEN", "this is not the admin token")
            n = len(target.requests)
            await until(lambda: len(target.requests) > n)
            assert not task.done()
            assert publisher.n_waiting == 1
            target.respond = lambda elements: None
            await until(lambda: publisher.counts["published"] == 2)
    events = [line["event"] for line in logs]
    assert events == ["server takes no prices"] * 2 + ["server takes prices again"]
    assert "the token" not in str(logs)


async def test_a_wrong_token_ends_it_at_the_start() -> None:
    async with publishing() as (target, publisher, task):
        target.respond = lambda elements: error(401, "INVALID_TOKEN", "this is not the admin token")
        publisher.offer([price(APPLE, "1")])
        await until(task.done)
        with pytest.raises(
            PublishRefusedError, match="takes no prices from here: this is not the admin token"
        ):
            task.result()


async def test_an_element_that_is_refused_is_named_and_the_others_are_sent() -> None:
    def respond(elements: list[dict[str, Any]]) -> web.Response | None:
        codes = [element["code"] for element in elements]
        if "MSFT" not in codes:
            return None
        details = {"index": codes.index("MSFT"), "field": "price"}
        body = {"error": {"code": "INVALID_MESSAGE", "message": "element 1: price: no", "details": details}}
        return web.json_response(body, status=400)

    with capture_logs() as logs:
        async with publishing() as (target, publisher, _):
            target.respond = respond
            publisher.offer([price(APPLE, "1"), price(MICROSOFT, "2"), price(NVIDIA, "3")])
            await until(lambda: publisher.counts["published"] == 2)
            assert [element["code"] for element in target.taken] == ["AAPL", "NVDA"]
            assert publisher.counts == {"published": 2, "refused": 1, "expired": 0}
            assert publisher.n_waiting == 0
    assert [line["symbol"] for line in logs if line["event"] == "price refused by the server"] == ["MSFT"]


async def test_an_element_that_is_too_many_is_found() -> None:
    def respond(elements: list[dict[str, Any]]) -> web.Response | None:
        if any(element["code"] == "S0007" for element in elements):
            return error(
                403, "LIMIT_EXCEEDED", "1 of these codes are new, and there may be 100000 instruments"
            )
        return error(413, "LIMIT_EXCEEDED", "too many") if len(elements) > 10 else None

    with capture_logs() as logs:
        async with publishing() as (target, publisher, _):
            target.respond = respond
            publisher.offer([price(Instrument(f"S{n:04}"), str(n + 1)) for n in range(40)])
            await until(lambda: publisher.counts["published"] == 39)
            assert publisher.counts["refused"] == 1
            assert len({element["code"] for element in target.taken}) == len(target.taken) == 39
            assert len(target.requests) < 30
    assert [line["symbol"] for line in logs if line["event"] == "price refused by the server"] == ["S0007"]


async def test_an_old_price_is_not_sent() -> None:
    with capture_logs() as logs:
        async with publishing(fresh=0.3) as (target, publisher, _):
            target.respond = lambda elements: error(503, "SHUTTING_DOWN", **{"Retry-After": "1"})
            publisher.offer([price(APPLE, "1")])
            await until(lambda: target.requests)
            target.respond = lambda elements: None
            await until(lambda: publisher.counts["expired"] == 1)
            assert target.taken == []
            publisher.offer([price(APPLE, "2")])
            await until(lambda: publisher.counts["published"] == 1)
    assert [line["first"] for line in logs if "expired" in line["event"]] == [["AAPL"]]


async def test_many_prices_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_SIZE", 2000)
    async with publishing() as (target, publisher, _):
        publisher.offer([price(Instrument(f"S{n:04}"), str(n + 1)) for n in range(2500)])
        await until(lambda: publisher.counts["published"] == 2500)
        assert max(n for _, n in target.requests) < 30
        monkeypatch.undo()
        publisher.offer([price(Instrument(f"S{n:04}"), str(n + 1)) for n in range(2500)])
        await until(lambda: publisher.counts["published"] == 5000)
        assert [n for _, n in target.requests[-3:]] == [1000, 1000, 500]


async def test_what_waits_at_the_end_is_tried_once_more() -> None:
    async with publishing() as (target, publisher, task):
        target.respond = lambda elements: error(503, "SHUTTING_DOWN", **{"Retry-After": "30"})
        publisher.offer([price(APPLE, "1")])
        await until(lambda: target.requests)
        task.cancel()
        await asyncio.wait((task,))
        await publisher.flush(5.0)
        assert publisher.n_waiting == 1
        target.respond = lambda elements: None
        await publisher.flush(5.0)
        assert (publisher.n_waiting, publisher.counts["published"]) == (0, 1)
