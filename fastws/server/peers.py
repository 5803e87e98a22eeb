"""Who a client is on the network: the peer of its socket, or who trusted proxies say is behind them. Sans-IO.

Proxies tell it by ``Forwarded`` (RFC 7239) or ``X-Forwarded-For``, to which each adds, on the right, the address that
it was asked by. What stands further left came with the request and may be anything.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Any, Final, Protocol

import msgspec
import structlog

from fastws.logs import log_limited

UNIX: Final = "unix"
"""The address of whoever connects by a Unix socket, and its name in `trusted_proxies`."""

UNKNOWN: Final = "unknown"
"""The address of a socket whose peer is already gone."""

FORWARDING_HEADERS: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-prefix",
)

# Bounds on the work that a header is worth, counted from its right end: proxies in a row, characters, quoted texts in
# an element, of which RFC 7239 has four, and quotes in such a text, where no address or host has any.
MAX_HOPS: Final = 16
MAX_SIZE: Final = 2048
_MAX_QUOTED: Final = 8
_MAX_ESCAPED: Final = 8

_MAX_NODE_SIZE: Final = 64
_MAX_HOST_SIZE: Final = 255
_MAX_PREFIX_SIZE: Final = 255

_PARAMETER: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Unquoted values may have more than tokens may: several proxies write [2001:db8::1]:4711 without quotes. Nothing is
# tried twice: the alternatives begin with different characters, and what was taken is not given back.
_PAIR: Final = re.compile(
    rf'[ \t]*+(?:({_PARAMETER})=(?:"((?:[^"\\]|\\.)*+)"|([^\s",;\\]*+)))?[ \t]*+(?:;|\Z)', re.ASCII
)
_ESCAPED: Final = re.compile(r"\\(.)")
_PORT: Final = re.compile(r":(?:[0-9]{1,5}|_[0-9A-Za-z._-]{1,32})", re.ASCII)
_HOST: Final = re.compile(r"[0-9A-Za-z._~%\[\]:-]+", re.ASCII)
# Segments of a path as RFC 3986 has them, of which none is empty and none leads upwards.
_PREFIX: Final = re.compile(
    r"(?:/(?!(?:\.|%2e){1,2}(?:/|\Z))(?:[0-9a-z._~!$&'()*+;=:@-]|%[0-9a-f]{2})++)++", re.ASCII | re.IGNORECASE
)
# Some proxies tell the scheme of a WebSocket as such.
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

Address = IPv4Address | IPv6Address

_log = structlog.get_logger("fastws.listener")


class Peer(msgspec.Struct, frozen=True):
    """A client on the network.

    `address` is an IPv4 or IPv6 address, ``unix`` or ``unknown``. `key` is what limits count by: the same, but the
    /64 of an IPv6 address, which is the least that a single subscriber has. `scheme` is http or https, as the client
    speaks it to the outermost proxy that is trusted; `host` is what it asked that one for, None where no proxy says
    so and the Host header counts. `prefix` is what proxies have taken off the path that it asked for, as ``/prices``;
    empty where none says so.
    """

    address: str = UNKNOWN
    key: str = UNKNOWN
    scheme: str = "http"
    host: str | None = None
    prefix: str = ""


class HasExtraInfo(Protocol):
    """A transport."""

    def get_extra_info(self, name: str, default: Any = None, /) -> Any: ...


class Peers:
    """Finds the clients behind trusted proxies.

    1. An entry of a header is believed when the hop that wrote it is trusted: the socket's peer for the last entry,
       the address in an entry for the one to its left. The client is the last address found in this way, which is the
       rightmost that is no trusted proxy. So a client that is no trusted proxy cannot move itself by what it sends.
    2. An entry that is no address (malformed, obfuscated, ``unknown``) ends the walk at the hop that wrote it.
    3. Where both ``Forwarded`` and ``X-Forwarded-For`` are there, they have to lead to the same client; otherwise it
       is the socket's peer. Most proxies write one and hand on the other as the client sent it, so whichever were
       preferred, behind half of them clients could choose their address.
    4. The work is bounded by `MAX_HOPS` and `MAX_SIZE`, whatever a header holds.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        """`trusted` is the setting `trusted_proxies`, checked by `fastws.settings.Settings`."""
        self.update(trusted)

    def update(self, trusted: Collection[str]) -> None:
        """Trust these from now on, and no others."""
        self._trusts_unix = UNIX in trusted
        self._networks = [ip_network(entry) for entry in trusted if entry != UNIX]

    def key_of_socket(self, address: str) -> str | None:
        """Return what limits count the socket's peer by before it has said anything; `address` as for :meth:`find`.

        None where more than one client may be behind it: a trusted proxy, whoever connects by the Unix socket, and
        one that is already gone.
        """
        if address in (UNIX, UNKNOWN):
            return None
        if ":" not in address and not self._networks:
            return address
        parsed = _unmapped(ip_address(address.partition("%")[0]))
        return None if self._is_trusted(parsed) else key_of(parsed)

    def find(self, address: str, headers: Mapping[str, str], *, is_tls: bool = False) -> Peer:
        """Return the client of a request.

        `address` and `is_tls` are those of its socket, see :func:`endpoint`; `headers` has lower-case names, and
        several lines of a field joined with commas in their order.
        """
        scheme = "https" if is_tls else "http"
        if address in (UNIX, UNKNOWN):
            is_trusted = address == UNIX and self._trusts_unix
            # Not exempt from limits: behind a proxy, what a client sends may be all that hides its address.
            direct = Peer(address, address, scheme)
        elif ":" not in address and not self._networks:
            return Peer(address, address, scheme)
        else:
            # The system says fe80::1%eth0 of a link-local peer.
            bare = address.partition("%")[0]
            parsed = _unmapped(ip_address(bare))
            is_trusted = self._is_trusted(parsed)
            direct = Peer(str(parsed) if parsed.version == 4 else bare, key_of(parsed), scheme)
        if not is_trusted:
            return direct
        return self._behind(direct, headers)

    def _behind(self, direct: Peer, headers: Mapping[str, str]) -> Peer:
        standard = headers.get("forwarded", "")
        customary = headers.get("x-forwarded-for", "")
        client, told = self._walk(map(read_pairs, elements(standard)))
        n_hops = 1
        if customary:
            other, believed = self._walk({"for": _unquoted(text)} for text in elements(customary))
            n_hops = max(1, len(believed))
            if not standard:
                client = other
            elif client != other:
                log_limited(
                    _log,
                    "forwarding headers",
                    "Forwarded and X-Forwarded-For lead to different clients, so neither is believed; "
                    "have the proxy remove the one that it does not write",
                    proxy=direct.address,
                )
                client, told, n_hops = None, [], 1
        # The outermost hop that is trusted knows best; where it says nothing, the next.
        told.reverse()
        proto = _first(told, "proto") or _nth_from_right(headers.get("x-forwarded-proto", ""), n_hops)
        host = _first(told, "host") or _nth_from_right(headers.get("x-forwarded-host", ""), n_hops)
        return Peer(
            direct.address if client is None else str(client),
            direct.key if client is None else key_of(client),
            _SCHEMES.get(proto.lower(), direct.scheme),
            host.lower() if len(host) <= _MAX_HOST_SIZE and _HOST.fullmatch(host) else None,
            _prefix(headers.get("x-forwarded-prefix", ""), n_hops),
        )

    def _walk(
        self, entries: Iterable[Mapping[str, str] | None]
    ) -> tuple[Address | None, list[Mapping[str, str]]]:
        """Follow `entries`, the last one first; returns the client, None for the peer, and what was believed."""
        client: Address | None = None
        believed: list[Mapping[str, str]] = []
        for entry in islice(entries, MAX_HOPS):
            if entry is None:
                break
            believed.append(entry)
            address = read_node(entry.get("for", ""))
            if address is None:
                break
            client = address
            if not self._is_trusted(address):
                break
        return client, believed

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def endpoint(transport: HasExtraInfo) -> tuple[str, bool]:
    """Return the address of a socket's peer, ``unix`` or ``unknown``, and whether it speaks TLS."""
    is_tls = transport.get_extra_info("sslcontext") is not None
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        return UNIX, is_tls
    name = transport.get_extra_info("peername")
    return (name[0] if isinstance(name, tuple) else UNKNOWN), is_tls


