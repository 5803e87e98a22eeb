"""The ports that several processes serve together, held by their parent as long as it lives."""

from __future__ import annotations

import asyncio
import socket

from fastws.server.places import TcpPlace, admin_place
from fastws.settings import Settings


class SharedPorts:
    """Takes ports, so that their numbers are known and nobody else gets them while workers come and go.

    It accepts nothing. `port` and `admin_bind` are what workers listen on.
    """

    def __init__(self, settings: Settings) -> None:
        self.port = settings.port
        self.admin_bind: str | None = None
        self._settings = settings
        self._sockets: list[socket.socket] = []

    def take(self) -> None:
        """Raises SettingsError where another program has one of them; what was taken is left to :meth:`close`."""
        place = TcpPlace(self._settings.host, self._settings.port, is_shared=True)
        self._sockets += asyncio.run(place.reserve())
        self.port = self._sockets[0].getsockname()[1]
        if (admin := admin_place(self._settings)) is not None:
            reserved = asyncio.run(admin.reserve())
            self._sockets += reserved
            host, _, _ = str(self._settings.admin_bind).rpartition(":")
            self.admin_bind = f"{host}:{reserved[0].getsockname()[1]}"

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
