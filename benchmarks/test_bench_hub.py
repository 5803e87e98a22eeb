"""Publishing: what an update costs up to where it is pending for those who want it. Flushes are not timed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import Wiring, instrument, messages_of, price_of

Wire = Callable[..., Wiring]

INSTRUMENTS = [instrument(i) for i in range(100)]
# What they come to as a batch fits into a socket.
UPDATES = [price_of(INSTRUMENTS[i % 100], i) for i in range(400)]
FLOOR_PER_S = 1_000_000  # what the hub must take on one core


class Rounds:
    """Cohorts that all want every price, and beside it a symbol of their own. They get a round before the next."""

    def __init__(self, wired: Wiring, n_cohorts: int, *, latest: bool) -> None:
        self.wired = wired
        codes = [instrument.code for instrument in INSTRUMENTS]
        for i, connection in enumerate(wired.connect(n_cohorts)):
            wired.subscribe(connection, [*codes, f"own {i}"], latest=latest)

    def prepare(self) -> None:
        self.wired.turn()
        self.wired.drain()

    def check(self, n: int) -> None:
        """Everybody gets `n` prices of the last round, up to its last one."""
        self.wired.turn()
        for data in self.wired.drain():
            batches = [json.loads(text) for text in messages_of(data)]
            assert sum(batch["batch_size"] for batch in batches) == n
            assert batches[-1]["sequence"] == self.wired.hub.sequence


@pytest.mark.parametrize("n_cohorts", [0, 1])
def test_hub(measure: Measure, wiring: Wire, n_cohorts: int) -> None:
    """Hub.publish, to so many cohorts: the core alone"""
    wired = wiring()
    rounds = Rounds(wired, n_cohorts, latest=False)
    wired.publish(UPDATES)
    channels = [wired.hub.topic("stock", update.instrument.code).channels[0] for update in UPDATES]
    pairs = list(zip(channels, UPDATES, strict=True))

    def publish_all() -> int:
        publish = wired.hub.publish
        for channel, update in pairs:
            sequence = publish(channel, update)
        return sequence

    sequence = measure(
        publish_all, unit="updates", items=len(pairs), setup=rounds.prepare, rounds=100, at_least=FLOOR_PER_S
    )
    assert sequence == wired.hub.sequence
    assert channels[-1].last_payload is UPDATES[-1]
    assert channels[-1].seq * len(INSTRUMENTS) == sequence
    rounds.check(len(UPDATES))


@pytest.mark.parametrize("mode", ["all", "latest"])
@pytest.mark.parametrize(("n_cohorts", "n"), [(0, 400), (1, 400), (1000, 100)], ids=["0", "1", "1000"])
def test_market(measure: Measure, wiring: Wire, n_cohorts: int, n: int, mode: str) -> None:
    """Market.publish_price, to so many cohorts"""
    wired = wiring()
    rounds = Rounds(wired, n_cohorts, latest=mode == "latest")
    updates = UPDATES[:n]
    measure(
        wired.publish,
        updates,
        unit="updates",
        items=n,
        setup=rounds.prepare,
        rounds=100 if n_cohorts < 2 else 16,
        like="native" if n_cohorts < 2 else "memory",
    )
    assert wired.market.last_price(updates[-1].instrument.code) is updates[-1]
    rounds.check(len(INSTRUMENTS) if mode == "latest" else n)


def test_market_of_own_symbols(measure: Measure, wiring: Wire) -> None:
    """Market.publish_price with 1,000 connections, each on one symbol of its own"""
    wired = wiring()
    for i, connection in enumerate(wired.connect(1000)):
        wired.subscribe(connection, [f"{i:06d}"])
    updates = [price_of(instrument(i), i) for i in range(1000)]

    def prepare() -> None:
        wired.turn()
        wired.drain()

    measure(wired.publish, updates, unit="updates", items=1000, setup=prepare, rounds=30, like="memory")
    wired.turn()
    for i, data in enumerate(wired.drain()):
        (text,) = messages_of(data)
        assert json.loads(text)["code"] == f"{i:06d}"
