"""The opening handshake of WebSockets as the side that opens them has it (RFC 6455 §4.1), sans-IO.

What goes out are requests as bytes: the upgrade, and the CONNECT to a proxy before it. What comes in goes to a
`HeadReader`. What is wrong with an answer is an `OpenError`.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from fastws.deflate import OFFER, is_agreed
from fastws.opening import Cause, OpenError

MAX_HEAD_SIZE: Final = 16 << 10

_NO_URL: Final = "its URL is none of a WebSocket"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_START: Final = b"HTTP/1."
_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: |$)")
# RFC 9110, section 5.6.2; what a value may not have would begin another line, or end it for some.
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NO_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What the handshake has itself, beside all that begins with sec-websocket-.
_OWN: Final = frozenset({"upgrade", "connection"})
# Of RFC 3986, and the escapes that stand there already.
_SAFE: Final = ":/?#[]@!$&'()*+,;=%"


class Target(NamedTuple):
    """What a WebSocket URL says. `host` is a name in ASCII or an address without brackets; `authority` is both as the
    Host header has them, `resource` the path and the query."""

    is_secure: bool
    host: str
    port: int
    authority: str
    resource: str


class Head(NamedTuple):
    """The head of an answer. `headers` have lower-case names, repeated ones are joined with ``", "``; `body` is what
    came behind it."""

    version: tuple[int, int]
    status: int
    headers: dict[str, str]
    body: bytes


def parse_url(url: str) -> Target:
    """Raises OpenError for what is no ws:// or wss:// URL; a fragment is left out."""
    try:
        parsed = urlsplit(url)
        host = parsed.hostname or ""
        port = parsed.port
        ascii_host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:  # of which UnicodeError is one
        raise OpenError(Cause.OTHER, _NO_URL) from None
    if parsed.scheme not in ("ws", "wss") or not host or port == 0:
        raise OpenError(Cause.OTHER, _NO_URL)
    is_secure = parsed.scheme == "wss"
    usual = 443 if is_secure else 80
    name = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    resource = quote(parsed.path or "/", _SAFE)
    if parsed.query:
        resource += "?" + quote(parsed.query, _SAFE)
    return Target(
        is_secure,
        ascii_host,
        port or usual,
        name if port in (None, usual) else f"{name}:{port}",
        resource,
    )


def new_key() -> str:
    """A Sec-WebSocket-Key: 16 random bytes."""
    return binascii.b2a_base64(os.urandom(16), newline=False).decode()


def accept_value(key: str) -> str:
    """The Sec-WebSocket-Accept that answers `key` (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def has_token(value: str, word: str) -> bool:
    """Whether the token `word` (lower case) is an element of the comma-separated list `value`, in any case."""
    lowered = value.lower()
    return lowered == word or (word in lowered and word in map(str.strip, lowered.split(",")))


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises ValueError, which says what is wrong, for what a request cannot have beside the handshake's headers."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or _NO_VALUE.search(value):
            # The value may be a secret.
            raise ValueError(f"{name!r}: its name or its value has characters that no header may have")
        if name.lower() in _OWN or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"{name!r} belongs to the handshake; leave it out")


def upgrade_request(target: Target, key: str, headers: Mapping[str, str], *, deflate: bool) -> bytes:
    """The request for a WebSocket. `headers` are further ones; a Host among them takes the place of the URL's. With
    `deflate` permessage-deflate is offered.

    Raises:
        ValueError: as `check_headers`.
    """
    check_headers(headers)
    own = {
        "Host": target.authority,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    if deflate:
        own["Sec-WebSocket-Extensions"] = OFFER
    for name, value in headers.items():
        own["Host" if name.lower() == "host" else name] = value
    return _request(f"GET {target.resource}", own)


def connect_request(target: Target, user_info: str) -> bytes:
    """What asks a proxy for a tunnel to `target` (RFC 9110 §9.3.6). `user_info` is the user and the password, as a URL
    has them, or empty."""
    name = f"[{target.host}]" if ":" in target.host else target.host
    place = f"{name}:{target.port}"
    headers = {"Host": place}
    if user_info:
        user, _, password = user_info.partition(":")
        credentials = f"{unquote(user)}:{unquote(password)}".encode()
        headers["Proxy-Authorization"] = f"Basic {binascii.b2a_base64(credentials, newline=False).decode()}"
    return _request(f"CONNECT {place}", headers)


def _request(what: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{what} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "\r\n"]
    return "\r\n".join(lines).encode()


class HeadReader:
    """Gathers the head of one answer.

    1. Feed it what arrives until it returns a head; then it is spent.
    2. It keeps at most MAX_HEAD_SIZE bytes beside the piece being fed.
    3. What cannot become an answer of HTTP/1 is refused with its first bytes: a stranger may say no more.
    """

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | memoryview) -> Head | None:
        """Take `data`; None while the head is incomplete.

        Raises:
            OpenError: it is none.
        """
        searched = max(0, len(self._data) - 3)
        self._data += data
        begin = self._data[: len(_START)]
        end = self._data.find(b"\r\n\r\n", searched)
        if begin != _START[: len(begin)] or (end + 4 if end >= 0 else len(self._data)) > MAX_HEAD_SIZE:
            raise OpenError(Cause.NO_WEBSOCKET)
        return (
            None if end < 0 else _parse_head(self._data[:end].decode("latin-1"), bytes(self._data[end + 4 :]))
        )


def _parse_head(text: str, body: bytes) -> Head:
    first, *lines = text.split("\r\n")
    found = _STATUS_LINE.match(first)
    if found is None:
        raise OpenError(Cause.NO_WEBSOCKET)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        # This refuses folded lines, too.
        if not colon or not _NAME.fullmatch(name) or _NO_VALUE.search(value):
            raise OpenError(Cause.NO_WEBSOCKET)
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head((1, int(found[1])), int(found[2]), headers, body)


def check_upgrade(head: Head, key: str, *, deflate: bool) -> bool:
    """Whether messages may be compressed, after the answer to `upgrade_request` with the same `key` and `deflate`.

    Raises:
        OpenError: it grants no WebSocket, or one that was not asked for.
    """
    if head.status != 101:
        raise OpenError(Cause.STATUS, status=head.status)
    headers = head.headers
    extensions = headers.get("sec-websocket-extensions", "")
    if (
        head.version < (1, 1)
        or headers.get("upgrade", "").lower() != "websocket"
        or not has_token(headers.get("connection", ""), "upgrade")
        or headers.get("sec-websocket-accept") != accept_value(key)
        # None was asked for.
        or "sec-websocket-protocol" in headers
        or (extensions and not (deflate and is_agreed(extensions)))
    ):
        raise OpenError(Cause.NO_WEBSOCKET)
    return bool(extensions)
