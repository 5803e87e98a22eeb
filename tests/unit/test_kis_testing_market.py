from __future__ import annotations

import datetime
import json
from collections import Counter
from pathlib import Path

import pytest

from fastws._kis import KISParser, columns_for, split_frame
from fastws._market import Instrument
from fastws.kis.testing import FakeSettings
from fastws.kis.testing import records as layouts
from fastws.kis.testing.market import VENUES, FakeMarket, phase_at
from fastws.kis.testing.replies import KST, frame

SAMPLES = Path(__file__).parent / "kis_samples.txt"
COLUMNS = Path(layouts.__file__).parents[2] / "data" / "kis_columns.json"
CODES = ("005930", "000660", "0074K0", "Q500001")
TRADES, BOOKS = layouts.TRADE_TRS, layouts.BOOK_TRS
# 6 October 2026, 10:00:00 in Seoul.
NOW = datetime.datetime(2026, 10, 6, 10, tzinfo=KST).timestamp()


class Received:
    def __init__(self) -> None:
        self.frames: list[tuple[str, str, list[str]]] = []

    def __call__(self, tr_id: str, code: str, made: list[str]) -> int:
        self.frames.append((tr_id, code, made))
        return 1

    def rows(self, tr_id: str, code: str | None = None) -> list[dict[str, str]]:
        """The records of a TR by column name."""
        rows = []
        for tr, key, made in self.frames:
            if tr == tr_id and code in (None, key):
                for record in made:
                    values = record.split("^")
                    rows.append(dict(zip(columns_for(tr, len(values)), values, strict=True)))
        return rows


def market(**settings: object) -> tuple[FakeMarket, Received]:
    received = Received()
    table = [
        Instrument("005930", "Samsung Electronics", "KOSPI", previous_close=72_000, currency="KRW"),
        Instrument("000660", "SK hynix", "KOSPI", previous_close=606_000, currency="KRW"),
        Instrument("AAPL", "Apple", "NASDAQ", previous_close="226.35", currency="USD"),
    ]
    return FakeMarket(table, FakeSettings(**settings), received), received  # type: ignore[arg-type]


def want_all(made: FakeMarket, *codes: str) -> None:
    for code in codes:
        for tables in (TRADES, BOOKS, layouts.EXPECTED_TRS, layouts.OPERATION_TRS):
            for tr_id in tables.values():
                made.want(tr_id, code)


def test_usual_widths_are_those_of_the_table_of_columns() -> None:
    table = json.loads(COLUMNS.read_text())["tr"]
    for tr_id, width in layouts.USUAL_WIDTHS.items():
        assert width == len(table[tr_id]["columns"]), tr_id


def test_trades_say_the_same_in_all_their_columns() -> None:
    made, received = market()
    want_all(made, *CODES)
    made.advance(3_000, NOW)
    for venue in VENUES:
        for code in CODES:
            rows = received.rows(TRADES[venue], code)
            assert rows, (venue, code)
            volume = int(rows[0]["ACML_VOL"]) - int(rows[0]["CNTG_VOL"])
            for row in rows:
                price, quantity = int(row["STCK_PRPR"]), int(row["CNTG_VOL"])
                volume += quantity
                assert row["MKSC_SHRN_ISCD"] == code
                assert row["STCK_CNTG_HOUR"] == "100000"
                assert row["BSOP_DATE"] == "20261006"
                assert int(row["ACML_VOL"]) == volume
                assert int(row["STCK_LWPR"]) <= price <= int(row["STCK_HGPR"])
                assert int(row["LWPR_VRSS_PRPR"]) == price - int(row["STCK_LWPR"])
                assert int(row["HGPR_VRSS_PRPR"]) == price - int(row["STCK_HGPR"])
                assert int(row["OPRC_VRSS_PRPR"]) == price - int(row["STCK_OPRC"])
                assert int(row["SELN_CNTG_SMTN"]) + int(row["SHNU_CNTG_SMTN"]) == volume
                sells, buys = int(row["SELN_CNTG_CSNU"]), int(row["SHNU_CNTG_CSNU"])
                assert int(row["NTBY_CNTG_CSNU"]) == buys - sells
                assert float(row["WGHN_AVRG_STCK_PRC"]) == pytest.approx(
                    int(row["ACML_TR_PBMN"]) / volume, abs=0.01
                )
                close = price - int(row["PRDY_VRSS"])
                assert close == {"005930": 72_000, "000660": 606_000}.get(code, 50_000)
                assert float(row["PRDY_CTRT"]) == pytest.approx((price - close) * 100 / close, abs=0.006)
                assert row["PRDY_VRSS_SIGN"] == "352"[(price > close) * 2 or (price < close)]
                assert row["CCLD_DVSN" if venue == "KRX" else "CNTG_CLS_CODE"] in ("1", "5")
                phase = [row[name] for name in ("NEW_MKOP_CLS_CODE", "HOUR_CLS_CODE", "MARKET_CLS_CODE")]
                assert phase == ["20", "0", "2"]


