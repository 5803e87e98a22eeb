"""Numbered changes, and all of it part by part: nothing is known that is not, and what is lost is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastws.relay.numbering import Numbering


def test_changes_are_taken_once_and_a_gap_shows() -> None:
    known = Numbering()
    assert known.take_part(0, 5, is_last=True)
    assert known.is_whole
    assert known.take_change(6)
    assert not known.take_change(6)
    assert not known.take_change(5)
    known.announced(6)
    assert known.is_whole
    assert known.take_change(8)
    assert not known.is_whole
    assert known.is_to_be_asked(10.0, 2.0)
    assert not known.is_to_be_asked(11.0, 2.0)
    assert known.is_to_be_asked(12.0, 2.0)


def test_one_that_was_announced_and_has_not_come_shows() -> None:
    known = Numbering()
    assert known.take_part(0, 5, is_last=True)
    known.announced(6)
    assert not known.is_whole


def test_a_beginning_that_comes_again_begins_again() -> None:
    known = Numbering()
    for part in (0, 1, 0, 1):
        assert known.take_part(part, 3, is_last=False)
    assert not known.take_part(0 + 1, 3, is_last=False)
    assert known.take_part(2, 3, is_last=True)
    assert known.is_whole


_EVENTS = st.lists(st.sampled_from(["change", "all", "lose a change", "lose a part", "twice"]), max_size=12)


@given(_EVENTS, st.integers(1, 4))
def test_it_is_whole_only_where_everything_has_come(events: list[str], n_parts: int) -> None:
    """Against a model that remembers what has come; messages keep their order, and any can be lost or come twice."""
    known = Numbering()
    number = 0
    here: set[int] = set()
    for event in events:
        if event in ("change", "lose a change", "twice"):
            number += 1
            for _ in range({"change": 1, "lose a change": 0, "twice": 2}[event]):
                if known.take_change(number):
                    here.add(number)
        else:
            parts = list(range(n_parts))
            if event == "lose a part":
                parts.remove(n_parts // 2)
            taken = [part for part in parts if known.take_part(part, number, is_last=part == n_parts - 1)]
            if taken == list(range(n_parts)):
                here = set(range(1, number + 1))
        known.announced(number)
        if known.is_whole:
            assert here == set(range(1, number + 1))
    assert known.take_part(0, number, is_last=True)
    assert known.is_whole
