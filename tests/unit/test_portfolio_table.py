"""What watched portfolios are worth: against `decimal`, from scratch, whatever prices and watchers do."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from portfolio_desk import EXACT, INSTRUMENTS, MS, TODAY, Held, loaded, members, read, worth

from fastws._core import CHANNEL_PRICE, Channel, Hub
from fastws._market import PriceUpdate
from fastws._portfolios import PortfolioTable, PortfolioValue, encode_realtime, encode_screener
from fastws.market.portfolio_store import Close, Closes

YESTERDAY = TODAY - datetime.timedelta(days=1)


@pytest.fixture(scope="module", autouse=True)
def hub() -> Iterator[Hub]:
    loop = asyncio.new_event_loop()
    Desk.hub = hub = Hub(loop, epoch="test")
    yield hub
    hub.stop()
    loop.close()


class Desk:
    """A table with the prices that it has been given, and what portfolios are to be worth by them."""

    hub: Hub

    def __init__(self, portfolios: dict[int, Held], closes: dict[str, Closes] | None = None) -> None:
        self.portfolios = portfolios
        self.closes = closes or {}
        self.prices: dict[str, PriceUpdate] = {}
        self.channels: dict[int, Channel] = {}
        self.now_ms = MS
        self.table = PortfolioTable(
            loaded(portfolios, self.closes), self.prices.get, INSTRUMENTS.get, lambda: self.now_ms
        )

    def watch(self, *numbers: int) -> None:
        for number in numbers:
            self.table.watch(self.table.find(number), self.channel(number))

    def channel(self, number: int) -> Channel:
        if number not in self.channels:
            self.channels[number] = self.hub.channel(
                str(number), "portfolio", (self.hub.topic("portfolio", str(number)),),
                bit=CHANNEL_PRICE, numbered=False, private=True,
            )  # fmt: skip
        return self.channels[number]

    def left(self, seconds: float = 60.0) -> set[int]:
        """Have what is due leave; which portfolios something was published of, each of them once."""
        before = {number: channel.seq for number, channel in self.channels.items()}
        self.table.take_due()
        self.table.publish_due(self.hub, seconds)
        more = {number: channel.seq - before[number] for number, channel in self.channels.items()}
        assert set(more.values()) <= {0, 1}
        return {number for number, n in more.items() if n}

    def shown(self, number: int) -> dict[str, Any]:
        """What was published last."""
        return members(self.channels[number].last_payload.members)

    def price(self, code: str, price: Any, **fields: Any) -> bool:
        update = PriceUpdate(INSTRUMENTS[code], price, **fields)
        self.prices[code] = update
        return self.table.set_price(update)

    def value(self, number: int) -> dict[str, Any]:
        return members(self.table.value(self.table.find(number)).members)

    def expected(self, number: int) -> dict[str, Any]:
        held = self.portfolios[number]
        return worth(held, self.prices, self.closes).members(number, held)


def test_the_example_of_the_contract() -> None:
    desk = Desk({123: Held({"AAPL": 100, "MSFT": Decimal("50.5")})})
    desk.watch(123)
    desk.price("AAPL", "247.50", change="1.25")
    desk.price("MSFT", "500.00", change="0.00995")
    value = desk.table.value(0)
    assert value.portfolio_id == 123
    assert value.members == (
        b'"portfolio_id":123,"name":"Growth Portfolio","total_value":50000.00,"daily_change":125.50,'
        b'"daily_change_percent":0.25'
    )
    assert encode_screener(value, MS) == (
        b'{"type":"portfolio_update",' + value.members + b',"timestamp":"2025-11-11T09:30:00.000Z"'
    )
    assert encode_realtime(value, MS) == (
        b'{"type":"portfolio_update","data":{' + value.members + b'},"timestamp":"2025-11-11T09:30:00.000Z"'
    )
    with pytest.raises(ValueError, match="published_ms"):
        encode_screener(value, -1)
    assert repr(value).startswith('PortfolioValue(b\'"portfolio_id":123,')
    with pytest.raises(ValueError, match="never initialised"):
        encode_realtime(PortfolioValue(), MS)


def test_names_are_escaped() -> None:
    desk = Desk({1: Held({"AAPL": 1}, name='A "quoted" \\ 이름\n')})
    desk.watch(1)
    assert desk.value(1)["name"] == 'A "quoted" \\ 이름\n'
    assert read(encode_screener(desk.table.value(0), MS) + b"}")["name"] == 'A "quoted" \\ 이름\n'


# Which price and which close count.

D1, D2 = Close(TODAY, Decimal("11.00")), Close(YESTERDAY, Decimal("10.00"))
CASES: list[tuple[str, Closes, dict[str, Any] | None, tuple[str, str], list[str]]] = [
    # symbol, closes, price with its fields, (total, change), unpriced
    ("AAPL", Closes(), {"price": "270.00", "change": "0.57"}, ("270.00", "0.57"), []),
    ("AAPL", Closes(), {"price": "270.00"}, ("270.00", "0.57"), []),
    ("AAPL", Closes(), None, ("269.43", "0.00"), ["AAPL"]),
    ("NEW", Closes(), None, ("0.00", "0.00"), ["NEW"]),
    ("NEW", Closes(), {"price": 12}, ("12.00", "0.00"), []),
    ("NEW", Closes(previous=9), {"price": 12}, ("12.00", "3.00"), []),
    ("NEW", Closes(previous=9), None, ("9.00", "0.00"), ["NEW"]),
    ("NEW", Closes(9, (D1, D2)), None, ("11.00", "0.00"), ["NEW"]),
    ("NEW", Closes(9, (D1, D2)), {"price": 12}, ("12.00", "2.00"), []),
    ("NEW", Closes(9, (D2,)), {"price": 12}, ("12.00", "2.00"), []),
    ("NEW", Closes(9, (D1,)), {"price": 12}, ("12.00", "3.00"), []),
    ("NEW", Closes(9, (D1, D2)), {"price": 12, "change": "0.5"}, ("12.00", "0.50"), []),
    ("NEW", Closes(9, (), "KRW"), {"price": 12}, ("0.00", "0.00"), ["NEW"]),
    ("NEW", Closes(9, (), "USD"), {"price": 12}, ("12.00", "3.00"), []),
    ("NEW", Closes(9, (), "usd"), {"price": 12}, ("0.00", "0.00"), ["NEW"]),
    ("005930", Closes(), {"price": 73000, "change": 1000}, ("0.00", "0.00"), ["005930"]),
]


@pytest.mark.parametrize(("code", "closes", "price", "amounts", "unpriced"), CASES)
@pytest.mark.parametrize("is_early", [False, True])
def test_what_counts(
    code: str,
    closes: Closes,
    price: dict[str, Any] | None,
    amounts: tuple[str, str],
    unpriced: list[str],
    is_early: bool,
) -> None:
    desk = Desk({1: Held({code: 1})}, {code: closes} if closes != Closes() else {})
    if price is not None and is_early:
        desk.price(code, **price)
    desk.watch(1)
    if price is not None and not is_early:
        desk.price(code, **price)
    value = desk.value(1)
    assert (value["total_value"], value["daily_change"]) == amounts
    assert value.get("unpriced", []) == unpriced
    assert desk.table.check(0)


def test_pence_are_no_pounds() -> None:
    desk = Desk(
        {1: Held({"NEW": 10}, currency="GBP"), 2: Held({"NEW": 10}, currency="GBp")},
        {"NEW": Closes(70, (), "GBp")},
    )
    desk.watch(1, 2)
    desk.price("NEW", "70.5")
    assert (desk.value(1)["total_value"], desk.value(1)["unpriced"]) == ("0.00", ["NEW"])
    assert (desk.value(2)["total_value"], "unpriced" in desk.value(2)) == ("705.00", False)


def test_days_are_those_of_the_market() -> None:
    """At 23:30 UTC it is the next morning in Seoul, before the close of that day; in New York still the same day."""
    close = Close(TODAY, 70_000)
    at = int(datetime.datetime(2025, 11, 11, 23, 30, tzinfo=datetime.UTC).timestamp() * 1000)
    desk = Desk(
        {1: Held({"005930": 1}, currency="KRW"), 2: Held({"AAPL": 1})},
        {"005930": Closes(None, (close,)), "AAPL": Closes(None, (close,))},
    )
    desk.watch(1, 2)
    for code in ("005930", "AAPL"):
        desk.price(code, 75_000, event_time_ms=at)
    assert desk.value(1)["daily_change"] == "5000"
    assert desk.value(2)["daily_change"] == "74730.57"
    desk.now_ms = at  # that of a price without one
    for code in ("005930", "AAPL"):
        desk.price(code, 76_000)
    assert desk.value(1)["daily_change"] == "6000"
    assert desk.value(2)["daily_change"] == "75730.57"


@pytest.mark.parametrize(
    ("currency", "price", "total"),
    [
        ("USD", "0.005", "0.01"), ("USD", "-0.005", "-0.01"), ("USD", "0.004999", "0.00"), ("USD", "-0.004", "0.00"),
        ("KRW", "1.5", "2"), ("JPY", "1.4", "1"), ("KWD", "1.0005", "1.001"), ("BTC", "1.115", "1.12"),
        (None, "1.115", "1.12"), ("krw", "2.5", "3"),
    ],
)  # fmt: skip
def test_rounding_is_half_away_from_zero_to_the_currency(
    currency: str | None, price: str, total: str
) -> None:
    desk = Desk({1: Held({"NEW": 1}, currency=currency)})
    desk.watch(1)
    desk.price("NEW", price)
    assert desk.value(1)["total_value"] == total


def test_a_portfolio_sold_short_gains_when_prices_fall() -> None:
    desk = Desk({1: Held({"AAPL": -10})})
    desk.watch(1)
    desk.price("AAPL", 90, change=-10)
    assert desk.value(1) == {
        "portfolio_id": "1", "name": "Growth Portfolio", "total_value": "-900.00", "daily_change": "100.00",
        "daily_change_percent": "10.00",
    }  # fmt: skip


def test_only_watched_holders_hear_of_a_price() -> None:
    desk = Desk({1: Held({"AAPL": 1}), 2: Held({"AAPL": 2, "MSFT": 1}), 3: Held({"MSFT": 1}), 4: Held({})})
    assert desk.price("AAPL", 1) is False
    desk.watch(1, 2, 3, 4)
    assert desk.table.n_watched == 4
    assert desk.left() == {1, 2, 3, 4}
    assert desk.table.codes() == {"AAPL", "MSFT"}
    assert desk.price("AAPL", 2) is True
    assert desk.price("AAPL", 3) is True
    assert desk.left() == {1, 2}
    assert desk.price("AAPL", 3) is False  # the same again
    assert desk.price("NEW", 3) is False
    desk.table.unwatch(1)
    desk.table.unwatch(1)
    assert desk.price("MSFT", 4) is True
    assert desk.left() == {3}
    desk.price("AAPL", 9)
    desk.table.unwatch(0)
    assert (desk.left(), desk.table.n_watched, desk.table.codes()) == (set(), 2, {"MSFT"})
    assert desk.value(4)["total_value"] == "0.00"
    with pytest.raises(ValueError, match="watched already"):
        desk.watch(3)
    with pytest.raises(KeyError):
        desk.value(1)
    with pytest.raises(IndexError):
        desk.table.value(4)
    with pytest.raises(IndexError):
        desk.table.watch(-1, desk.channels[1])
    with pytest.raises(KeyError):
        desk.table.publish(desk.hub, 1)


def test_what_does_not_fit_is_exact_all_the_same() -> None:
    """Most of a portfolio's positions in the largest numbers there are, and sums that only fit together."""
    huge = Decimal(2**63 - 1).scaleb(-8, EXACT)
    desk = Desk({1: Held({"AAPL": huge, "MSFT": -huge, "NEW": 1}), 2: Held({"AAPL": huge})})
    desk.watch(1, 2)
    for price in (2**63 - 1, "0.000000000000000001", "9.223372036854775807", 1, -(2**63 - 1), "3.10"):
        for code in ("AAPL", "MSFT", "NEW"):
            desk.price(code, price, change=price)
            desk.price("AAPL", 2**63 - 1, change=-(2**63 - 1))
            for number in (1, 2):
                assert desk.value(number) == desk.expected(number)
                assert desk.table.check(number - 1)
    assert desk.table.n_wide > 0
    n_wide = desk.table.n_wide
    for code in ("AAPL", "MSFT", "NEW"):
        desk.price(code, 1, change=0)
    assert desk.value(1) == desk.expected(1)
    assert desk.table.n_wide == n_wide, "what fits again is counted fast again"


