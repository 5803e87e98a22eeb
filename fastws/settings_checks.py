"""What settings must be beyond their types: texts that have parts, and settings that contradict each other."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from importlib import resources
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from fastws.errors import SettingsError
from fastws.market.calendars import CalendarError, parse_calendar, parse_holiday
from fastws.relay.address import EXAMPLES, AddressError, parse_address

if TYPE_CHECKING:
    from fastws.settings import Settings

FEEDS: Final = ("none", "sim", "replay:FILE", "kis", "poll:SOURCE")
_SIMPLE_FEEDS: Final = ("none", "sim", "kis")
SAMPLE_FEED: Final = "replay:sample"
_PREFIX: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")


def check(settings: Settings) -> None:
    """Raise the error of the first setting that is wrong.

    Raises:
        SettingsError: it blames the setting that was given, not the default of one that it contradicts.
    """
    parse_feed(settings.feed, source=settings.sources.get("feed", "feed"))
    for origin in settings.allowed_origins:
        _check_origin(settings, origin)
    for entry in settings.trusted_proxies:
        _check_proxy(settings, entry)
    if settings.outbox_soft_bytes > settings.outbox_hard_bytes:
        raise _conflict(settings, "outbox_soft_bytes", "must not be over", "outbox_hard_bytes")
    if settings.symbol_stale_min > settings.symbol_stale_max:
        raise _conflict(settings, "symbol_stale_min", "must not be over", "symbol_stale_max")
    _check_calendars(settings)
    if settings.ping_interval >= settings.pong_timeout:
        raise _conflict(settings, "ping_interval", "must be under", "pong_timeout")
    if settings.jwks_url is not None:
        _check_url(settings, "jwks_url", "key sets", "https://id.example/.well-known/jwks.json")
    if settings.auth_url is not None:
        _check_url(settings, "auth_url", "an application", "https://app.example/whoami")
        if "*" in settings.allowed_origins:
            error = settings.error(
                "allowed_origins",
                "with * any page that a user opens could connect with the user's session, which auth_url recognizes",
                "name the origins of the pages that may",
            )
            error.opposes = "auth_url"
            raise error
    for url in settings.publish_url:
        _check_publish_url(settings, url)
    if settings.relay is not None:
        try:
            parse_address(settings.relay)
        except AddressError as error:
            # Not shown, because what is wrong with it may be the password in it.
            raise settings.error("relay", str(error), f"write such as {EXAMPLES}") from None
    if settings.relay_name is not None and not settings.relay_name.isprintable():
        raise settings.error(
            "relay_name",
            "it has characters that cannot be shown",
            "write such as prices-1 or push1.example:8000",
        )
    if not _PREFIX.fullmatch(settings.relay_prefix):
        raise settings.error(
            "relay_prefix",
            f"{settings.relay_prefix[:80]!r} has other characters than letters, digits, dots, - and _, or over 64",
            "write such as fastws or prices-test",
        )
    if settings.relay_shards & (settings.relay_shards - 1):
        raise settings.error(
            "relay_shards", f"{settings.relay_shards} is no power of two", "write such as 4, 8 or 16"
        )
    if settings.admin_bind is not None and parse_bind(settings.admin_bind) is None:
        raise settings.error(
            "admin_bind",
            f"{settings.admin_bind!r} is no HOST:PORT",
            "write one such as 127.0.0.1:9000 or [::1]:9000",
        )
    _check_admin_bind(settings)
    _check_workers(settings)


def check_standby(settings: Settings) -> None:
    """Raise SettingsError where nobody could be stood by for. A server and the price-feed service ask; with neither,
    the setting is as good as any other."""
    if settings.feed_standby and settings.relay is None:
        raise settings.error(
            "feed_standby",
            "without a relay there is no other server to stand by for",
            "set relay, or leave feed_standby out",
        )


class FeedSpec(NamedTuple):
    """What the setting `feed` names: `kind` is none, sim, kis, replay or poll; `path` is the file of a replay, `source`
    what is polled."""

    kind: str
    path: str | None = None
    source: str = ""


def parse_bind(text: str) -> tuple[str, int] | None:
    """Return the host and the port of ``HOST:PORT``, None where it is not that; IPv6 addresses are in brackets."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not host or not (len(port) <= 5 and port.isascii() and port.isdigit() and int(port) <= 65535):
        return None
    return host, int(port)


def parse_feed(text: str, *, source: str = "feed") -> FeedSpec:
    """Read a feed specification.

    The file named ``sample`` is the one that ships with fastws; one's own file of that name is ``./sample``.

    Raises:
        SettingsError: the feed does not exist; the text names those that do.
    """
    kind, separator, argument = text.partition(":")
    if kind in _SIMPLE_FEEDS and not separator:
        return FeedSpec(kind)
    if text == SAMPLE_FEED:
        return FeedSpec(kind, str(resources.files("fastws.data") / "kis_frames.txt"))
    if kind == "replay" and argument:
        return FeedSpec(kind, argument)
    if kind == "poll" and argument:
        return FeedSpec(kind, source=argument)
    available = ", ".join(FEEDS)
    if kind == "replay":
        problem = "a replay needs its file: replay:FILE"
    elif kind in _SIMPLE_FEEDS:
        problem = f"{text!r}: the feed {kind} takes no argument; write {kind}"
    elif kind == "poll":
        problem = "a poll needs its source: poll:kis, poll:yahoo, poll:csv:FILE or poll:simulator"
    else:
        problem = (
            f"{text!r} is no feed{suggest(kind, (*_SIMPLE_FEEDS, 'replay', 'poll'))}; available: {available}"
        )
    raise SettingsError(f"feed: {problem} (from {source})", setting="feed", source=source)


