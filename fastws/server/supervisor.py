"""Runs several processes that serve one port: starts them, starts anew those that die, and lets all stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from fastws import logs
from fastws.errors import FastwsError, SettingsError
from fastws.relay.delays import Delays
from fastws.relay.exchange import Exchange
from fastws.relay.exchange_frames import FAILED, PRESENT, READY, RELOAD, RELOADED, STOP, Frame
from fastws.server import advice, lifecycle
from fastws.server.acceptor import capacity
from fastws.server.common_counts import CommonCounts
from fastws.server.handed import is_any
from fastws.server.notify import Notifier
from fastws.server.places import TcpPlace, admin_place
from fastws.server.reload import carry_over
from fastws.server.workers import Crew, Failure, Outcome, Ready, Worker, encode, settings_of
from fastws.settings import Settings

STUCK_SECONDS: Final = 20.0

_BEAT_SECONDS: Final = 1.0
# A worker that has lived so long has not died of how it starts.
_LIVED_SECONDS: Final = 10.0
# Behind the time that workers take for a stop at most; each of them keeps to it by itself.
_RESERVE_SECONDS: Final = 2.0
_RELOAD_SECONDS: Final = 60.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_ready: Final = msgspec.msgpack.Decoder(Ready)
_failure: Final = msgspec.msgpack.Decoder(Failure)
_outcome: Final = msgspec.msgpack.Decoder(Outcome)

_log = structlog.get_logger("fastws")


def serve(settings: Settings, read_again: Callable[[], Settings]) -> int:
    """Run `settings.workers` processes until SIGTERM or SIGINT, as `fastws.server.lifecycle.serve` runs one.

    Returns the exit status: 0 when all have stopped completely, else the first that was not 0.

    Raises:
        SettingsError: a setting turns out to be unusable.
    """
    if is_any():
        raise settings.error(
            "workers",
            f"{settings.workers} workers share a port that they bind themselves, and not a socket that is handed over",
            "start without the socket unit, or set workers to 1",
        )
    return Supervisor(settings, read_again).run()


class _Slot:
    """A worker's place. `pid` is None while nobody has it, and `restart_at` says when somebody gets it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.delays = Delays()
        self.started_at = 0.0
        self.restart_at: float | None = None
        self.n_restarts = 0
        self.ready: Ready | None = None
        self.failure: Failure | None = None