def test_a_wrong_sum_is_found_and_corrected() -> None:
    """Another quantity behind the table's back, of which it has counted the one before: as if it had slipped."""
    desk = Desk({1: Held({"AAPL": 3})})
    data = loaded({1: Held({"AAPL": 3})})
    desk.table = table = PortfolioTable(data, lambda code: None, INSTRUMENTS.get, lambda: MS)
    desk.watch(1)
    desk.price("AAPL", 100)
    assert table.check(0)
    assert desk.left() == {1}
    assert table.check(0)
    assert table.n_dirty == 0
    data.quantities[0] += 10**8
    assert not table.check(0)
    assert table.n_dirty == 1
    assert desk.left() == {1}
    assert table.check(0)
    assert desk.shown(1)["total_value"] == "400.00"


def test_what_is_due_leaves_in_slices() -> None:
    """Each once, with what it is worth by then, whatever is watched, left and priced in between."""
    desk = Desk({number: Held({"AAPL": 1 if number % 2 else 2}) for number in range(1, 101)})
    desk.watch(*range(1, 101))
    desk.left()
    desk.price("AAPL", 10, change=0)
    first = desk.left(seconds=-1.0)
    assert first == set(range(1, len(first) + 1)), "in the order in which they got something new"
    assert (desk.table.n_due, desk.table.n_dirty) == (100 - len(first), 0)
    assert desk.table.take_due() == desk.table.n_due, "nothing is taken before all have left"
    desk.price("AAPL", 11, change=0)
    assert desk.table.n_dirty == len(first), "the others show it when it is their turn"
    # The next one takes the place of what was to leave, and has its turn with what is new.
    desk.table.unwatch(98)
    desk.watch(99)
    second = set()
    while desk.table.n_due:
        second |= desk.left(seconds=-1.0)
    assert second == set(range(len(first) + 1, 101)) - {99}
    assert all(desk.shown(number) == desk.expected(number) for number in second)
    assert desk.left() == first | {99}
    assert all(desk.shown(number) == desk.expected(number) for number in desk.channels)
    assert desk.left() == set()


