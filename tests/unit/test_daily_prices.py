"""Daily prices in memory, in a file and on a real PostgreSQL server."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from fastws.market.daily_prices import DailyPrice, DailyPrices, newest_days
from fastws.market.store import Store

DAY = date(2025, 11, 11)


def price(symbol: str, days_ago: int, close: str = "10", **others: object) -> DailyPrice:
    number = Decimal(close) if "." in close else int(close)
    row = DailyPrice(symbol, DAY - timedelta(days_ago), None, None, None, number, None)
    return row._replace(**others)  # type: ignore[arg-type]


async def latest(store: Store, symbols: list[str]) -> dict[str, DailyPrice]:
    problems: dict[str, str] = {}
    days = await store.read(lambda connection: newest_days(connection, symbols, problems))
    assert problems == {}
    assert all(len(of) <= 2 and of == sorted(of, key=lambda day: day.date)[::-1] for of in days.values())
    return {symbol: of[0] for symbol, of in days.items()}


async def test_what_was_written_is_read_with_its_digits(store: Store) -> None:
    prices = DailyPrices(store)
    row = DailyPrice(
        "AAPL", DAY, Decimal("148.50"), Decimal("151.00"), 148, Decimal("150.250"), 50_000_000_000
    )
    assert await prices.write([row]) == 1
    (found,) = (await latest(store, ["AAPL", "MSFT"])).values()
    assert found == row
    assert [str(number) for number in found[2:]] == ["148.50", "151.00", "148", "150.250", "50000000000"]
    assert await prices.write([price("MSFT", 0)]) == 1
    assert (await latest(store, ["MSFT"]))["MSFT"] == price("MSFT", 0)


async def test_days_are_replaced_and_only_what_differs_is_counted(store: Store) -> None:
    prices = DailyPrices(store)
    assert await prices.write([]) == 0
    month = [price("AAPL", day, str(100 + day)) for day in range(30)]
    assert await prices.write(month) == 30
    assert await prices.write(month) == 0
    # In any order, and the last of a day counts.
    assert await prices.write([price("AAPL", 3, "5"), price("MSFT", 0, "6"), price("AAPL", 3, "7")]) == 2
    assert await prices.write([price("AAPL", 3, "7.0")]) == 1
    newest = await latest(store, ["MSFT", "AAPL", "NVDA"])
    assert {symbol: (row.date, row.close) for symbol, row in newest.items()} == {
        "AAPL": (DAY, 100),
        "MSFT": (DAY, 6),
    }


async def test_the_newest_day_of_each_of_many_symbols(store: Store) -> None:
    prices = DailyPrices(store)
    symbols = [f"S{i:04}" for i in range(700)]
    rows = [
        price(symbol, i % 5 + day, str(i + day + 1)) for i, symbol in enumerate(symbols) for day in range(3)
    ]
    assert await prices.write(rows) == 2100
    found = await latest(store, symbols)
    assert {symbol: (row.date, row.close) for symbol, row in found.items()} == {
        symbol: (DAY - timedelta(i % 5), i + 1) for i, symbol in enumerate(symbols)
    }


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (price("A", 0, "0"), "A on 2025-11-11: close: expected a price above 0, got 0"),
        (price("A", 0, "-1.5"), "close: expected a price above 0, got -1.5"),
        (price("A", 0, high=Decimal("NaN")), "high: expected a price above 0, got NaN"),
        (price("A", 0, low=Decimal("1E+99999999")), "low: expected a price above 0, got 1E"),
        (price("A", 0, open="5"), "open: expected a price above 0, got 5"),
        (price("A", 0, volume=-1), "volume: expected a volume of 0 or more, got -1"),
        (price("A", 0, volume=2**63), "volume: expected"),
    ],
)
async def test_what_is_no_price_is_refused_with_all_else(row: DailyPrice, problem: str) -> None:
    store = Store()
    await store.open()
    prices = DailyPrices(store)
    with pytest.raises(ValueError, match="expected") as caught:
        await prices.write([price("B", 0), row])
    assert problem in str(caught.value)
    assert await latest(store, ["A", "B"]) == {}
    await store.close()


async def test_a_symbol_with_a_day_that_cannot_be_used_is_named(store: Store) -> None:
    """Its older days are none: they would be taken for the newest."""
    await DailyPrices(store).write([price("AAPL", 3), price("MSFT", 0), price("NVDA", 1, "9")])
    wrong = [("AAPL", "2025-11-11", "much"), ("NVDA", "2025-11-11", "-1")]
    if store.path is not None or store.is_in_memory:  # it has no type for days
        wrong.append(("MSFT", "some day", "1"))
    for row in wrong:
        statement = "INSERT INTO daily_prices (symbol, date, close) VALUES ({!r}, {!r}, {!r})".format(*row)
        await store.run(lambda connection, statement=statement: connection.exec_driver_sql(statement))  # type: ignore[misc]
    problems: dict[str, str] = {}
    symbols = ["AAPL", "MSFT", "NVDA"]
    days = await store.read(lambda connection: newest_days(connection, symbols, problems))
    assert sorted(problems) == sorted(symbol for symbol, _, _ in wrong)
    assert problems["AAPL"] == "daily_prices: close on 2025-11-11: expected a price above 0, got 'much'"
    assert days.keys() == set(symbols) - problems.keys()
    if "MSFT" in problems:
        assert problems["MSFT"].startswith("daily_prices: date: expected a day such as")
