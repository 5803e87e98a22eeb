"""KIS's REST interface: one app key's calls, at the pace that KIS allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import aiohttp
import msgspec
import structlog

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._version import __version__
from fastws.feeds.kis.polling import Job, PollPlan
from fastws.feeds.kis.quotations import Call, book_call, price_call, read_book, read_prices
from fastws.feeds.sources.base import seconds_of
from fastws.kis.auth import KISAuthManager
from fastws.kis.errors import KISConnectionError, KISTokenLimitError
from fastws.kis.retry import Backoff
from fastws.logs import LogLimiter

_TIME_LIMIT: Final = 5.0
_MAX_ANSWER_SIZE: Final = 1 << 20
_LONGEST_IDLE: Final = 0.25
_TOO_FAST: Final = "EGW00201"
_TOO_FAST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_BAD_TOKEN: Final = frozenset({"EGW00121", "EGW00123"})
# A failure that goes on is told again so often, in seconds.
_TELL_AGAIN: Final = 300.0
_OUTCOMES: Final = ("answered", "refused", "too_fast", "failed")

_log = structlog.get_logger("fastws.feeds.kis")


class TooFastError(KISConnectionError):
    """KIS takes no call just now, because there were too many; `retry_after` seconds are asked for where it says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CallRefusedError(KISConnectionError):
    """KIS is there and does not answer this call as it is: `code` is its ``msg_cd``, `text` its ``msg1``."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"connection is there, but KIS refuses the call: {text} ({code})")
        self.code = code
        self.text = text


class RestClient:
    """Calls KIS's REST interface with the app key of `auth`; to be used in ``async with``, or closed.

    It keeps no pace: KIS answers `TooFastError` when there are too many calls.
    """

    def __init__(self, auth: KISAuthManager) -> None:
        self._auth = auth
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._http is not None:
            http, self._http = self._http, None
            await http.close()

    async def get(self, call: Call) -> dict[str, Any]:
        """Return the answer to a call.

        Raises:
            TooFastError: there were too many calls, or KIS issues no access token yet.
            CallRefusedError: KIS does not answer this one; others it may.
            KISConnectionError: there is no answer of KIS.
        """
        try:
            token = await self._auth.access_token()
        except KISTokenLimitError as error:
            raise TooFastError(str(error), error.retry_after) from None
        rest_url = self._auth.credentials.rest_url
        host = rest_url.partition("//")[2]
        headers = {"authorization": f"Bearer {token}", "tr_id": call.tr_id}
        try:
            async with self._session().get(
                rest_url + call.path, params=call.parameters, headers=headers, allow_redirects=False
            ) as response:
                status, data = response.status, await _read(response, host)
                retry_after = seconds_of(response.headers, time.time())
        except TimeoutError:
            raise KISConnectionError(
                f"no connection to KIS: {host} gave no answer within {_TIME_LIMIT:g} s"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise KISConnectionError(f"no connection to KIS: {host} cannot be reached: {reason}") from None
        try:
            answer = msgspec.json.decode(data)
        except (ValueError, RecursionError):  # bad JSON, and bad UTF-8 within good JSON
            answer = None
        code = _text(answer, "msg_cd")
        if code in _BAD_TOKEN:
            self._auth.forget_access_token(token)
            raise TooFastError("connection refused: the access token has ended")
        if code == _TOO_FAST or status == 429:
            raise TooFastError("connection refused: too many calls", retry_after)
        if isinstance(answer, dict) and status == 200 and answer.get("rt_cd") == "0":
            return answer
        shown = code if code.isalnum() and len(code) <= 16 else ""
        if status == 200 and shown and _text(answer, "rt_cd"):
            raise CallRefusedError(shown, _text(answer, "msg1"))
        raise KISConnectionError(
            f"no connection to KIS: {host} answers polls with HTTP {status} {shown}".rstrip()
        )

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
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
            self._http = aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True)
        return self._http


class Poller:
    """Asks KIS for what `plan` says, with the app key of `auth`, one call after the other.

    1. Calls begin at least ``1 / rate`` seconds apart, and none begins before the one before it has ended. After "too
       fast" nothing is asked for a second, or for as long as KIS says, up to a minute.
    2. It runs until cancelled, whatever KIS answers: after a failure the next call waits, longer each time.
    3. What KIS refuses waits for its own next turn (see `PollPlan`), and for nothing else.
    4. A failure is told in one line when it begins, every five minutes while it lasts, and when it is over; what is
       refused in one line every five minutes for each of KIS's codes.

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
        self.counts = dict.fromkeys(_OUTCOMES, 0)
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
        self._refusals = LogLimiter(_TELL_AGAIN, clock=clock)

    async def run(self) -> None:
        async with RestClient(self._auth) as client:
            while True:
                asked_at = self._clock()
                job = self._plan.take(asked_at)
                if job is None:
                    await asyncio.sleep(min(max(self._plan.due_at() - asked_at, 0.01), _LONGEST_IDLE))
                    continue
                pause = await self._do(client, job, asked_at)
                await asyncio.sleep(max(pause, asked_at + self._interval - self._clock()))

    async def _do(self, client: RestClient, job: Job, asked_at: float) -> float:
        """Make a call and deliver what is answered; returns how long to wait for the next at least."""
        exchange = self._exchange
        call = book_call(job.codes[0], exchange) if job.is_book else price_call(job.codes, exchange)
        try:
            answer = await client.get(call)
            self._deliver(job, answer, asked_at)
        except TooFastError as error:
            return self._on_too_fast(error)
        except CallRefusedError as error:
            self._on_refused(job, error)
            return 0.0
        except KISConnectionError as error:
            return self._on_failure(str(error))
        except Exception as error:
            # A fault of this program; the feed and its sessions must not end with it.
            if self._refusals.take("fault") is not None:
                _log.exception("a poll of KIS could not be processed", key=self._number)
            return self._on_failure(f"{type(error).__name__} in the client")
        self.counts["answered"] += 1
        self._plan.on_answered(job, self._clock())
        self._on_contact()
        return 0.0

    def _deliver(self, job: Job, answer: dict[str, Any], asked_at: float) -> None:
        exchange = self._exchange
        if not job.is_book:
            updates = read_prices(answer, job.codes, exchange, self._resolve)
            self._on_prices(job.codes, updates, asked_at)
        elif (book := read_book(answer, job.codes[0], exchange, self._resolve)) is not None:
            self._on_book(book, asked_at)

    def _on_contact(self) -> None:
        self._backoff.reset()
        if self._told:
            self._told = ""
            _log.info("KIS answers polls again", key=self._number)

    def _on_refused(self, job: Job, error: CallRefusedError) -> None:
        self.counts["refused"] += 1
        self._on_contact()
        self._plan.on_refused(job, self._clock())
        if len(job.codes) > 1:
            return  # which one is meant is told when each has been asked for
        what = "book" if job.is_book else "price"
        self._refusals.log(
            _log, error.code, "KIS refuses a poll",
            key=self._number, symbol=job.codes[0], what=what, code=error.code, text=error.text,
        )  # fmt: skip

    def _on_too_fast(self, error: TooFastError) -> float:
        self.counts["too_fast"] += 1
        if error.retry_after is None:
            return _TOO_FAST_PAUSE
        pause = min(max(error.retry_after, _TOO_FAST_PAUSE), _LONGEST_PAUSE)
        self._tell(str(error), pause)
        return pause

    def _on_failure(self, text: str) -> float:
        self.counts["failed"] += 1
        delay = self._backoff.next_delay()
        self._tell(text, delay)
        return delay

    def _tell(self, text: str, delay: float) -> None:
        now = self._clock()
        if text != self._told or now - self._told_at >= _TELL_AGAIN:
            self._told, self._told_at = text, now
            _log.warning("KIS cannot be polled", key=self._number, error=text, retry_in_s=round(delay, 1))


async def _read(response: aiohttp.ClientResponse, host: str) -> bytes:
    data = b""
    while chunk := await response.content.read(_MAX_ANSWER_SIZE):
        data += chunk
        if len(data) > _MAX_ANSWER_SIZE:
            raise KISConnectionError(f"no connection to KIS: {host} gave an answer that is too big")
    return data


def _text(answer: object, name: str) -> str:
    """A text of an answer as it may be shown, "" where there is none."""
    value = answer.get(name) if isinstance(answer, dict) else None
    return (
        "".join(char for char in value[:200] if char.isprintable()).strip() if isinstance(value, str) else ""
    )


def total(pollers: Sequence[Poller]) -> dict[str, int]:
    """The counts of all of them together, by outcome."""
    return {name: sum(poller.counts[name] for poller in pollers) for name in _OUTCOMES}
