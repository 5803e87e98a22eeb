"""The Python client goes on at another one of several joined servers, by whose numbers it counts from there on."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws.client import Backoff, Client, Gap, Interrupted, PriceUpdate, Restored
from tests.joined import Joined, metric, price, publish
from tests.redis_server import RedisServer
from tests.serving import Server, until

CODE = "005930"


def n_known(server: Server, n: int) -> bool:
    return bool(server.stats()["sessions_elsewhere"] == n)


def n_given(server: Server, n: int) -> bool:
    return metric(server, "fastws_relay_session_moves_total", what="given") == n


async def test_nothing_is_missing_where_numbers_are_lower(tmp_path: Path) -> None:
    """Twice: to a server of lower numbers, and back to one of higher ones."""
    with RedisServer(tmp_path) as redis, Joined(tmp_path, redis) as servers:
        (one,) = servers.start(1)
        publish(one, *(price(CODE, number) for number in range(40)))
        (two,) = servers.start(1)
        number, came, restored = 40, [], list[Restored]()
        async with (
            FaultProxy.run(one.port) as proxy,
            Client(f"ws://127.0.0.1:{proxy.port}", backoff=Backoff(0.02, 0.1)) as client,
        ):
            await client.subscribe("stock", [CODE], snapshot=False)

            async def take(last: int) -> None:
                async with asyncio.timeout(20):
                    async for message in client:
                        assert not isinstance(message, Gap)
                        if isinstance(message, Restored):
                            restored.append(message)
                        elif isinstance(message, PriceUpdate):
                            came.append(int(message.price))
                            if message.price == last:
                                return

            for source, at, to in ((one, one, two), (two, two, one)):
                await asyncio.to_thread(until, partial(n_known, to, 1), "its session is known")
                publish(source, *(price(CODE, number + k) for k in range(3)))
                await take(number + 2)
                proxy.is_open = False
                proxy.kill()
                async with asyncio.timeout(20):
                    async for message in client:
                        if isinstance(message, Interrupted):
                            break
                # One that is missed, from either.
                publish(at, price(CODE, number + 3))
                await asyncio.to_thread(until, partial(shows, to, number + 3), "it is there")
                publish(to, price(CODE, number + 4))
                proxy.target, proxy.is_open = to.port, True
                await take(number + 4)
                publish(to, price(CODE, number + 5))
                await take(number + 5)
                number += 6
        assert [each.recovered for each in restored] == [True, True]
        assert came == list(range(40, number))
        for server in (one, two):
            until(partial(n_given, server, 1), "it is counted")


def shows(server: Server, number: int) -> bool:
    status, body = server.get(f"/v1/stocks/{CODE}")
    return status == 200 and f'"price":{number}'.encode() in body.replace(b" ", b"")
