"""Listening sockets that a service manager opened and hands over (socket activation, sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from fastws.errors import FastwsError
from fastws.server.places import Place, UnixPlace, bound_queues

ADMIN: Final = "admin"
"""The name (FileDescriptorName=) of sockets for the administrator; all others are for clients."""

_FIRST: Final = 3
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class HandedPlace:
    """A socket that somebody else has bound and keeps: who comes while no server runs waits in its backlog."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.is_local = sock.family == socket.AF_UNIX

    async def bind(self) -> list[socket.socket]:
        """The socket; it is the caller's to close, and goes on to exist elsewhere."""
        return [self._socket]

    def release(self) -> None:
        # The file of a Unix socket is its owner's.
        pass

    def pass_on(self) -> None:
        pass


class Handed:
    """What was handed over: places for clients, and for the administrator, and the one of `unix_socket`."""

    def __init__(self) -> None:
        self.main: list[Place] = []
        self.admin: list[Place] = []
        self.unix: UnixPlace | None = None


def is_any(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether sockets were handed to this very process, and not to one that it descends from."""
    return environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "0") != "0"


def take(environ: MutableMapping[str, str] = os.environ, *, first: int = _FIRST) -> Handed:
    """Take over what was handed to this process, once: the variables that tell of it are removed.

    Descriptors count from `first`, as systemd has it.

    Raises:
        FastwsError: something else was handed over than sockets that listen.
    """
    handed = Handed()
    if not is_any(environ):
        return handed
    count, names = environ["LISTEN_FDS"], environ.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if not count.isdecimal():
        raise FastwsError(f"LISTEN_FDS: {count!r} is no number; it is a service manager that sets it")
    for i in range(int(count)):
        place = HandedPlace(_adopt(first + i))
        is_admin = i < len(names) and names[i] == ADMIN
        (handed.admin if is_admin else handed.main).append(place)
    return handed


def _adopt(fd: int) -> socket.socket:
    problem = FastwsError(
        f"LISTEN_FDS: descriptor {fd} is no stream socket that listens; "
        "the socket unit needs ListenStream= and Accept=no"
    )
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        raise problem from None
    if (
        sock.family not in _FAMILIES
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        # It is not closed: whose it is, is not known.
        sock.detach()
        raise problem
    sock.set_inheritable(False)
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        bound_queues(sock)
    return sock
