"""One test for each class of attack that servers of this kind have fallen to, each on a real server.

docs/threat-model.md lists the classes, with these tests and those that go further; `test_the_page_names_every_test`
holds the two together.
"""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jwt
import pytest

from fastws import deflate
from tests.conftest import StartServer
from tests.rawclient import CLOSE, TEXT, RawClient, frame, upgrade_head
from tests.serving import ROOT, Server, until

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the-token-of-the-administrator"
MESSAGE_BYTES = 65536
PAGE = ROOT / "docs" / "threat-model.md"
DEFLATE = "permessage-deflate; client_max_window_bits"


# What is called a token or the like where it is compared, and is nothing that a stranger may find out.
NO_SECRETS = {
    "fastws/cli/top.py": "an argument with itself",
    "fastws/kis/auth.py": "our own token of KIS with the one that KIS has refused",
}


def token(**claims: object) -> str:
    return jwt.encode({"sub": "alice"} | claims, SECRET, "HS256")


@pytest.fixture
def target(shared_server: StartServer) -> Server:
    return shared_server(
        "--feed", "none", "--log-level", "debug",
        jwt_secret=SECRET, admin_token=ADMIN, handshake_timeout=1, half_open_per_ip=20, compression="on",
    )  # fmt: skip


@cache
def source() -> list[tuple[str, str]]:
    """The lines of the package, each with its place."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in sorted((ROOT / "fastws").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]


def asked(target: Server, path: str, authorization: str | None, method: str = "GET", **headers: str) -> int:
    given = {} if authorization is None else {"Authorization": f"Bearer {authorization}"}
    return target.get(path, method, b"{}" if method == "POST" else None, given | headers)[0]


def upgraded(target: Server, **headers: str) -> int:
    """The status of a handshake with these headers."""
    with target.raw_client(handshake=False) as raw:
        raw.send(upgrade_head(**headers))
        return raw.read_response()[0]


def open_with_deflate(target: Server) -> RawClient:
    raw = target.raw_client(handshake=False)
    raw.send(upgrade_head(sec_websocket_extensions=DEFLATE))
    status, headers, _ = raw.read_response()
    assert (status, "permessage-deflate" in headers["sec-websocket-extensions"]) == (101, True)
    return raw


def bombs() -> Iterator[bytes]:
    """Messages of few bytes that would expand to very many, and to nothing for very long."""
    packed = deflate.compress(bytes(40 << 20), 15)
    assert len(packed) < MESSAGE_BYTES
    yield frame(TEXT, packed, rsv=0x40)
    parts = [packed[n : n + 2000] for n in range(0, len(packed), 2000)]
    yield b"".join(
        frame(0 if n else TEXT, part, fin=n == len(parts) - 1, rsv=0 if n else 0x40)
        for n, part in enumerate(parts)
    )
    yield frame(TEXT, b"\x03\x00" * 30000, rsv=0x40)


def test_decompression_bomb(target: Server) -> None:
    """Before anybody has said who it is: it costs its own bytes, and ends the connection."""
    before = target.rss
    for bomb in bombs():
        with open_with_deflate(target) as raw:
            raw.send_as_far_as_possible(bomb)
            assert raw.read_close_code() == 1009
    assert target.rss - before < 16 << 20


def test_frame_length_overflow(target: Server) -> None:
    """A length is looked at before it is added to anything, and before anything is allocated for it."""
    before = target.rss
    for size, size_bytes, code in (
        ((1 << 63) - 1, 8, 1009),
        ((1 << 64) - 1, 8, 1002),
        (1 << 63, 8, 1002),
        (MESSAGE_BYTES + 1, 8, 1009),
        (125, 2, 1002),
        (65535, 8, 1002),
    ):
        with target.raw_client() as raw:
            raw.send(frame(TEXT, b"", size=size, size_bytes=size_bytes))
            assert raw.read_close_code() == code
    # Parts, each of which is small enough.
    with target.raw_client() as raw:
        part = b"x" * 40000
        raw.send_as_far_as_possible(frame(TEXT, part, fin=False) + frame(0, part, size=(1 << 63) - 40000))
        assert raw.read_close_code() == 1009
    assert target.rss - before < 8 << 20


def test_handshake_abuse(target: Server) -> None:
    """Heads too large, of too many lines, or made to be read again and again, are refused while they come."""
    began = time.monotonic()
    for head, status in (
        (b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nX: " + b"y" * (20 << 20), 431),
        (upgrade_head(x=", ".join("ab" for _ in range(5000))), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
    ):
        with target.raw_client(handshake=False) as raw:
            raw.send_as_far_as_possible(head)
            assert raw.read_response()[0] == status
    # What regular expressions have taken minutes for: long runs of blanks and commas in one header.
    for value in (" " * 7000 + "x", "," * 7000, "a" + " ," * 3500 + "fastws"):
        assert upgraded(target, sec_websocket_protocol=value, sec_websocket_extensions=value) == 101
    assert time.monotonic() - began < 20


def test_slowloris(target: Server) -> None:
    """A head that never ends is held for handshake_timeout however it drips, and an address has so many at a time."""
    with target.raw_client(handshake=False) as raw:
        began = time.monotonic()
        raw.socket.settimeout(0.1)
        received = None
        for byte in upgrade_head(x="y" * 400):
            raw.send_as_far_as_possible(bytes((byte,)))
            try:
                received = raw.socket.recv(4096)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                received = b""
                break
        assert received is not None
        assert received[:12] in (b"", b"HTTP/1.1 408")
        assert 0.9 < time.monotonic() - began < 10
    half_open = [target.raw_client(handshake=False) for _ in range(25)]
    try:
        for raw in half_open:
            raw.send_as_far_as_possible(b"GET /v1/ws HTTP/1.1\r\n")
        # Whoever has something to say is let in all the same: those that wait longest give way.
        assert upgraded(target) == 101
    finally:
        for raw in half_open:
            raw.close()


def test_cross_site_hijacking(target: Server) -> None:
    """Pages of other origins get no WebSocket, on the loopback address as little as elsewhere."""
    port = target.port
    for origin in (
        "https://evil.example",
        "null",
        "file://",
        f"http://127.0.0.1:{port}.evil.example",
        f"http://127.0.0.1:{port}@evil.example",
        f"http://localhost.evil.example:{port}",
        "",
    ):
        assert upgraded(target, origin=origin) == 403
        assert asked(target, "/v1/admin/kick", ADMIN, "POST", Origin=origin or "x", Cookie="a=b") in (
            400,
            403,
        )
    assert upgraded(target, host=f"127.0.0.1:{port}", origin=f"http://127.0.0.1:{port}") == 101


def test_key_confusion(target: Server) -> None:
    """No token says how, or with which key, it is to be checked."""
    claims = {"sub": "alice"}
    for bad in (
        jwt.encode(claims, None, "none"),
        jwt.encode(claims, SECRET * 2, "HS512"),
        jwt.encode(
            claims, "x" * 40, "HS256", headers={"jku": f"{target.http_url}/keys", "kid": "../../dev/null"}
        ),
        jwt.encode(
            claims, "x" * 40, "HS256", headers={"jwk": {"kty": "oct", "k": "eHh4"}, "x5u": "http://a/"}
        ),
        token()[:-2],
    ):
        assert asked(target, "/api/v1/users/me", bad) == 401
    assert asked(target, "/api/v1/users/me", token()) == 200


def test_stale_authentication(target: Server) -> None:
    """A connection does not outlive the token that it came in with."""
    with target.raw_client(handshake=False) as raw:
        raw.send(upgrade_head(f"/v1/ws?token={token(exp=int(time.time()) + 2)}"))
        assert raw.read_response()[0] == 101
        assert raw.read_message()["authenticated"] is True
        assert raw.read_close_code() == 4401
    with target.raw_client(handshake=False) as raw:
        raw.send(upgrade_head(f"/v1/ws?token={token(jti='7')}"))
        assert raw.read_response()[0] == 101
        assert raw.read_message()["authenticated"] is True
        body = json.dumps({"jti": "7"}).encode()
        bearer = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
        assert target.get("/v1/admin/kick", "POST", body, bearer)[0] == 200
        assert raw.read_close_code() >= 4400
    assert asked(target, "/api/v1/users/me", token(jti="7")) == 401


def test_credential_timing() -> None:
    """Secrets are compared in constant time: by hmac.compare_digest or by a library that is for that, never by ==."""
    secret = re.compile(r"(?:^|_|\.)(?:token|secret|password|digest|signature|mac)s?(?:_bytes)?$")
    compared = re.compile(r"([\w.]+)\s*[=!]=\s*([\w.]+)")
    bad = [
        where
        for where, line in source()
        for sides in compared.findall(line)
        if any(map(secret.search, sides)) and "None" not in sides
    ]
    assert [where for where in bad if where.partition(":")[0] not in NO_SECRETS] == []
    assert {where.partition(":")[0] for where in bad} == set(NO_SECRETS)
    assert sum("compare_digest(" in line for _, line in source()) >= 2


def test_unguarded_administration(target: Server, server: StartServer) -> None:
    """What is the administrator's wants its token on the loopback address as well, and does not exist without one."""
    paths = [("/v1/ws/connections", "GET"), ("/v1/admin/kick", "POST"), ("/v1/publish", "POST")]
    for path, method in paths:
        for given in (None, "", "admin", token(), ADMIN[:-1], f"{ADMIN}x", ADMIN.upper()):
            assert asked(target, path, given, method) in (401, 403), (path, given)
        assert target.get(f"{path}?token={ADMIN}&admin_token={ADMIN}", method, b"{}")[0] in (401, 403)
    assert asked(target, "/v1/ws/connections", ADMIN) == 200
    without = server("--feed", "none")
    for path, method in paths:
        assert asked(without, path, "", method) == asked(without, path, "None", method) == 403


