"""What extensions publish by the C API: records of any content, in a ring that a server empties.

An input is a list of publications, each a byte that says which function is called and the bytes of its argument. What
the functions take is published or said to be rejected, and nothing else; each is counted once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from fastws import _inlet
from tests.fuzz import stack
from tests.fuzz.source import Source

OK, INVALID = 0, -3
_NONE = -(1 << 63)
_LAST_MS = 253402300799999  # of the year 9999
MAX_SCALE, LEVELS = 18, 10
TOKENS = (
    *(
        b'{"type":"price_update","code":"005930","price":1}',
        b'{"type":"market_status","market":"KOSPI"',
        b"KRX\0",
    ),
    *(
        b'"bids":[{"price":1,"quantity":2}]',
        b'"asks":[{"price":1,"quantity":2}]',
        b"\x00" * 7 + b"\x80",
        b"\xff" * 8,
        b"1e400",
    ),
)


class Decimal(ctypes.Structure):
    _fields_ = [("mantissa", ctypes.c_int64), ("scale", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class Price(ctypes.Structure):
    _fields_ = [
        *(("struct_size", ctypes.c_uint32), ("topic", ctypes.c_int32)),
        *((name, Decimal) for name in ("price", "change", "change_percent", "high", "low")),
        *((name, ctypes.c_int64) for name in ("volume", "trade_volume", "event_time_ms")),
        *(("venue", ctypes.c_char * 8), ("quality", ctypes.c_char * 16)),
    ]


class Level(ctypes.Structure):
    _fields_ = [("price", ctypes.c_int64), ("quantity", ctypes.c_int64)]


class Book(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("topic", "n_bids", "n_asks", "price_scale", "reserved")),
        *(("event_time_ms", ctypes.c_int64), ("venue", ctypes.c_char * 8), ("quality", ctypes.c_char * 16)),
        *(("bids", Level * LEVELS), ("asks", Level * LEVELS)),
    ]


class Api(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("abi", "version", "struct_size", "flags")),
        ("hub_from_object", ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)),
        ("hub_release", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("intern", ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)),
        ("publish_price", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
        ("publish_book", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
        (
            "publish_json",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
        ),
    ]


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
API = Api.from_address(_pointer_of(_inlet._C_API, b"fastws._inlet._C_API"))  # type: ignore[attr-defined]
PRICE, BOOK, TEXT = range(3)


def check(data: bytes) -> None:
    stack.publish_natively(lambda inlet: publish(inlet, data))


def publish(inlet: _inlet.Inlet, data: bytes) -> None:
    source = Source(data)
    before, n_taken, n_invalid = inlet.counts(), 0, 0
    hub = API.hub_from_object(inlet)
    try:
        topic = API.intern(hub, b"005930", 6)
        assert topic == API.intern(hub, b"005930", 6) >= 0
        while not source.is_empty:
            kind = source.whole(1) % 3
            if kind == TEXT:
                text = source.take(source.whole(1))
                result = API.publish_json(hub, text, len(text))
                expected = OK if text else INVALID
            else:
                value = fill(Price() if kind == PRICE else Book(), source, topic)
                call = API.publish_price if kind == PRICE else API.publish_book
                result = call(hub, ctypes.addressof(value))
                expected = OK if is_valid(value, topic) else INVALID
            assert result == expected
            n_taken += result == OK
            n_invalid += result == INVALID
        inlet.drain()
    finally:
        API.hub_release(hub)
    after = inlet.counts()
    counted = {name: after[name] - before[name] for name in after}
    assert counted["taken"] == n_taken
    assert counted["published"] + counted["rejected"] == n_taken
    assert counted["invalid"] == n_invalid
    assert inlet.waiting_bytes == 0


def fill(value: Price | Book, source: Source, topic: int) -> Price | Book:
    """Any bytes, in a place of the size that it has, for an instrument that may exist."""
    size = ctypes.sizeof(value)
    content = source.take(size)
    ctypes.memmove(ctypes.addressof(value), content, len(content))
    if source.below(8):
        value.struct_size = size
    if source.below(8):
        value.topic = topic
    return value


def is_valid(value: Price | Book, topic: int) -> bool:
    """What include/fastws.h says about the fields."""
    is_good = value.struct_size >= ctypes.sizeof(value) and value.topic == topic
    is_good &= 0 <= value.event_time_ms <= _LAST_MS
    is_good &= all(0x20 <= byte <= 0x7E for byte in value.venue + value.quality)
    if isinstance(value, Book):
        if not (0 <= value.n_bids <= LEVELS and 0 <= value.n_asks <= LEVELS):
            return False
        levels = [*value.bids[: value.n_bids], *value.asks[: value.n_asks]]
        is_good &= 0 <= value.price_scale <= MAX_SCALE
        return is_good and all(level.price != _NONE and level.quantity >= 0 for level in levels)
    decimals = [value.price, value.change, value.change_percent, value.high, value.low]
    is_good &= all(0 <= decimal.scale <= MAX_SCALE for decimal in decimals)
    is_good &= all(volume == _NONE or volume >= 0 for volume in (value.volume, value.trade_volume))
    return is_good and value.price.mantissa != _NONE


def seeds() -> Iterator[bytes]:
    price = Price(ctypes.sizeof(Price), 0, Decimal(7290050, 2))
    for name in ("change", "change_percent", "high", "low"):
        setattr(price, name, Decimal(_NONE, 0))
    price.volume, price.trade_volume, price.event_time_ms = 100, _NONE, 1_700_000_000_000
    price.venue, price.quality = b"KRX", b"realtime"
    book = Book(ctypes.sizeof(Book), 0, 2, 1, 0)
    book.bids[0], book.bids[1], book.asks[0] = Level(99, 10), Level(98, 5), Level(100, 7)
    texts = [
        b'{"type":"price_update","code":"005930","price":72900}',
        b'{"type":"orderbook_update","code":"AAPL","bids":[[99,1]],"asks":[[100,2]]}',
        b'{"type":"market_status","market":"KOSPI","status":"open"}',
        b'{"type":"alert"}',
        b"[" * 200,
        b"\xff",
        b"",
    ]
    spoken = [bytes((TEXT, len(text))) + text for text in texts]
    yield from spoken
    priced = bytes((PRICE,)) + bytes(price) + b"\1\1"
    booked = bytes((BOOK,)) + bytes(book) + b"\1\1"
    yield priced
    yield booked
    yield b"".join((priced, booked, *spoken, priced))
    for name, wrong in (("volume", -1), ("event_time_ms", _LAST_MS + 1), ("venue", b"\x7f"), ("topic", 5)):
        bad = Price.from_buffer_copy(price)
        setattr(bad, name, wrong)
        yield bytes((PRICE,)) + bytes(bad) + b"\1\0"
