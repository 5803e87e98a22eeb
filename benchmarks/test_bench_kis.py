"""How fast KIS records become updates, beside a typed parser of nine of their fields in plain Python."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from benchmarks.conftest import Measure
from benchmarks.kis_frames import BOOK, trade_frames
from fastws._kis import KISParser
from fastws._market import BookUpdate, Instrument, PriceUpdate

KST = datetime.timezone(datetime.timedelta(hours=9))
N_FRAMES = 1000
FLOOR_PER_S = 2_000_000  # trade records, on one core
TIMES_PYTHON = 3.0


class Trade(NamedTuple):
    """Nine of the values that a PriceUpdate carries."""

    code: str
    price: int
    change: int
    change_percent: Decimal
    volume: int
    trade_volume: int
    high: int
    low: int
    event_time_ms: int


def parse_in_python(message: bytes) -> list[Trade]:
    """What a client in plain Python does at the least: split, regroup, convert nine values a record."""
    _, _, count, payload = message.decode().split("|", 3)
    values = payload.split("^")
    n_records = int(count)
    width, rest = divmod(len(values), n_records)
    if rest:
        return []
    trades = []
    for at in range(0, len(values), width):
        change = int(values[at + 4])
        percent = Decimal(values[at + 5])
        if values[at + 3] in "45":
            change, percent = -abs(change), -abs(percent)
        date, clock = values[at + 33], values[at + 1]
        event_time = datetime.datetime(
            int(date[:4]),
            int(date[4:6]),
            int(date[6:]),
            int(clock[:2]),
            int(clock[2:4]),
            int(clock[4:]),
            tzinfo=KST,
        )
        trades.append(
            Trade(
                values[at],
                int(values[at + 2]),
                change,
                percent,
                int(values[at + 13]),
                int(values[at + 12]),
                int(values[at + 8]),
                int(values[at + 9]),
                int(event_time.timestamp()) * 1000,
            )
        )
    return trades


def trade_of(update: PriceUpdate | BookUpdate) -> Trade:
    assert isinstance(update, PriceUpdate)
    assert isinstance(update.change_percent, Decimal)
    values: Any = (
        update.instrument.code,
        update.price,
        update.change,
        update.change_percent,
        update.volume,
        update.trade_volume,
        update.high,
        update.low,
        update.event_time_ms,
    )
    return Trade(*values)


def make_parser() -> KISParser:
    table: dict[str, Instrument] = {}
    return KISParser(lambda code: table.setdefault(code, Instrument(code)))


@pytest.mark.parametrize("n_records", [1, 3])
def test_trades(measure: Measure, n_records: int) -> None:
    """Trade frames of so many records, as PriceUpdate"""
    parser = make_parser()
    frames = trade_frames(N_FRAMES, n_records)

    def parse_all() -> int:
        parse = parser.parse
        return sum([len(parse(message)) for message in frames])

    n = n_records * N_FRAMES
    assert measure(parse_all, unit="records", items=n, size=sum(map(len, frames)), at_least=FLOOR_PER_S) == n
    assert [trade_of(update) for message in frames for update in parser.parse(message)] == [
        trade for message in frames for trade in parse_in_python(message)
    ]
    assert parser.n_bad == 0


@pytest.mark.parametrize("n_records", [1, 3])
def test_trades_in_plain_python(measure: Measure, n_records: int) -> None:
    """plain Python, nine typed fields of a record"""
    frames = trade_frames(200, n_records)

    def parse_all() -> int:
        return sum([len(parse_in_python(message)) for message in frames])

    n = n_records * len(frames)
    found = measure(
        parse_all,
        unit="records",
        items=n,
        size=sum(map(len, frames)),
        like="python",
        against=f"kis.trades[{n_records}]",
        at_least=TIMES_PYTHON,
    )
    assert found == n


def test_books(measure: Measure) -> None:
    """Order book frames of ten levels a side, as BookUpdate"""
    parser = make_parser()
    frames = [BOOK] * N_FRAMES

    def parse_all() -> int:
        parse = parser.parse
        return sum([len(parse(message)) for message in frames])

    assert measure(parse_all, unit="records", items=N_FRAMES, size=N_FRAMES * len(BOOK)) == N_FRAMES
    (update,) = parser.parse(BOOK)
    assert isinstance(update, BookUpdate)
    assert (update.n_bids, update.n_asks) == (10, 10)
    assert update.bids[0] == (277500, 70626)
    assert update.asks[9] == (282500, 120466)
