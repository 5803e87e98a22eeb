"""Who a client is behind proxies: what they write, what clients write, and how much work it is."""

from __future__ import annotations

import socket
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.errors import SettingsError
from fastws.server.handshake import MAX_HEAD_SIZE, check_origin, parse_head
from fastws.server.peers import (
    FORWARDING_HEADERS,
    MAX_HOPS,
    MAX_SIZE,
    Peer,
    Peers,
    elements,
    endpoint,
    key_of,
    read_node,
    read_pairs,
)
from fastws.settings import Settings

PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"
TRUSTED = Peers(["10.0.0.0/8", "2001:db8:ffff::/48", "unix"])


def found(address: str = PROXY, peers: Peers = TRUSTED, **headers: str) -> Peer:
    return peers.find(address, {name.replace("_", "-"): value for name, value in headers.items()})


# Direct peers.


@pytest.mark.parametrize(
    ("address", "shown", "key"),
    [
        ("203.0.113.9", "203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("::1", "::1", "::/64"),
        ("unix", "unix", "unix"),
        ("unknown", "unknown", "unknown"),
    ],
)
def test_a_direct_peer_is_the_client(address: str, shown: str, key: str) -> None:
    for peers in (Peers(), TRUSTED):
        assert found(address, peers) == Peer(shown, key)
    assert Peers().find(address, {}, is_tls=True).scheme == "https"


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7", "unix", "unknown"])
def test_headers_of_strangers_are_not_looked_at(address: str) -> None:
    headers = {
        "x_forwarded_for": "1.1.1.1",
        "forwarded": "for=1.1.1.1;host=other;proto=https",
        "x_forwarded_host": "other",
        "x_forwarded_proto": "https",
        "x_forwarded_prefix": "/other",
    }
    peers = Peers(["10.0.0.0/8"])
    assert found(address, peers, **headers) == found(address, peers)


class Transport:
    """The extra information of a transport on a real socket."""

    def __init__(self, sock: socket.socket, context: object = None) -> None:
        self.extra: dict[str, Any] = {"socket": sock, "sslcontext": context}
        self.extra["peername"] = sock.getpeername()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.extra.get(name, default)


def test_the_endpoint_of_a_unix_socket_is_unix() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert endpoint(Transport(ours)) == ("unix", False)
        assert endpoint(Transport(ours, object())) == ("unix", True)


def test_the_endpoint_of_a_tcp_socket_is_its_address_while_it_is_there() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as ours,
    ):
        transport = Transport(ours)
        assert endpoint(transport) == ("127.0.0.1", False)
        # Never unix, which may be trusted.
        transport.extra["peername"] = None
        assert endpoint(transport) == ("unknown", False)


