"""The simulated exchange by the step, its schedule as a formula, and the feed on virtual time."""

from __future__ import annotations

import asyncio
import math
import statistics
import time as real_time
from collections import Counter
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fastws._market import BookUpdate, Instrument, PriceUpdate, encode_screener
from fastws._simulator import SimulatedExchange
from fastws.feeds.base import FeedSupervisor
from fastws.feeds.simulator import OpeningSchedule, SimulatorFeed

TODAY_MS = 1_762_819_200_000
OPENED = ["KOSPI open", "KOSDAQ open", "NASDAQ open", "NYSE open"]

# The exchange's table, written down here once more: (first price above the band, tick size).
KRX_TICKS = [(2_000, 1), (5_000, 5), (20_000, 10), (50_000, 50), (200_000, 100), (500_000, 500)]


def krw_tick(price: int) -> int:
    """The distance from `price` to the next higher admitted price."""
    return next((tick for end, tick in KRX_TICKS if price < end), 1_000)


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


def texts(updates: Iterable[PriceUpdate | BookUpdate]) -> list[bytes]:
    return [encode_screener(update, TODAY_MS) for update in updates]


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


# --- The exchange ----------------------------------------------------------------------------------------


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


# --- The schedule ----------------------------------------------------------------------------------------

SCHEDULES = st.builds(
    OpeningSchedule,
    st.floats(0.1, 100_000.0),
    st.one_of(st.just(1.0), st.floats(1.001, 50.0)),
    st.one_of(st.just(0.0), st.floats(0.01, 100.0)),
)


@given(schedule=SCHEDULES, n=st.integers(0, 10**9))
def test_update_is_due_at_its_time_and_not_before(schedule: OpeningSchedule, n: int) -> None:
    at = schedule.due_at(n)
    assert schedule.n_due(at) == n + 1
    assert schedule.n_due(at - 0.01 / schedule.rate - 1e-9) <= n + 1
    assert (
        schedule.n_due(math.nextafter(schedule.due_at(n + 1), 0.0) - 0.5 * (schedule.due_at(n + 1) - at))
        == n + 1
    )


@given(schedule=SCHEDULES, n=st.integers(0, 10**7))
def test_gaps_only_grow_until_the_rate_has_settled(schedule: OpeningSchedule, n: int) -> None:
    first, second, third = (schedule.due_at(n + k) for k in range(3))
    tolerance = 1e-9 * max(1.0, third)
    assert second - first > -tolerance
    assert second - first <= third - second + tolerance
    assert third - second <= 1.0 / schedule.rate + tolerance


def test_opening_gives_the_area_under_its_rate() -> None:
    schedule = OpeningSchedule(200.0, 5.0, 10.0)
    assert schedule.n_due(-0.001) == 0
    assert schedule.n_due(0.0) == 1
    per_second = [schedule.n_due(second + 1.0) - schedule.n_due(float(second)) for second in range(14)]
    assert per_second == [960, 880, 800, 720, 640, 560, 480, 400, 320, 240, 200, 200, 200, 200]


# --- The feed --------------------------------------------------------------------------------------------


class EndOfTestError(Exception):
    pass


class VirtualTime:
    """The only thing that takes time is sleeping, and whatever a test adds to `now`."""

    def __init__(self, end: float = math.inf) -> None:
        self.now = 1_000.0
        self.end = self.now + end
        self.n_sleeps = 0
        self.wakes: list[float] = []

    def clock(self) -> float:
        return self.now

    def wall_clock(self) -> float:
        return TODAY_MS / 1000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        self.n_sleeps += 1
        self.now += seconds
        self.wakes.append(self.now)
        if self.now >= self.end:
            raise EndOfTestError


