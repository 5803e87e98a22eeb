"""The steps of the KIS feed on a clock of its own: who is polled, what is published, and whose place is whose."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import structlog.testing
from kis_frames import SAMPLES

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws.feeds.kis.feed import KISFeed
from fastws.feeds.kis.options import KISOptions
from fastws.feeds.kis.session import Session
from fastws.kis.auth import KISAuthManager
from fastws.kis.control import Ack, Outcome, Registration
from fastws.kis.errors import KISConnectionError, KISInUseError
from fastws.kis.events import Changed, Live, Lost, Opened
from fastws.kis.registration import State
from fastws.market.interest import Interest

SAMSUNG, HYNIX, NAVER = "005930", "000660", "035420"
TRADES, BOOKS, OPERATIONS = "H0UNCNT0", "H0UNASP0", "H0UNMKO0"
WATCHED = Interest(1, 0)
SAMPLE_BOOK = next(text for text in SAMPLES.values() if text.startswith(b"0|H0UNASP0"))
NOON = 1_795_143_600.0  # 2026-11-20T12:00:00+09:00, a Friday


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIS_REST_URL", "KIS_WS_URL", "KIS_CONFIG", "KIS_PAPER"):
        monkeypatch.delenv(name, raising=False)


class Sink:
    """The market as a feed sees it, which keeps what it was told."""

    def __init__(self) -> None:
        self.table = {code: Instrument(code, code, "KOSPI") for code in (SAMSUNG, HYNIX, NAVER)}
        self.prices: list[PriceUpdate] = []
        self.books: list[BookUpdate] = []
        self.statuses: list[tuple[str, str]] = []
        self.connected: list[bool] = []

    @property
    def instruments(self) -> Iterable[Instrument]:
        return self.table.values()

    def instrument(self, code: str, /) -> Instrument | None:
        return self.table.get(code)

    def ensure_instrument(self, code: str, /) -> Instrument:
        return self.table.setdefault(code, Instrument(code))

    def publish_price(self, update: PriceUpdate, /) -> int:
        self.prices.append(update)
        return 0

    def publish_book(self, update: BookUpdate, /) -> int:
        self.books.append(update)
        return 0

    def set_status(self, market: str, status: str, /) -> int:
        self.statuses.append((market, status))
        return 0

    def set_connected(self, is_connected: bool, /) -> None:
        if self.connected[-1:] != [is_connected]:
            self.connected.append(is_connected)

    def set_received(self, at_ns: int, /) -> None:
        pass


class Line:
    """In place of a session's connection: its registrations are real, and KIS is what the test says."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.registrations = session.connection.registrations
        self.is_live = self.is_connected = False
        self.n_frames = self.n_bad = 0
        self.requests: list[Registration] = []

    def want(self, registration: Registration, priority: int = 0) -> None:
        self.registrations.want(registration, priority)

    def unwant(self, registration: Registration) -> bool:
        return self.registrations.unwant(registration)

    def renew(self, registration: Registration) -> bool:
        return self.registrations.renew(registration, self.session._clock())

    def open(self) -> None:
        self.is_connected = True
        self.registrations.on_connected(self.session._clock())
        self.session._take_event(Opened())

    def live(self, gap: float | None = None) -> None:
        self.is_live = True
        self.session._take_event(Live(gap))

    def lose(self, error: KISConnectionError | None = None) -> None:
        self.is_connected = self.is_live = False
        self.registrations.on_disconnected(self.session._clock())
        self.session._take_event(Lost(error or KISConnectionError("connection lost"), 1.0, 1))

    def answer(self, now: float) -> None:
        """Confirm what is asked for."""
        while (request := self.registrations.next_request(now)) is not None:
            self.requests.append(request.registration)
            outcome = Outcome.REMOVED if request.is_removal else Outcome.REGISTERED
            change = self.registrations.on_ack(Ack(request.registration, outcome, "", "", "", ""), now)
            if change is not None:
                self.session._take_event(Changed(change))
            now += 0.2


