"""permessage-deflate: negotiation (RFC 7692 §7.1) and payloads (§7.2), against zlib."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.deflate import InflateError, compress, inflate, negotiate

PLAIN = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offered", "response", "window_bits"),
    [
        ("permessage-deflate", PLAIN, 15),
        ("permessage-deflate; client_max_window_bits", PLAIN, 15),
        ("Permessage-Deflate;client_max_window_bits=10", PLAIN, 15),
        ("permessage-deflate; server_max_window_bits=10", PLAIN + "; server_max_window_bits=10", 10),
        ('permessage-deflate; server_max_window_bits="12"', PLAIN + "; server_max_window_bits=12", 12),
        ("x-webkit-deflate-frame, permessage-deflate", PLAIN, 15),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", PLAIN, 15),
        ("permessage-deflate; unknown=1, permessage-deflate; server_no_context_takeover", PLAIN, 15),
    ],
)
def test_the_first_offer_that_can_be_kept_is_taken(offered: str, response: str, window_bits: int) -> None:
    assert negotiate(offered) == (response, window_bits)


@pytest.mark.parametrize(
    "offered",
    [
        "",
        "permessage-bzip2",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    ],
)
def test_what_cannot_be_kept_is_declined(offered: str) -> None:
    assert negotiate(offered) is None


@given(st.binary(max_size=5000), st.integers(9, 15))
def test_zlib_reads_what_is_compressed(payload: bytes, window_bits: int) -> None:
    expander = zlib.decompressobj(-window_bits)
    assert expander.decompress(compress(payload, window_bits) + b"\x00\x00\xff\xff") == payload


@given(st.binary(max_size=5000), st.integers(0, 9), st.booleans())
def test_what_zlib_compressed_is_read(payload: bytes, level: int, is_final: bool) -> None:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    data = compressor.compress(payload)
    if is_final:
        # A final block, then an empty one, as §7.2.3.4 has it.
        data += compressor.flush(zlib.Z_FINISH) + b"\x00"
    else:
        data += compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    assert inflate(data, len(payload)) == payload


@given(st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        expanded = inflate(data, 1000)
    except InflateError as error:
        code = error.args[0]
    else:
        code = None
        assert len(expanded) <= 1000
    assert code in (None, 1007, 1009)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 300_000])
@pytest.mark.parametrize("max_size", [1024, 65_535, 65_536, 131_072, 300_000, 1 << 20])
def test_the_limit_is_exact_whatever_the_size(size: int, max_size: int) -> None:
    message = b"price" * (size // 5) + b"x" * (size % 5)
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    if size <= max_size:
        assert inflate(data, max_size) == message
    else:
        with pytest.raises(InflateError) as refused:
            inflate(data, max_size)
        assert refused.value.args[0] == 1009


def test_streams_without_content_do_not_add_up() -> None:
    """Each costs an expander: 64 KB of the shortest took 65 ms."""
    assert inflate(b"\x03\x00" * 50, 1000) == b""
    with pytest.raises(InflateError) as refused:
        inflate(b"\x03\x00" * 32_000, 65_536)
    assert refused.value.args == (1009, "message is in more than 100 streams")


BOMB = """
import sys, tracemalloc, zlib
from fastws.deflate import inflate
compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
limit = int(sys.argv[1])
# The largest that the limit of a message lets in: a thousand times as much. Blocks that do not refer back repeat.
block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
bomb = block * (limit // len(block))
assert limit // 2 < len(bomb) <= limit
tracemalloc.start()
try:
    inflate(bomb, limit)
except ValueError as error:
    print(error.args[0], tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("limit", [65_536, 1 << 20])
def test_a_bomb_is_not_expanded(limit: int) -> None:
    # In a process of its own: what a test runner allocates meanwhile is not looked at.
    command = [sys.executable, "-c", BOMB, str(limit)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    code, peak = map(int, output.split())
    assert code == 1009
    assert peak < 1 << 20


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("window_bits", range(9, 16))
def test_every_level_keeps_to_the_window(level: int, window_bits: int) -> None:
    message = b"".join(b'{"code":"%06d","price":%d}' % (i, 70_000 + i % 97) for i in range(3000))
    data = compress(message, window_bits, level)
    assert len(data) < len(message) / 2
    # A smaller window than the one that was used would not find what is referred to.
    expander = zlib.decompressobj(-window_bits)
    assert expander.decompress(data + b"\x00\x00\xff\xff") == message
