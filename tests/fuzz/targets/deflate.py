"""permessage-deflate: what is agreed against what was offered, and expanding against zlib."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from fastws import deflate
from fastws.deflate import InflateError
from tests.fuzz.source import Source

TOKENS = (
    *(b"permessage-deflate", b"; ", b", ", b"=", b'"', b"15", b"8", b"x-webkit-deflate-frame"),
    *(b"server_no_context_takeover", b"client_no_context_takeover"),
    *(b"server_max_window_bits", b"client_max_window_bits"),
    *(b"\x00\x00\xff\xff", b"\x01\x00\x00\xff\xff", b"\x03\x00"),
)
_LIMITS = (0, 1, 1000, 65536, 1 << 20)
# What zlib may make of the largest input: 1,032 bytes of each.
_MAX_INPUT = 2000
_MAX_STREAMS = 100


def check(data: bytes) -> None:
    source = Source(data)
    kind = source.whole(1)
    if kind & 1:
        check_offer(source.rest().decode("latin-1"))
    else:
        limit = _LIMITS[(kind >> 1) % len(_LIMITS)]
        check_expanding(source.rest()[:_MAX_INPUT], limit)


def check_offer(offer: str) -> None:
    agreed = deflate.negotiate(offer)
    if agreed is None:
        return
    assert "permessage-deflate" in offer.lower()
    assert 9 <= agreed.window_bits <= 15
    name, *parameters = agreed.response.split("; ")
    assert name == "permessage-deflate"
    assert parameters[:2] == ["server_no_context_takeover", "client_no_context_takeover"]
    # A window is told when the client has asked for one, and then as it did (RFC 7692, section 7.1.2.1).
    assert parameters[2:] in ([], [f"server_max_window_bits={agreed.window_bits}"])
    if parameters[2:]:
        assert "server_max_window_bits" in offer
        assert str(agreed.window_bits) in offer
    else:
        assert agreed.window_bits == 15
    # What we agree to is an offer that we would agree to.
    assert deflate.negotiate(agreed.response) == agreed


def check_expanding(payload: bytes, limit: int) -> None:
    expected = reference(payload, limit)
    try:
        found: bytes | int = deflate.inflate(payload, limit)
    except InflateError as error:
        code, reason = error.args
        assert 0 < len(reason.encode()) <= 123
        found = code
    assert found in expected
    for bits in (9, 15):
        packed = deflate.compress(payload, bits)
        assert deflate.inflate(packed, len(payload)) == payload
        assert zlib.decompressobj(-bits).decompress(packed + b"\x00\x00\xff\xff") == payload


def reference(payload: bytes, limit: int) -> list[bytes | int]:
    """The message, or the codes of why there is none, by expanding all of it first: two of them where it is too large
    and damaged behind that."""
    data, whole = payload + b"\x00\x00\xff\xff", b""
    for _ in range(_MAX_STREAMS):
        expander = zlib.decompressobj(-15)
        # Byte by byte: what comes before the damage counts.
        for n in range(len(data)):
            try:
                whole += expander.decompress(data[n : n + 1])
            except zlib.error:
                return [1007, 1009] if len(whole) > limit else [1007]
            if expander.eof:
                break
        data = data[n + 1 :]
        if not expander.eof or not data:
            return [1009] if len(whole) > limit else [whole]
    return [1009, 1007]


def seeds() -> Iterator[bytes]:
    offers = [
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=10; client_no_context_takeover",
        'permessage-deflate; server_max_window_bits="9", permessage-deflate',
        "permessage-deflate; server_max_window_bits=8, x-webkit-deflate-frame, permessage-deflate",
        "permessage-deflate; unknown=1",
    ]
    for offer in offers:
        yield b"\x01" + offer.encode()
    text = b'{"type":"price_update","code":"005930","price":72900}' * 3
    for kind in (4, 6):
        yield bytes((kind,)) + deflate.compress(text, 15)
        yield bytes((kind,)) + deflate.compress(text, 15) + b"\x00\x00\xff\xff" + deflate.compress(b"more", 9)
        yield bytes((kind,)) + zlib.compress(text, wbits=-15) + deflate.compress(b"second", 15)
        yield bytes((kind,)) + deflate.compress(bytes(200_000), 15)
        yield bytes((kind,)) + b"\x03\x00" * 101
    yield b"\x00\x00"
    yield b"\x02\x01\x03\x00\xfc\xffabc"
