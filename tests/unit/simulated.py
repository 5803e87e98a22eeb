"""What the simulated exchange is given, and what it gives."""

from __future__ import annotations

from collections.abc import Iterable

from fastws._market import BookUpdate, Instrument, PriceUpdate, encode_screener

TODAY_MS = 1_762_819_200_000


def korean(code: str, previous_close: int | str | None, market: str = "KOSPI") -> Instrument:
    return Instrument(code, code, market=market, currency="KRW", previous_close=previous_close)


def american(code: str, previous_close: str | None, market: str = "NASDAQ") -> Instrument:
    return Instrument(code, code, market=market, currency="USD", previous_close=previous_close)


TABLE = [
    korean("005930", 72_000),
    korean("000660", 201_500),
    korean("035720", 49_950),
    korean("247540", 1_995, "KOSDAQ"),
    korean("068270", 5_010, "KOSDAQ"),
    korean("207940", 1_012_000),
    american("AAPL", "150.25"),
    american("GOOGL", "0.98"),
    american("IBM", "219.9", "NYSE"),
]


def texts(updates: Iterable[PriceUpdate | BookUpdate]) -> list[bytes]:
    return [encode_screener(update, TODAY_MS) for update in updates]
