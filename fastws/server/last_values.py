"""Saves the last prices and order books, and brings them back after a start."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import islice
from typing import Final

import structlog

from fastws._market import BookUpdate, Instrument, PriceUpdate, encode_screener
from fastws.feeds.lines import LineError, decode_body
from fastws.logs import log_limited
from fastws.market.alert_store import number_text
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.market.store import Store, StoreError
from fastws.market.value_store import SavedValue, ValueStore

_BATCH: Final = 500  # values in one transaction, so that other requests get their turn in between
# What no member of a message is called, so that it is found at the end and nowhere else.
_DAY: Final = b',"fastws day":['
_ANY: Final = Instrument("any")
_SLICE: Final = 250  # values looked at before the loop runs on, which is under a millisecond

_log = structlog.get_logger("fastws.last_values")


class LastValues:
    """Keeps the last values of `market` in `store`.

    1. Every `interval` seconds (0: only at the stop) what has changed since it was saved last is saved: a process
       that is killed loses what came after that.
    2. The market knows nothing of it. A database that fails or is slow delays the next save and nothing else; what
       was not saved is saved then.
    3. A value that has come back and was not replaced since is not saved again: it stays as old as it is.
    4. A value that cannot be saved whatever the database does is left out until it is replaced; the others are saved.
    5. In a database in memory nothing is saved, and of several processes with one database only one `is_saving`.

    `n_failures` is how many times it could not save.
    """

    def __init__(self, market: Market, store: Store, *, interval: float, is_saving: bool = True) -> None:
        self.interval = interval
        self.n_failures = 0
        self._is_failing = False
        self._market = market
        self._is_lasting = not store.is_in_memory
        self._is_saving = self._is_lasting and is_saving
        self._stored = ValueStore(store)
        self._saved: dict[tuple[str, str], PriceUpdate | BookUpdate] = {}
        self._saving: asyncio.Task[None] | None = None

    async def restore(self) -> int:
        """Give the market what was saved, before anything is published; return the number of values.

        A code that is in no table becomes an instrument, as when its value was published, unless there are
        `MAX_INSTRUMENTS`; what is left out is logged. When the database fails, that is all: prices do not need them.
        """
        if not self._is_lasting:
            return 0
        try:
            values = await self._stored.load()
        except StoreError as error:
            _log.warning("the last values of before are not there", error=str(error))
            return 0
        n_restored = 0
        beyond: dict[str, None] = {}
        for i, value in enumerate(values):
            if i % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            instruments = self._market.instruments
            if value.code not in instruments and len(instruments) >= MAX_INSTRUMENTS:
                beyond[value.code] = None
            elif self._restore(value):
                n_restored += 1
        if beyond:
            _log.warning(
                "last values were left out: their symbols are in no table, and there are too many for more",
                symbols=len(beyond),
                first=list(islice(beyond, 5)),
                limit=MAX_INSTRUMENTS,
            )
        return n_restored

    def _restore(self, value: SavedValue) -> bool:
        try:
            instrument = self._market.instrument(value.code) or Instrument(value.code)
            body, day = _split(value.body)
            update = decode_body(body, lambda code: instrument)
            if not isinstance(update, (PriceUpdate, BookUpdate)):
                raise LineError("message type", f"{value.kind} is neither a price nor a book")
            self._market.restore(update, value.published_ms, day)
        except ValueError as error:
            log_limited(
                _log,
                "value-unreadable",
                "a row of last_values was left out",
                code=value.code,
                message=value.kind,
                error=str(error),
            )
            return False
        return True

    def start(self) -> None:
        """Begin to save."""
        if self._is_saving and self.interval > 0:
            self._saving = asyncio.get_running_loop().create_task(self._run())

    def configure(self, *, interval: float) -> None:
        """Set the interval of a running one; the next save comes after it."""
        if interval == self.interval:
            return
        self.interval = interval
        self._end_saving()
        self.start()

    def _end_saving(self) -> None:
        if self._saving is not None:
            # A batch that has begun is finished by the database, and saved again.
            self._saving.cancel()
            self._saving = None

    async def stop(self, seconds: float) -> None:
        """Save what is left, within `seconds`."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait({self._saving})
        try:
            async with asyncio.timeout(seconds):
                await self.save()
        except TimeoutError:
            _log.warning("the last values were not all saved: the database takes too long", seconds=seconds)

    def give_up(self) -> None:
        """Save no more: another process does."""
        self._is_saving = False
        # Where nothing has stopped it, it would go on beside the one that `take_back` begins.
        self._end_saving()

    def take_back(self) -> None:
        """Save again: no other process does any more."""
        self._is_saving = self._is_lasting
        self.start()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            try:
                await self.save()
            except Exception:
                # A fault of ours, which must not be the last that is saved.
                self._note_failure()
                log_limited(_log, "saving-failed", "saving failed", level="error", exc_info=True)

    async def save(self) -> bool:
        """Save what has changed; return whether all of it was saved. Not to be called while it runs."""
        if not self._is_saving:
            return True
        batch: list[tuple[SavedValue, PriceUpdate | BookUpdate]] = []
        for i, (kind, update, published_ms) in enumerate(self._market.live_values()):
            if i % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            code = update.instrument.code
            if self._saved.get((code, kind)) is not update:
                try:
                    body = encode_screener(update, published_ms) + self._day(code, kind) + b"}"
                except Exception:
                    self._leave_out(code, kind, update)
                else:
                    batch.append((SavedValue(code, kind, published_ms, body), update))
            if len(batch) == _BATCH:
                if not await self._save(batch):
                    return False
                batch = []
        return await self._save(batch)

    def _day(self, code: str, kind: str) -> bytes:
        """What is saved behind a price for the rest of its day."""
        day = self._market.day_range(code) if kind == "price_update" else None
        if day is None or day.high is None or day.low is None:
            return b""
        return b"%b%b,%b]" % (_DAY, number_text(day.high).encode(), number_text(day.low).encode())

    async def _save(self, batch: list[tuple[SavedValue, PriceUpdate | BookUpdate]]) -> bool:
        try:
            await self._stored.save([value for value, _ in batch])
        except StoreError as error:
            self._note_failure()
            log_limited(_log, "values-not-saved", "last values are not saved", error=str(error))
            return False
        except Exception:
            if len(batch) == 1:
                ((value, update),) = batch
                self._leave_out(value.code, value.kind, update)
                return True
            # One of them is at fault; which one shows when each is saved alone.
            for item in batch:
                if not await self._save([item]):
                    return False
            return True
        for value, update in batch:
            self._saved[value.code, value.kind] = update
        if batch and self._is_failing:
            self._is_failing = False
            _log.info("last values are saved again", failures=self.n_failures)
        return True

    def _note_failure(self) -> None:
        self.n_failures += 1
        self._is_failing = True

    def _leave_out(self, code: str, kind: str, update: PriceUpdate | BookUpdate) -> None:
        """Do not try to save a value again, over the exception that is being handled."""
        self._saved[code, kind] = update
        log_limited(
            _log,
            "value-unsavable",
            "a value cannot be saved",
            level="error",
            code=code,
            message=kind,
            exc_info=True,
        )


def _split(body: bytes) -> tuple[bytes, tuple[int | Decimal, int | Decimal] | None]:
    """The message that was saved, and the highest and the lowest price of its day, where they are behind it."""
    message, found, numbers = body.rpartition(_DAY)
    if not found:
        return body, None
    high, low = (PriceUpdate(_ANY, text).price for text in numbers.removesuffix(b"]}").decode().split(","))
    return message + b"}", (high, low)
