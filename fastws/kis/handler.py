"""Real-time quotes and trades of KIS for programs in Python: callbacks that get pandas DataFrames."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from fastws import logs
from fastws._kis import KISFrameError, RecordLayout, RecordReader
from fastws.kis import control
from fastws.kis.auth import KISAuthManager
from fastws.kis.connection import Changed, Event, KISConnection, Live, Lost, Opened, Timing
from fastws.kis.control import NOTICE, NOTICES, PAPER_NOTICE, QUOTE, TICK, Registration
from fastws.kis.dataframes import require_pandas, to_dataframe
from fastws.kis.delivery import Callback, Delivery
from fastws.kis.errors import (
    KISCallbackError,
    KISConnectionError,
    KISError,
    KISOverflowError,
    KISSubscriptionError,
)
from fastws.kis.loop_thread import LoopThread
from fastws.kis.registrations import Change, Limits, Registrations, State
from fastws.kis.volume import VolumeGaps

DataType = Literal["quote", "tick", "notice"]

_TABLES: Final = {"quote": QUOTE, "tick": TICK}
_VENUES: Final[dict[str, tuple[DataType, str]]] = {
    **{tr_id: ("quote", exchange) for exchange, tr_id in QUOTE.items()},
    **{tr_id: ("tick", exchange) for exchange, tr_id in TICK.items()},
    NOTICE: ("notice", ""),
    PAPER_NOTICE: ("notice", ""),
}
_MAX_ERRORS: Final = 1000
# How long `disconnect` lets callbacks work off what has come.
_PATIENCE: Final = 2.0

_log = logging.getLogger("fastws.kis")


class _Frame(NamedTuple):
    tr_id: str
    message: bytes


class _Failure(NamedTuple):
    error: Exception
    message: str | None


class KISWebSocketHandler:
    """Subscribes to quotes (order books), ticks (trades) and execution notices of KIS, and calls back with them.

    The connection has a thread of its own: whatever callbacks do, and however long they hold up the event loop, KIS
    gets its answers in time. A lost connection is made again, with everything that was subscribed.

    1. Callbacks are called on the event loop that :meth:`connect` was awaited on. They may be plain functions or
       coroutine functions. Each of them is called once at a time, in the order in which the data came; one that is slow
       holds up no other.
    2. For each callback `max_queue` frames wait at most. When they are more the oldest are dropped, and `on_error` gets
       a :class:`KISOverflowError` that counts them.
    3. What a callback raises goes to `on_error`, as the cause of a :class:`KISCallbackError`; the next data follows.
    4. Every failure of the connection goes to `on_error`. After `max_retries` failed tries in a row the connection is
       given up, and so it is at once when KIS refuses the credentials; `on_error` gets that as the last error. The
       first data or confirmation of a connection starts the count anew.

    Methods are called from that event loop.
    """

    def __init__(
        self,
        auth_manager: KISAuthManager,
        max_retries: int | None = 3,
        *,
        decimals: Literal["float", "exact"] = "float",
        max_queue: int = 10_000,
        limits: Limits | None = None,
        timing: Timing | None = None,
    ) -> None:
        """`max_retries` None tries for ever. `decimals` "exact" makes decimals `decimal.Decimal` instead of float.

        `max_queue` is in frames, of one to three records mostly. `limits` tells how many registrations a session has
        and how fast they are made, `timing` how long the connection waits for what.

        Raises:
            ValueError: an argument is out of its range.
        """
        if max_queue < 1:
            raise ValueError(f"max_queue is at least 1, not {max_queue}")
        if max_retries is not None and max_retries < 0:
            raise ValueError(f"max_retries is at least 0, or None for endless tries, not {max_retries}")
        self.auth_manager = auth_manager
        self._callbacks: dict[str, Callback | None] = dict.fromkeys(
            ("quote", "tick", "notice", "records", "gap", "error")
        )
        self._max_queue = max_queue
        self._reader = RecordReader(decimals, on_new_width=self._on_new_width, on_new_type=self._on_new_type)
        self._volume_reader = RecordReader()
        self._gaps = VolumeGaps()
        self._registrations = Registrations(limits)
        self._connection = KISConnection(
            auth_manager,
            self._registrations,
            on_frame=self._on_frame,
            on_event=self._on_event,
            max_retries=max_retries,
            timing=timing,
        )
        self._thread: LoopThread | None = None
        self._deliveries: dict[str, Delivery[Any]] = {}
        self._opening: asyncio.Future[KISConnectionError | None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # What was subscribed to, as it was said: SOR and UN are two wishes for one registration.
        self._wishes: dict[tuple[str, DataType, str], Registration] = {}
        self._wanted: frozenset[Registration] = frozenset()
        self._last_error: str | None = None

    def __repr__(self) -> str:
        return f"KISWebSocketHandler({self.auth_manager!r}, is_connected={self._connection.is_connected})"

    async def __aenter__(self) -> KISWebSocketHandler:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    def set_callbacks(
        self,
        on_quote: Callback | None = None,
        on_tick: Callback | None = None,
        on_error: Callback | None = None,
        *,
        on_notice: Callback | None = None,
        on_records: Callback | None = None,
        on_gap: Callback | None = None,
    ) -> None:
        """Set all callbacks; those that are not given are none from now on.

        - ``on_quote(df)``, ``on_tick(df)`` and ``on_notice(df)`` get a pandas DataFrame with KIS's columns and one row
          per record; ``df.attrs`` has ``tr_id``, ``exchange`` and ``data_type``.
        - ``on_records(records, tr_id)`` gets the same records, of all kinds, as a numpy structured array: faster, and
          without pandas. See :class:`fastws._kis.RecordReader` for its fields.
        - ``on_gap(gap)`` gets a :class:`fastws.kis.volume.Gap` for every instrument at its first trade after the
          connection was lost.
        - ``on_error(error, message)`` gets an exception, and the text of the frame that it is about or None.

        Raises:
            KISError: a callback needs pandas, which is not installed.
        """
        if on_quote or on_tick or on_notice:
            require_pandas()
        self._callbacks = {
            "quote": on_quote,
            "tick": on_tick,
            "notice": on_notice,
            "records": on_records,
            "gap": on_gap,
            "error": on_error,
        }

    async def connect(self) -> None:
        """Connect to KIS; returns when the connection is there, and does nothing when it is or is being tried for.

        Raises:
            KISConnectionError: it could not be made (after `max_retries` more tries), the credentials are refused, or
                this program has a session with the same app key. `on_error` was told, too.
        """
        if self._connection.is_running:
            if self._opening is not None:
                await asyncio.shield(self._opening)
            return
        await self._end_thread()
        self._loop = asyncio.get_running_loop()
        opening = self._opening = self._loop.create_future()
        self._start_deliveries()
        self._thread = LoopThread("fastws KIS")
        self._thread.start()
        try:
            await self._thread.run(self._start())
            error = await asyncio.shield(opening)
        except BaseException as failure:
            if isinstance(failure, KISError):
                self._report(failure)
            await self.disconnect()
            raise
        if error is not None:
            await self.disconnect()
            raise error

    async def disconnect(self) -> None:
        """End the connection: take back what is registered, at KIS's pace, close, and let callbacks finish.

        What was subscribed to is subscribed again by the next :meth:`connect`.
        """
        thread = self._thread
        if thread is not None:
            await thread.run(self._connection.close())
            await self._end_thread()
        for name, delivery in list(self._deliveries.items()):
            if name != "error":
                await delivery.stop(_PATIENCE)
        if "error" in self._deliveries:
            await self._deliveries["error"].stop(_PATIENCE)
        self._opening = None

    async def subscribe_quote(self, stock_codes: Iterable[str] | str, exchange: str = "UN") -> None:
        """Subscribe to order books, which `on_quote` gets.

        `stock_codes` are codes such as "005930"; `exchange` is KRX, NXT, UN (both, merged) or SOR, which has no data of
        its own and is served as UN. What is subscribed to already stays as it is. Returns at once; how it went is in
        :meth:`get_subscriptions`, and `on_error` gets what KIS refuses or has no room for. It may be called before
        :meth:`connect`.

        Raises:
            ValueError: a code or the exchange is malformed; nothing was subscribed then.
        """
        self._subscribe("quote", stock_codes, exchange)

    async def subscribe_tick(self, stock_codes: Iterable[str] | str, exchange: str = "UN") -> None:
        """Subscribe to trades, which `on_tick` gets; otherwise like :meth:`subscribe_quote`."""
        self._subscribe("tick", stock_codes, exchange)

    async def subscribe_notice(self, hts_id: str | None = None) -> None:
        """Subscribe to the account's execution notices, which `on_notice` gets, in clear.

        Raises:
            ValueError: neither `hts_id` nor the credentials have an HTS id.
        """
        credentials = self.auth_manager.credentials
        hts_id = hts_id if hts_id is not None else credentials.hts_id
        if not hts_id:
            raise ValueError("execution notices need the HTS id: pass hts_id=, or set KIS_HTS_ID")
        tr_id = PAPER_NOTICE if credentials.is_paper else NOTICE
        self._add([(control.check_key(hts_id), "notice", "", Registration(tr_id, hts_id))])

    async def unsubscribe(
        self,
        stock_code: str | Iterable[str],
        data_type: Literal["quote", "tick", "all"] = "all",
        exchange: str = "UN",
    ) -> None:
        """End subscriptions; the callbacks get no more data of them. What is not subscribed to is left alone.

        KIS itself is told when the registration is half a minute old (`Limits.min_dwell`), because it blocks who
        registers and unregisters without end.

        Raises:
            ValueError: an argument is malformed.
        """
        if data_type not in ("quote", "tick", "all"):
            raise ValueError(f"data_type must be quote, tick or all, not {data_type!r}")
        control.tr_for(exchange, QUOTE)
        kinds: tuple[DataType, ...] = ("quote", "tick") if data_type == "all" else (data_type,)
        for code in _codes(stock_code):
            for kind in kinds:
                registration = self._wishes.pop((code, kind, exchange), None)
                if registration is None or registration in self._wishes.values():
                    continue
                self._on_connection(self._connection.unwant, registration)
                self._on_connection(self._gaps.forget, *registration)
        self._wanted = frozenset(self._wishes.values())

    def get_subscriptions(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return what is subscribed to: symbol to data type ("quote", "tick", "notice") to exchange to state.

        The state is "pending", "active" or "failed". The symbol of notices is the HTS id, their exchange "".
        """
        found: dict[str, dict[str, dict[str, str]]] = {}
        for (symbol, data_type, exchange), registration in list(self._wishes.items()):
            state = self._registrations.state(registration) or State.PENDING
            found.setdefault(symbol, {}).setdefault(data_type, {})[exchange] = str(state)
        return found

    def get_connection_status(self) -> dict[str, Any]:
        """Return how the connection is.

        `is_connected`: a socket is open; `is_live`: it has brought data or a confirmation; `is_running`: it is there or
        being tried for; `retry_count`: failures in a row; `max_retries`; `last_error`: text or None; `environment`:
        real or paper; `url`; `sessions`: sockets so far; `frames`: data frames so far; `unreadable`: messages that were
        dropped, by reason; `dropped`: frames that callbacks were too slow for; `subscriptions`: by state;
        `max_registrations`; `silent_seconds`: since anything came, None before.
        """
        connection = self._connection
        credentials = self.auth_manager.credentials
        states = [str(self._registrations.state(item) or State.PENDING) for item in self._wanted]
        received_at = connection.received_at
        return {
            "is_connected": connection.is_connected,
            "is_live": connection.is_live,
            "is_running": connection.is_running,
            "retry_count": connection.n_failures,
            "max_retries": connection.max_retries,
            "last_error": self._last_error,
            "environment": credentials.environment,
            "url": credentials.ws_url,
            "sessions": connection.n_sessions,
            "frames": connection.n_frames,
            "unreadable": dict(connection.bad_kinds),
            "dropped": sum(self._deliveries[name].n_dropped for name in self._deliveries),
            "subscriptions": {str(state): states.count(str(state)) for state in State},
            "max_registrations": self._registrations.cap,
            "silent_seconds": None if received_at is None else max(0.0, time.monotonic() - received_at),
        }

    # Subscriptions

    def _subscribe(self, data_type: DataType, stock_codes: Iterable[str] | str, exchange: str) -> None:
        tr_id = control.tr_for(exchange, _TABLES[data_type])
        codes = _codes(stock_codes)
        if exchange == "SOR":
            warnings.warn(
                "SOR routes orders and has no data of its own: it is served as UN, with one registration for both",
                stacklevel=3,
            )
        if exchange != "KRX" and self.auth_manager.credentials.is_paper:
            warnings.warn(
                f"KIS does not promise {exchange} on paper trading; use exchange='KRX' if nothing comes",
                stacklevel=3,
            )
        self._add([(code, data_type, exchange, Registration(tr_id, code)) for code in codes])

    def _add(self, wishes: list[tuple[str, DataType, str, Registration]]) -> None:
        for symbol, data_type, exchange, registration in wishes:
            self._wishes[symbol, data_type, exchange] = registration
        self._wanted = frozenset(self._wishes.values())
        self._on_connection(self._want, [registration for *_, registration in wishes])

    def _on_connection(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call on the connection's thread; while there is none nothing else touches what is called."""
        if self._thread is None:
            function(*arguments)
        else:
            self._thread.call(function, *arguments)

    # On the connection's thread

    async def _start(self) -> None:
        self._connection.start()
        self._declare_waiting(list(self._registrations))

    def _want(self, registrations: list[Registration]) -> None:
        for registration in registrations:
            self._connection.want(registration)
        if self._connection.is_running:
            self._declare_waiting(registrations)

    def _declare_waiting(self, registrations: list[Registration]) -> None:
        waiting = set(self._registrations.waiting).intersection(registrations)
        if waiting:
            names = ", ".join(sorted(f"{_label(item)}" for item in waiting)[:5])
            more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
            self._report(
                KISSubscriptionError(
                    f"no free registration: a session of KIS has {self._registrations.cap} at most, so {names}{more} "
                    "wait for one; unsubscribe something, or use another app key for them",
                )
            )

    def _on_frame(self, tr_id: str, message: bytes, received_ns: int) -> None:
        kind = _VENUES.get(tr_id, (None, ""))[0]
        frame = _Frame(tr_id, message)
        if kind == "tick" and self._callbacks["gap"] is not None:
            self._look_for_gaps(tr_id, message)
        if kind is not None and self._callbacks[kind] is not None:
            self._deliveries[kind].put(frame)
        if self._callbacks["records"] is not None:
            self._deliveries["records"].put(frame)

    def _look_for_gaps(self, tr_id: str, message: bytes) -> None:
        try:
            _, records = self._volume_reader.read(message)
        except KISFrameError:
            return  # whoever gets the frame will say so
        columns = (records[name].tolist() for name in ("MKSC_SHRN_ISCD", "ACML_VOL", "CNTG_VOL"))
        for code, day_volume, trade_volume in zip(*columns, strict=True):
            gap = self._gaps.on_trade(tr_id, code, day_volume, trade_volume)
            if gap is not None:
                self._deliveries["gap"].put(gap)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._settle(None)
        elif isinstance(event, Live):
            if event.gap_seconds is not None:
                self._gaps.on_reconnected(event.gap_seconds)
        elif isinstance(event, Lost):
            if event.retry_in is None:
                what = (
                    "" if event.n_failures <= 1 else f"; given up after {event.n_failures} failures in a row"
                )
            else:
                what = f"; trying again in {event.retry_in:.1f} s"
            error = type(event.error)(f"{event.error}{what}")
            self._last_error = str(error)
            self._report(error)
            if event.retry_in is None:
                self._settle(error)
        elif isinstance(event, Changed):
            self._on_change(event.change)

    def _on_change(self, change: Change) -> None:
        name = _label(change.registration)
        why = f"{change.text} ({change.code})" if change.code else "no answer"
        if change.is_full:
            text = (
                f"no free registration: KIS has no room for {name} ({change.code}); it waits for one. "
                f"This session has {self._registrations.cap}"
            )
        elif change.state is State.FAILED:
            hint = ""
            if self.auth_manager.credentials.is_paper and _VENUES[change.registration.tr_id][1] in (
                "UN",
                "NXT",
            ):
                hint = "; on paper trading use exchange='KRX'"
            text = (
                f"KIS refuses {name}: {why}{hint}"
                if change.code
                else f"KIS does not answer the request for {name}"
            )
        else:
            return
        self._report(
            KISSubscriptionError(
                text, tr_id=change.registration.tr_id, tr_key=change.registration.tr_key, code=change.code
            )
        )

    def _settle(self, error: KISConnectionError | None) -> None:
        opening, loop = self._opening, self._loop
        if opening is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: None if opening.done() else opening.set_result(error))

    def _report(self, error: Exception, message: str | None = None) -> None:
        """Have `on_error` called; any thread may."""
        delivery = self._deliveries.get("error")
        if delivery is not None:
            delivery.put(_Failure(error, message))
        else:
            self._log_error(error)

    # On the program's event loop

    def _start_deliveries(self) -> None:
        def processing(name: str) -> Callable[[_Frame], Any]:
            return lambda frame: self._deliver(name, frame)

        def loss(name: str) -> Callable[[int], None]:
            return lambda n: self._report(
                KISOverflowError(f"on_{name} is too slow: {n} frames were dropped before it saw them", n)
            )

        for name in ("quote", "tick", "notice", "records"):
            self._deliveries[name] = Delivery(
                processing(name),
                max_items=self._max_queue,
                on_failure=self._on_failure(name),
                on_loss=loss(name),
            )
        self._deliveries["gap"] = Delivery(
            lambda gap: self._call("gap", gap),
            max_items=self._max_queue,
            on_failure=self._on_failure("gap"),
            on_loss=loss("gap"),
        )
        self._deliveries["error"] = Delivery(
            self._deliver_error,
            max_items=_MAX_ERRORS,
            on_failure=lambda error, failure: self._log_error(error),
            on_loss=lambda n: _log.warning("on_error is too slow: %d errors were dropped", n),
        )
        for delivery in self._deliveries.values():
            delivery.start()

    def _call(self, name: str, *arguments: Any) -> Any:
        callback = self._callbacks[name]
        return None if callback is None else callback(*arguments)

    def _deliver(self, name: str, frame: _Frame) -> Any:
        layout, records = self._reader.read(frame.message)
        if frame.tr_id not in NOTICES:
            codes = records[layout.names[0]].tolist()
            if any((frame.tr_id, code) not in self._wanted for code in codes):
                # Of what was unsubscribed while it was on its way, or is registered a little longer at KIS.
                keep = [(frame.tr_id, code) in self._wanted for code in codes]
                records = records[np.array(keep)]
                if not len(records):
                    return None
        if name == "records":
            return self._call(name, records, frame.tr_id)
        return self._call(name, self._dataframe(layout, records))

    def _dataframe(self, layout: RecordLayout, records: Any) -> Any:
        frame = to_dataframe(layout, records)
        data_type, exchange = _VENUES[layout.tr_id]
        frame.attrs.update(tr_id=layout.tr_id, exchange=exchange, data_type=data_type)
        return frame

    def _on_failure(self, name: str) -> Callable[[Exception, Any], None]:
        def report(error: Exception, item: Any) -> None:
            message = item.message.decode("utf-8", "replace") if isinstance(item, _Frame) else None
            if isinstance(error, KISFrameError):
                self._report(error, message)
                return
            failure = KISCallbackError(f"on_{name} has raised {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._report(failure, message)

        return report

    def _deliver_error(self, failure: _Failure) -> Any:
        if self._callbacks["error"] is None:
            self._log_error(failure.error)
            return None
        return self._call("error", failure.error, failure.message)

    def _log_error(self, error: Exception) -> None:
        suppressed = logs.limiter.take(f"KIS handler {type(error).__name__}")
        if suppressed is not None:
            _log.error("%s: %s", type(error).__name__, error, extra={"suppressed": suppressed})

    def _on_new_width(self, tr_id: str, width: int) -> None:
        _log.warning("KIS sends %s with %d columns, which is new; the unknown ones are EXTRA_n", tr_id, width)

    def _on_new_type(self, tr_id: str, name: str) -> None:
        _log.warning(
            "KIS sends decimals in %s of %s, which were integers; the column is decimal now", name, tr_id
        )

    async def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.stop)


def _codes(stock_codes: Iterable[str] | str) -> list[str]:
    codes = [stock_codes] if isinstance(stock_codes, str) else list(stock_codes)
    return [control.check_code(code) for code in codes]


def _label(registration: Registration) -> str:
    data_type, exchange = _VENUES.get(registration.tr_id, (registration.tr_id, ""))
    if data_type == "notice":
        return "execution notices"
    return f"{registration.tr_key} {data_type} {exchange}".rstrip()
