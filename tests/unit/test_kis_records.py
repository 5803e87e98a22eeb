"""Frames as structured arrays and DataFrames, and callbacks that cannot hold up who has something for them."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
import math
import threading
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws._kis import MISSING, KISFrameError, RecordReader, columns_for, peek_frame
from fastws.kis import KISError
from fastws.kis.dataframes import to_dataframe
from fastws.kis.delivery import Delivery

TABLE = json.loads(files("fastws.data").joinpath("kis_columns.json").read_text())["tr"]
FRAMES = [
    line
    for line in (Path(__file__).parent / "kis_samples.txt").read_bytes().splitlines()
    if line.startswith(b"0|") and not line.endswith((b"|001", b"^1^2"))
]
INTEGERS = {
    "price_krw",
    "price_signed",
    "qty",
    "qty_signed",
    "amount_krw",
    "amount_signed",
    "count",
    "count_signed",
}
DECIMALS = {"float", "pct_float", "index_float"}
TRADE = next(line for line in FRAMES if line.startswith(b"0|H0STCNT0|001|005930^140610"))


def values_of(message: bytes) -> tuple[str, list[list[str]]]:
    _, tr_id, count, payload = message.decode().split("|", 3)
    values = payload.split("^")
    width, rest = divmod(len(values), int(count))
    if rest:
        raise ValueError("width")
    return tr_id, [values[i : i + width] for i in range(0, len(values), width)]


def changed(name: str, value: str) -> bytes:
    """The sample trade with another value."""
    _, (record,) = values_of(TRADE)
    record[columns_for("H0STCNT0", 47).index(name)] = value
    return f"0|H0STCNT0|001|{'^'.join(record)}".encode()


@pytest.mark.parametrize("message", FRAMES, ids=lambda message: message[2:17].decode())
@pytest.mark.parametrize("decimals", ["float", "exact"])
def test_every_value_of_every_sample(message: bytes, decimals: Any) -> None:
    try:
        tr_id, expected = values_of(message)
    except ValueError:
        with pytest.raises(KISFrameError, match="width"):
            RecordReader(decimals).read(message)
        return
    layout, records = RecordReader(decimals).read(message)
    frame = to_dataframe(layout, records)
    assert layout.tr_id == tr_id
    assert layout.names == columns_for(tr_id, len(expected[0])) == records.dtype.names == tuple(frame.columns)
    assert len(records) == len(frame) == len(expected)
    for row, values in enumerate(expected):
        for name, text in zip(layout.names, values, strict=True):
            value, cell = records[name][row], frame[name].iloc[row]
            if records.dtype[name].kind == "U":
                assert value == text
                assert cell == (Decimal(text) if name in layout.decimals else text)
            elif text:
                assert value == cell == float(text)
            else:
                assert value == MISSING or math.isnan(value)
    types = dict(TABLE[tr_id]["columns"])
    for name in layout.names:
        kind = types.get(name)
        if kind in INTEGERS:
            assert records.dtype[name] == np.int64
        elif kind in DECIMALS and decimals == "float":
            assert records.dtype[name] == np.float64


@pytest.mark.parametrize("tr_id", sorted(TABLE))
def test_every_width_of_every_tr(tr_id: str) -> None:
    for width in TABLE[tr_id]["widths"]:
        message = f"0|{tr_id}|002|{'^'.join(['1'] * 2 * width)}".encode()
        layout, records = RecordReader().read(message)
        assert len(set(layout.names)) == width
        assert to_dataframe(layout, records).shape == (2, width)


def test_missing_values() -> None:
    reader = RecordReader()
    for name, text in (("ACML_VOL", ""), ("ACML_VOL", "(null)")):
        layout, records = reader.read(changed(name, text))
        assert records[name][0] == MISSING
        frame = to_dataframe(layout, records)
        assert str(frame[name].dtype) == "Int64"
        assert frame[name].isna().all()
        assert frame["STCK_PRPR"].dtype == np.int64
    layout, records = reader.read(changed("PRDY_CTRT", ""))
    assert math.isnan(to_dataframe(layout, records)["PRDY_CTRT"].iloc[0])
    layout, records = RecordReader("exact").read(changed("PRDY_CTRT", ""))
    assert to_dataframe(layout, records)["PRDY_CTRT"].iloc[0] is None


def test_an_integer_column_that_turns_out_to_have_decimals() -> None:
    found: list[tuple[str, str]] = []
    reader = RecordReader(on_new_type=lambda tr_id, name: found.append((tr_id, name)))
    _, records = reader.read(changed("STCK_PRPR", "277750.5"))
    assert records["STCK_PRPR"].tolist() == [277750.5]
    layout, records = reader.read(TRADE)
    assert records["STCK_PRPR"].tolist() == [277750.0]
    assert to_dataframe(layout, records)["STCK_PRPR"].dtype == np.float64
    _, records = reader.read(changed("ACML_TR_PBMN", "9" * 19 + "0"))
    assert records["ACML_TR_PBMN"].tolist() == [float("9" * 19 + "0")]
    assert found == [("H0STCNT0", "STCK_PRPR"), ("H0STCNT0", "ACML_TR_PBMN")]


def test_texts_are_never_cut() -> None:
    reader = RecordReader()
    for text in ("A" * 100, "삼성전자 우선주 열두글자", "\U0001f600" * 9, "x"):
        layout, records = reader.read(changed("MRKT_TRTM_CLS_CODE", text))
        assert records["MRKT_TRTM_CLS_CODE"].tolist() == [text]
        assert to_dataframe(layout, records)["MRKT_TRTM_CLS_CODE"].iloc[0] == text
    with pytest.raises(KISFrameError, match="too long"):
        reader.read(changed("MRKT_TRTM_CLS_CODE", "A" * 257))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"", "not a frame"),
        (b"{}", "not a frame"),
        (b"0|H0STCNT0|001", "truncated"),
        (b"0|H0ZZZZZ0|001|1^2", "unknown TR"),
        (b"1|H0STCNI0|001|AAAA", "encrypted"),
        (b"0|H0STCNT0|000|1", "count"),
        (b"0|H0STCNT0|1001|1", "count"),
        (b"0|H0STCNT0|002|1^2^3", "width"),
        (b"0|H0STCNT0|001|1^2^3", "width"),
        (b"0|H0STCNT0|001|" + b"^" * 300, "width"),
        (b"0|H0STCNT0|001|" + b"^".join([b"1"] * 94), "count"),
        (changed("STCK_PRPR", "12a"), "number"),
        (changed("PRDY_CTRT", "nan"), "number"),
        (changed("PRDY_CTRT", "1-2"), "number"),
        (changed("STCK_PRPR", "-"), "number"),
        (TRADE[:-1] + b"\xff", "not UTF-8"),
        (TRADE[:-1] + b"\xed\xa0\x80", "not UTF-8"),
        (TRADE[:-1] + b"\xc0\x80", "not UTF-8"),
    ],
)
def test_what_is_refused(message: bytes, kind: str) -> None:
    with pytest.raises(KISFrameError) as raised:
        RecordReader().read(message)
    assert raised.value.kind == kind


def test_new_widths_are_reported_once() -> None:
    found: list[tuple[str, int]] = []
    reader = RecordReader(on_new_width=lambda tr_id, width: found.append((tr_id, width)))
    for _ in range(2):
        layout, records = reader.read(TRADE + b"^7^8")
        assert layout.names[-2:] == ("EXTRA_47", "EXTRA_48")
        assert records["EXTRA_48"].tolist() == ["8"]
    assert found == [("H0STCNT0", 49)]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="^\x00", exclude_categories=["Cs"]), max_size=60))
def test_any_text_arrives(text: str) -> None:
    _, records = RecordReader().read(changed("MRKT_TRTM_CLS_CODE", text))
    assert records["MRKT_TRTM_CLS_CODE"].tolist() == [text]


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20))
def test_decimals_are_the_nearest_doubles(value: Decimal) -> None:
    _, records = RecordReader().read(changed("PRDY_CTRT", f"{value:f}"))
    assert records["PRDY_CTRT"].tolist() == [float(value)]


@settings(deadline=None)
@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_integers_are_exact(value: int) -> None:
    _, records = RecordReader().read(changed("PRDY_VRSS", str(value)))
    assert records["PRDY_VRSS"].tolist() == [value]


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"0|H0STCNT0|001|" + tail))
def test_garbage_is_refused(message: bytes) -> None:
    for read in (RecordReader().read, peek_frame):
        with contextlib.suppress(KISFrameError):
            read(message)


def test_peeking() -> None:
    assert peek_frame(TRADE) == ("H0STCNT0", False, ("005930",))
    three = next(line for line in FRAMES if line.startswith(b"0|H0STCNT0|003|"))
    assert peek_frame(three) == ("H0STCNT0", False, ("005930",))
    assert peek_frame(b"0|H0NEW|002|A^1^B^2") == ("H0NEW", False, ("A", "B"))
    assert peek_frame(b"1|H0STCNI0|001|x") == ("H0STCNI0", True, ())
    with pytest.raises(KISFrameError, match="width"):
        peek_frame(b"0|H0NEW|002|A^1^B")


def test_records_do_not_share_memory_with_the_dataframe() -> None:
    layout, records = RecordReader().read(TRADE)
    frame = to_dataframe(layout, records)
    records["STCK_PRPR"] = 1
    records["MKSC_SHRN_ISCD"] = "x"
    assert (frame["STCK_PRPR"].iloc[0], frame["MKSC_SHRN_ISCD"].iloc[0]) == (277750, "005930")


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, records = RecordReader().read(TRADE)
    real_import = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(KISError, match=r"pip install pandas, or set on_records"):
        to_dataframe(layout, records)


def test_an_unknown_kind_of_decimals() -> None:
    with pytest.raises(ValueError, match="decimals"):
        RecordReader("text")  # type: ignore[arg-type]


class Receiver:
    """A delivery, and what it did."""

    def __init__(self, process: Any = None, max_items: int = 10) -> None:
        self.items: list[int] = []
        self.failures: list[tuple[str, int]] = []
        self.losses: list[int] = []
        self.n_ends = 0
        self.delivery: Delivery[int] = Delivery(
            process or self.items.append,
            max_items=max_items,
            on_failure=lambda error, item: self.failures.append((str(error), item)),
            on_loss=self.losses.append,
            on_end=self.on_end,
        )

    def on_end(self) -> None:
        self.n_ends += 1


async def test_items_come_in_order_from_any_thread() -> None:
    receiver = Receiver(max_items=10_000)
    receiver.delivery.start()
    thread = threading.Thread(target=lambda: [receiver.delivery.put(i) for i in range(1000)])
    thread.start()
    while len(receiver.items) < 1000:
        await asyncio.sleep(0.001)
    thread.join()
    await receiver.delivery.stop(1.0)
    assert receiver.items == list(range(1000))
    assert (receiver.losses, receiver.failures, receiver.n_ends) == ([], [], 0)


async def test_the_oldest_are_dropped_and_counted() -> None:
    gate = asyncio.Event()
    seen: list[int] = []

    async def process(item: int) -> None:
        seen.append(item)
        await gate.wait()

    receiver = Receiver(process, max_items=3)
    receiver.delivery.start()
    receiver.delivery.put(0)
    await asyncio.sleep(0)
    while not seen:
        await asyncio.sleep(0)
    for item in range(1, 11):
        receiver.delivery.put(item)
    gate.set()
    await receiver.delivery.stop(1.0)
    assert seen == [0, 8, 9, 10]
    assert receiver.losses == [7]
    assert receiver.delivery.n_dropped == 7


async def test_failures_are_reported_and_what_follows_is_processed() -> None:
    def process(item: int) -> None:
        if item % 2:
            raise ValueError("odd")

    receiver = Receiver(process)
    receiver.delivery.start()
    for item in range(4):
        receiver.delivery.put(item)
    await receiver.delivery.stop(1.0)
    assert receiver.failures == [("odd", 1), ("odd", 3)]


async def test_what_never_ends_is_not_waited_for() -> None:
    receiver = Receiver(lambda item: asyncio.Event().wait())
    receiver.delivery.start()
    receiver.delivery.put(1)
    began = asyncio.get_running_loop().time()
    await receiver.delivery.stop(0.1)
    assert asyncio.get_running_loop().time() - began < 5.0
    await receiver.delivery.stop(0.1)


async def test_it_may_be_stopped_from_within() -> None:
    receiver = Receiver(lambda item: receiver.items.append(item) or receiver.delivery.stop(1.0))
    receiver.delivery.start()
    receiver.delivery.put(1)
    receiver.delivery.put(2)
    while not receiver.items:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert receiver.items == [1]
