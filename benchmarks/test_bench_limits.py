"""Token buckets of addresses, and counting connections. (A connection's own bucket is part of commands.message.)"""

from __future__ import annotations

import pytest

from benchmarks.conftest import Measure
from fastws.limits import Buckets, Limits

N = 1000
SECOND_NS = 1_000_000_000


@pytest.mark.parametrize("n_keys", [1, 1000])
def test_take(measure: Measure, n_keys: int) -> None:
    """Tokens taken from the buckets of so many addresses, at a rate that grants every other one"""
    keys = [f"10.0.{i // 256}.{i % 256}" for i in range(n_keys)]
    order = [keys[i % n_keys] for i in range(N)]
    rate = 50
    # Each key asks twice as often as it gets.
    step_ns = SECOND_NS // rate // 2 // n_keys
    buckets = Buckets(rate)
    now_ns = 0

    def take_all() -> int:
        nonlocal now_ns
        granted = 0
        for key in order:
            now_ns += step_ns
            granted += buckets.take(key, now_ns) == 0
        return granted

    for _ in range(2 * rate * 2 * n_keys // N + 2):
        take_all()  # until the first burst is used up
    granted = measure(take_all, unit="tokens", items=N, like="python")
    assert abs(granted - N // 2) <= 1 + n_keys // 2


def test_come_and_go(measure: Measure) -> None:
    """Handshake, arrival, admission and departure of a connection, 1,000 addresses"""
    limits = Limits(connection_limit=50_000, connections_per_ip=10, handshake_rate=1_000_000)
    keys = [f"10.0.{i // 256}.{i % 256}" for i in range(N)]

    def come_and_go() -> None:
        for now_ns, key in enumerate(keys):
            assert limits.handshake(key, now_ns) is None
            limits.arrive(key)
            assert limits.admit(key) is None
        for key in keys:
            limits.depart(key, is_admitted=True)

    measure(come_and_go, unit="connections", items=N, like="python")
    assert (limits.n_admitted, limits.n_guests, limits.n_addresses) == (0, 0, 0)
