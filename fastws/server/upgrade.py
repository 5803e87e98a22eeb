"""A new process takes over from one that serves: its listening sockets, its clients, and what it knows.

The running server listens on the Unix socket that the setting `upgrade_socket` names. Whoever is started with the same
setting finds it there, gets the listening sockets, and is joined to it by the relay. Once it has heard every last value
it serves, too, and says so; only then does the old one begin to go. See `Server.hand_over` for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from fastws._version import __version__
from fastws.errors import SettingsError
from fastws.logs import log_limited
from fastws.relay.address import parse_address
from fastws.relay.exchange_frames import ALIVE, FAILED, READY, STOP, Frame, encode
from fastws.relay.pair_links import PairEnd, PairLink
from fastws.server.handed import Handed, HandedPlace
from fastws.server.places import UnixPlace
from fastws.server.upgrade_socket import (
    ADMIN,
    MAIN,
    UNIX,
    UPGRADE,
    Hello,
    UpgradeError,
    connect,
    hear_hello,
    pid_of_peer,
    say_hello,
)
from fastws.settings import Settings

if TYPE_CHECKING:
    from fastws.relay.relay import Relay
    from fastws.server.server import Server

START_SECONDS: Final = 120.0
"""A new process that does not serve so long after it has come is told to end."""

WORD_SECONDS: Final = 5.0
"""Who comes and says nothing for so long does not come to take over."""

SPAWNED: Final = "_FASTWS_SPAWNED"
"""The variable that tells a process that the running server has started it."""

_JOIN_SECONDS: Final = 10.0
_END_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.02
_WANT_SECONDS: Final = 1.0
# As long nobody is let in after there was no descriptor for somebody.
_SCARCE_SECONDS: Final = 1.0
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = structlog.get_logger("fastws.upgrade")


def attach(server: Server, end: PairEnd) -> None:
    """Let the relay of `server` go over `end`, unless it has another way."""
    if server.relay is not None and isinstance(server.relay.link, PairLink):
        server.relay.link.attach(end)


def detach(server: Server) -> None:
    """The other process is gone, whatever it has said last."""
    relay = server.relay
    if relay is not None and isinstance(relay.link, PairLink):
        relay.link.detach()
        for peer in relay.peers:
            relay.meetings.end(peer.origin)


class Predecessor:
    """The process that serves, to the one that takes over. Belongs to the thread of the event loop.

    `handed` is what to listen on, and `door` where the next one is waited for. `on_gone` is called when it has ended.
    """

    def __init__(
        self, sock: socket.socket, hello: Hello, handed: list[socket.socket], settings: Settings
    ) -> None:
        self.handed = Handed()
        self.door: UnixPlace | None = None
        # Until the old process goes: why it wants no other in its place.
        self._is_refused = False
        self._is_gone = False
        self._is_ready = False
        self._is_open = False
        self.on_gone: Callable[[], object] = lambda: None
        self._origin = hello.origin
        self._relay = hello.relay
        self._server: Server | None = None
        self._wanting: asyncio.Task[None] | None = None
        for purpose, each in zip(hello.sockets, handed, strict=True):
            self._take(purpose, each, settings)
        sock.setblocking(False)
        self._end = PairEnd(sock, on_frame=self._on_frame, on_lost=self._on_lost)

    def _take(self, purpose: str, sock: socket.socket, settings: Settings) -> None:
        if purpose == MAIN:
            self.handed.main.append(HandedPlace(sock))
        elif purpose == ADMIN and settings.admin_bind is not None:
            self.handed.admin.append(HandedPlace(sock))
        elif (
            purpose == UNIX
            and settings.unix_socket is not None
            and settings.unix_socket == sock.getsockname()
        ):
            self.handed.unix = UnixPlace(settings.unix_socket, handed=sock)
        elif purpose == UPGRADE and settings.upgrade_socket is not None:
            self.door = UnixPlace(settings.upgrade_socket, setting="upgrade_socket", handed=sock)
        else:
            # What the settings of the new process do not have any more.
            sock.close()

    async def join(self, server: Server) -> None:
        """Hear everything that the running server knows, before `server` listens.

        Raises:
            UpgradeError: it wants no other in its place any more, or is not heard.
        """
        self._server = server
        await self._open()
        if not self._is_gone:
            attach(server, self._end)
        relay = server.relay
        if relay is None:
            raise UpgradeError("there is no relay to take over by")
        began = time.monotonic()
        while not self._is_refused and not self._is_gone and relay.missing_of_peer(self._origin):
            if time.monotonic() - began > _JOIN_SECONDS:
                raise UpgradeError(self._silence(relay))
            await asyncio.sleep(_LOOK_SECONDS)
        if self._is_refused:
            raise UpgradeError("the running server goes on and wants no other in its place")
        self._wanting = asyncio.get_running_loop().create_task(self._go_on_wanting(), name="predecessor")
        fields = {
            "seconds": round(time.monotonic() - began, 2),
            "values": len(list(server.market.live_values())),
        }
        if relay.missing_of_peer(self._origin):
            _log.warning("the running server has ended before it had told everything that it knows", **fields)
        else:
            _log.info("everything that the running server knows is here", **fields)

    def _silence(self, relay: Relay) -> str:
        text = f"the running server has not told what it knows within {_JOIN_SECONDS:g} s"
        if not relay.is_up:
            return f"{text}: the relay at {relay.address.shown} is away"
        if relay.peers.get(self._origin) is None:
            return f"{text}: it is not heard over the relay at {relay.address.shown} (its own: {self._relay})"
        return text

    async def _go_on_wanting(self) -> None:
        """Whoever comes later is to find also what nobody looked at while both were there."""
        while self._server is not None and self._server.relay is not None:
            self._server.relay.missing_of_peer(self._origin)
            await asyncio.sleep(_WANT_SECONDS)

    def tell_ready(self) -> bool:
        """Let the running server go; False where it wants no other in its place."""
        self._is_ready = not self._is_refused
        if self._is_ready:
            # Until here their files were the other's.
            for place in filter(None, (self.handed.unix, self.door)):
                place.own()
            self._end.tell(READY)
        return self._is_ready

    async def tell_failed(self, reason: str) -> None:
        """Let the running server know why it goes on."""
        await self._open()
        self._end.tell(FAILED, data=reason.encode())
        await self.close()

    async def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            await self._end.open()

    async def close(self) -> None:
        self._end_wanting()
        await self._end.drain(1.0)
        self._end.close()

    def _end_wanting(self) -> None:
        if self._wanting is not None:
            self._wanting.cancel()

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == STOP:
            self._is_refused = True

    def _on_lost(self) -> None:
        self._is_gone = True
        self._end_wanting()
        if self._server is not None:
            detach(self._server)
            if not self._server.is_draining:
                # It was the other's until now.
                self._server.store.claim()
        _log.info("the process before has ended")
        self.on_gone()


def find_predecessor(settings: Settings) -> Predecessor | None:
    """Look for a server that runs at `upgrade_socket`; None where there is none. To be called before the loop runs.

    Raises:
        SettingsError: there is one that cannot be taken over with these settings.
        UpgradeError: there is one that cannot be taken over now, or none any more that has started this process.
    """
    # Not for those who are started from here.
    is_spawned = os.environ.pop(SPAWNED, None) is not None
    path = settings.upgrade_socket
    if path is None or (sock := connect(path)) is None:
        if is_spawned:
            raise UpgradeError("the server that has started this process to take over is not there any more")
        return None
    try:
        hello, handed = hear_hello(sock)
    except BaseException:
        sock.close()
        raise
    if (mismatch := _mismatch(hello, settings)) is not None:
        for each in (sock, *handed):
            each.close()
        raise mismatch
    # All else comes only once there is a server to be joined, which may take long. Whether the running one is still
    # there shows then.
    with contextlib.suppress(OSError):
        sock.sendall(encode(ALIVE))
    _log.info("taking over from a running server", version=hello.version, sockets=len(handed))
    return Predecessor(sock, hello, handed, settings)


def _mismatch(hello: Hello, settings: Settings) -> SettingsError | None:
    """Return why a process with these settings would not hear the running server."""
    fix = "set it to the same, or restart"
    if hello.n_shards != settings.relay_shards:
        problem = (
            f"the running server has {hello.n_shards}, and {settings.relay_shards} cannot take over from it"
        )
        return settings.error("relay_shards", problem, fix)
    if hello.prefix != settings.relay_prefix:
        problem = (
            f"the running server has {hello.prefix!r}, and {settings.relay_prefix!r} cannot take over from it"
        )
        return settings.error("relay_prefix", problem, fix)
    if bool(hello.relay) != (settings.relay is not None):
        heard = "without" if hello.relay else "over one"
        problem = f"the running server has {hello.relay or 'none'}, and is not heard {heard}"
        return settings.error("relay", problem, fix)
    return None


class Door:
    """Where the process that is to take over comes in. Belongs to the thread of the event loop.

    1. One at a time. Until it says that it serves, nothing changes here, and whatever it dies of is logged.
    2. `on_ready` is called with its number once it serves, and `on_lost` if it goes after that.
    """

    def __init__(
        self,
        server: Server,
        place: UnixPlace,
        *,
        on_ready: Callable[[int], object],
        on_lost: Callable[[], object],
    ) -> None:
        self._server = server
        self._place = place
        self._on_ready = on_ready
        self._on_gone = on_lost
        self._sockets: list[socket.socket] = []
        self._end: PairEnd | None = None
        self._pid = 0
        self._is_ready = False
        self._child = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Why nobody may come now, if so.
        self.refusal = ""

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
        self._shut()
        for timer in self._timers.values():
            timer.cancel()
        if not self._is_ready:
            if self._end is not None:
                self._end.tell(STOP)
            self._signal_child(signal.SIGTERM)

    async def close(self) -> None:
        """Say good-bye to who is there. What was started here and does not serve has ended after it."""
        self.dismiss()
        self._place.release()
        for task in self._tasks:
            task.cancel()
        if self._end is not None:
            await self._end.drain(1.0)
            self._end.close()
        if not self._is_ready:
            await self._end_child()

    def spawn(self) -> None:
        """Start the program that this process was started as, with the same arguments, to take over."""
        if self._child or self._end is not None or self._is_ready:
            _log.warning("another process is taking over already")
            return
        # A program that is one file has unpacked itself: the file at its path may be a newer one.
        named = shutil.which(sys.orig_argv[0]) if getattr(sys, "frozen", False) else None
        program = named or sys.executable
        command = [program, *sys.orig_argv[1:]]
        try:
            self._child = os.posix_spawn(
                program, command, os.environ | {SPAWNED: "1"}, setsigmask=(), setsigdef=(signal.SIGPIPE,)
            )
        except OSError as error:
            _log.error("no process can be started to take over", command=command[0], error=error.strerror)
            return
        _log.info("a process is started to take over", pid=self._child)
        loop = asyncio.get_running_loop()
        self._timers["start"] = loop.call_later(START_SECONDS, self._refuse, "does not serve", self._child)
        self._look_at_child()

    def _look_at_child(self) -> None:
        pid = self._child
        if (status := self._reap()) is None:
            self._timers["child"] = asyncio.get_running_loop().call_later(0.1, self._look_at_child)
        elif not self._is_ready:
            _log.error(
                "the process that was to take over has ended, and this one goes on", pid=pid, status=status
            )
            if self._end is None:
                self._timers["start"].cancel()

    def _reap(self) -> int | None:
        """Return the exit status of the process that was started here, None while it runs."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            return None
        self._child = 0
        return os.waitstatus_to_exitcode(status)

    def _signal_child(self, number: signal.Signals) -> None:
        if self._child:
            os.kill(self._child, number)

    async def _end_child(self) -> None:
        ends = time.monotonic() + _END_SECONDS
        while self._child and self._reap() is None:
            if time.monotonic() > ends:
                self._signal_child(signal.SIGKILL)
            await asyncio.sleep(_LOOK_SECONDS)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError as error:
            if error.errno in _SCARCE:
                self._pause(listening, error)
            return  # or it has gone again
        refusal = self._refusal()
        try:
            pid = pid_of_peer(sock)
            if refusal:
                say_hello(sock, self._hello([], refusal))
                sock.close()
                return
            handed = self._handed()
            names = [name for name, _ in handed]
            sock.setblocking(False)
            say_hello(sock, self._hello(names), [each for _, each in handed])
        except (OSError, UpgradeError) as error:
            _log.warning("a process could not come to take over", error=str(error))
            sock.close()
            return
        _log.info("a process has come to take over", pid=pid)
        self._pid = pid
        self._end = PairEnd(sock, on_frame=self._on_frame, on_lost=self._on_lost)
        loop = asyncio.get_running_loop()
        if pid != self._child:
            self._time("start", START_SECONDS, "does not serve", pid)
        self._time("word", WORD_SECONDS, "has said nothing", pid)
        task = loop.create_task(self._meet(self._end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Who has come stays in the backlog, and would be tried again and again."""
        log_limited(
            _log,
            "upgrade-scarce",
            "a process could not come to take over, and is let in when there are descriptors",
            error=error.strerror,
        )
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        self._timers["scarce"] = loop.call_later(_SCARCE_SECONDS, self.open)

    def _refusal(self) -> str:
        """Why nobody may take over now; empty where somebody may."""
        relay = self._server.relay
        if self.refusal or self._end is not None:
            return self.refusal or "another process is taking over already"
        if relay is not None and not relay.is_up:
            return f"the relay at {relay.address.shown} is away, over which it would tell what it knows"
        return ""

    def _hello(self, sockets: list[str], refusal: str = "") -> Hello:
        settings, relay = self._server.settings, self._server.relay
        return Hello(
            __version__,
            settings.relay_shards,
            sockets,
            refusal,
            origin=0 if relay is None else relay.origin,
            prefix=settings.relay_prefix,
            relay="" if settings.relay is None else parse_address(settings.relay).shown,
        )

    async def _meet(self, end: PairEnd) -> None:
        await end.open()
        if self._end is end:
            attach(self._server, end)

    def _handed(self) -> list[tuple[str, socket.socket]]:
        handed = [
            (UNIX if isinstance(place, UnixPlace) else MAIN, sock)
            for place, sock in self._server.listener.sockets
        ]
        if (admin := self._server.admin_listener) is not None:
            handed += [(ADMIN, sock) for _, sock in admin.sockets]
        return handed + [(UPGRADE, sock) for sock in self._sockets]

    def _time(self, name: str, seconds: float, reason: str, pid: int) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(seconds, self._refuse, reason, pid)

    def _refuse(self, reason: str, pid: int) -> None:
        """Let go of a process that does not come to serve, and end it where it was started here."""
        if reason == "has said nothing" and (self._end is None or self._end.has_spoken):
            return
        _log.error(f"the process that was to take over {reason}, and this one goes on", pid=pid)
        if self._end is not None:
            self._end.tell(STOP)
            self._end.close()
            self._forget()
        if pid == self._child:
            self._signal_child(signal.SIGKILL)

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == FAILED:
            reason = frame.data.decode(errors="replace")
            _log.error("the process that was to take over cannot serve", pid=self._pid, error=reason)
        elif frame.kind == READY and not self._is_ready:
            self._is_ready = True
            self._timers["start"].cancel()
            # It is the other's from here on.
            self._place.pass_on()
            self._shut()
            self._on_ready(self._pid)

    def _on_lost(self) -> None:
        if self._is_ready:
            _log.warning("the process that has taken over is gone", pid=self._pid)
        else:
            _log.error("the process that was to take over is gone, and this one goes on", pid=self._pid)
        self._forget()
        if self._is_ready:
            self._on_gone()

    def _forget(self) -> None:
        self._end = None
        self._timers["start"].cancel()
        detach(self._server)

    def _shut(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []


def door_place(settings: Settings) -> UnixPlace:
    """Where nobody was before."""
    if settings.upgrade_socket is None:
        raise SettingsError("upgrade_socket: none is set", setting="upgrade_socket")
    return UnixPlace(settings.upgrade_socket, setting="upgrade_socket")