class Driver:
    def __init__(self, n_keys: int = 1, fixed: Iterable[str] = (), **options: Any) -> None:
        self.now, self.wall = 1000.0, NOON
        self.interest: dict[str, Interest] = {}
        keys = [KISAuthManager(f"{n}" * 36, "s" * 180, paper=False) for n in range(1, n_keys + 1)]
        self.feed = KISFeed(
            keys, interest=lambda: self.interest, fixed=fixed, options=KISOptions(**options),
            clock=lambda: self.now, wall_clock=lambda: self.wall,
        )  # fmt: skip
        self.sink = self.feed.publisher.market = Sink()
        self.lines = [Line(session) for session in self.feed.sessions]
        for line in self.lines:
            line.session.connection = line  # type: ignore[assignment]

    def step(self, seconds: float = 0.5) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.wall += 0.5
            self.feed._step(self.sink)
            for line in self.lines:
                line.answer(self.now)

    def up(self, *codes: str) -> None:
        """Have all sessions live and these registered."""
        for line in self.lines:
            line.open()
            line.live()
        self.interest = dict.fromkeys(codes, WATCHED)
        self.step(5)

    def trade(self, code: str, price: int, volume: int, quantity: int = 1) -> None:
        update = PriceUpdate(self.sink.table[code], price, volume=volume, trade_volume=quantity)
        day = int(self.wall + 9 * 3600) // 86_400
        self.feed.publisher.on_trade(self.sink, TRADES, update, day, self.now)

    def book(self, code: str, quantity: int = 1) -> None:
        update = BookUpdate(self.sink.table[code], [(1, quantity)], [(2, 1)])
        self.feed.publisher.on_book(self.sink, update, self.now)

    def polled_book(self, code: str, quantity: int = 1) -> None:
        update = BookUpdate(self.sink.table[code], [(1, quantity)], [(2, 1)], quality="polled")
        self.feed.publisher.on_polled_book(update, self.now)

    def open_market(self) -> None:
        self.feed.publisher.phases.phases.on_operation("KOSPI", "112", self.wall)

    def poll(self, code: str, price: int, volume: int, asked_at: float | None = None) -> None:
        update = PriceUpdate(self.sink.table[code], price, volume=volume, quality="polled")
        self.feed.publisher.on_polled_prices((code,), [update], self.now if asked_at is None else asked_at)

    def polled(self) -> tuple[set[str], set[str]]:
        """What is asked for in the next minute: the symbols of prices, and those of books."""
        prices: set[str] = set()
        books: set[str] = set()
        for n in range(60):
            while (job := self.feed.plan.take(self.now + n)) is not None:
                (books if job.is_book else prices).update(job.codes)
        return prices, books

    def said(self) -> list[tuple[object, int | None]]:
        return [(update.price, update.volume) for update in self.sink.prices]


def test_of_two_polls_the_one_that_was_asked_for_later_counts() -> None:
    driver = Driver()
    driver.poll(SAMSUNG, 70_100, 200, asked_at=999.0)
    driver.poll(SAMSUNG, 70_000, 100, asked_at=998.0)
    assert driver.said() == [(70_100, 200)]


def test_a_registration_that_goes_silent_is_noticed_and_made_anew() -> None:
    driver = Driver()
    driver.up(SAMSUNG, HYNIX)
    driver.trade(SAMSUNG, 70_000, 100)
    driver.trade(HYNIX, 90_000, 100)
    driver.step(200)
    (line,) = driver.lines
    line.requests.clear()
    driver.feed._replan_at = 0.0
    driver.step()
    assert driver.polled()[0] == {SAMSUNG, HYNIX}, "what is pushed is looked after"
    driver.trade(HYNIX, 90_100, 110)
    driver.poll(HYNIX, 90_100, 110)
    driver.poll(SAMSUNG, 70_300, 250)
    assert (70_300, 250) not in driver.said(), "it may be on its way"
    with structlog.testing.capture_logs() as logs:
        driver.step(6)
    driver.poll(SAMSUNG, 70_300, 250)
    assert driver.said()[-1] == (70_300, 250)
    # Its books do not come either, and whether there are market operations nobody can tell.
    assert {*line.requests} == {
        Registration(TRADES, SAMSUNG),
        Registration(BOOKS, SAMSUNG),
        Registration(OPERATIONS, SAMSUNG),
    }
    assert len(line.requests) == 3
    assert [entry["symbol"] for entry in logs if "sends no trades" in entry["event"]] == [SAMSUNG]
    prices, books = driver.polled()
    assert SAMSUNG in prices
    assert books == {SAMSUNG}
    driver.trade(SAMSUNG, 70_400, 300)
    driver.step()
    assert SAMSUNG not in driver.feed.publisher.silences


