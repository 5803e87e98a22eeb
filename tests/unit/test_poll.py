"""Polling a source on virtual time: its turns, its failures, and what a poll feed makes of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs
from test_feed_supervisor import RecordingMarket, VirtualTime

from fastws._market import Instrument, PriceUpdate
from fastws.feeds.asker import Asker, SourceAwayError, SourceBusyError
from fastws.feeds.base import FeedSupervisor
from fastws.feeds.breaker import Breaker
from fastws.feeds.poll import PollFeed
from fastws.feeds.poller import SourcePoller, shown_reason
from fastws.feeds.sources import Answer, Quote, Source, SourceError, SourceLimitError, SourceSetupError
from fastws.market.interest import Interest

INSTRUMENTS = {code: Instrument(code, currency="USD") for code in ("AAPL", "MSFT", "GOOGL", "AMZN", "NVDA")}
EPOCH = 1_763_713_800.0


class ScriptedSource(Source):
    """Answers with what `quote` makes of each instrument, or fails with what is put into `failures`."""

    name = "scripted"
    symbols_per_call = 2

    def __init__(self, time: VirtualTime, quote: Callable[[str], Quote | None] | None = None) -> None:
        self.time = time
        self.prices = dict.fromkeys(INSTRUMENTS, Decimal("150.25"))
        self.quote = quote or (lambda code: Quote(code=code, price=self.prices[code]))
        self.failures: list[BaseException] = []
        self.calls: list[tuple[float, str]] = []
        self.latency = 0.0
        self.is_down = False
        self.n_closed = 0

    def serves(self, instrument: Instrument) -> bool:
        return instrument.currency == "USD"

    async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
        self.calls.append((self.time.now, " ".join(instrument.code for instrument in instruments)))
        if self.latency:
            await asyncio.Event().wait()
        if self.is_down:
            raise SourceError("it is down")
        if self.failures:
            raise self.failures.pop(0)
        return Answer([quote for i in instruments if (quote := self.quote(i.code)) is not None])

    async def close(self) -> None:
        self.n_closed += 1


def asker_of(source: ScriptedSource, **options: Any) -> Asker:
    time = source.time
    return Asker(
        source,
        max_age=300.0,
        breaker=Breaker(rng=random.Random(1)),
        clock=time.clock,
        wall_clock=lambda: EPOCH + time.now,
        sleep=time.sleep,
        rng=random.Random(1),
        **options,
    )


async def asked(asker: Asker, *codes: str, patience: float = 0.0) -> Any:
    """What comes of asking, while time goes on as far as it takes."""
    source = asker.source
    assert isinstance(source, ScriptedSource)
    task = asyncio.ensure_future(asker.quotes([INSTRUMENTS[code] for code in codes], patience))
    for _ in range(2000):
        if task.done():
            break
        await source.time.advance(0.05)
    return await task


# Asking.


async def test_an_answer_is_checked() -> None:
    quotes = {
        "AAPL": Quote(code="AAPL", price="150.25"),
        "MSFT": Quote(code="MSFT", price=0),
        "GOOGL": Quote(code="GOOGL", price=10, time_ms=1),
    }
    asker = asker_of(ScriptedSource(VirtualTime(), quotes.get))
    updates, failed = await asked(asker, "AAPL", "MSFT", "GOOGL", "AMZN")
    assert [(update.instrument.code, str(update.price)) for update in updates] == [("AAPL", "150.25")]
    assert failed["MSFT"] == "not positive: price: 0"
    assert failed["GOOGL"].startswith("stale: ")
    assert failed["AMZN"] == "missing: not in the answer"
    assert asker.counts == {"answered": 1, "failed": 0, "limited": 0, "refused": 3}


async def test_a_call_that_fails_is_made_again() -> None:
    source = ScriptedSource(VirtualTime())
    source.failures = [SourceError("it has hiccups"), KeyError("price")]
    asker = asker_of(source)
    with capture_logs() as logs:
        updates, _ = await asked(asker, "AAPL")
    assert len(updates) == 1
    assert len(source.calls) == 3
    assert asker.counts["failed"] == 2
    assert not asker.breaker.is_open
    told = [line["error"] for line in logs if line["event"] == "source fails"]
    assert told == ["it has hiccups", "its answer cannot be read: KeyError: 'price'"]
    assert logs[-1]["event"] == "source answers again"


async def test_the_breaker_keeps_calls_from_a_source_that_is_down() -> None:
    source = ScriptedSource(VirtualTime())
    source.is_down = True
    asker = asker_of(source)
    with pytest.raises(SourceAwayError, match="it is down") as caught:
        await asked(asker, "AAPL")
    assert len(source.calls) == 3
    assert 2.0 <= caught.value.retry_in <= 4.0
    with pytest.raises(SourceAwayError, match="it is down"):
        await asked(asker, "AAPL")
    assert len(source.calls) == 3
    source.is_down = False
    # Who has the patience waits until it may be asked again.
    assert (await asked(asker, "AAPL", patience=10.0)).updates
    assert len(source.calls) == 4


async def test_retry_after_is_kept_to() -> None:
    source = ScriptedSource(VirtualTime())
    source.failures = [SourceLimitError("it takes no more calls", 7.0)]
    asker = asker_of(source)
    with pytest.raises(SourceAwayError) as caught:
        await asked(asker, "AAPL")
    assert caught.value.retry_in == 7.0
    assert (await asked(asker, "AAPL", patience=20.0)).updates
    first, second = (at for at, _ in source.calls)
    assert 7.0 <= second - first < 7.2
    assert asker.counts["limited"] == 1


async def test_a_slow_source_is_given_up() -> None:
    source = ScriptedSource(VirtualTime())
    source.latency = 1.0
    asker = asker_of(source, time_limit=0.02)
    task = asyncio.ensure_future(asker.quotes([INSTRUMENTS["AAPL"]], 0.0))
    async with asyncio.timeout(5):
        while not task.done():
            await source.time.advance(0.5)
            await asyncio.sleep(0.01)
    with pytest.raises(SourceAwayError, match=r"it gave no answer within 0\.02 s"):
        await task
    assert len(source.calls) == 3


async def test_calls_keep_their_distance() -> None:
    source = ScriptedSource(VirtualTime())
    source.min_interval = 2.0
    asker = asker_of(source)
    for _ in range(3):
        await asked(asker, "AAPL", patience=10.0)
    times = [at for at, _ in source.calls]
    assert all(2.0 <= later - earlier < 2.2 for earlier, later in pairwise(times))


async def test_a_source_that_cannot_be_used_says_so_at_once() -> None:
    source = ScriptedSource(VirtualTime())
    source.failures = [SourceSetupError("the source scripted needs its key")]
    with pytest.raises(SourceSetupError, match="needs its key"):
        await asked(asker_of(source), "AAPL")
    assert len(source.calls) == 1


async def test_forced_calls_come_after_the_others() -> None:
    source = ScriptedSource(VirtualTime())
    source.min_interval = 1.0
    asker = asker_of(source)

    def ask(code: str, is_forced: bool) -> asyncio.Future[Any]:
        call = asker.quotes([INSTRUMENTS[code]], 600.0, is_forced=is_forced)
        return asyncio.ensure_future(call)

    calls = [ask(code, is_forced) for code, is_forced in (("AAPL", False), ("AMZN", True), ("NVDA", True))]
    await source.time.advance(0.1)
    calls += [ask(code, False) for code in ("MSFT", "GOOGL")]
    await source.time.advance(10.0)
    assert all(call.done() for call in calls)
    assert [code for _, code in source.calls] == ["AAPL", "MSFT", "GOOGL", "AMZN", "NVDA"]


async def test_forced_calls_take_their_share_of_the_time_and_no_more() -> None:
    source = ScriptedSource(VirtualTime())
    source.min_interval = 1.0
    asker = asker_of(source)
    forced = [
        asyncio.ensure_future(asker.quotes([INSTRUMENTS["AAPL"]], 600.0, is_forced=True)) for _ in range(40)
    ]
    await source.time.advance(50.0)
    # A burst, and a quarter of the calls.
    assert 50 / 4 <= len(source.calls) <= 50 / 4 + 6
    for call in forced:
        call.cancel()
    await asyncio.wait(forced)
    with pytest.raises(SourceBusyError, match="busy with other forced calls"):
        await asker.quotes([INSTRUMENTS["AAPL"]], 0.0, is_forced=True)
    # The others go on.
    assert (await asked(asker, "MSFT", patience=2.0)).updates


# Polling.


@asynccontextmanager
async def polling(
    source: ScriptedSource, codes: str, **options: Any
) -> AsyncIterator[tuple[SourcePoller, list[PriceUpdate]]]:
    time = source.time
    settings = {"interval": 10.0, "batch_size": 50, "fresh": 60.0, **options}
    poller = SourcePoller(asker_of(source), clock=time.clock, sleep=time.sleep, **settings)
    poller.want(INSTRUMENTS[code] for code in codes.split())
    updates: list[PriceUpdate] = []
    task = asyncio.ensure_future(poller.run(updates.extend))
    try:
        yield poller, updates
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_symbols_are_polled_in_batches_each_in_its_turn() -> None:
    source = ScriptedSource(VirtualTime())
    async with polling(source, "AAPL MSFT GOOGL") as (poller, updates):
        await source.time.advance(1.0)
        assert [codes for _, codes in source.calls] == ["AAPL MSFT", "GOOGL"]
        await source.time.advance(10.0)
        assert [codes for _, codes in source.calls[2:]] == ["AAPL MSFT", "GOOGL"]
        assert len(updates) == 6
        assert poller.n_fresh() == 3
        # A symbol that is new has its turn at once.
        poller.want([*INSTRUMENTS.values(), Instrument("005930", currency="KRW")])
        assert "005930" not in poller.wanted
        await source.time.advance(1.0)
        assert [codes for _, codes in source.calls[4:]] == ["AMZN NVDA"]


async def test_what_was_asked_for_in_vain_is_next() -> None:
    source = ScriptedSource(VirtualTime())
    async with polling(source, "AAPL MSFT GOOGL") as (poller, updates):
        source.is_down = True
        await source.time.advance(5.0)
        assert not updates
        assert poller.is_away
        assert {codes for _, codes in source.calls} == {"AAPL MSFT"}
        source.is_down = False
        n = len(source.calls)
        await source.time.advance(9.0)
        assert [codes for _, codes in source.calls[n : n + 2]] == ["AAPL MSFT", "GOOGL"]
        assert not poller.is_away


async def test_staleness_is_of_symbols() -> None:
    source = ScriptedSource(VirtualTime())
    async with polling(source, "AAPL MSFT") as (poller, _):
        await source.time.advance(30.0)
        assert poller.stale() == []
        source.prices["MSFT"] = Decimal("NaN")
        await source.time.advance(100.0)
        assert poller.stale() == ["MSFT"]
        assert poller.n_fresh() == 1
        source.prices["MSFT"] = Decimal(1)
        await source.time.advance(11.0)
        assert poller.stale() == []


async def test_what_is_refused_is_told_when_it_begins_and_now_and_then() -> None:
    source = ScriptedSource(VirtualTime(), lambda code: Quote(code=code, price=0 if code == "AAPL" else 1))
    with capture_logs() as logs:
        async with polling(source, "AAPL MSFT"):
            await source.time.advance(305.0)
    told = [line for line in logs if line["event"] == "prices refused"]
    assert [line["why"] for line in told] == ["AAPL not positive: price: 0"] * 2
    assert told[0]["source"] == "scripted"


# The feed.


class USMarket(RecordingMarket):
    def set_feed_status(self, feed: str, status: str) -> int:
        return self._record(status)

    def instrument(self, code: str) -> Instrument | None:
        return INSTRUMENTS.get(code)


class Run:
    """A poll feed under its supervisor."""

    def __init__(self, fixed: str = "", **wanted: Interest) -> None:
        self.time = VirtualTime()
        self.source = ScriptedSource(self.time)
        self.market = USMarket(self.time)
        self.wanted = wanted
        self.feed = PollFeed(
            self.source,
            interval=10.0,
            batch_size=50,
            fresh=60.0,
            interest=lambda: self.wanted,
            fixed=fixed.split(),
            clock=self.time.clock,
            wall_clock=lambda: EPOCH + self.time.now,
            sleep=self.time.sleep,
        )
        self.supervisor = FeedSupervisor(self.feed, self.market, clock=self.time.clock, sleep=self.time.sleep)

    async def __aenter__(self) -> Run:
        self.supervisor.start()
        await self.time.advance(1.0)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.supervisor.stop()

    @property
    def prices(self) -> list[str]:
        return [f"{update.instrument.code} {update.price}" for update in self.market.updates]

    @property
    def states(self) -> list[str]:
        return [status for _, status in self.market.statuses]


WANTED = Interest(1, 0)


async def test_what_clients_want_is_polled_and_changes_are_published() -> None:
    async with Run(fixed="GOOGL", AAPL=WANTED) as run:
        assert run.prices == ["AAPL 150.25", "GOOGL 150.25"]
        assert run.states == ["reconnecting", "live"]
        await run.time.advance(20.0)
        assert len(run.prices) == 2
        run.source.prices["AAPL"] = Decimal("150.30")
        await run.time.advance(10.0)
        assert run.prices[2:] == ["AAPL 150.30"]
        run.wanted = {"MSFT": WANTED, "UNKNOWN": WANTED}
        await run.time.advance(1.0)
        assert run.prices[3:] == ["MSFT 150.25"]
        assert set(run.feed.poller.wanted) == {"MSFT", "GOOGL"}
        figures = {figure.name: figure.values for figure in run.feed.figures()}
        assert figures["poll_symbols"] == 2
        assert figures["poll_prices"] >= 8
    assert run.source.n_closed == 1
    assert run.states == ["reconnecting", "live", "stopped"]


async def test_unchanged_prices_are_no_silence() -> None:
    async with Run(AAPL=WANTED) as run:
        await run.time.advance(600.0)
        assert run.states == ["reconnecting", "live"]


async def test_the_silence_of_a_polled_symbol_has_a_reason_while_its_source_answers() -> None:
    async with Run(AAPL=WANTED) as run:
        await run.time.advance(20.0)
        assert run.feed.is_quiet("AAPL")
        assert run.feed.is_quiet("MSFT")
        run.source.is_down = True
        await run.time.advance(400.0)
        assert not run.feed.is_quiet("AAPL")


async def test_a_source_that_goes_away_is_told_and_its_last_price_stays() -> None:
    async with Run(AAPL=WANTED) as run:
        run.source.is_down = True
        await run.time.advance(20.0)
        assert run.states == ["reconnecting", "live", "reconnecting"]
        assert run.supervisor.n_failures == 0
        run.source.is_down = False
        await run.time.advance(300.0)
        assert run.states == ["reconnecting", "live", "reconnecting", "live"]
        assert run.prices == ["AAPL 150.25"]


async def test_a_source_that_says_nothing_of_use_is_stale() -> None:
    async with Run(AAPL=WANTED) as run:
        await run.time.advance(5.0)
        # A call that never ends: the breaker knows of no failure.
        run.source.latency = 1.0
        await run.time.advance(120.0)
        assert run.states == ["reconnecting", "live", "stale"]


async def test_a_feed_that_nobody_wants_anything_of_is_live() -> None:
    async with Run() as run:
        assert run.states == ["reconnecting", "live"]
        assert run.source.calls == []


async def test_a_source_that_cannot_be_used_ends_the_feed() -> None:
    run = Run(AAPL=WANTED)
    run.source.failures = [SourceSetupError("no key")]
    async with run:
        assert run.states == ["reconnecting", "stopped"]
        assert not run.supervisor.is_running


async def test_force() -> None:
    async with Run(AAPL=WANTED) as run:
        await run.time.advance(5.0)
        run.source.prices |= {"AAPL": Decimal("151.00"), "MSFT": Decimal(0)}
        n = len(run.source.calls)
        updated, failed = await run.feed.force(["AAPL", "MSFT", "GOOGL", "AAPL", "XYZ"])
        assert updated == ["AAPL", "GOOGL"]
        assert failed == {"XYZ": "unknown symbol", "MSFT": "not positive: price: 0"}
        assert run.prices == ["AAPL 150.25", "AAPL 151.00", "GOOGL 150.25"]
        assert [codes for _, codes in run.source.calls[n:]] == ["AAPL MSFT", "GOOGL"]
        # What has just come is not asked for again.
        assert await run.feed.force(["GOOGL"]) == (["GOOGL"], {})
        assert len(run.source.calls) == n + 2
        await run.time.advance(3.0)
        run.source.is_down = True
        forcing = asyncio.ensure_future(run.feed.force(["GOOGL"]))
        await run.time.advance(30.0)
        assert await forcing == ([], {"GOOGL": "source away"})
    assert await run.feed.force(["AAPL"]) == ([], {"AAPL": "source away: the feed does not run"})


async def test_forced_symbols_do_not_starve_what_is_polled() -> None:
    async with Run(fixed="AAPL MSFT") as run:
        run.source.symbols_per_call = 1
        run.source.min_interval = 4.0
        forcing = [asyncio.ensure_future(run.feed.force(["GOOGL", "AMZN", "NVDA"])) for _ in range(10)]
        try:
            await run.time.advance(120.0)
            assert run.feed.poller.stale() == []
            codes = " ".join(codes for _, codes in run.source.calls).split()
            assert codes.count("AAPL") >= 11
            assert codes.count("MSFT") >= 11
        finally:
            for task in forcing:
                task.cancel()
            await asyncio.wait(forcing)


def test_users_are_told_nothing_of_the_machine() -> None:
    assert shown_reason("stale: it is 301 s old, more than 300") == "stale: it is 301 s old, more than 300"
    assert shown_reason("malformed: /srv/prices.csv, row 5: may be cut off") == "malformed"
    assert shown_reason("/srv/prices.csv is odd") == "refused by the source"
