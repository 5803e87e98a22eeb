"""How fast KIS frames become numpy records and DataFrames, beside two ways of a client that has pandas alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from benchmarks.conftest import Measure
from benchmarks.kis_frames import TRADE, trade_frames
from fastws._kis import RecordReader, columns_for
from fastws.kis.dataframes import to_dataframe

N_FRAMES = 40
READER = RecordReader()
LAYOUT, _ = READER.read(TRADE)
TYPES = {
    name: {"i": "int64", "f": "float64"}[LAYOUT.dtype[name].kind]
    for name in LAYOUT.names
    if LAYOUT.dtype[name].kind in "if"
}


def rows_of(message: bytes) -> tuple[tuple[str, ...], list[list[str]]]:
    """Names of the columns and the texts of each record."""
    _, tr_id, count, payload = message.decode().split("|", 3)
    values = payload.split("^")
    width = len(values) // int(count)
    return tuple(columns_for(tr_id, width)), [values[at : at + width] for at in range(0, len(values), width)]


def typed_with_pandas(message: bytes) -> pd.DataFrame:
    """Split, regroup, build, convert: the plainest way to the same DataFrame."""
    names, rows = rows_of(message)
    return pd.DataFrame(rows, columns=list(names), dtype=object).astype(TYPES)


def typed_in_python(message: bytes) -> pd.DataFrame:
    """The same with values converted before pandas sees them."""
    names, rows = rows_of(message)
    make = {"int64": int, "float64": float}
    return pd.DataFrame(
        {
            name: list(map(make.get(TYPES.get(name, ""), str), texts))
            for name, texts in zip(names, zip(*rows, strict=True), strict=True)
        }
    )


PEERS = {"pandas": typed_with_pandas, "Python": typed_in_python}


def frame_of(message: bytes) -> pd.DataFrame:
    return to_dataframe(*READER.read(message))


def records_of(message: bytes) -> np.ndarray:
    return READER.read(message)[1]


def read_all(read: Callable[[bytes], pd.DataFrame | np.ndarray], frames: list[bytes]) -> int:
    return sum([len(read(message)) for message in frames])


@pytest.mark.parametrize("n_records", [1, 3])
def test_records(measure: Measure, n_records: int) -> None:
    """RecordReader.read: trade frames of so many records, as a numpy structured array"""
    frames = trade_frames(N_FRAMES, n_records)
    n = n_records * N_FRAMES
    assert measure(read_all, records_of, frames, unit="records", items=n, size=sum(map(len, frames))) == n


@pytest.mark.parametrize("n_records", [1, 3])
def test_dataframes(measure: Measure, n_records: int) -> None:
    """The same as a typed DataFrame of all their columns"""
    frames = trade_frames(N_FRAMES, n_records)
    n = n_records * N_FRAMES
    found = measure(read_all, frame_of, frames, unit="records", items=n, like="python")
    assert found == n
    for message in frames[:10]:
        pd.testing.assert_frame_equal(frame_of(message), typed_with_pandas(message), check_column_type=False)
        # Its texts are of pandas' own type.
        pd.testing.assert_frame_equal(frame_of(message), typed_in_python(message), check_dtype=False)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("n_records", [1, 3])
def test_dataframes_otherwise(measure: Measure, peer: str, n_records: int) -> None:
    """pandas with texts converted by astype, and with values converted in Python before"""
    frames = trade_frames(N_FRAMES, n_records)
    n = n_records * N_FRAMES
    found = measure(
        read_all,
        PEERS[peer],
        frames,
        unit="records",
        items=n,
        like="python",
        against=f"kis_records.dataframes[{n_records}]",
    )
    assert found == n
