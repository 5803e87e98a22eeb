"""The KIS frame splitter and record parser: changing widths, every fault, and garbage."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kis_frames import FRAMES, SAMPLES, TABLE, Listener, fields_of, frame, kst_ms, record_of, trade

from fastws._kis import Frame, KISFrameError, columns_for, split_frame, split_records
from fastws._market import BookUpdate, Instrument, PriceUpdate


@pytest.fixture
def listener() -> Listener:
    return Listener()


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
