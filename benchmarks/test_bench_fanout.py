"""From what is pending to the sockets: batches, and how they go to a thousand connections.

All of a flush is timed: encoding, joining, framing, sending; publishing and the clients' reading are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import Wiring, instrument, messages_of, price_of
from fastws.deflate import inflate

Wire = Callable[..., Wiring]

N_COHORTS = 20
N_CONNECTIONS = 1000
INSTRUMENTS = [instrument(i) for i in range(200)]


class Rounds:
    """New prices before each round, read by the clients before the next."""

    def __init__(self, wired: Wiring, n_prices: int, n_instruments: int) -> None:
        self.wired = wired
        self.n_prices = n_prices
        self.n_instruments = n_instruments
        self.n = 0

    def prepare(self) -> None:
        self.wired.drain()
        self.n += 1
        self.wired.publish(
            [
                price_of(INSTRUMENTS[i], self.n * 31 + k * 7)
                for i in range(self.n_instruments)
                for k in range(self.n_prices)
            ]
        )

    def check(self, n_clients: int, *, is_compressed: bool = False) -> None:
        """What the last round has brought: all of it, to everybody."""
        received = self.wired.drain()
        assert len(received) == n_clients
        for data in received:
            (text,) = messages_of(data)
            message = json.loads(inflate(text, 1 << 20) if is_compressed else text)
            prices = message["messages"] if message["type"] == "batch" else [message]
            assert len(prices) == self.n_prices
            assert [price["change"] for price in prices] == [
                (self.n * 31 + k * 7) % 997 for k in range(self.n_prices)
            ]


@pytest.mark.parametrize("window_bits", [0, 15], ids=["plain", "deflate"])
@pytest.mark.parametrize("n_prices", [1, 20, 200])
def test_batch(measure: Measure, wiring: Wire, n_prices: int, window_bits: int) -> None:
    """Batches of so many prices of one symbol, built for one connection and sent to it"""
    wired = wiring()
    for i, connection in enumerate(wired.connect(N_COHORTS, window_bits=window_bits)):
        wired.subscribe(connection, [INSTRUMENTS[i].code])
    rounds = Rounds(wired, n_prices, N_COHORTS)
    measure(
        wired.turn,
        unit="messages",
        items=N_COHORTS * n_prices,
        setup=rounds.prepare,
        rounds=40 if n_prices < 200 else 15,
    )
    rounds.check(N_COHORTS, is_compressed=window_bits > 0)


@pytest.mark.parametrize("n_prices", [1, 20])
def test_one_cohort(measure: Measure, wiring: Wire, n_prices: int) -> None:
    """A batch of so many prices to 1,000 connections that share it"""
    wired = wiring()
    for connection in wired.connect(N_CONNECTIONS):
        wired.subscribe(connection, [INSTRUMENTS[0].code])
    rounds = Rounds(wired, n_prices, 1)
    measure(wired.turn, unit="sends", items=N_CONNECTIONS, setup=rounds.prepare, rounds=25, like="kernel")
    rounds.check(N_CONNECTIONS)


@pytest.mark.parametrize("n_prices", [1, 20])
def test_one_cohort_by_a_loop_of_send(measure: Measure, wiring: Wire, n_prices: int) -> None:
    """a Python loop of send(), same bytes"""
    wired = wiring()
    (connection,) = wired.connect(1)
    wired.subscribe(connection, [INSTRUMENTS[0].code])
    rounds = Rounds(wired, n_prices, 1)
    rounds.prepare()
    wired.turn()
    (frame,) = wired.drain()
    others = wiring()
    sockets = [c.transport.get_extra_info("socket").dup() for c in others.connect(N_CONNECTIONS)]

    def send_all() -> int:
        n = 0
        for sock in sockets:
            n += sock.send(frame)
        return n

    n = measure(
        send_all,
        unit="sends",
        items=N_CONNECTIONS,
        setup=others.drain,
        rounds=25,
        like="kernel",
        against=f"fanout.one_cohort[{n_prices}]",
    )
    assert n == N_CONNECTIONS * len(frame)
    assert others.drain() == [frame] * N_CONNECTIONS
    for sock in sockets:
        sock.close()


def test_own_watch_lists(measure: Measure, wiring: Wire) -> None:
    """200 connections, each with its own list of 20 of 200 symbols: a batch of 20 for each"""
    wired = wiring()
    for i, connection in enumerate(wired.connect(200)):
        wired.subscribe(connection, [INSTRUMENTS[(i + 10 * k) % 200].code for k in range(20)])
    rounds = Rounds(wired, 1, 200)
    measure(wired.turn, unit="messages", items=200 * 20, setup=rounds.prepare, rounds=25, like="kernel")
    for data in wired.drain():
        (text,) = messages_of(data)
        assert json.loads(text)["batch_size"] == 20
