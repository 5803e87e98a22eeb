"""Prices and days as other applications store them."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest

from fastws.market.portfolio_queries import make_queries
from fastws.market.portfolio_rows import PortfolioRows, date_of, price_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (72000, "72000"),
        ("149.90", "149.90"),
        ("0.0001", "0.0001"),
        (Decimal("150.2500"), "150.2500"),
        (Decimal("1.5E+3"), "1500"),
        (150.25, "150.25"),
        (0.1 + 0.2, "0.3"),
        (1e-7, "0.0000001"),
        (1e15, "1000000000000000"),
    ],
)
def test_prices(value: object, expected: str) -> None:
    price = price_of(value)
    assert str(price) == expected or format(price, "f") == expected
    assert isinstance(price, Decimal if "." in expected else int)


@pytest.mark.parametrize(
    "value",
    [
        *(
            0,
            "0",
            "0.00",
            -1,
            "-1",
            "",
            "ten",
            "1e3",
            ".5",
            True,
            b"1",
            float("nan"),
            float("inf"),
            0.0,
            -1.5,
        ),
        *(Decimal("NaN"), Decimal(-1), Decimal("1E+99999999"), "1" * 31),
    ],
)
def test_what_is_no_price(value: object) -> None:
    with pytest.raises(ValueError, match="expected a price above 0, got"):
        price_of(value)


def test_days() -> None:
    day = datetime.date(2025, 11, 11)
    moment = datetime.datetime(2025, 11, 11, 23, 59, tzinfo=datetime.UTC)
    for value in (day, moment, "2025-11-11", "2025-11-11 09:30:00", "2025-11-11T09:30:00Z"):
        assert date_of(value) == day
        assert type(date_of(value)) is datetime.date
    assert date_of(None) is None
    for value in ("11.11.2025", "", 1, "2025-13-01"):
        with pytest.raises(ValueError, match="date: expected a day such as 2025-11-11, got"):
            date_of(value)


def test_currencies_are_three_letters() -> None:
    rows = PortfolioRows(make_queries().portfolios)
    found = {1: "usd", 2: "GBp", 3: None, 4: "", 5: "EURO", 6: "Dollars", 7: "US$", 8: "USD"}
    rows.add([(number, "kim", "A", currency) for number, currency in found.items()])
    rows.finish()
    assert dict(zip(rows.ids.tolist(), rows.currencies, strict=True)) == {
        1: "USD", 2: "GBp", 3: None, 4: None, 8: "USD",
    }  # fmt: skip
    assert rows.left_out == dict.fromkeys(
        (5, 6, 7), "currency: expected the three letters of a currency such as USD"
    )
