"""Records as pandas DataFrames: KIS's columns, in KIS's order, typed. The only module that needs pandas."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastws._kis import MISSING, RecordLayout
from fastws.kis.errors import KISError

if TYPE_CHECKING:
    import pandas as pd


class _Plan(NamedTuple):
    """How the fields of a layout become columns."""

    integers: pd.Index[str]
    doubles: pd.Index[str]
    texts: pd.Index[str]
    order: np.ndarray[Any, np.dtype[np.intp]]
    exact: tuple[int, ...]  # places among the texts of the decimals that are kept exactly


def require_pandas() -> Any:
    """Return the module. Raises KISError, saying what to install, where there is none."""
    try:
        import pandas  # noqa: PLC0415 - of the extra
    except ImportError:
        raise KISError(
            "DataFrames need pandas: pip install pandas, or set on_records, which gets numpy arrays"
        ) from None
    return pandas


def to_dataframe(layout: RecordLayout, records: np.ndarray[tuple[int], np.dtype[np.void]]) -> pd.DataFrame:
    """Return what `RecordReader.read` gave as a DataFrame with one row per record.

    Integers are int64, in a frame where one is missing that column is Int64 with <NA>; decimals are float64 with NaN,
    or with ``decimals="exact"`` `decimal.Decimal` objects with None; the rest is str, empty where KIS sent nothing. The
    DataFrame shares no memory with `records`.

    `records` must be the whole array that was read with `layout`.
    """
    pd = require_pandas()
    plan: _Plan = layout.plan
    if plan is None:
        plan = layout.plan = _make_plan(pd, layout)
    n, row_size = len(records), records.dtype.itemsize
    data: Any = records.view(np.uint8)
    n_integers, n_doubles = layout.n_integers, layout.n_doubles
    # All fields of a kind lie side by side, so each kind is one array of two dimensions; pandas takes three of them
    # in an eighth of the time that a column at a time costs.
    integers: Any = np.ndarray((n, n_integers), np.int64, data, 0, (row_size, 8))
    doubles: Any = np.ndarray((n, n_doubles), np.float64, data, 8 * n_integers, (row_size, 8))
    texts: Any = np.ndarray(
        (n, layout.n_texts),
        f"U{layout.text_size}",
        data,
        8 * (n_integers + n_doubles),
        (row_size, 4 * layout.text_size),
    ).astype(object)
    for exact in plan.exact:
        texts[:, exact] = [Decimal(text) if text and text != "(null)" else None for text in texts[:, exact]]
    frame = pd.concat(
        [
            pd.DataFrame(integers, columns=plan.integers),
            pd.DataFrame(doubles, columns=plan.doubles),
            pd.DataFrame(texts, columns=plan.texts, dtype=object),
        ],
        axis=1,
    ).take(plan.order, axis=1)
    missing = integers == MISSING
    if missing.any():
        for place in np.flatnonzero(missing.any(axis=0)).tolist():
            name = plan.integers[place]
            frame[name] = pd.array(frame[name].to_numpy(), dtype="Int64")
            frame.loc[missing[:, place], name] = pd.NA
    return frame  # type: ignore[no-any-return]


def _make_plan(pd: Any, layout: RecordLayout) -> _Plan:
    kinds = {name: layout.dtype[name].kind for name in layout.names}
    integers, doubles, texts = ([name for name in layout.names if kinds[name] == kind] for kind in "ifU")
    places = {name: place for place, name in enumerate([*integers, *doubles, *texts])}
    exact = frozenset(layout.decimals)
    return _Plan(
        pd.Index(integers, dtype=object),
        pd.Index(doubles, dtype=object),
        pd.Index(texts, dtype=object),
        np.array([places[name] for name in layout.names], dtype=np.intp),
        tuple(place for place, name in enumerate(texts) if name in exact),
    )
