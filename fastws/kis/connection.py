"""The connection to KIS that stays alive: one session per app key, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from fastws import logs
from fastws._kis import KISFrameError, peek_frame
from fastws.kis.auth import KISAuthManager
from fastws.kis.ciphers import Ciphers
from fastws.kis.control import (
    APP_KEY_WARNING,
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
from fastws.kis.events import Changed, Event, Live, Lost, Opened, Timing
from fastws.kis.registrations import Registrations
from fastws.kis.retry import Backoff
from fastws.kis.slots import Slot
from fastws.kis.socket import KISSocket
from fastws.websocket import FAREWELL

__all__ = ["Changed", "Event", "KISConnection", "Live", "Lost", "Opened", "Timing"]

# After a failure no other approval key is asked for so long, in seconds, while the one there is may still be good.
_KEY_PAUSE: Final = 60.0
# What a connection gets before it counts as dead, in seconds; see `_serve`.
_LEAST_GRACE: Final = 0.05
_MOST_GRACE: Final = 5.0
# A session that lives for less has not proven that the next one will.
_SHORT_SESSION: Final = 30.0

_log = logging.getLogger("fastws.kis")


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
    4. Each session begins with an approval key that KIS has not refused. KIS looks at it with every request, so one
       that has become old is replaced within the session, before the next request.
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
        self._keep_key_until = -float("inf")
        self._ciphers = Ciphers()
        self._session: KISSocket | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._is_closing = self._is_quick = False
        self._is_live = False
        self._lost_at: float | None = None
        credentials = auth.credentials
        self._slot = Slot.of((credentials.environment, credentials.ws_url, credentials.app_key))

    @property
    def is_running(self) -> bool:
        """Whether a connection is there or being tried for."""
        task = self._task
        return task is not None and not task.done() and not task.get_loop().is_closed()

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
        self._slot.take(self)
        self._is_closing = self._is_quick = False
        # An event belongs to the first loop that waits for it, which may have been another.
        self._wake = asyncio.Event()
        self._backoff.reset()
        self._n_in_use = self._n_short = 0
        self._lost_at = None
        self._task = asyncio.create_task(self._run(), name="fastws KIS connection")
        self._task.add_done_callback(lambda _: self._slot.leave(self))

    def want(self, registration: Registration, priority: int = 0) -> None:
        """Have it registered, now and in every session to come; see `Registrations.want`."""
        self.registrations.want(registration, priority)
        self._wake.set()

    def renew(self, registration: Registration) -> bool:
        """Have it registered once more, because data that there is does not come; see `Registrations.renew`."""
        is_renewed = self.registrations.renew(registration, self._clock())
        self._wake.set()
        return is_renewed

    def unwant(self, registration: Registration) -> bool:
        """Have it registered no longer; see `Registrations.unwant`."""
        is_known = self.registrations.unwant(registration)
        self._wake.set()
        return is_known

    async def close(self, *, is_quick: bool = False) -> None:
        """Take back what is registered, at KIS's pace, and end the session; what is wanted stays so.

        With `is_quick` nothing is taken back, which KIS does itself at the end of a session: it takes a second at most.
        """
        task = self._task
        if task is None:
            return
        self._is_closing, self._is_quick = True, is_quick
        if self.is_connected and self.is_running:
            if not is_quick:
                self.registrations.close()
            self._wake.set()
            limits = self.registrations.limits
            n_requests = 0 if is_quick else self.registrations.n_occupied + 2
            await asyncio.wait((task,), timeout=limits.pace * n_requests + 2 * FAREWELL)
        if task.get_loop() is asyncio.get_running_loop():  # another one has ended, and the task with it
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
            self._slot.closed_at = time.monotonic()
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
        early = self._slot.closed_at + self._timing.least_gap - time.monotonic()
        if early > 0:
            await asyncio.sleep(early)
        session = self._session = await KISSocket.open(
            self.auth.credentials.ws_url, self._timing.connect_timeout, self._on_message, self._wake
        )
        self.n_sessions += 1
        self.received_at = self._clock()
        self.registrations.on_connected(self.received_at)
        self._emit(Opened())
        await self._serve(session)
        await session.close()

    async def _serve(self, session: KISSocket) -> None:
        registrations, clock = self.registrations, self._clock
        closing_at: float | None = None
        while True:
            self._wake.clear()
            if session.failure is not None:
                raise session.failure
            now = clock()
            for change in registrations.take_changes(now):
                self._emit(Changed(change))
            if registrations.wake_at(now) <= now and now >= self._keep_key_until:
                await self._renew_key()
                if session.failure is not None:
                    continue
                now = clock()
            request = None if self._is_quick else registrations.next_request(now)
            if request is not None:
                session.send(encode_request(request, self._approval_key, self.auth.credentials.customer_type))
                continue
            wake_at = registrations.wake_at(now)
            if self._is_closing:
                if closing_at is None:
                    closing_at = now + registrations.limits.pace * (registrations.n_active + 1) + FAREWELL
                if self._is_quick or registrations.n_occupied == 0 or now >= closing_at:
                    return
                wake_at = min(wake_at, closing_at)
            silent_at = self._silent_at()
            if now >= silent_at:
                # When this program was held up, what has come meanwhile is still to be read, and what KIS would have
                # sent may have been held up with it: it gets as long as the program itself was late.
                await asyncio.sleep(min(max(_LEAST_GRACE, now - silent_at), _MOST_GRACE))
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

    async def _renew_key(self) -> None:
        """Take another approval key when this one has become old."""
        try:
            self._approval_key = await self.auth.approval_key()
        except KISConnectionError as error:
            # KIS takes a key for longer than it is used here, so the session goes on with what it has.
            self._keep_key_until = self._clock() + _KEY_PAUSE
            _log.warning("the approval key could not be renewed: %s", error)

    def _silent_at(self) -> float:
        """When the socket counts as dead if nothing comes."""
        return (self.received_at or 0.0) + self._timing.silence

    # What KIS sends. These run within the socket's callback.

    def _on_message(self, session: KISSocket, message: bytes) -> None:
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

    def _on_control(self, session: KISSocket, message: bytes, now: float) -> None:
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

    def _on_ack(self, session: KISSocket, ack: Ack, now: float) -> None:
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
            elif ack.code == APP_KEY_WARNING and logs.limiter.take(f"KIS {ack.code}") is not None:
                _log.warning("KIS warns of this app key: %s %s", ack.code, ack.text)
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