def test_secrets_in_logs(target: Server) -> None:
    """Tokens in URLs, headers and messages are in no line, at the level that tells the most."""
    mine = token(jti="of-the-log")
    with target.raw_client(handshake=False) as raw:
        raw.send(
            upgrade_head(f"/v1/ws?token={mine}", authorization=f"Bearer {mine}", cookie=f"session={mine}")
        )
        assert raw.read_response()[0] == 101
        session = raw.read_message()["connection_id"]
        raw.send_message(type="auth", token=f"{mine}x")
        raw.send_message(type="refresh_token", token=mine)
        raw.read_message()
        raw.send(frame(CLOSE, struct.pack(">H", 1000)))
        raw.read_close_code()
    assert asked(target, f"/nothing?token={mine}", mine) == 404
    assert asked(target, "/v1/ws/connections", ADMIN) == 200
    until(lambda: session[:8] in target.log, "the end of the connection in the log")
    for secret in (mine, mine.rpartition(".")[2], SECRET, ADMIN, session):
        assert secret not in target.log


def test_forwarded_header_spoofing(target: Server) -> None:
    """Who is no trusted proxy is who its socket says."""
    claims = {
        "x_forwarded_for": "203.0.113.9",
        "forwarded": "for=203.0.113.9;host=evil.example",
        "x_real_ip": "1.2.3.4",
    }
    with target.raw_client(handshake=False) as raw:
        raw.send(upgrade_head(**claims))
        assert raw.read_response()[0] == 101
        greeting = raw.read_message()
        _, body = target.get("/v1/ws/connections", headers={"Authorization": f"Bearer {ADMIN}"})
        (mine,) = [
            entry
            for entry in json.loads(body)
            if greeting["connection_id"].startswith(entry["connection_id"][:8])
        ]
        assert "203.0.113.9" not in json.dumps(mine)
        assert "127.0.0.1" in json.dumps(mine)
    assert upgraded(target, x_forwarded_host="evil.example", origin="http://evil.example") == 403


