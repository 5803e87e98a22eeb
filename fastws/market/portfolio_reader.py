"""Portfolios as they are in the database: read at the start, again when asked, and when something has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import structlog

from fastws.logs import log_limited
from fastws.market.portfolio_merge import merge, with_closes_of
from fastws.market.portfolio_store import Changes, Loaded
from fastws.market.store import StoreError

if TYPE_CHECKING:
    from fastws.market.portfolio_store import PortfolioStore

# Reading again may take this share of the time, however often something changes.
_READING_SHARE: Final = 0.1

# Before anything was loaded.
NOTHING: Final = Loaded(
    version=0,
    ids=np.array([], np.int64),
    owners=[],
    names=[],
    currencies=[],
    symbols=[],
    position_portfolios=np.array([], np.int32),
    position_symbols=np.array([], np.int32),
    quantities=np.array([], np.int64),
    closes={},
    n_orphans=0,
)

_log = structlog.get_logger("fastws.portfolios")


class Reloaded(NamedTuple):
    """What is known after the database was read again; of `n_moved` portfolios that were looked at the owner is another
    one, or they are gone. `left_out` says what is wrong with those of what was read that cannot be used, by id."""

    n_portfolios: int
    n_positions: int
    n_moved: int
    seconds: float
    left_out: Mapping[int | None, str] = {}


class PortfolioReader:
    """Reads portfolios and hands each new state of all of them to `_adopt`, which another class brings.

    1. One reading comes after the other; what fails leaves everything as it was.
    2. Every `poll_interval` seconds (0: never) it is looked for changes, and what has changed is read: some
       portfolios, or all where the database cannot tell which. That takes a tenth of the time at most.
    3. While the database fails or hangs, that is logged and counted, and tried again. When it works, that is logged.

    `load_seconds` is how long the last reading took, `n_loads` how many there were, `n_failures` how many failed.
    """

    def __init__(self, store: PortfolioStore, *, poll_interval: float) -> None:
        self.load_seconds = 0.0
        self.n_loads = 0
        self.n_failures = 0
        self._store = store
        self._poll_interval = poll_interval
        self._loaded = NOTHING
        self._version = 0
        self._reading = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._is_started = False
        self._is_failing = False

    @property
    def n_left_out(self) -> int:
        """Portfolios that are not there because a row of them cannot be used."""
        return len(self._loaded.left_out)

    async def _adopt(self, loaded: Loaded) -> int:
        """Go on with `loaded`; return how many of the portfolios looked at came to other owners, or went."""
        raise NotImplementedError

    async def load(self) -> None:
        """Read everything, before the first price.

        Raises:
            StoreError: the database fails, or holds what makes no portfolio.
        """
        await self.reload()

    def start(self) -> None:
        """Look for changes from now on."""
        self._is_started = True
        if self._poll_interval > 0:
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    def poll(self, interval: float) -> None:
        """Look for changes in another interval, which begins now."""
        if interval == self._poll_interval:
            return
        self._poll_interval = interval
        if self._is_started:
            if self._polling is not None:
                self._polling.cancel()
                self._polling = None
            self.start()

    async def stop(self) -> None:
        """Look for changes no more."""
        self._is_started = False
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait({polling})

    async def reload(self, ids: Collection[int] | None = None) -> Reloaded:
        """Read portfolios again, all of them or those of `ids`, and go on with what they are now.

        Raises:
            StoreError: the database fails, or holds what makes no portfolio; everything is as before then.
        """
        try:
            done = await self._reload(ids)
        except Exception:
            self._note_failure()
            raise
        self._note_success()
        return done

    async def _reload(self, ids: Collection[int] | None) -> Reloaded:
        async with self._reading:
            began = time.monotonic()
            if ids is None:
                loaded = with_closes_of(self._loaded, await self._store.load())
                self._version = loaded.version
                left_out = loaded.left_out
            else:
                part = await self._store.load_portfolios(list(ids))
                loaded = await asyncio.to_thread(merge, self._loaded, ids, part)
                left_out = part.left_out
            n_moved = await self._adopt(loaded)
            self.load_seconds = time.monotonic() - began
            self.n_loads += 1
            return Reloaded(
                len(loaded.ids), len(loaded.quantities), n_moved, self.load_seconds, dict(left_out)
            )

    def _note_failure(self) -> None:
        self.n_failures += 1
        self._is_failing = True

    def _note_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            _log.info("portfolios are read again", failures=self.n_failures)

    async def refresh(self) -> bool:
        """Read what has changed in the database; return whether anything had.

        Raises:
            StoreError: as :meth:`reload`.
        """
        changes = await self._store.changes(self._version)
        if changes.version == self._version:
            return False
        if changes.portfolios is None:
            await self._reload(None)
        else:
            async with self._reading:
                await self._read_changes(changes, changes.portfolios)
        return True

    async def _read_changes(self, changes: Changes, ids: list[int]) -> None:
        began = time.monotonic()
        old = self._loaded
        # Of symbols that nobody holds nothing is known here, or wanted.
        symbols = old.symbols if changes.symbols is None else list(set(changes.symbols) & set(old.symbols))
        if not ids and not symbols:
            self._version = changes.version
            return
        part = await self._store.load_portfolios(ids)
        closes = await self._store.load_closes(symbols) if symbols else {}
        await self._adopt(await asyncio.to_thread(merge, old, ids, part, closes))
        self._version = changes.version
        self.load_seconds = time.monotonic() - began
        self.n_loads += 1

    async def rebuild(self) -> None:
        """Go on with what the instrument table says now of currencies and previous closes."""
        async with self._reading:
            await self._adopt(self._loaded)

    async def _poll(self) -> None:
        pause = self._poll_interval
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            try:
                await self.refresh()
                self._note_success()
            except StoreError as error:
                self._note_failure()
                log_limited(
                    _log,
                    "portfolios-not-read",
                    "portfolios cannot be read again; values go on with the positions of before",
                    error=str(error),
                )
            except Exception:
                self._note_failure()
                log_limited(
                    _log, "portfolios-failed", "reading portfolios failed", level="error", exc_info=True
                )
            pause = max(self._poll_interval, (time.monotonic() - began) / _READING_SHARE)
