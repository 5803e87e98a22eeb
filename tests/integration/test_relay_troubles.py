"""A Redis that is slow, breaks off in the middle of a message, ends who reads too slowly, or refuses: others go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws.relay.address import parse_address
from fastws.relay.redis_links import RedisLink
from tests.redis_server import RedisServer
from tests.relays import Instance, two_instances, until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def has_counted(instance: Instance, n: int) -> bool:
    """Whether each of `n` prices was seen, or is known to be missed, and the last one is here."""
    return len(instance.seen) + instance.relay.counts.updates["missed"] == n and instance.last() == n


async def test_a_slow_redis_delays_what_comes_from_elsewhere_and_nothing_else(redis: RedisServer) -> None:
    async with (
        FaultProxy.run(redis.port) as proxy,
        two_instances(redis.url, f"redis://127.0.0.1:{proxy.port}/0") as (one, two),
    ):
        proxy.delay_s = 0.3
        n_late = 0
        for number in range(1, 201):
            began = time.monotonic()
            (two if number <= 100 else one).publish(number)
            n_late += time.monotonic() - began > 0.25
            await asyncio.sleep(0.002)
        assert two.seen[:100] == list(range(1, 101))
        # None waits for the 0.3 s; now and then the machine stands still.
        assert n_late < 20
        await until(lambda: has_counted(one, 200) and has_counted(two, 200))
        assert one.relay.is_up
        assert two.relay.is_up
        assert two.relay.link.n_dropped == 0
        proxy.kill()


async def test_messages_that_are_cut_in_the_middle(redis: RedisServer) -> None:
    async with (
        FaultProxy.run(redis.port) as proxy,
        two_instances(redis.url, f"redis://127.0.0.1:{proxy.port}/0") as (one, two),
    ):
        n = 0
        for cut in (1, 40, 300, 1000):
            n_connects = two.relay.link.n_connects
            proxy.cut_after(cut)
            while two.relay.link.n_connects == n_connects:
                n += 1
                one.publish(n)
                await asyncio.sleep(0.001)
        await until(lambda: has_counted(two, n))
        assert two.seen == sorted(two.seen)
        assert two.relay.counts.refused == 0
        assert one.seen == list(range(1, n + 1))
        proxy.kill()


async def test_listeners_that_redis_ends_come_back_and_miss_nothing(redis: RedisServer) -> None:
    """As its client-output-buffer-limit does with those that read too slowly."""
    async with two_instances(redis.url, redis.url) as (one, two):
        n = 0
        for _ in range(4):
            n_connects = two.relay.link.n_connects
            assert redis.command("CLIENT", "KILL", "TYPE", "pubsub").startswith(":")
            while two.relay.link.n_connects == n_connects:
                n += 1
                one.publish(n)
                await asyncio.sleep(0.001)
        n += 1
        one.publish(n)
        await until(lambda: has_counted(two, n))
        assert two.seen == one.seen == list(range(1, n + 1))


def link(url: str, changes: list[str | None], **what: object) -> RedisLink:
    made = RedisLink(
        parse_address(url),
        on_message=lambda data: None,
        on_change=changes.append,
        on_listening=lambda channel: None,
        queue_limit=1 << 20,
    )
    made.listen(["{a}:1"])
    made.start()
    return made


async def test_a_user_that_may_listen_and_not_speak_is_told_once(tmp_path: Path) -> None:
    with RedisServer(
        tmp_path, "--user", "half", "on", ">word", "allchannels", "allkeys", "+@all", "-publish"
    ) as redis:
        changes: list[str | None] = []
        made = link(f"redis://half:word@127.0.0.1:{redis.port}", changes)
        await until(lambda: changes)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.8)
        (only,) = changes
        assert "no permissions" in str(only)
        assert "word" not in str(only)
        assert not made.is_up
        await made.stop(0.1)


async def test_a_wrong_password_of_a_sentinel_is_said_without_it(tmp_path: Path) -> None:
    config = tmp_path / "sentinel.conf"
    config.write_text("requirepass right\nsentinel monitor prices 127.0.0.1 9 1\n")
    with RedisServer(tmp_path, config=config) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}"
        for service, password, said in (
            ("prices", "wr0ng", "a sentinel refuses the sentinel_password of the setting relay"),
            ("others", "right", "no sentinel can be reached that knows a master of that name"),
        ):
            assert await first_change(f"{url}/{service}?sentinel_password={password}") == said


async def first_change(url: str) -> str | None:
    changes: list[str | None] = []
    made = link(url, changes)
    await until(lambda: changes)
    await made.stop(0.1)
    return changes[0]
