"""The line format that `fastws record` writes and a replay reads.

One message a line, UTF-8, optionally with its receive time in milliseconds since the Unix epoch in front::

    # a comment; blank lines are left out too
    @1762819200123 {"type":"price_update","code":"005930","price":73000,"change_percent":1.39,"venue":"KRX"}
    @1762819200160 0|H0STCNT0|001|005930^094751^71950^...
    0|H0STCNT0|001|005930^094752^71900^...

A message is a text message of the KIS WebSocket, or the JSON body of a price_update, orderbook_update or
market_status as it is published: members as in the wire contract, numbers with the digits of their source.
What the server adds to a body (timestamp, sequence, seq, snapshot) is ignored, so a client's transcript
serves too.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final

import msgspec

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.wording import explain

HEADER: Final = b"# fastws recording: @<receive time, Unix ms> <message>\n"

_MAX_TIME_DIGITS: Final = 15  # the year 33658; keeps a garbled number from becoming a huge int
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)
_TIMESTAMP_SIZE: Final = len(b',"timestamp":"1970-01-01T00:00:00.000Z"')

_BY_SERVER: Final = ("timestamp", "sequence", "seq", "snapshot")
_NUMBERS: Final = ("change", "change_percent", "volume", "trade_volume", "high", "low")


class LineError(ValueError):
    """A line that cannot be used. `kind` is one of a few words under which such lines are counted."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _Level(msgspec.Struct):
    price: msgspec.Raw
    quantity: msgspec.Raw


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_levels = msgspec.json.Decoder(list[_Level])
_text: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_key = msgspec.json.Encoder()


def encode_line(received_ms: int, payload: PriceUpdate | BookUpdate | MarketStatus) -> bytes:
    """Return the line of an update, with its line end."""
    # The receive time makes the timestamp superfluous.
    return b"@%d %b\n" % (received_ms, encode_body(payload))


def encode_body(payload: PriceUpdate | BookUpdate | MarketStatus) -> bytes:
    """Return the message of an update as it is published to a server: without what the server adds."""
    # The body ends with its timestamp.
    return encode_screener(payload, 0)[:-_TIMESTAMP_SIZE] + b"}"


def split_line(line: bytes) -> tuple[int | None, bytes]:
    """Return receive time and message of a line without its line end. Raises LineError ("receive time")."""
    if not line.startswith(b"@"):
        return None, line
    head, _, message = line.partition(b" ")
    digits = head[1:]
    if not digits.isdigit() or len(digits) > _MAX_TIME_DIGITS:
        raise LineError("receive time", "expected @, Unix milliseconds, one space and the message")
    return int(digits), message


def decode_body(
    message: bytes, ensure_instrument: Callable[[str], Instrument]
) -> PriceUpdate | BookUpdate | MarketStatus | None:
    """Return the update of a JSON message, None for a control message of KIS.

    Raises LineError with the kinds "JSON" (no JSON object), "message type" (none of the three) and "value"
    (a member is missing or wrong; the reason names it).
    """
    try:
        message.decode()  # what is passed through unread has to be UTF-8 as well
        members = _members.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LineError("JSON", explain(str(error))[1]) from None
    if "type" not in members and "header" in members:
        return None
    try:
        kind = _take_text(members, "type")
        if kind == "price_update":
            return _price(members, ensure_instrument)
        if kind == "orderbook_update":
            return _book(members, ensure_instrument)
        if kind == "market_status":
            market, status = _required(members, "market"), _required(members, "status")
            return MarketStatus(market, status, extra=_take_extra(members))
    except LineError:
        raise
    except ValueError as error:
        raise LineError("value", str(error)) from None
    raise LineError("message type", f"{kind!r} is not price_update, orderbook_update or market_status")


def _price(members: dict[str, msgspec.Raw], ensure_instrument: Callable[[str], Instrument]) -> PriceUpdate:
    code = _required(members, "code")
    price = _take_number(members, "price")
    if price is None:
        raise ValueError("price: missing")
    change, change_percent, volume, trade_volume, high, low = [
        _take_number(members, name) for name in _NUMBERS
    ]
    venue, quality, event_time_ms, extra = _take_rest(members)
    return PriceUpdate(
        ensure_instrument(code),
        price,
        change=change,
        change_percent=change_percent,
        volume=volume,
        trade_volume=trade_volume,
        high=high,
        low=low,
        venue=venue,
        quality=quality,
        event_time_ms=event_time_ms,
        extra=extra,
    )


def _book(members: dict[str, msgspec.Raw], ensure_instrument: Callable[[str], Instrument]) -> BookUpdate:
    code = _required(members, "code")
    bids = _take_levels(members, "bids")
    asks = _take_levels(members, "asks")
    venue, quality, event_time_ms, extra = _take_rest(members)
    return BookUpdate(
        ensure_instrument(code),
        bids,
        asks,
        venue=venue,
        quality=quality,
        event_time_ms=event_time_ms,
        extra=extra,
    )


def _take_text(members: dict[str, msgspec.Raw], name: str) -> str | None:
    raw = members.pop(name, None)
    if raw is None:
        return None
    try:
        return _text.decode(raw)
    except msgspec.DecodeError:
        raise ValueError(f"{name}: expected text") from None


def _required(members: dict[str, msgspec.Raw], name: str) -> str:
    text = _take_text(members, name)
    if text is None:
        raise ValueError(f"{name}: missing")
    return text


def _take_number(members: dict[str, msgspec.Raw], name: str) -> str | None:
    """The number as it is written, so that no digit changes; the update's constructor reads and checks it."""
    raw = members.pop(name, None)
    text = None if raw is None else bytes(raw).decode()
    return None if text == "null" else text


def _take_levels(members: dict[str, msgspec.Raw], name: str) -> list[tuple[str, str]]:
    raw = members.pop(name, None)
    if raw is None:
        raise ValueError(f"{name}: missing")
    try:
        levels = _levels.decode(raw)
    except msgspec.DecodeError as error:
        path, reason = explain(str(error))
        raise ValueError(f"{name}{path}: {reason}") from None
    return [(bytes(level.price).decode(), bytes(level.quantity).decode()) for level in levels]


def _take_rest(members: dict[str, msgspec.Raw]) -> tuple[str | None, str | None, int, bytes | None]:
    """Venue, quality, event time, and the rest as it is written."""
    venue = _take_text(members, "venue")
    quality = _take_text(members, "quality")
    event_time = _take_text(members, "event_time")
    event_time_ms = 0
    if event_time is not None:
        try:
            event_time_ms = (datetime.datetime.fromisoformat(event_time) - _EPOCH) // _MILLISECOND
        except (ValueError, TypeError):  # TypeError: a time without its zone
            raise ValueError(f"event_time: {event_time!r} is no ISO 8601 time with its zone") from None
    members.pop("name", None)  # the instrument table's
    return venue, quality, event_time_ms, _take_extra(members)


def _take_extra(members: dict[str, msgspec.Raw]) -> bytes | None:
    """Every member that is left and not the server's, as it is written."""
    for name in _BY_SERVER:
        members.pop(name, None)
    return b",".join(b"%b:%b" % (_key.encode(name), bytes(raw)) for name, raw in members.items()) or None