def key_of(address: Address) -> str:
    """Return what limits count `address` by; see `Peer`."""
    if isinstance(address, IPv4Address):
        return str(address)
    # ipaddress takes seven times as long, and every handshake waits for it.
    return socket.inet_ntop(socket.AF_INET6, address.packed[:8] + bytes(8)) + "/64"


def elements(text: str) -> Iterator[str]:
    """Yield the elements of a comma-separated list, the last one first; quoted texts may have commas in them.

    It is read from the right, so that quotes which a client has left open on the left cannot swallow what proxies
    have added. It ends early at what is malformed, and at an element that reaches beyond `MAX_SIZE`.
    """
    start = max(0, len(text) - MAX_SIZE)
    end = len(text) if text else -1
    while end >= start:
        at = end
        for _ in range(_MAX_QUOTED + 1):
            comma = text.rfind(",", start, at)
            closing = text.rfind('"', start, at)
            if closing <= comma:
                break
            at = _opening_quote(text, start, closing)
            if at < 0:
                return
        else:
            return
        if comma < 0 and start > 0:
            return
        yield text[comma + 1 : end]
        end = comma


def _opening_quote(text: str, start: int, closing: int) -> int:
    at = closing
    for _ in range(_MAX_ESCAPED):
        at = text.rfind('"', start, at)
        if at < 0:
            break
        n_backslashes = 0
        while at - n_backslashes > start and text[at - n_backslashes - 1] == "\\":
            n_backslashes += 1
        if n_backslashes % 2 == 0:
            return at
    return -1


