"""Messages as DataFrames, books as arrays."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastws.client.arrays import book_arrays, books_arrays
from fastws.client.errors import UsageError
from fastws.client.frames import BOOK_COLUMNS, PRICE_COLUMNS, to_frame
from fastws.client.messages import Gap, Level, OrderbookUpdate, PriceUpdate

TIME = datetime(2025, 11, 11, 9, 30, 0, 123000, UTC)


def price(value: int | Decimal, **more: Any) -> PriceUpdate:
    return PriceUpdate(timestamp=TIME, sequence=3, code="005930", name="Samsung", price=value, seq=1, **more)


BOOK = OrderbookUpdate(
    timestamp=TIME,
    sequence=4,
    code="005930",
    bids=[Level(100, 3), Level(Decimal("99.5"), 1)],
    asks=[Level(101, 2)],
    seq=1,
)


def test_prices() -> None:
    frame = to_frame(
        [price(73000, volume=2**53 + 1, venue="KRX"), Gap("A", "price", 1, 2), BOOK, price(Decimal("1.90"))]
    )
    assert list(frame.columns) == list(PRICE_COLUMNS)
    assert frame["price"].tolist() == [73000.0, 1.9]
    assert frame["volume"].tolist() == [2**53 + 1, pd.NA]
    assert frame["venue"].isna().tolist() == [False, True]
    assert frame["timestamp"].tolist() == [pd.Timestamp(TIME)] * 2
    assert frame["event_time"].isna().all()
    exact = to_frame([price(73000), price(Decimal("1.90"))], exact=True)
    assert [str(value) for value in exact["price"]] == ["73000", "1.90"]


@pytest.mark.parametrize("messages", [[], [price(1), BOOK]])
def test_dtypes_are_those_documented_also_of_nothing(messages: list[Any]) -> None:
    texts, times = ("code", "name", "venue", "quality"), ("event_time", "timestamp")
    for kind in ("price", "orderbook"):
        frame = to_frame(messages, kind)  # type: ignore[arg-type]
        for name, dtype in frame.dtypes.items():
            if name in texts:
                wanted = "str"
            elif name in times:
                wanted = "datetime64[ms, UTC]"
            else:
                wanted = {
                    "volume": "Int64",
                    "trade_volume": "Int64",
                    "sequence": "int64",
                    "seq": "int64",
                }.get(str(name), "bool" if name in ("snapshot", "stale") else "float64")
            assert str(dtype) == wanted or (wanted == "str" and pd.api.types.is_string_dtype(dtype)), name


def test_books() -> None:
    frame = to_frame([BOOK], "orderbook")
    assert list(frame.columns) == list(BOOK_COLUMNS)
    row = frame.iloc[0]
    assert (row["bid_price_2"], row["bid_quantity_1"], row["ask_price_1"]) == (99.5, 3, 101)
    assert np.isnan(row["ask_price_2"])
    one = book_arrays(BOOK, 2)
    assert one.bids.tolist() == [[100, 3], [99.5, 1]]
    assert one.mid == 100.5
    assert one.imbalance == pytest.approx(2 / 6)
    many = books_arrays(
        [BOOK, OrderbookUpdate(timestamp=TIME, sequence=1, code="A", bids=[], asks=[], seq=1)]
    )
    assert many.bids.shape == (2, 10, 2)
    assert np.isnan(many.imbalance).tolist() == [False, True]
    assert np.isnan(many.mid).tolist() == [False, True]


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="kind: expected"):
        to_frame([], "book")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="exact: it is for prices"):
        to_frame([], "orderbook", exact=True)