# Chains.


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (CLIENT, CLIENT),
        (f"1.1.1.1, {CLIENT}", CLIENT),
        (f"1.1.1.1,{CLIENT},10.3.2.1", CLIENT),
        (f"{CLIENT}:4711", CLIENT),
        ("2001:db8::9", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ('"[2001:db8::9]:4711"', "2001:db8::9"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{CLIENT}, 2001:db8:ffff::1, ::ffff:10.9.9.9", CLIENT),
        # All of them trusted: the client is one of the inside.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # Nothing that could be believed.
        ("", PROXY),
        ("unknown", PROXY),
        ("_hidden", PROXY),
        (f"{CLIENT}, ", PROXY),
        (f"{CLIENT}, what", PROXY),
        (f"{CLIENT}, 10.0.0.256", PROXY),
        (f"{CLIENT}, 010.0.0.2", PROXY),
        (f"{CLIENT}, fe80::1%eth0", PROXY),
        (f"{CLIENT}, unknown, 10.0.0.2", "10.0.0.2"),
        (f"{CLIENT}, 10.0.0.2:http", PROXY),
    ],
)
def test_x_forwarded_for(header: str, client: str) -> None:
    peer = found(x_forwarded_for=header)
    assert (peer.address, peer.key) == (client, key_of(ip_address(client)))


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (f"for={CLIENT}", CLIENT),
        (f"For={CLIENT};Proto=http;By=10.0.0.1", CLIENT),
        (f'for="{CLIENT}:4711"', CLIENT),
        (f'for="{CLIENT}:_port"', CLIENT),
        ('for="[2001:db8::9]"', "2001:db8::9"),
        ('for="[2001:db8::9]:4711";by=_me', "2001:db8::9"),
        ("for=[2001:db8::9]:4711", "2001:db8::9"),
        (r'for="203\.0.113.9"', CLIENT),
        (f"for=1.1.1.1, for={CLIENT} , for=10.0.0.2;host=x", CLIENT),
        (f'for={CLIENT};host="a, b;for=1.1.1.1"', CLIENT),
        (f';; for={CLIENT}; ;x=""', CLIENT),
        # A quote left open, or a comma in one, does not swallow what the proxy writes behind it.
        (f'for="1.1.1.1, for="[2001:db8::9]", for=1.1.1.1, for={CLIENT}', CLIENT),
        ('for="1.1.1.1, for="[2001:db8::9]"', "2001:db8::9"),
        ('for=1.1.1.1;x="\\, for="[2001:db8::9]"', "2001:db8::9"),
        (f"for={CLIENT}, for=unknown", PROXY),
        (f"for={CLIENT}, for=_gazonk", PROXY),
        (f"for={CLIENT}, for=_gazonk, for=10.0.0.2", "10.0.0.2"),
        (f"for={CLIENT};for={CLIENT}", PROXY),
        (f"for={CLIENT}, host=inside", PROXY),
        (f"for ={CLIENT}", PROXY),
        (CLIENT, PROXY),
        (f'for="{CLIENT}', PROXY),
        (f'for="{CLIENT}"x', PROXY),
        (f'for={CLIENT};x="a\\"', PROXY),
    ],
)
def test_forwarded(header: str, client: str) -> None:
    peer = found(forwarded=header)
    assert (peer.address, peer.key) == (client, key_of(ip_address(client)))


def test_two_headers_have_to_agree() -> None:
    """nginx, HAProxy and most others write one of the two and hand on the other as the client sent it."""
    assert found(forwarded=f"for={CLIENT}", x_forwarded_for=CLIENT).address == CLIENT
    assert found(forwarded=f"for=1.1.1.1, for={CLIENT}", x_forwarded_for=CLIENT).address == CLIENT
    assert found(forwarded="for=1.1.1.1", x_forwarded_for=CLIENT).address == PROXY
    assert found(forwarded=f"for={CLIENT}", x_forwarded_for="1.1.1.1").address == PROXY
    assert found(forwarded="nonsense", x_forwarded_for=CLIENT).address == PROXY
    # An empty one says nothing.
    assert found(forwarded="", x_forwarded_for=CLIENT).address == CLIENT
    assert found(forwarded=f"for={CLIENT}", x_forwarded_for="").address == CLIENT


def test_a_unix_socket_can_be_a_trusted_proxy() -> None:
    assert found("unix", x_forwarded_for=f"1.1.1.1, {CLIENT}") == Peer(CLIENT, CLIENT)
    # No client escapes the limits by hiding its address.
    assert found("unix", x_forwarded_for="unknown") == Peer("unix", "unix")
    assert found("unix", x_forwarded_for=CLIENT, forwarded="for=1.1.1.1") == Peer("unix", "unix")


def test_only_so_many_hops_are_followed() -> None:
    hops = [f"10.1.0.{n}" for n in range(MAX_HOPS + 5)]
    assert found(x_forwarded_for=", ".join([CLIENT, *hops])).address == hops[5]


def test_what_reaches_beyond_the_bound_is_not_believed() -> None:
    padding = "1.1.1.1, " * MAX_SIZE
    assert found(x_forwarded_for=padding + CLIENT).address == CLIENT
    assert found(x_forwarded_for="x" * MAX_SIZE + f", {CLIENT}, 10.0.0.2").address == CLIENT
    cut = " " * MAX_SIZE + CLIENT
    assert found(x_forwarded_for=cut).address == PROXY


