"""The other instances, as far as they are heard. Sans-IO; the clock is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastws.relay.control import Candidacy, FeedState
    from fastws.relay.tables import PeerTable

PEER_SILENCE_SECONDS: Final = 5.0
"""After how long without a word, of whatever kind, an instance counts as gone: it announces itself every second."""

MISSED_SECONDS: Final = 300.0
"""For how long one that has gone without a word is told of."""

_MAX_MISSED: Final = 64


class Peer:
    """Another instance. `name` is for people; `candidacies`, `feeds` and `figures` are those that it announced last.

    `announced_at` is when that was, `spoke_at` when anything at all has come of it, or it was excused. `tables` are
    what it has told of its own.
    """

    __slots__ = (
        "announced_at",
        "candidacies",
        "feeds",
        "figures",
        "name",
        "origin",
        "spoke_at",
        "tables",
    )

    def __init__(self, origin: int, name: str, now: float) -> None:
        self.origin = origin
        self.name = name
        self.announced_at = self.spoke_at = now
        self.candidacies: Mapping[str, Candidacy] = {}
        self.feeds: Mapping[str, FeedState] = {}
        self.figures: Mapping[str, int] = {}
        self.tables: dict[str, PeerTable] = {}


class Peers:
    """The instances that were heard within `PEER_SILENCE_SECONDS`, by origin."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: dict[int, Peer] = {}
        # Those that have gone without a word, the longest ago first.
        self._missed: dict[int, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def get(self, origin: int) -> Peer | None:
        return self._peers.get(origin)

    def add(self, origin: int, name: str) -> Peer:
        peer = self._peers[origin] = Peer(origin, name, self._clock())
        # One that was started anew has another origin.
        self._missed = {key: one for key, one in self._missed.items() if key != origin and one.name != name}
        return peer

    def hear(self, peer: Peer) -> None:
        peer.announced_at = peer.spoke_at = self._clock()

    def note_word(self, origin: int) -> None:
        """Something has come of an instance, if it is there."""
        if (peer := self._peers.get(origin)) is not None:
            peer.spoke_at = self._clock()

    def remove(self, peer: Peer, *, is_missed: bool) -> None:
        """It is there no more; `is_missed`: nobody knows why."""
        del self._peers[peer.origin]
        if is_missed:
            self._missed[peer.origin] = peer
            while len(self._missed) > _MAX_MISSED:
                del self._missed[next(iter(self._missed))]

    def end(self, origin: int) -> None:
        """It has said good-bye, or it is known that it has ended."""
        self._missed.pop(origin, None)

    def missed(self) -> list[Peer]:
        """Those that have gone without a word within `MISSED_SECONDS` and have not come back."""
        since = self._clock() - MISSED_SECONDS
        self._missed = {key: peer for key, peer in self._missed.items() if peer.spoke_at >= since}
        return list(self._missed.values())

    def age(self, peer: Peer) -> float:
        """How many seconds ago it has announced itself."""
        return self._clock() - peer.announced_at

    def excuse(self) -> None:
        """Give all of them time again: for a while nobody could be heard."""
        now = self._clock()
        for peer in self._peers.values():
            peer.spoke_at = now

    def lost(self) -> list[Peer]:
        """Those that have said nothing for too long."""
        now = self._clock()
        return [peer for peer in self._peers.values() if now - peer.spoke_at > PEER_SILENCE_SECONDS]
