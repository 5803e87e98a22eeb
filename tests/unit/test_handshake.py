"""Request heads and the opening handshake, whole and in pieces."""

from __future__ import annotations

import base64
import hashlib
import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.server.handshake import (
    MAX_HEAD_SIZE,
    MAX_HEADERS,
    MAX_LINE_SIZE,
    HeadReader,
    Refusal,
    Request,
    check_origin,
    check_upgrade,
    declines_compression,
    parse_head,
    refusal_response,
    select_subprotocol,
    upgrade_response,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def head(*lines: str, request_line: str = "GET /v1/ws HTTP/1.1") -> bytes:
    return "\r\n".join([request_line, *lines, "", ""]).encode("latin-1")


def request(**headers: str | None) -> Request:
    fields: dict[str, str | None] = {
        "host": "localhost:8000",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    result = parse_head(head(*(f"{name}: {value}" for name, value in fields.items() if value is not None)))
    assert isinstance(result, Request), result
    return result


def refusal(data: bytes) -> Refusal:
    result = HeadReader().feed(data)
    assert isinstance(result, Refusal), result
    return result


# Heads.


def test_a_head_is_taken_apart() -> None:
    result = parse_head(
        head(
            "Host:  a.example:80\t",
            "X-List: 1",
            "x-list:2",
            "Empty:",
            request_line="PUT /a%20b?c=d&e HTTP/1.0",
        )
    )
    assert isinstance(result, Request)
    assert result.method == "PUT"
    assert (result.target, result.path, result.query) == ("/a%20b?c=d&e", "/a%20b", "c=d&e")
    assert result.version == (1, 0)
    assert result.headers == {"host": "a.example:80", "x-list": "1, 2", "empty": ""}
    assert not result.is_upgrade


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://a.example/v1/ws?x=1", "/v1/ws", "x=1"),
        ("WS://a.example:80/v1/ws", "/v1/ws", ""),
        ("http://a.example?x=/1", "/", "x=/1"),
        ("http://a.example", "/", ""),
        ("/?", "/", ""),
        ("//a/b", "//a/b", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    result = parse_head(head("Host: a.example", request_line=f"GET {target} HTTP/1.1"))
    assert isinstance(result, Request)
    assert (result.path, result.query) == (path, query)


def test_a_repr_shows_no_query_and_no_header() -> None:
    result = parse_head(
        head("Host: a", "Authorization: Bearer abc", request_line="GET /x?token=abc HTTP/1.1")
    )
    assert "abc" not in repr(result)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: nameless\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: nul\x00l\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: del\x7f\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET /\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/x.1\r\nHost: a\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\ta HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_malformed_heads(data: bytes) -> None:
    assert refusal(data).status == 400
    reader = HeadReader()
    results = [reader.feed(data[index : index + 1]) for index in range(len(data))]
    # In pieces a mistake may be seen before the end; then nothing more would be fed.
    first = next(result for result in results if result is not None)
    assert isinstance(first, Refusal)
    assert first.status == 400


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3"])
def test_other_versions(version: str) -> None:
    assert refusal(head("Host: a", request_line=f"GET / {version}")).status == 505


def test_limits_are_met_exactly() -> None:
    line = "GET /" + "a" * (MAX_LINE_SIZE - len("GET / HTTP/1.1\r\n")) + " HTTP/1.1"
    assert len(line) + 2 == MAX_LINE_SIZE
    assert isinstance(HeadReader().feed(head("Host: a", request_line=line)), Request)
    assert refusal(head("Host: a", request_line="G" + line)).status == 414

    lines = ["Host: a", *("X: y" for _ in range(MAX_HEADERS - 1))]
    assert isinstance(HeadReader().feed(head(*lines)), Request)
    assert refusal(head(*lines, "X: y")).status == 431

    full = head("Host: a", "X: " + "y" * (MAX_HEAD_SIZE - len(head("Host: a", "X: "))))
    assert len(full) == MAX_HEAD_SIZE
    assert isinstance(HeadReader().feed(full), Request)
    assert refusal(full[:-4] + b"y\r\n\r\n").status == 431


@pytest.mark.parametrize("step", [1, 7, 1000, 100_000])
def test_limits_hold_for_pieces_of_any_size(step: int) -> None:
    for data, status in ((b"GET /" + b"a" * 20_000, 414), (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, 431)):
        reader = HeadReader()
        for index in range(0, len(data), step):
            result = reader.feed(data[index : index + step])
            if result is not None:
                break
        assert isinstance(result, Refusal)
        assert result.status == status
        assert index + step <= MAX_HEAD_SIZE + step


def test_what_is_no_http_is_refused_with_its_first_byte() -> None:
    assert "TLS" in refusal(b"\x16\x03\x01").message
    assert refusal(b"\x00").status == 400


def test_time_grows_with_size_and_not_with_its_square() -> None:
    """The whole head again for every byte would take some 130 million steps here."""
    data = head("Host: a", *(f"X{index}: " + "y" * 150 for index in range(95)))
    reader = HeadReader()
    started = time.perf_counter()
    for index in range(len(data)):
        result = reader.feed(data[index : index + 1])
    assert isinstance(result, Request)
    in_pieces = time.perf_counter() - started
    # 16,000 calls; measured 7 ms. A quadratic search takes 1.5 s.
    assert in_pieces < 0.5


def test_the_reader_tells_head_from_body() -> None:
    data = head("Host: a")
    reader = HeadReader()
    assert reader.is_empty
    assert reader.feed(b"") is None
    assert reader.is_empty
    assert reader.feed(data[:10]) is None
    assert not reader.is_empty
    assert isinstance(reader.feed(data[10:] + b"\r\n\r\nbody"), Request)
    assert (reader.head, reader.body) == (data, b"\r\n\r\nbody")


@given(st.data())
def test_any_cut_gives_the_same_result(data: st.DataObject) -> None:
    """A head in pieces gives the request, or the refusal, that it gives in one piece."""
    lines = data.draw(
        st.lists(
            st.sampled_from(
                [
                    "Host: a",
                    "X: y",
                    "Connection: keep-alive, Upgrade",
                    "Upgrade: websocket",
                    "Bad : z",
                    "\xff: ü",
                    "Y:\r",
                ]
            ),
            max_size=8,
        )
    )
    text = head(*lines) + data.draw(st.binary(max_size=20))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    whole = HeadReader()
    expected = whole.feed(text)
    reader = HeadReader()
    result = None
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece = text[start:stop]
        if result is None:
            result = reader.feed(piece)
            rest = text[stop:]
    assert result == expected
    if isinstance(result, Request):
        assert reader.head == whole.head
        assert reader.body + rest == whole.body


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_input_raises(data: bytes, step: int) -> None:
    for prefix in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n"):
        reader = HeadReader()
        for index in range(0, len(data), step):
            if reader.feed(prefix + data[index : index + step]) is not None:
                break
            prefix = b""
        parsed = parse_head(prefix + data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n")
        if isinstance(parsed, Request):
            check_upgrade(parsed)
            check_origin(parsed, ("https://a.example",))
            select_subprotocol(parsed)


# The handshake.


@pytest.mark.parametrize(
    "connection", ["Upgrade", "upgrade", "keep-alive, Upgrade", "keep-alive,UPGRADE , x"]
)
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket"])
def test_requests_for_a_websocket(connection: str, upgrade: str) -> None:
    result = request(connection=connection, upgrade=upgrade)
    assert result.is_upgrade
    assert check_upgrade(result) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"connection": None},
        {"connection": "keep-alive"},
        {"connection": "upgraded"},
        {"upgrade": None},
        {"upgrade": "websockets"},
        {"upgrade": "h2c"},
    ],
)
def test_requests_for_something_else(headers: dict[str, str | None]) -> None:
    assert not request(**headers).is_upgrade


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec_websocket_version": "12"}, 426),
        ({"sec_websocket_version": "13, 8"}, 426),
        ({"sec_websocket_version": None}, 426),
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": ""}, 400),
        ({"sec_websocket_key": "A" * 24}, 400),
        ({"sec_websocket_key": "A" * 22}, 400),
        ({"sec_websocket_key": KEY[:-1] + "A"}, 400),
        ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25j*Q=="}, 400),
        ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZü=="}, 400),
        ({"content_length": "1"}, 400),
        ({"transfer_encoding": "chunked"}, 400),
    ],
)
def test_refused_handshakes(headers: dict[str, str | None], status: int) -> None:
    result = check_upgrade(request(**headers))
    assert result is not None
    assert result.status == status


