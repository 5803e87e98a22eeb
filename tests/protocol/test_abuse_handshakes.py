"""Requests that are random, endless, unfinished or refused: each ends as documented, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from pathlib import Path

import pytest
from attacks import in_thread, nobody_else_notices, patient, start

from tests.conftest import StartServer
from tests.rawclient import (
    upgrade_head,
)
from tests.serving import Server


@pytest.fixture
def target(
    shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory, over: dict[str, str]
) -> Server:
    """See `patient`."""
    return patient(shared_server, tmp_path_factory.getbasetemp(), **over)


async def test_random_bytes_instead_of_a_request(target: Server) -> None:
    rng = random.Random(1)

    def attack() -> None:
        for number in range(100):
            with target.raw_client(handshake=False) as raw:
                raw.send_as_far_as_possible(rng.randbytes(rng.choice((1, 16, 300, 20_000))))
                raw.half_close()
                status, _, body = raw.read_response()
                # Nothing is owed to what might still become a request; else the answer says what is wrong.
                assert status in (0, 400, 414, 431), (number, status)
                if status:
                    assert json.loads(body)["error"]["code"] in (
                        "BAD_REQUEST",
                        "URI_TOO_LONG",
                        "HEADERS_TOO_LARGE",
                    )

    async with nobody_else_notices(target):
        await in_thread(attack)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/ws HTTP/1.1\r\nX: " + b"x" * (10 << 20), 431),
        (b"GET /v1/ws HTTP/1.1\r\n" + b"X-Header: value\r\n" * (10 << 16), 431),
        (b"GET /v1/ws?" + b"x" * (10 << 20), 414),
        (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    ],
    ids=["one header", "many headers", "request line", "101 headers"],
)
async def test_heads_of_ten_megabytes(target: Server, head: bytes, status: int) -> None:
    def attack() -> int:
        with target.raw_client(handshake=False, send_buffer=64 << 10) as raw:
            n_sent = raw.send_as_far_as_possible(head)
            # The server reads on for a while, so that its answer is not lost, but not for ever.
            assert n_sent < 9 << 20 or len(head) < 1 << 20
            found, headers, body = raw.read_response()
            assert headers["connection"] == "close"
            assert set(json.loads(body)["error"]) == {"code", "message"}
            raw.read_to_end()
            return found

    async with nobody_else_notices(target):
        assert await asyncio.gather(*(in_thread(attack) for _ in range(4))) == [status] * 4


async def test_half_a_handshake_is_held_no_longer_than_allowed(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, handshake_timeout=2, **over)
    # One after the other: of eighty handshakes of TLS at once, on a machine with much to do, the last would be held for
    # too long themselves.
    connecting = threading.Lock()

    def hold(data: bytes, drip: bytes) -> tuple[float, int]:
        with connecting:
            started = time.monotonic()
            client = target.raw_client(handshake=False)
        with client as raw:
            raw.send(data)
            raw.socket.settimeout(0.05)
            while time.monotonic() - started < 7:
                try:
                    received = raw.socket.recv(4096)
                except TimeoutError:
                    # A byte now and then does not prolong it.
                    raw.send_as_far_as_possible(drip)
                    continue
                except ConnectionError:
                    received = b""
                status = int(received.split(b" ")[1]) if received else 0
                return time.monotonic() - started, status
        raise AssertionError("held for seven seconds")

    cases = [
        (b"", b""),
        (b"GET /v1/ws HT", b""),
        (upgrade_head()[:-2], b""),
        (b"GET / HTTP/1.1\r\nX: ", b"x"),
    ] * 20
    async with nobody_else_notices(target):
        results = await asyncio.gather(*(in_thread(hold, *case) for case in cases))
    for (data, _), (_, status) in zip(cases, results, strict=True):
        # Who has said nothing is not answered: a browser opens connections ahead of need.
        assert status == (408 if data else 0)
    assert all(1.9 < seconds < 7.0 for seconds, _ in results)


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (upgrade_head("/v2/ws"), 404, "NOT_FOUND"),
        (upgrade_head("/"), 404, "NOT_FOUND"),
        (upgrade_head("/v1/ws/x"), 404, "NOT_FOUND"),
        (upgrade_head("//v1/ws"), 404, "NOT_FOUND"),
        (upgrade_head(upgrade=None), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(connection="close"), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(sec_websocket_version="8"), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(sec_websocket_version=None), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(sec_websocket_key=None), 400, "BAD_REQUEST"),
        (upgrade_head(sec_websocket_key="short"), 400, "BAD_REQUEST"),
        (upgrade_head(host=None), 400, "BAD_REQUEST"),
        (upgrade_head(origin="https://evil.example"), 403, "ORIGIN_NOT_ALLOWED"),
        (upgrade_head().replace(b"GET", b"POST"), 405, "METHOD_NOT_ALLOWED"),
        (upgrade_head().replace(b"HTTP/1.1", b"HTTP/1.0"), 505, "HTTP_VERSION_NOT_SUPPORTED"),
        (upgrade_head().replace(b"\r\nhost", b"\nhost"), 400, "BAD_REQUEST"),
        (upgrade_head().replace(b"localhost", b"local\x00host"), 400, "BAD_REQUEST"),
    ],
)
def test_upgrades_that_are_refused(target: Server, head: bytes, status: int, code: str) -> None:
    with target.raw_client(handshake=False) as raw:
        raw.send(head)
        found, headers, body = raw.read_response()
        assert (found, json.loads(body)["error"]["code"]) == (status, code)
        assert headers["content-type"].startswith("application/json")
