"""What the setting `relay` may say: where Redis is. Sans-IO."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from fastws.errors import FastwsError

EXAMPLES: Final = (
    "redis://10.0.0.5:6379/0, rediss://:PASSWORD@host:6380 or "
    "redis+sentinel://host1:26379,host2:26379/mymaster"
)
_PLAIN: Final = ("redis", "rediss", "unix")
_SENTINEL: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_SENTINEL_PORT: Final = 26379


class AddressError(FastwsError):
    """An address that is none of Redis; the text shows no part of it, for it may be a password."""


class RedisAddress(NamedTuple):
    """Where Redis is.

    `url` is for redis-py. With `sentinels`, it is one without host, and they know where `service` is now. `shown` is
    for people: without user and password. `database` is part of the names of channels, because Redis's own databases
    share them.
    """

    url: str
    shown: str
    database: int
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_password: str | None = None


def parse_address(text: str) -> RedisAddress:
    """Read the address of a Redis.

    Raises:
        AddressError: it is none.
    """
    try:
        parts = urlsplit(text)
        if parts.scheme in _SENTINEL:
            return _sentinel_address(parts)
        if parts.scheme not in _PLAIN or (parts.scheme != "unix" and not parts.hostname):
            raise AddressError("it is no address of Redis")
        _ = parts.port
        where = (
            parts.path if parts.scheme == "unix" else f"{_host(parts.hostname or '')}:{parts.port or 6379}"
        )
        database = _database("" if parts.scheme == "unix" else parts.path, parts.query)
    except ValueError:
        raise AddressError("it is no address of Redis") from None
    return RedisAddress(text, f"{parts.scheme}://{where}", database)


def _sentinel_address(parts: SplitResult) -> RedisAddress:
    user, _, hosts = parts.netloc.rpartition("@")
    sentinels = tuple(_place(host) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service:
        raise AddressError("it names no service behind the sentinels, such as /mymaster")
    options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    number = _database(f"/{database}", parts.query)
    kept = "&".join(
        pair for pair in parts.query.split("&") if pair and not pair.startswith(("sentinel_password=", "db="))
    )
    scheme = _SENTINEL[parts.scheme]
    # The host is filled in once the sentinels have told it.
    url = f"{scheme}://{user + '@' if user else ''}{{}}/{number}{'?' + kept if kept else ''}"
    shown = ",".join(f"{_host(host)}:{port}" for host, port in sentinels)
    return RedisAddress(
        url,
        f"{parts.scheme}://{shown}/{service}",
        number,
        sentinels,
        unquote(service),
        options.get("sentinel_password", [None])[0],
    )


def _place(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or "@" in text:
        raise AddressError("it is no list of sentinels")
    return parts.hostname, parts.port or _SENTINEL_PORT


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _database(path: str, query: str) -> int:
    text = path.removeprefix("/").rstrip("/")
    text = parse_qs(query).get("db", [text])[0]
    if text and not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise AddressError("its database is no number")
    return int(text or 0)
