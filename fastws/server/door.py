"""Where a process comes in that is to take over from this one: the Unix socket that `upgrade_socket` names."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from fastws._version import __version__
from fastws.errors import SettingsError
from fastws.logs import log_limited
from fastws.relay.exchange_frames import FAILED, READY, STOP, Frame
from fastws.relay.pair_links import PairEnd, attach, detach
from fastws.server.places import UnixPlace
from fastws.server.spawning import Child, spawn
from fastws.server.upgrade_socket import (
    ADMIN,
    MAIN,
    UNIX,
    UPGRADE,
    Hello,
    UpgradeError,
    pid_of_peer,
    say_hello,
)
from fastws.settings import Settings

if TYPE_CHECKING:
    from fastws.server.server import Server

START_SECONDS: Final = 120.0
"""A new process that does not serve so long after it was started here, or has come, is told to end."""

WORD_SECONDS: Final = 5.0
"""Who comes and says nothing for so long does not come to take over. Who does says a word at once."""

_LOOK_SECONDS: Final = 0.02
# As long nobody is let in after there was no descriptor for somebody.
_SCARCE_SECONDS: Final = 1.0
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = structlog.get_logger("fastws.upgrade")


class Door:
    """Where the process that is to take over comes in. Belongs to the thread of the event loop.

    1. One at a time. Until it says that it serves, nothing changes here, and whatever it dies of is logged.
    2. `successor` is its number from when it serves until it is gone, and 0 otherwise. `on_ready` and `on_lost` are
       called when it changes.
    3. Nobody else is let in while there is one. The socket is kept even so, for :meth:`open`, should it be gone again.
    """

    def __init__(
        self,
        server: Server,
        place: UnixPlace,
        *,
        on_ready: Callable[[], object],
        on_lost: Callable[[], object],
    ) -> None:
        self.successor = 0
        self.is_ending_successor = False
        # Why nobody may come now, if so.
        self.refusal = ""
        self._server = server
        self._place = place
        self._tell_ready = on_ready
        self._tell_lost = on_lost
        self._sockets: list[socket.socket] = []
        self._end: PairEnd | None = None
        self._pid = 0
        self._child: Child | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def bind(self) -> None:
        """Raises SettingsError where the path cannot be listened on."""
        self._sockets = await self._place.bind()

    def unlock(self) -> None:
        """From now on somebody may come."""
        self.refusal = ""

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock.fileno(), self._accept, sock)

    def dismiss(self) -> None:
        """Let nobody come any more, and send away who does not serve yet."""
        self._hold()
        for timer in self._timers.values():
            timer.cancel()
        if self._child is not None:
            self._child.forget()
        if not self.successor:
            if self._end is not None:
                self._end.tell(STOP)
            if self._child is not None:
                self._child.signal(signal.SIGTERM)

    async def close(self) -> None:
        """Say good-bye to who is there. What was started here and does not serve has ended after it."""
        self.dismiss()
        for task in self._tasks:
            task.cancel()
        if self.successor:
            self._place.pass_on()
        self._place.release()
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        if self._end is not None:
            await self._end.drain(1.0)
            self._end.close()
        if self._child is not None and not self.successor:
            await self._child.end()

    def end_successor(self) -> None:
        """Let the process that has taken over end, too."""
        self.is_ending_successor = True
        if self._end is not None:
            self._end.tell(STOP)

    async def until_successor_is_gone(self, seconds: float) -> None:
        """Wait for it, for `seconds` at most."""
        until = time.monotonic() + seconds
        while self.successor and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)

    def spawn(self) -> None:
        """Start the program that this process was started as, with the same arguments, to take over."""
        if self._child is not None or self._end is not None:
            _log.warning("another process is taking over already")
            return
        self._child = spawn(self._on_child_end)
        if self._child is not None:
            self._time("start", START_SECONDS, self._refuse, "does not serve", self._child.pid)

    def _on_child_end(self, status: int) -> None:
        self._child = None
        if not self.successor:
            _log.error("the process that was to take over has ended, and this one goes on", status=status)
        if self._end is None:
            self._timers["start"].cancel()

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError as error:
            if error.errno in _SCARCE:
                self._pause(error)
            return  # or it has gone again
        refusal = self.refusal or ("" if self._end is None else "another process is taking over already")
        try:
            pid = pid_of_peer(sock)
            if refusal:
                say_hello(sock, self._hello([], refusal))
                sock.close()
                return
            handed = self._handed()
            hello = self._hello([name for name, _ in handed])
            sock.setblocking(False)
            say_hello(sock, hello, [each for _, each in handed])
        except (OSError, UpgradeError) as error:
            _log.warning("a process could not come to take over", error=str(error))
            sock.close()
            return
        _log.info("a process has come to take over", pid=pid)
        self._pid = pid
        self._end = PairEnd(sock, on_frame=self._on_frame, on_lost=self._on_lost)
        if self._child is None or pid != self._child.pid:
            self._time("start", START_SECONDS, self._refuse, "does not serve", pid)
        self._time("word", WORD_SECONDS, self._look_for_word, self._end)
        task = asyncio.get_running_loop().create_task(self._meet(self._end, hello))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pause(self, error: OSError) -> None:
        """Who has come stays in the backlog, and would be tried again and again."""
        log_limited(
            _log,
            "upgrade-scarce",
            "a process could not come to take over, and is let in when there are descriptors",
            error=error.strerror,
        )
        self._hold()
        self._time("scarce", _SCARCE_SECONDS, self.open)

    def _hello(self, sockets: list[str], refusal: str = "") -> Hello:
        settings, relay, keeper = self._server.settings, self._server.relay, self._server.feed_runner.keeper
        owner = None if keeper is None else keeper.post.elsewhere
        return Hello(
            __version__,
            settings.relay_shards,
            sockets,
            refusal,
            origin=0 if relay is None else relay.origin,
            prefix=settings.relay_prefix,
            relay="" if relay is None else relay.address.shown,
            is_relay_away=relay is not None and not relay.is_up,
            owners={} if keeper is None or owner is None else {keeper.feed: (owner.origin, owner.name)},
        )

    async def _meet(self, end: PairEnd, hello: Hello) -> None:
        await end.open()
        if self._end is end and self._server.relay is not None:
            attach(self._server.relay, end, is_relay_away=hello.is_relay_away)

    def _handed(self) -> list[tuple[str, socket.socket]]:
        handed = [
            (UNIX if isinstance(place, UnixPlace) else MAIN, sock)
            for place, sock in self._server.listener.sockets
        ]
        if (admin := self._server.admin_listener) is not None:
            handed += [(ADMIN, sock) for _, sock in admin.sockets]
        return handed + [(UPGRADE, sock) for sock in self._sockets]

    def _time(self, name: str, seconds: float, then: Callable[..., object], *arguments: object) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, then, *arguments)

    def _look_for_word(self, end: PairEnd) -> None:
        if self._end is end and not end.has_spoken:
            self._refuse("has said nothing", self._pid)

    def _refuse(self, reason: str, pid: int) -> None:
        """Let go of a process that does not come to serve, and end it where it was started here."""
        _log.error(f"the process that was to take over {reason}, and this one goes on", pid=pid)
        if self._end is not None:
            self._end.tell(STOP)
            self._end.close()
            self._forget()
        if self._child is not None and self._child.pid == pid:
            self._child.signal(signal.SIGKILL)

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == FAILED:
            reason = frame.data.decode(errors="replace")
            _log.error("the process that was to take over cannot serve", pid=self._pid, error=reason)
        elif frame.kind == READY and not self.successor:
            self.successor = self._pid
            self._timers["start"].cancel()
            self._hold()
            self._tell_ready()

    def _on_lost(self) -> None:
        was_ready, self.successor = bool(self.successor), 0
        self._forget()
        if self.is_ending_successor:
            _log.info("the process that has taken over has ended", pid=self._pid)
        elif was_ready:
            _log.error("the process that has taken over is gone", pid=self._pid)
            self._tell_lost()
        else:
            _log.error("the process that was to take over is gone, and this one goes on", pid=self._pid)

    def _forget(self) -> None:
        self._end = None
        self._timers["start"].cancel()
        detach(self._server.relay)

    def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())


def door_place(settings: Settings) -> UnixPlace:
    """Where nobody was before."""
    if settings.upgrade_socket is None:
        raise SettingsError("upgrade_socket: none is set", setting="upgrade_socket")
    return UnixPlace(settings.upgrade_socket, setting="upgrade_socket")
