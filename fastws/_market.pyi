"""Prices, order books and statuses as immutable values, and their JSON text in both dialects.

A number may be given as an int, a `decimal.Decimal`, a float (through its shortest text) or plain decimal
text of the source ("+1.39", "007"; no exponent, no nan, no blanks). Its digits are kept: "1.90" is written
1.90. At most 18 digits may follow the point, and all digits together must stay under 2**63. Everything else
raises a ValueError that begins with the name of the field. Properties give an int where the source had no
point, else a `decimal.Decimal`, or None.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import SupportsIndex, TypeAlias, final

_Number: TypeAlias = SupportsIndex | Decimal | float | str
_Payload: TypeAlias = PriceUpdate | BookUpdate | MarketStatus | FeedStatus

@final
class Instrument:
    """What is traded. There is one object per code, shared by everything that refers to it; only `become` changes it.

    `code` has 1 to 64 printable characters without blanks. `name` defaults to the code. `previous_close` is
    in units of `currency`. Raises ValueError naming the field.
    """

    def __init__(
        self,
        code: str,
        name: str | None = None,
        market: str | None = None,
        sector: str | None = None,
        previous_close: _Number | None = None,
        currency: str | None = None,
    ) -> None: ...
    def become(self, other: Instrument) -> None:
        """Take over everything of `other`, an instrument of the same code, for everybody who refers to this one.

        Messages that are encoded from then on show it. Raises ValueError for another code.
        """
    @property
    def code(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def market(self) -> str | None: ...
    @property
    def sector(self) -> str | None: ...
    @property
    def currency(self) -> str | None: ...
    @property
    def previous_close(self) -> int | Decimal | None: ...
    @property
    def price_head(self) -> bytes:
        """The text of every price message of this instrument up to the price."""
    @property
    def book_head(self) -> bytes:
        """The text of every order book message of this instrument up to the first bid."""

@final
class PriceUpdate:
    """A trade or a polled price.

    `volume` is the day's total and `trade_volume` that of the trade, both whole numbers (1000.0 counts as
    1000). `event_time_ms` is the exchange's time in milliseconds since the Unix epoch, 0 for unknown.
    `extra` is passed through unchanged: encoded JSON members without braces, ``b'"k":1,"m":"x"'``; only its
    first and last byte are checked. `venue` and `quality` may be any text; the wire contract names KRX,
    NXT, UN and realtime, polled, simulated.
    """

    def __init__(
        self,
        instrument: Instrument,
        price: _Number,
        *,
        change: _Number | None = None,
        change_percent: _Number | None = None,
        volume: _Number | None = None,
        trade_volume: _Number | None = None,
        high: _Number | None = None,
        low: _Number | None = None,
        venue: str | None = None,
        quality: str | None = None,
        event_time_ms: SupportsIndex = 0,
        extra: bytes | None = None,
    ) -> None: ...
    @property
    def instrument(self) -> Instrument: ...
    @property
    def price(self) -> int | Decimal: ...
    @property
    def change(self) -> int | Decimal | None: ...
    @property
    def change_percent(self) -> int | Decimal | None: ...
    @property
    def volume(self) -> int | None: ...
    @property
    def trade_volume(self) -> int | None: ...
    @property
    def high(self) -> int | Decimal | None: ...
    @property
    def low(self) -> int | Decimal | None: ...
    @property
    def venue(self) -> str | None: ...
    @property
    def quality(self) -> str | None: ...
    @property
    def event_time_ms(self) -> int: ...
    @property
    def extra(self) -> bytes | None: ...

@final
class BookUpdate:
    """A whole order book, up to ten levels a side.

    `bids` and `asks` are pairs of price and quantity, best first, in the order in which they are to be
    sent; quantities are whole numbers. All prices of a book share one number of decimals, that of the most
    precise: 1.5 beside 1.25 becomes 1.50. Raises ValueError naming side, level and field (``bids[3].price:
    …``).
    """

    def __init__(
        self,
        instrument: Instrument,
        bids: Iterable[tuple[_Number, _Number]],
        asks: Iterable[tuple[_Number, _Number]],
        *,
        venue: str | None = None,
        quality: str | None = None,
        event_time_ms: SupportsIndex = 0,
        extra: bytes | None = None,
    ) -> None: ...
    @property
    def instrument(self) -> Instrument: ...
    @property
    def bids(self) -> list[tuple[int | Decimal, int]]: ...
    @property
    def asks(self) -> list[tuple[int | Decimal, int]]: ...
    @property
    def n_bids(self) -> int: ...
    @property
    def n_asks(self) -> int: ...
    @property
    def price_scale(self) -> int:
        """Digits after the point of every price."""
    @property
    def venue(self) -> str | None: ...
    @property
    def quality(self) -> str | None: ...
    @property
    def event_time_ms(self) -> int: ...
    @property
    def extra(self) -> bytes | None: ...

@final
class MarketStatus:
    """The trading status of a market, such as ``("KOSPI", "open")``."""

    def __init__(self, market: str, status: str, *, extra: bytes | None = None) -> None: ...
    @property
    def market(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def extra(self) -> bytes | None: ...

@final
class FeedStatus:
    """The state of an upstream feed: live, stale, reconnecting or stopped."""

    def __init__(self, feed: str, status: str) -> None: ...
    @property
    def feed(self) -> str: ...
    @property
    def status(self) -> str: ...

def encode_screener(payload: _Payload, published_ms: int) -> bytes:
    """Return the screener message of `payload`, compact, without ``sequence``, ``seq`` and the closing brace.

    Whoever serves the message adds ``,"sequence":N}``. `published_ms` (Unix epoch, UTC) becomes
    ``timestamp``. Raises TypeError for any other payload and ValueError for a time outside the years 1970
    to 9999.
    """

@final
class DayRange:
    """The highest and the lowest price of an instrument's trading day.

    What the feed says counts; where it says nothing, what was published does. A day is one of the calendar where the
    instrument is traded, which its currency tells: that of KRW begins at 00:00 UTC+9, that of a currency that is not
    known at 00:00 UTC.
    """

    def __init__(self) -> None: ...
    def take(self, update: PriceUpdate, published_ms: int = 0) -> None:
        """Take a price into account, at its `event_time_ms`, else `published_ms` (Unix epoch), else now.

        One of a day before is left out.
        """
    @property
    def high(self) -> int | Decimal | None: ...
    @property
    def low(self) -> int | Decimal | None: ...

def encode_realtime(
    payload: PriceUpdate | FeedStatus,
    published_ms: int,
    day: DayRange | None = None,
    *,
    stale: bool = False,
) -> bytes:
    """Return the whole message of `payload` in the realtime dialect, ``{"type":…,"data":{…},"timestamp":…}``.

    `day` has ``high`` and ``low`` where `payload` lacks them; `stale` marks a value from before the last start. Raises
    TypeError for any other payload and ValueError for a time outside the years 1970 to 9999.
    """

def encode_book(update: BookUpdate, published_ms: int, depth: int = 10) -> bytes:
    """Like `encode_screener`, with at most the best `depth` (1 or more) levels of each side.

    Raises ValueError for a `depth` under 1 and for a time outside the years 1970 to 9999.
    """

def utc_text(ms: SupportsIndex) -> str:
    """Return the UTC time of `ms` milliseconds since the Unix epoch as ``2025-11-11T09:30:00.000Z``.

    Raises ValueError outside the years 1970 to 9999.
    """