def test_method_and_version_of_a_handshake() -> None:
    good = request()
    post = Request("POST", good.target, good.path, good.query, good.version, good.headers)
    old = Request("GET", good.target, good.path, good.query, (1, 0), good.headers)
    refusals = [check_upgrade(post), check_upgrade(old)]
    assert [result.status for result in refusals if result is not None] == [405, 505]


def test_a_body_of_no_bytes_is_none() -> None:
    assert check_upgrade(request(content_length="0")) is None


def test_the_example_of_the_rfc() -> None:
    assert upgrade_response(request()) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_response_with_subprotocol_and_extensions() -> None:
    response = upgrade_response(request(), subprotocol="fastws", extensions="permessage-deflate")
    assert response.endswith(
        b"=\r\nSec-WebSocket-Protocol: fastws\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )


@given(st.binary(min_size=16, max_size=16))
def test_every_key_is_answered_as_the_rfc_says(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    result = request(sec_websocket_key=key)
    assert check_upgrade(result) is None
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
    assert b"Sec-WebSocket-Accept: " + accept + b"\r\n" in upgrade_response(result)


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (None, None),
        ("fastws", "fastws"),
        ("fastws, bearer.e30.e30.x", "fastws"),
        ("bearer.e30.e30.x,fastws", "fastws"),
        ("graphql-ws", None),
        ("fastws2", None),
    ],
)
def test_subprotocol(offered: str | None, selected: str | None) -> None:
    assert select_subprotocol(request(sec_websocket_protocol=offered)) == selected


