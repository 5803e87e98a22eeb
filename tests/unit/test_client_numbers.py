"""What never came is found, what was declared is not found again, and what came before does not come twice."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.client import numbers as client_numbers
from fastws.client.messages import Gap, Lost, OrderbookUpdate, PriceUpdate
from fastws.client.numbers import Modes, Numbers

NOW = datetime(2025, 11, 11, tzinfo=UTC)
ALL = Modes({"A": True}, False)


def price(seq: int, code: str = "A") -> PriceUpdate:
    return PriceUpdate(timestamp=NOW, sequence=seq, code=code, name=code, price=1, seq=seq)


def book(seq: int, code: str = "A") -> OrderbookUpdate:
    return OrderbookUpdate(timestamp=NOW, sequence=seq, code=code, bids=[], asks=[], seq=seq)


def lost(first: int, last: int) -> Lost:
    return Lost("A", "price", last - first + 1, first, last)


def begun(modes: Modes = ALL, stocks: tuple[str, ...] = ("A",), *updates: PriceUpdate) -> Numbers:
    numbers = Numbers()
    numbers.hold(modes)
    numbers.take_snapshot(updates, stocks, max((update.sequence for update in updates), default=0))
    return numbers


def test_holes_repetitions_and_declared_losses() -> None:
    numbers = begun(ALL, ("A",), price(4))
    assert numbers.take(price(5)) is True
    assert numbers.take(price(8)) == [Gap("A", "price", 6, 7)]
    assert numbers.take(price(8)) is False
    assert numbers.take(price(3)) is False
    numbers.declare(lost(9, 12))
    assert numbers.take(price(13)) is True
    numbers.declare(lost(16, 17))
    # A loss declared after what came behind it.
    numbers.declare(lost(10, 11))
    assert numbers.take(price(18)) == [Gap("A", "price", 14, 15)]
    assert numbers.take(price(19)) is True
    # Nothing of its books was published when the snapshot was taken.
    assert numbers.take(book(2)) == [Gap("A", "orderbook", 1, 1)]


def test_what_was_declared_may_come_after_all_but_once() -> None:
    numbers = begun(ALL, ("A",), price(4))
    numbers.declare(lost(5, 8))
    # The session was restored in between.
    assert numbers.take(price(6)) is True
    assert numbers.take(price(6)) is False
    assert numbers.take(price(9)) is True
    assert numbers.take(price(8)) is False
    assert numbers.take(price(11)) == [Gap("A", "price", 10, 10)]


def test_what_is_between_two_declared_losses_is_still_on_its_way() -> None:
    numbers = begun(ALL, ("A",), price(150))
    numbers.declare(lost(153, 153))
    numbers.declare(lost(151, 151))
    assert numbers.take(price(152)) is True
    assert numbers.take(price(154)) is True
    # Nor has it to come: then both holes are named, and what was declared between them is not.
    numbers.declare(lost(156, 157))
    numbers.declare(lost(160, 161))
    numbers.declare(lost(165, 170))
    assert numbers.take(price(163)) == [
        Gap("A", "price", 155, 155),
        Gap("A", "price", 158, 159),
        Gap("A", "price", 162, 162),
    ]
    assert numbers.take(price(171)) == [Gap("A", "price", 164, 164)]


def test_losses_are_not_declared_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_numbers, "_MOST_LOSSES", 3)
    monkeypatch.setattr(client_numbers, "_MOST_LOSSES_IN_ALL", 5)
    both = Modes({"A": True, "B": True}, False)
    numbers = begun(both, ("A", "B"), price(4))
    assert [numbers.declare(lost(first, first)) for first in (6, 8, 10, 12, 14)] == [True] * 3 + [False] * 2
    # What touches the last one is no more.
    assert numbers.declare(lost(10, 11))
    # Of another there are as many, until all together are too many.
    others = [Lost("B", "price", 1, first, first) for first in (2, 4, 6)]
    assert [numbers.declare(other) for other in others] == [True, True, False]
    # Those that something has come behind are none of them any more, and what was not noted is missing.
    assert numbers.take(price(13)) == [
        Gap("A", "price", first, last) for first, last in ((5, 5), (7, 7), (9, 9), (12, 12))
    ]
    assert [numbers.declare(lost(first, first)) for first in (20, 22, 24, 26)] == [True] * 3 + [False]
    for release in (
        lambda: numbers.unknown("A"),
        lambda: numbers.hold(Modes({}, False)),
        numbers.forget,
    ):
        release()
        numbers.hold(both)
        numbers.take_snapshot([price(4)], ["A"], 4)
        assert [numbers.declare(lost(first, first)) for first in (6, 8, 10, 12)] == [True] * 3 + [False]


def test_of_mode_latest_nothing_is_missing() -> None:
    numbers = begun(Modes({"A": False}, False), ("A",), price(4))
    assert numbers.take(price(9)) is True
    numbers.declare(lost(20, 21))
    # All of it from now on: what comes before the snapshot is of before.
    assert numbers.take(price(15)) is True
    numbers.hold(ALL)
    assert numbers.take(price(20)) is True
    numbers.take_snapshot([price(22)], ["A"], 22)
    assert numbers.take(price(24)) == [Gap("A", "price", 23, 23)]
    numbers.hold(Modes({}, False))
    assert numbers.take(price(30)) is True


def test_members_of_markets_begin_anywhere_and_snapshots_leave_what_is_exact() -> None:
    numbers = begun(Modes({"A": True}, True), (), price(7, "B"))
    assert numbers.take(price(9, "B")) == [Gap("B", "price", 8, 8)]
    assert numbers.take(price(40, "C")) is True
    assert numbers.take(price(42, "C")) == [Gap("C", "price", 41, 41)]
    # A snapshot that is ahead of what is still to come.
    numbers.take_snapshot([price(50, "C")], [], 42)
    assert numbers.take(price(43, "C")) is True
    numbers.forget()
    assert numbers.take(price(1, "C")) is True
    numbers.unknown("A")
    assert numbers.take(price(77)) is True
    assert numbers.take(price(79)) == [Gap("A", "price", 78, 78)]


def test_a_snapshot_that_is_ahead_does_not_hide_what_is_still_to_come() -> None:
    numbers = begun(ALL, ())
    # The session is restored, and what was missed is still on its way.
    numbers.take_snapshot([price(50), book(7)], ["A"], 42)
    assert numbers.take(price(43)) is True
    assert numbers.take(price(45)) == [Gap("A", "price", 44, 44)]
    assert numbers.take(book(9)) == [Gap("A", "orderbook", 8, 8)]


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(["send", "lose", "declare", "repeat"]), st.integers(1, 4))),
)
def test_what_is_told_is_what_was_lost(first: int, events: list[tuple[str, int]]) -> None:
    numbers = begun(ALL, ("A",), *([price(first)] if first else []))
    published = first
    missing: set[int] = set()
    told: set[int] = set()
    taken: list[int] = []
    for event, n in [*events, ("send", 1)]:
        if event == "send":
            for _ in range(n):
                published += 1
                verdict = numbers.take(price(published))
                assert verdict is not False
                for gap in verdict if isinstance(verdict, list) else ():
                    told |= set(range(gap.from_seq, gap.to_seq + 1))
                taken.append(published)
        elif event == "lose":
            missing |= set(range(published + 1, published + n + 1))
            published += n
        elif event == "declare":
            numbers.declare(lost(published + 1, published + n))
            published += n
        elif taken:
            assert numbers.take(price(taken[-min(n, len(taken))])) is False
    assert told == missing


def test_names_without_number_are_passed_on_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_numbers, "_MOST_KEYS", 4)
    numbers = begun(Modes({"A": True}, True), ("A",), price(4))
    for number in range(10):
        assert numbers.take(price(1, f"made up {number}")) is True
    numbers.take_snapshot([price(1, f"made up {number}") for number in range(10, 20)], (), 1)
    assert len(numbers._last) == 4
    assert numbers.take(price(6)) == [Gap("A", "price", 5, 5)]
    assert numbers.take(price(9, "made up 9")) is True