def read_pairs(element: str) -> dict[str, str] | None:
    """Return the parameters of one element of ``Forwarded`` by lower-case name; None when it is malformed."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(element):
        found = _PAIR.match(element, at)
        if found is None:
            return None
        at = found.end()
        name, quoted, plain = found.groups()
        if name is None:
            continue
        # RFC 7239 §4: no parameter more than once.
        if name.lower() in pairs:
            return None
        pairs[name.lower()] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
    return pairs


def read_node(text: str) -> Address | None:
    """Return the address of a node (RFC 7239 §6), whose port may be with it; None when it has none or is malformed.

    An IPv6 address may stand without its brackets, as in ``X-Forwarded-For``, and then has no port.
    """
    text = text.strip(" \t")
    if len(text) > _MAX_NODE_SIZE:
        return None
    port = ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in host:
            return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = ":" + port
    else:
        host = text
    # A zone would be one of another machine's interfaces.
    if (port and not _PORT.fullmatch(port)) or "%" in host:
        return None
    try:
        return _unmapped(ip_address(host))
    except ValueError:
        return None


def _unmapped(address: Address) -> Address:
    """An IPv4 address that a socket or proxy of IPv6 shows as ``::ffff:192.0.2.1`` is still the same client."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _unquoted(text: str) -> str:
    text = text.strip(" \t")
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text


def _first(told: Iterable[Mapping[str, str]], name: str) -> str:
    return next((pairs[name] for pairs in told if pairs.get(name)), "")


def _nth_from_right(text: str, n: int) -> str:
    """What the outermost of `n` proxies wrote: each has added an element, or handed on what was there."""
    found = ""
    for element in islice(elements(text), n):
        found = element
    return _unquoted(found)


def _prefix(text: str, n: int) -> str:
    """What `n` proxies together have taken off the path: each adds its own on the right of what those before it took.

    Empty where it is no path, or a longer one than anybody has.
    """
    parts = [part for element in islice(elements(text), n) if (part := _unquoted(element).rstrip("/"))]
    found = "".join(reversed(parts))
    return found if len(found) <= _MAX_PREFIX_SIZE and _PREFIX.fullmatch(found) else ""
