"""The connection to KIS that stays alive: one session per app key, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from fastws import logs
from fastws._kis import KISFrameError, peek_frame
from fastws.kis.auth import KISAuthManager
from fastws.kis.ciphers import Ciphers
from fastws.kis.control import (
    NOTICES,
    Ack,
    ControlError,
    Outcome,
    PingPong,
    Registration,
    encode_request,
    read_control,
)
from fastws.kis.errors import KISConnectionError, KISCredentialsError, KISInUseError
from fastws.kis.registrations import Change, Registrations
from fastws.kis.retry import Backoff

# Bursts of half a megabyte have been seen.
_MAX_MESSAGE_SIZE: Final = 4 << 20
# A session that lives for less has not proven that the next one will.
_SHORT_SESSION: Final = 30.0
# What the close handshake and the last answers may take.
_FAREWELL: Final = 1.0

_log = logging.getLogger("fastws.kis")
# What picows says about every socket is said here as events.
_picows_log = logging.getLogger("fastws.kis.socket")
_picows_log.setLevel(logging.CRITICAL)


class Timing(NamedTuple):
    """How long things take at most and how long is waited, in seconds.

    A connection that brings nothing for `silence`, not even PINGPONG, is dead. Between two tries lie `first_delay` to
    `last_delay` (see `Backoff`), or while another session has the app key `in_use_delay` (drawn between the two), from
    the third time on `slow_delay`; `slow_delay` too where KIS refuses the credentials. Between the end of a socket and
    the next one lies `least_gap` at least.
    """

    connect_timeout: float = 10.0
    silence: float = 75.0
    first_delay: float = 1.0
    last_delay: float = 45.0
    in_use_delay: tuple[float, float] = (60.0, 90.0)
    slow_delay: float = 300.0
    least_gap: float = 1.0


class Opened(NamedTuple):
    """A socket is open; nothing is confirmed on it yet."""


class Live(NamedTuple):
    """The first data or confirmation of this session has come."""

    gap_seconds: float | None
    """Since the last session that was live had ended; None when this is the first."""


class Lost(NamedTuple):
    """The connection could not be made or has ended."""

    error: KISConnectionError
    retry_in: float | None
    """Seconds to the next try; None: there is none."""
    n_failures: int
    """In a row."""


class Changed(NamedTuple):
    """A registration has got into another state."""

    change: Change


Event = Opened | Live | Lost | Changed

# Environment, host and app key of the connections of this process.
_in_use: set[tuple[str, str, str]] = set()


class KISConnection:
    """Keeps a session of one app key alive, with what `registrations` wants registered on it.

    `on_frame(tr_id, message, received_ns)` gets every data frame, in clear: those that came encrypted are deciphered.
    `received_ns` is of the monotonic clock. `on_event` gets what happens to the connection. Both are called on the
    event loop, must be quick, and must not raise.

    1. From :meth:`start` to the end of :meth:`close` at most one socket is open, and within a process no second
       connection of the same app key is started.
    2. Every failure is followed by another try, until `max_retries` tries in a row have failed (None: for ever) or KIS
       refuses the credentials with `max_retries` set. A failure counts as the first again after data or a confirmation.
    3. Sessions that end soon after they became live are followed by growing pauses, too: KIS blocks who connects and
       closes without end.
    4. Each session begins with an approval key that KIS has not refused.
    5. Nothing that KIS sends raises: what cannot be read is counted in `bad_kinds` and dropped.
    6. It runs until :meth:`close` or until rule 2 ends it, which `on_event` is told; nothing else does.

    Used from one event loop. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        auth: KISAuthManager,
        registrations: Registrations,
        *,
        on_frame: Callable[[str, bytes, int], object],
        on_event: Callable[[Event], object],
        max_retries: int | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.auth = auth
        self.registrations = registrations
        self.max_retries = max_retries
        self.n_sessions = 0
        self.n_frames = 0
        self.n_pingpongs = 0
        self.bad_kinds: dict[str, int] = {}
        self.received_at: float | None = None
        """When the last message came, by `clock`; a session begins with its own time. None before the first one."""
        self._on_frame = on_frame
        self._on_event = on_event
        self._timing = timing or Timing()
        self._clock = clock
        self._rng = rng if rng is not None else random.Random()  # noqa: S311
        self._backoff = Backoff(self._timing.first_delay, self._timing.last_delay, self._rng)
        self._n_in_use = 0
        self._n_short = 0
        self._approval_key = ""
        self._ciphers = Ciphers()
        self._session: _Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._is_closing = False
        self._is_live = False
        self._live_at = 0.0
        self._lost_at: float | None = None
        self._closed_at = -float("inf")

    @property
    def is_running(self) -> bool:
        """Whether a connection is there or being tried for."""
        return self._task is not None and not self._task.done()

    @property
    def is_connected(self) -> bool:
        """Whether a socket is open."""
        return self._session is not None and not self._session.is_over

    @property
    def is_live(self) -> bool:
        """Whether this session has brought data or a confirmation."""
        return self._is_live and self.is_connected

    @property
    def n_failures(self) -> int:
        """Failures since there was data or a confirmation."""
        return self._backoff.n_failures

    @property
    def n_bad(self) -> int:
        """Messages that were dropped because they could not be read."""
        return sum(self.bad_kinds.values())

    def start(self) -> None:
        """Begin to connect, as a task of the running loop.

        Raises:
            KISInUseError: a connection of this process has the app key.
            RuntimeError: this one is running.
        """
        if self.is_running:
            raise RuntimeError("the connection to KIS has been started already")
        credentials = self.auth.credentials
        key = (credentials.environment, credentials.ws_url, credentials.app_key)
        if key in _in_use:
            raise KISInUseError(
                "connection refused: this program already has a session with this app key, and KIS allows one; "
                "use that one, or another app key"
            )
        _in_use.add(key)
        self._is_closing = False
        self._wake = asyncio.Event()  # an event belongs to the first loop that waits for it, which may be another's
        self._backoff.reset()
        self._n_in_use = self._n_short = 0
        self._lost_at = None
        self._task = asyncio.create_task(self._run(), name="fastws KIS connection")
        self._task.add_done_callback(lambda _: _in_use.discard(key))

    def want(self, registration: Registration, priority: int = 0) -> None:
        """Have it registered, now and in every session to come; see `Registrations.want`."""
        self.registrations.want(registration, priority)
        self._wake.set()

    def unwant(self, registration: Registration) -> bool:
        """Have it registered no longer; see `Registrations.unwant`."""
        is_known = self.registrations.unwant(registration)
        self._wake.set()
        return is_known

    async def close(self) -> None:
        """Take back what is registered, at KIS's pace, and end the session; what is wanted stays so."""
        task = self._task
        if task is None:
            return
        self._is_closing = True
        if self.is_connected and not task.done():
            self.registrations.close()
            self._wake.set()
            limits = self.registrations.limits
            await asyncio.wait(
                (task,), timeout=limits.pace * (self.registrations.n_occupied + 2) + 2 * _FAREWELL
            )
        task.cancel()
        await asyncio.wait((task,))

    async def _run(self) -> None:
        while not self._is_closing:
            began_at = self._clock()
            try:
                await self._run_session()
                return
            except KISConnectionError as error:
                failure = error
            except Exception as error:
                # A fault of this program; whoever depends on the connection must not lose it for that.
                _log.exception("the connection to KIS ended unexpectedly")
                failure = KISConnectionError(f"connection lost: {type(error).__name__} in the client")
            finally:
                self._end_session(began_at)
            delay = self._delay_after(failure)
            n_failures = self._backoff.n_failures
            if self._is_closing:
                return
            is_final = self.max_retries is not None and (
                n_failures > self.max_retries or isinstance(failure, KISCredentialsError)
            )
            if is_final:
                self._emit(Lost(failure, None, n_failures))
                return
            self._emit(Lost(failure, delay, n_failures))
            await asyncio.sleep(delay)

    def _delay_after(self, failure: KISConnectionError) -> float:
        timing = self._timing
        delay = self._backoff.next_delay()
        if isinstance(failure, KISInUseError):
            self._n_in_use += 1
            return timing.slow_delay if self._n_in_use > 2 else self._rng.uniform(*timing.in_use_delay)
        if isinstance(failure, KISCredentialsError):
            return timing.slow_delay
        if self._n_short > 1:
            delay = max(delay, min(timing.last_delay, timing.first_delay * 2.0 ** min(self._n_short, 16)))
        return delay

    def _end_session(self, began_at: float) -> None:
        now = self._clock()
        if self._session is not None:
            self._session.abort()
            self._session = None
            self._closed_at = now
            self.registrations.on_disconnected(now)
            self._n_short = self._n_short + 1 if now - began_at < _SHORT_SESSION else 0
        if self._is_live:
            self._is_live = False
            self._lost_at = now
        self._ciphers.clear()

    async def _run_session(self) -> None:
        """Connect and serve a session; returns when it was closed from here.

        Raises:
            KISConnectionError: it could not be made, or has ended.
        """
        self._approval_key = await self.auth.approval_key()
        early = self._closed_at + self._timing.least_gap - self._clock()
        if early > 0:
            await asyncio.sleep(early)
        session = self._session = await self._open()
        self.n_sessions += 1
        self.received_at = self._clock()
        self.registrations.on_connected(self.received_at)
        self._emit(Opened())
        await self._serve(session)
        await session.say_goodbye()

    async def _open(self) -> _Session:
        url = self.auth.credentials.ws_url
        session = _Session(self._on_message, self._wake)
        try:
            async with asyncio.timeout(self._timing.connect_timeout):
                await ws_connect(
                    lambda: session,
                    url,
                    # KIS has no use for pings of RFC 6455, and has been seen to close because of them.
                    enable_auto_ping=False,
                    max_frame_size=_MAX_MESSAGE_SIZE,
                    max_redirects=0,
                    logger_name=_picows_log,
                )
        except (WSError, OSError, TimeoutError) as error:
            session.abort()
            raise KISConnectionError(_explain(error, url, self._timing.connect_timeout)) from None
        except asyncio.CancelledError:
            session.abort()
            raise
        return session

    async def _serve(self, session: _Session) -> None:
        registrations, clock = self.registrations, self._clock
        closing_at: float | None = None
        while True:
            self._wake.clear()
            if session.failure is not None:
                raise session.failure
            now = clock()
            for change in registrations.take_changes(now):
                self._emit(Changed(change))
            request = registrations.next_request(now)
            if request is not None:
                session.send(encode_request(request, self._approval_key, self.auth.credentials.customer_type))
                continue
            wake_at = registrations.wake_at(now)
            if self._is_closing:
                if closing_at is None:
                    closing_at = now + registrations.limits.pace * (registrations.n_active + 1) + _FAREWELL
                if registrations.n_occupied == 0 or now >= closing_at:
                    return
                wake_at = min(wake_at, closing_at)
            silent_at = self._silent_at()
            if now >= silent_at:
                # When the loop itself was held up, what has come meanwhile is still to be read.
                await asyncio.sleep(0.05)
                if self._silent_at() <= clock() and session.failure is None:
                    raise KISConnectionError(
                        f"connection lost: KIS sent nothing for {self._timing.silence:g} s, not even PINGPONG"
                    )
                continue
            try:
                async with asyncio.timeout(min(wake_at, silent_at) - now):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _silent_at(self) -> float:
        """When the socket counts as dead if nothing comes."""
        return (self.received_at or 0.0) + self._timing.silence

    # What KIS sends. These run within the socket's callback.

    def _on_message(self, session: _Session, message: bytes) -> None:
        received_ns = time.monotonic_ns()
        now = self.received_at = self._clock()
        if message[:1] == b"{":
            self._on_control(session, message, now)
            return
        try:
            if message[:2] == b"1|":
                message = self._ciphers.decipher(message)
            tr_id, _, keys = peek_frame(message)
        except KISFrameError as error:
            self._drop(error.kind)
            return
        self.n_frames += 1
        if not self._is_live:
            self._become_live(now)
        if tr_id in NOTICES:
            # Notices are registered by the HTS id, which may be written differently in them.
            keys = tuple(key for other, key in self.registrations if other == tr_id)
        for key in keys:
            change = self.registrations.on_data(tr_id, key, now)
            if change is not None:
                self._emit(Changed(change))
        try:
            self._on_frame(tr_id, message, received_ns)
        except Exception:
            # A fault of this program; the socket must not end with it.
            if logs.limiter.take("KIS frame") is not None:
                _log.exception("a frame of KIS could not be processed")

    def _on_control(self, session: _Session, message: bytes, now: float) -> None:
        try:
            control = read_control(message)
        except ControlError as error:
            self._drop(str(error))
            return
        if isinstance(control, PingPong):
            self.n_pingpongs += 1
            session.answer_pingpong(message)
            return
        self._on_ack(session, control, now)

    def _on_ack(self, session: _Session, ack: Ack, now: float) -> None:
        if ack.outcome is Outcome.KEY_INVALID:
            self.auth.forget_approval_key(self._approval_key)
            session.fail(
                KISConnectionError(
                    f"connection refused: KIS does not know the approval key ({ack.code}); a new one is fetched"
                )
            )
        elif ack.outcome is Outcome.IN_USE:
            session.fail(
                KISInUseError(
                    f"connection refused: another session is using this app key ({ack.code}), and KIS allows one; "
                    "end the other program, or use another app key"
                )
            )
        elif ack.outcome is Outcome.CREDENTIALS:
            session.fail(
                KISCredentialsError(
                    f"connection refused: KIS does not accept the app key ({ack.code}: {ack.text})"
                )
            )
        else:
            if ack.registration is None and logs.limiter.take(f"KIS {ack.code}") is not None:
                # Which request it answers is not said; that one will be found unanswered.
                _log.warning("KIS could not read a request: %s %s", ack.code, ack.text)
            if ack.outcome in (Outcome.REGISTERED, Outcome.REMOVED, Outcome.DONE):
                self._keep_key(ack)
                if not self._is_live:
                    self._become_live(now)
            change = self.registrations.on_ack(ack, now)
            if change is not None:
                self._emit(Changed(change))
            self._wake.set()

    def _keep_key(self, ack: Ack) -> None:
        if ack.registration is None or ack.registration.tr_id not in NOTICES or not ack.key:
            return
        if not self._ciphers.set_key(ack.registration.tr_id, ack.key, ack.iv):
            self._drop("key")

    def _become_live(self, now: float) -> None:
        self._is_live = True
        self._live_at = now
        self._backoff.reset()
        self._n_in_use = 0
        gap = None if self._lost_at is None else now - self._lost_at
        self._emit(Live(gap))

    def _drop(self, kind: str) -> None:
        # Kinds are our own words, and few.
        self.bad_kinds[kind] = self.bad_kinds.get(kind, 0) + 1
        suppressed = logs.limiter.take(f"KIS message {kind}")
        if suppressed is not None:
            _log.warning("a message of KIS was dropped: %s", kind, extra={"suppressed": suppressed})

    def _emit(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            _log.exception("an event of the KIS connection could not be processed")


class _Session(WSListener):
    """One socket, as picows' listener. `failure` is set once, when it has ended, and then `wake` is."""

    def __init__(self, on_message: Callable[[_Session, bytes], None], wake: asyncio.Event) -> None:
        super().__init__()
        self.failure: KISConnectionError | None = None
        self._on_message = on_message
        self._wake = wake
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._gone = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self.failure is not None

    def fail(self, error: KISConnectionError) -> None:
        if self.failure is None:
            self.failure = error
            self._wake.set()

    def abort(self) -> None:
        """End the socket without a farewell."""
        self.fail(KISConnectionError("connection closed"))
        if self._transport is not None:
            self._transport.disconnect(False)

    async def say_goodbye(self) -> None:
        """Close the socket as RFC 6455 wants it, but do not wait long for the other side."""
        if self._transport is None:
            return
        self._transport.send_close(WSCloseCode.OK)
        await asyncio.wait((self._gone,), timeout=_FAREWELL)

    def send(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, message)

    def answer_pingpong(self, message: bytes) -> None:
        """Answer in both ways that clients do, for it is not known that KIS takes either for ever: the text sent back,
        and a pong of RFC 6455 with it. In this order, the second one is never taken for a PINGPONG of ours."""
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, message)
            if len(message) <= 125:
                self._transport.send_pong(message)

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.failure is not None:  # given up while it was being made
            transport.disconnect(False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if self.failure is not None:
            return
        if kind == WSMsgType.TEXT and frame.fin:
            self._on_message(self, frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.CONTINUATION, WSMsgType.BINARY):
            self._on_part(frame)
        elif kind == WSMsgType.CLOSE:
            code, reason = int(frame.get_close_code().value), frame.get_close_message() or b""
            text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            text = "".join(char for char in text[:123] if char.isprintable())
            detail = f"code {code}{', ' + text if text else ''}" if code else "no code"
            self.fail(KISConnectionError(f"connection lost: KIS closed it ({detail})"))
            transport.send_close(WSCloseCode.OK)
            transport.disconnect(True)

    def _on_part(self, frame: WSFrame) -> None:
        self._parts.append(frame.get_payload_as_bytes())
        self._parts_size += len(self._parts[-1])
        if self._parts_size > _MAX_MESSAGE_SIZE:
            self.fail(
                KISConnectionError(
                    f"connection lost: KIS sent a message of over {_MAX_MESSAGE_SIZE >> 20} MiB"
                )
            )
        elif frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._parts_size = 0
            self._on_message(self, message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.fail(KISConnectionError("connection lost: it ended without a close frame"))
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """What is sent is a request in `pace` and answers to PINGPONG: never enough to wait for."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


def _explain(error: BaseException, url: str, time_limit: float) -> str:
    """One sentence about a connection that could not be made."""
    host = urlsplit(url).netloc
    if isinstance(error, TimeoutError):
        return f"no connection to KIS: {host} did not answer within {time_limit:g} s; check the network and KIS_WS_URL"
    if isinstance(error, socket.gaierror):
        return f"no connection to KIS: the host {host} is not known; check KIS_WS_URL and the network"
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused: nothing listens at {host}; check KIS_WS_URL"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"no connection to KIS: {host} is unreachable; check the network"
    if isinstance(error, WSHandshakeError):
        status: Any = getattr(error.response, "status", None)
        if isinstance(status, HTTPStatus):
            return f"connection refused: {host} answered the WebSocket upgrade with HTTP {status.value}"
        return f"connection refused: what listens at {host} does not speak WebSocket; check KIS_WS_URL"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return f"no connection to KIS: {host}: {reason}"