def test_trusted_proxies_can_change() -> None:
    peers = Peers()
    assert found(PROXY, peers, x_forwarded_for=CLIENT).address == PROXY
    peers.update([PROXY])
    assert found(PROXY, peers, x_forwarded_for=CLIENT).address == CLIENT
    peers.update(["unix"])
    assert found(PROXY, peers, x_forwarded_for=CLIENT).address == PROXY


# Scheme and host.


@pytest.mark.parametrize(
    ("headers", "scheme", "host"),
    [
        ({}, "http", None),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "App.Example:8443"}, "https", "app.example:8443"),
        ({"x_forwarded_proto": "wss"}, "https", None),
        ({"x_forwarded_proto": "gopher", "x_forwarded_host": "a b"}, "http", None),
        ({"x_forwarded_host": "a" * 256}, "http", None),
        # Each proxy adds one: what stands left of the client's was sent by the client.
        ({"x_forwarded_for": CLIENT, "x_forwarded_host": "evil, app.example"}, "http", "app.example"),
        (
            {"x_forwarded_for": f"1.1.1.1, {CLIENT}, 10.0.0.2", "x_forwarded_host": "evil, app.example, in"},
            "http",
            "app.example",
        ),
        # Or the outermost sets it and the others hand it on.
        (
            {"x_forwarded_for": f"{CLIENT}, 10.0.0.2", "x_forwarded_host": "app.example"},
            "http",
            "app.example",
        ),
        ({"forwarded": f"for={CLIENT};proto=https;host=app.example"}, "https", "app.example"),
        ({"forwarded": f'for={CLIENT};host="[2001:db8::1]:80"'}, "http", "[2001:db8::1]:80"),
        (
            {"forwarded": f"for=1.1.1.1;host=evil, for={CLIENT};host=app.example, for=10.0.0.2;host=in"},
            "http",
            "app.example",
        ),
        ({"forwarded": f"for={CLIENT}, for=10.0.0.2;host=in;proto=https"}, "https", "in"),
        ({"forwarded": "host=app.example"}, "http", "app.example"),
        ({"forwarded": f"for={CLIENT}", "x_forwarded_host": "app.example"}, "http", "app.example"),
        # Of two that disagree, neither.
        (
            {
                "forwarded": "for=1.1.1.1;host=evil",
                "x_forwarded_for": CLIENT,
                "x_forwarded_host": "app.example",
            },
            "http",
            "app.example",
        ),
    ],
)
def test_scheme_and_host_are_what_the_outermost_trusted_proxy_says(
    headers: dict[str, str], scheme: str, host: str | None
) -> None:
    peer = found(**headers)
    assert (peer.scheme, peer.host) == (scheme, host)


@pytest.mark.parametrize(
    ("headers", "prefix"),
    [
        ({}, ""),
        ({"x_forwarded_prefix": "/prices"}, "/prices"),
        ({"x_forwarded_prefix": "/a/b-c.d/%EC%8B%9C/"}, "/a/b-c.d/%EC%8B%9C"),
        ({"x_forwarded_prefix": "/"}, ""),
        ({"x_forwarded_prefix": '"/prices"'}, "/prices"),
        # What stands left of the proxies' own was sent by the client.
        ({"x_forwarded_for": CLIENT, "x_forwarded_prefix": "/evil, /prices"}, "/prices"),
        # Each has taken off what it says, the outermost first; or one of them has taken off nothing.
        ({"x_forwarded_for": f"{CLIENT}, 10.0.0.2", "x_forwarded_prefix": "/app, /prices/"}, "/app/prices"),
        ({"x_forwarded_for": f"{CLIENT}, 10.0.0.2", "x_forwarded_prefix": "/app"}, "/app"),
        ({"x_forwarded_for": f"{CLIENT}, 10.0.0.2", "x_forwarded_prefix": "/, /prices"}, "/prices"),
        # No path that a client could ask for, or one that leads elsewhere.
        *(
            ({"x_forwarded_prefix": text}, "")
            for text in (
                *("prices", "//evil.example", "/a//b", "/..", "/a/../b", "/%2e%2E/b", "/./a", "/.%2e"),
                *("/a b", "/a?b", "/a#b", "/a%", "/a%2", "/a%zz", "/\\evil", "/시세", "/a\r\nb", "/a\n"),
                "/" + "a" * 255,
            )
        ),
        ({"x_forwarded_prefix": "/" + "a" * 254}, "/" + "a" * 254),
        ({"x_forwarded_prefix": "/.well-known/..a/..."}, "/.well-known/..a/..."),
    ],
)
def test_the_prefix_is_what_trusted_proxies_have_taken_off(headers: dict[str, str], prefix: str) -> None:
    assert found(**headers).prefix == prefix
    assert found(CLIENT, **headers).prefix == ""
    assert found(peers=Peers(), **headers).prefix == ""


