"""What is usual for a symbol, and what is silence."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws._freshness import Cadences

# A second between two looks, as the server has it.
LEAST, MOST = 10.0, 1800.0


class Arrivals:
    """Symbols that are updated at random, looked at every second from `self.now` on."""

    def __init__(self, means: npt.ArrayLike, seed: int = 1) -> None:
        self.means = np.array(means, float)
        self.n = len(self.means)
        self.rng = np.random.default_rng(seed)
        self.now = 1000.0
        self.seq = np.zeros(self.n, np.int64)
        self.at = np.zeros(self.n)
        self.cadences = Cadences(least=LEAST, most=MOST, learning=0.0)
        self.cadences.add(self.n, self.now)
        self.cadences.look(self.seq, self.at, self.now)
        self.cadences.enter(range(self.n), 0, self.now)

    def run(self, seconds: int, burst: float = 1.0) -> list[int]:
        """Arrivals of a Poisson process, each of `burst` updates in the mean; returns which were found stale."""
        found = []
        for _ in range(seconds):
            self.now += 1.0
            n = self.rng.poisson(1.0 / self.means)
            if burst > 1.0:
                n *= self.rng.geometric(1.0 / burst, self.n)
            came = n > 0
            # The last of n moments within the second.
            self.at[came] = self.now - 1.0 + self.rng.random(int(came.sum())) ** (1.0 / n[came])
            self.seq += n
            found += self.cadences.look(self.seq, self.at, self.now)[0]
        return found

    def silence(self, seconds: int) -> dict[int, float]:
        """Nothing any more; when each symbol was found stale, as seconds since its last update."""
        found: dict[int, float] = {}
        for _ in range(seconds):
            self.now += 1.0
            stale, _ = self.cadences.look(self.seq, self.at, self.now)
            found |= {i: self.now - float(self.at[i]) for i in stale}
        return found

    def beat(self, n: int, every: float) -> None:
        """Updates of all at a fixed interval, each seen for itself."""
        for _ in range(n):
            self.now += every
            self.at[:] = self.now
            self.seq += 1
            self.cadences.look(self.seq, self.at, self.now)


def test_independent_arrivals_raise_no_false_alarm_and_silence_is_found_in_time() -> None:
    """Of 1,000 symbols from 20 updates a second to two a minute none is stale within two hours and a half;
    then all of them, after 10 s or 60 of their mean intervals."""
    arrivals = Arrivals(np.geomspace(0.05, 30.0, 1000))
    assert arrivals.run(9_000) == []
    assert arrivals.cadences.n_judged == 1000
    found = arrivals.silence(60 * 30)
    assert len(found) == 1000
    for i, seconds in found.items():
        assert LEAST < seconds <= max(LEAST, 60.0 * arrivals.means[i]) + 2.0
    # The usual case, of those that are over the least.
    ratios = [seconds / arrivals.means[i] for i, seconds in found.items() if seconds > LEAST + 2.0]
    assert np.median(ratios) < 35.0


def test_a_rush_at_the_opening_and_bursts_raise_hardly_any_alarm() -> None:
    """Two hours of a first day: 20 times as much at the opening, half of that after a minute and a half, and in bursts
    of four; of 200 symbols two may be found stale, once."""
    usual = np.geomspace(0.3, 60.0, 200)
    arrivals = Arrivals(usual)
    arrivals.cadences.configure(least=LEAST, most=600.0, learning=600.0)
    found = []
    for minute in range(120):
        arrivals.means = usual / (1.0 + 20.0 * 0.5 ** (minute / 1.5))
        found += arrivals.run(60, burst=4.0)
    assert len(found) <= 2
    assert arrivals.cadences.n_judged > 120


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.floats(1.0, 4.0))
def test_a_rate_that_changes_slowly_raises_no_alarm(seed: int, mean: float, factor: float) -> None:
    """The rush of the opening is over after half an hour."""
    arrivals = Arrivals(np.full(20, mean), seed)
    for _ in range(30):
        assert arrivals.run(60) == []
        arrivals.means = arrivals.means * factor ** (1 / 30)


def test_bursts_are_learned_by_their_pauses() -> None:
    """Trades that come in clusters of twenty, and half a minute of nothing in between."""
    arrivals = Arrivals([1.0])
    arrivals.cadences.configure(least=LEAST, most=MOST, learning=600.0)
    found: list[int] = []
    for _ in range(60):
        arrivals.beat(20, 0.01)
        for _ in range(30):
            arrivals.now += 1.0
            found += arrivals.cadences.look(arrivals.seq, arrivals.at, arrivals.now)[0]
    assert found == []
    limit = arrivals.cadences.limit(0)
    assert limit is not None
    assert 300.0 < limit < 600.0


def test_nothing_is_judged_before_twenty_intervals() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(20, 1.0)  # the first begins before the session does, so these are 19 intervals
    assert arrivals.silence(3600) == {}
    arrivals = Arrivals([1.0])
    arrivals.beat(22, 1.0)
    assert arrivals.cadences.interval(0) == pytest.approx(1.0)
    assert arrivals.cadences.limit(0) == pytest.approx(10.0 * (1 + 5 / math.sqrt(21)), rel=1e-2)
    assert list(arrivals.silence(60)) == [0]


def test_nothing_is_judged_before_it_was_seen_for_long_enough() -> None:
    arrivals = Arrivals([1.0])
    arrivals.cadences.configure(least=LEAST, most=MOST, learning=60.0)
    arrivals.beat(500, 0.1)
    assert arrivals.cadences.limit(0) is None
    arrivals.beat(150, 0.1)
    assert arrivals.cadences.limit(0) == LEAST
    with pytest.raises(ValueError, match="learning"):
        arrivals.cadences.configure(least=LEAST, most=MOST, learning=4000.0)


def test_what_is_updated_too_seldom_is_not_judged() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(100, 120.0)
    assert arrivals.cadences.n_judged == 0
    assert arrivals.silence(20_000) == {}
    arrivals.cadences.configure(least=LEAST, most=10_000.0, learning=0.0)
    assert arrivals.cadences.n_judged == 1


def test_it_is_live_again_with_its_next_update() -> None:
    arrivals = Arrivals([1.0, 1.0])
    arrivals.beat(200, 0.4)
    assert sorted(arrivals.silence(20)) == [0, 1]
    assert arrivals.cadences.n_stale == 2
    arrivals.seq[1] += 1
    arrivals.at[1] = arrivals.now + 0.5
    assert arrivals.cadences.look(arrivals.seq, arrivals.at, arrivals.now + 1.0) == ([], [1])
    assert (arrivals.cadences.n_stale, arrivals.cadences.is_stale(0), arrivals.cadences.is_stale(1)) == (
        1,
        True,
        False,
    )


def test_an_outage_does_not_teach_that_outages_are_usual() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(200, 0.4)
    before = arrivals.cadences.limit(0)
    assert before is not None
    assert len(arrivals.silence(1200)) == 1
    arrivals.beat(1, 0.5)
    after = arrivals.cadences.limit(0)
    assert after is not None
    assert after <= 3.0 * before
    # And what was learned of it is forgotten by and by.
    arrivals.beat(4 * 9000, 0.4)
    assert arrivals.cadences.limit(0) == pytest.approx(LEAST, rel=0.2)


@pytest.mark.parametrize("every", [1.0, 0.2])
def test_each_outage_is_noticed_as_early_as_the_first(every: float) -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(int(3600 / every), every)
    for _ in range(9):
        (noticed,) = arrivals.silence(71).values()
        assert noticed <= 12.0
        arrivals.beat(int(300 / every), every)


def test_an_outage_before_a_symbol_is_judged_teaches_nothing() -> None:
    arrivals = Arrivals([1.0])
    arrivals.cadences.configure(least=LEAST, most=600.0, learning=600.0)
    arrivals.beat(300, 1.0)
    assert arrivals.silence(290) == {}
    arrivals.beat(400, 1.0)
    limit = arrivals.cadences.limit(0)
    assert limit is not None
    assert limit < 15.0


def test_pauses_that_are_usual_are_learned_whenever_they_begin() -> None:
    """They look like outages at first."""
    arrivals = Arrivals([1.0])
    arrivals.beat(1000, 0.2)
    n_found = 0
    for _ in range(20):
        n_found += len(arrivals.silence(60))
        arrivals.beat(20, 0.2)
    assert n_found <= 5
    limit = arrivals.cadences.limit(0)
    assert limit is not None
    assert limit > 60.0


def test_time_in_which_nothing_could_be_taken_is_no_silence() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(200, 0.4)
    assert arrivals.silence(5) == {}
    arrivals.now += 60.0
    arrivals.cadences.stand_still(60.0)
    assert arrivals.silence(4) == {}
    assert arrivals.cadences.silence(0, arrivals.now) == pytest.approx(9.0)
    assert len(arrivals.silence(2)) == 1
    with pytest.raises(ValueError, match="seconds"):
        arrivals.cadences.stand_still(-1.0)


def test_silence_outside_of_sessions_counts_for_nothing() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(200, 0.4)
    arrivals.cadences.enter([0], -1, arrivals.now)
    assert arrivals.cadences.n_judged == 0
    assert arrivals.silence(40_000) == {}
    arrivals.cadences.enter([0], 0, arrivals.now)
    assert arrivals.cadences.limit(0) == LEAST
    # From the opening on it counts: nothing comes at all.
    found = arrivals.silence(60)
    assert list(found) == [0]
    assert arrivals.cadences.silence(0, arrivals.now) == 60.0


def test_each_kind_of_session_has_its_own_cadence() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(200, 0.4)
    arrivals.cadences.enter([0], 1, arrivals.now)
    assert arrivals.cadences.limit(0) is None
    arrivals.beat(200, 20.0)
    limit = arrivals.cadences.limit(0)
    assert limit is not None
    assert limit > 200.0
    arrivals.cadences.enter([0], 0, arrivals.now)
    assert arrivals.cadences.limit(0) == LEAST


def test_an_excuse_lasts_until_the_limit_is_over_again() -> None:
    arrivals = Arrivals([1.0])
    arrivals.beat(200, 0.4)
    assert list(arrivals.silence(20)) == [0]
    arrivals.cadences.excuse(0, arrivals.now)
    assert arrivals.cadences.n_stale == 0
    assert arrivals.silence(int(LEAST)) == {}
    assert list(arrivals.silence(2)) == [0]


def test_room_is_made_for_more() -> None:
    cadences = Cadences(least=LEAST, most=MOST, learning=0.0)
    for n in (1, 10, 1000, 5000):
        cadences.add(n, 0.0)
    assert cadences.n == 6011
    seq, at = np.zeros(6011, np.int64), np.zeros(6011)
    assert cadences.look(seq, at, 1e6) == ([], [])
    with pytest.raises(IndexError):
        cadences.limit(6011)
    with pytest.raises(ValueError, match="expected 6011"):
        cadences.look(seq[1:], at, 0.0)


@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_limits_that_contradict_each_other(least: float, most: float) -> None:
    with pytest.raises(ValueError, match="least"):
        Cadences(least=least, most=most, learning=0.0)