def test_one_that_cannot_be_valued_holds_nobody_up() -> None:
    desk = Desk({1: Held({"AAPL": 1}), 2: Held({"AAPL": 1, "\ud800": 1}), 3: Held({"AAPL": 1})})
    desk.watch(1, 2, 3)
    with pytest.raises(UnicodeEncodeError):
        desk.left()
    assert (desk.table.n_due, desk.channels[1].seq, desk.channels[3].seq) == (1, 1, 0)
    assert desk.left() == {3}
    desk.price("AAPL", 5)
    desk.table.unwatch(1)
    assert desk.left() == {1, 3}


def test_what_reads_the_same_is_not_published_again() -> None:
    """Neither where a number is made another way, nor in another table."""
    held = {1: Held({"AAPL": 1, "NEW": 1})}
    desk = Desk(held)
    desk.watch(1)
    desk.price("AAPL", "1.001", change=0)
    assert desk.left() == {1}
    desk.price("AAPL", "1.0010000000001", change=0)
    assert (desk.left(), desk.table.n_wide) == (set(), 1)
    desk.price("AAPL", "1.0020000000001", change=0)
    desk.price("AAPL", "1.002", change=0)
    assert (desk.left(), desk.table.n_wide) == (set(), 1)
    desk.price("AAPL", "1.005", change=0)
    assert desk.left() == {1}
    desk.price("NEW", 0)
    assert desk.left() == {1}, "it has a price now"
    other = Desk(held)
    other.prices, other.channels = desk.prices, desk.channels
    for code in ("AAPL", "NEW"):
        other.price(code, desk.prices[code].price, change=0)
    other.table = PortfolioTable(loaded(held), other.prices.get, INSTRUMENTS.get, lambda: MS)
    other.watch(1)
    assert other.left() == set()
    for changed in (
        Held({"AAPL": 1, "NEW": 1}, name="Renamed"),
        Held({"NEW": 1}, name="Renamed"),
        Held({"NEW": 1}, name="Renamed", currency="KRW"),  # 0 and no longer 0.00
    ):
        other.table = PortfolioTable(loaded({1: changed}), other.prices.get, INSTRUMENTS.get, lambda: MS)
        other.watch(1)
        assert other.left() == {1}, changed