def test_venues_add_up_to_the_unified_market() -> None:
    made, received = market()
    want_all(made, "005930")
    made.advance(2_000, NOW)
    volumes = {venue: int(received.rows(TRADES[venue])[-1]["ACML_VOL"]) for venue in VENUES}
    assert volumes["KRX"] + volumes["NXT"] == volumes["UN"]
    by_venue = [received.rows(BOOKS[venue]) for venue in VENUES]
    assert len({len(rows) for rows in by_venue}) == 1
    for at_krx, at_nxt, unified in zip(*by_venue, strict=True):
        for level in range(1, 11):
            for side in ("ASKP", "BIDP"):
                assert at_krx[f"{side}{level}"] == unified[f"{side}{level}"]
                parts = int(at_krx[f"{side}_RSQN{level}"]) + int(at_nxt[f"{side}_RSQN{level}"])
                assert parts == int(unified[f"{side}_RSQN{level}"])


def test_books_have_ten_levels_in_order_and_totals_of_them() -> None:
    made, received = market()
    want_all(made, "005930", "000660")
    made.advance(2_000, NOW)
    for venue in VENUES:
        rows = received.rows(BOOKS[venue], "005930")
        assert len(rows) > 100
        total = None
        for row in rows:
            asks = [int(row[f"ASKP{i}"]) for i in range(1, 11)]
            bids = [int(row[f"BIDP{i}"]) for i in range(1, 11)]
            assert [*reversed(bids), *asks] == sorted({*asks, *bids})
            assert int(row["TOTAL_ASKP_RSQN"]) == sum(int(row[f"ASKP_RSQN{i}"]) for i in range(1, 11))
            assert (row["ANTC_CNPR"], row["ANTC_CNTG_VRSS"]) == ("0", "-72000")
            middle = float(row[{"KRX": "MID_PRC", "NXT": "NMID_PRC", "UN": "KMID_PRC"}[venue]])
            assert middle == (asks[0] + bids[0]) / 2
            if total is not None:
                assert int(row["TOTAL_ASKP_RSQN_ICDC"]) == int(row["TOTAL_ASKP_RSQN"]) - total
            total = int(row["TOTAL_ASKP_RSQN"])


def test_trades_come_as_one_to_three_records() -> None:
    made, received = market()
    want_all(made, "005930")
    made.advance(3_000, NOW)
    counts = Counter(len(rows) for tr, _, rows in received.frames if tr == TRADES["UN"])
    assert set(counts) == {1, 2, 3}
    single, received = market(records_per_frame=1)
    want_all(single, "005930")
    single.advance(1_000, NOW)
    assert {len(rows) for _, _, rows in received.frames} == {1}


@pytest.mark.parametrize(
    ("tr_id", "width"),
    [(tr, width) for tr in TRADES.values() for width in (46, 47, 48)]
    + [(tr, width) for tr in BOOKS.values() for width in (59, 62, 63, 65, 66, 67)],
)
def test_widths_can_be_set(tr_id: str, width: int) -> None:
    made, received = market(widths={tr_id: width})
    usual, plain = market()
    for one in (made, usual):
        one.want(tr_id, "005930")
        one.advance(50, NOW)
    assert {record.count("^") + 1 for _, _, rows in received.frames for record in rows} == {width}
    for row, other in zip(received.rows(tr_id), plain.rows(tr_id), strict=True):
        shared = row.keys() & other.keys()
        assert len(shared) >= min(width, 59 if tr_id in BOOKS.values() else 46)
        assert {name: row[name] for name in shared} == {name: other[name] for name in shared}


def test_the_parser_of_the_feed_reads_every_frame() -> None:
    made, received = market()
    want_all(made, *CODES)
    made.advance(2_000, NOW)
    known: dict[str, Instrument] = {}
    bad: list[tuple[str, bytes]] = []
    parser = KISParser(
        lambda code: known.setdefault(code, Instrument(code)), clock=lambda: NOW,
        on_bad=lambda *what: bad.append(what), on_new_width=lambda *what: bad.append(what),
    )  # fmt: skip
    n = 0
    for tr_id, _, rows in received.frames:
        n += len(parser.parse(frame(tr_id, len(rows), "^".join(rows).encode())))
    assert not bad
    assert n == sum(len(rows) for _, _, rows in received.frames) > 2_000
    assert set(known) == set(CODES)


def test_columns_are_filled_as_in_captured_frames() -> None:
    """A column has the form that it has on the wire: digits, decimals, sign, length."""
    made, received = market()
    want_all(made, "005930")
    made.advance(200, NOW)
    lines = SAMPLES.read_text().splitlines()
    for tr_id, width in ((TRADES["KRX"], 47), (BOOKS["KRX"], 63)):
        captured = next(
            values
            for line in lines
            if line.startswith(f"0|{tr_id}|001|")
            for values in split_frame(line.encode()).records
            if len(values) == width
        )
        ours = list(received.rows(tr_id)[-1].values())
        names = columns_for(tr_id, width)
        for name, mine, theirs in zip(names, ours, captured, strict=True):
            # The middle of an odd tick has half a won.
            if name != "MID_PRC":
                assert mine.partition(".")[1:] == () or ("." in mine) == ("." in theirs), name
                assert (mine == "") == (theirs == ""), name


