"""Where a client connects to: what its parameters say of that, and whether that can be."""

from __future__ import annotations

import ssl as tls
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from fastws.client.errors import UsageError

TokenSource = Callable[[], Awaitable[str]]
"""Gets a new token from wherever tokens come from. What it raises is told by a `RefreshFailed`."""

# As the server takes them: existing pages send these.
NO_TOKEN: Final = ("", "null", "undefined")


class Address(msgspec.Struct, kw_only=True):
    """Where to connect, and how; the parameters of `fastws.client.Client`. `url` is without its `query`."""

    url: str
    query: list[tuple[str, str]]
    token_source: TokenSource | None
    connect_timeout: float
    connect_attempts: int
    ping_interval: float
    ping_timeout: float
    compression: bool
    proxy: str | None
    ssl: tls.SSLContext | None
    headers: dict[str, str]


def check_proxy(url: str) -> None:
    """Raises UsageError where a proxy cannot be used."""
    try:
        parsed = urlsplit(url)
        is_good = parsed.scheme in ("http", "https", "socks5") and bool(parsed.hostname and parsed.port)
    except ValueError:
        is_good = False
    if not is_good:
        # It may have a password.
        raise UsageError("proxy: it is no URL of a proxy; write http://HOST:PORT, https://… or socks5://…")


def split(url: str, path: str) -> tuple[str, list[tuple[str, str]], str | None]:
    """The URL without its query, with `path` where it has none, the parameters but for the token, and the token."""
    try:
        parsed = urlsplit(url)
        is_good = parsed.scheme in ("ws", "wss") and bool(parsed.hostname)
        port = parsed.port
    except ValueError:
        is_good, port = False, None
    if not is_good or port == 0:
        raise UsageError(f"url: {url!r} is no WebSocket URL; write ws://HOST:PORT or wss://HOST:PORT")
    if parsed.username is not None:
        raise UsageError("url: it has a user name, which nothing is done with; give token=")
    if parsed.path not in ("", "/"):
        path = parsed.path
    query = parse_qsl(parsed.query, keep_blank_values=True)
    own = ("token", "session_id", "last_sequence", "epoch")
    token = next((value for name, value in query if name == "token" and value not in NO_TOKEN), None)
    return (
        f"{parsed.scheme}://{parsed.netloc}{path}",
        [(name, value) for name, value in query if name not in own],
        token,
    )
