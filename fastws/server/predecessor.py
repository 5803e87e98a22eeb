"""The process that serves, as one sees it that is to take over from it: its sockets, and what it knows.

Whoever is started with the same setting `upgrade_socket` as a running server finds that there, gets the listening
sockets, and is joined to it by the relay. Once it has heard every last value it serves, too, and says so; only then
does the old one begin to go, for which see `fastws.server.door` and `Server.hand_over`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from fastws.errors import SettingsError
from fastws.relay.exchange_frames import ALIVE, FAILED, READY, STOP, Frame, encode
from fastws.relay.pair_links import PairEnd, attach, detach
from fastws.server.handed import Handed, HandedPlace
from fastws.server.places import UnixPlace
from fastws.server.spawning import was_spawned
from fastws.server.upgrade_socket import (
    ADMIN,
    MAIN,
    UNIX,
    UPGRADE,
    Hello,
    UpgradeError,
    connect,
    hear_hello,
)
from fastws.settings import Settings
from fastws.settings_checks import parse_bind

if TYPE_CHECKING:
    from fastws.relay.relay import Relay
    from fastws.server.server import Server

_JOIN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.02
_WANT_SECONDS: Final = 1.0

_log = structlog.get_logger("fastws.upgrade")


class Predecessor:
    """The process that serves, to the one that takes over. Belongs to the thread of the event loop.

    `handed` is what to listen on, and `door` where the next one is waited for. `on_gone` is called when it has ended.
    Until then the files of its sockets are its own.
    """

    def __init__(
        self, sock: socket.socket, hello: Hello, handed: list[socket.socket], settings: Settings
    ) -> None:
        self.handed = Handed()
        self.door: UnixPlace | None = None
        self.is_gone = False
        self.on_gone: list[Callable[[], object]] = []
        # Called where it is to end and this process with it.
        self.on_stop: Callable[[], object] = lambda: None
        self._is_ready = False
        # Whether it wants no other in its place any more.
        self._is_refused = False
        self._is_open = False
        # Which instance of the relay it is, and who else runs feeds, as far as is known to it alone.
        self.origin = hello.origin
        self.owners = hello.owners if hello.is_relay_away else {}
        self._is_relay_away = hello.is_relay_away
        self._relay = hello.relay
        # Files that nobody listens at once it is gone.
        self._left: list[UnixPlace] = []
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
            if sock.family == socket.AF_UNIX:
                place = UnixPlace(sock.getsockname())
                place.own()
                self._left.append(place)
            sock.close()

    async def join(self, server: Server) -> None:
        """Hear everything that the running server knows, before `server` listens.

        Raises:
            UpgradeError: it wants no other in its place any more, or is not heard.
        """
        self._server = server
        await self._open()
        relay = server.relay
        if relay is None:
            raise UpgradeError("there is no relay to take over by")
        if not self.is_gone:
            attach(relay, self._end, is_relay_away=self._is_relay_away)
        began = time.monotonic()
        while not self._is_refused and not self.is_gone and relay.missing_of_peer(self.origin):
            if time.monotonic() - began > _JOIN_SECONDS:
                raise UpgradeError(self._silence(relay))
            await asyncio.sleep(_LOOK_SECONDS)
        if self._is_refused:
            raise UpgradeError("the running server goes on and wants no other in its place")
        self._wanting = asyncio.get_running_loop().create_task(self._go_on_wanting(relay), name="predecessor")
        fields = {
            "seconds": round(time.monotonic() - began, 2),
            "values": len(list(server.market.live_values())),
        }
        if relay.missing_of_peer(self.origin):
            _log.warning("the running server has ended before it had told everything that it knows", **fields)
        else:
            _log.info("everything that the running server knows is here", **fields)

    def _silence(self, relay: Relay) -> str:
        text = f"the running server has not told what it knows within {_JOIN_SECONDS:g} s"
        if not relay.is_up:
            return f"{text}: the relay at {relay.address.shown} is away"
        if self._relay and relay.peers.get(self.origin) is None:
            return f"{text}: it is not heard over the relay at {relay.address.shown} (its own: {self._relay})"
        return text

    async def _go_on_wanting(self, relay: Relay) -> None:
        """Whoever comes later is to find also what nobody looked at while both were there."""
        while True:
            relay.missing_of_peer(self.origin)
            await asyncio.sleep(_WANT_SECONDS)

    def tell_ready(self) -> bool:
        """Let the running server go; False where it wants no other in its place."""
        self._is_ready = not self._is_refused
        if self._is_ready:
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
        if frame.kind == STOP and self._is_ready:
            self.on_stop()
        elif frame.kind == STOP:
            self._is_refused = True

    def _on_lost(self) -> None:
        self.is_gone = True
        self._end_wanting()
        if self._is_refused:
            # It goes on, at the same sockets.
            return
        for place in filter(None, (self.handed.unix, self.door)):
            place.own()
        for place in self._left:
            place.release()
        if self._server is not None:
            detach(self._server.relay, self.origin)
            if not self._server.is_draining:
                # It was the other's until now.
                self._server.store.claim()
        _log.info("the process before has ended")
        for tell in self.on_gone:
            tell()


def find_predecessor(settings: Settings) -> Predecessor | None:
    """Look for a server that runs at `upgrade_socket`; None where there is none. It blocks, for 10 s at most.

    Raises:
        SettingsError: there is one that cannot be taken over with these settings.
        UpgradeError: there is one that cannot be taken over now, or none any more that has started this process.
    """
    is_spawned = was_spawned()
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
    if differing := _differing(zip(hello.sockets, handed, strict=True), settings):
        _log.warning(
            "the sockets of the running server are taken over as they are: these settings need a restart",
            settings=differing,
        )
    return Predecessor(sock, hello, handed, settings)


def _mismatch(hello: Hello, settings: Settings) -> SettingsError | None:
    """Return why a process with these settings would not hear the running server."""
    for name, theirs, ours in (
        ("relay_shards", hello.n_shards, settings.relay_shards),
        ("relay_prefix", hello.prefix, settings.relay_prefix),
    ):
        if theirs != ours:
            problem = f"the running server has {theirs}, and {ours} cannot take over from it"
            return settings.error(name, problem, "set it to the same, or restart")
    if bool(hello.relay) != (settings.relay is not None):
        heard = "without" if hello.relay else "over one"
        problem = f"the running server has {hello.relay or 'none'}, and is not heard {heard}"
        return settings.error("relay", problem, "set it to the same, or restart")
    return None


def _differing(handed: Iterable[tuple[str, socket.socket]], settings: Settings) -> list[str]:
    """Name the settings that somebody has given and that say another address than that of a socket of the same kind."""
    main: list[tuple[str, int]] = []
    admin: list[tuple[str, int]] = []
    for purpose, sock in handed:
        if sock.family != socket.AF_UNIX:
            (admin if purpose == ADMIN else main).append(sock.getsockname()[:2])
    names = []
    if main and "host" in settings.sources and not any(_is_at(settings.host, host) for host, _ in main):
        names.append("host")
    if main and "port" in settings.sources and settings.port not in (0, *(port for _, port in main)):
        names.append("port")
    bind = None if settings.admin_bind is None else parse_bind(settings.admin_bind)
    if (
        bind is not None
        and admin
        and not any(_is_at(bind[0], host) and bind[1] in (0, port) for host, port in admin)
    ):
        names.append("admin_bind")
    return names


def _is_at(host: str, address: str) -> bool:
    """Whether `host` may be `address`; of a name that is to be looked up it is not known."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(address)
    except ValueError:
        return host != "localhost" or ipaddress.ip_address(address).is_loopback
