"""What a running server and the process that takes over from it say first, on a Unix socket: who they are, and the
listening sockets themselves (SCM_RIGHTS). From then on it is the relay's; see `fastws.relay.pair_links`."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from fastws.errors import FastwsError

MAIN: Final = "main"
UNIX: Final = "unix"
ADMIN: Final = "admin"
UPGRADE: Final = "upgrade"
"""What a socket is for: clients, the path of the setting `unix_socket`, the administrator, and the next upgrade."""

_SECONDS: Final = 10.0
_LEAST_SECONDS: Final = 0.01
_MAX_SOCKETS: Final = 250
_MAX_SIZE: Final = 64 << 10
_SIZE: Final = struct.Struct("<I")
_CREDENTIALS: Final = struct.Struct("3i")


class Hello(msgspec.Struct, frozen=True):
    """What the running server says: `sockets` are what the handed descriptors are for, in their order.

    `n_shards` is its setting `relay_shards`, `prefix` its `relay_prefix`, and `relay` where its relay is, for people;
    empty where none is set. `origin` is which instance of the relay it is. `refusal`, where it is not empty, is why it
    cannot be taken over now. Where its relay `is_relay_away`, it tells what it knows over this connection, and `owners`
    are origins and names of other instances that run a feed, by its name.
    """

    version: str
    n_shards: int
    sockets: list[str]
    refusal: str = ""
    origin: int = 0
    prefix: str = ""
    relay: str = ""
    is_relay_away: bool = False
    owners: dict[str, tuple[int, str]] = {}


class UpgradeError(FastwsError):
    """What is at the other end cannot be taken over from, or cannot take over."""


_hellos: Final = msgspec.msgpack.Decoder(Hello)


def pid_of_peer(sock: socket.socket) -> int:
    """Return the process at the other end.

    Raises:
        UpgradeError: it is another user's.
    """
    pid, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if uid != os.geteuid():
        raise UpgradeError(f"process {pid} is of user {uid}, and only user {os.geteuid()} may do this")
    return int(pid)


def say_hello(sock: socket.socket, hello: Hello, sockets: Sequence[socket.socket] = ()) -> None:
    """Send the first message of a connection, which finds room, and with it descriptors.

    Raises:
        OSError: nobody is there any more.
    """
    data = msgspec.msgpack.encode(hello)
    message = _SIZE.pack(len(data)) + data
    fds = [each.fileno() for each in sockets]
    sent = socket.send_fds(sock, [message], fds) if fds else sock.send(message)
    if sent != len(message):
        raise OSError("the other end has no room")


def connect(path: str) -> socket.socket | None:
    """Reach the server that runs at `path`; None where there is none.

    Raises:
        UpgradeError: it cannot be reached, or is another user's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_SECONDS)
    try:
        sock.connect(path)
        pid_of_peer(sock)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise UpgradeError(f"the server at {path} cannot be reached ({error.strerror or error})") from None
    except UpgradeError:
        sock.close()
        raise
    return sock


def hear_hello(sock: socket.socket) -> tuple[Hello, list[socket.socket]]:
    """Return what a running server has said first, with the sockets that it has handed over, the caller's to close.

    Raises:
        UpgradeError: it refuses, or this is no such server.
    """
    fds: list[int] = []
    ends = time.monotonic() + _SECONDS
    try:
        head, fds, _, _ = socket.recv_fds(sock, _SIZE.size, _MAX_SOCKETS)
        size = _SIZE.unpack(head)[0] if len(head) == _SIZE.size else 0
        if not 0 < size <= _MAX_SIZE:
            raise UpgradeError("what answers is no server that can be taken over")
        data = b""
        while len(data) < size:
            sock.settimeout(max(_LEAST_SECONDS, ends - time.monotonic()))
            part = sock.recv(size - len(data))
            if not part:
                raise UpgradeError("the running server has ended meanwhile")
            data += part
        hello = _hellos.decode(data)
        if hello.refusal:
            raise UpgradeError(f"the running server refuses to be taken over: {hello.refusal}")
        if len(fds) != len(hello.sockets):
            raise UpgradeError("the running server has handed over something else than it has said")
        handed = [socket.socket(fileno=fd) for fd in fds]
    except (OSError, msgspec.DecodeError, UpgradeError) as error:
        for fd in fds:
            os.close(fd)
        if isinstance(error, UpgradeError):
            raise
        raise UpgradeError(f"the running server has not answered ({error})") from None
    for each in handed:
        each.set_inheritable(False)
        each.setblocking(False)
    return hello, handed
