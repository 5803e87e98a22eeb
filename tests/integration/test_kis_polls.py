"""Polls of KIS's REST interface: whatever is answered, the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog.testing
from aiohttp import web

from fastws._market import Instrument, PriceUpdate
from fastws.feeds.kis.feed import KISFeed
from fastws.feeds.kis.options import KISOptions
from fastws.feeds.kis.polling import Job, PollPlan
from fastws.feeds.kis.rest import CallRefusedError, Poller, RestClient
from fastws.kis import KISAuthManager, KISConnectionError
from fastws.market.interest import Interest

SAMSUNG, HYNIX, NAVER = "005930", "000660", "035420"
TABLE = {code: Instrument(code, code, "KOSPI") for code in (SAMSUNG, HYNIX, NAVER)}
GOOD = b'{"rt_cd":"0","output":{"stck_prpr":"70000","acml_vol":"1"}}'
BAD_UTF8 = (
    b'{"rt_cd":"0","output":{"stck_prpr":"70000","acml_vol":"1","bstp_kor_isnm":"\xec\x82\xbc\xec\x84"}}'
)
DEEP = b'{"rt_cd":"0","output":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

Answer = Callable[[web.Request], bytes]
_n_keys = 0


@asynccontextmanager
async def rest_of(answer: Answer, *, n_limited: int = 0, **options: Any) -> AsyncIterator[KISAuthManager]:
    """KIS's REST interface, which answers quotations with what `answer` returns, and issues a token when it has refused
    one `n_limited` times."""
    global _n_keys
    _n_keys += 1

    async def token(request: web.Request) -> web.Response:
        nonlocal n_limited
        n_limited -= 1
        if n_limited >= 0:
            return web.json_response({"error_code": "EGW00133", "error_description": "…"}, status=403)
        return web.json_response({"access_token": "t", "expires_in": 86_400})

    async def quotation(request: web.Request) -> web.Response:
        return web.Response(body=answer(request), content_type="application/json")

    app = web.Application()
    app.router.add_post("/oauth2/tokenP", token)
    app.router.add_get("/{path:.*}", quotation)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield KISAuthManager(
            f"{_n_keys:036}",
            "s" * 180,
            paper=False,
            rest_url=f"http://{host}:{port}",
            ws_url="ws://127.0.0.1:9",
            **options,
        )
    finally:
        await runner.cleanup()


class Polls:
    """A poller, one call at a time, and what it delivers."""

    def __init__(self, auth: KISAuthManager, *codes: str, batch_size: int = 30) -> None:
        self.plan = PollPlan(0.0, batch_size)
        self.plan.want(codes, ())
        self.prices: list[tuple[str, object]] = []
        self.asked: list[tuple[str, ...]] = []
        self.poller = Poller(
            auth, self.plan, number=1, rate=15.0, exchange="UN", resolve=TABLE.get,
            on_prices=self.on_prices, on_book=lambda book, asked_at: None,
            clock=lambda: self.now,
        )  # fmt: skip
        self.client = RestClient(auth)
        self.now = 0.0

    def on_prices(self, codes: Any, updates: list[PriceUpdate], asked_at: float) -> None:
        self.asked.append(tuple(codes))
        self.prices += [(update.instrument.code, update.price) for update in updates]

    async def call(self) -> tuple[Job, float]:
        self.now += 0.1
        job = self.plan.take(self.now)
        assert job is not None
        return job, await self.poller._do(self.client, job, self.now)

    async def __aenter__(self) -> Polls:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()


@pytest.mark.parametrize(
    "wrong",
    [BAD_UTF8, DEEP, b'{"rt_cd":"1","msg_cd":["x"]}', b"[]", b"null", b"<html>", b"", b'{"rt_cd":0,"output":{}}'],
    ids=["bad UTF-8", "deep", "list as code", "list", "null", "HTML", "empty", "number as result"],
)  # fmt: skip
async def test_an_answer_that_cannot_be_read_is_a_failure_of_one_call(wrong: bytes) -> None:
    answers = [wrong, GOOD]
    async with rest_of(lambda request: answers.pop(0)) as auth, Polls(auth, SAMSUNG) as polls:
        with structlog.testing.capture_logs() as logs:
            _, pause = await polls.call()
        assert pause >= 2.0
        assert polls.poller.counts["failed"] == 1
        (line,) = logs
        assert line["error"].endswith("answers polls with HTTP 200")
        _, pause = await polls.call()
        assert pause == 0.0
        assert polls.prices == [(SAMSUNG, 70_000)]


async def test_a_fault_while_delivering_is_a_failure_of_one_call() -> None:
    async with rest_of(lambda request: GOOD) as auth, Polls(auth, SAMSUNG) as polls:
        deliver = polls.poller._on_prices

        def fail(*arguments: object) -> None:
            raise TypeError("a fault")

        polls.poller._on_prices = fail
        with structlog.testing.capture_logs() as logs:
            _, pause = await polls.call()
        assert pause >= 2.0
        assert any(entry.get("exc_info") for entry in logs)
        polls.poller._on_prices = deliver
        await polls.call()
        assert polls.prices == [(SAMSUNG, 70_000)]


async def test_the_feed_outlives_an_answer_that_cannot_be_read() -> None:
    async with rest_of(lambda request: BAD_UTF8) as auth:
        feed = KISFeed(
            [auth],
            interest=lambda: {SAMSUNG: Interest(1, 0)},
            options=KISOptions(has_books=False, poll_rate=15.0),
        )

        class Sink:
            instrument = staticmethod(TABLE.get)
            ensure_instrument = TABLE.__getitem__

            def set_connected(self, is_connected: bool) -> None: ...
            def set_status(self, market: str, status: str) -> None: ...

        task = asyncio.create_task(feed.run(Sink()))  # type: ignore[arg-type]
        async with asyncio.timeout(10.0):
            while feed.pollers[0].counts["failed"] == 0 and not task.done():
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait((task,))


def refusing(*bad: str) -> Answer:
    """KIS refuses calls in which one of these is."""

    def answer(request: web.Request) -> bytes:
        codes = [value for name, value in request.query.items() if name.startswith("FID_INPUT_ISCD")]
        if set(codes) & set(bad):
            return b'{"rt_cd":"1","msg_cd":"OPSQ2001","msg1":"ERROR : INVALID_CHECK_MRKT_DIV_CODE"}'
        if len(codes) == 1:
            return GOOD
        rows = ",".join(
            f'{{"inter_shrn_iscd":"{code}","inter2_prpr":"70000","acml_vol":"1"}}' for code in codes
        )
        return f'{{"rt_cd":"0","output":[{rows}]}}'.encode()

    return answer


async def test_a_refused_symbol_holds_up_no_other_and_is_told_by_its_name() -> None:
    async with rest_of(refusing(HYNIX)) as auth, Polls(auth, SAMSUNG, HYNIX, NAVER) as polls:
        with structlog.testing.capture_logs() as logs:
            for _ in range(20):
                _, pause = await polls.call()
                assert pause == 0.0
        assert {code for code, _ in polls.prices} == {SAMSUNG, NAVER}
        assert polls.poller.counts["refused"] <= 3
        assert polls.poller.counts["failed"] == 0
        # What has been refused counts as no answer.
        assert all(HYNIX not in codes for codes in polls.asked)
        assert (SAMSUNG, NAVER) in polls.asked or (NAVER, SAMSUNG) in polls.asked, "together again"
        (line,) = logs
        assert (line["event"], line["symbol"], line["code"]) == ("KIS refuses a poll", HYNIX, "OPSQ2001")
        assert line["text"] == "ERROR : INVALID_CHECK_MRKT_DIV_CODE"


async def test_errors_say_what_is_wrong() -> None:
    answers = [b'{"rt_cd":"1","msg_cd":"OPSQ2002","msg1":"no such code"}', b" " * (1 << 21)]
    async with rest_of(lambda request: answers.pop(0)) as auth, Polls(auth, SAMSUNG) as polls:
        job = polls.plan.take(0.0)
        assert job is not None
        with structlog.testing.capture_logs() as logs:
            assert await polls.poller._do(polls.client, job, 0.0) == 0.0
            await polls.poller._do(polls.client, job, 0.0)
        assert "gave an answer that is too big" in logs[-1]["error"]
    assert issubclass(CallRefusedError, KISConnectionError)
    error = CallRefusedError("OPSQ2002", "no such code")
    assert (error.code, error.text) == ("OPSQ2002", "no such code")


async def test_no_token_yet_is_told_with_its_pause_and_asked_for_again_after_it() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds))

    async with (
        rest_of(lambda request: GOOD, n_limited=1, sleep=sleep) as auth,
        Polls(auth, SAMSUNG) as polls,
    ):
        with structlog.testing.capture_logs() as logs:
            _, pause = await polls.call()
            assert pause == 60.0
            assert (polls.poller.counts["too_fast"], polls.poller.counts["failed"]) == (1, 0)
            _, pause = await polls.call()
        assert pause == 0.0
        assert slept == [60], "KIS is asked for one once a minute, whoever asks"
        assert polls.prices == [(SAMSUNG, 70_000)]
        told, over = logs
        assert (told["event"], told["log_level"], told["retry_in_s"]) == (
            "KIS cannot be polled",
            "warning",
            60.0,
        )
        assert told["error"] == (
            "no connection to KIS's REST interface yet: KIS issues one access token a minute, and this app key got one "
            "just now, in another program or before a restart (EGW00133)"
        )
        assert over["event"] == "KIS answers polls again"