def test_the_silence_of_what_is_not_wanted_and_of_what_does_not_trade_has_a_reason() -> None:
    driver = Driver(fixed=[NAVER])
    assert driver.feed.is_quiet(SAMSUNG)
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 100)
    assert driver.feed.is_quiet(HYNIX)
    assert not driver.feed.is_quiet(SAMSUNG)
    assert not driver.feed.is_quiet(NAVER)
    # A halt, as a check sees it; it lasts as long as checks say so.
    driver.step(30)
    driver.poll(SAMSUNG, 70_000, 100)
    driver.step(60)
    assert driver.feed.is_quiet(SAMSUNG)
    driver.step(31)
    assert not driver.feed.is_quiet(SAMSUNG)


def test_a_registration_that_stays_silent_is_not_made_anew_without_end() -> None:
    driver = Driver(has_books=False)
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 100)
    driver.step(100)
    (line,) = driver.lines
    line.requests.clear()
    for n in range(180):
        driver.poll(SAMSUNG, 70_000 + n, 200 + n)
        driver.step(20)
    # 5, 10, 20 … minutes apart, each of them a request.
    assert 3 <= line.requests.count(Registration(TRADES, SAMSUNG)) <= 4
    assert len(line.requests) <= 8


def test_a_book_that_goes_silent_while_it_trades_is_made_anew_and_nothing_else() -> None:
    driver = Driver()
    driver.up(SAMSUNG, HYNIX)
    driver.step(100)
    for code in (SAMSUNG, HYNIX):
        driver.trade(code, 70_000, 100)
        driver.book(code)
    (line,) = driver.lines
    line.requests.clear()
    with structlog.testing.capture_logs() as logs:
        for n in range(1, 16):
            driver.step(2)
            driver.trade(SAMSUNG, 70_000 + n, 100 + n)
            driver.trade(HYNIX, 90_000 + n, 100 + n)
            driver.book(HYNIX, n)
    assert line.requests == [Registration(BOOKS, SAMSUNG)]
    assert [entry["symbol"] for entry in logs if "sends no book" in entry["event"]] == [SAMSUNG]
    assert driver.polled()[1] == {SAMSUNG}, "until it comes"
    assert [update.quality for update in driver.sink.prices] == [None] * len(driver.sink.prices)
    driver.book(SAMSUNG, 7)
    driver.step()
    assert driver.polled()[1] == set()
    assert not driver.feed.publisher.book_silences


def test_a_book_that_does_not_change_because_nothing_trades_is_not_silent() -> None:
    driver = Driver()
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 100)
    driver.book(SAMSUNG)
    for n in range(4):
        driver.trade(SAMSUNG, 70_000 + n, 101 + n)
    driver.step(600)
    driver.trade(SAMSUNG, 70_000, 200)
    # The book comes with the trade, or a moment before it.
    driver.book(SAMSUNG, 2)
    driver.step(60)
    assert not driver.feed.publisher.book_silences
    # Of a symbol without a registration for its book nothing is expected.
    driver.lines[0].lose()
    for n in range(20):
        driver.step(2)
        driver.trade(SAMSUNG, 71_000 + n, 300 + n)
    assert not driver.feed.publisher.book_silences


def test_trades_that_go_silent_while_the_book_comes_are_made_anew_without_it() -> None:
    driver = Driver()
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 100)
    driver.step(100)
    (line,) = driver.lines
    line.requests.clear()
    driver.book(SAMSUNG)
    driver.poll(SAMSUNG, 70_300, 250)
    driver.step(4)
    driver.book(SAMSUNG, 2)
    driver.step(4)
    assert {*line.requests} == {Registration(TRADES, SAMSUNG), Registration(OPERATIONS, SAMSUNG)}


