"""Runs a server until a signal ends it, and lets it read its settings again when one asks for that."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable
from typing import Final

import structlog
import uvloop

from fastws import logs
from fastws.errors import FastwsError, SettingsError
from fastws.server import advice
from fastws.server.acceptor import capacity
from fastws.server.door import Door, door_place
from fastws.server.handed import take
from fastws.server.notify import Notifier
from fastws.server.predecessor import Predecessor, find_predecessor
from fastws.server.reload import Reloaded, reload
from fastws.server.server import Server
from fastws.server.welcome import print_welcome, ready_of
from fastws.server.workers import Failure, Outcome, Worker
from fastws.settings import SETTINGS, Settings

FAILED: Final = 1
"""Exit status: the stop did not end in time, or whoever everything was handed over to is gone."""
ENDED_BY_SIGNAL: Final = 128
"""Exit status, plus the number of the signal: a second signal did not let the stop end."""

USAGE: Final = 2
"""Exit status of a worker: a setting cannot be used."""

# Those that the table has no more are served on, so that nobody takes them for a loss.
_INSTRUMENT_FIELDS: Final = {
    "added": "instruments_added",
    "changed": "instruments_changed",
    "missing": "instruments_kept_though_not_in_table",
}

_log = structlog.get_logger("fastws")


def serve(settings: Settings, read_again: Callable[[], Settings], worker: Worker | None = None) -> int:
    """Run a server until SIGTERM or SIGINT; returns the exit status, 0 when the stop was complete.

    SIGHUP lets it go on with what `read_again` returns, which raises SettingsError where that is unusable. A second
    SIGTERM or SIGINT ends the process at once, and so does a stop that takes longer than it may. Logging is the
    caller's to configure.

    A `worker` is asked to stop and to reload by its parent; of signals it knows SIGTERM only, however often that comes.
    What keeps it from starting it tells its parent, and does not raise.

    Sockets that a service manager hands over are listened on instead of `host` and `port`, and so are those of a server
    that runs at `upgrade_socket`, from which this one takes over. When another process does so from this one, it hands
    over its clients and returns 0. SIGUSR2 starts that process.

    Raises:
        SettingsError: a setting turns out to be unusable, such as a port that is taken.
        FastwsError: what was handed over cannot be listened on, or the running server cannot be taken over.
    """
    # Until there is somebody who can take a signal.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    predecessor = None if worker is not None else find_predecessor(settings)
    run = _Run(settings, read_again, worker, predecessor)
    try:
        return uvloop.run(run.main())
    finally:
        run.end()


class _Run:
    """One run of a server.

    1. From the first signal that ends it on, the process ends within `shutdown_delay` and `shutdown_timeout`: a thread
       sees to it, whatever the loop, the feed or the database do.
    2. Reloads are done one after the other; of those that are asked for during one, one is done.
    """

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        worker: Worker | None,
        predecessor: Predecessor | None,
    ) -> None:
        self._settings = settings
        self._read_again = read_again
        self._worker = worker
        # Of several processes, the parent is the one that a service manager knows.
        self._notifier = Notifier() if worker is None else Notifier({})
        self._is_stopping = asyncio.Event()
        self._is_to_reload = asyncio.Event()
        self._predecessor = predecessor
        # Another process serves, too; and what there is to be handed over to it is in a hurry, or in vain.
        self._is_followed = asyncio.Event()
        self._is_hurried = asyncio.Event()
        self._has_terminal = has_terminal()
        self._watchdog: threading.Timer | None = None
        self._server: Server | None = None

    async def main(self) -> int:
        loop = asyncio.get_running_loop()
        if self._worker is not None:
            return await self._main_of_worker(self._worker)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        # Whoever asks too early for another process, or in vain, is not to end this one.
        loop.add_signal_handler(
            signal.SIGUSR2,
            _log.warning,
            "SIGUSR2 does nothing: without upgrade_socket no process takes over"
            if self._settings.upgrade_socket is None
            else "SIGUSR2 came too early: the start is not done, and nothing to take over",
        )
        predecessor = self._predecessor
        door: Door | None = None
        try:
            handed = take() if predecessor is None else predecessor.handed
            server = self._server = Server(self._settings, handed=handed, predecessor=predecessor)
            door = await self._make_door(server)
            has_started = await self._start(server)
            if has_started:
                _freeze()
            if has_started and predecessor is not None and not predecessor.tell_ready():
                # It has ceased to wait for us, and serves on at the same sockets.
                await server.stop()
                has_started = False
        except BaseException as error:
            await self._leave(door, str(error))
            raise
        if not has_started:
            _log.info("stopped before the start was done")
            await self._leave(door, "it was stopped")
            return 0
        if door is not None:
            door.open()
            loop.remove_signal_handler(signal.SIGUSR2)
            loop.add_signal_handler(signal.SIGUSR2, door.spawn)
        print_welcome(self._settings, ready_of(server))
        _log.info("room", connections=capacity(), **_database_of(server))
        for line in advice.warnings(self._settings):
            _log.warning(line)
        status = await self._go_on(server, door)
        if door is not None:
            await door.close()
        if predecessor is not None:
            await predecessor.close()
        return status

    async def _leave(self, door: Door | None, reason: str) -> None:
        """End where nothing was begun, and let who serves go on."""
        if door is not None:
            await door.close()
        if self._predecessor is not None:
            await self._predecessor.tell_failed(reason)

    async def _make_door(self, server: Server) -> Door | None:
        """Make the place where the process comes in that is to take over from this one, if there may be one."""
        if self._settings.upgrade_socket is None:
            return None
        predecessor = self._predecessor
        place = None if predecessor is None else predecessor.door
        door = Door(
            server,
            place or door_place(self._settings),
            on_ready=self._is_followed.set,
            on_lost=self._is_hurried.set,
        )
        if predecessor is not None and not predecessor.is_gone:
            door.refusal = "it is still taking over from the process before"
            predecessor.on_gone.append(door.unlock)
        await door.bind()
        return door

    async def _main_of_worker(self, worker: Worker) -> int:
        worker.on_stop = self._is_stopping.set
        worker.on_reload = self._is_to_reload.set
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._is_stopping.set)
        await worker.open()
        try:
            try:
                server = Server(self._settings, worker)
                has_started = await self._start(server)
            except (FastwsError, OSError) as error:
                blamed = isinstance(error, SettingsError)
                worker.tell_failed(
                    Failure(
                        str(error),
                        error.setting if isinstance(error, SettingsError) else None,
                        error.source if isinstance(error, SettingsError) else "",
                    )
                )
                return USAGE if blamed else FAILED
            if has_started:
                _freeze()
                worker.tell_ready(ready_of(server))
                await self._go_on(server)
            return 0
        finally:
            await worker.close()

    async def _go_on(self, server: Server, door: Door | None = None) -> int:
        """Serve until a signal ends it, or another process has taken over, and stop; returns the exit status."""
        predecessor = self._predecessor
        if predecessor is None or predecessor.is_gone:
            self._notifier.ready(_status(server))
        else:
            # Until then a service manager does not know of this one.
            predecessor.on_gone.append(lambda: self._notifier.ready(_status(server)))
            predecessor.on_stop = self._stop
        is_handed_over = False
        while True:
            reloading = asyncio.ensure_future(self._reload_when_asked(server))
            await self._until_stopped_or_followed()
            reloading.cancel()
            if door is None or not self._is_followed.is_set():
                break
            is_handed_over = await self._hand_over(server, door)
            if is_handed_over or self._is_stopping.is_set():
                break
            await self._take_back(server, door)
        if door is not None:
            door.dismiss()
        self._notifier.stopping()
        _log.info("stopping", connections=server.n_connections)
        self._watch()
        n_cut = await server.stop()
        logs.limiter.flush(_log)
        _log.info("stopped", cut=n_cut)
        # What was left to nobody is told by the status, too.
        if door is None or not is_handed_over:
            return 0
        if door.is_ending_successor:
            # What the manager finds in the service after this process it kills.
            await door.until_successor_is_gone(server.settings.shutdown_timeout)
            return 0
        return 0 if door.successor else FAILED

    async def _until_stopped_or_followed(self) -> None:
        waiting = [asyncio.ensure_future(each.wait()) for each in (self._is_stopping, self._is_followed)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()

    async def _hand_over(self, server: Server, door: Door) -> bool:
        """Return whether there is still somebody after it whom everything was handed over to."""
        _log.info("another process takes over", pid=door.successor, connections=server.n_connections)
        try:
            n_late = await server.hand_over(self._is_hurried)
        except Exception:
            # Whatever it died of: the other one serves, and what is still here is to go there.
            _log.exception("handing over has failed, and what is left is stopped")
        else:
            if door.successor:
                _log.info("handed over", late=n_late, sessions_left=len(server.sessions))
        if not door.successor:
            return False
        if self._is_stopping.is_set() and self._notifier.is_wanted:
            # The service is to end, and its manager knows of this process alone.
            _log.info("the process that has taken over is to end, too", pid=door.successor)
            door.end_successor()
            return True
        server.let_go()
        # Not before: a service ends with the process that its manager takes for the main one.
        self._notifier.hand_to(door.successor)
        return True

    async def _take_back(self, server: Server, door: Door) -> None:
        _log.error("this server serves on", connections=server.n_connections)
        self._is_followed.clear()
        self._is_hurried.clear()
        if self._is_stopping.is_set():
            self._is_hurried.set()
        await server.take_back()
        try:
            await _load(server)
        except FastwsError as error:
            _log.error("what was loaded does not run any more", error=str(error))
        except Exception:
            _log.exception("what was loaded does not run any more")
        door.open()

    def end(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    async def _start(self, server: Server) -> bool:
        """Start `server` unless a signal comes first; returns whether it has started."""
        starting = asyncio.ensure_future(_start(server))
        stopping = asyncio.ensure_future(self._is_stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            self._watch()
            starting.cancel()
            await asyncio.wait((starting,))
        if starting.cancelled():
            return False
        starting.result()
        return True

    # Signals.

    def _on_stop(self, number: signal.Signals) -> None:
        if self._is_stopping.is_set():
            _log.warning("ended at once by a second signal", signal=number.name)
            # What is committed to a database stays committed.
            os._exit(ENDED_BY_SIGNAL + number)
        self._stop()

    def _on_hangup(self) -> None:
        if self._has_terminal and not has_terminal():
            # Nobody asks for a reload: the terminal was closed, and with it goes what ran in it.
            self._stop()
        else:
            self._is_to_reload.set()

    def _stop(self) -> None:
        self._is_stopping.set()
        self._is_hurried.set()
        # From now on, also where another process is just taking over.
        self._watch()

    def _watch(self) -> None:
        if self._watchdog is not None:
            return
        settings = self._settings if self._server is None else self._server.settings
        self._watchdog = threading.Timer(settings.shutdown_delay + settings.shutdown_timeout, _give_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    async def _reload_when_asked(self, server: Server) -> None:
        while True:
            await self._is_to_reload.wait()
            self._is_to_reload.clear()
            self._notifier.reloading()
            try:
                done = await reload(server, await asyncio.to_thread(self._read_again))
            except asyncio.CancelledError:
                # Another process takes over. Where that is gone again, this one begins the reload anew.
                self._is_to_reload.set()
                raise
            except SettingsError as error:
                _log.error("the settings cannot be reloaded, and all stay as they were", error=str(error))
                self._tell_reloaded(f"the last reload failed: {logs.redact_text(str(error))}", str(error))
            except Exception as error:
                _log.exception("the reload failed")
                self._tell_reloaded("the last reload failed", type(error).__name__)
            else:
                _log_reloaded(done)
                self._tell_reloaded(_status(server), None)

    def _tell_reloaded(self, status: str, error: str | None) -> None:
        self._notifier.ready(status)
        if self._worker is not None:
            self._worker.tell_reloaded(Outcome(status, error))


def _freeze() -> None:
    """What is here now stays: the collector need not look at it again, which would cost every client a pause."""
    gc.collect()
    gc.freeze()


async def _start(server: Server) -> None:
    await server.start()
    try:
        await _load(server)
    except BaseException:
        await server.stop()
        raise


async def _load(server: Server) -> None:
    # Of several workers, the one that has the feed.
    if server.settings.load is not None and (server.worker is None or server.worker.is_owner):
        from fastws.server.embedding import load  # noqa: PLC0415 - for those who load something

        await load(server)


def _give_up() -> None:
    _log.error("the stop took longer than shutdown_timeout, and is given up")
    os._exit(FAILED)


def has_terminal() -> bool:
    """Whether this process has one."""
    # It is none any more once it was closed. Descriptor 2 may be closed.
    return os.isatty(2)


def _status(server: Server) -> str:
    return f"{len(server.market.instruments)} instruments, feed {server.settings.feed}"


def _log_reloaded(done: Reloaded) -> None:
    # Under the name of a secret the log would have only that something was removed from it.
    fields: dict[str, object] = {
        name: change for name, change in done.changed.items() if not SETTINGS[name].is_secret
    }
    if secrets := [name for name in done.changed if SETTINGS[name].is_secret]:
        fields["changed"] = secrets
    if done.has_new_keys:
        fields["keys"] = "changed"
    if done.certificate is not None:
        fields["certificate"] = f"valid until {done.certificate:%Y-%m-%d %H:%M} UTC"
    for name, codes in done.instruments._asdict().items():
        if codes:
            fields[_INSTRUMENT_FIELDS[name]] = len(codes)
    _log.info("reloaded" if fields else "reloaded, and nothing has changed", **fields)
    if done.kept:
        _log.warning("only a restart changes these settings, and they stay as they were", settings=done.kept)


def _database_of(server: Server) -> dict[str, str]:
    store = server.store
    return {} if store.is_in_memory else {"database": store.path or store.shown_url}