@pytest.mark.parametrize(
    ("origin", "headers", "is_allowed"),
    [
        ("https://app.example", {"x-forwarded-host": "app.example"}, True),
        ("https://app.example", {"x-forwarded-host": "app.example:443"}, True),
        ("https://app.example", {}, False),
        # The name inside is one of the inside: a page there is another origin.
        ("http://backend:8000", {"x-forwarded-host": "app.example"}, False),
        ("http://backend:8000", {}, True),
        ("http://app.example", {"x-forwarded-host": "app.example", "x-forwarded-proto": "https"}, False),
        ("http://app.example", {"x-forwarded-host": "app.example", "x-forwarded-proto": "http"}, True),
        ("https://app.example", {"x-forwarded-host": "app.example", "x-forwarded-proto": "http"}, True),
    ],
)
def test_the_own_origin_is_the_one_that_the_client_sees(
    origin: str, headers: dict[str, str], is_allowed: bool
) -> None:
    lines = [
        f"{name}: {value}" for name, value in {"host": "backend:8000", "origin": origin, **headers}.items()
    ]
    request = parse_head("\r\n".join(["GET / HTTP/1.1", *lines, "\r\n"]).encode())
    assert not hasattr(request, "status")
    behind = request.__class__(
        request.method, request.target, request.path, request.query, request.version, request.headers,
        TRUSTED.find(PROXY, request.headers),
    )  # fmt: skip
    assert (check_origin(behind, ()) is None) is is_allowed
    if headers:
        # The same from a stranger is not believed.
        assert (check_origin(request, ()) is None) is (origin == "http://backend:8000")


# What clients can and cannot do.

_HOSTILE = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=200) | st.text(
    st.sampled_from(',;="\\[]:. \tfor10293'), max_size=200
)
_CLIENTS = st.one_of(
    st.ip_addresses(v=4).filter(lambda a: a.packed[0] != 10),
    st.ip_addresses(v=6).filter(lambda a: not a.exploded.startswith("2001:0db8:ffff:")),
).filter(lambda a: not (isinstance(a, IPv6Address) and a.ipv4_mapped is not None))
_PROXIES = st.integers(1, 2**24 - 1).map(lambda n: IPv4Address((10 << 24) + n)) | st.integers(1, 2**64).map(
    lambda n: IPv6Address((0x20010DB8FFFF << 80) + n)
)


@st.composite
def _nodes(draw: st.DrawFn, address: IPv4Address | IPv6Address) -> str:
    """A node as some proxy writes it."""
    port = draw(st.sampled_from(["", ":80", ":65535", ":_p"]))
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return host + port


@st.composite
def _written(draw: st.DrawFn, address: IPv4Address | IPv6Address) -> str:
    """An element of Forwarded that is well-formed."""
    node = draw(_nodes(address))
    value = f'"{node}"' if ":" in node or draw(st.booleans()) else node
    others = draw(
        st.lists(
            st.sampled_from(["by=_x", 'host="a:1"', "proto=https", 'ext="a, b; \\" c"', 'x=""']),
            unique=True,
            max_size=3,
        )
    )
    pairs = draw(st.permutations([f"{draw(st.sampled_from(['for', 'For']))}={value}", *others]))
    return draw(st.sampled_from([";", "; "])).join(pairs)


