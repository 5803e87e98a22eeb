"""One of several processes that serve one port together: what it knows of itself and of the others."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from fastws.errors import FastwsError, SettingsError
from fastws.relay.exchange_ends import ExchangeEnd
from fastws.relay.exchange_frames import FAILED, PRESENT, READY, RELOAD, RELOADED, STOP, Frame
from fastws.server.common_counts import Elsewhere
from fastws.server.siblings import Siblings
from fastws.settings import Settings

OWNER: Final = 1
"""The worker that has what there is to be one of: the feed, what is published over HTTP, and saving last values."""


class Crew(msgspec.Struct, frozen=True):
    """What the parent tells all workers: who serves, their origins in the relay by their numbers, how often each was
    started anew, the first one first, and how many messages were not handed on to workers that did not keep up."""

    present: tuple[int, ...]
    origins: dict[int, int]
    n_restarts: tuple[int, ...]
    n_dropped: int


class Ready(msgspec.Struct, frozen=True):
    """What a worker tells of itself once it serves: also its base URLs, and what the relay knows it by."""

    n_instruments: int
    first_code: str | None
    url: str | None
    admin_url: str | None
    origin: int = 0


class Failure(msgspec.Struct, frozen=True):
    """Why a worker cannot start; `setting` is the one to blame, if one is."""

    text: str
    setting: str | None
    source: str

    def error(self) -> FastwsError:
        if self.setting is None:
            return FastwsError(self.text)
        return SettingsError(self.text, setting=self.setting, source=self.source)


class Outcome(msgspec.Struct, frozen=True):
    """What came of a reload: `error` says why all stays as it was."""

    status: str
    error: str | None


_crews: Final = msgspec.msgpack.Decoder(Crew)
encode: Final = msgspec.msgpack.Encoder().encode


class Worker:
    """This process as number `number` of `n_workers`, which count from 1. Belongs to the thread of the event loop.

    `on_stop` and `on_reload` are called when the parent asks for it, `on_stop` also when the parent is gone: a worker
    does not outlive it. `directory` has the database where that ends with the parent; `elsewhere` counts connections of
    the others.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        n_workers: int,
        *,
        elsewhere: Elsewhere,
        directory: str | None = None,
    ) -> None:
        self.number = number
        self.elsewhere = elsewhere
        self.n_workers = n_workers
        self._directory = directory
        self._is_orphan = False
        self.crew = Crew((), {}, (0,) * n_workers, 0)
        self.on_stop: Callable[[], object] = lambda: None
        self.on_reload: Callable[[], object] = lambda: None
        # Told the origin of a worker whose process has ended.
        self.on_ended: Callable[[int], object] = lambda origin: None
        self.end = ExchangeEnd(sock, on_frame=self._on_frame, on_lost=self._on_lost)
        self.siblings = Siblings(self.end, number)

    @property
    def is_database_private(self) -> bool:
        return self._directory is not None

    @property
    def is_owner(self) -> bool:
        return self.number == OWNER

    @property
    def has_owner(self) -> bool:
        """Whether another worker is there that is the owner."""
        return OWNER in self.siblings.present

    async def open(self) -> None:
        await self.end.open()

    def tell_ready(self, ready: Ready) -> None:
        self.end.tell(READY, data=encode(ready))

    def tell_failed(self, failure: Failure) -> None:
        self.end.tell(FAILED, data=encode(failure))

    def tell_reloaded(self, outcome: Outcome) -> None:
        self.end.tell(RELOADED, data=encode(outcome))

    async def close(self) -> None:
        """Let the parent hear what was told last."""
        await self.end.drain(1.0)
        self.end.close()
        if self._is_orphan and self.is_owner and self._directory is not None:
            # The parent would have done it.
            shutil.rmtree(self._directory, ignore_errors=True)

    def _on_lost(self) -> None:
        self._is_orphan = True
        self.on_stop()

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == PRESENT:
            before, self.crew = self.crew, _crews.decode(frame.data)
            self.siblings.note_present(self.crew.present)
            for number, origin in before.origins.items():
                if self.crew.origins.get(number) != origin:
                    self.on_ended(origin)
        elif frame.kind == STOP:
            self.on_stop()
        elif frame.kind == RELOAD:
            self.on_reload()


def settings_of(
    settings: Settings, number: int, *, port: int, admin_bind: str | None, database: str | None
) -> Settings:
    """The settings of a worker: what there is one of is with the owner.

    `port` and `admin_bind` are those that all have, `database` theirs where the settings name none.
    """
    changed: dict[str, object] = {
        "port": port,
        "admin_bind": settings.admin_bind and admin_bind,
        "database": settings.database or database,
    }
    if number != OWNER:
        changed |= {"feed": "none", "feed_standby": 0}
    return msgspec.structs.replace(settings, **changed)
