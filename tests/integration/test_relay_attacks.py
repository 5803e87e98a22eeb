"""Somebody who can write to Redis and means no good: nothing ends, nothing grows, and the others are still heard."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from fastws._relay import LAST_VALUES, LIVE, empty_envelope, stamp_at
from fastws.relay import meetings, receiving, streams
from fastws.relay import relay as relays
from fastws.relay.control import Announcement, GapRequest, UserAlert, ValuesRequest, encode
from tests.redis_server import RedisServer
from tests.relays import Instance, two_instances, until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def refused(instance: Instance) -> tuple[int, int]:
    """How many messages, and updates, were refused."""
    return instance.relay.counts.refused, instance.relay.counts.updates["refused"]


class Attacked:
    """Two instances that know each other, and a stranger's connection to their Redis."""

    def __init__(self, one: Instance, two: Instance, stranger: Redis) -> None:
        self.one, self.two, self.stranger = one, two, stranger
        self._n = 0

    async def say(self, *messages: bytes, channel: str = "control") -> None:
        async with self.stranger.pipeline(transaction=False) as pipe:
            for message in messages:
                pipe.publish(f"{{test:0}}:{channel}", message)
            await pipe.execute()

    async def check(self) -> None:
        """What each of the two publishes, the other has."""
        for sender, receiver in ((self.one, self.two), (self.two, self.one)):
            self._n += 1
            sender.publish(self._n)
            await until(lambda receiver=receiver: receiver.last() == self._n)


@asynccontextmanager
async def attacked(redis: RedisServer) -> AsyncIterator[Attacked]:
    async with (
        two_instances(redis.url, redis.url) as (one, two),
        Redis.from_url(redis.url, protocol=2) as stranger,
    ):
        made = Attacked(one, two, stranger)
        await made.check()
        yield made
        await made.check()


def price(
    code: bytes = b"A",
    *,
    body: bytes | None = None,
    stamp: int | None = None,
    origin: int = 99,
    number: int = 1,
) -> bytes:
    """An envelope of one price, 7, with a right checksum."""
    text = b'{"type":"price_update","code":"%b","price":7' % code if body is None else body
    at = stamp_at(time.time()) if stamp is None else stamp
    update = struct.pack("<BBHIqqq", 1, len(code), 1, len(text), at | (origin & 0xFFF), 0, number)
    head = bytearray(empty_envelope(LIVE, n_shards=1, shard=0, origin=origin, first=number, is_last=False))
    head[32:36] = struct.pack("<I", 1)
    data = bytes(head) + update + code + struct.pack("<qb", 7, 0) + text
    return data[:4] + struct.pack("<I", zlib.crc32(data[8:])) + data[8:]


SHARD = "shard:0/1"


async def test_what_no_client_may_get_is_refused_and_counted(redis: RedisServer) -> None:
    async with attacked(redis) as site:
        one = site.one
        await site.say(
            price(body=b'{"type":"price_update","code":"A","price":NaN'),
            price(body=b'{"type":"price_update","code":"A","price":7,"x":"\xff"', origin=100),
            price(body=b'{"type":"server_shutdown","price":7', origin=101),
            price(stamp=stamp_at(time.time() + 90_000), origin=102),
            price(b"\xc2\x80" * 60, origin=103),
            channel=SHARD,
        )
        await until(lambda: refused(one)[1] == 5)
        alerts: list[UserAlert] = []
        one.relay.on_alert = alerts.append
        alert = UserAlert(5, "u:1", "A", "price_above", "1", "2", "text", extra=b'"x":1},{"y":2')
        await site.say(encode(alert))
        await until(lambda: refused(one)[0] == 1)
        assert alerts == []
        assert one.last() != 7
        # And one that is well is taken.
        await site.say(price(origin=104), channel=SHARD)
        await until(lambda: one.last() == 7)


