"""Time that passes only while somebody looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.relay.awake_clock import READING_SECONDS, STANDSTILL_SECONDS, AwakeClock


class Stopwatch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def passed(watch: Stopwatch, clock: AwakeClock, seconds: float) -> float:
    """How much passes by `clock` while `seconds` pass in which it is looked at."""
    before = clock()
    for _ in range(round(seconds / 0.05)):
        watch.now += 0.05
        clock()
    return clock() - before


def test_time_passes_while_it_is_looked_at() -> None:
    watch = Stopwatch()
    clock = AwakeClock(watch)
    assert clock() == 1000
    assert passed(watch, clock, 60) == pytest.approx(60)


def test_a_standstill_takes_no_time_and_what_was_said_meanwhile_is_read_first() -> None:
    watch = Stopwatch()
    clock = AwakeClock(watch)
    before = clock()
    watch.now += 1000
    assert clock() - before == pytest.approx(0.05)
    assert passed(watch, clock, READING_SECONDS) == pytest.approx(0)
    assert passed(watch, clock, 1) == pytest.approx(1)


def test_time_passes_also_where_one_standstill_follows_on_another() -> None:
    watch = Stopwatch()
    clock = AwakeClock(watch)
    before = clock()
    for _ in range(100):
        watch.now += STANDSTILL_SECONDS + 0.1
        clock()
    assert clock() - before == pytest.approx(5)


@given(st.lists(st.floats(0, 3), max_size=50))
def test_it_never_goes_back_and_never_faster_than_the_clock(steps: list[float]) -> None:
    watch = Stopwatch()
    clock = AwakeClock(watch)
    last = clock()
    for step in steps:
        watch.now += step
        now = clock()
        assert -1e-9 <= now - last <= step + 1e-9
        last = now
