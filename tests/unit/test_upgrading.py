"""What a WebSocket is asked for with, and what is an answer to it, whole and in pieces."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.deflate import negotiate
from fastws.opening import Cause, OpenError
from fastws.server import handshake
from fastws.upgrading import (
    MAX_HEAD_SIZE,
    Head,
    HeadReader,
    Target,
    accept_value,
    check_upgrade,
    connect_request,
    has_token,
    new_key,
    parse_url,
    upgrade_request,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GRANTED = {"upgrade": "WebSocket", "connection": "keep-alive, Upgrade", "sec-websocket-accept": ACCEPT}


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://h", Target(False, "h", 80, "h", "/")),
        ("wss://H:443/a?b=c&d", Target(True, "h", 443, "h", "/a?b=c&d")),
        ("ws://h:443/%20x#part", Target(False, "h", 443, "h:443", "/%20x")),
        ("wss://[::1]:8443?x", Target(True, "::1", 8443, "[::1]:8443", "/?x")),
        ("ws://me:secret@h:81/", Target(False, "h", 81, "h:81", "/")),
        (
            "ws://bücher.example/é?è=1",
            Target(False, "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/%C3%A9?%C3%A8=1"),
        ),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_url(url) == target


@pytest.mark.parametrize(
    "url",
    ["", "h", "http://h", "ws://", "ws:///x", "ws://h:0", "ws://h:70000", "ws://[::1", f"ws://é{'a' * 70}"],
)
def test_what_is_no_url_of_a_websocket(url: str) -> None:
    with pytest.raises(OpenError, match="URL") as caught:
        parse_url(url)
    assert caught.value.cause is Cause.OTHER


def test_the_example_of_the_standard() -> None:
    assert accept_value(KEY) == ACCEPT


@pytest.mark.parametrize("deflate", [False, True])
def test_both_sides_of_ours_agree(deflate: bool) -> None:
    key = new_key()
    target = parse_url("wss://example.org:8443/v1/ws?x=1")
    sent = upgrade_request(target, key, {"Authorization": "Bearer x"}, deflate=deflate)
    request = handshake.parse_head(sent)
    assert isinstance(request, handshake.Request)
    assert handshake.check_upgrade(request) is None
    assert (request.target, request.headers["host"]) == ("/v1/ws?x=1", "example.org:8443")
    assert request.headers["authorization"] == "Bearer x"
    agreement = negotiate(request.headers.get("sec-websocket-extensions", ""))
    assert (agreement is not None) == deflate
    response = handshake.upgrade_response(request, extensions=agreement and agreement.response)
    head = HeadReader().feed(response + b"rest")
    assert head is not None
    assert head.body == b"rest"
    assert check_upgrade(head, key, deflate=deflate) is deflate


def test_a_host_of_ones_own_takes_the_place_of_the_urls() -> None:
    request = upgrade_request(parse_url("ws://h"), KEY, {"hOst": "other"}, deflate=False)
    assert request.count(b"ost: ") == 1
    assert b"\r\nHost: other\r\n" in request


@pytest.mark.parametrize(
    "headers",
    [
        {"A": "b\r\nC: d"}, {"A\r\nB": "c"}, {"": "x"}, {"A b": "c"}, {"A": "\0"},
        {"Upgrade": "secret"}, {"connection": "secret"}, {"sec-websocket-protocol": "secret"},
    ],
)  # fmt: skip
def test_headers_that_would_be_others(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no header may have|belongs to the handshake") as caught:
        upgrade_request(parse_url("ws://h"), KEY, headers, deflate=False)
    assert "secret" not in str(caught.value)


def test_a_proxy_is_asked_for_a_tunnel() -> None:
    assert connect_request(parse_url("wss://[::1]/x"), "") == (
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"
    )
    # user:p@ss
    assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in connect_request(
        parse_url("ws://h"), "user:p%40ss"
    )


# Answers.


@given(
    status=st.integers(100, 599),
    headers=st.dictionaries(
        st.from_regex(r"[a-z0-9-]+", fullmatch=True), st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True)
    ),
    body=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=5),
)
def test_heads_are_read_however_they_are_cut(
    status: int, headers: dict[str, str], body: bytes, cuts: list[int]
) -> None:
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    data = "\r\n".join([*lines, "", ""]).encode() + body
    reader = HeadReader()
    last = 0
    found = None
    rest = data
    for cut in (*sorted(cuts), len(data)):
        found, rest, last = reader.feed(data[last:cut]), data[cut:], max(last, cut)
        if found is not None:
            break
    assert found is not None
    assert found._replace(body=found.body + rest) == Head((1, 1), status, headers, body)


@given(st.binary())
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    with contextlib.suppress(OpenError):
        assert (HeadReader().feed(b"HTTP/1.1 101 " + data) is None) == (b"\r\n\r\n" not in data)


@pytest.mark.parametrize(
    "data",
    [
        b"2",
        b"HTTP/2",
        b"\x15\x03\x01",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 101 S\r\nA : b\r\n\r\n",
        b"HTTP/1.1 101 S\r\nA\r\n\r\n",
        b"HTTP/1.1 101 S\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 101 " + b"x" * MAX_HEAD_SIZE,
        b"HTTP/1.1 101 " + b"x" * MAX_HEAD_SIZE + b"\r\n\r\n",
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(OpenError) as caught:
        HeadReader().feed(data)
    assert caught.value.cause is Cause.NO_WEBSOCKET


def test_repeated_headers_are_one() -> None:
    head = HeadReader().feed(b"HTTP/1.0 200 OK\r\nA: b\r\na:\tc \r\n\r\n")
    assert head == Head((1, 0), 200, {"a": "b, c"}, b"")


DEFLATE = "permessage-deflate; server_no_context_takeover"
REFUSED = {
    "no upgrade": {"upgrade": ""},
    "another upgrade": {"upgrade": "h2c"},
    "no connection": {"connection": "close"},
    "no accept": {"sec-websocket-accept": ""},
    "another's accept": {"sec-websocket-accept": accept_value("x")},
    "a protocol that nobody asked for": {"sec-websocket-protocol": "chat"},
    "another extension": {"sec-websocket-extensions": "x-webkit-deflate-frame"},
    "two extensions": {"sec-websocket-extensions": f"{DEFLATE}, {DEFLATE}"},
    "a window from message to message": {"sec-websocket-extensions": "permessage-deflate"},
}


def test_what_grants_a_websocket() -> None:
    assert check_upgrade(Head((1, 1), 101, GRANTED, b""), KEY, deflate=True) is False
    bits = "server_max_window_bits=8; client_max_window_bits=15"
    packed = {**GRANTED, "sec-websocket-extensions": f"{DEFLATE}; {bits}"}
    assert check_upgrade(Head((1, 1), 101, packed, b""), KEY, deflate=True) is True


@pytest.mark.parametrize("name", REFUSED)
def test_what_grants_none(name: str) -> None:
    with pytest.raises(OpenError) as caught:
        check_upgrade(Head((1, 1), 101, {**GRANTED, **REFUSED[name]}, b""), KEY, deflate=True)
    assert caught.value.cause is Cause.NO_WEBSOCKET


def test_what_was_not_offered_is_not_agreed() -> None:
    with pytest.raises(OpenError):
        check_upgrade(
            Head((1, 1), 101, {**GRANTED, "sec-websocket-extensions": DEFLATE}, b""), KEY, deflate=False
        )
    with pytest.raises(OpenError):
        check_upgrade(Head((1, 0), 101, GRANTED, b""), KEY, deflate=False)


def test_another_status_is_told() -> None:
    with pytest.raises(OpenError) as caught:
        check_upgrade(Head((1, 0), 503, {}, b""), KEY, deflate=False)
    assert (caught.value.cause, caught.value.status) == (Cause.STATUS, 503)


@pytest.mark.parametrize(
    ("value", "token", "is_in"),
    [
        ("a", "a", True),
        ("A", "a", True),
        ("b, a", "a", True),
        ("ab", "a", False),
        ("", "a", False),
        (",", "a", False),
    ],
)
def test_tokens(value: str, token: str, is_in: bool) -> None:
    assert has_token(value, token) is is_in