def suggest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {matches[0]}?" if matches else ""


def serves_tcp(settings: Settings) -> bool:
    """Whether host and port are listened on: an address that nobody has asked for gives way to a Unix socket."""
    return settings.unix_socket is None or not settings.sources.keys().isdisjoint(("host", "port"))


def _check_admin_bind(settings: Settings) -> None:
    bind = None if settings.admin_bind is None else parse_bind(settings.admin_bind)
    if bind is None or not serves_tcp(settings) or settings.port == 0:
        return
    host, port = bind
    if port == settings.port and _overlap(host, settings.host):
        error = settings.error(
            "admin_bind",
            f"{settings.admin_bind} is also where clients connect: host {settings.host}, port {settings.port}",
            "choose another port for admin_bind, or for port",
        )
        error.opposes = "port"
        raise error


def _check_workers(settings: Settings) -> None:
    if settings.workers > 1 and settings.unix_socket is not None:
        error = settings.error(
            "unix_socket",
            f"{settings.workers} workers share a port, and cannot share a Unix socket",
            "leave it out and let the proxy connect to host and port, or set workers to 1",
        )
        error.opposes = "workers"
        raise error
    if settings.workers > 1 and settings.upgrade_socket is not None:
        error = settings.error(
            "upgrade_socket",
            f"{settings.workers} workers cannot be taken over by another process",
            "leave it out, or set workers to 1",
        )
        error.opposes = "workers"
        raise error
    if settings.upgrade_socket is not None and sys.platform != "linux":
        raise settings.error(
            "upgrade_socket", "a process takes over from another one on Linux only", "leave it out"
        )
    if settings.workers > 1 and sys.platform != "linux":
        raise settings.error(
            "workers", f"{settings.workers} processes share a port on Linux only", "leave it out"
        )


def _overlap(one: str, other: str) -> bool:
    """Whether nobody can listen on both hosts at one port. No name but localhost is looked up."""
    if one.lower() == other.lower():
        return True
    return any(
        first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)
        for first in _addresses(one)
        for second in _addresses(other)
    )


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    names = ("127.0.0.1", "::1") if host.lower() == "localhost" else (host,)
    try:
        return [ip_address(name) for name in names]
    except ValueError:
        return []


def _check_origin(settings: Settings, origin: str) -> None:
    if origin == "*":
        return
    try:
        parts = urlsplit(origin)
        is_origin = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_origin = False
    # What a browser sends has no path, no query and no credentials, so such an entry could never match.
    if not is_origin or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
        raise settings.error(
            "allowed_origins",
            f"{origin!r} is not an origin",
            "write scheme and host, such as https://app.example:8443, or * for all",
        )


def _check_proxy(settings: Settings, entry: str) -> None:
    if entry == "unix":
        return
    try:
        network = ip_network("" if "%" in entry else entry, strict=False)
    except ValueError:
        raise settings.error(
            "trusted_proxies",
            f"{entry!r} is no address and no network",
            "write such as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32, or unix for the Unix socket",
        ) from None
    if network.network_address != ip_address(entry.partition("/")[0]):
        raise settings.error("trusted_proxies", f"{entry!r} goes beyond its prefix", f"write {network}")
    if network.prefixlen == 0:
        raise settings.error(
            "trusted_proxies",
            f"{entry!r} is everyone, and then every client may claim any address",
            "name the addresses of the proxies only",
        )
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped) is not None:
        fix = f"write {mapped}/{max(0, network.prefixlen - 96)}"
        raise settings.error("trusted_proxies", f"{entry!r} is IPv4 written as IPv6", fix)


def _check_publish_url(settings: Settings, url: str) -> None:
    if not _is_http_url(url) or urlsplit(url).query:
        # Not shown, because what is wrong with it may be the password in it.
        raise settings.error(
            "publish_url",
            "an address in it is not that of a server",
            "write such as http://127.0.0.1:8000, without user, password and /v1/publish",
        )


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        return False


def _check_calendars(settings: Settings) -> None:
    for setting, texts, parse in (
        ("calendars", settings.calendars, parse_calendar),
        ("holidays", settings.holidays, parse_holiday),
    ):
        for text in texts:
            try:
                parse(text)
            except CalendarError as error:
                raise settings.error(setting, str(error), "separate several of them by commas") from None


def _conflict(settings: Settings, lower: str, rule: str, upper: str) -> SettingsError:
    # The one that was given is to blame, not the other one's default.
    setting = upper if upper in settings.sources and lower not in settings.sources else lower
    problem = f"{lower} ({getattr(settings, lower):.15g}) {rule} {upper} ({getattr(settings, upper):.15g})"
    error = settings.error(setting, problem, f"lower {lower} or raise {upper}")
    error.opposes = upper if setting == lower else lower
    return error


def _check_url(settings: Settings, name: str, whose: str, example: str) -> None:
    if not _is_http_url(getattr(settings, name)):
        # Not shown, because what is wrong with it may be the password in it.
        raise settings.error(
            name,
            f"the value is not an address of {whose}",
            f"write one without user and password, such as {example}",
        )