class Tape:
    """A market that writes down when it got what; each update takes `cost_s` of virtual time."""

    def __init__(self, time: VirtualTime, *, cost_s: float = 0.0) -> None:
        self.instruments: Iterable[Instrument] = TABLE
        self.updates: list[PriceUpdate | BookUpdate] = []
        self.times: list[float] = []
        self.turns: list[int] = []  # in which run between two sleeps
        self.statuses: list[str] = []
        self.receipts: list[float] = []
        self.received_ns = 0
        self._time = time
        self._cost_s = cost_s

    def publish(self, update: PriceUpdate | BookUpdate) -> int:
        self.updates.append(update)
        self.times.append(self._time.now - 1_000.0)
        self.receipts.append(self.received_ns / 1e9 - 1_000.0)
        self.turns.append(self._time.n_sleeps)
        self._time.now += self._cost_s
        return len(self.updates)

    publish_price = publish
    publish_book = publish

    def set_received(self, at_ns: int) -> None:
        self.received_ns = at_ns

    def set_status(self, market: str, status: str) -> int:
        assert not self.updates
        self.statuses.append(f"{market} {status}")
        return 0

    def set_feed_status(self, feed: str, status: str) -> int:
        self.statuses.append(f"{feed} {status}")
        return 0

    def instrument(self, code: str) -> Instrument | None:
        return next((i for i in self.instruments if i.code == code), None)

    def ensure_instrument(self, code: str) -> Instrument:
        return self.instrument(code) or Instrument(code, code)

    def per_second(self) -> list[int]:
        counts = Counter(int(at) for at in self.times)
        return [counts[second] for second in range(max(counts) + 1)]


def simulator(
    time: VirtualTime, instruments: Iterable[Instrument] = TABLE, **options: object
) -> SimulatorFeed:
    options = {"seed": 1, "clock": time.clock, "wall_clock": time.wall_clock, "sleep": time.sleep} | options
    return SimulatorFeed(instruments, **options)  # type: ignore[arg-type]


async def play(feed: SimulatorFeed, tape: Tape) -> None:
    with pytest.raises(EndOfTestError):
        await feed.run(tape)


async def test_feed_opens_the_markets_and_keeps_its_rate_after_the_opening_burst() -> None:
    time = VirtualTime(20.0)
    tape = Tape(time)
    feed = simulator(time)
    assert feed.name == "simulator"
    await play(feed, tape)
    assert tape.statuses == OPENED
    expected = [960, 880, 800, 720, 640, 560, 480, 400, 320, 240] + 10 * [200]
    assert tape.per_second() == pytest.approx(expected, abs=1)
    assert feed.n_published == len(tape.updates) == sum(isinstance(u, PriceUpdate) for u in tape.updates) * 2
    assert feed.n_skipped == 0


async def test_updates_do_not_depend_on_time_but_their_event_time_does() -> None:
    def rows(tape: Tape) -> list[tuple[object, ...]]:
        return [
            (u.instrument.code, u.price, u.volume)
            if isinstance(u, PriceUpdate)
            else (u.instrument.code, u.bids, u.asks)
            for u in tape.updates
        ]

    slow_time, fast_time = VirtualTime(30.0), VirtualTime(3.0)
    slow, fast = Tape(slow_time), Tape(fast_time)
    await play(simulator(slow_time, rate=100.0), slow)
    await play(simulator(fast_time, rate=5_000.0), fast)
    assert len(slow.updates) > 3_000
    assert rows(slow)[:3_000] == rows(fast)[:3_000]
    for at, update in zip(slow.times, slow.updates, strict=True):
        assert update.event_time_ms == pytest.approx(TODAY_MS + (1_000.0 + at) * 1000.0, abs=1.0)


async def test_low_rate_is_spread_evenly() -> None:
    time = VirtualTime(60.0)
    tape = Tape(time)
    await play(simulator(time, rate=7.0, opening_burst=1.0), tape)
    gaps = [after - before for before, after in pairwise(tape.times)]
    assert gaps == pytest.approx([1 / 7.0] * len(gaps), abs=1e-6)
    assert len(tape.updates) == 7 * 60
    assert tape.receipts == pytest.approx([n / 7.0 for n in range(7 * 60)], abs=1e-6)
    assert tape.received_ns == 0


