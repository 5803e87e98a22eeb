"""The pace at which clients are let go to another process, on a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from fastws.server.gradual_drain import Pace

N = 5000
SPREAD = 5.0
BIN = 0.1
EVEN = N * BIN / SPREAD


def returns(turn: Callable[[], float]) -> tuple[Counter[int], float]:
    """Let `N` clients go, with turns of the loop that take as long as `turn` says; returns how many come back in each
    `BIN`, and when the last was told to."""
    random = Random(7)
    step = SPREAD / N
    pace = Pace(step, 0.0)
    now, n_gone = 0.0, 0
    bins: Counter[int] = Counter()
    while n_gone < N:
        now += turn()
        n_due = min(N, int(now / step) + 1) - n_gone
        n = min(n_due, pace.most(now))
        bins.update(int((now + random.uniform(0, 0.1)) / BIN) for _ in range(n))
        n_gone += n
    return bins, now


@pytest.mark.parametrize("busy", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("stall", [0.0, 0.2, 0.5, 1.5])
def test_nobody_rushes_however_busy_the_process_is(busy: float, stall: float) -> None:
    random = Random(3)

    def turn() -> float:
        # Twice a second something holds the loop up.
        stalls = stall if random.random() < 0.02 else 0.0
        return 0.01 + random.uniform(0, busy) + stalls

    bins, took = returns(turn)
    assert max(bins.values()) < 2 * EVEN
    assert took < SPREAD * 1.02 or stall
    if not stall and not busy:
        assert max(bins.values()) < 1.3 * EVEN


def test_a_few_are_not_held_up() -> None:
    pace = Pace(1.0, 0.0)
    assert [pace.most(0.01 * n) for n in range(3)] == [1, 1, 1]
    assert Pace(0.0, 0.0).most(0.0) == 1
