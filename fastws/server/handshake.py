"""The request head and the WebSocket opening handshake (RFC 9112 §2 to §5, RFC 6455 §4.2), sans-IO.

Bytes in, values out; nothing here knows a socket. A mistake of the peer is a :class:`Refusal`, never an
exception. What an attacker may send is looked at a bounded number of times: a head is searched for its end
once, however it is cut into pieces, and taken apart once, without regular expressions.
"""

from __future__ import annotations

import binascii
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Final

import msgspec

from fastws.server.peers import Peer
from fastws.upgrading import accept_value, has_token

MAX_HEAD_SIZE: Final = 16 << 10
MAX_LINE_SIZE: Final = 8 << 10
MAX_HEADERS: Final = 100

SUBPROTOCOL: Final = "fastws"

_NAME_CHARS: Final = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME_BYTES: Final = _NAME_CHARS.encode()
# Control characters that no head may contain; CR and LF are checked as pairs, HTAB may stand in a value.
_CONTROLS: Final = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\t\r\n")
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_HOST_CHARS: Final = "-.:[]_~%0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# A second one of these is an attempt to make two parsers disagree, or at best a broken client.
_SINGLE: Final = frozenset(
    {
        "authorization",
        "content-length",
        "host",
        "origin",
        "sec-websocket-key",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)


class Request(msgspec.Struct, frozen=True):
    """A request head.

    `target` is as sent; `path` and `query` are its parts, still percent-encoded, without the scheme and
    authority of an absolute target. `version` is (1, 0) or (1, 1). `headers` has lower-case names; repeated
    fields are joined with ``", "``, cookies with ``"; "``. Bytes over 127 in values are decoded as latin-1. `peer` is
    who sent it; no head tells that, so a head just taken apart does not know.
    """

    method: str
    target: str
    path: str
    query: str
    version: tuple[int, int]
    headers: dict[str, str]
    peer: Peer = Peer()

    def __repr__(self) -> str:
        # Query and headers carry tokens, and a repr ends up in logs.
        return f"<Request {self.method} {self.path}>"

    @property
    def is_upgrade(self) -> bool:
        """Whether the request asks for a WebSocket, correctly or not."""
        headers = self.headers
        return (
            "upgrade" in headers
            and has_token(headers["upgrade"], "websocket")
            and has_token(headers.get("connection", ""), "upgrade")
        )


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not carried out: an HTTP status, a code for programs, and a sentence for people."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


class HeadReader:
    """Gathers the head of one request.

    1. Feed it what arrives until it returns something; then it is spent.
    2. It keeps at most MAX_HEAD_SIZE bytes beside the piece being fed.
    3. The end of the head is searched for in new bytes only, so byte-at-a-time is not quadratic.
    """

    __slots__ = ("_buffer", "_has_line", "body", "head")

    def __init__(self) -> None:
        self._buffer: bytearray | None = None
        self._has_line = False
        self.head = b""
        self.body = b""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return self._buffer is None

    def feed(self, data: bytes) -> Request | Refusal | None:
        """Take `data`; None while the head is incomplete.

        With a Request, `head` holds its bytes including the empty line, and `body` what came after it.
        """
        buffer = self._buffer
        if buffer is None:
            # The usual case: the whole head in one piece, which is not copied.
            end = data.find(b"\r\n\r\n", 0, MAX_HEAD_SIZE)
            if end >= 0:
                self.head, self.body = data[: end + 4], data[end + 4 :]
                return parse_head(self.head)
            if not data:
                return None
            self._buffer = bytearray(data[:MAX_HEAD_SIZE])
            return self._check_partial(self._buffer, 0)
        searched = len(buffer)
        buffer += data[: MAX_HEAD_SIZE - searched]
        end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
        if end >= 0:
            self.head = bytes(buffer[: end + 4])
            self.body = data[end + 4 - searched :]
            return parse_head(self.head)
        return self._check_partial(buffer, searched)

    def _check_partial(self, buffer: bytearray, searched: int) -> Refusal | None:
        """Refuse what can no longer become a valid head."""
        if searched == 0 and buffer[0] not in _NAME_BYTES:
            # A TLS ClientHello begins with 0x16.
            return _bad("TLS is not spoken on this port" if buffer[0] == 0x16 else "not an HTTP request")
        if not self._has_line:
            self._has_line = buffer.find(b"\r\n", max(0, searched - 1), MAX_LINE_SIZE) >= 0
            if not self._has_line and len(buffer) >= MAX_LINE_SIZE:
                return _LINE_TOO_LONG
        return _HEAD_TOO_BIG if len(buffer) >= MAX_HEAD_SIZE else None


def parse_head(head: bytes) -> Request | Refusal:
    """Take a complete request head apart; `head` ends with the empty line and has no other."""
    text = head.decode("latin-1")
    lines = text.split("\r\n")
    # The head ends with an empty line, so the split ends with two empty pieces.
    del lines[-2:]
    request_line = lines[0]
    if len(request_line) + 2 > MAX_LINE_SIZE:
        return _LINE_TOO_LONG
    if len(lines) - 1 > MAX_HEADERS:
        return _TOO_MANY_HEADERS
    n_breaks = len(lines) + 1
    if text.count("\n") != n_breaks or text.count("\r") != n_breaks:
        return _bad("a line ends with a bare CR or LF")
    if len(head.translate(None, _CONTROLS)) != len(head):
        return _bad("a control character in the request head")

    parts = request_line.split(" ")
    if len(parts) != 3:
        return _bad("malformed request line")
    method, target, version_text = parts
    if not method or method.strip(_NAME_CHARS):
        return _bad("malformed method")
    version = _VERSIONS.get(version_text)
    if version is None:
        if version_text.startswith("HTTP/") and version_text[5:6].isdigit():
            return _VERSION_NOT_SUPPORTED
        return _bad("malformed request line")
    if not target or target.strip(_VISIBLE) or "#" in target:
        return _bad("malformed request target")

    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        # Whitespace is no token character, so this also refuses folded lines and "Name : value".
        if not colon or not name or name.strip(_NAME_CHARS):
            return _bad("malformed header line")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            if name in _SINGLE:
                return _bad(f"more than one {name} header")
            # Cookies are cut into several fields by HTTP/2, and a comma may stand in one (RFC 9113 §8.2.3).
            value = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
        headers[name] = value
    host = headers.get("host")
    if host is None:
        if version != (1, 0):
            return _bad("the Host header is missing")
    elif host.strip(_HOST_CHARS):
        return _bad("malformed Host header")

    if target[0] == "/":
        local = target
    else:
        local = _local_target(method, target)
        if not local:
            return _bad("malformed request target")
    path, _, query = local.partition("?")
    return Request(method, target, path, query, version, headers)


def _local_target(method: str, target: str) -> str:
    """Return path and query of a target that is not in origin form (RFC 9112 §3.2); empty when it is none."""
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in ("http", "https", "ws", "wss"):
        authority_size = min(
            (index for index in (rest.find("/"), rest.find("?")) if index >= 0), default=len(rest)
        )
        local = rest[authority_size:]
        if authority_size == 0:
            return ""
        return local if local.startswith("/") else "/" + local
    if (method == "OPTIONS" and target == "*") or method == "CONNECT":
        return target
    return ""


def check_upgrade(request: Request) -> Refusal | None:
    """Return why a request for a WebSocket is not granted (RFC 6455 §4.2.1); None when it is."""
    headers = request.headers
    if request.method != "GET":
        return _METHOD_NOT_ALLOWED
    if request.version < (1, 1):
        return _VERSION_NOT_SUPPORTED
    if headers.get("sec-websocket-version") != "13":
        return _WEBSOCKET_VERSION
    key = headers.get("sec-websocket-key", "")
    try:
        is_key = len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:  # of which binascii.Error is one; a non-ASCII key is another
        is_key = False
    if not is_key:
        return _bad("Sec-WebSocket-Key must be the base64 text of 16 bytes")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return _bad("a WebSocket handshake has no body")
    return None


def check_origin(request: Request, allowed_origins: Collection[str]) -> Refusal | None:
    """Return the 403 of a browser page that may not connect (CWE-1385); None when it may.

    No Origin header, which is how programs connect, and the server's own origin are always accepted; beyond
    them the origins in `allowed_origins`, or all with ``"*"``. The origin ``null`` (sandboxed frames, local
    files) is accepted only by ``"*"``.

    The server's own host is what a trusted proxy says that the client asked for, else the Host header. A page that
    came without TLS is another origin where the client is known to have come with TLS. The other way round is not
    known: TLS may end at a proxy that says nothing about it.
    """
    origin = request.headers.get("origin")
    if origin is None or "*" in allowed_origins:
        return None
    origin = origin.lower()
    scheme, separator, authority = origin.partition("://")
    if separator and scheme in _DEFAULT_PORTS and authority:
        port = _DEFAULT_PORTS[scheme]
        peer = request.peer
        # Never both: a proxy that changes the Host header sets it to a name of the inside, where other pages may be.
        host = request.headers.get("host", "").lower() if peer.host is None else peer.host
        is_downgraded = scheme == "http" and peer.scheme == "https"
        if authority.removesuffix(port) == host.removesuffix(port) and not is_downgraded:
            return None
        if is_named(origin, allowed_origins):
            return None
    return ORIGIN_NOT_ALLOWED


def is_named(origin: str, allowed_origins: Collection[str]) -> bool:
    """Whether `origin` is one of `allowed_origins` by name, so not by ``*``; with or without its scheme's own port."""
    origin = origin.lower()
    port = _DEFAULT_PORTS.get(origin.partition("://")[0])
    return port is not None and any(
        origin.removesuffix(port) == allowed.lower().removesuffix(port) for allowed in allowed_origins
    )


def select_subprotocol(request: Request) -> str | None:
    """Return the subprotocol to confirm: ``fastws`` when it was offered, else None."""
    offered = request.headers.get("sec-websocket-protocol")
    return SUBPROTOCOL if offered is not None and has_token(offered, SUBPROTOCOL) else None


def declines_compression(request: Request) -> bool:
    """Whether the query has ``compression=off``: the word of a page, whose browser offers permessage-deflate always."""
    return "compression=off" in request.query.split("&")


def upgrade_response(
    request: Request, *, subprotocol: str | None = None, extensions: str | None = None
) -> bytes:
    """Return the 101 response to `request`, which :func:`check_upgrade` has accepted.

    `subprotocol` and `extensions` are the values of their headers; None leaves the header out.
    """
    accept = accept_value(request.headers["sec-websocket-key"]).encode("ascii")
    if subprotocol is None and extensions is None:
        return b"%b%b\r\n\r\n" % (_ACCEPTED, accept)
    more = b""
    if subprotocol is not None:
        more += b"\r\nSec-WebSocket-Protocol: " + subprotocol.encode("ascii")
    if extensions is not None:
        more += b"\r\nSec-WebSocket-Extensions: " + extensions.encode("ascii")
    return b"%b%b%b\r\n\r\n" % (_ACCEPTED, accept, more)


def refusal_response(refusal: Refusal) -> bytes:
    """Return the complete HTTP response of `refusal`, after which the connection is closed."""
    body = error_body(refusal.code, refusal.message)
    lines = [
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in refusal.headers),
        "Connection: close",
        "\r\n",
    ]
    return "\r\n".join(lines).encode("ascii") + body


