"""Where a server listens: TCP addresses and Unix sockets, bound, or refused with the setting and the fix."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import Final, Protocol

from fastws.errors import SettingsError
from fastws.settings import Settings
from fastws.settings_checks import parse_bind, serves_tcp

# The kernel caps it at net.core.somaxconn, which is 4096 on Linux since 5.4.
BACKLOG: Final = 4096

_UNSENT_SIZE: Final = 64 << 10
# A peer that acknowledges nothing for so long is gone.
_UNACKNOWLEDGED_MS: Final = 30_000


class Place(Protocol):
    """What can be listened on. `is_local` tells that only this machine can reach it, so that nothing is encrypted."""

    is_local: bool

    async def bind(self) -> list[socket.socket]:
        """Return listening sockets, which do not block and are the caller's to close.

        Raises:
            SettingsError: this cannot be listened on; the text names the setting and the fix.
        """

    def release(self) -> None:
        """Take away what outlives the sockets; called when they are closed."""

    def pass_on(self) -> None:
        """Leave to another process what outlives the sockets."""


def main_place(settings: Settings) -> TcpPlace | None:
    """The TCP address that the settings let a server listen on; one that nobody has asked for gives way to a Unix
    socket."""
    if not serves_tcp(settings):
        return None
    return TcpPlace(
        settings.host, settings.port, is_shared=settings.workers > 1, upgrade_socket=settings.upgrade_socket
    )


def main_places(
    settings: Settings, handed: Sequence[Place] = (), unix: UnixPlace | None = None
) -> list[Place]:
    """Where the settings let a server listen; what was `handed` to it takes the place of host and port, and `unix` that
    of the Unix socket."""
    places: list[Place] = list(handed)
    if not places and (place := main_place(settings)) is not None:
        places.append(place)
    if unix is not None:
        places.append(unix)
    elif settings.unix_socket is not None:
        places.append(UnixPlace(settings.unix_socket, int(settings.unix_socket_mode, 8)))
    return places


def admin_place(settings: Settings) -> TcpPlace | None:
    """The administrator's own place, if the settings name one."""
    bind = None if settings.admin_bind is None else parse_bind(settings.admin_bind)
    if bind is None:
        return None
    is_shared = settings.workers > 1
    return TcpPlace(*bind, host_setting="admin_bind", port_setting="admin_bind", is_shared=is_shared)


def admin_places(settings: Settings) -> list[Place]:
    """Where the settings let the administrator have places of their own."""
    place = admin_place(settings)
    return [] if place is None else [place]


