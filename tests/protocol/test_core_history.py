"""What was missed is found channel by channel where that is less, and number by number else: both are the same."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from core_harness import Bench, Client, bench
from listening import scenario

from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, CHANNEL_STATUS, Channel, Options, Topic

# More channels of which nothing comes than there are updates: for their holder every number is looked at.
N_SILENT = 1500
# Beyond all numbers.
FIRST_VALUE = 1_000_000


class Market:
    """Stocks with a sector and a market, their statuses, news for all, and a record of everything published."""

    def __init__(self, made: Bench, rng: random.Random) -> None:
        self.made = made
        self.rng = rng
        hub = made.hub
        self.stocks = [hub.topic("stock", str(i)) for i in range(24)]
        self.sectors = [hub.topic("sector", str(i)) for i in range(3)]
        self.markets = [hub.topic("market", str(i)) for i in range(2)]
        self.crowd = hub.topic("sector", "silent")
        self.alert = hub.channel("", "alert", (hub.topic("user", ""),), bit=CHANNEL_STATUS, numbered=False)
        self.channels = [
            hub.channel(str(i), "market_status", (market,), bit=CHANNEL_STATUS, numbered=False)
            for i, market in enumerate(self.markets)
        ]
        self.channels.append(hub.channel("", "feed_status", (), bit=CHANNEL_STATUS, numbered=False))
        self.prices = []
        for stock in self.stocks:
            price = hub.channel(stock.name, "price", self.places(stock), bit=CHANNEL_PRICE, numbered=True)
            book = hub.channel(stock.name, "orderbook", (stock,), bit=CHANNEL_ORDERBOOK, numbered=True)
            self.prices.append(price)
            self.channels += [price, book]
        # Private values, each of a topic of its own; by topic the last one, and the number that it shows.
        self.values = {
            topic: hub.channel(topic.name, "value", (topic,), bit=CHANNEL_PRICE, numbered=False, private=True)
            for topic in (hub.topic("value", str(i)) for i in range(6))
        }
        self.last_values: dict[Topic, tuple[int, int]] = {}
        self.n_values = 0
        for i in range(N_SILENT):
            hub.channel(f"silent {i}", "price", (self.crowd,), bit=CHANNEL_PRICE, numbered=True)
        self.published: list[Channel] = []
        # A feed speaks much more of some stocks than of others.
        self.weights = [rng.random() ** 4 for _ in self.channels]

    def places(self, stock: Topic) -> tuple[Topic, ...]:
        places = [stock]
        if self.rng.random() < 0.7:
            places.append(self.rng.choice(self.sectors))
        if self.rng.random() < 0.9:
            places.append(self.rng.choice(self.markets))
        return tuple(places)

    def publish(self, n: int) -> None:
        for channel in self.rng.choices(self.channels, self.weights, k=n):
            self.published.append(channel)
            value = len(self.published)
            if channel.topics:
                assert self.made.hub.publish(channel, value) == value
            else:
                assert self.made.hub.broadcast(channel, value) == value
            if self.rng.random() < 0.3:
                self.publish_value()

    def publish_value(self) -> None:
        topic = self.rng.choice(list(self.values))
        self.n_values += 1
        value = FIRST_VALUE + self.n_values
        number = self.made.hub.publish(self.values[topic], value)
        assert number == len(self.published) == self.made.hub.sequence, "it takes no number"
        self.last_values.pop(topic, None)
        self.last_values[topic] = value, number

    def tell(self) -> int:
        self.published.append(self.alert)
        return self.made.hub.tell(self.alert, len(self.published), [])

    def move(self) -> None:
        """Let some prices belong to other sectors and markets."""
        moved = self.rng.sample(range(len(self.prices)), 5)
        self.made.hub.move_channels({self.prices[i]: self.places(self.stocks[i]) for i in moved})

    def some_topics(self) -> dict[Topic, Options]:
        rng = self.rng
        topics = rng.sample(self.stocks, rng.choice((0, 1, 2, 5, 20)))
        topics += rng.sample(self.sectors, rng.choice((0, 0, 0, 1)))
        topics += rng.sample(self.markets, rng.choice((0, 0, 0, 0, 1)))
        values = rng.sample(list(self.values), rng.choice((0, 0, 1, 3)))
        return {
            topic: self.made.hub.options(
                latest=rng.random() < 0.3,
                channels=rng.choice((CHANNEL_PRICE, CHANNEL_ORDERBOOK, CHANNEL_PRICE | CHANNEL_ORDERBOOK)),
            )
            for topic in topics
        } | dict.fromkeys(values, self.made.hub.options(latest=True))

    def missed(self, wanted: dict[Topic, Options], cursor: int) -> list[tuple[int, bool]]:
        """By the rules, (number, whether it is due only when it is the latest) of each update since `cursor`."""
        bits = {"price": CHANNEL_PRICE, "orderbook": CHANNEL_ORDERBOOK}
        found = []
        for number, channel in enumerate(self.published[cursor:], cursor + 1):
            options = next((wanted[topic] for topic in channel.topics if topic in wanted), None)
            if not channel.topics or (options is not None and channel.name not in bits):
                found.append((number, False))
            elif options is not None and options.channels & bits[channel.name]:
                found.append((number, options.latest))
        return found

    def due(self, wanted: dict[Topic, Options], cursor: int, also: list[int]) -> list[int]:
        last = {channel: number for number, channel in enumerate(self.published, 1)}
        due = {
            number
            for number, is_latest in self.missed(wanted, cursor)
            if not is_latest or last[self.published[number - 1]] == number
        }
        # Whatever has been seen of them.
        values = [value for topic, (value, _) in self.last_values.items() if topic in wanted]
        return sorted(due | set(also)) + values

    def n_values_since(self, wanted: dict[Topic, Options], cursor: int) -> int:
        return sum(number > cursor for topic, (_, number) in self.last_values.items() if topic in wanted)

    def crowded(self, wanted: dict[Topic, Options]) -> dict[Topic, Options]:
        return wanted | {self.crowd: self.made.hub.options()}


async def caught_up(client: Client) -> list[int]:
    """The values that came until the connection had caught up, in order."""
    async with asyncio.timeout(20):
        while client.connection.is_restoring or client.connection.queued_bytes:
            await client.read()
        await client.drain()
    flat: list[Any] = [each for message in client.messages for each in message.get("messages", [message])]
    client.messages.clear()
    return [message["value"] for message in flat]


@pytest.mark.parametrize("history", [1 << 26, 400 * 700])
@scenario
async def test_both_ways_find_the_same(history: int) -> None:
    """With a history that reaches back to the beginning, and with one of which the beginning has fallen out."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    async with bench(interval_ms=1, history_size=history) as made:
        market = Market(made, rng)
        hub = made.hub
        n_sparse = n_refused = 0
        for _ in range(80):
            market.publish(rng.choice((0, 1, 7, 30)))
            told = [market.tell() for _ in range(rng.choice((0, 0, 1, 3)))]
            market.publish(rng.choice((0, 5, 10)))
            if rng.random() < 0.2:
                market.move()
            wanted = market.some_topics()
            cursor = max(0, hub.sequence - rng.choice((0, 1, 20, 100, 300, 1000)))
            also = [number for number in told if number > cursor and rng.random() < 0.5]
            reaches = cursor >= hub.history_start - 1
            since = max(cursor, hub.history_start - 1)
            n_missed = len(market.missed(wanted, since)) + market.n_values_since(wanted, cursor)
            expected = (n_missed, reaches)
            assert hub.count_missed(wanted, cursor) == expected, f"seed {seed}"
            assert hub.count_missed(market.crowded(wanted), cursor) == expected, f"seed {seed}"
            few, crowded = await made.connect(), await made.connect()
            restored = few.connection.restore(wanted, cursor, False, also)
            assert restored is reaches, f"seed {seed}"
            assert crowded.connection.restore(market.crowded(wanted), cursor, False, also) is reaches
            if reaches:
                due = market.due(wanted, cursor, also)
                assert await caught_up(few) == due, f"seed {seed}"
                assert await caught_up(crowded) == due, f"seed {seed}"
                n_sparse += 0 < 4 * len(due) < hub.sequence - cursor
            else:
                n_refused += 1
            for client in (few, crowded):
                client.writer.transport.abort()
        assert n_sparse > 5, f"seed {seed}"
        assert (n_refused > 0) == (history < 1 << 20), f"seed {seed}"


