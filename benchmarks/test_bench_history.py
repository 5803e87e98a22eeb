"""What comes back costs: the past for a session that goes on, and snapshots."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import Wiring, instrument, messages_of, price_of

Wire = Callable[..., Wiring]

INSTRUMENTS = [instrument(i) for i in range(2000)]
N_MISSED = 300


@pytest.mark.parametrize("n_symbols", [1, 50])
def test_replay(measure: Measure, wiring: Wire, n_symbols: int) -> None:
    """A session goes on: 300 missed updates of so many symbols, found among 100,000 and sent"""
    wired = wiring(history_size=1 << 30)
    (connection,) = wired.connect(1)
    # What it missed lies scattered among what it did not want.
    wired.publish([price_of(INSTRUMENTS[100 + i % 1000], i) for i in range(50_000)])
    cursor = wired.hub.sequence
    mine = 0
    for i in range(50_000):
        if i * N_MISSED // 50_000 == mine:
            wired.publish([price_of(INSTRUMENTS[mine % n_symbols], mine)])
            mine += 1
        else:
            wired.publish([price_of(INSTRUMENTS[100 + i % 1000], i)])
    assert mine == N_MISSED
    wanted = {
        wired.hub.topic("stock", instrument.code): wired.hub.options()
        for instrument in INSTRUMENTS[:n_symbols]
    }

    def prepare() -> None:
        wired.drain()
        connection.set_subscriptions({})
        wired.drain()

    def replay() -> bool:
        is_taken = connection.restore(wanted, cursor)
        wired.turn()
        return is_taken

    assert measure(replay, unit="updates", items=N_MISSED, setup=prepare, rounds=40)
    assert not connection.is_restoring
    found = [json.loads(text) for text in messages_of(wired.drain()[0])]
    prices = [price for message in found for price in message.get("messages", [message])]
    assert [price["change"] for price in prices] == list(range(N_MISSED))
    assert [price["code"] for price in prices] == [INSTRUMENTS[i % n_symbols].code for i in range(N_MISSED)]


@pytest.mark.parametrize("n_symbols", [1, 50, 300])
def test_snapshot(measure: Measure, wiring: Wire, n_symbols: int) -> None:
    """A snapshot of so many prices that have all changed: encoded, built and sent"""
    wired = wiring()
    n_snapshots = max(1, 100 // n_symbols)
    connections = wired.connect(n_snapshots)
    used = INSTRUMENTS[: n_snapshots * n_symbols]
    lists = [
        [
            (wired.hub.topic("stock", instrument.code), wired.hub.options())
            for instrument in used[i::n_snapshots]
        ]
        for i in range(n_snapshots)
    ]
    pairs = list(zip(connections, lists, strict=True))
    n = 0

    def prepare() -> None:
        nonlocal n
        n += 1
        wired.drain()
        wired.publish([price_of(instrument, n) for instrument in used])

    def send_all() -> None:
        for connection, topics in pairs:
            connection.send_snapshot(topics)

    measure(send_all, unit="prices", items=len(used), setup=prepare, rounds=150)
    for data in wired.drain():
        (text,) = messages_of(data)
        message = json.loads(text)
        assert (message["snapshot"], message["batch_size"]) == (True, n_symbols)
        assert {price["change"] for price in message["messages"]} == {n}


def test_snapshot_shared(measure: Measure, wiring: Wire) -> None:
    """The same snapshot of 50 prices for 100 connections that ask for it at the same time"""
    wired = wiring()
    connections = wired.connect(100)
    topics = [
        (wired.hub.topic("stock", instrument.code), wired.hub.options()) for instrument in INSTRUMENTS[:50]
    ]
    wired.publish([price_of(instrument, 1) for instrument in INSTRUMENTS[:50]])

    def send_all() -> None:
        for connection in connections:
            connection.send_snapshot(topics)

    measure(send_all, unit="snapshots", items=100, setup=wired.drain, rounds=50, like="kernel")
    received = wired.drain()
    assert len(set(received)) == 1
    (text,) = messages_of(received[0])
    assert json.loads(text)["batch_size"] == 50
