"""The keys that an issuer publishes (JWKS, RFC 7517), kept fresh without ever holding up the event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import structlog

from fastws import logs
from fastws.auth.keys import KeyMaterialError, Keys, read_key_set

MAX_SET_SIZE: Final = 64 << 10

Fetch = Callable[[str, int, float], Awaitable[bytes]]
"""``await fetch(url, max_size, time_limit)`` returns the body, in bytes at most `max_size`, that a GET of `url`
brings within `time_limit` seconds. It follows no redirect and raises OSError for whatever goes wrong."""

_log = structlog.get_logger("fastws.auth")


class Timing(NamedTuple):
    """How often keys are fetched, in seconds.

    Fetched keys are fetched again after `lifetime`. After a failure the pause is `first_retry`, doubled each
    time up to `last_retry`. Unknown key ids cause a fetch at most every `cooldown`. A fetch takes
    `time_limit` at most.
    """

    lifetime: float = 300.0
    first_retry: float = 1.0
    last_retry: float = 60.0
    cooldown: float = 60.0
    time_limit: float = 10.0


class RemoteKeys:
    """The key set at one URL, which is configured and never comes from a token.

    1. `keys` is replaced as a whole, by a set with at least one usable key; a failed fetch changes nothing, so
       an outage of the issuer costs nobody the keys that are known.
    2. At most one fetch is under way; whoever needs it waits for the same one.
    3. From :meth:`start` to :meth:`close` the set is fetched again and again, at the pace of `timing`.
    4. :meth:`look_again` fetches at most once per cooldown, however many unknown key ids clients make up.

    Used from the event loop's thread. `monotonic` returns seconds, and `sleep` waits for seconds.
    """

    def __init__(
        self,
        url: str,
        algorithm: str,
        fetch: Fetch,
        timing: Timing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url = url
        self.algorithm = algorithm
        self.keys = Keys()
        self.fetched_at: float | None = None
        self._fetch = fetch
        self._timing = timing or Timing()
        self._monotonic = monotonic
        self._sleep = sleep
        self._cool_at = -float("inf")
        self._fetching: asyncio.Task[bool] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def age(self) -> float | None:
        """Seconds since `keys` were fetched, None before that."""
        return None if self.fetched_at is None else self._monotonic() - self.fetched_at

    def start(self) -> None:
        """Begin to fetch in the background; does not wait for the first keys."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="fastws JWKS refresh")

    async def close(self) -> None:
        """End fetching for good; `keys` stay."""
        self._cool_at = float("inf")
        tasks = [task for task in (self._refreshing, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._refreshing = None

    async def look_again(self) -> bool:
        """Fetch the set now, as after an unknown key id; whether it has been fetched.

        Without a fetch, because the last such look is too recent, it returns at once.
        """
        if self._fetching is None or self._fetching.done():
            now = self._monotonic()
            if now < self._cool_at:
                return False
            self._cool_at = now + self._timing.cooldown
        return await self._fetched()

    async def _fetched(self) -> bool:
        fetching = self._fetching
        if fetching is None or fetching.done():
            fetching = self._fetching = asyncio.create_task(self._fetch_once(), name="fastws JWKS fetch")
        # Unlike awaiting the task, this does not cancel it for all when one who waits is cancelled.
        await asyncio.wait((fetching,))
        return not fetching.cancelled() and fetching.result()

    async def _refresh(self) -> None:
        timing = self._timing
        retry = timing.first_retry
        while True:
            if await self._fetched():
                retry = timing.first_retry
                pause = timing.lifetime
            else:
                pause = retry
                retry = min(retry * 2, timing.last_retry)
            # The instances of a cluster must not all ask at the same moment.
            await self._sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311

    async def _fetch_once(self) -> bool:
        had_keys = bool(self.keys)
        try:
            data = await self._fetch(self.url, MAX_SET_SIZE, self._timing.time_limit)
            self.keys = read_key_set(data, self.algorithm)
            self.fetched_at = self._monotonic()
        except (OSError, KeyMaterialError) as error:
            logs.log_limited(
                _log, "jwks", "the key set of the issuer cannot be used", url=self.url, error=str(error),
                keeps_old_keys=had_keys,
            )  # fmt: skip
            return False
        if not had_keys:
            _log.info("the issuer's keys are known", url=self.url)
        return True
