"""Which connection of an address goes when too many wait for a request."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from fastws.server.waiting import PATIENCE_SECONDS, Waiting


def test_the_oldest_goes_beyond_the_limit_once_it_has_had_its_time() -> None:
    waiting: Waiting[str] = Waiting()
    for i, thing in enumerate("abc"):
        waiting.add(thing, "x", float(i))
    waiting.add("other", "y", 0.0)
    assert waiting.excess("x", 3, 100.0, is_scarce=True) is None
    assert waiting.excess("x", 0, 100.0, is_scarce=True) is None
    assert waiting.excess("nobody", 1, 100.0, is_scarce=True) is None
    assert waiting.excess("x", 2, PATIENCE_SECONDS - 0.1, is_scarce=False) is None
    assert waiting.excess("x", 2, PATIENCE_SECONDS, is_scarce=False) == "a"
    assert waiting.excess("x", 2, 2.0, is_scarce=True) == "a"
    waiting.touch("a", 5.0)
    assert waiting.excess("x", 2, 5.0, is_scarce=False) == "b"
    waiting.discard("b")
    assert waiting.excess("x", 2, 100.0, is_scarce=True) is None
    assert len(waiting) == 3


def test_idle_ones_go_first_and_busy_ones_only_for_want_of_room() -> None:
    waiting: Waiting[str] = Waiting()
    for thing in "abcdefghijkl":
        waiting.add(thing, "x", 0.0)
    assert waiting.excess("x", 2, 9.0, is_scarce=False, is_idle=lambda thing: thing == "c") == "c"
    assert waiting.excess("x", 2, 9.0, is_scarce=False, is_idle=lambda _: False) is None
    assert waiting.excess("x", 2, 9.0, is_scarce=True, is_idle=lambda _: False) == "a"
    # However many are busy, only a few are looked at.
    assert waiting.excess("x", 2, 9.0, is_scarce=False, is_idle=lambda thing: thing == "l") is None


@given(st.lists(st.tuples(st.sampled_from(["add", "touch", "discard"]), st.integers(0, 5)), max_size=40))
def test_nothing_is_left_behind(steps: list[tuple[str, int]]) -> None:
    waiting: Waiting[int] = Waiting()
    order: list[int] = []
    for n, (step, thing) in enumerate(steps):
        if step == "add" and thing not in order:
            waiting.add(thing, f"key {thing % 2}", float(n))
            order.append(thing)
        elif step == "touch":
            waiting.touch(thing, float(n))
            if thing in order:
                order.remove(thing)
                order.append(thing)
        elif step == "discard":
            waiting.discard(thing)
            order = [one for one in order if one != thing]
        for parity in (0, 1):
            mine = [one for one in order if one % 2 == parity]
            expected = mine[0] if len(mine) > 1 else None
            assert waiting.excess(f"key {parity}", 1, 1e9, is_scarce=False) == expected
    for thing in order:
        waiting.discard(thing)
    assert len(waiting) == 0
    assert waiting._by_key == {}


def test_a_crowd_costs_little() -> None:
    waiting: Waiting[int] = Waiting()
    began = time.process_time()
    for thing in range(20_000):
        waiting.add(thing, "x", 0.0)
        waiting.excess("x", 100, 1.0, is_scarce=False)
    # Some 10 ms; the bound leaves room for a slow machine, and none for a search through all of them.
    assert time.process_time() - began < 1.0


def test_those_who_were_heard_are_not_passed_over_again_and_again() -> None:
    waiting: Waiting[int] = Waiting()
    for thing in range(200_000):
        waiting.add(thing, "x", 0.0)
    for thing in range(100_000):
        waiting.touch(thing, 0.0)
    for thing in range(100_000, 190_000):
        waiting.discard(thing)
    began = time.process_time()
    for _ in range(30_000):
        assert waiting.excess("x", 100, 100.0, is_scarce=False) == 190_000
    assert time.process_time() - began < 1.0
