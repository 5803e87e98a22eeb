"""Who is there: what instances announce of themselves, and what their coming and going means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import structlog

from fastws.logs import log_limited
from fastws.relay.channels import Channels
from fastws.relay.control import Announcement, Candidacy, ControlError, FeedState, ValuesRequest, encode
from fastws.relay.interest import ShardInterest
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peer, Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.session_news import SessionNews
from fastws.relay.sharing import Sharing

# For how long it is remembered what was heard of an origin that is not heard any more: it may be cut off.
_GONE_SECONDS: Final = 900.0

FEED_SILENCE_SECONDS: Final = 3.0
"""After how long without a word of its owner a feed that runs elsewhere counts as out of reach."""

# Whoever reaches Redis can say that it is an instance, or say it as many.
MAX_PEERS: Final = 256
_MAX_FEEDS: Final = 64

_log = structlog.get_logger("fastws.relay")


class Meetings:
    """Announces this instance and hears the others do so. Belongs to the thread of the event loop.

    `on_feed` is called with the name of a feed of other instances and its state, whenever that changes, and `on_left`
    with one that has said good-bye. `figures`, `feeds` and `candidacies` are asked for what this instance says of
    itself.
    `sessions` keeps those of all, None where there are none.
    """

    def __init__(
        self,
        link: AnyLink,
        channels: Channels,
        interest: ShardInterest,
        peers: Peers,
        sending: Sending,
        receiving: Receiving,
        sharing: Sharing,
        *,
        origin: int,
        name: str,
        n_shards: int,
        clock: Callable[[], float],
    ) -> None:
        self.peers = peers
        self.name = name
        self.n_shards = n_shards
        self.on_feed: Callable[[str, str], object] = lambda feed, status: None
        self.figures: Callable[[], dict[str, int]] = dict
        self.feeds: Callable[[], dict[str, FeedState]] = dict
        self.candidacies: Callable[[], dict[str, Candidacy]] = dict
        self.on_left: Callable[[Peer], object] = lambda peer: None
        self.sessions: SessionNews | None = None
        self._origin = origin
        self._link = link
        self._channels = channels
        self._interest = interest
        self._sending = sending
        self._receiving = receiving
        self._sharing = sharing
        self._clock = clock
        # Origins that were not heard any more, and since when.
        self._gone: dict[int, float] = {}
        self._told_feeds: dict[str, FeedState] = {}

    def announce(self, *, leaving: bool = False) -> None:
        # Asked for in any case, so that what it counts is on its way.
        positions = self._sending.positions()
        announcement = Announcement(
            self._origin,
            self.name[:300],
            [] if leaving else positions,
            self.feeds(),
            self.figures(),
            self.candidacies(),
            self._sharing.serials,
            -1 if self.sessions is None else self.sessions.number,
        )
        self._link.send(self._channels.control, encode(announcement))

    def hear(self, announcement: Announcement) -> None:
        """Take what an instance says of itself.

        Raises:
            ControlError: it is one instance too many.
        """
        peer = self.peers.get(announcement.origin)
        if not announcement.positions:
            if peer is not None:
                self._forget(peer, "it has stopped", is_over=True)
            else:
                self._end(announcement.origin)
            return
        if len(announcement.positions) != self.n_shards:
            log_limited(
                _log,
                "relay-shards",
                "an instance has another number of shards and is ignored; set relay_shards to the same on all",
                level="error",
                instance=announcement.name,
                shards=len(announcement.positions),
                here=self.n_shards,
            )
            return
        if peer is None:
            if len(self.peers) >= MAX_PEERS:
                raise ControlError(f"there are {MAX_PEERS} other instances already")
            peer = self._meet(announcement)
        self.peers.hear(peer)
        peer.figures = announcement.figures
        peer.candidacies = announcement.candidacies
        before, peer.feeds = peer.feeds, announcement.feeds
        self._tell_feeds((*before, *peer.feeds))
        self._sharing.announced(peer, announcement.tables)
        self._receiving.announced(peer.origin, announcement.positions)
        if self.sessions is not None:
            self.sessions.meet(peer.origin, announcement.sessions)

    def end(self, origin: int) -> None:
        """Know from elsewhere that the process of an instance has ended, without a word."""
        if (peer := self.peers.get(origin)) is not None:
            self._forget(peer, "its process has ended", is_over=True)

    def look_after(self, now: float) -> None:
        """Miss those that are not heard any more."""
        for peer in self.peers.lost():
            self._forget(peer, "it is not heard any more", is_over=False)
        for origin in self._receiving.origins():
            # Who has never said that it is there may say so yet, or not be heard.
            if self.peers.get(origin) is None:
                self._gone.setdefault(origin, now)
        n_too_many = max(0, len(self._gone) - MAX_PEERS)
        for n, (origin, at) in enumerate(list(self._gone.items())):
            if n < n_too_many or now - at > _GONE_SECONDS:
                self._end(origin)

    def _meet(self, announcement: Announcement) -> Peer:
        peer = self.peers.add(announcement.origin, announcement.name)
        self._gone.pop(peer.origin, None)
        _log.info("an instance has joined", instance=peer.name, instances=len(self.peers) + 1)
        # So that it knows of this one before it answers its first client.
        self.announce()
        self._receiving.ask_soon()
        return peer

    def _forget(self, peer: Peer, reason: str, *, is_over: bool) -> None:
        """Count a peer as gone. If it comes back and its run is not over, what was missed of it is still known."""
        self.peers.remove(peer, is_missed=not is_over)
        if is_over:
            self.on_left(peer)
        self._tell_feeds(peer.feeds)
        _log.info("an instance has left", instance=peer.name, reason=reason, instances=len(self.peers) + 1)
        self._receiving.give_up(peer.origin)
        if self.sessions is not None:
            self.sessions.lose(peer.origin)
        if is_over:
            self._end(peer.origin)
        else:
            self._gone[peer.origin] = self._clock()
        # Others may have heard more of it before it went.
        if self._interest.shards and len(self.peers):
            request = ValuesRequest(self._origin, sorted(self._interest.shards))
            self._link.send(self._channels.control, encode(request))

    def state_of(self, feed: str) -> FeedState:
        """The state of a feed at the instance that runs it; of several, see `Post`, the one that is to go on.

        Nothing comes of one that is not heard, be it that Redis is away: that is `reconnecting`.
        """
        heard_from = self._clock() - FEED_SILENCE_SECONDS
        found = []
        is_silent = False
        for peer in self.peers:
            status = peer.feeds.get(feed)
            if status is not None and peer.announced_at >= heard_from:
                candidacy = peer.candidacies.get(feed)
                found.append(
                    (status != "live", 0 if candidacy is None else candidacy.rank, peer.origin, status)
                )
            elif status is not None and status != "stopped":
                is_silent = True
        if found:
            return min(found)[3]
        return "reconnecting" if is_silent else "stopped"

    def look_at_feeds(self) -> None:
        """Tell of feeds that nothing is heard of any more, or again."""
        self._tell_feeds(feed for peer in self.peers for feed in peer.feeds)

    def is_anyone_feeding(self) -> bool:
        """Whether another instance can run a feed, and may want to know what is looked at here."""
        return any(peer.candidacies for peer in self.peers)

    def _tell_feeds(self, names: Iterable[str]) -> None:
        for feed in dict.fromkeys(names):
            status = self.state_of(feed)
            if feed not in self._told_feeds and len(self._told_feeds) >= _MAX_FEEDS:
                continue
            if self._told_feeds.get(feed) != status:
                self._told_feeds[feed] = status
                self.on_feed(feed, status)

    def _end(self, origin: int) -> None:
        """Nothing comes of this origin any more."""
        self.peers.end(origin)
        self._gone.pop(origin, None)
        self._receiving.end(origin)