async def test_single_symbol_gets_4000_prices_a_second_evenly() -> None:
    time = VirtualTime(5.0)
    tape = Tape(time)
    await play(
        simulator(time, [korean("005930", 72_000)], rate=4_000.0, books=False, opening_seconds=0.0), tape
    )
    assert all(isinstance(update, PriceUpdate) for update in tape.updates)
    assert tape.per_second() == pytest.approx([4_000] * 5, abs=5)
    assert max(Counter(tape.turns).values()) <= 5


async def test_rate_is_absolute_although_the_market_takes_time() -> None:
    time = VirtualTime(10.0)
    tape = Tape(time, cost_s=30e-6)
    feed = simulator(time, rate=20_000.0, opening_burst=1.0)
    await play(feed, tape)
    assert feed.n_published == pytest.approx(200_000, abs=100)
    assert feed.n_skipped == 0


async def test_burst_never_exceeds_the_highest_rate() -> None:
    time = VirtualTime(2.0)
    tape = Tape(time)
    await play(simulator(time, rate=60_000.0), tape)
    assert max(tape.per_second()) <= 100_000
    assert tape.per_second()[0] > 90_000


async def test_work_is_cut_into_slices_of_two_milliseconds() -> None:
    time = VirtualTime(1.0)
    tape = Tape(time, cost_s=40e-6)  # takes 25,000/s of the 50,000/s that are due
    feed = simulator(time, rate=50_000.0, opening_burst=1.0)
    await play(feed, tape)
    per_turn = Counter(tape.turns)
    assert max(per_turn.values()) * 40e-6 <= 0.002 + 32 * 40e-6
    assert len(per_turn) > 250
    assert feed.n_published == pytest.approx(25_000, rel=0.05)


async def test_catch_up_after_a_pause_is_bounded_and_declared() -> None:
    time = VirtualTime(20.0)
    tape = Tape(time)
    feed = simulator(time, rate=1_000.0, opening_burst=1.0)
    paused = False
    plain_publish = tape.publish

    def pause_once(update: PriceUpdate | BookUpdate) -> int:
        nonlocal paused
        if not paused and time.now >= 1_005.0:
            paused = True
            time.now += 6.0  # as if something had blocked the loop
        return plain_publish(update)

    tape.publish_price = pause_once  # type: ignore[method-assign]
    with capture_logs() as captured:
        await play(feed, tape)
    logs = [entry for entry in captured if entry["log_level"] != "info"]
    assert feed.n_skipped == pytest.approx(5_000, abs=2)
    assert feed.n_published + feed.n_skipped == pytest.approx(20_000, abs=2)
    assert tape.per_second()[11] == pytest.approx(2_000, abs=2)  # its own and the second before
    assert tape.per_second()[12:20] == pytest.approx([1_000] * 8, abs=2)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert logs[0]["skipped"] == feed.n_skipped


async def test_short_pause_is_made_good_in_full() -> None:
    time = VirtualTime(10.0)
    tape = Tape(time)
    feed = simulator(time, rate=500.0, opening_burst=1.0)
    plain_sleep = time.sleep

    async def oversleep(seconds: float) -> None:
        if time.n_sleeps == 1_000:
            seconds += 0.9
        await plain_sleep(seconds)

    feed._sleep = oversleep
    await play(feed, tape)
    assert feed.n_skipped == 0
    assert feed.n_published == pytest.approx(5_000, abs=2)


async def test_permanent_overload_skips_steadily_and_logs_once_a_minute() -> None:
    time = VirtualTime(150.0)
    tape = Tape(time, cost_s=1e-3)
    feed = simulator(time, rate=2_000.0, opening_burst=1.0)
    with capture_logs() as captured:
        await play(feed, tape)
    logs = [entry for entry in captured if entry["log_level"] == "warning"]
    assert feed.n_published == pytest.approx(150_000, rel=0.02)
    assert feed.n_skipped == pytest.approx(150_000, rel=0.05)
    assert len(logs) == 3
    assert sum(entry["skipped"] for entry in logs) == logs[-1]["skipped_total"] <= feed.n_skipped