def test_a_polled_book_does_not_hide_that_none_is_pushed() -> None:
    driver = Driver()
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 100)
    driver.step(100)
    (line,) = driver.lines
    line.requests.clear()
    driver.poll(SAMSUNG, 70_300, 250)
    driver.step(2)
    assert driver.polled()[1] == {SAMSUNG}
    driver.polled_book(SAMSUNG)
    driver.step(6)
    assert Registration(BOOKS, SAMSUNG) in line.requests


def test_without_polls_a_session_that_goes_silent_in_an_open_market_is_made_anew() -> None:
    driver = Driver(poll_rate=0)
    driver.up(SAMSUNG, HYNIX)
    (line,) = driver.lines
    line.requests.clear()
    driver.step(300)
    assert line.requests == [], "nobody knows whether the market is open"
    driver.open_market()
    with structlog.testing.capture_logs() as logs:
        driver.step(10)
    assert {*line.requests} == {
        *(Registration(tr_id, code) for tr_id in (TRADES, BOOKS) for code in (SAMSUNG, HYNIX)),
        Registration(OPERATIONS, SAMSUNG),
    }
    (told,) = [entry for entry in logs if "sends nothing of the symbols" in entry["event"]]
    assert (told["symbols"], told["key"]) == (2, 1)
    # Not without end: 5, 10, 20 … minutes apart.
    line.requests.clear()
    for _ in range(60):
        driver.step(60)
        driver.open_market()
    assert 3 <= line.requests.count(Registration(TRADES, SAMSUNG)) <= 8


def test_with_polls_or_data_a_session_is_not_silent() -> None:
    for rate in (None, 0):
        driver = Driver(poll_rate=rate)
        driver.up(SAMSUNG)
        driver.open_market()
        (line,) = driver.lines
        line.requests.clear()
        for _ in range(30):
            driver.step(10)
            if rate == 0:
                driver.feed.publisher.on_frame(0, BOOKS, SAMPLE_BOOK, 0)
        assert line.requests == []


def test_symbols_that_kis_does_not_have_are_told_and_left_out() -> None:
    with structlog.testing.capture_logs() as logs:
        driver = Driver(fixed=("AAPL", SAMSUNG, "BRK-B"))
    (line,) = logs
    assert (line["log_level"], line["symbols"], line["first"]) == ("warning", 2, ["AAPL", "BRK-B"])
    assert "KIS does not have symbols that are wanted" in line["event"]
    driver.up()
    driver.sink.table["123456"] = Instrument("123456", currency="USD")
    driver.interest = dict.fromkeys((HYNIX, "MSFT", "AAPL", "123456"), WATCHED)
    with structlog.testing.capture_logs() as logs:
        driver.step(200)
        assert logs == []
        driver.step(400)
    assert [entry["first"] for entry in logs] == [["MSFT", "123456"]]
    assert list(driver.feed.allocation.fixed) == [SAMSUNG]
    assert sorted(driver.feed.allocation.codes_of(0)) == sorted([SAMSUNG, HYNIX])


def test_a_new_day_without_pushes_is_a_silence_when_it_trades() -> None:
    driver = Driver(has_books=False)
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 10_000)
    driver.step(2)
    driver.wall += 3 * 86_400
    driver.step(100)
    driver.poll(SAMSUNG, 70_000, 10_000)
    driver.step(60)
    driver.poll(SAMSUNG, 70_000, 0)
    assert SAMSUNG not in driver.feed.publisher.silences
    driver.step(60)
    driver.poll(SAMSUNG, 70_500, 50)
    assert SAMSUNG in driver.feed.publisher.silences


def test_a_symbol_that_gets_its_place_back_is_polled_once() -> None:
    driver = Driver(has_books=False, registrations=1, min_dwell=60.0)
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 100)
    driver.step()
    known = driver.feed.publisher.of(SAMSUNG)
    assert known.is_current
    driver.feed.allocation.refuse(SAMSUNG, 0.0)
    driver.step()
    assert driver.feed.allocation.session_of(SAMSUNG) == 0
    # KIS has it still, and says nothing; what it sent meanwhile was not published.
    assert not known.is_current
    assert driver.polled()[0] == {SAMSUNG}