class Supervisor:
    """The parent of the workers.

    1. It runs no event loop and no thread, so that a fork of it is a whole process.
    2. Until all workers have served, the end of one is the end of all, as of a server that cannot start. From then on,
       one that ends is started anew: at once the first time, later after up to two seconds, as `Delays` has it.
    3. SIGTERM and SIGINT let all stop, and a second one ends them at once. SIGHUP lets all take over other settings.
       Workers take no signal but SIGTERM, which a service manager may send to all of them, too.
    4. A worker that finds its end of the exchange closed stops: none outlives the parent, whatever ended that.
    5. It holds the port as long as it lives, and never accepts.
    6. A worker whose loop has not run for `STUCK_SECONDS` is killed and started anew: it would keep its share of the
       clients waiting for ever.
    """

    def __init__(self, settings: Settings, read_again: Callable[[], Settings]) -> None:
        self._settings = settings
        self._read_again = read_again
        self._selector = selectors.DefaultSelector()
        self._counts = CommonCounts(settings.workers)
        self._exchange = Exchange(self._selector, on_frame=self._on_frame, on_lost=self._on_lost)
        self._slots = [_Slot(number) for number in range(1, settings.workers + 1)]
        self._notifier = Notifier()
        self._has_terminal = lifecycle.has_terminal()
        self._signals: list[int] = []
        self._wakeups: tuple[socket.socket, ...] = ()
        self._reserved: list[socket.socket] = []
        self._port = settings.port
        self._admin_bind: str | None = None
        self._directory: str | None = None
        self._has_served = False
        self._failure: Failure | None = None
        self._status = 0
        self._stop_by: float | None = None
        self._beat_at = 0.0
        # Of a reload: what is taken over once all workers have, who has not yet, and what was wrong.
        self._next: Settings | None = None
        self._reloading: set[int] = set()
        self._outcomes: list[Outcome] = []
        self._reload_by = 0.0

    def run(self) -> int:
        self._reserve()
        try:
            self._catch_signals()
            if self._settings.database is None:
                # All of them need the same, and none outlives this process.
                self._directory = tempfile.mkdtemp(prefix="fastws-")
            # What is here stays, and is shared with the workers as long as nobody writes to it.
            gc.collect()
            gc.freeze()
            for slot in self._slots:
                self._start(slot)
            while any(slot.pid is not None or slot.restart_at is not None for slot in self._slots):
                self._turn()
        finally:
            self._end()
        if self._failure is not None:
            _raise(self._failure)
        if not self._has_served and not self._status:
            _log.info("stopped before the start was done")
        else:
            _log.info("stopped", workers=len(self._slots), status=self._status)
        return self._status

    def _end(self) -> None:
        # Somebody may be left where this ends by a fault of its own.
        for slot in self._slots:
            if slot.pid is not None:
                _kill(slot.pid, signal.SIGKILL)
        self._exchange.close()
        self._close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _close(self) -> None:
        self._selector.close()
        for sock in (*self._reserved, *self._wakeups):
            sock.close()

    def _reserve(self) -> None:
        """Take the port, so that its number is known and nobody else gets it while workers come and go."""
        place = TcpPlace(self._settings.host, self._settings.port, is_shared=True)
        self._reserved = asyncio.run(place.reserve())
        self._port = self._reserved[0].getsockname()[1]
        if (admin := admin_place(self._settings)) is not None:
            try:
                reserved = asyncio.run(admin.reserve())
            except BaseException:
                self._close()
                raise
            self._reserved += reserved
            host, _, _ = str(self._settings.admin_bind).rpartition(":")
            self._admin_bind = f"{host}:{reserved[0].getsockname()[1]}"

    def _turn(self) -> None:
        for key, events in self._selector.select(self._time_to_next()):
            key.data(events)
        signals, self._signals = self._signals, []
        for number in signals:
            self._on_signal(number)
        self._reap()
        now = time.monotonic()
        if now >= self._beat_at:
            self._tell_crew()
            self._look_for_stuck()
        for slot in self._slots:
            if slot.restart_at is not None and now >= slot.restart_at:
                slot.n_restarts += 1
                self._start(slot)
        if self._reloading and now >= self._reload_by:
            self._end_reload("not all workers have done it in time")
        if self._stop_by is not None and now >= self._stop_by:
            _log.error("workers took longer than shutdown_timeout, and are ended")
            self._kill_all(lifecycle.FAILED)

    def _time_to_next(self) -> float:
        times = [self._beat_at, *(slot.restart_at for slot in self._slots if slot.restart_at is not None)]
        if self._stop_by is not None:
            times.append(self._stop_by)
        return max(0.0, min(times) - time.monotonic())

    # Workers.

    def _start(self, slot: _Slot) -> None:
        slot.restart_at = slot.ready = slot.failure = None
        slot.started_at = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        sock = self._exchange.connect(slot.number)
        # Until the fork has handlers of its own, what comes for it must not be taken for ours.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            status = lifecycle.FAILED
            try:
                status = self._work(slot.number, sock, blocked)
            except BaseException:
                # Whatever it is, a fork never goes on with what its parent does.
                _log.exception("a worker has failed")
            finally:
                with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        sock.close()
        slot.pid = pid

    def _work(self, number: int, sock: socket.socket, mask: set[signal.Signals] | set[int]) -> int:
        """Be a worker. In the fork."""
        signal.set_wakeup_fd(-1)
        for each in _SIGNALS:
            is_ours = each in (signal.SIGTERM, signal.SIGCHLD)
            signal.signal(each, signal.SIG_DFL if is_ours else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._exchange.abandon()
        self._close()
        logs.label(worker=number)
        _name_process(f"fastws:{number}")
        adapt = partial(
            settings_of,
            number=number,
            port=self._port,
            admin_bind=self._admin_bind,
            database=self._private_database(),
        )
        worker = Worker(
            sock,
            number,
            len(self._slots),
            elsewhere=self._counts.of_worker(number),
            directory=self._directory,
        )
        return lifecycle.serve(adapt(self._settings), lambda: adapt(self._read_again()), worker)

    def _private_database(self) -> str | None:
        return None if self._directory is None else f"sqlite:///{self._directory}/private.db"

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.pid is None:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                self._on_ended(slot, os.waitstatus_to_exitcode(status))

    def _on_ended(self, slot: _Slot, code: int) -> None:
        pid, slot.pid = slot.pid, None
        # What it has said last may tell why.
        self._exchange.finish(slot.number)
        self._counts.clear(slot.number)
        lived = time.monotonic() - slot.started_at
        status = code if code >= 0 else lifecycle.ENDED_BY_SIGNAL - code
        how = {"status": code} if code >= 0 else {"signal": _name_of(-code)}
        has_served, slot.ready = slot.ready is not None, None
        self._note_reloaded(slot.number, None)
        self._tell_crew()
        if self._stop_by is not None:
            self._status = self._status or status
            return
        if not self._has_served:
            # A server that cannot start says so and ends.
            self._failure = self._failure or slot.failure
            self._status = self._status or status or lifecycle.FAILED
            if slot.failure is None:
                _log.error("a worker has ended before it could serve", worker=slot.number, pid=pid, **how)
            self._stop()
            return
        if lived >= _LIVED_SECONDS:
            slot.delays.reset()
        delay = slot.delays.next_delay()
        slot.restart_at = time.monotonic() + delay
        tell = _log.info if code == 0 and has_served else _log.error
        why = {} if slot.failure is None else {"error": slot.failure.text}
        tell(
            "a worker has ended and is started anew",
            worker=slot.number,
            pid=pid,
            **how,
            **why,
            lived_s=round(lived, 1),
            in_s=round(delay, 2),
        )

    def _tell_crew(self) -> None:
        self._beat_at = time.monotonic() + _BEAT_SECONDS
        crew = Crew(
            tuple(slot.number for slot in self._slots if slot.ready is not None),
            {slot.number: slot.ready.origin for slot in self._slots if slot.ready is not None},
            tuple(slot.n_restarts for slot in self._slots),
            self._exchange.n_dropped,
        )
        self._exchange.tell_all(PRESENT, encode(crew))

    def _look_for_stuck(self) -> None:
        for slot in self._slots:
            silence = self._exchange.silence(slot.number)
            if slot.ready is not None and slot.pid is not None and silence > STUCK_SECONDS:
                _log.error("a worker is stuck and is killed", worker=slot.number, silent_s=round(silence, 1))
                _kill(slot.pid, signal.SIGKILL)

    def _on_frame(self, number: int, frame: Frame) -> None:
        slot = self._slots[number - 1]
        if frame.kind == READY:
            slot.ready = _ready.decode(frame.data)
            self._tell_crew()
            if not self._has_served and all(each.ready is not None for each in self._slots):
                self._has_served = True
                self._on_started()
            elif self._has_served:
                _log.info("a worker serves again", worker=number, pid=slot.pid)
        elif frame.kind == FAILED:
            slot.failure = _failure.decode(frame.data)
        elif frame.kind == RELOADED:
            self._note_reloaded(number, _outcome.decode(frame.data))

    def _on_lost(self, number: int) -> None:
        """Let a worker end that does not listen any more; one that has ended is reaped."""
        if (pid := self._slots[number - 1].pid) is not None:
            _kill(pid, signal.SIGTERM)

    def _on_started(self) -> None:
        n = len(self._slots)
        if (owner := self._slots[0].ready) is not None:
            lifecycle.print_welcome(self._settings, owner, n_workers=n)
        _log.info("room", connections=n * capacity(), workers=n)
        for line in advice.warnings(self._settings):
            _log.warning(line)
        self._notifier.ready(self._service_status())

    def _service_status(self) -> str:
        owner = self._slots[0].ready
        known = "" if owner is None else f"{owner.n_instruments} instruments, "
        return f"{len(self._slots)} workers, {known}feed {self._settings.feed}"

    # Signals.

    def _catch_signals(self) -> None:
        read, write = self._wakeups = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        self._selector.register(read, selectors.EVENT_READ, lambda events: self._take_signals(read))
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)

    def _take_signals(self, read: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            self._signals += read.recv(4096)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self._has_terminal and not lifecycle.has_terminal():
                # Nobody asks for a reload: the terminal was closed, and with it goes what ran in it.
                self._stop()
            else:
                self._reload()
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stop_by is None:
                self._stop()
            else:
                _log.warning("ended at once by a second signal", signal=_name_of(number))
                self._kill_all(lifecycle.ENDED_BY_SIGNAL + number)

    def _stop(self) -> None:
        if self._stop_by is not None:
            return
        settings = self._settings
        self._stop_by = (
            time.monotonic() + settings.shutdown_delay + settings.shutdown_timeout + _RESERVE_SECONDS
        )
        self._notifier.stopping()
        _log.info("stopping", workers=sum(slot.pid is not None for slot in self._slots))
        for slot in self._slots:
            slot.restart_at = None
        self._exchange.tell_all(STOP)

    def _kill_all(self, status: int) -> None:
        self._status = status
        self._stop_by = time.monotonic() + _RESERVE_SECONDS
        for slot in self._slots:
            slot.restart_at = None
            if slot.pid is not None:
                _kill(slot.pid, signal.SIGKILL)

    # Reloads.

    def _reload(self) -> None:
        if self._stop_by is not None:
            return
        self._notifier.reloading()
        try:
            settings, _ = carry_over(self._settings, self._read_again())
        except SettingsError as error:
            _log.error("the settings cannot be reloaded, and all stay as they were", error=str(error))
            self._notifier.ready(f"the last reload failed: {logs.redact_text(str(error))}")
            return
        self._next = settings
        self._outcomes = []
        self._reloading = {slot.number for slot in self._slots if slot.ready is not None}
        self._reload_by = time.monotonic() + _RELOAD_SECONDS
        self._exchange.tell_all(RELOAD)
        self._look_at_reload()

    def _note_reloaded(self, number: int, outcome: Outcome | None) -> None:
        """Hear that a worker has reloaded, or that it has ended (None)."""
        if number in self._reloading:
            self._reloading.remove(number)
            if outcome is not None:
                self._outcomes.append(outcome)
            self._look_at_reload()

    def _look_at_reload(self) -> None:
        if not self._reloading:
            errors = [outcome.error for outcome in self._outcomes if outcome.error is not None]
            self._end_reload(errors[0] if errors else None)

    def _end_reload(self, error: str | None) -> None:
        self._reloading.clear()
        settings, self._next = self._next, None
        if settings is None:
            return
        if error is not None:
            # Whoever is started anew begins with what the others have.
            self._notifier.ready(f"the last reload failed: {logs.redact_text(error)}")
            return
        if (settings.log_level, settings.log_format) != (self._settings.log_level, self._settings.log_format):
            logs.configure(settings.log_level, settings.log_format)
        self._settings = settings
        self._notifier.ready(self._service_status())


def _raise(failure: Failure) -> None:
    if failure.setting is not None:
        raise SettingsError(failure.text, setting=failure.setting, source=failure.source)
    raise FastwsError(failure.text)


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, and is about to be reaped
        os.kill(pid, number)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real-time programs
        return str(number)


def _name_process(name: str) -> None:
    """Let ps -o comm and top tell the workers apart."""
    with contextlib.suppress(OSError):  # where /proc is not there, they look alike
        Path("/proc/self/comm").write_text(name)
