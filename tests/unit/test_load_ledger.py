"""What a client that is killed says, held against what was published."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.scenarios.ledger import Ledger
from benchmarks.scenarios.publishing import Record

KEY = ("price_update", "A")


def made(n_published: int) -> tuple[Record, Ledger]:
    record = Record()
    for _ in range(n_published):
        record.add(KEY, 100)
    return record, Ledger("it", record, ["A"], [])


def value(number: int, *, is_snapshot: bool = False) -> list[Any]:
    return ["value", *KEY, number, 100, is_snapshot]


def told(ledger: Ledger, *items: list[Any]) -> list[str]:
    for item in items:
        ledger.take(item)
    return ledger.faults


def test_each_update_once_and_in_order() -> None:
    _, ledger = made(5)
    assert told(ledger, value(1, is_snapshot=True), value(2), value(3), value(4)) == []
    assert ledger.is_complete


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        ([value(0), value(2)], "update 2 after 0, and nothing was said"),
        ([value(0), value(0)], "update 0 after 0"),
        ([value(9)], "number 9 was never published"),
        ([["value", *KEY, 0, 7, False]], "7, published was 100"),
        ([value(3), value(1, is_snapshot=True)], "a snapshot of update 1 after 3"),
        ([["gap", "price", "A", 1, 2]], "it said"),
    ],
)
def test_what_is_missing_double_or_wrong_is_a_fault(items: list[list[Any]], fault: str) -> None:
    _, ledger = made(5)
    assert fault in "\n".join(told(ledger, *items))


def test_what_was_declared_may_be_missing() -> None:
    _, ledger = made(6)
    lost = ["lost", "price", "A", 2, 3]
    assert told(ledger, value(0), lost, value(3), ["waiting", 1006], ["open", False], value(5)) == []


def test_it_is_complete_when_it_is_back_and_has_the_last_value() -> None:
    record, ledger = made(1)
    assert not ledger.is_complete
    told(ledger, value(0), ["waiting", 1006])
    assert ledger.missing() == {}
    assert not ledger.is_complete
    told(ledger, ["open", True])
    assert ledger.is_complete
    record.add(KEY, 100)
    assert ledger.missing() == {KEY: (0, 1)}
    assert not ledger.is_complete
