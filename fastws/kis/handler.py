"""Real-time quotes and trades of KIS for programs in Python: callbacks that get pandas DataFrames."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

from fastws._kis import KISFrameError, RecordReader
from fastws.kis import control
from fastws.kis.auth import KISAuthManager
from fastws.kis.callbacks import Callbacks
from fastws.kis.connection import KISConnection
from fastws.kis.control import NOTICE, PAPER_NOTICE, QUOTE, TICK, Registration
from fastws.kis.delivery import Callback
from fastws.kis.errors import KISConnectionError, KISSubscriptionError
from fastws.kis.events import Changed, Event, Live, Lost, Opened, Timing
from fastws.kis.loop_thread import LoopThread
from fastws.kis.registrations import Limits, Registrations, State
from fastws.kis.volume import VolumeGaps, day_of
from fastws.kis.wishes import DataType, Wish, Wishes, explain_change, explain_waiting, read_codes

_log = logging.getLogger("fastws.kis")


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
    5. :meth:`connect` and :meth:`disconnect` may be called by several tasks at once, and by callbacks: there is one
       connection, and one end of it, and all of them wait for that. A callback that disconnects is the last one of its
       kind.
    6. When the event loop ends without :meth:`disconnect` the connection is ended, too.

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
        self._wishes = Wishes()
        self._callbacks = Callbacks(
            decimals=decimals,
            max_queue=max_queue,
            is_wanted=lambda key: key in self._wishes.wanted,
            on_end=self._abandon,
        )
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
        self._opening: asyncio.Future[KISConnectionError | None] | None = None
        self._closing: asyncio.Task[None] | None = None
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
        self._callbacks.set(
            {
                "quote": on_quote,
                "tick": on_tick,
                "notice": on_notice,
                "records": on_records,
                "gap": on_gap,
                "error": on_error,
            }
        )

    async def connect(self) -> None:
        """Connect to KIS; returns when the connection is there, and does nothing when it is or is being tried for.

        Raises:
            KISConnectionError: it could not be made (after `max_retries` more tries), the credentials are refused, or
                this program has a session with the same app key. `on_error` was told, too.
        """
        await self._closed()
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is not None and opening.get_loop() is loop:
            if not opening.done() or self._connection.is_running:
                await self._opened(opening)
                return
            await self.disconnect()  # what is left of a connection that was given up
            await self.connect()
            return
        opening = self._opening = loop.create_future()
        try:
            await self._end_thread()  # of a loop that has ended
            self._callbacks.start()
            self._thread = LoopThread("fastws KIS")
            self._thread.start()
            self._thread.call(self._start)
            await self._opened(opening)
        except OSError as error:
            failure = KISConnectionError(f"no connection to KIS: no thread can be started for it: {error}")
            self._callbacks.report(failure)
            self._settle(failure)
            await self.disconnect()
            raise failure from None
        except BaseException:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        """End the connection: take back what is registered, at KIS's pace, close, and let callbacks finish.

        What was subscribed to is subscribed again by the next :meth:`connect`.
        """
        self._callbacks.end_within()
        if self._closing is None or self._closing.get_loop() is not asyncio.get_running_loop():
            self._closing = asyncio.create_task(self._close(), name="fastws KIS disconnecting")
        # Who gives up waiting for it does not stop it.
        await asyncio.shield(self._closing)

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
        self._add([(Wish(control.check_key(hts_id), "notice", ""), Registration(tr_id, hts_id))])

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
        for code in read_codes(stock_code):
            for kind in kinds:
                registration = self._wishes.remove(Wish(code, kind, exchange))
                if registration is not None:
                    self._on_connection(self._unwant, registration)

    def get_subscriptions(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return what is subscribed to: symbol to data type ("quote", "tick", "notice") to exchange to state.

        The state is "pending", "active" or "failed". The symbol of notices is the HTS id, their exchange "".
        """
        found: dict[str, dict[str, dict[str, str]]] = {}
        for (symbol, data_type, exchange), registration in self._wishes:
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
        states = [
            str(self._registrations.state(Registration(*item)) or State.PENDING)
            for item in self._wishes.wanted
        ]
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
            "dropped": self._callbacks.n_dropped,
            "subscriptions": {str(state): states.count(str(state)) for state in State},
            "max_registrations": self._registrations.cap,
            "silent_seconds": None if received_at is None else max(0.0, time.monotonic() - received_at),
        }

    # Subscriptions

    def _subscribe(self, data_type: DataType, stock_codes: Iterable[str] | str, exchange: str) -> None:
        control.tr_for(exchange, QUOTE)
        codes = read_codes(stock_codes)
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
        wishes = [Wish(code, data_type, exchange) for code in codes]
        self._add([(wish, wish.registration) for wish in wishes])

    def _add(self, wishes: list[tuple[Wish, Registration]]) -> None:
        for wish, registration in wishes:
            self._wishes.add(wish, registration)
        self._on_connection(self._want, [registration for _, registration in wishes])

    def _on_connection(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call on the connection's thread; while there is none nothing else touches what is called."""
        if self._thread is None or not self._thread.call(function, *arguments):
            function(*arguments)

    # The life of the connection, on the program's event loop

    async def _closed(self) -> None:
        """Wait for a `disconnect` that is under way."""
        while self._closing is not None and self._closing.get_loop() is asyncio.get_running_loop():
            await asyncio.wait((self._closing,))

    async def _opened(self, opening: asyncio.Future[KISConnectionError | None]) -> None:
        error = await asyncio.shield(opening)
        if error is not None:
            raise error

    async def _close(self) -> None:
        try:
            if self._opening is not None:
                self._settle(
                    KISConnectionError("connection closed: disconnect() was called while it was made")
                )
            if self._thread is not None:
                with contextlib.suppress(RuntimeError):  # the thread has ended already
                    await self._thread.run(self._connection.close())
            await self._end_thread()
            await self._callbacks.stop()
        finally:
            self._opening = self._closing = None

    async def _end_thread(self) -> None:
        thread = self._thread
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.stop)
            self._thread = None

    def _settle(self, error: KISConnectionError | None) -> None:
        """Tell who waits in `connect` how it went. Any thread."""
        opening = self._opening
        if opening is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                opening.get_loop().call_soon_threadsafe(
                    lambda: None if opening.done() else opening.set_result(error)
                )

    def _abandon(self) -> None:
        """Nobody is left to call back. Any thread."""
        thread = self._thread
        if thread is None or not self._connection.is_running:
            return
        # Every kind of callback ends with the loop, and says so: the first one is enough.
        if thread.finish(lambda: self._connection.close(is_quick=True)):
            _log.warning("the event loop has ended without disconnect(); the connection to KIS is closed")

    # On the connection's thread

    def _start(self) -> None:
        try:
            self._connection.start()
        except KISConnectionError as error:
            self._callbacks.report(error)
            self._settle(error)
            return
        for registration in list(self._registrations):
            if registration not in self._wishes.wanted:
                self._connection.unwant(registration)
        self._want([registration for _, registration in self._wishes])

    def _want(self, registrations: list[Registration]) -> None:
        for registration in registrations:
            self._connection.want(registration)
        if self._connection.is_running:
            self._declare_waiting(registrations)

    def _unwant(self, registration: Registration) -> None:
        self._connection.unwant(registration)
        self._gaps.forget(*registration)

    def _declare_waiting(self, registrations: list[Registration]) -> None:
        waiting = set(self._registrations.waiting).intersection(registrations)
        if waiting:
            self._callbacks.report(
                KISSubscriptionError(explain_waiting(waiting, self._registrations.cap)),
            )

    def _on_frame(self, tr_id: str, message: bytes, received_ns: int) -> None:
        if self._callbacks.has("gap") and tr_id in TICK.values():
            self._look_for_gaps(tr_id, message)
        self._callbacks.put_frame(tr_id, message)

    def _look_for_gaps(self, tr_id: str, message: bytes) -> None:
        try:
            _, records = self._volume_reader.read(message)
        except KISFrameError:
            return  # whoever gets the frame will say so
        columns = (records[name].tolist() for name in ("MKSC_SHRN_ISCD", "ACML_VOL", "CNTG_VOL"))
        wanted, day = self._wishes.wanted, day_of(time.time())
        for code, day_volume, trade_volume in zip(*columns, strict=True):
            if (tr_id, code) not in wanted:
                continue  # it still comes for a while, and would never be forgotten
            gap = self._gaps.on_trade(tr_id, code, day_volume, trade_volume, day)
            if gap is not None:
                self._callbacks.put_gap(gap)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._settle(None)
        elif isinstance(event, Live):
            if event.gap_seconds is not None:
                self._gaps.on_reconnected(event.gap_seconds)
        elif isinstance(event, Lost):
            self._on_lost(event)
        elif isinstance(event, Changed):
            registration, _, code, *_ = event.change
            text = explain_change(
                event.change, self._registrations.cap, is_paper=self.auth_manager.credentials.is_paper
            )
            if text:
                self._callbacks.report(
                    KISSubscriptionError(
                        text, tr_id=registration.tr_id, tr_key=registration.tr_key, code=code
                    )
                )

    def _on_lost(self, event: Lost) -> None:
        what = ""
        if event.retry_in is not None:
            what = f"; trying again in {event.retry_in:.1f} s"
        elif event.n_failures > 1:
            what = f"; given up after {event.n_failures} failures in a row"
        error = type(event.error)(f"{event.error}{what}")
        self._last_error = str(error)
        self._callbacks.report(error)
        if event.retry_in is None:
            self._settle(error)
