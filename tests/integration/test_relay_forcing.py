"""Prices that are wanted at once are asked of the instance that runs the feed, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastws.errors import FeedAwayError
from fastws.relay.control import Candidacy
from fastws.relay.forcing import Forced
from tests.redis_server import RedisServer
from tests.relays import Instance, two_instances, until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def asker_and_owner(redis: RedisServer) -> AsyncIterator[tuple[Instance, Instance]]:
    async with two_instances(redis.url, redis.url) as (one, two):
        assert not one.relay.forcing.owners(None)
        with pytest.raises(FeedAwayError, match="the feed csv runs at no server just now"):
            await one.relay.forcing.ask("csv", ["A"])
        two.relay.meetings.candidacies = lambda: {"csv": Candidacy(0, is_owner=True)}
        two.relay.meetings.announce()
        await until(lambda: one.relay.forcing.owners(None))
        yield one, two


async def test_the_owner_is_asked_and_its_answer_comes_back(redis: RedisServer) -> None:
    async with asker_and_owner(redis) as (one, two):
        asked: list[Sequence[str]] = []

        async def poll(codes: Sequence[str]) -> Forced:
            asked.append(codes)
            return ["A"], {"B": "x" * 2000}

        # A service that polls and has no such thing says so.
        answer = await one.relay.forcing.ask("csv", ["A"])
        assert answer == ([], {"A": "the process that brings the prices takes no requests"})
        two.relay.forcing.on_request = poll
        assert await one.relay.forcing.ask(None, ["A", "B"]) == (["A"], {"B": "x" * 1000})
        assert asked == [["A", "B"]]
        # Nothing is left to ask for.
        assert await one.relay.forcing.ask("csv", []) == ([], {})
        assert len(asked) == 1
        assert not one.relay.forcing.owners("another feed")


async def test_one_that_fails_is_silent_or_cannot_be_reached_is_named(redis: RedisServer) -> None:
    async with asker_and_owner(redis) as (one, two):
        never = asyncio.Event()

        async def fail(codes: Sequence[str]) -> Forced:
            raise RuntimeError("a fault")

        async def wait(codes: Sequence[str]) -> Forced:
            await never.wait()
            return [], {}

        two.relay.forcing.on_request = fail
        assert await one.relay.forcing.ask("csv", ["A"]) == ([], {"A": "the feed has failed"})
        two.relay.forcing.on_request = wait
        one.relay.forcing.patience = 0.05
        with pytest.raises(FeedAwayError, match=f"{two.relay.name}, which runs the feed, has not answered"):
            await one.relay.forcing.ask("csv", ["A"])
        redis.kill()
        await until(lambda: not one.relay.is_up)
        with pytest.raises(FeedAwayError, match="the relay is away"):
            await one.relay.forcing.ask("csv", ["A"])
        # What it still works on for others ends with it: see two_instances.