@pytest.mark.parametrize("n_keys", [1, 2])
@pytest.mark.parametrize("away", [10.0, 25.0, 120.0])
def test_what_an_outage_cost_is_counted_however_long_it_was(n_keys: int, away: float) -> None:
    driver = Driver(n_keys, has_books=False)
    driver.up(SAMSUNG)
    place = driver.feed.allocation.session_of(SAMSUNG)
    assert place is not None
    driver.trade(SAMSUNG, 70_000, 1_000)
    driver.lines[place].lose()
    driver.step(away)
    driver.lines[place].open()
    driver.lines[place].live(away)
    driver.step(10)
    driver.trade(SAMSUNG, 70_100, 501_001)
    assert driver.feed.publisher.outages.lost_volume == 500_000
    with structlog.testing.capture_logs() as logs:
        driver.step(40)
    (line,) = [entry for entry in logs if "trades were lost" in entry["event"]]
    # Another app key takes over after twenty seconds.
    assert line["seconds"] == pytest.approx(min(away, 20.0) if n_keys == 2 else away, abs=5.0)


def test_a_symbol_that_nobody_wants_any_more_has_no_outage() -> None:
    driver = Driver(has_books=False)
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 1_000)
    driver.interest = {}
    driver.step(100)
    driver.interest = {SAMSUNG: WATCHED}
    driver.lines[0].lose()
    driver.step(5)
    driver.lines[0].open()
    driver.lines[0].live(5.0)
    driver.step(5)
    driver.trade(SAMSUNG, 70_100, 501_001)
    assert driver.feed.publisher.outages.lost_volume == 0


def refuse(line: Line) -> None:
    line.open()
    line.lose(KISInUseError("connection refused: in use"))


def test_an_app_key_in_use_elsewhere_moves_no_symbols() -> None:
    driver = Driver(2, registrations=2)
    one, two = driver.lines
    one.open()
    one.live()
    driver.interest = dict.fromkeys((SAMSUNG, HYNIX), WATCHED)
    driver.step(30)
    assert driver.sink.connected[-1]
    driver.sink.connected.clear()
    for _ in range(3):
        refuse(two)
        driver.step(70)
    # One that is told only when it registers something.
    two.open()
    driver.step(30)
    assert driver.feed.allocation.codes_of(1) == []
    assert driver.sink.connected == [True]
    # It has something to register, by which it is seen that the key is free again.
    assert [registration.tr_id for registration in two.requests] == [OPERATIONS]
    two.live()
    driver.step(5)
    assert len(driver.feed.allocation.codes_of(1)) == 1


def test_a_book_without_codes_does_not_open_a_market() -> None:
    driver = Driver(exchange="NXT")
    driver.up(HYNIX)
    trade = next(text for text in SAMPLES.values() if text.startswith(b"0|H0NXCNT0"))
    book = next(text for text in SAMPLES.values() if text.startswith(b"0|H0NXASP0"))
    for _ in range(5):
        for message in (trade, book):
            driver.now += 0.6
            driver.feed.publisher.on_frame(0, message[2:10].decode(), message, 0)
    assert driver.sink.statuses == [("KOSPI", "pre_market")]


def test_a_polled_book_is_published_when_it_changes() -> None:
    driver = Driver()
    samsung = driver.sink.table[SAMSUNG]
    for quantity in (1, 1, 2, 2):
        driver.now += 1.0
        driver.feed.publisher.on_polled_book(BookUpdate(samsung, [(1, quantity)], [(2, 1)]), driver.now - 0.1)
    assert len(driver.sink.books) == 2


