"""What a client's message costs: read as JSON, and from the socket's bytes to the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import Wiring, instrument, messages_of, price_of
from fastws import messages
from fastws._core import Topic
from fastws._frames import OP_TEXT, build_frame
from fastws.auth import Authenticator
from fastws.dialects.admission import Admission
from fastws.dialects.clients import Arrival
from fastws.dialects.permits import Permits
from fastws.dialects.screener import ScreenerDialect
from fastws.dialects.targets import Targets
from fastws.limits import Limits
from fastws.messages import Subscribe
from fastws.sessions import Sessions
from fastws.settings import Settings

Wire = Callable[..., Wiring]

MASK = b"\x12\x34\x56\x78"
N = 200
CODES = [f"{i:06d}" for i in range(50)]


def subscribe(n: int) -> bytes:
    return json.dumps(
        {"type": "subscribe", "subscription_type": "stock", "targets": CODES[:n], "id": 7, "snapshot": False}
    ).encode()


def repeat(decode: Callable[[bytes], Any], text: bytes) -> Any:
    for _ in range(N):
        request = decode(text)
    return request


@pytest.mark.parametrize("n_targets", [1, 50])
def test_decode(measure: Measure, n_targets: int) -> None:
    """A subscribe message of so many targets, read and checked"""
    text = subscribe(n_targets)
    request = measure(
        repeat, messages.decode, text, unit="messages", items=N, size=N * len(text), like="python"
    )
    assert isinstance(request, Subscribe)
    assert (request.targets, request.id, request.snapshot) == (CODES[:n_targets], 7, False)


@pytest.mark.parametrize("peer", ["json", "orjson"])
@pytest.mark.parametrize("n_targets", [1, 50])
def test_decode_unchecked(measure: Measure, n_targets: int, peer: str) -> None:
    """json and orjson, which check nothing"""
    text = subscribe(n_targets)
    found = measure(
        repeat,
        json.loads if peer == "json" else orjson.loads,
        text,
        unit="messages",
        items=N,
        size=N * len(text),
        against=f"commands.decode[{n_targets}]",
        like="python",
    )
    assert found["targets"] == CODES[:n_targets]


def test_message(measure: Measure, wiring: Wire) -> None:
    """A masked message of 70 bytes through a connection: unmasking, its token bucket, an echo sent"""
    wired = wiring(rate_limit=1_000_000)
    (connection,) = wired.connect(1)
    text = subscribe(1)[:70]
    frame = build_frame(OP_TEXT, text, mask=MASK)

    def receive() -> None:
        for _ in range(50):
            connection.data_received(frame)

    measure(receive, unit="messages", items=50, setup=wired.drain, rounds=100, like="kernel")
    assert messages_of(wired.drain()[0]) == [text] * 50
    assert wired.hub.meters.n_rate_limited == 0


def screener(wired: Wiring) -> ScreenerDialect:
    permits = Permits(NoPortfolios())
    admission = Admission(
        wired.hub, Authenticator(Settings()), Sessions(ttl=30, limit=100), Limits(), permits=permits
    )
    targets = Targets(wired.hub, wired.market, permits, limit=100, accept_unknown_symbols=False)
    return ScreenerDialect(wired.hub, wired.market, admission=admission, targets=targets, message_bytes=65536)


class NoPortfolios:
    """Nobody has any."""

    def find(self, portfolio_id: int) -> None:
        return None

    def ensure(self, portfolio_id: int) -> Topic:
        raise KeyError(portfolio_id)


@pytest.mark.parametrize("n_targets", [1, 50])
def test_subscribe(measure: Measure, wiring: Wire, n_targets: int) -> None:
    """Subscribe and unsubscribe so many targets with snapshots, from the socket's bytes to the answers"""
    wired = wiring()
    wired.publish([price_of(instrument(i), i) for i in range(50)])
    dialect = screener(wired)
    (connection,) = wired.connect(1, handler=dialect, context=Arrival())
    # More is held beside, as by most clients.
    wired.subscribe(connection, ["other", "another"])
    body = {"subscription_type": "stock", "targets": CODES[:n_targets], "id": 7}
    frames = [
        build_frame(OP_TEXT, json.dumps({"type": kind, **body}).encode(), mask=MASK)
        for kind in ("subscribe", "unsubscribe")
    ]

    def receive() -> None:
        for _ in range(4):
            for frame in frames:
                connection.data_received(frame)

    measure(receive, unit="messages", items=8, setup=wired.drain, rounds=100, like="python")
    found = [json.loads(text) for text in messages_of(wired.drain()[0])]
    assert [message["type"] for message in found] == ["subscribed", "batch", "unsubscribed"] * 4
    assert found[0]["targets"] == CODES[:n_targets]
    assert found[1]["snapshot"] is True
    assert found[1]["batch_size"] == n_targets
