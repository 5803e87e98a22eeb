"""Some portfolios read again, in the place of what was loaded: the same as if all had been read anew."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from portfolio_desk import Held, loaded

from fastws.market.portfolio_merge import merge
from fastws.market.portfolio_store import Closes, Loaded

codes = st.sampled_from(["AAPL", "MSFT", "005930", "NEW"])
held = st.builds(
    Held,
    st.dictionaries(codes, st.integers(1, 100), max_size=4),
    owner=st.sampled_from(["kim", "lee"]),
    name=st.sampled_from(["A", "B"]),
    currency=st.sampled_from(["USD", None]),
)
shelves = st.dictionaries(st.integers(-3, 8), held, max_size=8)


def contents(found: Loaded) -> dict[int, Any]:
    """Everything by id, whatever the order of symbols."""
    assert found.position_portfolios.tolist() == sorted(found.position_portfolios.tolist())
    assert found.ids.tolist() == sorted(set(found.ids.tolist()))
    positions: dict[int, dict[str, int]] = {place: {} for place in range(len(found.ids))}
    for place, symbol, quantity in zip(
        found.position_portfolios.tolist(),
        found.position_symbols.tolist(),
        found.quantities.tolist(),
        strict=True,
    ):
        assert found.symbols[symbol] not in positions[place]
        positions[place][found.symbols[symbol]] = quantity
    assert len(set(found.symbols)) == len(found.symbols)
    return {
        number: (found.owners[place], found.names[place], found.currencies[place], positions[place])
        for place, number in enumerate(found.ids.tolist())
    }


@given(shelves, shelves, st.sets(st.integers(-3, 8)))
def test_a_part_in_its_place(before: dict[int, Held], after: dict[int, Held], ids: set[int]) -> None:
    part = loaded({number: item for number, item in after.items() if number in ids})
    old = loaded(before, version=7)
    shown = contents(old)
    merged = merge(old, ids, part)
    wanted = {number: item for number, item in before.items() if number not in ids}
    wanted |= {number: item for number, item in after.items() if number in ids}
    assert contents(merged) == contents(loaded(wanted))
    assert merged.version == 7
    assert contents(old) == shown
    for name in ("ids", "position_portfolios", "position_symbols", "quantities"):
        assert getattr(merged, name).dtype == getattr(old, name).dtype
        assert getattr(merged, name).flags.c_contiguous


def test_closes() -> None:
    old = loaded({1: Held({"AAPL": 1, "MSFT": 1})}, {"AAPL": Closes(1), "MSFT": Closes(2)})
    part = loaded({2: Held({"NEW": 1})}, {"NEW": Closes(3)})
    merged = merge(old, [2], part, {"MSFT": Closes(Decimal("2.5"))})
    assert merged.closes == {"AAPL": Closes(1), "MSFT": Closes(Decimal("2.5")), "NEW": Closes(3)}
    assert merge(old, (), loaded({}), {"AAPL": Closes(9)}).closes["AAPL"] == Closes(9)
    assert old.closes["MSFT"] == Closes(2)
