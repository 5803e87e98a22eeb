"""Messages as pandas DataFrames. The only module of the client that needs pandas: the extra ``pandas``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from fastws.client.arrays import DEPTH, books_arrays
from fastws.client.errors import ClientError, UsageError
from fastws.client.messages import Message, OrderbookUpdate, PriceUpdate

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS: Final = ("price", "change", "change_percent", "high", "low")
_WHOLE: Final = ("volume", "trade_volume")
_TIMES: Final = ("event_time", "timestamp")
_NUMBERS: Final = ("sequence", "seq")
_FLAGS: Final = ("snapshot", "stale")
PRICE_COLUMNS: Final = (
    *("code", "name", "price", "change", "change_percent", "volume", "trade_volume", "high", "low"),
    *("venue", "quality", "event_time", "timestamp", "sequence", "seq", "snapshot", "stale"),
)
BOOK_COLUMNS: Final = (
    "code",
    *(
        f"{side}_{what}_{n}"
        for side in ("bid", "ask")
        for n in range(1, DEPTH + 1)
        for what in ("price", "quantity")
    ),
    *("venue", "quality", "event_time", "timestamp", "sequence", "seq", "snapshot", "stale"),
)


def to_frame(
    messages: Iterable[Message], kind: Literal["price", "orderbook"] = "price", *, exact: bool = False
) -> pd.DataFrame:
    """One row per price, or per order book, of `messages`, in their order; the others are left out.

    Columns of prices are `PRICE_COLUMNS`, of books `BOOK_COLUMNS` (``bid_price_1`` is the best), also when there are
    no rows. dtypes: texts ``str``, missing where the source does not say; prices, changes and all of a book
    ``float64`` with NaN; `volume` and `trade_volume` ``Int64`` with <NA>; times ``datetime64[ms, UTC]`` with NaT;
    `sequence` and `seq` ``int64``; `snapshot` and `stale` ``bool``. With `exact`, prices and changes are ``object``:
    `int` or `decimal.Decimal` with the digits of the source, None where there is none; it is for prices only.

    Raises UsageError for an argument that is none of these, ClientError without pandas.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - of the extra
    except ImportError:
        raise ClientError("to_frame needs pandas: pip install pandas") from None
    if kind == "price":
        prices = [message for message in messages if isinstance(message, PriceUpdate)]
        data = _common(pd, prices, ("name",))
        for name in _DECIMALS:
            values = [getattr(update, name) for update in prices]
            data[name] = (
                pd.Series(values, dtype="object")
                if exact
                else np.array([np.nan if value is None else float(value) for value in values], np.float64)
            )
        for name in _WHOLE:
            data[name] = pd.array(
                [None if (value := getattr(update, name)) is None else int(value) for update in prices],
                dtype="Int64",
            )
        return pd.DataFrame(data, columns=list(PRICE_COLUMNS))
    if kind != "orderbook":
        raise UsageError(f'kind: expected "price" or "orderbook", not {kind!r}')
    if exact:
        raise UsageError("exact: it is for prices only; take the levels of the books themselves")
    books = [message for message in messages if isinstance(message, OrderbookUpdate)]
    data = _common(pd, books, ())
    arrays = books_arrays(books)
    for side, levels in (("bid", arrays.bids), ("ask", arrays.asks)):
        for n in range(DEPTH):
            data[f"{side}_price_{n + 1}"] = levels[:, n, 0]
            data[f"{side}_quantity_{n + 1}"] = levels[:, n, 1]
    return pd.DataFrame(data, columns=list(BOOK_COLUMNS))


def _common(pd: Any, updates: list[Any], texts: tuple[str, ...]) -> dict[str, Any]:
    """The columns that all have."""
    data: dict[str, Any] = {}
    for name in ("code", "venue", "quality", *texts):
        data[name] = pd.array([getattr(update, name) for update in updates], dtype="str")
    for name in _TIMES:
        values = [getattr(update, name) for update in updates]
        data[name] = pd.to_datetime(pd.Series(values, dtype="object"), utc=True).astype("datetime64[ms, UTC]")
    for name in _NUMBERS:
        data[name] = np.array([getattr(update, name) for update in updates], np.int64)
    for name in _FLAGS:
        data[name] = np.array([getattr(update, name) for update in updates], np.bool_)
    return data
