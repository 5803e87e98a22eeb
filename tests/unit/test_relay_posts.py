"""Which of several instances runs a feed, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from fastws.relay.posts import HANDOVER_SECONDS, SETTLE_SECONDS, START_SECONDS, Candidate, Change, Post

PATIENCE = 10.0


class Cluster:
    """Posts that hear each other every second, as far as they are connected to Redis."""

    def __init__(self, *ranks: int) -> None:
        self.now = 1000.0
        self.posts = {i: Post(i, rank, patience=PATIENCE, now=self.now) for i, rank in enumerate(ranks, 1)}
        self.status = dict.fromkeys(self.posts, "live")
        self.up_since: dict[int, float | None] = dict.fromkeys(self.posts, self.now)
        self.said: dict[int, dict[int, Candidate]] = {origin: {} for origin in self.posts}
        self.changes: list[tuple[int, Change]] = []
        self.log: list[tuple[float, frozenset[int]]] = []

    def add(self, rank: int) -> int:
        origin = max(self.said) + 1
        self.posts[origin] = Post(origin, rank, patience=PATIENCE, now=self.now)
        self.status[origin] = "live"
        self.up_since[origin] = self.now
        self.said[origin] = {}
        return origin

    def disconnect(self, *origins: int) -> None:
        for origin in origins:
            self.up_since[origin] = None

    def connect(self, *origins: int) -> None:
        for origin in origins:
            self.up_since[origin] = self.now

    def kill(self, origin: int) -> None:
        del self.posts[origin]

    def announce(self) -> None:
        for origin, post in self.posts.items():
            if self.up_since[origin] is None or post.is_over:
                continue
            claim = Candidate(origin, f"i{origin}", post.rank, post.is_owner, self.status[origin], self.now)
            for other in self.posts:
                if other != origin and self.up_since[other] is not None:
                    self.said[other][origin] = claim

    def heard(self, origin: int) -> list[Candidate]:
        return [claim for claim in self.said[origin].values() if self.now - claim.announced_at < 5.0]

    def run(self, seconds: float) -> None:
        for step in range(round(seconds * 10)):
            self.now += 0.1
            if step % 10 == 0:
                self.announce()
            for origin, post in self.posts.items():
                others = (
                    self.heard(origin)
                    if self.up_since[origin] is not None
                    else list(self.said[origin].values())
                )
                change = post.decide(self.now, self.up_since[origin], self.status[origin], others)
                if change is not None:
                    self.changes.append((origin, change))
                    self.announce()
            self.log.append((self.now, self.owners))

    @property
    def owners(self) -> frozenset[int]:
        return frozenset(origin for origin, post in self.posts.items() if post.is_owner)

    def had(self) -> Iterable[frozenset[int]]:
        return {owners for _, owners in self.log}


def test_the_first_in_the_row_runs_it_and_the_others_stand_by() -> None:
    cluster = Cluster(2, 0, 1)
    cluster.run(SETTLE_SECONDS + 0.2)
    assert cluster.owners == {2}
    cluster.run(60)
    assert set(cluster.had()) == {frozenset(), frozenset({2})}
    assert cluster.posts[1].owner == cluster.posts[3].owner == "i2"
    assert [origin for origin, _ in cluster.changes].count(1) == 1


def test_the_next_in_the_row_takes_over_from_one_that_has_died_and_keeps_it() -> None:
    cluster = Cluster(0, 2, 1, 1)
    cluster.run(5)
    assert cluster.owners == {1}
    cluster.kill(1)
    died_at = cluster.now
    cluster.run(PATIENCE - 1.5)
    assert cluster.owners == set()
    cluster.run(2.5)
    # Of two with the same rank, the one with the lower origin.
    assert cluster.owners == {3}
    assert cluster.now - died_at <= PATIENCE + 1.5
    assert cluster.posts[3].n_takeovers == 1
    # Whoever comes back stands by.
    back = cluster.add(0)
    cluster.run(60)
    assert cluster.owners == {3}
    assert cluster.posts[back].owner == "i3"
    assert not cluster.posts[back].is_settling
    assert all(len(owners) <= 1 for owners in cluster.had())


def test_what_is_given_up_is_taken_at_once() -> None:
    cluster = Cluster(0, 1)
    cluster.run(5)
    cluster.posts[1].resign()
    cluster.posts[2].left(1, cluster.now)
    del cluster.said[2][1]
    cluster.run(HANDOVER_SECONDS - 0.1)
    assert cluster.owners == set()
    cluster.run(0.2)
    assert cluster.owners == {2}
    assert cluster.changes[-1][1] == Change(True, "i1", "it was left to others")
    cluster.run(30)
    assert cluster.owners == {2}


def test_an_owner_that_goes_on_without_the_feed_has_given_it_up() -> None:
    cluster = Cluster(0, 1)
    cluster.run(5)
    cluster.posts[1].is_owner = False
    cluster.posts[1].rank = 5
    cluster.run(1 + HANDOVER_SECONDS + 0.2)
    assert cluster.owners == {2}


def test_nobody_takes_a_feed_over_because_redis_is_away() -> None:
    cluster = Cluster(0, 1, 2)
    cluster.run(5)
    for _ in range(5):
        cluster.disconnect(1, 2, 3)
        cluster.run(4 * PATIENCE)
        # All come back, each when it comes to it.
        for origin in (3, 2, 1):
            cluster.connect(origin)
            cluster.run(PATIENCE / 3 - 0.5)
    assert cluster.owners == {1}
    assert all(owners == {1} for at, owners in cluster.log if at > 1005)


def test_one_that_has_died_while_redis_was_away_is_missed_once_it_is_back() -> None:
    cluster = Cluster(0, 1)
    cluster.run(5)
    cluster.disconnect(1, 2)
    cluster.kill(1)
    cluster.run(100)
    assert cluster.owners == set()
    cluster.connect(2)
    cluster.run(PATIENCE - 0.5)
    assert cluster.owners == set()
    cluster.run(1)
    assert cluster.owners == {2}


def test_a_first_one_without_redis_runs_its_own_feed() -> None:
    cluster = Cluster(0, 1)
    cluster.disconnect(1, 2)
    cluster.run(START_SECONDS - 0.2)
    assert cluster.owners == set()
    cluster.run(60)
    assert cluster.owners == {1}
    cluster.connect(1, 2)
    cluster.run(60)
    assert cluster.owners == {1}


def test_one_that_has_heard_of_another_owner_does_not() -> None:
    cluster = Cluster(1, 0)
    cluster.run(3)
    cluster.kill(2)
    cluster.run(20)
    assert cluster.owners == {1}
    back = cluster.add(0)
    cluster.run(1.1)
    assert not cluster.posts[back].is_settling
    cluster.disconnect(1, back)
    cluster.run(60)
    assert cluster.owners == {1}


@pytest.mark.parametrize(
    ("states", "keeps"),
    [
        (("live", "live"), 1),
        (("reconnecting", "live"), 2),
        (("stale", "live"), 2),
        (("live", "stale"), 1),
        (("reconnecting", "reconnecting"), 1),
    ],
)
def test_two_that_run_it_are_one_as_soon_as_they_hear_of_each_other(
    states: tuple[str, str], keeps: int
) -> None:
    """Only Redis cannot reach the owner, so another one has taken over; then the partition heals."""
    cluster = Cluster(0, 1)
    cluster.run(5)
    cluster.disconnect(1)
    cluster.run(PATIENCE + 2)
    assert cluster.owners == {1, 2}
    cluster.run(100)
    assert cluster.owners == {1, 2}
    cluster.status = {1: states[0], 2: states[1]}
    cluster.connect(1)
    cluster.run(1.2)
    assert cluster.owners == {keeps}
    cluster.run(60)
    assert cluster.owners == {keeps}
    assert frozenset() not in {owners for at, owners in cluster.log if at > 1010}


def test_two_first_ones_are_one() -> None:
    cluster = Cluster(0, 0, 0)
    cluster.run(60)
    assert set(cluster.had()) == {frozenset(), frozenset({1})}


def test_standbys_wait_for_a_first_one_that_starts_later() -> None:
    cluster = Cluster(1)
    cluster.run(PATIENCE - 1)
    first = cluster.add(0)
    cluster.run(60)
    assert cluster.owners == {first}
    alone = Cluster(3)
    alone.run(PATIENCE + 0.2)
    assert alone.owners == {1}


def test_who_knows_that_nobody_else_runs_it_begins_at_once_and_goes_on() -> None:
    post = Post(1, 0, patience=PATIENCE, now=100.0, is_owner=True)
    assert post.decide(100.0, None, "stopped", []) is None
    standby = Candidate(2, "two", 0, False, "stopped", 101.0)
    assert post.decide(101.0, 100.5, "live", [standby]) is None
    assert post.is_owner


def test_what_the_process_before_has_left_needs_no_relay() -> None:
    before = Candidate(2, "two", 0, True, "live", 100.0)
    for is_heir in (True, False):
        post = Post(3, 1, patience=PATIENCE, now=100.0, before=2 if is_heir else 0)
        assert post.decide(100.0, None, "stopped", [before]) == Change(False, "two", "")
        assert post.decide(150.0, None, "stopped", []) is None
        post.left(2, 150.0)
        assert post.decide(150.0 + HANDOVER_SECONDS / 2, None, "stopped", []) is None
        post.decide(150.0 + HANDOVER_SECONDS, None, "stopped", [])
        assert post.is_owner is is_heir


def test_an_owner_that_is_known_from_elsewhere_is_waited_for() -> None:
    post = Post(3, 0, patience=PATIENCE, now=100.0, before=2)
    post.hear_of(Candidate(1, "one", 0, True, "live", 100.0))
    before = Candidate(2, "two", 0, False, "stopped", 100.0)
    assert post.decide(100.0 + 10 * START_SECONDS, None, "stopped", [before]) is None
    assert post.elsewhere is not None
    post.left(2, 130.0)
    assert post.decide(140.0, None, "stopped", []) is None
    # Redis is there again, and it is not.
    assert post.decide(200.0, 200.0, "stopped", []) is None
    post.decide(200.0 + PATIENCE, 200.0, "stopped", [])
    assert post.is_owner
