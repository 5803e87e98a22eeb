"""Clients that send too much, or come and go: each ends as documented, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from attacks import CODES, in_thread, nobody_else_notices, patient, start, until_alone
from websockets.exceptions import ConnectionClosed

from tests.clients import client
from tests.conftest import StartServer
from tests.rawclient import (
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
)
from tests.serving import Server


@pytest.fixture
def target(
    shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory, over: dict[str, str]
) -> Server:
    """See `patient`."""
    return patient(shared_server, tmp_path_factory.getbasetemp(), **over)


async def test_floods_of_control_frames_and_fragments(target: Server) -> None:
    """Over 200 a second: 4429, whatever kind they are; under it each ping is answered."""
    kinds = {
        "pings": frame(PING, b"x" * 100) * 2000,
        "pongs": frame(PONG) * 2000,
        "fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 2000,
        "both": frame(TEXT, b"", fin=False) + (frame(PING) + frame(CONTINUATION, b"x", fin=False)) * 1000,
    }

    def attack(data: bytes) -> int:
        with target.raw_client() as raw:
            raw.send_as_far_as_possible(data)
            return raw.read_close_code()

    def behave() -> int:
        with target.raw_client() as raw:
            raw.send(frame(PING, b"x") * 150)
            n = 0
            while n < 150:
                received = raw.read_frame()
                assert received is not None
                n += received.opcode == PONG
            return n

    async with nobody_else_notices(target):
        assert await in_thread(behave) == 150
        for name, data in kinds.items():
            assert await in_thread(attack, data) == 4429, name
        await in_thread(until_alone, target)


async def test_ten_times_the_rate_limit_for_ten_seconds(server: StartServer, tmp_path: Path) -> None:
    target = start(server, tmp_path, rate_limit=10)

    async def send(per_second: int, seconds: float) -> tuple[float, int | None, int]:
        """Send at a rate; returns when it ended, the close code, and how often the limit was told."""
        n_told = 0
        async with client(target.url) as connection:
            started = time.monotonic()

            async def receive() -> int:
                nonlocal n_told

                def count(message: dict[str, Any]) -> None:
                    nonlocal n_told
                    n_told += message.get("code") == "RATE_LIMIT_EXCEEDED"

                connection.on_message = count
                return await connection.closed(60)

            receiving = asyncio.create_task(receive())
            n_sent = 0
            while not receiving.done() and time.monotonic() - started < seconds:
                with contextlib.suppress(ConnectionClosed):  # which `receiving` tells as well
                    while n_sent < (time.monotonic() - started) * per_second:
                        await connection.connection.send('{"type":"ping"}')
                        n_sent += 1
                await asyncio.wait((receiving,), timeout=0.02)
            elapsed = time.monotonic() - started
            await connection.connection.close()
            code = await receiving
        return elapsed, code, n_told

    async with nobody_else_notices(target):
        abuser, lively = await asyncio.gather(send(130, 20), send(60, 12))
    elapsed, code, n_told = abuser
    assert code == 4429
    assert 9 <= elapsed < 14
    assert elapsed - 2 <= n_told <= elapsed + 1
    # Six times the limit is answered and borne.
    elapsed, code, n_told = lively
    assert code == 1000
    assert elapsed - 2 <= n_told <= elapsed + 1


async def test_connections_that_come_and_go(target: Server) -> None:
    def attack(number: int) -> None:
        for place in range(75):
            raw = target.raw_client(handshake=place % 3 != 0)
            if place % 3:
                raw.send_message(type="subscribe", subscription_type="stock", targets=CODES[: place % 12 + 1])
            raw.reset() if (place + number) % 2 else raw.close()

    async with nobody_else_notices(target):
        await asyncio.gather(*(in_thread(attack, number) for number in range(8)))
        await in_thread(until_alone, target)
        assert target.stats()["total_subscriptions"] == len(CODES)
