"""The other instances, as far as they are heard. Sans-IO; the clock is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

SILENCE_SECONDS: Final = 5.0
"""After how long an instance that announces itself every second counts as gone."""


class Peer:
    """Another instance. `name` is for people; `feeds` and `figures` are those that it announced last."""

    __slots__ = ("feeds", "figures", "heard_at", "name", "origin")

    def __init__(self, origin: int, name: str, heard_at: float) -> None:
        self.origin = origin
        self.name = name
        self.heard_at = heard_at
        self.feeds: Mapping[str, str] = {}
        self.figures: Mapping[str, int] = {}


class Peers:
    """The instances that were heard within `SILENCE_SECONDS`, by origin."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: dict[int, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def get(self, origin: int) -> Peer | None:
        return self._peers.get(origin)

    def add(self, origin: int, name: str) -> Peer:
        peer = self._peers[origin] = Peer(origin, name, self._clock())
        return peer

    def hear(self, peer: Peer) -> None:
        peer.heard_at = self._clock()

    def remove(self, peer: Peer) -> None:
        del self._peers[peer.origin]

    def excuse(self) -> None:
        """Give all of them time again: for a while nobody could be heard."""
        for peer in self._peers.values():
            self.hear(peer)

    def lost(self) -> list[Peer]:
        """Those that were not heard for too long."""
        now = self._clock()
        return [peer for peer in self._peers.values() if now - peer.heard_at > SILENCE_SECONDS]
