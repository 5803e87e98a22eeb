"""Runs several processes that serve one port: starts them, starts anew those that die, and lets all stop in order."""

from __future__ import annotations

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
from typing import Final, NoReturn

import msgspec
import structlog

from fastws import logs
from fastws.errors import FastwsError
from fastws.logs import log_limited
from fastws.relay.exchange import Exchange
from fastws.relay.exchange_frames import FAILED, PRESENT, READY, RELOAD, RELOADED, STOP, Frame
from fastws.server import advice, lifecycle
from fastws.server.acceptor import capacity
from fastws.server.common_counts import CommonCounts
from fastws.server.handed import is_any
from fastws.server.notify import Notifier
from fastws.server.parent_signals import ParentSignals, name_of
from fastws.server.process_name import name_process
from fastws.server.shared_ports import SharedPorts
from fastws.server.slot import Slot
from fastws.server.welcome import print_welcome
from fastws.server.worker_reloads import WorkerReloads
from fastws.server.workers import Crew, Failure, Outcome, Ready, Worker, encode, settings_of
from fastws.settings import Settings

STUCK_SECONDS: Final = 20.0
"""A worker whose loop has not run for so long is killed."""

START_SECONDS: Final = 120.0
"""A worker that does not serve so long after its start is killed."""

_BEAT_SECONDS: Final = 1.0
# A beat that is so late is of a process that stood still, with its workers, as where a container is paused.
_STANDSTILL_SECONDS: Final = 2.0
# Behind the time that workers take for a stop at most; each of them keeps to it by itself.
_RESERVE_SECONDS: Final = 2.0

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
       clients waiting for ever. So is one that does not serve `START_SECONDS` after its start.
    7. Where the machine has no process or descriptor left for a worker that is to be started anew, that is tried again,
       and the others go on.
    """

    def __init__(self, settings: Settings, read_again: Callable[[], Settings]) -> None:
        self._read_again = read_again
        self._selector = selectors.DefaultSelector()
        self._counts = CommonCounts(settings.workers)
        self._exchange = Exchange(self._selector, on_frame=self._on_frame, on_lost=self._on_lost)
        self._slots = [Slot(number) for number in range(1, settings.workers + 1)]
        self._notifier = Notifier()
        self._reloads = WorkerReloads(
            settings,
            read_again,
            lambda number: self._exchange.tell(number, RELOAD),
            self._notifier,
            self._service_status,
        )
        self._has_terminal = lifecycle.has_terminal()
        self._signals = ParentSignals(self._selector)
        self._ports = SharedPorts(settings)
        self._directory: str | None = None
        self._has_served = False
        self._failure: Failure | None = None
        self._status = 0
        self._stop_by: float | None = None
        self._beat_at = 0.0

    @property
    def _settings(self) -> Settings:
        return self._reloads.settings

    def run(self) -> int:
        try:
            self._ports.take()
            self._signals.catch()
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
            raise self._failure.error()
        if not self._has_served and not self._status:
            _log.info("stopped before the start was done")
        else:
            _log.info("stopped", workers=len(self._slots), status=self._status)
        return self._status

    def _end(self) -> None:
        # Somebody may be left where this ends by a fault of its own.
        for slot in self._slots:
            slot.kill(signal.SIGKILL)
        self._exchange.close()
        self._close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _close(self) -> None:
        self._selector.close()
        self._signals.close()
        self._ports.close()

    def _turn(self) -> None:
        for key, events in self._selector.select(self._time_to_next()):
            key.data(events)
        for number in self._signals.take():
            self._on_signal(number)
        self._reap()
        now = time.monotonic()
        if now >= self._beat_at:
            if now - self._beat_at > _STANDSTILL_SECONDS:
                self._exchange.excuse()
            self._tell_crew()
            self._look_for_stuck()
        for slot in self._slots:
            if slot.restart_at is not None and now >= slot.restart_at:
                self._start(slot)
                slot.n_restarts += slot.pid is not None
        self._reloads.look_at_clock()
        if self._reloads.take_wish():
            self._reload()
        if self._stop_by is not None and now >= self._stop_by:
            _log.error("workers took longer than shutdown_timeout, and are ended")
            self._kill_all(lifecycle.FAILED)

    def _time_to_next(self) -> float:
        times = [self._beat_at, *(slot.restart_at for slot in self._slots if slot.restart_at is not None)]
        times += [at for at in (self._stop_by, self._reloads.ends_by) if at is not None]
        return max(0.0, min(times) - time.monotonic())

    # Workers.

    def _start(self, slot: Slot) -> None:
        try:
            self._fork(slot)
        except OSError as error:
            if not self._has_served:
                raise FastwsError(f"a worker cannot be started: {error.strerror}") from None
            delay = slot.restart_later()
            log_limited(
                _log,
                f"no worker {slot.number}",
                "a worker cannot be started and is tried again",
                level="error",
                worker=slot.number,
                error=error.strerror,
                in_s=round(delay, 2),
            )
            return
        self._reloads.note_started(slot.number)

    def _fork(self, slot: Slot) -> None:
        """Start a worker. Raises OSError where the machine lacks what it takes; nothing is left of it then."""
        slot.begin()
        sys.stdout.flush()
        sys.stderr.flush()
        sock = self._exchange.connect(slot.number)
        with self._signals.held_back() as mask:
            try:
                pid = os.fork()
            except OSError:
                sock.close()
                self._exchange.disconnect(slot.number)
                raise
            if pid == 0:
                self._be_worker(slot.number, sock, mask)
        sock.close()
        slot.pid = pid

    def _be_worker(self, number: int, sock: socket.socket, mask: set[signal.Signals] | set[int]) -> NoReturn:
        status = lifecycle.FAILED
        try:
            status = self._work(number, sock, mask)
        except BaseException:
            # Whatever it is, a fork never goes on with what its parent does.
            _log.exception("a worker has failed")
        finally:
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _work(self, number: int, sock: socket.socket, mask: set[signal.Signals] | set[int]) -> int:
        """Be a worker. In the fork."""
        self._signals.leave(mask)
        self._exchange.abandon()
        self._close()
        logs.label(worker=number, pid=os.getpid())
        name_process(f"fastws:{number}")
        adapt = partial(
            settings_of,
            number=number,
            port=self._ports.port,
            admin_bind=self._ports.admin_bind,
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

    def _on_ended(self, slot: Slot, code: int) -> None:
        pid, slot.pid = slot.pid, None
        # What it has said last may tell why.
        self._exchange.finish(slot.number)
        self._counts.clear(slot.number)
        lived = slot.age
        status = code if code >= 0 else lifecycle.ENDED_BY_SIGNAL - code
        how = {"status": code} if code >= 0 else {"signal": name_of(-code)}
        has_served, slot.ready = slot.ready is not None, None
        self._reloads.note_ended(slot.number)
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
        delay = slot.restart_later()
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
            if slot.pid is None or slot.is_killed:
                continue
            silence = self._exchange.silence(slot.number)
            if slot.ready is None:
                if slot.age <= START_SECONDS or self._stop_by is not None:
                    continue
                _log.error(
                    "a worker does not serve so long after its start and is killed", worker=slot.number
                )
            elif silence > STUCK_SECONDS:
                _log.error("a worker is stuck and is killed", worker=slot.number, silent_s=round(silence, 1))
            else:
                continue
            slot.is_killed = True
            slot.kill(signal.SIGKILL)

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
            self._reloads.note_done(number, _outcome.decode(frame.data))

    def _on_lost(self, number: int) -> None:
        """Let a worker end that does not listen any more; one that has ended is reaped."""
        self._slots[number - 1].kill(signal.SIGTERM)

    def _on_started(self) -> None:
        n = len(self._slots)
        if (owner := self._slots[0].ready) is not None:
            print_welcome(self._settings, owner, n_workers=n)
        _log.info("room", connections=n * capacity(), workers=n)
        for line in advice.warnings(self._settings):
            _log.warning(line)
        self._notifier.ready(self._service_status())

    def _service_status(self) -> str:
        owner = self._slots[0].ready
        known = "" if owner is None else f"{owner.n_instruments} instruments, "
        return f"{len(self._slots)} workers, {known}feed {self._settings.feed}"

    # Signals.

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
                _log.warning("ended at once by a second signal", signal=name_of(number))
                self._kill_all(lifecycle.ENDED_BY_SIGNAL + number)
        elif number == signal.SIGUSR2:
            _log.warning("SIGUSR2 does nothing: no process takes over from workers")

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
            slot.kill(signal.SIGKILL)

    def _reload(self) -> None:
        if self._stop_by is None:
            self._reloads.begin(slot.number for slot in self._slots if slot.pid is not None)