class TcpPlace:
    """A host, which may have several addresses, and a port.

    `host_setting` and `port_setting` are the settings that errors name. One that `is_shared` other processes of this
    user may listen on, too: the kernel gives each connection to one of them. At `upgrade_socket`, if that is not None,
    nobody was found who would have handed over what listens here.
    """

    is_local = False

    def __init__(
        self,
        host: str,
        port: int,
        *,
        host_setting: str = "host",
        port_setting: str = "port",
        is_shared: bool = False,
        upgrade_socket: str | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._host_setting = host_setting
        self._port_setting = port_setting
        self._is_shared = is_shared
        self._upgrade_socket = upgrade_socket

    async def bind(self) -> list[socket.socket]:
        """One socket for each address; with port 0 they share one free port."""
        return await self._bind(self._port, is_shared=self._is_shared, listens=True)

    async def reserve(self) -> list[socket.socket]:
        """Like `bind`, but what it returns accepts nothing: it holds a shared port for those who listen there.

        A program that listens there already is an error, although it may share the port, too.
        """
        alone = await self._bind(self._port, is_shared=False, listens=True)
        port = alone[0].getsockname()[1]
        for sock in alone:
            sock.close()
        return await self._bind(port, is_shared=True, listens=False)

    async def _bind(self, port: int, *, is_shared: bool, listens: bool) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        host = self._host
        try:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise _error(
                self._host_setting,
                f"{host!r} is no address ({reason})",
                "use 127.0.0.1, 0.0.0.0 or one of this machine",
            ) from None
        sockets: list[socket.socket] = []
        failure: OSError | None = None
        for family, _, protocol, _, address in dict.fromkeys(infos):
            sock = socket.socket(family, socket.SOCK_STREAM, protocol)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # Otherwise the IPv4 socket of the same host could not be bound.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if is_shared:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                bound_queues(sock)
                same_port = sockets[0].getsockname()[1] if sockets else port
                sock.bind((address[0], same_port, *address[2:]))
                if listens:
                    sock.listen(BACKLOG)
            except OSError as error:
                sock.close()
                failure = error
                if error.errno != errno.EADDRNOTAVAIL:
                    break
                # "localhost" also names ::1, which a machine without IPv6 does not have.
                continue
            sockets.append(sock)
        if failure is not None and (not sockets or failure.errno != errno.EADDRNOTAVAIL):
            for sock in sockets:
                sock.close()
            raise self._error_of(failure)
        return sockets

    def release(self) -> None:
        pass

    def pass_on(self) -> None:
        pass

    def _error_of(self, error: OSError) -> SettingsError:
        host, port = self._host, self._port
        if error.errno == errno.EADDRINUSE:
            fix = "end the program that has it or choose another (0: any free)"
            if self._upgrade_socket is not None:
                fix += (
                    ". To take over from a server that has it: none listens at the upgrade_socket "
                    f"{self._upgrade_socket}; is that the one it was started with?"
                )
            return _error(self._port_setting, f"{port} on {host} is in use", fix)
        if error.errno == errno.EACCES:
            fix = "choose one from 1024 on"
            return _error(self._port_setting, f"{port} needs privileges that this process lacks", fix)
        if error.errno == errno.EADDRNOTAVAIL:
            fix = "use 127.0.0.1, 0.0.0.0 or one of its own"
            return _error(self._host_setting, f"{host} is no address of this machine", fix)
        problem = f"cannot listen on {host} port {port} ({error.strerror})"
        return _error(self._host_setting, problem, "choose another host or port")


class UnixPlace:
    """A Unix socket at a path, open to whom `mode` lets write to it.

    1. The socket file of a server that is gone is replaced; nothing else at the path is ever touched.
    2. The file is removed at the end, unless another has taken its place.
    """

    is_local = True

    def __init__(
        self,
        path: str,
        mode: int = 0o600,
        *,
        setting: str = "unix_socket",
        handed: socket.socket | None = None,
    ) -> None:
        """`setting` is the one that errors name; `handed` listens there already, for a process that leaves it to us."""
        self.path = path
        self._mode = mode
        self._setting = setting
        self._handed = handed
        self._inode: tuple[int, int] | None = None

    async def bind(self) -> list[socket.socket]:
        """The one socket. No option of TCP applies to it; the kernel holds about 200 KB for a client."""
        if self._handed is not None:
            return [self._handed]
        self._make_room()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        # The mask, because between bind and chmod others could connect.
        mask = os.umask(0o777 & ~self._mode)
        try:
            sock.bind(self.path)
        except OSError as error:
            sock.close()
            raise self._error_of(error) from None
        finally:
            os.umask(mask)
        self.own()
        sock.listen(BACKLOG)
        return [sock]

    def release(self) -> None:
        if self._inode is None:
            return
        try:
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # taken away by somebody else, or its directory is closed to us by now
        self._inode = None

    def pass_on(self) -> None:
        self._inode = None

    def own(self) -> None:
        """Remove the file at the end, also that of a socket that was handed over."""
        try:
            status = os.stat(self.path)
        except OSError:
            return  # somebody has taken it away already
        self._inode = status.st_dev, status.st_ino

    def _make_room(self) -> None:
        """Remove the file of a server that is gone."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise self._error_of(error) from None
        if not stat.S_ISSOCK(status.st_mode):
            raise _error(
                self._setting, f"{self.path} exists and is no socket", "remove it or choose another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
                is_alive = True
            except ConnectionRefusedError:
                is_alive = False
            except BlockingIOError:  # so many wait to be accepted that no more may
                is_alive = True
            except OSError as error:
                raise self._error_of(error) from None
        if is_alive:
            problem = f"a running program listens on {self.path}"
            raise _error(self._setting, problem, "end it or choose another path")
        try:
            os.unlink(self.path)
        except OSError as error:
            raise self._error_of(error) from None

    def _error_of(self, error: OSError | ValueError) -> SettingsError:
        number = error.errno if isinstance(error, OSError) else None
        fix = "choose another path"
        if number == errno.ENOENT:
            problem, fix = (
                f"there is no directory {os.path.dirname(self.path) or '.'}",
                "make it or choose another path",
            )
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            problem = f"no permission to use {self.path} ({os.strerror(number)})"
            fix = "let this user write to its directory or choose another path"
        elif number == errno.EADDRINUSE:
            problem = f"{self.path} was taken meanwhile"
        elif number is None or number == errno.ENAMETOOLONG:
            problem, fix = f"the path {self.path} is too long or malformed", "choose one under 108 bytes"
        else:
            problem = f"cannot listen on {self.path} ({os.strerror(number)})"
        return _error(self._setting, problem, fix)


def bound_queues(sock: socket.socket) -> None:
    """Keep little in the kernel for clients that do not read or are gone; accepted sockets inherit it.

    With 64 KiB not yet sent the kernel takes no more: a client that stops reading then holds 160 KB instead of
    3.9 MB, and what it gets when it reads again is fresh.
    """
    for name, value in (("TCP_NOTSENT_LOWAT", _UNSENT_SIZE), ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS)):
        if hasattr(socket, name):
            # A kernel that does not take one for a socket that listens serves without it.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _error(setting: str, problem: str, fix: str) -> SettingsError:
    return SettingsError(f"{setting}: {problem}; {fix}", setting=setting)
