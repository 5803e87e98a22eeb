"""Relays of several hubs over a real Redis: joining, gaps, outages, and that all end with the same values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws._core import Dialect, Hub
from fastws._market import Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws._relay import shard_of
from fastws.feeds.base import FeedState
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay import meetings, peers, posts, redis_listening
from fastws.relay import relay as relays
from fastws.relay.address import parse_address
from fastws.relay.keeper import FeedKeeper
from fastws.relay.redis_links import RedisLink
from fastws.relay.relay import Relay
from tests.redis_server import RedisServer

CODES = [f"{i:06}" for i in range(40)]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Instance:
    """A market with a relay, and what has come to it: per code the prices in their order."""

    def __init__(self, url: str, wanted: list[str], n_shards: int, history_bytes: int) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
        self.market = Market(self.hub, Instruments([Instrument(code, None, "KOSPI") for code in CODES]))
        self.wanted = wanted
        self.seen: dict[str, list[int]] = {}
        self.market.on_price.append(self._on_price)
        self.relay = Relay(
            self.hub,
            self.market,
            Dialect("screener", encode_screener),
            parse_address(url),
            name=f"test/{id(self)}",
            prefix="test",
            n_shards=n_shards,
            interval_ms=1,
            history_bytes=history_bytes,
            wanted=lambda: self.wanted,
        )

    def _on_price(self, update: PriceUpdate) -> None:
        self.seen.setdefault(update.instrument.code, []).append(int(update.price))

    def publish(self, code: str, number: int) -> None:
        self.market.publish_price(PriceUpdate(self.market.ensure_instrument(code), number))

    def last(self) -> dict[str, int]:
        found = {code: self.market.last_price(code) for code in CODES}
        return {code: int(price.price) for code, price in found.items() if price is not None}

    @property
    def n_missed(self) -> int:
        return self.relay.counts.updates["missed"]


Start = Callable[..., Any]


@pytest.fixture
async def start(redis: RedisServer) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def made(
            wanted: list[str] | None = None,
            *,
            url: str = redis.url,
            n_shards: int = 4,
            history: int = 16 << 20,
        ) -> Instance:
            instance = Instance(url, CODES if wanted is None else wanted, n_shards, history)
            instance.relay.start()
            stack.callback(instance.hub.stop)
            stack.push_async_callback(instance.relay.stop)
            return instance

        yield made


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def has_counted(instance: Instance, n: int) -> bool:
    """Whether each of `n` prices was seen, or is known to be missed."""
    return sum(map(len, instance.seen.values())) + instance.n_missed == n


async def meeting(*instances: Instance) -> None:
    await until(
        lambda: all(
            len(each.relay.peers) == len(instances) - 1 and not each.relay.missing("stock", each.wanted)
            for each in instances
        )
    )


async def test_everything_arrives_once_and_in_order(start: Start) -> None:
    one, two, three = instances = [await start() for _ in range(3)]
    await meeting(*instances)
    for number in range(1000):
        one.publish(CODES[number % 40], number)
        if number % 10 == 0:
            two.publish("other", number)
            await asyncio.sleep(0)
    await until(lambda: all(sum(map(len, each.seen.values())) == 1100 for each in instances))
    assert one.seen == two.seen == three.seen
    assert all(each.n_missed == 0 for each in instances)
    assert three.market.book_ring(CODES[0]) is None
    channel = three.market.channel_of("price_update", CODES[0])
    assert channel.seq == 25
    assert channel.last_published_ms == one.market.channel_of("price_update", CODES[0]).last_published_ms
    assert three.relay.counts.gaps == {"seen": 0, "given_up": 0}


async def test_a_late_one_gets_the_last_values(start: Start) -> None:
    one = await start()
    await until(lambda: one.relay.is_up)
    for number, code in enumerate(CODES):
        one.publish(code, number)
        one.publish(code, number + 1)
    one.market.set_status("KOSPI", "open")
    two = await start()
    await until(lambda: two.last() == one.last())
    assert two.seen == {code: [number + 1] for number, code in enumerate(CODES)}
    await meeting(one, two)
    # Also what another one has published that is gone.
    await one.relay.stop()
    await until(lambda: len(two.relay.peers) == 0)
    three = await start()
    await until(lambda: three.last() == two.last() and len(three.last()) == 40)
    status = three.market.channel_of("market_status", "KOSPI").last_payload
    assert isinstance(status, MarketStatus)
    assert status.status == "open"


async def test_only_what_is_wanted_comes(start: Start) -> None:
    one = await start([])
    mine = [code for code in CODES if shard_of(code, 4) == 1]
    two = await start(mine[:1])
    await until(lambda: one.relay.peers and two.relay.shards == {1})
    await until(lambda: not two.relay.missing("stock", mine))
    for number, code in enumerate(CODES):
        two.publish(code, number)
        one.publish(code, number)
    await until(lambda: set(two.seen) == set(CODES) and len(two.seen[mine[-1]]) == 2)
    assert all(len(two.seen[code]) == 1 for code in CODES if code not in mine)
    assert one.relay.counts.envelopes["received"] == 0
    # Until somebody asks.
    other = next(code for code in CODES if code not in mine)
    heard: list[bool] = []
    missing = one.relay.missing("stock", [other])
    assert missing
    one.relay.when_heard(missing, lambda: heard.append(one.market.last_price(other) is not None))
    await until(lambda: heard)
    two.publish(other, 99)
    await until(lambda: one.last()[other] == 99)


async def test_a_market_is_all_of_its_members(start: Start) -> None:
    one, two = await start([]), await start([])
    await until(lambda: one.relay.peers and two.relay.peers)
    missing = two.relay.missing("market", ["KOSPI"])
    heard: list[bool] = []
    two.relay.when_heard(missing, lambda: heard.append(True))
    await until(lambda: heard)
    for code in CODES:
        one.publish(code, 5)
    one.market.set_status("KOSPI", "closed")
    await until(lambda: len(two.last()) == 40)
    await until(lambda: two.market.channel_of("market_status", "KOSPI").last_payload is not None)


async def test_two_that_publish_the_same_code_end_with_the_same_value(start: Start) -> None:
    one, two, three = instances = [await start() for _ in range(3)]
    await meeting(*instances)
    for number in range(300):
        for who, each in enumerate((one, two)):
            for code in CODES[:3]:
                each.publish(code, 10 * number + who)
        await asyncio.sleep(0)
    published = 600
    await until(
        lambda: (
            all(each.relay.counts.updates["received"] >= 900 for each in (one, two))
            and three.relay.counts.updates["received"] >= 1800
        )
    )
    assert one.last() == two.last() == three.last()
    for each in instances:
        for code in CODES[:3]:
            # Each was seen or is known to be missed.
            channel = each.market.channel_of("price_update", code)
            assert len(each.seen[code]) <= published
            assert channel.seq <= published


async def test_redis_is_killed_again_and_again_under_load(start: Start, redis: RedisServer) -> None:
    one, two, three = instances = [await start() for _ in range(3)]
    await meeting(*instances)
    n = 0
    is_over = False

    async def publish() -> None:
        nonlocal n
        while not is_over:
            for each, codes in ((one, CODES[:20]), (two, CODES[20:])):
                for code in codes[n % 4 :: 4]:
                    each.publish(code, n)
            n += 1
            await asyncio.sleep(0.004)

    task = asyncio.ensure_future(publish())
    for _ in range(5):
        redis.kill()
        await until(lambda: not any(each.relay.is_up for each in instances))
        await asyncio.to_thread(redis.start)
        await until(lambda: all(each.relay.is_up for each in instances))
    is_over = True
    await task
    await until(lambda: one.last() == two.last() == three.last())
    # What was missed was sent again, and what came too late for that is counted.
    for each in instances:
        await until(partial(has_counted, each, 10 * n))
        assert all(values == sorted(values) for values in each.seen.values())


async def test_what_is_not_kept_any_more_is_counted(
    start: Start, redis: RedisServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(relays, "RedisLink", partial(RedisLink, queue_limit=20_000))
    one = await start(history=20_000)
    two = await start(history=20_000)
    await meeting(one, two)
    one.publish(CODES[0], 1)
    await until(lambda: two.last() == one.last())
    redis.kill()
    await until(lambda: not one.relay.is_up and not two.relay.is_up)
    for number in range(2, 1000):
        for code in CODES[:2]:
            one.publish(code, number)
        if number % 20 == 0:
            await asyncio.sleep(0.003)
    await asyncio.to_thread(redis.start)
    await until(lambda: two.last() == one.last())
    for code in CODES[:2]:
        one.publish(code, 1000)
    await until(lambda: two.last()[CODES[1]] == 1000)
    n_seen = sum(map(len, two.seen.values()))
    assert two.n_missed > 0
    assert n_seen + two.n_missed == one.hub.sequence == 1 + 2 * 998 + 2
    # Their numbers go on as if they had come, so clients see what they have lost.
    for code in CODES[:2]:
        assert (
            two.market.channel_of("price_update", code).seq == one.market.channel_of("price_update", code).seq
        )
        assert two.seen[code] == sorted(two.seen[code])


async def test_messages_lost_by_redis_are_repeated(start: Start, monkeypatch: Any) -> None:
    """As when Redis drops the connection of one that reads too slowly."""
    one, two = await start(), await start()
    await meeting(one, two)
    sent = RedisLink.send
    n_dropped = 0

    def lossy(link: RedisLink, channel: str, data: bytes) -> None:
        nonlocal n_dropped
        if link is one.relay.link and data[8:9] == b"\x01" and data[:3] == b"FWR" and hash(data) % 3 == 0:
            n_dropped += 1
            return
        sent(link, channel, data)

    monkeypatch.setattr(RedisLink, "send", lossy)
    for number in range(400):
        one.publish(CODES[number % 7], number)
        await asyncio.sleep(0.001)
    await until(lambda: two.seen == one.seen)
    assert n_dropped > 10
    assert two.n_missed == 0
    assert two.relay.counts.gaps["seen"] > 0
    assert two.relay.counts.gaps["given_up"] == 0


async def test_an_origin_that_is_silent_delays_for_a_second_and_not_more(
    start: Start, monkeypatch: Any
) -> None:
    one, two = await start(), await start()
    await meeting(one, two)
    one.publish(CODES[0], 1)
    await until(lambda: two.seen)
    sent = RedisLink.send
    monkeypatch.setattr(RedisLink, "send", lambda link, channel, data: None)
    one.publish(CODES[0], 2)
    await asyncio.sleep(0.01)
    # Nor does it answer what it is asked.
    monkeypatch.setattr(one.relay.sending, "repeat", lambda request: None)
    monkeypatch.setattr(RedisLink, "send", sent)
    at = time.monotonic()
    one.publish(CODES[0], 3)
    await until(lambda: two.seen[CODES[0]] == [1, 3])
    assert 0.8 < time.monotonic() - at < 3.0
    assert two.n_missed == 1
    assert two.relay.counts.gaps["given_up"] == 1


async def test_nobody_waits_for_a_redis_that_is_away(start: Start, redis: RedisServer) -> None:
    redis.kill()
    one = await start([])
    # At the start it is to be there any moment.
    assert one.relay.missing("stock", CODES)
    heard: list[float] = []
    at = time.monotonic()
    one.relay.when_heard(frozenset({0}), lambda: heard.append(time.monotonic() - at))
    await until(lambda: heard)
    assert heard[0] < 1.0
    assert not one.relay.missing("stock", CODES)
    one.publish(CODES[0], 7)
    assert one.last() == {CODES[0]: 7}


async def test_another_number_of_shards_is_said_and_ignored(start: Start, capsys: Any) -> None:
    one, two = await start(n_shards=4), await start(n_shards=8)
    await until(lambda: one.relay.is_up and two.relay.is_up)
    await until(lambda: "relay_shards" in capsys.readouterr().out)
    assert not one.relay.peers
    assert not two.relay.peers


async def test_what_strangers_send_is_left_out(start: Start, redis: RedisServer) -> None:
    one, two = await start(), await start()
    await meeting(one, two)
    for data in (b"FWR", b"FWR\x01" + bytes(60), b"\x93\x01\x02", b"", b"hello"):
        for channel in ("control", "shard:0/4", f"to:{one.relay.origin:016x}"):
            two.relay.link.send(f"{{test:0}}:{channel}", data)
    await until(lambda: one.relay.counts.refused >= 10)
    two.publish(CODES[0], 5)
    await until(lambda: one.last() == {CODES[0]: 5})


async def test_a_partition_heals(start: Start, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides go on, count each other as gone, and are one again: each update seen, or known to be missed."""
    monkeypatch.setattr(redis_listening, "REDIS_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(peers, "PEER_SILENCE_SECONDS", 0.8)
    monkeypatch.setattr(relays, "_ANNOUNCE_SECONDS", 0.2)
    async with FaultProxy.run(redis.port) as proxy:
        one, three = await start(), await start()
        two = await start(url=f"redis://127.0.0.1:{proxy.port}/0")
        await meeting(one, two, three)
        n = 0
        is_over = False

        async def publish() -> None:
            nonlocal n
            while not is_over:
                for each, code in ((one, CODES[n % 20]), (two, CODES[20 + n % 20])):
                    each.publish(code, n)
                n += 1
                await asyncio.sleep(0.003)

        task = asyncio.ensure_future(publish())
        await until(lambda: n > 50)
        proxy.is_open = False
        proxy.stall()
        await until(lambda: not two.relay.is_up)
        await until(lambda: len(one.relay.peers) == 1 and len(three.relay.peers) == 1)
        seen = n
        await until(lambda: n > seen + 50)
        assert two.last()[CODES[20 + (n - 1) % 20]] == n - 1
        proxy.is_open = True
        await until(lambda: all(len(each.relay.peers) == 2 for each in (one, two, three)))
        is_over = True
        await task
        await until(lambda: one.last() == two.last() == three.last())
        for each in (one, two, three):
            assert all(values == sorted(values) for values in each.seen.values())
            await until(partial(has_counted, each, 2 * n))
        proxy.kill()


class Runner:
    """What can run a feed at an instance, and how often and when it did."""

    def __init__(self, instance: Instance, rank: int) -> None:
        self.instance = instance
        self.status: FeedState = "stopped"
        self.n_runs = 0
        self.keeper = FeedKeeper(
            instance.relay,
            "feed",
            rank=rank,
            patience=1.0,
            status=lambda: self.status,
        )
        self.keeper.start(self.run)

    async def run(self) -> None:
        self.n_runs += 1
        self.status = "live"
        try:
            await asyncio.Event().wait()
        finally:
            self.status = "stopped"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes faster for everything that waits to hear of others."""
    monkeypatch.setattr(redis_listening, "REDIS_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(peers, "PEER_SILENCE_SECONDS", 0.8)
    monkeypatch.setattr(relays, "_ANNOUNCE_SECONDS", 0.2)
    for name in ("SETTLE_SECONDS", "HANDOVER_SECONDS"):
        monkeypatch.setattr(posts, name, 0.4)
    monkeypatch.setattr(meetings, "FEED_SILENCE_SECONDS", 0.6)


@pytest.mark.usefixtures("quick")
async def test_a_feed_changes_hands_with_its_owner_and_not_with_redis(
    start: Start, redis: RedisServer
) -> None:
    async with FaultProxy.run(redis.port) as proxy, AsyncExitStack() as stack:
        runners = []
        for rank, url in enumerate((f"redis://127.0.0.1:{proxy.port}/0", redis.url, redis.url)):
            runner = Runner(await start(url=url), rank)
            stack.push_async_callback(runner.keeper.stop)
            runners.append(runner)

        def run_it(*wanted: Runner) -> Callable[[], bool]:
            return lambda: [each for each in runners if each.status == "live"] == list(wanted)

        one, two, three = runners
        await until(run_it(one))
        await until(lambda: two.keeper.owner == three.keeper.owner == one.instance.relay.name)
        shown: list[str] = []
        three.instance.relay.meetings.on_feed = lambda feed, status: shown.append(status)

        # Redis away, for longer than anybody waits for an owner: nothing happens.
        redis.kill()
        await until(lambda: not any(each.instance.relay.is_up for each in runners))
        lost_at = time.monotonic()
        await until(lambda: time.monotonic() - lost_at > 1.2)
        await asyncio.to_thread(redis.start)
        await meeting(*(each.instance for each in runners))
        assert run_it(one)()
        assert (one.n_runs, two.n_runs, three.n_runs) == (1, 0, 0)
        # Meanwhile nothing came of it to others, who were told so.
        await until(lambda: shown == ["reconnecting", "live"])

        # Redis cannot reach the owner, which goes on; the next in the row takes over; then they hear of each other.
        proxy.is_open = False
        proxy.stall()
        await until(run_it(one, two))
        proxy.is_open = True
        await until(run_it(one))
        assert (one.n_runs, two.n_runs, three.n_runs) == (1, 1, 0)
        await until(lambda: two.keeper.owner == three.keeper.owner == one.instance.relay.name)

        # It stops, and says so.
        await one.keeper.stop()
        await until(run_it(two))
        assert two.keeper.post.n_takeovers == 2
        proxy.kill()


@pytest.mark.usefixtures("quick")
async def test_users_of_others_count_while_they_are_heard(start: Start, redis: RedisServer) -> None:
    async with FaultProxy.run(redis.port) as proxy:
        one, two = await start(), await start()
        three = await start(url=f"redis://127.0.0.1:{proxy.port}/0")
        held: dict[Instance, dict[str, tuple[int, int]]] = {one: {}, two: {}, three: {}}
        for instance, users in held.items():
            instance.relay.sharing.user = lambda key, users=users: users.get(key, (0, 0))  # type: ignore[misc]

        def set_user(instance: Instance, key: str, n: int) -> None:
            held[instance][key] = (n, 10) if n else (0, 0)
            instance.relay.sharing.note_user(key)

        def counts(instance: Instance, *keys: str) -> list[int]:
            return [instance.relay.sharing.n_connections(key) for key in keys]

        for i in range(5000):
            set_user(two, f"u{i}", 1)
        await meeting(one, two, three)
        set_user(three, "u7", 2)
        await until(lambda: counts(one, "u0", "u7", "u4999", "other") == [1, 3, 1, 0])

        # One that comes later asks for all there is.
        four = await start()
        await until(lambda: counts(four, "u0", "u7", "u4999") == [1, 3, 1])

        # One that is not heard any more gives back what it had, and has it again when it is back.
        proxy.is_open = False
        proxy.stall()
        await until(lambda: counts(one, "u7") == [1])
        await until(lambda: not three.relay.is_up)
        assert counts(three, "u7") == [0]
        set_user(three, "u7", 1)
        proxy.is_open = True
        await until(lambda: counts(one, "u7") == [2] and counts(three, "u7") == [1])

        # Without Redis everybody is alone; what was lost meanwhile is found out.
        redis.kill()
        await until(lambda: not one.relay.is_up)
        assert counts(one, "u0", "u7") == [0, 0]
        set_user(two, "u0", 0)
        await asyncio.to_thread(redis.start)
        await until(lambda: counts(one, "u0", "u7", "u1") == [0, 2, 1])
        proxy.kill()


@pytest.mark.usefixtures("quick")
async def test_a_lost_change_of_a_table_is_found_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await start(), await start()
    await meeting(one, two)
    two.relay.sharing.user = lambda key: (1, 5)
    sent = RedisLink.send

    n_lost = 0

    def lossy(link: RedisLink, channel: str, data: bytes) -> None:
        nonlocal n_lost
        # Changes, and not the whole table.
        if link is two.relay.link and b"part\xc0" in data:
            n_lost += 1
        else:
            sent(link, channel, data)

    monkeypatch.setattr(RedisLink, "send", lossy)
    two.relay.sharing.note_user("kim")
    await until(lambda: one.relay.sharing.n_connections("kim") == 1)
    assert n_lost == 1
