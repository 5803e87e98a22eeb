"""Listening sockets: bound once, polled only while there are file descriptors for those who come."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from fastws.logs import log_limited
from fastws.server.places import BACKLOG, Place

# libuv accepts one connection per server and turn of the loop, and a turn lasts milliseconds while a flush is
# under way. Several servers on one socket accept that many per turn; when one client comes, the others' calls
# of accept() fail.
_ACCEPTS_PER_TURN: Final = 8

# Descriptors kept free for everything that is not a client: files, the feed, the database.
_RESERVED_FDS: Final = 128
# From this share of the others on, there are few left.
_SCARCE_SHARE: Final = 0.75
# Accepting goes on when so many could be accepted, so that it does not stop and go with every client; or this share of
# those that a small limit leaves for clients, which may never be so many.
_RESUME_FDS: Final = 32
_RESUME_SHARE: Final = 0.25
_PROBE_SECONDS: Final = 0.1
# Limits to try where the greatest is refused: kern.maxfilesperproc of a large Mac, of a small one, and OPEN_MAX.
_LESSER_LIMITS: Final = (245_760, 61_440, 10_240)
# What a server has open without any client: about 30 for its sockets and what the loop and the database need.
_OWN_FDS: Final = 32

_log = structlog.get_logger("fastws.listener")


class Acceptor:
    """Accepts connections at one place.

    1. The sockets are open from :meth:`start` to :meth:`stop`; they are polled by loop servers on duplicates
       of them, or, while paused, by nobody, and clients wait in the backlog.
    2. It pauses when a connection is accepted whose descriptor is near the process's limit. libuv would
       accept and close what comes beyond the limit, which clients see as a reset.
    3. While paused it looks several times a second whether descriptors are free again.
    4. :meth:`stop` is final, also while a resumption is under way.
    5. Between :meth:`hold` and :meth:`go_on` it accepts nobody, whatever is free.
    """

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], place: Place) -> None:
        """`factory` makes the protocol of a connection, which calls :meth:`on_accepted` once it is made."""
        self._factory = factory
        self._place = place
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._fd_ceiling = 0
        self._scarce_fd = 0
        self._is_stopped = False
        self._is_held = False
        self._probe_timer: asyncio.TimerHandle | None = None
        self._resume_task: asyncio.Task[None] | None = None
        self.addresses: list[tuple[str, int]] = []
        self.is_paused = False
        self.n_pauses = 0

    async def start(self) -> None:
        """Raise the limit of descriptors, bind, and accept.

        Raises:
            SettingsError: the place cannot be listened on; the text names the setting and the fix.
        """
        n_fds = raise_fd_limit()
        self._fd_ceiling = fd_ceiling(n_fds)
        self._scarce_fd = int(self._fd_ceiling * _SCARCE_SHARE)
        self._sockets = await self._place.bind()
        self.addresses = [sock.getsockname()[:2] for sock in self._sockets if sock.family != socket.AF_UNIX]
        _check_backlog()
        try:
            await self._accept()
        except BaseException:
            self.stop()
            raise

    def urls(self, *, is_tls: bool) -> list[str]:
        """Where it listens, as people write it; a Unix socket is ``unix:`` and its path."""
        urls = [f"unix:{sock.getsockname()}" for sock in self._sockets if sock.family == socket.AF_UNIX]
        for host, port in self.addresses:
            shown = f"[{host}]" if ":" in host else host
            urls.append(f"{'https' if is_tls else 'http'}://{shown}:{port}")
        return urls

    def stop(self) -> None:
        """Close the sockets; the kernel resets whoever waits in the backlog."""
        self._is_stopped = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._close_servers()
        for sock in self._sockets:
            sock.close()
        self._place.release()

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens at; they stay its own."""
        return self._sockets

    @property
    def place(self) -> Place:
        return self._place

    def hold(self) -> None:
        """Accept nobody, and keep the sockets: who comes waits for another process that has them, too."""
        self._is_held = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._close_servers()

    def go_on(self) -> None:
        """Accept again."""
        if self._is_held and not self._is_stopped:
            self._is_held = False
            self._resume_task = asyncio.get_running_loop().create_task(self._resume(self._resume_task))

    def pass_on(self) -> None:
        """Accept no more, and leave the place to another process, which has the sockets."""
        self._place.pass_on()
        self.stop()

    async def wait_stopped(self) -> None:
        """Return when a resumption that was under way at :meth:`stop` has ended."""
        if self._resume_task is not None:
            await asyncio.wait((self._resume_task,))

    def on_accepted(self, transport: asyncio.Transport) -> bool:
        """Note a new connection; return whether descriptors are scarce."""
        # The kernel gives out the lowest free number, so this one tells how many descriptors are in use.
        fd: int = transport.get_extra_info("socket").fileno()
        if fd >= self._fd_ceiling:
            self._pause()
        return fd >= self._scarce_fd

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            for _ in range(_ACCEPTS_PER_TURN):
                # A server closes its socket with itself, so it gets a duplicate.
                if sock.family == socket.AF_UNIX:
                    server = await _serve_unix(loop, self._factory, sock.dup())
                else:
                    # uvloop and asyncio set TCP_NODELAY on what they accept.
                    server = await loop.create_server(self._factory, sock=sock.dup(), backlog=BACKLOG)
                self._servers.append(server)

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _pause(self) -> None:
        if self.is_paused or self._is_stopped or self._is_held:
            return
        self.is_paused = True
        self.n_pauses += 1
        self._close_servers()
        log_limited(
            _log,
            "descriptors",
            "file descriptors are running out, clients wait until some are free: raise the limit (ulimit -n)",
            in_use=self._fd_ceiling,
        )
        self._probe_later()

    def _probe_later(self) -> None:
        self._probe_timer = asyncio.get_running_loop().call_later(_PROBE_SECONDS, self._probe)

    def _probe(self) -> None:
        if self._has_room():
            self._resume_task = asyncio.get_running_loop().create_task(self._resume())
        else:
            self._probe_later()

    def _has_room(self) -> bool:
        fds: list[int] = []
        n_wanted = min(_RESUME_FDS, max(1, int((self._fd_ceiling - _OWN_FDS) * _RESUME_SHARE)))
        try:
            while len(fds) < n_wanted + _ACCEPTS_PER_TURN * len(self._sockets):
                fds.append(os.dup(self._sockets[0].fileno()))
                if fds[-1] >= self._fd_ceiling:
                    return False
        except OSError:  # none left at all
            return False
        finally:
            for fd in fds:
                os.close(fd)
        return True

    async def _resume(self, before: asyncio.Task[None] | None = None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        try:
            await self._accept()
        except OSError as error:  # somebody else took the descriptors meanwhile
            log_limited(_log, "resume failed", "cannot accept again yet", error=str(error))
            self._close_servers()
            if not self._is_stopped and not self._is_held:
                self._probe_later()
            return
        if self._is_stopped or self._is_held:
            self._close_servers()
            return
        self.is_paused = False
        log_limited(_log, "accepting again", "accepting again", level="info")


async def _serve_unix(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket
) -> asyncio.Server:
    if sys.version_info >= (3, 13):
        # The file stays when a server only pauses.
        return await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG, cleanup_socket=False)
    return await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)


