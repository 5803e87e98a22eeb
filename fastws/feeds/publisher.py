"""Brings the prices of a price-feed service to servers, so that none is sent twice and an old one not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

import aiohttp
import msgspec
import structlog

from fastws._market import PriceUpdate
from fastws._version import __version__
from fastws.errors import FeedError
from fastws.feeds.lines import encode_body
from fastws.feeds.sources.base import seconds_of
from fastws.feeds.waiting import Waiting, take_expired
from fastws.kis.retry import Backoff

_PATH: Final = "/v1/publish"
# Far under what a server takes: 5000 elements, and a body of a mebibyte.
_CHUNK: Final = 1000
_CHUNK_SIZE: Final = 512 << 10
_TIME_LIMIT: Final = 10.0
_MAX_ANSWER_SIZE: Final = 1 << 16
_LONGEST_WAIT: Final = 60.0
_TELL_AGAIN: Final = 300.0

_log = structlog.get_logger("fastws.feeds.publisher")


class PublishRefusedError(FeedError):
    """A server will not take anything from this service, as it is set up; the text says what to do."""


class Publisher(Protocol):
    """Where the prices of a price-feed service go, from one event loop's thread."""

    @property
    def name(self) -> str:
        """What is named in logs."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Prices ``published``, ``refused`` by the server, and ``expired`` because it could not be reached in time."""

    @property
    def n_waiting(self) -> int:
        """Prices that were offered and are not there yet."""

    def offer(self, updates: Iterable[PriceUpdate]) -> None:
        """Take over prices. A newer one replaces the one that still waits, so no more wait than there are symbols."""

    def run(self) -> Coroutine[Any, Any, None]:
        """Bring away what is offered, until cancelled. Raises :class:`PublishRefusedError`."""

    async def flush(self, seconds: float) -> None:
        """Try once more to bring away what waits, for so long at most; for after the end of :meth:`run`."""


