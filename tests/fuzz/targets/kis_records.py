"""Data frames of KIS: the splitter, the reader of arrays and the parser of updates against a split in plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from pathlib import Path

from fastws._kis import MISSING, KISFrameError, KISParser, RecordReader, columns_for, peek_frame, split_frame
from fastws._market import BookUpdate, Instrument, PriceUpdate
from tests.fuzz.source import Source
from tests.reference_frames import is_utf8

SAMPLES = tuple(
    line
    for path in (
        Path(__file__).parents[2] / "unit" / "kis_samples.txt",
        files("fastws.data").joinpath("kis_frames.txt"),
    )
    for line in path.read_bytes().splitlines()
    if line and line[:1] != b"#"
)
TOKENS = (
    *(
        b"0|H0STCNT0|001|",
        b"0|H0STASP0|001|",
        b"0|H0NXCNT0|002|",
        b"0|H0UNASP0|001|",
        b"1|H0STCNI0|001|",
        b"^^",
    ),
    *(
        b"^-",
        b"(null)",
        b"^005930^",
        b"20261006",
        b"235959",
        b"9223372036854775807",
        b"0.01",
        b"^2^",
        b"|000|",
    ),
)
_KINDS = frozenset({"not a frame", "too long", "truncated", "count", "width", "not UTF-8", "unknown TR"})
_READER_KINDS = _KINDS | {"encrypted", "number"}
_PARSER_KINDS = _KINDS | {"encrypted", "code", "number", "time"}
_NOW = 1_791_255_600.0  # 2026-10-06T12:00:00+09:00


def check(data: bytes) -> None:
    source = Source(data)
    exact, message = source.whole(1) & 1, source.rest()
    records = check_split(message)
    check_arrays(message, records, "exact" if exact else "float")
    check_updates(message, records)


def check_split(message: bytes) -> list[list[str]] | None:
    """The records by the splitter, which must be those of `reference`; None where there are none."""
    try:
        frame = split_frame(message)
    except KISFrameError as error:
        assert error.kind in _KINDS
        return None
    flag, tr_id, count, payload = message.split(b"|", 3)
    assert (frame.tr_id, frame.count, frame.payload) == (tr_id.decode(), int(count), payload)
    assert frame.encrypted == (flag == b"1")
    if frame.encrypted:
        assert frame.records == []
        return None
    values = payload.decode().split("^")
    width, left = divmod(len(values), frame.count)
    if left:
        # One separator more, behind the last value, is none of another value.
        assert values[-1] == ""
        width = (len(values) - 1) // frame.count
    assert frame.records == [values[n * width : (n + 1) * width] for n in range(frame.count)]
    assert width > 0
    codes = list(dict.fromkeys(record[0] for record in frame.records))
    assert peek_frame(message) == (frame.tr_id, False, tuple(codes))
    return frame.records


def check_arrays(message: bytes, records: list[list[str]] | None, decimals: str) -> None:
    try:
        layout, array = RecordReader(decimals).read(message)  # type: ignore[arg-type]
    except KISFrameError as error:
        assert error.kind in _READER_KINDS
        return
    assert records is not None
    assert len(array) == len(records)
    assert layout.names == columns_for(layout.tr_id, len(records[0]))
    for n, values in enumerate(records):
        for name, text in zip(layout.names, values, strict=True):
            found, kind = array[name][n], array.dtype[name].kind
            if kind == "U":
                # An array knows no zeros at the end of a text.
                is_absent = name in layout.decimals and text == "(null)"
                assert found == ("" if is_absent else text.rstrip("\0"))
            elif text in ("", "(null)"):
                assert found == MISSING if kind == "i" else math.isnan(found)
            elif kind == "i":
                assert int(found) == int(text)
            else:
                assert math.isclose(float(found), float(text), rel_tol=1e-15, abs_tol=5e-324)


def check_updates(message: bytes, records: list[list[str]] | None) -> None:
    bad: list[str] = []
    parser = KISParser(
        lambda code: Instrument(code, "x"),
        clock=lambda: _NOW,
        on_bad=lambda kind, message: bad.append(kind),
    )
    updates = parser.parse(message)
    if bad:
        assert updates == []
        assert bad[0] in _PARSER_KINDS
        assert parser.bad_kinds == {bad[0]: 1}
        return
    if not updates:
        return
    if records is None:
        # Columns that the parser has no use for are not looked at.
        assert not is_utf8(message)
        return
    assert len(updates) == len(records) == parser.n_records
    for update, record in zip(updates, records, strict=True):
        assert update.instrument.code == record[0]
        if isinstance(update, PriceUpdate):
            try:
                price = Decimal(record[2])
            except InvalidOperation:
                price = Decimal(record[2].strip())
            assert update.price == price
        else:
            assert isinstance(update, BookUpdate)
            assert len(update.bids) <= 10 and len(update.asks) <= 10
            assert all(quantity >= 0 for _, quantity in (*update.bids, *update.asks))


def seeds() -> Iterator[bytes]:
    for n, message in enumerate(SAMPLES):
        if message[:1] != b"{":
            yield bytes((n & 1,)) + message
    trade = next(message for message in SAMPLES if message.startswith(b"0|H0STCNT0|001|005930"))
    record = trade.split(b"|", 3)[3]
    yield b"\0" + b"0|H0STCNT0|002|" + record + b"^" + record
    yield b"\1" + b"0|H0STCNT0|003|" + record + b"^" + record + b"^" + record + b"^"
