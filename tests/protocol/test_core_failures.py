"""A frame that cannot be made: whom it was for is closed and may go on elsewhere, and nobody falls silent."""

from __future__ import annotations

from core_harness import bench
from listening import scenario, until


class Compressor:
    """Leaves payloads as they are, and fails when it is called for the n-th time from now."""

    def __init__(self) -> None:
        self.fails_in = 0

    def __call__(self, payload: bytes, window_bits: int) -> bytes:
        self.fails_in -= 1
        if self.fails_in == 0:
            raise MemoryError
        return payload


@scenario
async def test_a_flush_that_fails_closes_those_it_was_for() -> None:
    compressor = Compressor()
    async with bench(interval_ms=5, window_bits=15, compress=compressor, deflate_threshold=1) as made:
        clients = [await made.connect() for _ in range(4)]
        other = await made.connect()
        for client in clients:
            made.subscribe(client, "A")
        made.subscribe(other, "B")
        compressor.fails_in = 1
        number = made.publish("A", 1)
        await until(lambda: made.handler.closed == [1011] * 4)
        assert other.connection.is_open
        for client in clients:
            assert client.connection.left_sequence == number - 1
            assert client.connection.left_subscriptions
        made.publish("B", 2)
        await until(lambda: made.hub.flusher.is_idle)
        assert other.connection.ledger()["delivered"] == 1


@scenario
async def test_what_a_slower_flush_took_along_is_not_lost_when_it_fails() -> None:
    compressor = Compressor()
    async with bench(interval_ms=1000, window_bits=15, compress=compressor, deflate_threshold=1) as made:
        clients = [await made.connect() for _ in range(4)]
        wanted = {made.topic("A"): made.hub.options(), made.topic("B"): made.hub.options(max_rate=0.1)}
        for client in clients:
            client.connection.set_subscriptions(wanted)
        first = made.publish("A", 1)
        await until(lambda: clients[-1].connection.ledger()["delivered"] == 1)
        made.publish("A", 2)
        # This one leads, and takes along what waits for its interval.
        made.publish("B", 3)
        compressor.fails_in = 1
        await until(lambda: made.handler.closed == [1011] * 4)
        for client in clients:
            assert client.connection.left_sequence == first
        assert made.hub.count_missed(wanted, first) == (2, True)


@scenario
async def test_a_connection_that_cannot_catch_up_is_closed() -> None:
    compressor = Compressor()
    n = 3000
    async with bench(interval_ms=5, window_bits=15, compress=compressor, deflate_threshold=1) as made:
        client = await made.connect()
        for value in range(n):
            made.publish("A", value)
        wanted = {made.topic("A"): made.hub.options()}
        compressor.fails_in = 2
        assert client.connection.restore(wanted, 0)
        await until(lambda: made.handler.closed == [1011])
        left = client.connection.left_sequence
        assert 0 < left < n
        assert client.connection.ledger()["delivered"] == left
        assert client.connection.left_subscriptions == wanted
        assert made.hub.count_missed(wanted, left) == (n - left, True)
