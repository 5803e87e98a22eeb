"""The KIS frame splitter and record parser: exact fields, every fault, changing widths, and garbage."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws._kis import Frame, KISFrameError, KISParser, columns_for, split_frame, split_records
from fastws._market import BookUpdate, Instrument, PriceUpdate

KST = datetime.timezone(datetime.timedelta(hours=9))


def kst_ms(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()) * 1000


NOW = kst_ms("2026-10-06T12:00:00") / 1000.0


def read_samples() -> dict[str, bytes]:
    samples = {}
    name = ""
    for line in (Path(__file__).parent / "kis_samples.txt").read_bytes().splitlines():
        if line.startswith(b"# "):
            name = line[2:].split()[0].decode()
        elif line:
            samples[name] = line
    return samples


SAMPLES = read_samples()
FRAMES = [message for message in SAMPLES.values() if message[:2] in (b"0|", b"1|")]
TABLE = json.loads(files("fastws.data").joinpath("kis_columns.json").read_text())


class Listener:
    """A parser with what it reported."""

    def __init__(
        self,
        resolve: Callable[[str], Instrument | None] | None = None,
        now: float = NOW,
    ) -> None:
        self.now = now
        self.codes: list[str] = []
        self.bad: list[tuple[str, bytes]] = []
        self.widths: list[tuple[str, int]] = []
        self.parser = KISParser(
            resolve if resolve is not None else self.resolve,
            clock=lambda: self.now,
            on_bad=lambda kind, message: self.bad.append((kind, message)),
            on_new_width=lambda tr_id, width: self.widths.append((tr_id, width)),
        )
        self.parse = self.parser.parse

    def resolve(self, code: str) -> Instrument:
        self.codes.append(code)
        return Instrument(code)

    def prices(self, message: bytes) -> list[PriceUpdate]:
        updates = self.parse(message)
        assert all(type(update) is PriceUpdate for update in updates)
        return updates  # type: ignore[return-value]

    def price(self, message: bytes) -> PriceUpdate:
        (update,) = self.prices(message)
        return update

    def book(self, message: bytes) -> BookUpdate:
        (update,) = self.parse(message)
        assert type(update) is BookUpdate
        return update

    def fault(self, message: bytes) -> str:
        """Parse a message that has to be refused, and say as what."""
        before = self.parser.n_bad
        assert self.parse(message) == []
        assert self.parser.n_bad == before + 1
        assert sum(self.parser.bad_kinds.values()) == self.parser.n_bad
        (kind,) = self.parser.bad_kinds
        return kind


@pytest.fixture
def listener() -> Listener:
    return Listener()


def fields_of(update: PriceUpdate) -> tuple[object, ...]:
    return (
        update.instrument.code,
        update.price,
        update.change,
        update.change_percent,
        update.volume,
        update.trade_volume,
        update.high,
        update.low,
        update.venue,
        update.quality,
        update.event_time_ms,
        update.extra,
    )


def frame(tr_id: str, *records: list[str], count: int | None = None, flag: str = "0") -> bytes:
    n = len(records) if count is None else count
    return f"{flag}|{tr_id}|{n:03}|{'^'.join('^'.join(record) for record in records)}".encode()


def record_of(name: str, **changes: str) -> list[str]:
    """The first record of a sample with other values in the named columns."""
    split = split_frame(SAMPLES[name])
    record = list(split.records[0])
    names = columns_for(split.tr_id, len(record))
    for column, value in changes.items():
        record[names.index(column)] = value
    return record


def trade(**changes: str) -> bytes:
    return frame("H0STCNT0", record_of("trade_krx_47", **changes))


def book(**changes: str) -> bytes:
    return frame("H0STASP0", record_of("book_krx_63", **changes))


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


# Widths


@pytest.mark.parametrize(
    ("name", "narrowest"),
    [("trade_krx_47", 34), ("trade_nxt_47", 34), ("book_krx_63", 43), ("book_un_66", 43)],
)
def test_every_width_from_the_needed_columns_on_gives_the_same_update(name: str, narrowest: int) -> None:
    split = split_frame(SAMPLES[name])
    record = split.records[0]
    known = TABLE["tr"][split.tr_id]["widths"]
    expected = Listener().parse(SAMPLES[name])[0]
    for width in range(1, 2 * known[0]):
        listener = Listener()
        message = frame(split.tr_id, (record + [str(i) for i in range(width)])[:width])
        if width < narrowest:
            assert listener.fault(message) == "width"
            continue
        (update,) = listener.parse(message)
        if isinstance(update, PriceUpdate):
            assert isinstance(expected, PriceUpdate)
            assert fields_of(update) == fields_of(expected)
        else:
            assert isinstance(expected, BookUpdate)
            assert (update.bids, update.asks) == (expected.bids, expected.asks)
            assert update.event_time_ms == expected.event_time_ms
        assert listener.widths == ([] if width in known else [(split.tr_id, width)])


@pytest.mark.parametrize("width", [59, 62, 63, 65, 66])
@pytest.mark.parametrize("tr_id", ["H0STASP0", "H0NXASP0", "H0UNASP0"])
def test_the_book_widths_seen_are_read_whatever_the_venue(listener: Listener, tr_id: str, width: int) -> None:
    record = [*record_of("book_krx_63"), "1", "2", "3"][:width]
    update = listener.book(frame(tr_id, record))
    assert update.bids[0] == (277500, 70626)
    assert update.venue == {"H0ST": "KRX", "H0NX": "NXT", "H0UN": "UN"}[tr_id[:4]]


def test_a_new_width_is_reported_once(listener: Listener) -> None:
    wide = record_of("trade_un_48")
    for _ in range(3):
        assert len(listener.parse(frame("H0UNCNT0", wide))) == 1
        assert len(listener.parse(SAMPLES["trade_un_47"])) == 1
        assert len(listener.parse(frame("H0NXCNT0", wide, wide))) == 2
        assert listener.parse(b"0|H0STNAV0|001|005930^1^2") == []
    assert listener.widths == [("H0UNCNT0", 48), ("H0NXCNT0", 48), ("H0STNAV0", 3)]


def test_the_last_values_may_be_empty(listener: Listener) -> None:
    record = record_of("trade_krx_47", MARKET_CLS_CODE="", VI_STND_PRC="")
    message = frame("H0STCNT0", record, record)
    assert message.endswith(b"^")
    assert len(listener.parse(message)) == 2
    assert split_frame(message).records == [record, record]
    assert listener.widths == []


@pytest.mark.parametrize(("name", "times"), [("trade_krx_47", 2), ("trade_krx_46", 3), ("book_krx_63", 2)])
def test_several_records_under_a_count_of_one_are_refused(listener: Listener, name: str, times: int) -> None:
    record = record_of(name)
    assert listener.fault(frame(split_frame(SAMPLES[name]).tr_id, *[record] * times, count=1)) == "count"


# Frames


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (SAMPLES["count_too_high"], "width"),
        (SAMPLES["unknown_tr"], "unknown TR"),
        (SAMPLES["truncated"], "truncated"),
        (SAMPLES["damaged_base64"], "encrypted"),
        (SAMPLES["notice"], "encrypted"),
        (SAMPLES["trade_krx_47"].replace(b"0|", b"1|", 1), "encrypted"),
        (SAMPLES["hello"], "not a frame"),
        (b"", "not a frame"),
        (b"2|H0STCNT0|001|x", "not a frame"),
        (b"00|H0STCNT0|001|x", "not a frame"),
        (b" " + SAMPLES["trade_krx_47"], "not a frame"),
        (b"0", "truncated"),
        (b"0|", "truncated"),
        (b"0|H0STCNT0", "truncated"),
        (b"0|H0STCNT0|", "truncated"),
        (b"0|H0STCNT0||005930", "count"),
        (b"0|H0STCNT0|000|005930", "count"),
        (b"0|H0STCNT0|+01|005930", "count"),
        (b"0|H0STCNT0|0x1|005930", "count"),
        (b"0|H0STCNT0|1234567890|005930", "count"),
        (b"0|H0STCNT0|999999999|005930", "width"),
        (b"0|H0STCNT0|001|", "width"),
        (b"0|H0STMKO0|002|005930^1^2", "width"),
        (b"0|h0stcnt0|001|005930", "unknown TR"),
        (b"0||001|005930", "unknown TR"),
        (b"0|\xff\xfe|001|005930", "unknown TR"),
        (b"0|H0STCNT0|001|" + b"^" * (4 << 20), "too long"),
    ],
)
def test_a_bad_frame_is_counted_by_kind(listener: Listener, message: bytes, kind: str) -> None:
    assert listener.fault(message) == kind
    assert listener.bad == [(kind, message)]
    assert listener.parser.n_frames == 0


def test_only_the_first_message_of_a_kind_is_told(listener: Listener) -> None:
    for message in (b"hello", b"hallo", b"0|H0STCNT0", b"0", b"hello"):
        assert listener.parse(message) == []
    assert listener.bad == [("not a frame", b"hello"), ("truncated", b"0|H0STCNT0")]
    assert listener.parser.bad_kinds == {"not a frame": 3, "truncated": 2}
    assert listener.parser.n_bad == 5


@pytest.mark.parametrize("name", ["subscribed", "pingpong"])
def test_json_is_neither_a_frame_nor_bad(listener: Listener, name: str) -> None:
    assert listener.parse(SAMPLES[name]) == []
    assert (listener.parser.n_frames, listener.parser.n_bad) == (0, 0)


@pytest.mark.parametrize(
    "name", ["operation_krx", "operation_un", "index_kospi200", "index_expected", "after_hours"]
)
def test_other_trs_are_read_and_yield_nothing(listener: Listener, name: str) -> None:
    assert listener.parse(SAMPLES[name]) == []
    assert (listener.parser.n_frames, listener.parser.n_records, listener.parser.n_bad) == (1, 0, 0)
    assert listener.widths == []


def test_the_count_needs_no_zeros_in_front(listener: Listener) -> None:
    assert len(listener.parse(SAMPLES["trade_krx_47"].replace(b"|001|", b"|1|"))) == 1


def test_bars_in_the_payload_are_text(listener: Listener) -> None:
    assert listener.price(trade(NEW_MKOP_CLS_CODE="a|b|c")).price == 277750
    assert split_frame(b"0|H0STMKO0|001|005930^a|b").records == [["005930", "a|b"]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_a_message(listener: Listener, kind: Callable[[bytes], bytes]) -> None:
    assert len(listener.parse(kind(SAMPLES["trades_krx_3x46"]))) == 3
    assert len(split_frame(kind(SAMPLES["trades_krx_3x46"])).records) == 3


@pytest.mark.parametrize("message", ["0|H0STCNT0|001|005930", 5, None])
def test_what_is_no_buffer_is_an_error_of_the_caller(listener: Listener, message: object) -> None:
    with pytest.raises(TypeError):
        listener.parse(message)  # type: ignore[arg-type]
    assert len(listener.parse(SAMPLES["trade_krx_47"])) == 1


# Callbacks


def test_records_that_nobody_wants_are_skipped_and_asked_for_again() -> None:
    wanted = {"000660": Instrument("000660")}
    listener = Listener(resolve=wanted.get)
    records = [record_of("trade_krx_47", MKSC_SHRN_ISCD=code) for code in ("005930", "000660", "005930")]
    updates = listener.prices(frame("H0STCNT0", *records))
    assert [update.instrument.code for update in updates] == ["000660"]
    assert listener.parse(SAMPLES["book_krx_63"]) == []
    parser = listener.parser
    assert (parser.n_frames, parser.n_records, parser.n_skipped, parser.n_bad) == (2, 4, 3, 0)
    wanted["005930"] = Instrument("005930")
    assert len(listener.prices(frame("H0STCNT0", *records))) == 3


def test_what_resolve_raises_passes_and_leaves_the_parser_usable() -> None:
    failures = [LookupError("no table yet")]

    def resolve(code: str) -> Instrument:
        if failures:
            raise failures.pop()
        return Instrument(code)

    listener = Listener(resolve=resolve)
    with pytest.raises(LookupError, match="no table yet"):
        listener.parse(SAMPLES["trade_krx_47"])
    assert len(listener.parse(SAMPLES["trade_krx_47"])) == 1


def test_resolve_must_give_an_instrument() -> None:
    listener = Listener(resolve=lambda code: code)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError):
        listener.parse(SAMPLES["trade_krx_47"])


def test_parse_within_parse_is_refused() -> None:
    def resolve(code: str) -> Instrument:
        inner.parse(SAMPLES["trades_krx_3x46"])
        return Instrument(code)

    inner = Listener(resolve=resolve)
    with pytest.raises(RuntimeError, match="at work"):
        inner.parse(SAMPLES["trade_krx_47"])


def test_more_codes_than_the_cache_holds() -> None:
    instruments: dict[str, Instrument] = {}
    listener = Listener(resolve=lambda code: instruments.setdefault(code, Instrument(code)))
    record = record_of("trade_krx_46")
    message = frame("H0STCNT0", record).replace(b"000660", b"%06d")
    for i in range(70_000):
        assert listener.price(message % i).instrument is instruments[f"{i:06}"]


# The splitter


@pytest.mark.parametrize("message", FRAMES)
def test_splitting_loses_nothing(message: bytes) -> None:
    head = message.split(b"|", 3)
    if len(head) < 4 or message == SAMPLES["count_too_high"]:
        with pytest.raises(KISFrameError) as caught:
            split_frame(message)
        assert caught.value.kind == ("truncated" if len(head) < 4 else "width")
        return
    split = split_frame(message)
    assert (split.tr_id, split.encrypted, split.count) == (head[1].decode(), head[0] == b"1", int(head[2]))
    assert split.payload == head[3]
    if split.encrypted:
        assert split.records == []
    else:
        assert len(split.records) == split.count
        assert "^".join("^".join(record) for record in split.records).encode() == head[3]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"", "not a frame"),
        (SAMPLES["pingpong"], "not a frame"),
        (b"0|H0STCNT0|001", "truncated"),
        (b"0|H0STCNT0|0|a", "count"),
        (b"0|H0STCNT0|2|a^b^c", "width"),
        (b"0|H0STCNT0|1|\xff", "not UTF-8"),
        (b"0|\xff|1|a", "not UTF-8"),
        (b"0|H0STCNT0|1|" + b"a" * (4 << 20), "too long"),
    ],
)
def test_what_cannot_be_split_names_its_kind(message: bytes, kind: str) -> None:
    with pytest.raises(KISFrameError, match=kind) as caught:
        split_frame(message)
    assert caught.value.kind == kind


def test_korean_text_survives_splitting() -> None:
    assert split_frame("0|H0STMBC0|001|005930^한국투자^^".encode()).records == [
        ["005930", "한국투자", "", ""]
    ]


def test_a_deciphered_payload_is_split_like_any_other() -> None:
    assert split_records(b"a^^b^", 2) == [["a", ""], ["b", ""]]
    for payload, count, kind in ((b"a^b", 0, "count"), (b"a^b", -1, "count"), (b"a", 2, "width")):
        with pytest.raises(KISFrameError, match=kind):
            split_records(payload, count)


def test_a_frame_shows_what_it_is() -> None:
    assert (
        repr(split_frame(SAMPLES["trades_krx_3x46"])) == "Frame(tr_id='H0STCNT0', encrypted=False, count=3)"
    )
    assert Frame("X", False, 1, [["a"]], b"a").records == [["a"]]


# Column names


def test_names_of_the_known_widths() -> None:
    names = columns_for("H0STCNT0", 47)
    assert names[:3] == ("MKSC_SHRN_ISCD", "STCK_CNTG_HOUR", "STCK_PRPR")
    assert (names[21], names[46]) == ("CCLD_DVSN", "MARKET_CLS_CODE")
    assert columns_for("H0UNCNT0", 46) == (*names[:21], "CNTG_CLS_CODE", *names[22:46])
    assert columns_for("H0STASP0", 63)[59:] == (
        "MID_PRC",
        "MIDP_TOTAL_RSQN",
        "MIDP_CLS_CODE",
        "MARKET_CLS_CODE",
    )
    assert columns_for("H0UNASP0", 66)[-1] == "ANTC_EXCH_CLS_CODE"


def test_a_width_with_a_layout_of_its_own() -> None:
    assert columns_for("H0NXASP0", 62)[59:] == ("NMID_PRC", "NMID_TOTAL_RSQN", "NMID_CLS_CODE")
    assert columns_for("H0NXASP0", 65)[58:] == (
        "STCK_DEAL_CLS_CODE", "KMID_PRC", "KMID_TOTAL_RSQN", "KMID_CLS_CODE", "NMID_PRC", "NMID_TOTAL_RSQN",
        "NMID_CLS_CODE",
    )  # fmt: skip
    assert columns_for("H0STCNI0", 23)[17:] == (
        "ACNT_NAME", "CNTG_ISNM", "CRDT_CLS", "CRDT_LOAN_DATE", "CNTG_ISNM40", "ODER_PRC"
    )  # fmt: skip
    assert columns_for("H0UPANC0", 15)[8:] == (
        "PCAS_TR_PBMN", "PRDY_CTRT", "EXTRA_10", "EXTRA_11", "EXTRA_12", "EXTRA_13", "EXTRA_14"
    )  # fmt: skip


def test_an_unknown_tail_is_named_by_its_place() -> None:
    assert columns_for("H0STCNT0", 49)[46:] == ("MARKET_CLS_CODE", "EXTRA_47", "EXTRA_48")
    assert columns_for("H0STCNT0", 1) == ("MKSC_SHRN_ISCD",)


def test_names_are_refused_for_unknown_trs_and_empty_records() -> None:
    with pytest.raises(KISFrameError, match="unknown TR"):
        columns_for("H0ZZZZZ0", 3)
    with pytest.raises(ValueError, match="at least one value, not 0"):
        columns_for("H0STCNT0", 0)


def test_the_table_is_consistent() -> None:
    for tr_id, entry in TABLE["tr"].items():
        assert entry["widths"] == sorted(set(entry["widths"]))
        assert all(kind in TABLE["types"] for _, kind in entry["columns"])
        for width in entry["widths"] + [len(entry["columns"])]:
            names = columns_for(tr_id, width)
            assert len(names) == len(set(names)) == width
        for other in entry.get("alternatives", ()):
            assert other["width"] in entry["widths"]
            assert all(kind in TABLE["types"] for _, kind in other["columns"])
            assert other["keep"] + len(other["columns"]) <= other["width"]


@pytest.mark.parametrize("message", [m for m in FRAMES if m.count(b"|") > 2])
def test_samples_have_the_widths_of_the_table(message: bytes) -> None:
    if message in (SAMPLES["unknown_tr"], SAMPLES["count_too_high"]) or message.startswith(b"1"):
        return
    split = split_frame(message)
    width = len(split.records[0])
    assert width in TABLE["tr"][split.tr_id]["widths"] or width == 48


# Whatever comes

VALUES = st.text(st.characters(exclude_characters="^", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=6), st.booleans())
def test_splitting_is_exact(records: list[list[str]], is_extended: bool) -> None:
    if is_extended:
        records = [[*record, "", "last"] for record in records]
    message = frame("H0STMKO0", *records)
    assert split_frame(message).records == records
    listener = Listener()
    listener.parse(message)
    assert (listener.parser.n_frames, listener.parser.n_bad) == (1, 0)


@given(st.binary(max_size=200))
def test_garbage_never_raises(message: bytes) -> None:
    check_anything(message)


@given(
    st.sampled_from(["0", "1", "", "2"]),
    st.sampled_from(["H0STCNT0", "H0NXASP0", "H0STMKO0", "H0STCNI0", "H0", ""]),
    st.one_of(st.integers(-1, 5).map(str), st.text(max_size=4)),
    st.lists(st.one_of(st.text(max_size=8), st.integers().map(str), st.just("005930")), max_size=160),
)
def test_things_like_frames_never_raise(flag: str, tr_id: str, count: str, values: list[str]) -> None:
    check_anything(f"{flag}|{tr_id}|{count}|{'^'.join(values)}".encode("utf-8", "surrogatepass"))


@given(st.sampled_from(FRAMES), st.data())
def test_damaged_frames_never_raise(message: bytes, data: st.DataObject) -> None:
    damaged = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damage = data.draw(st.sampled_from(["change", "delete", "insert", "cut"]))
        if damage == "change":
            damaged[at] = data.draw(st.integers(0, 255))
        elif damage == "delete" and len(damaged) > 1:
            del damaged[at]
        elif damage == "insert":
            damaged[at:at] = data.draw(st.sampled_from([b"^", b"|", b"-", b".", b"9" * 20, b"\0", b"\xff"]))
        elif at > 0:
            del damaged[at:]
    check_anything(bytes(damaged))


def check_anything(message: bytes) -> None:
    listener = Listener()
    parser = listener.parser
    updates = listener.parse(message)
    is_control = message.startswith(b"{")
    assert parser.n_frames + parser.n_bad == (0 if is_control else 1)
    assert len(updates) == parser.n_records
    assert sum(parser.bad_kinds.values()) == parser.n_bad
    assert len(listener.bad) == parser.n_bad
    # The parser reads only what the splitter splits; bytes that are no UTF-8 may stand in columns it skips.
    n_records, kind = split_count(message)
    assert updates == [] or len(updates) == n_records or kind == "not UTF-8"


def split_count(message: bytes) -> tuple[int, str]:
    try:
        return len(split_frame(message).records), ""
    except KISFrameError as error:
        return 0, error.kind


@given(
    st.sampled_from(["H0STCNT0", "H0NXCNT0", "H0UNCNT0"]),
    st.integers(34, 80),
    st.lists(
        st.tuples(
            st.from_regex(r"[0-9A-Z]{6,7}", fullmatch=True),
            st.integers(0, 2**63 - 1),
            st.integers(-(2**63) + 1, 2**63 - 1),
            st.decimals(-(10**6), 10**6, places=2),
            st.integers(0, 2**63 - 1),
            st.text(st.characters(exclude_characters="^", codec="utf-8"), max_size=9),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_any_trade_of_any_width_is_read_exactly(
    tr_id: str, width: int, rows: list[tuple[str, int, int, Decimal, int, str]]
) -> None:
    names = columns_for(tr_id, width)
    records = []
    for code, price, change, percent, volume, filler in rows:
        record = [filler] * width
        for name, value in (
            ("MKSC_SHRN_ISCD", code),
            ("STCK_CNTG_HOUR", "101112"),
            ("BSOP_DATE", "20261006"),
            ("STCK_PRPR", str(price)),
            ("PRDY_VRSS_SIGN", "2"),
            ("PRDY_VRSS", str(change)),
            ("PRDY_CTRT", f"{percent:f}"),
            ("ACML_VOL", str(volume)),
            ("CNTG_VOL", ""),
            ("STCK_HGPR", "(null)"),
            ("STCK_LWPR", str(price)),
        ):
            record[names.index(name)] = value
        records.append(record)
    listener = Listener()
    updates = listener.prices(frame(tr_id, *records))
    venue = {"H0ST": "KRX", "H0NX": "NXT", "H0UN": "UN"}[tr_id[:4]]
    at = kst_ms("2026-10-06T10:11:12")
    assert [fields_of(update) for update in updates] == [
        (code, price, change, percent, volume, None, None, price, venue, "realtime", at, None)
        for code, price, change, percent, volume, _ in rows
    ]
