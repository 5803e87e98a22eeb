"""How old what a client knows is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fastws.client import ages as client_ages
from fastws.client.ages import Ages

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_ages_are_by_the_clock_of_the_server() -> None:
    ages = Ages()
    ages.take("005930", NOON)
    assert ages.age("005930", 100.0) is None
    ages.set_clock("2026-11-23T12:00:01.500Z", 100.0)
    assert ages.age("005930", 100.0) == 1.5
    assert ages.age("005930", 103.0) == 4.5
    assert ages.age("000660", 103.0) is None
    # The clock of the server was set, and a pong has said so.
    ages.set_clock("2026-11-23T12:00:01.000Z", 103.0)
    assert ages.age("005930", 103.0) == 1.0
    ages.take("005930", NOON + timedelta(seconds=5))
    assert ages.age("005930", 103.0) == 0.0
    ages.forget(["005930"])
    assert ages.age("005930", 103.0) is None


def test_a_symbol_is_stale_until_something_says_otherwise() -> None:
    ages = Ages()
    for code in ("A", "B", "C", "D"):
        ages.note(code, "stale")
    assert ages.is_stale("A")
    ages.take("A", NOON, is_live=False)  # a snapshot: the value is as old as it was
    assert ages.is_stale("A")
    ages.take("A", NOON)
    ages.note("B", "live")
    ages.forget(["C"])
    assert [ages.is_stale(code) for code in ("A", "B", "C", "D", "E")] == [False, False, False, True, False]
    ages.begin()
    assert not ages.is_stale("D")


def test_a_symbol_with_nothing_but_values_of_before_is_stale() -> None:
    ages = Ages()
    ages.set_clock("2026-11-23T12:00:00.000Z", 0.0)
    yesterday = NOON - timedelta(days=1)
    for code in ("A", "B", "C"):
        ages.take(code, yesterday, is_live=False, is_restored=True)
    # The other channel of each is newer, in either order.
    ages.take("B", NOON, is_live=False)
    ages.take("D", NOON, is_live=False)
    ages.take("D", yesterday, is_live=False, is_restored=True)
    ages.note("C", "live")
    codes = ("A", "B", "C", "D", "E")
    assert [ages.is_stale(code) for code in codes] == [True, False, True, False, False]
    assert [ages.age(code, 0.0) for code in codes] == [86_400.0, 0.0, 86_400.0, 0.0, None]
    ages.take("A", NOON)
    ages.forget(["C"])
    assert not any(ages.is_stale(code) for code in codes)
    # A later session, or another server, says again what is from before.
    for change in (ages.begin, ages.change_server):
        ages.take("A", NOON)
        change()
        assert not ages.is_stale("A")
        ages.take("A", yesterday, is_restored=True)
        assert ages.is_stale("A")


def test_names_without_number_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_ages, "_MOST_CODES", 2)
    ages = Ages()
    ages.set_clock("2026-11-23T12:00:00.000Z", 0.0)
    for number in range(5):
        ages.take(f"{number}", NOON)
        ages.note(f"{number}", "stale")
    assert [ages.age(f"{number}", 1.0) for number in range(5)] == [1.0, 1.0, None, None, None]
    assert [ages.is_stale(f"{number}") for number in range(5)] == [True, True, False, False, False]
    ages.take("0", NOON + timedelta(seconds=1))
    assert ages.age("0", 1.0) == 0.0
    ages.take("9", NOON, is_restored=True)
    assert not ages.is_stale("9")
