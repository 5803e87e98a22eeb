"""Clients that say nothing: pings they have to answer, and how long they may stay without a subscription."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from attacks import in_thread, nobody_else_notices, start

from tests.clients import client
from tests.conftest import StartServer
from tests.rawclient import (
    ABNORMAL,
    CLOSE,
    PING,
    PONG,
    TEXT,
    frame,
)


async def test_pings_are_sent_and_have_to_be_answered(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, ping_interval=0.5, pong_timeout=2.5, **over)

    def silent() -> tuple[int, int, float]:
        with target.raw_client() as raw:
            raw.send_message(type="subscribe", subscription_type="market", targets=["KOSDAQ"])
            started, n_pings = time.monotonic(), 0
            for received in raw.frames():
                n_pings += received.opcode == PING
                if received.opcode == CLOSE:
                    return n_pings, received.code, time.monotonic() - started
            return n_pings, ABNORMAL, time.monotonic() - started

    def talking(reply: bytes) -> int:
        """Answer in some way for several times the timeout; returns how many pings came."""
        with target.raw_client() as raw:
            raw.send_message(type="subscribe", subscription_type="market", targets=["KOSDAQ"])
            started, n_pings = time.monotonic(), 0
            while time.monotonic() - started < 5:
                received = raw.read_frame()
                assert received is not None
                assert received.opcode != CLOSE, received
                if received.opcode == PING:
                    n_pings += 1
                    raw.send(reply or frame(PONG, received.payload))
            return n_pings

    async with nobody_else_notices(target):
        quiet, *lively = await asyncio.gather(
            in_thread(silent), in_thread(talking, b""), in_thread(talking, frame(TEXT, b'{"type":"ping"}'))
        )
    n_pings, code, seconds = quiet
    assert code == 4409
    assert n_pings >= 1
    # It is looked at once a second, and once more when another one's end has moved it.
    assert 2.4 < seconds < 5.0
    assert all(n >= 3 for n in lively)


async def test_who_never_subscribes_is_closed_when_idle(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, idle_timeout=1.0, **over)

    async def stay(*requests: dict[str, object], again: float | None = None) -> tuple[int, float]:
        """Send something, perhaps repeatedly; returns the close code, 0 when it was kept, and when."""
        started = time.monotonic()
        async with client(target.url) as connection:
            receiving = asyncio.create_task(connection.closed(30))
            for request in requests:
                await connection.send(**request)
            while not receiving.done() and time.monotonic() - started < 3.5:
                await asyncio.wait((receiving,), timeout=again or 0.5)
                if again is not None and not receiving.done():
                    await connection.send(**requests[0])
            if not receiving.done():
                receiving.cancel()
                return 0, 3.5
            return await receiving, time.monotonic() - started

    subscribe: dict[str, object] = {"type": "subscribe", "subscription_type": "stock", "targets": ["S00"]}
    unsubscribe = subscribe | {"type": "unsubscribe"}
    async with nobody_else_notices(target):
        silent, talking, subscribed, unsubscribed = await asyncio.gather(
            stay(), stay({"type": "ping"}, again=0.5), stay(subscribe), stay(subscribe, unsubscribe)
        )
    assert silent[0] == 4409
    assert 0.9 < silent[1] < 3.4
    assert [talking[0], subscribed[0], unsubscribed[0]] == [0, 0, 0]