async def test_second_run_goes_on_with_the_day_and_has_no_second_opening() -> None:
    time = VirtualTime(30.0)
    feed = simulator(time)
    first = Tape(time)
    await play(feed, first)
    n_before = feed.n_published
    time.now += 100.0
    time.end = time.now + 10.0
    second = Tape(time)
    await play(feed, second)
    assert second.statuses == OPENED
    assert feed.n_published - n_before == pytest.approx(2_000, abs=1)
    assert feed.n_skipped == 0
    volumes: dict[str, int] = {}
    for update in first.updates + second.updates:
        if isinstance(update, PriceUpdate):
            assert update.volume is not None
            assert update.volume > volumes.get(update.instrument.code, 0)
            volumes[update.instrument.code] = update.volume


async def test_the_seed_is_logged_once_at_the_start() -> None:
    time = VirtualTime(5.0)
    feed = simulator(time, seed=None)
    with capture_logs() as logs:
        await play(feed, Tape(time))
        time.end = time.now + 5.0
        await play(feed, Tape(time))
    assert [(entry["log_level"], entry["event"], entry["seed"]) for entry in logs] == [
        ("info", "simulator starts", feed.seed)
    ]


async def test_feed_without_a_seed_shows_the_one_it_drew() -> None:
    time = VirtualTime(5.0)
    tape = Tape(time)
    feed = simulator(time, seed=None)
    await play(feed, tape)
    assert texts(tape.updates[:1])[0]
    again_time = VirtualTime(5.0)
    again = Tape(again_time)
    await play(simulator(again_time, seed=feed.seed), again)
    assert texts(again.updates) == texts(tape.updates)
    assert simulator(time, seed=None).seed != feed.seed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rate", 0.0),
        ("rate", -1.0),
        ("rate", 100_001.0),
        ("rate", math.nan),
        ("opening_burst", 0.5),
        ("opening_burst", math.nan),
        ("opening_seconds", -1.0),
        ("opening_seconds", math.inf),
        ("book_share", 1.5),
        ("volatility", 0.0),
    ],
)
def test_values_out_of_range_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        SimulatorFeed(TABLE, **{option: value})  # type: ignore[arg-type]


async def test_on_a_real_loop_it_keeps_time_lets_others_run_and_ends_on_cancellation() -> None:
    time = VirtualTime()
    tape = Tape(time)
    feed = SimulatorFeed(TABLE, rate=20_000.0, seed=1, opening_burst=1.0)
    supervisor = FeedSupervisor(feed, tape)
    started = real_time.monotonic()
    supervisor.start()
    n_turns = 0
    async with asyncio.timeout(30.0):
        while len(tape.updates) < 4_000:
            await asyncio.sleep(0)
            n_turns += 1
        elapsed = real_time.monotonic() - started
        await supervisor.stop()
    assert elapsed >= (len(tape.updates) - 1) / 20_000.0
    assert n_turns > 50
    assert tape.statuses == ["simulator reconnecting", *OPENED, "simulator live", "simulator stopped"]
    n_at_stop = len(tape.updates)
    await asyncio.sleep(0)
    assert len(tape.updates) == n_at_stop


def test_instruments_of_a_database_are_played_too() -> None:
    feed = SimulatorFeed([Instrument("AAPL", previous_close="150.10")], seed=7)
    added = [Instrument("NEW1", previous_close="10.50"), Instrument("TOO", previous_close="0.000000000001")]
    assert feed.play([Instrument("AAPL", previous_close="200"), *added]) == ["TOO"]
    again = SimulatorFeed(
        [Instrument("AAPL", previous_close="200"), Instrument("NEW1", previous_close="10.50")], seed=7
    )
    published: list[list[tuple[str, str]]] = []
    for played in (feed, again):
        prices: list[tuple[str, str]] = []
        published.append(prices)
        played._exchange.advance(
            lambda update, prices=prices: prices.append((update.instrument.code, str(update.price))),
            lambda book: None,
            500,
            0,
        )
    assert published[0] == published[1]
    assert {code for code, _ in published[0]} == {"AAPL", "NEW1"}