@given(st.data(), _HOSTILE, _CLIENTS, st.lists(_PROXIES, max_size=4), _PROXIES)
def test_whatever_a_client_sends_it_stays_where_it_is(
    data: st.DataObject,
    hostile: str,
    client: IPv4Address | IPv6Address,
    hops: list[IPv4Address | IPv6Address],
    peer: IPv4Address | IPv6Address,
) -> None:
    customary = ", ".join([hostile, *(data.draw(_nodes(hop)) for hop in (client, *hops))])
    standard = ", ".join([hostile, *(data.draw(_written(hop)) for hop in (client, *hops))])
    for headers in (
        {"x-forwarded-for": customary},
        {"forwarded": standard},
        {"forwarded": standard, "x-forwarded-for": customary},
    ):
        result = TRUSTED.find(str(peer), headers)
        assert (result.address, result.key) == (str(client), key_of(client))


@given(_HOSTILE, _CLIENTS, _PROXIES)
def test_a_header_that_no_proxy_writes_moves_nobody_elsewhere(
    hostile: str, client: IPv4Address | IPv6Address, peer: IPv4Address | IPv6Address
) -> None:
    """It may only cost the client its own place, for the one that all have who are not known."""
    for headers in (
        {"x-forwarded-for": str(client), "forwarded": hostile},
        {
            "x-forwarded-for": hostile,
            "forwarded": f'for="[{client}]"' if client.version == 6 else f"for={client}",
        },
    ):
        if hostile:
            assert TRUSTED.find(str(peer), headers).address in (str(client), str(peer))


@given(_HOSTILE, _HOSTILE, _CLIENTS)
def test_a_stranger_is_where_its_socket_is(one: str, other: str, client: IPv4Address | IPv6Address) -> None:
    headers = {
        "x-forwarded-for": one,
        "forwarded": other,
        "x-forwarded-host": one,
        "x-forwarded-proto": other,
        "x-forwarded-prefix": one,
    }
    assert TRUSTED.find(str(client), headers) == TRUSTED.find(str(client), {})


@given(_HOSTILE)
def test_nothing_raises(text: str) -> None:
    for element in elements(text):
        read_node(element)
        read_pairs(element)
    headers = dict.fromkeys(FORWARDING_HEADERS, text)
    peer = TRUSTED.find(PROXY, headers)
    assert peer.scheme in ("http", "https")


@pytest.mark.parametrize(
    "piece",
    [
        '"', '\\"', '\\', ",", " ", "\t", ";", "for=", '"x",', "a=b;", 'a="', "for=10.0.0.1,", "10.0.0.1,", '""', " ,",
        "[", ":",
    ],
)  # fmt: skip
def test_a_hostile_header_costs_little(piece: str) -> None:
    text = (piece * MAX_HEAD_SIZE)[:MAX_HEAD_SIZE]
    headers = dict.fromkeys(FORWARDING_HEADERS, text)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        TRUSTED.find(PROXY, headers)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005


# The setting.


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("proxy.example", "is no address and no network"),
        ("", "is no address and no network"),
        ("10.0.0.1:80", "is no address and no network"),
        ("fe80::1%eth0", "is no address and no network"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("0.0.0.0/0", "is everyone"),
        ("::/0", "is everyone"),
        ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
    ],
)
def test_a_wrong_entry_is_named_with_its_remedy(entry: str, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings(trusted_proxies=("10.0.0.7", entry))
    assert error.value.setting == "trusted_proxies"
    assert repr(entry) in str(error.value)
    assert says in str(error.value)


def test_right_entries_are_accepted() -> None:
    entries = ("10.0.0.7", "10.0.0.0/8", "10.0.0.0/255.0.0.0", "2001:db8::/32", "::1", "unix")
    peers = Peers(Settings(trusted_proxies=entries).trusted_proxies)
    for address in ("10.200.0.1", "2001:db8::5", "::1", "unix", "::ffff:10.0.0.1"):
        assert found(address, peers, x_forwarded_for=CLIENT).address == CLIENT
