"""The callbacks of a program and what they get: DataFrames, numpy records, gaps and errors, each in its own order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from fastws import logs
from fastws._kis import KISFrameError, RecordLayout, RecordReader
from fastws.kis.control import NOTICES
from fastws.kis.dataframes import require_pandas, to_dataframe
from fastws.kis.delivery import Callback, Delivery
from fastws.kis.errors import KISCallbackError, KISOverflowError
from fastws.kis.volume import Gap
from fastws.kis.wishes import VENUES

# The kinds that come as frames.
_FRAMES: Final = ("quote", "tick", "notice", "records")
_NAMES: Final = (*_FRAMES, "gap", "error")
_MAX_ERRORS: Final = 1000
# How long `stop` lets callbacks work off what has come.
_PATIENCE: Final = 2.0

_log = logging.getLogger("fastws.kis")


class _Frame(NamedTuple):
    tr_id: str
    message: bytes


class _Failure(NamedTuple):
    error: Exception
    message: str | None


class Callbacks:
    """Calls back on the event loop that :meth:`start` was called on; see `KISWebSocketHandler` for the rules.

    `is_wanted` tells whether a record of a TR and code is still to be delivered. `on_end` is called, perhaps by another
    thread and more than once, when that loop ends without :meth:`stop`. Frames, gaps and errors may be left by any
    thread.
    """

    def __init__(
        self,
        *,
        decimals: Literal["float", "exact"],
        max_queue: int,
        is_wanted: Callable[[tuple[str, str]], bool],
        on_end: Callable[[], object],
    ) -> None:
        self._functions: dict[str, Callback | None] = dict.fromkeys(_NAMES)
        self._max_queue = max_queue
        self._is_wanted = is_wanted
        self._on_end = on_end
        self._reader = RecordReader(decimals, on_new_width=_on_new_width, on_new_type=_on_new_type)
        self._deliveries: dict[str, Delivery[Any]] = {}

    @property
    def n_dropped(self) -> int:
        """Items that callbacks were too slow for, since :meth:`start`."""
        return sum(delivery.n_dropped for delivery in list(self._deliveries.values()))

    def set(self, functions: dict[str, Callback | None]) -> None:
        """Use these from now on. Raises KISError when one needs pandas, which is not installed."""
        if functions["quote"] or functions["tick"] or functions["notice"]:
            require_pandas()
        self._functions = functions

    def has(self, name: str) -> bool:
        return self._functions[name] is not None

    def start(self) -> None:
        """Begin to call, as tasks of the running loop."""
        for name in _NAMES:
            self._deliveries[name] = self._make(name)
        for delivery in self._deliveries.values():
            delivery.start()

    def end_within(self) -> None:
        """Let the callback that this is called from, if there is one, be the last one of its kind."""
        for delivery in list(self._deliveries.values()):
            delivery.end_within()

    async def stop(self) -> None:
        """Let callbacks finish with what has come, but not for long, and end; errors last."""
        others = [self._deliveries[name] for name in _NAMES if name != "error" and name in self._deliveries]
        await asyncio.gather(*(delivery.stop(_PATIENCE) for delivery in others))
        if "error" in self._deliveries:
            await self._deliveries["error"].stop(_PATIENCE)

    def put_frame(self, tr_id: str, message: bytes) -> None:
        frame = _Frame(tr_id, message)
        for name in (VENUES.get(tr_id, (None, ""))[0], "records"):
            if name is not None and self._functions[name] is not None:
                self._deliveries[name].put(frame)

    def put_gap(self, gap: Gap) -> None:
        self._deliveries["gap"].put(gap)

    def report(self, error: Exception, message: str | None = None) -> None:
        """Have `on_error` called, or if nothing is called (any more), log it."""
        delivery = self._deliveries.get("error")
        if delivery is not None and delivery.is_running:
            delivery.put(_Failure(error, message))
        else:
            _log_error(error)

    def _make(self, name: str) -> Delivery[Any]:
        if name == "error":
            return Delivery(
                self._deliver_error,
                max_items=_MAX_ERRORS,
                on_failure=_on_failing_on_error,
                on_loss=lambda n: _log.warning("on_error is too slow: %d errors were dropped", n),
                on_end=self._on_end,
            )
        return Delivery(
            (lambda frame: self._deliver(name, frame)) if name in _FRAMES else self._deliver_gap,
            max_items=self._max_queue,
            on_failure=lambda error, item: self._on_failure(name, error, item),
            on_loss=lambda n: self.report(
                KISOverflowError(f"on_{name} is too slow: {n} frames were dropped before it saw them", n)
            ),
            on_end=self._on_end,
        )

    def _deliver(self, name: str, frame: _Frame) -> Any:
        callback = self._functions[name]
        if callback is None:
            return None
        layout, records = self._reader.read(frame.message)
        if frame.tr_id not in NOTICES:
            # Without what was unsubscribed while it was on its way, or is registered a little longer at KIS.
            keep = [self._is_wanted((frame.tr_id, code)) for code in records[layout.names[0]].tolist()]
            if not all(keep):
                records = records[np.array(keep)]
                if not len(records):
                    return None
        return callback(records, frame.tr_id) if name == "records" else callback(_dataframe(layout, records))

    def _deliver_gap(self, gap: Gap) -> Any:
        callback = self._functions["gap"]
        return None if callback is None else callback(gap)

    def _deliver_error(self, failure: _Failure) -> Any:
        callback = self._functions["error"]
        if callback is None:
            _log_error(failure.error)
            return None
        return callback(failure.error, failure.message)

    def _on_failure(self, name: str, error: BaseException, item: object) -> None:
        message = item.message.decode("utf-8", "replace") if isinstance(item, _Frame) else None
        if isinstance(error, KISFrameError):
            self.report(error, message)
            return
        failure = KISCallbackError(f"on_{name} has raised {_words(error)}")
        failure.__cause__ = error
        self.report(failure, message)


def _dataframe(layout: RecordLayout, records: Any) -> Any:
    frame = to_dataframe(layout, records)
    data_type, exchange = VENUES[layout.tr_id]
    frame.attrs.update(tr_id=layout.tr_id, exchange=exchange, data_type=data_type)
    return frame


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _log_error(error: Exception) -> None:
    suppressed = logs.limiter.take(f"KIS handler {type(error).__name__}")
    if suppressed is not None:
        _log.error("%s: %s", type(error).__name__, error, extra={"suppressed": suppressed})


def _on_failing_on_error(error: BaseException, failure: _Failure) -> None:
    _log_error(failure.error)
    suppressed = logs.limiter.take("KIS handler on_error")
    if suppressed is not None:
        _log.error("on_error has raised %s", _words(error), exc_info=error, extra={"suppressed": suppressed})


def _on_new_width(tr_id: str, width: int) -> None:
    _log.warning("KIS sends %s with %d columns, which is new; the unknown ones are EXTRA_n", tr_id, width)


def _on_new_type(tr_id: str, name: str) -> None:
    _log.warning(
        "KIS sends decimals in %s of %s, which were integers; the column is decimal now", name, tr_id
    )
