"""What is polled of KIS and when, what is asked and what is read, and what the markets are doing."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws._market import Instrument
from fastws.feeds.kis.phases import MARKETS, Phases, phase_at, phase_of
from fastws.feeds.kis.polling import Job, PollPlan
from fastws.feeds.kis.quotations import book_call, price_call, read_book, read_prices
from fastws.market.sessions import KST

SAMSUNG = Instrument("005930", "Samsung", "KOSPI")


def resolve(code: str) -> Instrument | None:
    return SAMSUNG if code == "005930" else None


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()


def test_the_longest_waiting_are_polled_next() -> None:
    plan = PollPlan(interval=1.0, batch_size=2)
    assert plan.due_at() == float("inf")
    plan.want("abc", ())
    assert plan.take(0.0) == Job(("a", "b"), is_book=False)
    assert plan.take(0.1) == Job(("c",), is_book=False)
    assert plan.take(0.9) is None
    assert plan.due_at() == 1.0
    plan.want("abcd", ())
    assert plan.take(1.0) == Job(("d", "a"), is_book=False)


def test_books_have_their_turn() -> None:
    plan = PollPlan(interval=0.0, batch_size=1)
    plan.want("ab", "x")
    kinds = [job.is_book for job in (plan.take(n) for n in range(12)) if job is not None]
    assert kinds == [False, False, False, True] * 3


def test_checks_are_rare_and_stay_together() -> None:
    plan = PollPlan(interval=1.0, batch_size=2, check_interval=60.0)
    plan.want("ab", ())
    assert plan.take(0.0) == Job(("a", "b"), is_book=False)
    plan.want("a", (), checks="bcd")
    assert len(plan) == 1
    assert plan.take(1.0) == Job(("c", "d"), is_book=False)
    assert plan.take(1.0) == Job(("a",), is_book=False)
    assert plan.take(1.5) is None
    assert plan.take(60.0) == Job(("b", "c"), is_book=False)
    plan.want((), (), checks="bcd")
    assert plan.take(60.5) is None
    assert plan.due_at() == 61.0


def test_those_that_come_later_fill_up_calls_and_have_their_turn() -> None:
    plan = PollPlan(interval=0.0, batch_size=2)
    plan.want("a", (), later="xy")
    assert plan.take(0.0) == Job(("a", "x"), is_book=False)
    plan.want("abc", (), later="xy")
    calls = [plan.take(n) for n in range(1, 13)]
    n_first = [call.codes[0] in "abc" for call in calls if call is not None].count(True)
    assert n_first == 9


def test_of_several_that_are_refused_each_is_asked_for_alone() -> None:
    plan = PollPlan(interval=1.0, batch_size=3)
    plan.want("abcd", "x")
    batch = plan.take(0.0)
    assert batch == Job(("a", "b", "c"), is_book=False)
    plan.on_refused(batch, 0.1)
    assert len(plan) == 4
    asked: dict[str, list[float]] = {}
    now = 0.2
    while now < 120.0:
        job = plan.take(now)
        if job is not None and not job.is_book:
            for code in job.codes:
                asked.setdefault(code, []).append(now)
            if "b" in job.codes:
                assert job.codes == ("b",)
                plan.on_refused(job, now)
            else:
                plan.on_answered(job, now)
        now += 0.1
    assert all(len(asked[code]) > 80 for code in "acd"), "they do not wait for what is refused"
    pauses = [round(later - earlier) for earlier, later in zip(asked["b"], asked["b"][1:], strict=False)]
    assert pauses == [5, 10, 20, 40]


def test_an_answer_to_what_was_refused_alone_clears_the_others() -> None:
    plan = PollPlan(interval=1.0, batch_size=3)
    plan.want("abc", "x")
    for job in (Job(("a",), False), Job(("b",), False), Job(("c",), False), Job(("x",), True)):
        plan.on_refused(job, 0.0)
    assert plan.take(1.0) is None
    assert plan.due_at() == 5.0
    job = plan.take(5.0)
    assert job == Job(("a",), is_book=False)
    plan.on_answered(job, 5.5)
    plan.want("bac", "x")
    assert plan.take(6.4) == Job(("x",), is_book=True)
    plan.take(6.5)
    assert plan.take(6.5) is None, "all three at once"
    plan.want("", ())
    plan.want("", "x")
    assert plan.take(6.6) == Job(("x",), is_book=True), "what nobody wanted meanwhile is new"


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.floats(0, 3))
    ),
    st.integers(1, 4),
)
def test_no_symbol_is_polled_too_often(
    steps: list[tuple[set[str], set[str], float]], batch_size: int
) -> None:
    plan = PollPlan(interval=1.0, batch_size=batch_size)
    last: dict[tuple[str, bool], float] = {}
    now = 0.0
    for prices, books, seconds in steps:
        now += seconds
        plan.want(prices, books)
        for key in [key for key in last if key[0] not in (books if key[1] else prices)]:
            del last[key]
        while (job := plan.take(now)) is not None:
            assert 1 <= len(job.codes) <= (1 if job.is_book else batch_size)
            for code in job.codes:
                assert code in (books if job.is_book else prices)
                assert now >= last.get((code, job.is_book), -10.0) + 1.0
                last[(code, job.is_book)] = now
        assert {code for code, is_book in last if not is_book} == prices
        assert {code for code, is_book in last if is_book} == books


def test_calls_are_those_of_kis() -> None:
    assert price_call(["005930"], "KRX").parameters == {
        "FID_COND_MRKT_DIV_CODE": "J",
        "FID_INPUT_ISCD": "005930",
    }
    call = price_call(["005930", "000660"], "UN")
    assert call.tr_id == "FHKST11300006"
    assert call.parameters["FID_COND_MRKT_DIV_CODE_2"] == "UN"
    assert call.parameters["FID_INPUT_ISCD_2"] == "000660"
    assert book_call("005930", "NXT").parameters["FID_COND_MRKT_DIV_CODE"] == "NX"


def test_a_falling_price_is_below_zero_even_if_only_its_sign_column_says_so() -> None:
    row = {
        "stck_prpr": "71500",
        "prdy_vrss": "500",
        "prdy_vrss_sign": "5",
        "prdy_ctrt": "0.69",
        "acml_vol": "7",
    }
    (update,) = read_prices({"output": row}, ["005930"], "KRX", resolve)
    assert (update.price, update.change, str(update.change_percent), update.volume) == (
        71500,
        -500,
        "-0.69",
        7,
    )
    assert (update.quality, update.venue, update.high) == ("polled", "KRX", None)


@pytest.mark.parametrize(
    "answer",
    [{}, {"output": None}, {"output": [1, {}, {"inter_shrn_iscd": "005930", "inter2_prpr": "0"}]},
     {"output": [{"inter_shrn_iscd": "005930", "inter2_prpr": "x"}, {"inter_shrn_iscd": "999999"}]}],
)  # fmt: skip
def test_rows_that_say_nothing_are_left_out(answer: dict[str, object]) -> None:
    assert read_prices(answer, ["005930", "000660"], "UN", resolve) == []


def test_a_book_has_only_levels_with_a_price() -> None:
    output = {"askp1": "72100", "askp_rsqn1": "3", "askp2": "0", "bidp1": "72000", "bidp_rsqn1": "4"}
    book = read_book({"output1": output}, "005930", "UN", resolve)
    assert book is not None
    assert (book.bids, book.asks, book.quality) == ([(72000, 4)], [(72100, 3)], "polled")
    assert read_book({"output1": {"askp1": "a"}}, "005930", "UN", resolve) is None
    assert read_book({}, "005930", "UN", resolve) is None


@pytest.mark.parametrize(
    ("time", "phase"),
    [("2026-11-20T07:59", "closed"), ("2026-11-20T08:00", "pre_market"), ("2026-11-20T08:55", "opening_auction"),
     ("2026-11-20T09:00", "open"), ("2026-11-20T15:20", "closing_auction"), ("2026-11-20T15:35", "closed"),
     ("2026-11-20T16:00", "after_market"), ("2026-11-20T20:00", "closed"), ("2026-11-21T10:00", "closed")],
)  # fmt: skip
def test_the_clock_of_seoul(time: str, phase: str) -> None:
    assert phase_at(at(time)) == phase


@pytest.mark.parametrize(
    ("codes", "phase"),
    [(("0", "20", "2"), "open"), (("0", "20", ""), "open"), (("B", "10", "2"), "opening_auction"),
     (("A", "21", "2"), "closing_auction"), (("0", "10", "1"), "pre_market"), (("0", "30", "3"), "after_market"),
     (("0", "30", "5"), "closed"), (("C", "20", "2"), None), (("", "", ""), None), (("0", "", ""), None)],
)  # fmt: skip
def test_records_tell_their_phase(codes: tuple[str, str, str], phase: str | None) -> None:
    assert phase_of(*codes) == phase


def test_the_clock_closes_and_never_opens() -> None:
    phases = Phases()
    morning, night = at("2026-11-20T10:00"), at("2026-11-20T21:00")
    assert phases.on_time(morning) == []
    assert phases.on_record("KOSPI", "open", morning, is_trade=True)
    assert not phases.on_record("KOSPI", "open", morning + 1, is_trade=True)
    assert phases.on_time(night) == list(MARKETS)
    assert phases.on_time(night + 1) == []
    # Data against the clock: it is right for ten minutes.
    assert phases.on_record("KOSPI", "open", night + 2, is_trade=True)
    assert phases.on_time(night + 3) == []
    assert phases.on_time(night + 700) == ["KOSPI"]


def test_a_halt_ends_by_an_operation_or_a_trade() -> None:
    phases = Phases()
    phases.on_record("KOSPI", "open", 0.0, is_trade=True)
    assert phases.on_operation("KOSPI", "174", 10.0)
    assert phases.statuses["KOSPI"] == "halted"
    assert not phases.on_record("KOSPI", "open", 11.0, is_trade=True)
    assert not phases.on_record("KOSPI", "open", 100.0, is_trade=False)
    assert phases.on_record("KOSPI", "open", 100.0, is_trade=True)
    phases.on_operation("KOSPI", "164", 110.0)
    assert phases.on_operation("KOSPI", "175", 111.0)
    # Those of single symbols, side cars and what is not known change nothing.
    assert not any(phases.on_operation("KOSPI", code, 120.0) for code in ("387", "AB1", ""))
    assert not phases.on_operation("NASDAQ", "174", 120.0)
