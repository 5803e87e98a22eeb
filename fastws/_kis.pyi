"""Frames of the KIS real-time WebSocket, taken apart.

A message is either JSON (control) or a data frame ``flag|TR|count|payload``: flag 0 plain, 1 encrypted;
`count` records of equal width follow each other in the payload, all values separated by ``^``. Widths grow
over time: new columns are appended. Source: KIS developer portal, real-time quotation TRs; column order in
``fastws/data/kis_columns.json``.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, final

import numpy as np

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws.errors import FastwsError

class KISFrameError(FastwsError):
    """A message is not a frame that can be split.

    `kind` is one of the short words under which :class:`KISParser` counts faults: "not a frame", "too long"
    (over 4 MiB), "truncated", "count", "width", "not UTF-8", "unknown TR".
    """

    kind: str
    def __init__(self, kind: str) -> None: ...

class Frame:
    """A data frame taken apart.

    `records` holds the values of each record as text, empty ones included; it is empty for an encrypted
    frame, whose `payload` is base64 text and goes through :func:`split_records` once it is deciphered.
    """

    tr_id: str
    encrypted: bool
    count: int
    records: list[list[str]]
    payload: bytes
    def __init__(
        self, tr_id: str, encrypted: bool, count: int, records: list[list[str]], payload: bytes
    ) -> None: ...

def split_frame(message: bytes | bytearray | memoryview) -> Frame:
    """Take one WebSocket text message apart, whatever its TR. Raises KISFrameError, also for JSON."""

def split_records(payload: bytes, count: int) -> list[list[str]]:
    """Split a payload in clear into `count` records. Raises KISFrameError ("width", "count", "not UTF-8")."""

def columns_for(tr_id: str, width: int) -> tuple[str, ...]:
    """Return the `width` column names of a record.

    Values after the last known column are named ``EXTRA_n``, n being their place in the record, so that
    such a name stays what it is when KIS appends more. Raises :class:`KISFrameError` for a TR in no table,
    ValueError for a width below 1.
    """

MISSING: Final[int]
"""What stands in an integer field for a value that KIS left empty: the least 64-bit integer."""

def peek_frame(message: bytes | bytearray | memoryview) -> tuple[str, bool, tuple[str, ...]]:
    """Return the TR of a data frame, whether it is encrypted, and the first value of its records.

    That value is the code of the instrument (of the index), each once, in order; nothing for an encrypted
    frame. The TR need not be one that is known. Raises :class:`KISFrameError`.
    """

@final
class RecordLayout:
    """How the records of one TR and width lie in the memory of a structured array. Immutable but for `plan`.

    Fields of a kind lie side by side, first the integers, then the doubles, then the texts, each text
    `text_size` characters (UCS-4) long; `dtype` names them in KIS's order.
    """

    @property
    def tr_id(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]:
        """The columns as KIS orders and names them; see :func:`columns_for`."""
    @property
    def decimals(self) -> tuple[str, ...]:
        """Columns with decimals: doubles, or with ``decimals="exact"`` texts."""
    @property
    def dtype(self) -> np.dtype[np.void]: ...
    @property
    def n_integers(self) -> int: ...
    @property
    def n_doubles(self) -> int: ...
    @property
    def n_texts(self) -> int: ...
    @property
    def text_size(self) -> int: ...
    plan: Any
    """Free for whoever turns such arrays into something else, to keep what it has worked out; at first None."""

@final
class RecordReader:
    """Turns data frames into numpy structured arrays: one row per record, one field per column.

    Integers are 64-bit, :data:`MISSING` where KIS left them empty; decimals are doubles, NaN where empty, or
    with ``decimals="exact"`` their digits as text, empty where absent; everything else is text as it came,
    codes, dates and times included, and so are columns that are in no table (``EXTRA_n``). A numeric value of
    ``(null)`` is empty.

    An integer column that turns out to hold decimals is a decimal column from then on; ``on_new_type(tr_id,
    name)`` is then called, and ``on_new_width(tr_id, width)`` once for every width that is in no table.
    """

    on_new_width: Callable[[str, int], object] | None
    on_new_type: Callable[[str, str], object] | None

    def __init__(
        self,
        decimals: Literal["float", "exact"] = "float",
        *,
        on_new_width: Callable[[str, int], object] | None = None,
        on_new_type: Callable[[str, str], object] | None = None,
    ) -> None: ...
    @property
    def decimals(self) -> Literal["float", "exact"]: ...
    def read(
        self, message: bytes | bytearray | memoryview
    ) -> tuple[RecordLayout, np.ndarray[tuple[int], np.dtype[np.void]]]:
        """Return the layout and the records of one message, in an array of its own that may be written to.

        Raises :class:`KISFrameError`; one bad record drops its frame. Besides the kinds named there:
        "encrypted", "number", "too long" for a text over 256 characters.
        """

@final
class KISParser:
    """Turns messages into price and book updates: trades and order books of KRX, NXT and UN, the two unified.

    `resolve` gives the instrument of a code and is asked once per code; None leaves the record out (counted
    in `n_skipped`, and asked again). `clock` returns the Unix time in seconds of the message at hand; it is
    called at the first trade of a day, and for books of a live stream, which carry a time and no date: see
    below. `on_bad(kind, message)` is called for the first message of every kind of fault,
    `on_new_width(tr_id, width)` once for every width that is in no table.

    Event times: a trade has date and time. A book takes the date of the last trade when that trade was more
    than half a day away from the clock (a replay); else its date is that of the latest such time not more
    than an hour after the clock.

    One thread at a time; `parse` called from within a callback raises RuntimeError.
    """

    on_bad: Callable[[str, bytes], object] | None
    on_new_width: Callable[[str, int], object] | None

    def __init__(
        self,
        resolve: Callable[[str], Instrument | None],
        *,
        clock: Callable[[], float] = ...,
        on_bad: Callable[[str, bytes], object] | None = None,
        on_new_width: Callable[[str, int], object] | None = None,
    ) -> None: ...
    @property
    def n_frames(self) -> int:
        """Data frames read without a fault, also those of TRs that yield no update here."""
    @property
    def n_records(self) -> int:
        """Records of trades and books among them."""
    @property
    def n_skipped(self) -> int:
        """Records among those that `resolve` left out."""
    @property
    def n_bad(self) -> int:
        """Messages that were dropped as a whole."""
    @property
    def bad_kinds(self) -> dict[str, int]:
        """The same by kind: those of :class:`KISFrameError`, and "encrypted", "code", "number", "time"."""
    def parse(self, message: bytes | bytearray | memoryview) -> list[PriceUpdate | BookUpdate]:
        """Return the updates of one WebSocket text message, in order.

        Empty for JSON, for a TR without updates, and for a bad message: one bad record drops its frame.
        Nothing is raised for what a peer sends; what `resolve` or a callback raises passes through, and
        TypeError for no bytes.

        Trades: code MKSC_SHRN_ISCD, price STCK_PRPR, change PRDY_VRSS and percent PRDY_CTRT (unsigned ones
        get their minus from the sign code), volume ACML_VOL, trade volume CNTG_VOL, high STCK_HGPR, low
        STCK_LWPR, venue by TR, quality "realtime". Books: ten levels a side, those without a price left
        out. Digits are those of the source; empty values and ``(null)`` are absent.
        """
