"""The KIS record parser: trades and order books with exact fields, and their times."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kis_frames import KST, SAMPLES, Listener, book, fields_of, frame, kst_ms, record_of, trade

from fastws._kis import split_frame


@pytest.fixture
def listener() -> Listener:
    return Listener()


# Trades


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "trades_krx_3x46",
            [
                ("005930", 71950, 1350, "1.91", 8305216, 1, 72300, 70600, "KRX", "2025-07-30T09:47:51"),
                ("005930", 71900, 1300, "1.84", 8305218, 2, 72300, 70600, "KRX", "2025-07-30T09:47:51"),
                ("005930", 72000, 1400, "1.98", 8305293, 75, 72300, 70600, "KRX", "2025-07-30T09:47:51"),
            ],
        ),
        (
            "trade_krx_46",
            [
                (
                    "000660",
                    1996000,
                    -184000,
                    "-8.44",
                    2388396,
                    20,
                    2142000,
                    1985000,
                    "KRX",
                    "2026-07-13T10:39:25",
                )
            ],
        ),
        (
            "trade_krx_47",
            [("005930", 277750, 3750, "1.37", 11955000, 5, 283500, 276500, "KRX", "2026-09-22T14:06:10")],
        ),
        (
            "trade_krx_portal",
            [("005930", 71900, -100, "-0.14", 3052507, 1, 72400, 71700, "KRX", "2023-06-12T09:33:54")],
        ),
        (
            "trade_un_47",
            [("005930", 72100, 100, "0.14", 3052507, 10, 72400, 71700, "UN", "2026-10-06T10:00:00")],
        ),
        (
            "trades_un_2x47",
            [
                ("005930", 72100, 100, "0.14", 3052507, 10, 72400, 71700, "UN", "2026-10-06T10:00:00"),
                ("005930", 72000, 0, "0.00", 3052532, 25, 72400, 71700, "UN", "2026-10-06T10:00:00"),
            ],
        ),
        (
            "trade_nxt_47",
            [("000660", 181200, 700, "0.39", 40211, 3, 181500, 180400, "NXT", "2026-10-06T08:30:05")],
        ),
        (
            "trade_un_48",
            [("005930", 72100, 100, "0.14", 3052507, 10, 72400, 71700, "UN", "2026-10-06T10:00:00")],
        ),
        (
            "trades_un_2x48",
            [
                ("005930", 72100, 100, "0.14", 3052507, 10, 72400, 71700, "UN", "2026-10-06T10:00:00"),
                ("005930", 72000, 0, "0.00", 3052532, 25, 72400, 71700, "UN", "2026-10-06T10:00:00"),
            ],
        ),
        (
            "trade_un_46",
            [("005930", 72100, 100, "0.14", 3052507, 10, 72400, 71700, "UN", "2026-10-06T10:00:00")],
        ),
    ],
)
def test_trades_have_the_exact_fields_of_their_record(
    listener: Listener, name: str, expected: list[tuple[object, ...]]
) -> None:
    updates = listener.prices(SAMPLES[name])
    wanted = []
    for code, price, change, percent, volume, trade_volume, high, low, venue, event_time in expected:
        event_time_ms = kst_ms(str(event_time))
        percent = Decimal(str(percent))
        wanted.append(
            (
                code,
                price,
                change,
                percent,
                volume,
                trade_volume,
                high,
                low,
                venue,
                "realtime",
                event_time_ms,
                None,
            )
        )
    assert [fields_of(update) for update in updates] == wanted
    assert [str(update.change_percent) for update in updates] == [row[3] for row in expected]
    assert (listener.parser.n_frames, listener.parser.n_records) == (1, len(expected))
    assert (listener.parser.n_bad, listener.parser.bad_kinds, listener.bad) == (0, {}, [])


def test_records_of_a_frame_may_be_of_several_instruments(listener: Listener) -> None:
    records = [record_of("trade_krx_47", MKSC_SHRN_ISCD=code) for code in ("005930", "0074K0", "Q500001")]
    updates = listener.prices(frame("H0STCNT0", *records))
    assert [update.instrument.code for update in updates] == ["005930", "0074K0", "Q500001"]


def test_a_code_is_resolved_once_and_its_instrument_shared(listener: Listener) -> None:
    first = listener.price(SAMPLES["trade_krx_47"])
    updates = listener.prices(SAMPLES["trades_krx_3x46"])
    assert listener.codes == ["005930"]
    assert all(update.instrument is first.instrument for update in updates)
    assert listener.book(SAMPLES["book_krx_63"]).instrument is first.instrument


@pytest.mark.parametrize(
    ("sign", "change", "percent", "expected"),
    [
        ("2", "1350", "1.91", ("1350", "1.91")),
        ("1", "21000", "30.00", ("21000", "30.00")),
        ("3", "0", "0.00", ("0", "0.00")),
        ("5", "-184000", "-8.44", ("-184000", "-8.44")),
        ("5", "184000", "8.44", ("-184000", "-8.44")),
        ("4", "184000", "30.00", ("-184000", "-30.00")),
        ("5", "184000", "-8.44", ("-184000", "-8.44")),
        ("5", "0", "-0.00", ("0", "0.00")),
        ("2", "-50", "-0.10", ("-50", "-0.10")),
        ("", "-50", "-0.10", ("-50", "-0.10")),
        ("2", "+1350", "+1.90", ("1350", "1.90")),
    ],
)
def test_changes_keep_their_sign_and_get_the_one_of_the_code(
    listener: Listener, sign: str, change: str, percent: str, expected: tuple[str, str]
) -> None:
    update = listener.price(trade(PRDY_VRSS_SIGN=sign, PRDY_VRSS=change, PRDY_CTRT=percent))
    assert (str(update.change), str(update.change_percent)) == expected


@pytest.mark.parametrize("empty", ["", "(null)"])
def test_empty_values_are_absent(listener: Listener, empty: str) -> None:
    names = ("PRDY_VRSS", "PRDY_CTRT", "ACML_VOL", "CNTG_VOL", "STCK_HGPR", "STCK_LWPR", "STCK_CNTG_HOUR")
    update = listener.price(trade(PRDY_VRSS_SIGN="5", **dict.fromkeys(names, empty)))
    assert fields_of(update) == (
        "005930", 277750, None, None, None, None, None, None, "KRX", "realtime", 0, None
    )  # fmt: skip


def test_numbers_are_exact_to_64_bits(listener: Listener) -> None:
    update = listener.price(trade(ACML_VOL="9223372036854775807", STCK_PRPR="0000000071950.1234567890"))
    assert update.volume == 9223372036854775807
    assert str(update.price) == "71950.1234567890"


@pytest.mark.parametrize(
    "changes",
    [
        {"STCK_PRPR": ""},
        {"STCK_PRPR": "(null)"},
        {"STCK_PRPR": "-277750"},
        {"STCK_PRPR": "277 750"},
        {"STCK_PRPR": "2.7e5"},
        {"STCK_PRPR": "nan"},
        {"PRDY_VRSS": "--5"},
        {"PRDY_CTRT": "1,37"},
        {"ACML_VOL": "9223372036854775808"},
        {"ACML_VOL": "1.5"},
        {"ACML_VOL": "-1"},
        {"CNTG_VOL": "x"},
        {"STCK_HGPR": "-1"},
        {"STCK_LWPR": "?"},
    ],
)
def test_a_bad_number_drops_the_frame(listener: Listener, changes: dict[str, str]) -> None:
    assert listener.fault(trade(**changes)) == "number"


def test_one_bad_record_drops_its_whole_frame(listener: Listener) -> None:
    good = record_of("trade_krx_47")
    assert listener.fault(frame("H0STCNT0", good, record_of("trade_krx_47", STCK_PRPR="x"), good)) == "number"
    assert (listener.parser.n_frames, listener.parser.n_records) == (0, 0)


@pytest.mark.parametrize("code", ["", "00593", "00593000", "00593a", "00 930", "0059.0", "삼성", "(null)"])
def test_what_is_no_code_drops_the_frame(listener: Listener, code: str) -> None:
    assert listener.fault(trade(MKSC_SHRN_ISCD=code)) == "code"
    assert listener.codes == []


# Times


@pytest.mark.parametrize("clock", ["", "(null)", "000000"])
def test_no_time_gives_no_event_time(listener: Listener, clock: str) -> None:
    assert listener.price(trade(STCK_CNTG_HOUR=clock)).event_time_ms == 0
    assert listener.price(trade(STCK_CNTG_HOUR=clock)).event_time_ms == 0  # the day is known by now
    assert listener.book(book(BSOP_HOUR=clock)).event_time_ms == 0


@pytest.mark.parametrize("clock", ["1406", "240000", "146000", "140660", "14:06:", "1406100", "-40610"])
def test_a_bad_time_drops_the_frame(clock: str) -> None:
    assert Listener().fault(trade(STCK_CNTG_HOUR=clock)) == "time"
    assert Listener().fault(book(BSOP_HOUR=clock)) == "time"


@pytest.mark.parametrize(
    "date", ["2026", "20260230", "20261301", "20260100", "20260431", "19891231", "2026093x"]
)
def test_a_bad_date_drops_the_frame(listener: Listener, date: str) -> None:
    assert listener.fault(trade(BSOP_DATE=date)) == "time"


@given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2199, 12, 31)))
def test_event_times_agree_with_the_calendar(at: datetime.datetime) -> None:
    at = at.replace(microsecond=0)
    update = Listener().price(trade(BSOP_DATE=f"{at:%Y%m%d}", STCK_CNTG_HOUR=f"{at:%H%M%S}"))
    midnight = at.time() == datetime.time()
    assert update.event_time_ms == (0 if midnight else int(at.replace(tzinfo=KST).timestamp()) * 1000)


def test_a_book_of_the_past_takes_the_date_of_the_last_trade(listener: Listener) -> None:
    listener.price(SAMPLES["trade_krx_46"])
    assert listener.book(SAMPLES["book_krx_62"]).event_time_ms == kst_ms("2026-07-13T10:39:25")
    listener.price(SAMPLES["trade_krx_47"])
    assert listener.book(SAMPLES["book_krx_63"]).event_time_ms == kst_ms("2026-09-22T14:06:10")


def test_a_book_before_any_trade_takes_the_date_of_the_clock(listener: Listener) -> None:
    assert listener.book(book(BSOP_HOUR="115959")).event_time_ms == kst_ms("2026-10-06T11:59:59")
    # Sent at connect: the last book of the day before.
    assert listener.book(book(BSOP_HOUR="195959")).event_time_ms == kst_ms("2026-10-05T19:59:59")


def test_the_first_book_of_a_morning_does_not_take_yesterdays_date() -> None:
    listener = Listener(now=kst_ms("2026-10-06T19:59:58") / 1000.0)
    listener.price(trade(BSOP_DATE="20261006", STCK_CNTG_HOUR="195958"))
    assert listener.book(book(BSOP_HOUR="195958")).event_time_ms == kst_ms("2026-10-06T19:59:58")
    listener.now = kst_ms("2026-10-07T08:00:01") / 1000.0
    assert listener.book(book(BSOP_HOUR="080000")).event_time_ms == kst_ms("2026-10-07T08:00:00")


@pytest.mark.parametrize(
    ("now", "clock", "expected"),
    [
        ("2026-10-07T00:00:02", "235959", "2026-10-06T23:59:59"),  # late by three seconds
        ("2026-10-06T23:59:58", "000001", "2026-10-07T00:00:01"),  # our clock is behind
        ("2026-10-06T09:00:00", "090030", "2026-10-06T09:00:30"),
    ],
)
def test_midnight_gives_a_book_the_nearest_date(now: str, clock: str, expected: str) -> None:
    listener = Listener(now=kst_ms(now) / 1000.0)
    assert listener.book(book(BSOP_HOUR=clock)).event_time_ms == kst_ms(expected)


def test_a_trade_without_date_is_dated_like_a_book(listener: Listener) -> None:
    assert listener.price(trade(BSOP_DATE="")).event_time_ms == kst_ms("2026-10-05T14:06:10")
    listener.price(SAMPLES["trade_krx_46"])
    assert listener.price(trade(BSOP_DATE="(null)")).event_time_ms == kst_ms("2026-07-13T14:06:10")


# Order books


@pytest.mark.parametrize(
    ("name", "code", "venue", "bids", "asks"),
    [
        (
            "book_krx_62",
            "000660",
            "KRX",
            [
                (1995000 - 1000 * i, n)
                for i, n in enumerate((30, 104, 69, 188, 138, 122, 503, 973, 599, 1527))
            ],
            [
                (1996000 + 1000 * i, n)
                for i, n in enumerate((49, 576, 1520, 739, 398, 372, 347, 343, 130, 279))
            ],
        ),
        (
            "book_krx_auction",
            "000660",
            "KRX",
            [(958000, 12), (957000, 76), (956000, 51)],
            [(959000, 3893), (960000, 7010), (961000, 4960)],
        ),
        (
            "book_krx_63",
            "005930",
            "KRX",
            list(
                zip(
                    (277500, 277000, 276500, 276000, 275500, 275000, 274500, 274000, 273500, 273000),
                    (70626, 35559, 56541, 75952, 45226, 66236, 37696, 56909, 26021, 25718),
                    strict=True,
                )
            ),
            list(
                zip(
                    (278000, 278500, 279000, 279500, 280000, 280500, 281000, 281500, 282000, 282500),
                    (47584, 39910, 40703, 41379, 71975, 49537, 74523, 100544, 208210, 120466),
                    strict=True,
                )
            ),
        ),
        (
            "book_krx_59",
            "005930",
            "KRX",
            list(
                zip(
                    range(71800, 70800, -100),
                    (95221, 159371, 220746, 284657, 212742, 195370, 182710, 209747, 376432, 158171),
                    strict=True,
                )
            ),
            list(
                zip(
                    range(71900, 72900, 100),
                    (91918, 117942, 92673, 79708, 106729, 141988, 176192, 113906, 134077, 104229),
                    strict=True,
                )
            ),
        ),
        (
            "book_un_66",
            "005930",
            "UN",
            [(72000 - 100 * i, 1411 + 211 * i) for i in range(10)],
            [(72100 + 100 * i, 1137 + 137 * i) for i in range(10)],
        ),
        (
            "book_nxt_62",
            "000660",
            "NXT",
            [(181100 - 100 * i, 1411 + 211 * i) for i in range(10)],
            [(181200 + 100 * i, 1137 + 137 * i) for i in range(10)],
        ),
    ],
)
def test_books_have_the_exact_levels_of_their_record(
    listener: Listener, name: str, code: str, venue: str, bids: list[object], asks: list[object]
) -> None:
    update = listener.book(SAMPLES[name])
    assert (update.instrument.code, update.venue, update.quality) == (code, venue, "realtime")
    assert update.bids == bids
    assert update.asks == asks
    clock = split_frame(SAMPLES[name]).records[0][1]
    at = datetime.datetime.fromtimestamp(update.event_time_ms / 1000, KST)
    assert f"{at:%H%M%S}" == clock
    assert (listener.parser.n_frames, listener.parser.n_records, listener.parser.n_bad) == (1, 1, 0)


def test_levels_without_price_are_left_out_wherever_they_stand(listener: Listener) -> None:
    update = listener.book(book(ASKP1="0", ASKP3="", BIDP10="(null)", BIDP_RSQN2=""))
    assert [price for price, _ in update.asks] == [
        278500,
        279500,
        280000,
        280500,
        281000,
        281500,
        282000,
        282500,
    ]
    assert update.asks[0] == (278500, 39910)
    assert update.bids[1] == (277000, 0)
    assert update.n_bids == 9


def test_prices_of_a_book_share_the_decimals_of_the_finest(listener: Listener) -> None:
    update = listener.book(book(ASKP1="278000.5", BIDP1="277500.25"))
    assert str(update.asks[0][0]) == "278000.50"
    assert str(update.asks[1][0]) == "278500.00"
    assert str(update.bids[0][0]) == "277500.25"
    assert update.price_scale == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"ASKP1": "-278000"},
        {"BIDP10": "x"},
        {"ASKP_RSQN1": "-1"},
        {"BIDP_RSQN10": "1.5"},
        {"ASKP_RSQN5": "x", "ASKP5": "0"},
        {"BIDP1": "277500.000000000000001", "ASKP1": "9000000000000000000"},
    ],
)
def test_a_bad_level_drops_the_frame(listener: Listener, changes: dict[str, str]) -> None:
    assert listener.fault(book(**changes)) == "number"


def test_several_books_in_one_frame(listener: Listener) -> None:
    records = [record_of("book_krx_63", MKSC_SHRN_ISCD=code) for code in ("005930", "000660")]
    updates = listener.parse(frame("H0STASP0", *records))
    assert [update.instrument.code for update in updates] == ["005930", "000660"]
