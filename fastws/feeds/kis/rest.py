"""KIS's REST interface: one app key's calls, at the pace that KIS allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp
import msgspec
import structlog

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._version import __version__
from fastws.feeds.kis.polling import Job, PollPlan
from fastws.feeds.kis.quotations import Call, book_call, price_call, read_book, read_prices
from fastws.kis.auth import KISAuthManager
from fastws.kis.errors import KISConnectionError
from fastws.kis.retry import Backoff

_TIME_LIMIT: Final = 5.0
_MAX_ANSWER_SIZE: Final = 1 << 20
_LONGEST_IDLE: Final = 0.25
_TOO_FAST: Final = "EGW00201"
_TOO_FAST_PAUSE: Final = 1.0
_BAD_TOKEN: Final = frozenset({"EGW00121", "EGW00123"})
_NO_DATA: Final = "OPSQ2001"
# A failure that goes on is told again so often, in seconds.
_TELL_AGAIN: Final = 300.0

_log = structlog.get_logger("fastws.feeds.kis")


class TooFastError(KISConnectionError):
    """KIS takes no call just now, because there were too many."""


class Poller:
    """Asks KIS for what `plan` says, with the app key of `auth`, one call after the other.

    1. Calls begin at least ``1 / rate`` seconds apart, and none begins before the one before it has ended. After "too
       fast" nothing is asked for a second.
    2. It runs until cancelled, whatever KIS answers: after a failure the next call waits, longer each time.
    3. A failure is told in one line when it begins, every five minutes while it lasts, and when it is over.

    `on_prices(codes, updates, asked_at)` and `on_book(update, asked_at)` get what was answered, and what was asked for
    when, by `clock`.
    """

    def __init__(
        self,
        auth: KISAuthManager,
        plan: PollPlan,
        *,
        number: int,
        rate: float,
        exchange: str,
        resolve: Callable[[str], Instrument | None],
        on_prices: Callable[[Sequence[str], list[PriceUpdate], float], object],
        on_book: Callable[[BookUpdate, float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = {"answered": 0, "too_fast": 0, "failed": 0}
        self._auth = auth
        self._plan = plan
        self._number = number
        self._interval = 1.0 / rate
        self._exchange = exchange
        self._resolve = resolve
        self._on_prices = on_prices
        self._on_book = on_book
        self._clock = clock
        self._backoff = Backoff(2.0, 60.0)
        self._told = ""
        self._told_at = 0.0

    async def run(self) -> None:
        credentials = self._auth.credentials
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": f"fastws/{__version__}",
            "appkey": credentials.app_key,
            "appsecret": credentials.app_secret,
            "custtype": credentials.customer_type,
        }
        timeout = aiohttp.ClientTimeout(total=_TIME_LIMIT)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as http:
            while True:
                asked_at = self._clock()
                job = self._plan.take(asked_at)
                if job is None:
                    await asyncio.sleep(min(max(self._plan.due_at() - asked_at, 0.01), _LONGEST_IDLE))
                    continue
                pause = await self._do(http, job, asked_at)
                await asyncio.sleep(max(pause, asked_at + self._interval - self._clock()))

    async def _do(self, http: aiohttp.ClientSession, job: Job, asked_at: float) -> float:
        """Make a call and deliver what is answered; returns how long to wait for the next at least."""
        exchange = self._exchange
        call = book_call(job.codes[0], exchange) if job.is_book else price_call(job.codes, exchange)
        try:
            answer = await self._get(http, call)
        except TooFastError:
            self.counts["too_fast"] += 1
            return _TOO_FAST_PAUSE
        except KISConnectionError as error:
            self.counts["failed"] += 1
            delay = self._backoff.next_delay()
            self._tell(str(error), delay)
            return delay
        self.counts["answered"] += 1
        self._backoff.reset()
        if self._told:
            self._told = ""
            _log.info("KIS answers polls again", key=self._number)
        if not job.is_book:
            updates = read_prices(answer, job.codes, exchange, self._resolve)
            self._on_prices(job.codes, updates, asked_at)
        elif (book := read_book(answer, job.codes[0], exchange, self._resolve)) is not None:
            self._on_book(book, asked_at)
        return 0.0

    async def _get(self, http: aiohttp.ClientSession, call: Call) -> dict[str, Any]:
        """Raises KISConnectionError for whatever is no answer."""
        token = await self._auth.access_token()
        rest_url = self._auth.credentials.rest_url
        host = rest_url.partition("//")[2]
        headers = {"authorization": f"Bearer {token}", "tr_id": call.tr_id}
        try:
            async with http.get(
                rest_url + call.path, params=call.parameters, headers=headers, allow_redirects=False
            ) as response:
                status, data = response.status, await _read(response)
        except TimeoutError:
            raise KISConnectionError(
                f"no connection to KIS: {host} gave no answer within {_TIME_LIMIT:g} s"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise KISConnectionError(f"no connection to KIS: {host} cannot be reached: {reason}") from None
        try:
            answer = msgspec.json.decode(data)
        except msgspec.DecodeError:
            answer = None
        code = answer.get("msg_cd") if isinstance(answer, dict) else None
        if code in _BAD_TOKEN:
            self._auth.forget_access_token(token)
            raise TooFastError("connection refused: the access token has ended")
        if code == _TOO_FAST:
            raise TooFastError("connection refused: too many calls")
        if isinstance(answer, dict) and status == 200 and (answer.get("rt_cd") == "0" or code == _NO_DATA):
            return answer
        shown = code if isinstance(code, str) and code.isalnum() and len(code) <= 16 else ""
        raise KISConnectionError(
            f"no connection to KIS: {host} answers polls with HTTP {status} {shown}".rstrip()
        )

    def _tell(self, text: str, delay: float) -> None:
        now = self._clock()
        if text != self._told or now - self._told_at >= _TELL_AGAIN:
            self._told, self._told_at = text, now
            _log.warning("KIS cannot be polled", key=self._number, error=text, retry_in_s=round(delay, 1))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = b""
    while chunk := await response.content.read(_MAX_ANSWER_SIZE):
        data += chunk
        if len(data) > _MAX_ANSWER_SIZE:
            raise ValueError("the answer is too big")
    return data


def total(pollers: Sequence[Poller]) -> dict[str, int]:
    """The counts of all of them together, by outcome."""
    return {
        name: sum(poller.counts[name] for poller in pollers) for name in ("answered", "too_fast", "failed")
    }