def error_body(code: str, message: str, details: Mapping[str, object] | None = None) -> bytes:
    """Return the JSON body of every HTTP error that fastws answers: ``{"error":{"code":…,"message":…}}``."""
    error: dict[str, object] = {"code": code, "message": message}
    if details:
        error["details"] = details
    return msgspec.json.encode({"error": error})


def _bad(message: str) -> Refusal:
    return Refusal(400, "BAD_REQUEST", message)


_ACCEPTED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_VERSIONS: Final = {"HTTP/1.1": (1, 1), "HTTP/1.0": (1, 0)}
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_LINE_TOO_LONG: Final = Refusal(414, "URI_TOO_LONG", f"the request line is over {MAX_LINE_SIZE} bytes")
_HEAD_TOO_BIG: Final = Refusal(431, "HEADERS_TOO_LARGE", f"the request head is over {MAX_HEAD_SIZE} bytes")
_TOO_MANY_HEADERS: Final = Refusal(431, "HEADERS_TOO_LARGE", f"more than {MAX_HEADERS} headers")
_VERSION_NOT_SUPPORTED: Final = Refusal(505, "HTTP_VERSION_NOT_SUPPORTED", "this server speaks HTTP/1.1")
_METHOD_NOT_ALLOWED: Final = Refusal(
    405, "METHOD_NOT_ALLOWED", "a WebSocket handshake is a GET request", (("Allow", "GET"),)
)
_WEBSOCKET_VERSION: Final = Refusal(
    426,
    "UPGRADE_REQUIRED",
    "this server speaks WebSocket version 13",
    (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
)
UPGRADE_REQUIRED: Final = Refusal(
    426,
    "UPGRADE_REQUIRED",
    "this is a WebSocket endpoint",
    (("Connection", "Upgrade"), ("Upgrade", "websocket")),
)
ORIGIN_NOT_ALLOWED: Final = Refusal(
    403, "ORIGIN_NOT_ALLOWED", "pages of this origin may not connect; see the setting allowed_origins"
)