def test_columns_that_do_not_fit_together_are_refused() -> None:
    good = loaded({1: Held({"AAPL": 1, "MSFT": 2}), 2: Held({"AAPL": 3})})

    def make(**changes: Any) -> PortfolioTable:
        return PortfolioTable(replace(good, **changes), lambda code: None, INSTRUMENTS.get, lambda: MS)

    assert (make().n_portfolios, make().n_positions) == (2, 3)
    for changes in (
        {"owners": ["kim"]},
        {"quantities": good.quantities[:2]},
        {"position_portfolios": good.position_portfolios[:2]},
        {"position_portfolios": np.array([0, 1, 0], np.int32)},
        {"position_portfolios": np.array([0, 0, 2], np.int32)},
        {"position_portfolios": np.array([-1, 0, 1], np.int32)},
        {"position_symbols": np.array([0, 2, 0], np.int32)},
        {"position_symbols": np.array([0, -1, 0], np.int32)},
        {"ids": np.array([2, 1], np.int64)},
        {"ids": np.array([1, 1], np.int64)},
    ):
        with pytest.raises(ValueError, match="loaded"):
            make(**changes)


def test_portfolios_are_found() -> None:
    ids = [-5, 0, 7, 8, 2**62]
    desk = Desk({number: Held({}, owner=f"user {number}") for number in ids})
    assert [desk.table.find(number) for number in ids] == list(range(5))
    assert [desk.table.find(number) for number in (-6, 1, 9, 2**63 - 1)] == [-1] * 4
    assert desk.table.describe(2) == (7, "user 7", "Growth Portfolio", "USD")
    assert Desk({}).table.find(1) == -1