def test_of_many_fixed_symbols_the_watched_come_first_and_others_have_no_books() -> None:
    codes = [f"{n:06d}" for n in range(1, 501)]
    driver = Driver(fixed=codes, registrations=2)
    driver.interest = {codes[-1]: WATCHED}
    driver.step()
    jobs = [driver.feed.plan.take(driver.now + n / 15) for n in range(60)]
    assert {job.codes for job in jobs if job is not None and job.is_book} == {(codes[-1],)}
    n_times = sum(codes[-1] in job.codes for job in jobs if job is not None and not job.is_book)
    assert n_times >= 3, "it is polled every second"
    asked = {code for job in jobs if job is not None for code in job.codes}
    assert asked == set(codes)


def test_polls_are_planned_anew_only_when_something_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.up(SAMSUNG)
    driver.trade(SAMSUNG, 70_000, 1)
    driver.step()
    n_plans = 0
    want = driver.feed.plan.want

    def counted(*arguments: Any, **others: Any) -> None:
        nonlocal n_plans
        n_plans += 1
        want(*arguments, **others)

    monkeypatch.setattr(driver.feed.plan, "want", counted)
    driver.step(4)
    assert n_plans <= 1
    driver.interest[HYNIX] = WATCHED
    driver.interest = dict(driver.interest)
    driver.step()
    assert n_plans >= 1
    n_plans = 0
    driver.lines[0].lose()
    driver.step()
    assert n_plans == 1
    assert SAMSUNG in driver.polled()[0]


def changes(line: Line, registration: Registration, code: str, now: float) -> None:
    """KIS answers a request for `registration` with `code`."""
    while (request := line.registrations.next_request(now)) is not None:
        refused = request.registration == registration
        outcome = Outcome.REFUSED if refused else Outcome.REGISTERED
        ack = Ack(request.registration, outcome, code if refused else "", "text", "", "")
        change = line.registrations.on_ack(ack, now)
        if change is not None:
            line.session._take_event(Changed(change))
        now += 0.2


def test_market_operations_are_had_by_another_symbol_when_kis_refuses_one() -> None:
    driver = Driver(has_books=False)
    (line,) = driver.lines
    line.open()
    line.live()
    driver.interest = dict.fromkeys((SAMSUNG, HYNIX), WATCHED)
    driver.now += 0.5
    driver.feed._step(driver.sink)
    with structlog.testing.capture_logs() as logs:
        changes(line, Registration(OPERATIONS, SAMSUNG), "OPSP8993", driver.now)
    assert any(entry["event"].startswith("KIS refuses market operations") for entry in logs)
    assert line.registrations.state(Registration(OPERATIONS, HYNIX)) is not None
    assert line.registrations.state(Registration(OPERATIONS, SAMSUNG)) is None
    driver.step(5)
    assert line.registrations.state(Registration(OPERATIONS, HYNIX)) is State.ACTIVE


def test_a_code_that_kis_does_not_know_is_asked_for_less_and_less() -> None:
    driver = Driver(has_books=False)
    (line,) = driver.lines
    line.open()
    line.live()
    driver.interest = {SAMSUNG: WATCHED}
    wrong = Registration(TRADES, SAMSUNG)
    asked: list[float] = []
    while driver.now < 1000.0 + 8 * 3600:
        driver.now += 30.0
        driver.feed._step(driver.sink)
        if line.registrations.state(wrong) is State.PENDING:
            asked.append(driver.now)
        changes(line, wrong, "OPSP8993", driver.now)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses == pytest.approx([600.0 * 2**n for n in range(len(pauses))], abs=60.0)
    assert len(pauses) == 5


def test_a_registration_without_an_answer_is_told() -> None:
    driver = Driver(has_books=False)
    (line,) = driver.lines
    line.open()
    line.live()
    driver.interest = {SAMSUNG: WATCHED}
    with structlog.testing.capture_logs() as logs:
        for _ in range(80):
            driver.now += 0.5
            driver.feed._step(driver.sink)
            line.registrations.next_request(driver.now)
            for change in line.registrations.take_changes(driver.now):
                line.session._take_event(Changed(change))
    told = [entry for entry in logs if "does not answer a registration" in entry["event"]]
    assert {(entry["tr_id"], entry["symbol"]) for entry in told} >= {(TRADES, SAMSUNG)}