class _AgainError(FeedError):
    """Another try may succeed, after `retry_after` seconds where the server says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _TooMuchError(FeedError):
    """The server does not take so much at once, or one of the elements is too many."""


class HttpPublisher:
    """Publishes to a server with ``POST /v1/publish``.

    `url` is that of the server (``http://127.0.0.1:8000``; what is in front of /v1/publish), `token` its admin token.

    1. One request is under way at a time, with up to 1000 prices, the ones that have waited longest first.
    2. A request that failed is sent again after a pause, longer each time up to a minute, or for as long as the server
       says (Retry-After). Nobody knows whether a request without an answer was published; its prices are sent again.
    3. A price that could not be brought away within `fresh` seconds has expired: it is dropped, and counted.
    4. An element that the server refuses is named and dropped, and the others are sent without it. Where the server
       does not say which one (it has no room for more instruments), it is found by sending fewer at a time.
    5. A token that is wrong from the start ends `run`; later, the server is tried on, as its token may be on its way.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        fresh: float,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = url
        self.counts = {"published": 0, "refused": 0, "expired": 0}
        self._url = url.rstrip("/") + _PATH
        self._token = token
        self._fresh = fresh
        self._clock = clock
        self._backoff = Backoff(0.5, _LONGEST_WAIT) if backoff is None else backoff
        self._waiting: dict[str, Waiting] = {}
        self._offered = asyncio.Event()
        self._has_succeeded = False
        self._chunk = _CHUNK
        self._told = ""
        self._told_at = 0.0

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def offer(self, updates: Iterable[PriceUpdate]) -> None:
        now = self._clock()
        for update in updates:
            # Moved to the end: in its place would be in turn what has been replaced all the time.
            self._waiting.pop(update.instrument.code, None)
            self._waiting[update.instrument.code] = Waiting(update, now)
        if self._waiting:
            self._offered.set()

    async def run(self) -> None:
        async with self._session() as http:
            while True:
                await self._offered.wait()
                pause = await self._bring(http)
                if pause:
                    await asyncio.sleep(pause)

    async def flush(self, seconds: float) -> None:
        if not self._waiting:
            return
        try:
            async with asyncio.timeout(seconds), self._session() as http:
                while self._waiting and await self._bring(http) == 0.0:
                    pass
        except (TimeoutError, PublishRefusedError):
            return  # what is left is told by n_waiting

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIME_LIMIT),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "User-Agent": f"fastws/{__version__}",
            },
            trust_env=True,
        )

    async def _bring(self, http: aiohttp.ClientSession) -> float:
        """Send one request of what waits; returns how long to wait for the next."""
        self._drop_expired()
        sent, bodies = self._next()
        if not sent:
            self._offered.clear()
            return 0.0
        try:
            refused = await self._post(http, sent, bodies)
        except _TooMuchError:
            self._chunk = len(sent) // 2
            return 0.0
        except _AgainError as error:
            pause = self._backoff.next_delay() if error.retry_after is None else error.retry_after
            pause = min(pause, _LONGEST_WAIT)
            self._tell(str(error), pause)
            return pause
        self._backoff.reset()
        if self._told:
            self._told = ""
            _log.info("server takes prices again", server=self.name)
        for code, waiting in sent.items():
            # What was offered meanwhile is newer, and still to be sent.
            if (refused is None or code == refused) and self._waiting.get(code) is waiting:
                del self._waiting[code]
        if refused is None:
            self._has_succeeded = True
            self._chunk = min(2 * self._chunk, _CHUNK)
            self.counts["published"] += len(sent)
        return 0.0

    def _next(self) -> tuple[dict[str, Waiting], list[bytes]]:
        sent: dict[str, Waiting] = {}
        bodies: list[bytes] = []
        size = 0
        for code, waiting in self._waiting.items():
            body = encode_body(waiting.update)
            size += len(body) + 1
            if bodies and (len(bodies) >= self._chunk or size > _CHUNK_SIZE):
                break
            sent[code] = waiting
            bodies.append(body)
        return sent, bodies

    def _drop_expired(self) -> None:
        if expired := take_expired(self._waiting, self._clock() - self._fresh):
            self.counts["expired"] += len(expired)
            _log.warning(
                "prices have expired before the server took them",
                server=self.name,
                prices=len(expired),
                first=expired[:5],
            )

    async def _post(
        self, http: aiohttp.ClientSession, sent: Mapping[str, Waiting], bodies: Sequence[bytes]
    ) -> str | None:
        """Send a request; returns the code of the element that is refused, None when all were taken."""
        body = b"[%b]" % b",".join(bodies)
        try:
            async with http.post(self._url, data=body, allow_redirects=False) as response:
                status = response.status
                retry_after = seconds_of(response.headers, time.time())
                error = _error_of(await response.content.read(_MAX_ANSWER_SIZE))
        except TimeoutError:
            raise _AgainError(f"no answer within {_TIME_LIMIT:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise _AgainError(f"it cannot be reached: {_reason(failure)}") from None
        if status == HTTPStatus.ACCEPTED:
            return None
        message = str(error.get("message", ""))[:300]
        code, details = error.get("code"), error.get("details")
        if status == HTTPStatus.BAD_REQUEST and isinstance(details, dict):
            i = details.get("index")
            if isinstance(i, int) and 0 <= i < len(sent):
                return self._note_refused(list(sent)[i], message)
        if code == "LIMIT_EXCEEDED" or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            if len(sent) > 1:
                raise _TooMuchError(message)
            return self._note_refused(next(iter(sent)), message)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and not self._has_succeeded:
            raise PublishRefusedError(f"{self.name} takes no prices from here: {message or f'HTTP {status}'}")
        raise _AgainError(f"HTTP {status}{f': {message}' if message else ''}", retry_after)

    def _note_refused(self, code: str, message: str) -> str:
        self.counts["refused"] += 1
        _log.warning("price refused by the server", server=self.name, symbol=code, error=message)
        return code

    def _tell(self, problem: str, pause: float) -> None:
        now = self._clock()
        if problem != self._told or now - self._told_at >= _TELL_AGAIN:
            self._told, self._told_at = problem, now
            _log.warning(
                "server takes no prices",
                server=self.name,
                error=problem,
                waiting=len(self._waiting),
                retry_in_s=round(pause, 1),
            )


def _error_of(body: bytes) -> dict[str, Any]:
    """The ``error`` of a server's answer, empty where it has none."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else {}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