def test_command_injection() -> None:
    """Nothing that is read from outside is ever run: no eval, no pickle, no shell."""
    never = re.compile(
        r"(?<![\w.])(?:eval|exec|compile|__import__|os\.system|os\.popen|(?:pickle|marshal|yaml)\.loads?"
        r"|yaml\.unsafe_load|shelve\.open|subprocess\.getoutput)\(|\bshell="
    )
    assert [where for where, line in source() if never.search(line)] == []
    assert never.search("yaml.load(text)")
    assert not never.search("re.compile(text)")


def test_memory_reuse(target: Server) -> None:
    """What one client has said is never part of what another one hears."""
    secret = os.urandom(16).hex()
    with target.raw_client() as first, target.raw_client() as second:
        for raw in (first, second):
            raw.read_message()
        # Compressed and not, whole and in parts, and pings whose payload comes back from where the frame was read.
        for n in range(50):
            first.send(frame(TEXT, json.dumps({"type": "ping", "id": f"{secret}{n}"}).encode()))
            first.send(frame(9, f"{secret}{n}".encode()[:125]))
            second.send(frame(9, b"p" * (n + 1)))
            second.send(frame(TEXT, b'{"type":"ping","id":"short"}', fin=True))
        pongs = []
        while len(pongs) < 50:
            received = second.read_frame()
            assert received is not None
            assert secret.encode() not in received.payload
            if received.opcode == 10:
                pongs.append(received.payload)
        assert pongs == [b"p" * (n + 1) for n in range(50)]


def test_the_page_names_every_test() -> None:
    """A class without a test, and a test that the page does not tell of, fail here."""
    section = PAGE.read_text().partition("## Attacks that others have fallen to")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| **")]
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    here = [
        node.name
        for node in ast.parse(Path(__file__).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [names[:1] for names in named] == [[name] for name in here[:-1]]
    everywhere = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in (name for names in named for name in names):
        assert f"def {name}(" in everywhere, name
