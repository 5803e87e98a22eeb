"""Relay envelopes: what is read of one that others have made, and whether text of theirs may stand in ours."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import NoReturn

from fastws._market import Instrument, encode_screener
from fastws._relay import (
    FULL_SIZE,
    INSTEAD,
    KIND_BOOK,
    KIND_PRICE,
    LAST_VALUES,
    LIVE,
    MAX_SHARDS,
    Carried,
    EnvelopeError,
    empty_envelope,
    is_json_members,
    read_envelope,
    relabel,
)
from tests.fuzz.source import Source

TOKENS = (
    *(
        b'{"type":"price_update"',
        b'{"type":"orderbook_update"',
        b'{"type":"market_status"',
        b"FWR\x01",
        b"005930",
    ),
    *(b'"k":[1,2.5e3]', b'"k":{"v":null}', b"\\u00e9", b"\x00\x00\x00\x80", b"\x12\x00", b"KRX", b"\xff" * 8),
)
_HEADER = struct.Struct("<3sBIBBHHHQqI")
# Python's own reader gives up at some depth, this one at another.
_DEPTH = 50


def check(data: bytes) -> None:
    source = Source(data)
    flags, body = source.whole(1), source.rest()
    if flags & 1:
        check_members(body)
        return
    if flags & 2 and len(body) >= 8:
        # With the checksum put right, or nothing would come any further.
        body = b"FWR\x01" + struct.pack("<I", zlib.crc32(body[8:])) + body[8:]
    try:
        envelope = read_envelope(body)
    except EnvelopeError as error:
        assert str(error)
        return
    assert LIVE <= envelope.kind <= INSTEAD
    assert 0 <= envelope.shard < envelope.n_shards <= MAX_SHARDS
    assert len(envelope.updates) <= FULL_SIZE
    for update in envelope.updates:
        check_update(update)
    again = read_envelope(relabel(body, LAST_VALUES, True))
    assert (again.kind, again.is_last, again.first) == (LAST_VALUES, True, envelope.first)
    assert [update.body for update in again.updates] == [update.body for update in envelope.updates]


def check_update(update: Carried) -> None:
    """What may go to clients is JSON; the value of an update is one that can be published again."""
    if update.is_sound:
        json.loads(update.body + b"}")
    if update.kind not in (KIND_PRICE, KIND_BOOK):
        update.status()
        return
    try:
        instrument = Instrument(update.code)
    except ValueError:
        return
    value = update.price(instrument) if update.kind == KIND_PRICE else update.book(instrument)
    text = encode_screener(value, update.published_ms)
    if update.is_sound:
        message = json.loads(text + b"}")
        assert message["code"] == update.code


def check_members(members: bytes) -> None:
    if max(members.count(b"["), members.count(b"{")) < _DEPTH:
        assert is_json_members(members) == by_python(members)
    else:
        is_json_members(members)


def by_python(members: bytes) -> bool:
    try:
        found = json.loads(f"{{{members.decode()}}}", parse_constant=refuse)
    except ValueError:
        return False
    return isinstance(found, dict) and len(found) > 0


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def seeds() -> Iterator[bytes]:
    for members in (
        rb'"a":"\u00e9\n\"\\","b":[1,-2.5e+3,0,{},[],[{"c":null}]],"d":{"e":true,"f":false}',
        b'"k" : 01',
        b'"k":NaN',
        b'"a":1}{"b":2',
        b"",
        b'"' + "가격".encode() + b'":"\xed\xa0\x80"',
    ):
        yield b"\1" + members
    for kind in (LIVE, LAST_VALUES, INSTEAD):
        yield b"\0" + empty_envelope(kind, n_shards=4, shard=3, origin=7, first=9)
    yield b"\2" + envelope(price(b"005930"), price(b"AAPL"), status(b"KOSPI"))
    yield b"\2" + envelope(book(b"005930", 3, 2))
    yield b"\2" + envelope()


def envelope(*updates: bytes) -> bytes:
    return _HEADER.pack(b"FWR", 1, 0, LIVE, 0, 1, 0, 0, 7, 1, len(updates)) + b"".join(updates)


def update(kind: int, code: bytes, members: int, parts: bytes, body: bytes) -> bytes:
    return struct.pack("<BBHIqqq", kind, len(code), members, len(body), 5, 1_700_000_000_000, 3) + (
        code + parts + body
    )


def price(code: bytes) -> bytes:
    parts = b"".join(struct.pack("<qB", mantissa, scale) for mantissa, scale in ((7290050, 2), (-10, 0)))
    return update(KIND_PRICE, code, 3, parts, b'{"type":"price_update","code":"%b","price":72900.50' % code)


def book(code: bytes, n_bids: int, n_asks: int) -> bytes:
    levels = b"".join(struct.pack("<qq", 100 + n, 10) for n in range(n_bids + n_asks))
    parts = struct.pack("<BBB", 0, n_bids, n_asks) + levels
    return update(KIND_BOOK, code, 0, parts, b'{"type":"orderbook_update","code":"%b","bids":[]' % code)


def status(market: bytes) -> bytes:
    body = b'{"type":"market_status","market":"%b","status":"open"' % market
    return update(3, market, 0, struct.pack("<H", 4) + b"open", body)