# Anything that may happen.

CODES = ["AAPL", "MSFT", "005930", "NEW"]
plain = st.decimals(-(10**6), 10**6, places=2, allow_nan=False)
mantissas = st.integers(-(2**63) + 1, 2**63 - 1)
extreme = st.builds(
    lambda mantissa, scale: Decimal(mantissa).scaleb(-scale, EXACT), mantissas, st.integers(0, 18)
)
numbers = plain | extreme
quantities = st.decimals(-(10**4), 10**4, places=3) | st.builds(
    lambda mantissa: Decimal(mantissa).scaleb(-8, EXACT), mantissas
)
held = st.builds(
    Held,
    st.dictionaries(st.sampled_from(CODES), quantities.filter(bool), max_size=4),
    currency=st.sampled_from(["USD", "KRW", None, "KWD"]),
)
days = st.lists(
    st.tuples(st.sampled_from([TODAY, YESTERDAY, TODAY - datetime.timedelta(days=5)]), plain), max_size=2
).map(lambda found: tuple(Close(*day) for day in sorted(dict(found).items(), reverse=True)))
closes = st.dictionaries(
    st.sampled_from(CODES),
    st.builds(Closes, st.none() | plain, days, st.none() | st.sampled_from(["USD", "KRW"])),
)
steps = st.one_of(
    st.tuples(st.just("watch"), st.integers(1, 5)),
    st.tuples(st.just("unwatch"), st.integers(1, 5)),
    st.tuples(st.just("price"), st.sampled_from(CODES), numbers, st.none() | numbers),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.integers(1, 5), held, max_size=5), closes, st.lists(steps, max_size=25))
def test_every_value_is_that_of_decimal(
    portfolios: dict[int, Held], known: dict[str, Closes], happening: list[Any]
) -> None:
    desk = Desk(portfolios, known)
    watched: set[int] = set()
    texts: dict[int, bytes] = {}
    for step in happening:
        if step[0] == "price":
            desk.price(step[1], step[2], change=step[3])
        elif step[1] in portfolios and (step[0] == "watch") != (step[1] in watched):
            watched ^= {step[1]}
            if step[0] == "watch":
                desk.watch(step[1])
            else:
                desk.table.unwatch(desk.table.find(step[1]))
        for number in watched:
            index = desk.table.find(number)
            exact = worth(portfolios[number], desk.prices, known)
            assert desk.table.amounts(index) == tuple(
                int(EXACT.scaleb(amount, 26)) for amount in (exact.total, exact.base)
            )
            assert desk.value(number) == desk.expected(number)
            assert desk.table.check(index)
        assert desk.table.n_watched == len(watched)
        now = texts | {number: desk.table.value(desk.table.find(number)).members for number in watched}
        assert desk.left() == {number for number in watched if now[number] != texts.get(number)}
        texts = now
        for number in watched:
            assert desk.shown(number) == desk.expected(number)
