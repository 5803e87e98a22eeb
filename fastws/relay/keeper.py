"""Runs a feed for as long as this instance is the one to; see `posts` for when that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import structlog

from fastws.feeds.together import end
from fastws.relay.control import Candidacy, FeedState
from fastws.relay.peers import Peer
from fastws.relay.posts import Candidate, Change, Post
from fastws.relay.relay import Relay

_LOOK_SECONDS: Final = 0.1

Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_log = structlog.get_logger("fastws.relay")


class FeedKeeper:
    """Keeps one feed running at one instance. Belongs to the thread of the event loop.

    `rank` is this instance's place in the row of those that can run the feed, 0 the first, and `patience` after how
    many seconds of silence the owner counts as gone. `status` tells the state of the feed here. `on_change` is called
    when this instance begins or ceases to run the feed. `is_owner`: it is known that nobody else runs it at the start.
    `before` is the instance whose process this one takes over from, 0 for none.

    1. There is at most one run of the feed here, and the feed is ended before another instance is told so.
    2. What instances say of the feed is announced at once when it changes.
    3. Each change is one line of the log.
    """

    def __init__(
        self,
        relay: Relay,
        feed: str,
        *,
        rank: int,
        patience: float,
        status: Callable[[], FeedState],
        on_change: Callable[[], object] = lambda: None,
        is_owner: bool = False,
        before: int = 0,
    ) -> None:
        self.feed = feed
        self.post = Post(
            relay.origin, rank, patience=patience, now=relay.clock(), is_owner=is_owner, before=before
        )
        self._relay = relay
        self._status = status
        self._on_change = on_change
        self._is_ending = False
        self._told: FeedState | None = None
        self._task: asyncio.Task[None] | None = None
        relay.meetings.feeds = self._states
        relay.meetings.candidacies = self._candidacies
        relay.meetings.on_left = self._on_left

    @property
    def is_owner(self) -> bool:
        """Whether the feed is run here, or is just being ended."""
        return self.post.is_owner or self._is_ending

    @property
    def role(self) -> str:
        """``owner``, ``standby``, or ``out`` for one that has given up for good."""
        return "owner" if self.is_owner else "out" if self.post.is_over else "standby"

    @property
    def owner(self) -> str:
        """The name of the instance that runs the feed; empty where none is known to."""
        return self._relay.name if self.is_owner else self.post.owner

    async def keep(self, run: Run, *, has_given_up: Callable[[], bool] = lambda: False) -> None:
        """Run the feed whenever it is this instance's turn, until cancelled.

        A run that ends by itself is over and the feed still this instance's, as a replay that was played, unless it
        `has_given_up`: then the others are to try.

        Raises:
            Exception: what a run has failed with.
        """
        work: asyncio.Task[None] | None = None
        try:
            while True:
                self._look(is_running=work is not None and not work.done())
                if not self.post.is_owner:
                    if work is not None:
                        await self._end(work)
                        work = None
                elif work is None:
                    work = asyncio.create_task(run(), name=f"feed {self.feed}")
                    # Once it has begun: before, its state is that of one that is stopped.
                    await asyncio.sleep(0)
                    self._tell_all()
                elif work.done():
                    work.result()
                    if has_given_up():
                        self._give_up("the feed has failed for good here and is left to the others")
                        work = None
                self.tell()
                if work is None or work.done():
                    await asyncio.sleep(_LOOK_SECONDS)
                else:
                    await asyncio.wait((work,), timeout=_LOOK_SECONDS)
        finally:
            try:
                if work is not None:
                    self._is_ending = True
                    await self._end(work)
            finally:
                self.post.resign()
                self._tell_all()

    def start(self, run: Run, *, has_given_up: Callable[[], bool] = lambda: False) -> None:
        """Keep the feed as a task of the running loop; see `keep`."""
        self._task = asyncio.create_task(
            self.keep(run, has_given_up=has_given_up), name=f"keeper of feed {self.feed}"
        )
        self._task.add_done_callback(self._on_end)

    async def stop(self) -> None:
        """End the task of `start`, and with it the feed; raises what that died of, if it did."""
        task = self._task
        if task is None:
            return
        try:
            await end(task)
        finally:
            if task.done():
                self._task = None

    def _on_end(self, task: asyncio.Task[None]) -> None:
        # Whoever stops it is raised its error, which may be hours later.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the feed has failed here and is left to the others", feed=self.feed, exc_info=error)

    def hear_of(self, origin: int, name: str) -> None:
        """Know from elsewhere, before the start, which other instance runs the feed."""
        self.post.hear_of(Candidate(origin, name, 0, True, "live", self._relay.clock()))

    def tell(self) -> None:
        """The state of the feed may have changed here; it is looked at now and then in any case."""
        if self.is_owner and self._status() != self._told:
            self._told = self._status()
            self._relay.meetings.announce()

    def _look(self, *, is_running: bool) -> None:
        relay = self._relay
        now = relay.clock()
        for peer in relay.peers:
            if self.feed not in peer.candidacies:
                self.post.left(peer.origin, now)
        others = [
            Candidate(
                peer.origin,
                peer.name,
                candidacy.rank,
                candidacy.is_owner,
                peer.feeds.get(self.feed, "stopped"),
                peer.announced_at,
            )
            for peer in relay.peers
            if (candidacy := peer.candidacies.get(self.feed)) is not None
        ]
        change = self.post.decide(now, relay.up_since, self._status(), others)
        if change is not None:
            # Whoever loses it says so once it has ended; see `_end`.
            self._is_ending = is_running and not change.is_owner
            self._log_change(change)
            if not change.is_owner:
                self._on_change()

    async def _end(self, work: asyncio.Task[None]) -> None:
        """End the run, which may clean up as long as it takes."""
        try:
            await end(work)
        finally:
            self._is_ending = False
            self._tell_all()

    def _give_up(self, text: str) -> None:
        self.post.resign()
        _log.error(text, feed=self.feed)
        self._tell_all()

    def _tell_all(self) -> None:
        self._on_change()
        self._relay.meetings.announce()

    def _log_change(self, change: Change) -> None:
        if change.is_owner and not change.owner:
            _log.info("this instance runs the feed", feed=self.feed, reason=change.reason)
        elif change.is_owner:
            _log.warning(
                "this instance takes the feed over", feed=self.feed, owner=change.owner, reason=change.reason
            )
        elif change.reason:
            _log.warning(
                "the feed is given up to another instance",
                feed=self.feed,
                owner=change.owner,
                reason=change.reason,
            )
        else:
            _log.info(
                "another instance runs the feed; this one stands by", feed=self.feed, owner=change.owner
            )

    def _on_left(self, peer: Peer) -> None:
        self.post.left(peer.origin, self._relay.clock())

    # What is announced.

    def _states(self) -> dict[str, FeedState]:
        return {self.feed: self._status()} if self.is_owner else {}

    def _candidacies(self) -> dict[str, Candidacy]:
        return {} if self.post.is_over else {self.feed: Candidacy(self.post.rank, self.is_owner)}
