"""permessage-deflate (RFC 7692): what is agreed in the handshake, and the compressor, sans-IO.

Neither side keeps a window from message to message: that is what lets one compressed frame be shared by every
connection it goes to, and what makes an idle connection cost no memory for it. The compressor is ISA-L's at level 1:
of zlib, zlib-ng and ISA-L it was the fastest at equal size, by three times (20 prices of 6.5 kB: 14 µs, 78 % saved).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from isal import isal_zlib

LEVEL: Final = 1
_MEMORY_LEVEL: Final = 8
_ANSWERED: Final = re.compile(
    r'server_no_context_takeover|client_no_context_takeover|(?:server|client)_max_window_bits *= *"?(?:[89]|1[0-5])"?'
)
_TAIL: Final = b"\x00\x00\xff\xff"
_PIECE: Final = 64 * 1024
# Final blocks of a message. Clients send one or none, and each costs a new expander.
_MAX_STREAMS: Final = 100


OFFER: Final = (
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"
)
"""What a client of ours offers. It takes what it gets with the largest window, and sends nothing compressed: there it
keeps to any window that a server may ask for."""


class Agreement(NamedTuple):
    """What was agreed: the value of the response's header, and the window of what we send (9 to 15 bits)."""

    response: str
    window_bits: int


class InflateError(ValueError):
    """What a peer sent cannot be expanded: ``InflateError(close code, reason)``."""


def negotiate(header: str) -> Agreement | None:
    """Answer a Sec-WebSocket-Extensions header with the first offer that can be taken, None when there is none.

    An offer is declined as a whole when a parameter is unknown, repeated or has a value out of bounds (§7.1), and
    when it asks for a window of 8 bits, which no compressor in use can keep to.
    """
    for offer in header.split(","):
        name, *fields = (part.strip() for part in offer.split(";"))
        if name.lower() != "permessage-deflate":
            continue
        parameters: dict[str, str] = {}
        for field in fields:
            key, separator, value = (part.strip() for part in field.partition("="))
            if key in parameters or not _is_acceptable(key, value.strip('"'), bool(separator)):
                break
            parameters[key] = value.strip('"')
        else:
            response = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
            bits = parameters.get("server_max_window_bits")
            if bits is None:
                return Agreement(response, 15)
            return Agreement(f"{response}; server_max_window_bits={bits}", int(bits))
    return None


def is_agreed(answer: str) -> bool:
    """Whether a server's Sec-WebSocket-Extensions header is one that `OFFER` can be answered with (§7.1): no message
    refers to the ones before."""
    name, *fields = (part.strip() for part in answer.split(";"))
    keys = {field.partition("=")[0].rstrip() for field in fields}
    return (
        name.lower() == "permessage-deflate"
        and "server_no_context_takeover" in keys
        and len(keys) == len(fields)
        and all(map(_ANSWERED.fullmatch, fields))
    )


def _is_acceptable(key: str, value: str, has_value: bool) -> bool:
    if key in ("server_no_context_takeover", "client_no_context_takeover"):
        return not has_value
    if key == "server_max_window_bits":
        return value in ("9", "10", "11", "12", "13", "14", "15")
    # We expand with the largest window, so whatever the client keeps to is fine.
    return key == "client_max_window_bits" and (
        not has_value or value in ("8", "9", "10", "11", "12", "13", "14", "15")
    )


def compress(payload: bytes, window_bits: int, level: int = LEVEL) -> bytes:
    """The payload of a compressed frame (§7.2.1); `level` is 0 to 3."""
    compressor = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -window_bits, _MEMORY_LEVEL)
    return compressor.compress(payload) + compressor.flush(isal_zlib.Z_SYNC_FLUSH)[: -len(_TAIL)]


def inflate(payload: bytes, max_size: int) -> bytes:
    """Expand a message, which may have at most `max_size` bytes; a larger one is not expanded.

    Raises:
        InflateError: with 1009 when it is larger, with 1007 when it is not deflate data.
    """
    if len(payload) <= _PIECE // 4:
        # Nearly every message: small, and one stream without a final block.
        expander = zlib.decompressobj(-15)
        try:
            whole = expander.decompress(payload + _TAIL, min(max_size + 1, _PIECE))
        except zlib.error:
            raise InflateError(1007, "compressed data is damaged") from None
        if len(whole) <= max_size and not expander.unconsumed_tail and not expander.eof:
            return whole
    if max_size > _PIECE:
        # Counted first, so that one that is too large never takes more memory than a piece.
        for _ in _expand(payload, max_size):
            pass
    return b"".join(_expand(payload, max_size))


def _expand(payload: bytes, max_size: int) -> Iterator[bytes]:
    """The message in pieces of at most `_PIECE` bytes."""
    left = max_size + 1
    n_streams = 1
    expander = zlib.decompressobj(-15)
    try:
        for data in _pieces(payload):
            while data:
                part = expander.decompress(data, min(left, _PIECE))
                left -= len(part)
                if left <= 0:
                    raise InflateError(1009, f"message is over {max_size} bytes when expanded")
                yield part
                data = expander.unconsumed_tail
                if expander.eof:
                    # A final block ends one stream; what follows is another (§7.2.3.4).
                    data = expander.unused_data
                    expander = zlib.decompressobj(-15)
                    n_streams += 1
                    if n_streams > _MAX_STREAMS:
                        raise InflateError(1009, f"message is in more than {_MAX_STREAMS} streams")
    except zlib.error:
        raise InflateError(1007, "compressed data is damaged") from None


def _pieces(payload: bytes) -> Iterator[bytes | memoryview]:
    # What is left over is copied with every step, so steps take little.
    view = memoryview(payload)
    for first in range(0, len(view), _PIECE // 4):
        yield view[first : first + _PIECE // 4]
    yield _TAIL