async def test_envelopes_of_others_sizes_and_versions(redis: RedisServer) -> None:
    async with attacked(redis) as site:
        good = price()
        messages = [
            good[:3] + b"\x09" + good[4:],
            good[:-1],
            good + b"x",
            b"FWR" + bytes(9 << 20),
            empty_envelope(LIVE, n_shards=64, shard=0, origin=98, first=1),
            encode(Announcement(98, "of another size", [1, 2, 3, 4])),
            b"\xc1",
            b"\xdd\xff\xff\xff\xff",
            b"\x91" * 10_000,
        ]
        await site.say(*messages, channel=SHARD)
        await until(lambda: refused(site.one)[0] >= len(messages) - 1)
        assert len(site.one.relay.peers) == 1


async def test_instances_that_are_none_are_bounded(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meetings, "MAX_PEERS", 20)
    monkeypatch.setattr(receiving, "_MAX_ORIGINS", 50)
    async with attacked(redis) as site:
        one = site.one
        await site.say(*(price(origin=1000 + i) for i in range(300)), channel=SHARD)
        await until(lambda: refused(one)[0] >= 200)
        assert len(one.relay.receiving.origins()) <= 50
        # They are forgotten, so that there is room for those that are some.
        await until(lambda: len(one.relay.receiving.origins()) <= 21)
        before = refused(one)[0]
        await site.say(
            *(encode(Announcement(5000 + i, f"no {i}", [0], {f"feed {i}": "live"})) for i in range(300))
        )
        await until(lambda: refused(one)[0] >= before + 281)
        assert len(one.relay.peers) == 20
        # None of them answers, and nobody waits for that longer than for any other.
        heard: list[float] = []
        began = time.monotonic()
        one.relay.when_heard(frozenset({0}), lambda: heard.append(time.monotonic() - began))
        await until(lambda: heard)
        assert heard[0] < 2.0


async def test_feeds_of_others_are_bounded(redis: RedisServer) -> None:
    async with attacked(redis) as site:
        feeds: list[str] = []
        site.one.relay.meetings.on_feed = lambda feed, status: feeds.append(feed)
        for n in range(0, 160, 16):
            await site.say(
                encode(Announcement(7, "one", [0], {f"feed {i}": "live" for i in range(n, n + 16)}))
            )
        await until(lambda: site.one.relay.peers.get(7) and "feed 159" in site.one.relay.peers.get(7).feeds)
        assert len(set(feeds)) == 64


async def test_only_who_is_there_is_answered(redis: RedisServer) -> None:
    async with attacked(redis) as site:
        one = site.one
        handed_out = one.relay.counts.values["handed_out"]
        inbox = f"to:{one.relay.origin:016x}"
        requests = [encode(ValuesRequest(origin, [0] * 1024)) for origin in range(200, 300)]
        requests += [encode(GapRequest(origin, 0, 1, 2**62)) for origin in range(200, 300)]
        await site.say(*requests, channel=inbox)
        await until(lambda: refused(one)[0] >= 200)
        assert one.relay.counts.values["handed_out"] == handed_out


async def test_one_that_speaks_for_another_silences_it_for_seconds_only(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_ANNOUNCE_SECONDS", 0.1)
    monkeypatch.setattr(streams, "HOLD_SECONDS", 0.2)
    monkeypatch.setattr(streams, "DISAGREEMENT_SECONDS", 0.4)
    async with attacked(redis) as site:
        one, two = site.one, site.two
        given_up = one.relay.counts.gaps
        await site.say(
            price(origin=two.relay.origin, number=2**40),
            encode(Announcement(two.relay.origin, "two", [2**50])),
            empty_envelope(LAST_VALUES, n_shards=1, shard=0, origin=two.relay.origin, first=2**60),
            channel=SHARD,
        )
        # Behind what was said of it, everything of it is old, until it is believed more than that.
        await until(lambda: given_up["given_up"] >= 2)
        two.publish(1234)
        await until(lambda: one.last() == 1234)


async def test_a_message_larger_than_redis_keeps_for_a_listener(redis: RedisServer) -> None:
    async with attacked(redis) as site:
        n_connects = site.one.relay.link.n_connects
        await site.say(bytes(40 << 20))
        # Redis itself ends what does not read as fast; see its client-output-buffer-limit.
        await until(lambda: site.one.relay.link.n_connects > n_connects or refused(site.one)[0] > 0)
        await until(lambda: site.one.relay.is_up and site.two.relay.is_up)
