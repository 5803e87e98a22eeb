"""Request heads and the opening handshake: whole and in any cut, against the rules that hold for every request."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from fastws.server import handshake
from fastws.server.handshake import HeadReader, Refusal, Request
from tests.fuzz.source import Source, cuts

TOKENS = (
    *(
        b"GET ",
        b"POST ",
        b"CONNECT ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"http://",
        b"*",
    ),
    *(b"Host: ", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"Sec-WebSocket-Version: 13\r\n"),
    *(b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Protocol: ", b"Sec-WebSocket-Extensions: ", b"Origin: null"),
    *(
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Cookie: a=b\r\n",
        b"fastws, bearer.x",
        b"\x16",
    ),
)
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_STATUSES = frozenset({400, 403, 405, 414, 426, 431, 505})
# Of a head so many bytes come one by one.
_BYTEWISE = 200
KEY = base64.b64encode(b"sixteen bytes of").decode()


def check(data: bytes) -> None:
    source = Source(data)
    seed, wire = source.whole(1), source.rest()
    whole, body = feed([wire])
    for pieces in (cuts(wire, seed), [*cuts(wire[:_BYTEWISE], 1), wire[_BYTEWISE:]]):
        found, rest = feed(pieces)
        if isinstance(whole, Refusal):
            # Which of several mistakes is named depends on what was there first.
            assert isinstance(found, Refusal)
            assert found.status == whole.status
        else:
            assert (found, rest) == (whole, body)
    if isinstance(whole, Refusal):
        check_refusal(whole)
    elif whole is None:
        assert b"\r\n\r\n" not in wire[: handshake.MAX_HEAD_SIZE]
        assert len(wire) < handshake.MAX_HEAD_SIZE
    else:
        check_request(whole, wire[: len(wire) - len(body)])


def feed(pieces: list[bytes]) -> tuple[Request | Refusal | None, bytes]:
    """What a reader makes of `pieces`, and what is behind the head."""
    reader = HeadReader()
    for n, piece in enumerate(pieces):
        found = reader.feed(piece)
        if found is not None:
            is_request = isinstance(found, Request)
            return found, reader.body + b"".join(pieces[n + 1 :]) if is_request else b""
    return None, b""


def check_request(request: Request, head: bytes) -> None:
    assert len(head) <= handshake.MAX_HEAD_SIZE
    assert len(request.headers) <= handshake.MAX_HEADERS
    assert request.path.startswith("/") or request.path == "*" or request.method == "CONNECT"
    if request.target.startswith("/"):
        assert request.target in (request.path, f"{request.path}?{request.query}")
    for name, value in request.headers.items():
        assert name and set(name) <= _TOKEN_CHARS
        assert not any((ord(char) < 0x20 and char != "\t") or ord(char) == 0x7F for char in value)
    # Written down again it is the same request: nothing of it hides in how it was written.
    lines = [f"{request.method} {request.target} HTTP/1.{request.version[1]}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    again, body = feed(["\r\n".join((*lines, "", "")).encode("latin-1")])
    assert (again, body) == (request, b"")
    for found in (
        handshake.check_origin(request, ["https://app.example"]),
        handshake.check_upgrade(request),
    ):
        if found is not None:
            check_refusal(found)
    if request.is_upgrade and handshake.check_upgrade(request) is None:
        response = handshake.upgrade_response(request, subprotocol=handshake.select_subprotocol(request))
        assert response.startswith(b"HTTP/1.1 101 ")
        assert response.count(b"\r\n\r\n") == 1


def check_refusal(refusal: Refusal) -> None:
    assert refusal.status in _STATUSES
    response = handshake.refusal_response(refusal)
    assert response.count(b"\r\n\r\n") == 1
    assert b"\r\nConnection: close\r\n" in response


def seeds() -> Iterator[bytes]:
    upgrade = (
        "Host: example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    )
    heads = [
        f"GET /v1/ws HTTP/1.1\r\n{upgrade}\r\n",
        f"GET /v1/ws?token=x&compression=off HTTP/1.1\r\n{upgrade}Origin: https://app.example\r\n\r\n",
        f"GET /ws/realtime/ HTTP/1.1\r\n{upgrade}Sec-WebSocket-Protocol: fastws, bearer.a.b.c\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
        f"GET http://example.com/v1/ws HTTP/1.1\r\n{upgrade}Cookie: a=1\r\nCookie: b=2\r\n\r\nmore",
        "GET / HTTP/1.0\r\n\r\n",
        "POST /v1/publish HTTP/1.1\r\nHost: [::1]:8000\r\nContent-Length: 2\r\n\r\n{}",
        f"POST /v1/ws HTTP/1.1\r\n{upgrade}\r\n",
        "GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    for n, head in enumerate(heads):
        yield bytes((n,)) + head.encode()
    yield b"\x02\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