def test_phases_are_on_the_wire_and_send_what_they_may() -> None:
    made, received = market()
    want_all(made, "005930")
    seen = {}
    for phase in layouts.PHASES:
        received.frames.clear()
        made.enter(phase)
        operations = received.rows(layouts.OPERATION_TRS["UN"])
        assert [row["MKOP_CLS_CODE"] for row in operations] == [layouts.PHASES[phase].operation]
        received.frames.clear()
        made.advance(400, NOW)
        seen[phase] = Counter(tr for tr, _, _ in received.frames)
    assert not seen["closed"]
    assert set(seen["regular"]) == set(seen["after_market"]) == {*TRADES.values(), *BOOKS.values()}
    assert set(seen["pre_market"]) == {"H0NXCNT0", "H0UNCNT0", "H0NXASP0", "H0UNASP0"}
    for phase, hour in (("opening_auction", "B"), ("closing_auction", "A")):
        assert set(seen[phase]) == {"H0STASP0", "H0UNASP0", "H0STANC0", "H0UNANC0"}
        received.frames.clear()
        made.enter(phase)
        made.advance(50, NOW)
        for row in received.rows("H0STASP0"):
            assert row["HOUR_CLS_CODE"] == hour
            assert int(row["ANTC_CNPR"]) > 0
            assert [row[f"ASKP{i}"] == "0" for i in range(1, 11)] == [False] * 3 + [True] * 7
        assert {len(row) for row in received.rows("H0STANC0")} == {45}


def test_a_halted_symbol_is_silent_until_it_goes_on() -> None:
    made, received = market()
    want_all(made, "005930", "000660")
    assert made.operate("005930", True, operation_code="164", status_code="58") == 3
    row = received.rows("H0STMKO0", "005930")[-1]
    assert (row["TRHT_YN"], row["MKOP_CLS_CODE"], row["ISCD_STAT_CLS_CODE"]) == ("Y", "164", "58")
    made.advance(500, NOW)
    assert not received.rows("H0UNCNT0", "005930")
    assert received.rows("H0UNCNT0", "000660")
    made.operate("005930", False)
    made.advance(500, NOW)
    assert received.rows("H0UNCNT0", "005930")


def test_as_many_records_go_out_as_asked_for_whatever_trades() -> None:
    made, received = market()
    made.want("H0UNCNT0", "Q500001")  # in no table, alone
    for _ in range(20):
        before = sum(len(rows) for _, _, rows in received.frames)
        made.advance(10, NOW)
        assert 10 <= sum(len(rows) for _, _, rows in received.frames) - before <= 60


def test_quotations_move_without_registrations_and_agree_with_them() -> None:
    made, received = market()
    first = made.quote("005930", "UN")
    assert first is not None
    made.want("H0UNCNT0", "005930")
    made.advance(500, NOW)
    row, quote = received.rows("H0UNCNT0")[-1], made.quote("005930", "UN")
    assert quote is not None
    assert int(quote["acml_vol"]) > int(first["acml_vol"])
    for name, column in (("stck_prpr", "STCK_PRPR"), ("acml_vol", "ACML_VOL"), ("stck_hgpr", "STCK_HGPR"),
                         ("acml_tr_pbmn", "ACML_TR_PBMN"), ("prdy_ctrt", "PRDY_CTRT")):  # fmt: skip
        assert quote[name] == row[column]
    assert (quote["stck_mxpr"], quote["stck_llam"]) == ("93600", "50400")
    several = made.multi_quote("005930", "UN")
    assert several is not None
    assert (several["inter2_prpr"], several["acml_vol"]) == (quote["stck_prpr"], quote["acml_vol"])
    made.unwant("H0UNCNT0", "005930")
    made.advance(500, NOW)
    after = made.quote("005930", "UN")
    assert after is not None
    assert int(after["acml_vol"]) > int(quote["acml_vol"])


def test_the_same_seed_gives_the_same_day() -> None:
    days = []
    for _ in range(2):
        made, received = market(seed=7)
        want_all(made, *CODES)
        made.advance(500, NOW)
        days.append(received.frames)
    assert days[0] == days[1]


@pytest.mark.parametrize(
    ("hour", "minute", "phase"),
    [(7, 59, "closed"), (8, 0, "pre_market"), (8, 50, "opening_auction"), (9, 0, "regular"),
     (15, 19, "regular"), (15, 20, "closing_auction"), (15, 30, "closed"), (15, 40, "after_market"),
     (19, 59, "after_market"), (20, 0, "closed")],
)  # fmt: skip
def test_phases_by_the_clock(hour: int, minute: int, phase: str) -> None:
    assert phase_at(datetime.datetime(2026, 10, 6, hour, minute, tzinfo=KST)) == phase
    assert phase_at(datetime.datetime(2026, 10, 10, hour, minute, tzinfo=KST)) == "closed"  # a Saturday
