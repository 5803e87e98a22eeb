"""How fast KIS frames become numpy records and DataFrames, against what a client with pandas alone does.

Run with ``pytest benchmarks/test_bench_kis_records.py --benchmark-disable-gc``; the ratio is that of the medians.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pandas as pd
import pytest

from fastws._kis import RecordReader, columns_for
from fastws.kis.dataframes import to_dataframe

FRAMES = (files("fastws.data") / "kis_frames.txt").read_bytes().splitlines()
TRADE = next(line for line in FRAMES if line.startswith(b"0|H0STCNT0|001|"))
N_FRAMES = 40


def make_frames(n_records: int) -> list[bytes]:
    """Frames that differ in codes and numbers."""
    values = TRADE.decode().split("|", 3)[3].split("^")
    frames = []
    for n in range(N_FRAMES):
        records = []
        for k in range(n * n_records, (n + 1) * n_records):
            record = list(values)
            record[0] = f"{k * 7919 % 4000:06}"
            for at in (2, 7, 8, 9, 10, 11, 13, 14, 19, 20, 36, 37, 38, 39):
                record[at] = str((k * 2_654_435_761 + at * 40_503) % 10 ** (1 + (k * 31 + at * 17) % 9))
            records.append("^".join(record))
        frames.append(f"0|H0STCNT0|{n_records:03}|{'^'.join(records)}".encode())
    return frames


READER = RecordReader()
LAYOUT, _ = READER.read(TRADE)
TYPES = {
    name: {"i": "int64", "f": "float64"}[LAYOUT.dtype[name].kind]
    for name in LAYOUT.names
    if LAYOUT.dtype[name].kind in "if"
}


def typed_with_pandas(message: bytes) -> pd.DataFrame:
    """Split, regroup, build, convert: the plainest way to the same DataFrame."""
    _, tr_id, count, payload = message.decode().split("|", 3)
    values = payload.split("^")
    width = len(values) // int(count)
    rows = [values[at : at + width] for at in range(0, len(values), width)]
    return pd.DataFrame(rows, columns=list(columns_for(tr_id, width)), dtype=object).astype(TYPES)


def typed_in_python(message: bytes) -> pd.DataFrame:
    """The same with values converted before pandas sees them."""
    _, tr_id, count, payload = message.decode().split("|", 3)
    values = payload.split("^")
    width = len(values) // int(count)
    columns = {}
    for place, name in enumerate(columns_for(tr_id, width)):
        kind = TYPES.get(name)
        texts = values[place::width]
        columns[name] = [int(t) for t in texts] if kind == "int64" else (
            [float(t) for t in texts] if kind else texts
        )  # fmt: skip
    return pd.DataFrame(columns)


def ours(message: bytes) -> pd.DataFrame:
    return to_dataframe(*READER.read(message))


def records_only(message: bytes) -> Any:
    return READER.read(message)[1]


@pytest.mark.parametrize("n_records", [1, 3])
@pytest.mark.parametrize(
    "parse", [records_only, ours, typed_in_python, typed_with_pandas], ids=lambda f: f.__name__
)
def test_frames(benchmark: Any, parse: Callable[[bytes], Any], n_records: int) -> None:
    frames = make_frames(n_records)

    def parse_all() -> int:
        return sum([len(parse(message)) for message in frames])

    assert benchmark(parse_all) == n_records * N_FRAMES
    benchmark.extra_info["frames_per_s"] = round(N_FRAMES / benchmark.stats.stats.median)
    if parse is ours:
        for message in frames[:10]:
            pd.testing.assert_frame_equal(parse(message), typed_with_pandas(message), check_column_type=False)