@pytest.mark.parametrize("n_noise", [5, 1], ids=["by channel", "by number"])
@scenario
async def test_both_ways_go_on_while_updates_come_and_channels_move(n_noise: int) -> None:
    """A slow client catches up in many steps; what happens meanwhile reaches it."""
    async with bench(interval_ms=1, send_buffer=4096) as made:
        hub = made.hub
        elsewhere, target = hub.topic("market", "elsewhere"), hub.topic("market", "target")
        heard, mover, noise = [
            hub.channel(name, "price", (topic,), bit=CHANNEL_PRICE, numbered=True)
            for name, topic in (("heard", target), ("mover", elsewhere), ("noise", elsewhere))
        ]
        private = hub.channel("", "alert", (hub.topic("user", ""),), bit=CHANNEL_STATUS, numbered=False)
        due = []

        def publish(n: int, *others: Channel) -> None:
            for _ in range(n):
                for channel in (heard, *[noise] * n_noise, *others):
                    sequence = hub.publish(channel, hub.sequence + 1)
                    if channel is not noise:
                        due.append(sequence)

        publish(6000)
        publish(50, mover)
        client = await made.connect(receive_buffer=4096)
        assert client.connection.restore({target: hub.options()}, 0)
        # It has not come as far as to what was found not to be wanted.
        hub.move_channels({mover: (target,)})
        publish(500, mover)
        late = hub.tell(private, hub.sequence + 1, [client.connection])
        due.append(late)
        publish(100)
        assert client.connection.is_restoring
        assert client.connection.addressed_ahead == [late]
        assert await caught_up(client) == due
