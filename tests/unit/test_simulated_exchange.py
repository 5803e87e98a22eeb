"""The simulated exchange by the step."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import TABLE, TODAY_MS, american, korean, texts

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._simulator import SimulatedExchange

# The exchange's table, written down here once more: (first price above the band, tick size).
KRX_TICKS = [(2_000, 1), (5_000, 5), (20_000, 10), (50_000, 50), (200_000, 100), (500_000, 500)]


def krw_tick(price: int) -> int:
    """The distance from `price` to the next higher admitted price."""
    return next((tick for end, tick in KRX_TICKS if price < end), 1_000)


def run_steps(
    instruments: Iterable[Instrument],
    n: int,
    *,
    seed: int = 1,
    book_share: float = 0.5,
    volatility: float = 1.0,
    chunk: int | None = None,
) -> list[PriceUpdate | BookUpdate]:
    updates: list[PriceUpdate | BookUpdate] = []
    exchange = SimulatedExchange(instruments, seed=seed, book_share=book_share, volatility=volatility)
    while exchange.n_steps < n:
        size = min(chunk or n, n - exchange.n_steps)
        exchange.advance(updates.append, updates.append, size, TODAY_MS)
    assert exchange.n_steps == len(updates) == n
    return updates


def mantissa(price: int | Decimal | None) -> int:
    assert price is not None
    return price if isinstance(price, int) else int(price.scaleb(2))


def next_price(instrument: Instrument, price: int | Decimal) -> int:
    """The next admitted price above, in the smallest unit."""
    amount = mantissa(price)
    return amount + (krw_tick(amount) if instrument.currency == "KRW" else 1)


def check_price(instrument: Instrument, price: int | Decimal) -> None:
    """On the tick grid, of the right kind, and within 30 % of the previous close."""
    close = Decimal(str(instrument.previous_close))
    if instrument.currency == "KRW":
        assert isinstance(price, int)
        assert price % krw_tick(price) == 0
    else:
        assert isinstance(price, Decimal)
        assert price.as_tuple().exponent == -2
    assert Decimal("0.7") * close <= price <= Decimal("1.3") * close
    assert price > 0


def test_same_seed_gives_the_same_updates_however_they_are_asked_for() -> None:
    whole = texts(run_steps(TABLE, 9_000, seed=42))
    assert texts(run_steps(TABLE, 9_000, seed=42, chunk=1)) == whole
    assert texts(run_steps(TABLE, 9_000, seed=42, chunk=2_047)) == whole
    assert texts(run_steps(TABLE, 9_000, seed=43)) != whole
    assert len(set(whole)) > 8_900


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), chunks=st.lists(st.integers(0, 700), max_size=8))
def test_any_split_into_chunks_gives_the_same_updates(seed: int, chunks: list[int]) -> None:
    updates: list[PriceUpdate | BookUpdate] = []
    exchange = SimulatedExchange(TABLE, seed=seed)
    for chunk in chunks:
        exchange.advance(updates.append, updates.append, chunk, TODAY_MS)
    assert len(updates) == exchange.n_steps == sum(chunks)
    if updates:
        assert texts(updates) == texts(run_steps(TABLE, len(updates), seed=seed))


CLOSES = st.one_of(
    st.sampled_from(
        [1_999, 2_000, 4_995, 5_000, 19_990, 20_000, 49_950, 50_000, 199_900, 200_000, 499_500, 500_000]
    ),
    st.integers(100, 3_000_000),
)
US_CLOSES = st.decimals(min_value="0.40", max_value="9000", places=2)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    krw=CLOSES,
    usd=US_CLOSES,
    volatility=st.sampled_from([0.1, 1.0, 30.0, 1000.0]),
)
def test_every_trade_and_book_keeps_the_rules(seed: int, krw: int, usd: Decimal, volatility: float) -> None:
    table = [korean("A", krw), american("B", str(usd)), korean("C", 71_900)]
    last_price: dict[str, int | Decimal] = {}
    volume: dict[str, int] = {}
    prices: dict[str, list[int | Decimal]] = {}
    for update in run_steps(table, 1_500, seed=seed, volatility=volatility):
        instrument = update.instrument
        code = instrument.code
        assert update.quality == "simulated"
        assert update.venue == ("KRX" if instrument.currency == "KRW" else None)
        assert update.event_time_ms == TODAY_MS
        if isinstance(update, PriceUpdate):
            check_price(instrument, update.price)
            last_price[code] = update.price
            prices.setdefault(code, []).append(update.price)
            assert update.trade_volume is not None
            assert update.trade_volume > 0
            assert update.volume == volume.get(code, 0) + update.trade_volume
            volume[code] = update.volume
            assert update.high == max(prices[code])
            assert update.low == min(prices[code])
        else:
            bids, asks = update.bids, update.asks
            assert len(bids) == len(asks) == 10
            for price, quantity in bids + asks:
                check_price(instrument, price)
                assert quantity > 0
            ladder = [price for price, _ in reversed(bids)] + [price for price, _ in asks]
            for lower, upper in pairwise(ladder):
                assert mantissa(upper) == next_price(instrument, lower)
            if code in last_price:
                assert last_price[code] in (bids[0][0], asks[0][0])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), krw=CLOSES, usd=US_CLOSES)
def test_change_is_exact_and_its_percentage_rounded_half_up(seed: int, krw: int, usd: Decimal) -> None:
    for update in run_steps([korean("A", krw), american("B", str(usd))], 300, seed=seed, book_share=0.0):
        assert isinstance(update, PriceUpdate)
        close = Decimal(str(update.instrument.previous_close))
        change = update.price - close
        assert update.change == change
        assert isinstance(update.change, int) == (update.instrument.currency == "KRW")
        assert isinstance(update.change_percent, Decimal)
        assert update.change_percent.as_tuple().exponent == -2
        expected = (change * 100 / close).quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
        assert update.change_percent == expected


def test_change_is_exact_for_a_close_with_more_decimals_than_its_price() -> None:
    updates = run_steps([american("B", "10.1234"), korean("A", "72000.50")], 400, book_share=0.0)
    for update in updates:
        assert isinstance(update, PriceUpdate)
        close = update.instrument.previous_close
        assert isinstance(close, Decimal)
        assert update.change == update.price - close
    # A close that only looks as if it had decimals leaves won without any.
    (update,) = run_steps([korean("A", "72000.00")], 1, book_share=0.0)
    assert isinstance(update, PriceUpdate)
    assert isinstance(update.change, int)


def test_walk_moves_and_reverts_to_the_previous_close() -> None:
    table = [korean("A", 72_000), american("B", "150.25"), korean("C", 1_500, "KOSDAQ")]
    percents: dict[str, list[float]] = {}
    for update in run_steps(table, 300_000, seed=5, book_share=0.0):
        assert isinstance(update, PriceUpdate)
        assert update.change_percent is not None
        percents.setdefault(update.instrument.code, []).append(float(update.change_percent))
    for series in percents.values():
        assert 0.2 < statistics.pstdev(series) < 4.0
        assert max(map(abs, series)) < 12.0
        assert len(set(series)) > 20


def test_wild_prices_reach_both_limits_and_no_order_rests_beyond_them() -> None:
    # 0.7 * 72,750 = 50,925 and 1.3 * 72,750 = 94,575, neither of which is on the grid.
    books = [
        update
        for update in run_steps([korean("A", 72_750)], 60_000, volatility=30.0)
        if isinstance(update, BookUpdate)
    ]
    assert min(book.bids[-1][0] for book in books) == 51_000
    assert max(book.asks[-1][0] for book in books) == 94_500


def test_consecutive_books_of_a_symbol_differ_in_few_levels() -> None:
    books = [u for u in run_steps([korean("A", 72_000)], 4_000) if isinstance(u, BookUpdate)]
    changed = [
        sum(level not in before.bids + before.asks for level in after.bids + after.asks)
        for before, after in pairwise(books)
    ]
    assert 1 <= statistics.median(changed) <= 5


def test_large_names_trade_most_within_each_market() -> None:
    table = [korean(f"{i:06d}", 10_000 + i * 50) for i in range(50)]
    table += [american(f"US{i}", "100.00") for i in range(50)]
    counts = Counter(u.instrument.code for u in run_steps(table, 100_000, book_share=0.0))
    for first, tenth, last in (("000000", "000009", "000049"), ("US0", "US9", "US49")):
        assert counts[first] > 5 * counts[tenth] > 10 * counts[last] > 0
    assert counts["000000"] == pytest.approx(counts["US0"], rel=0.1)


def test_trade_sizes_are_heavy_tailed() -> None:
    updates = run_steps([korean("A", 72_000)], 20_000, book_share=0.0)
    sizes = sorted(u.trade_volume or 0 for u in updates if isinstance(u, PriceUpdate))
    median = sizes[len(sizes) // 2]
    assert median == pytest.approx(1_000_000 / 72_000, rel=0.2)
    assert sizes[-1] > 50 * median
    assert sum(sizes[-len(sizes) // 10 :]) > 0.4 * sum(sizes)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_books_have_their_share_and_are_spread_evenly(share: float) -> None:
    updates = run_steps(TABLE, 5_000, book_share=share)
    n_books = 0
    for n, update in enumerate(updates, start=1):
        n_books += isinstance(update, BookUpdate)
        assert abs(n_books - n * share) <= 1.0
    assert n_books == pytest.approx(5_000 * share, abs=1)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_book_after_a_trade_is_of_the_symbol_that_traded(share: float) -> None:
    updates = run_steps(TABLE, 50_000, book_share=share)  # over many blocks of random numbers
    pairs = [
        (trade, book)
        for trade, book in pairwise(updates)
        if isinstance(trade, PriceUpdate) and isinstance(book, BookUpdate)
    ]
    assert len(pairs) >= 9_900
    for trade, book in pairs:
        assert book.instrument is trade.instrument


@pytest.mark.parametrize("close", [1, 2, 3, 7, 25, 60])
def test_prices_of_a_few_won_keep_a_proper_book(close: int) -> None:
    for update in run_steps([korean("A", close)], 3_000, seed=close):
        if isinstance(update, PriceUpdate):
            assert update.price >= 1
        else:
            assert 1 <= update.n_bids <= 10
            assert 1 <= update.n_asks <= 10
            assert update.bids[0][0] + 1 == update.asks[0][0]
            for price, _ in update.bids + update.asks:
                assert 0.7 * close <= price <= max(1.3 * close, math.ceil(0.7 * close) + 1)


def test_penny_stock_keeps_a_proper_book() -> None:
    for update in run_steps([american("A", "0.0123")], 500):
        if isinstance(update, BookUpdate):
            assert update.bids == [(Decimal("0.01"), update.bids[0][1])]
            assert update.asks == [(Decimal("0.02"), update.asks[0][1])]


def test_instrument_without_a_previous_close_trades_without_a_change() -> None:
    for update in run_steps([korean("A", None), american("B", None)], 500, book_share=0.0):
        assert isinstance(update, PriceUpdate)
        assert update.change is None
        assert update.change_percent is None
        middle = 50_000 if update.instrument.currency == "KRW" else 100
        assert 0.7 * middle <= update.price <= 1.3 * middle


@pytest.mark.parametrize(
    ("market", "currency", "is_korean"),
    [
        ("KOSPI", None, True),
        ("NYSE", None, False),
        (None, None, True),
        (None, "USD", False),
        ("NYSE", "KRW", True),
    ],
)
def test_currency_decides_ticks_and_venue(market: str | None, currency: str | None, is_korean: bool) -> None:
    (update,) = run_steps([Instrument("X", market=market, currency=currency, previous_close=100)], 1)
    assert isinstance(update, PriceUpdate)
    assert update.venue == ("KRX" if is_korean else None)
    assert isinstance(update.price, int) == is_korean


def test_what_a_callback_raises_passes_and_its_update_is_not_repeated() -> None:
    expected = texts(run_steps(TABLE, 10, seed=3))
    taken: list[PriceUpdate | BookUpdate] = []
    exchange = SimulatedExchange(TABLE, seed=3)

    def refuse(update: object) -> None:
        raise LookupError("refused")

    exchange.advance(taken.append, taken.append, 4, TODAY_MS)
    with pytest.raises(LookupError, match="refused"):
        exchange.advance(refuse, refuse, 4, TODAY_MS)
    assert exchange.n_steps == 5
    exchange.advance(taken.append, taken.append, 5, TODAY_MS)
    assert texts(taken) == expected[:4] + expected[5:]


def test_impossible_exchanges_are_refused() -> None:
    with pytest.raises(ValueError, match="instruments"):
        SimulatedExchange([], seed=1)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="book_share"):
            SimulatedExchange(TABLE, seed=1, book_share=share)
    for volatility in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="volatility"):
            SimulatedExchange(TABLE, seed=1, volatility=volatility)
    for close in ("1000000000000000000", "0.000000000001"):
        with pytest.raises(ValueError, match="previous_close of A"):
            SimulatedExchange([korean("A", close)], seed=1)
    for wrong in ("005930", None):
        with pytest.raises(TypeError, match="instruments"):
            SimulatedExchange([TABLE[0], wrong], seed=1)  # type: ignore[list-item]
    for event_time_ms in (-1, 10**15):
        with pytest.raises(ValueError, match="event_time_ms"):
            SimulatedExchange(TABLE, seed=1).advance(repr, repr, 1, event_time_ms)