def raise_fd_limit() -> int:
    """Raise this process's limit of file descriptors as far as it may go; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    # macOS refuses more than kern.maxfilesperproc, whatever the hard limit says, and begins with 256.
    for n_fds in (wanted, *(each for each in _LESSER_LIMITS if soft < each < wanted)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_fds, hard))
        except (ValueError, OSError) as error:
            refusal = error
        else:
            return n_fds
    _log.warning("cannot raise the limit of file descriptors", limit=soft, error=str(refusal))
    return soft


def capacity() -> int:
    """How many connections fit into the limit of file descriptors, once it is raised as far as it may go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_fds = hard if sys.platform == "linux" else soft
    n_fds = 1 << 20 if n_fds == resource.RLIM_INFINITY else n_fds
    return fd_ceiling(n_fds) - _OWN_FDS


def fd_ceiling(n_fds: int) -> int:
    """The descriptor number from which on no more connections are accepted, of `n_fds`."""
    return max(n_fds - _RESERVED_FDS, n_fds // 2)


def _check_backlog() -> None:
    path = Path("/proc/sys/net/core/somaxconn")
    if path.exists() and (limit := int(path.read_text())) < BACKLOG:
        _log.warning(
            "the kernel shortens the queue of waiting clients; set net.core.somaxconn",
            somaxconn=limit,
            wanted=BACKLOG,
        )