@pytest.mark.parametrize(
    ("query", "is_declined"),
    [
        ("", False),
        ("compression=off", True),
        ("token=undefined&compression=off", True),
        ("compression=off&session_id=x", True),
        ("compression=on", False),
        ("compression=offer", False),
        ("nocompression=off", False),
        ("token=compression=off", False),
    ],
)
def test_compression_declined_in_the_query(query: str, is_declined: bool) -> None:
    assert declines_compression(msgspec.structs.replace(request(), query=query)) is is_declined


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "is_allowed"),
    [
        (None, "a.example", (), True),
        (None, "a.example", ("https://b.example",), True),
        ("http://a.example", "a.example", (), True),
        ("http://a.example", "A.Example:80", (), True),
        ("https://a.example:443", "a.example", (), True),
        ("https://a.example", "a.example:443", (), True),  # TLS ended by a proxy
        ("http://localhost:8000", "localhost:8000", (), True),
        ("http://[::1]:8000", "[::1]:8000", (), True),
        ("http://localhost:3000", "localhost:8000", (), False),
        ("http://a.example:8080", "a.example", (), False),
        ("http://a.example.evil.example", "a.example", (), False),
        ("http://evil.example", "a.example", (), False),
        ("null", "a.example", (), False),
        ("null", "a.example", ("https://b.example",), False),
        ("null", "a.example", ("*",), True),
        ("", "a.example", (), False),
        ("http://", "", (), False),
        ("file://a.example", "a.example", (), False),
        ("a.example", "a.example", (), False),
        ("https://b.example", "a.example", ("https://b.example",), True),
        ("https://b.example", "a.example", ("HTTPS://B.example:443",), True),
        ("http://b.example", "a.example", ("https://b.example",), False),
        ("https://a.example", "a.example", ("https://b.example",), True),
        ("https://c.example", "a.example", ("https://b.example",), False),
        ("https://c.example", "a.example", ("*",), True),
    ],
)
def test_origins(origin: str | None, host: str, allowed: tuple[str, ...], is_allowed: bool) -> None:
    result = check_origin(request(origin=origin, host=host), allowed)
    assert (result is None) is is_allowed
    assert result is None or result.status == 403


def test_a_refusal_is_a_complete_response() -> None:
    result = check_upgrade(request(sec_websocket_version="8"))
    assert result is not None
    text = refusal_response(result)
    top, _, body = text.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 426 Upgrade Required"
    assert {"Sec-WebSocket-Version: 13", "Connection: close", f"Content-Length: {len(body)}"} <= set(lines)
    assert json.loads(body) == {
        "error": {"code": "UPGRADE_REQUIRED", "message": "this server speaks WebSocket version 13"}
    }
