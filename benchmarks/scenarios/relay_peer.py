"""The plain way to join servers by Redis, to compare with: every update is one JSON text and one PUBLISH.

Run as ``python -m benchmarks.scenarios.relay_peer publish URL RATE`` with an update on standard input, which goes out
again and again as one of many codes, evenly and stamped anew; and as ``… receive URL``, which decodes all that comes
and keeps the last of each code. Each says ``{"ready":true}`` on standard output when it has begun, and after a line on
standard input how many updates it has seen.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import uvloop
from redis.asyncio import Redis

CHANNEL = "updates"
N_CODES = 100
MIN_SLEEP_S = 0.001


def say(**members: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(members) + b"\n")
    sys.stdout.buffer.flush()


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


class Count:
    n = 0


async def publish(redis: Redis, rate: float, update: dict[str, Any], count: Count) -> None:
    began = time.monotonic()
    while True:
        while count.n < (time.monotonic() - began) * rate:
            update["code"] = f"{100_000 + count.n % N_CODES}"
            update["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
            await redis.publish(CHANNEL, orjson.dumps(update))
            count.n += 1
        await asyncio.sleep(max(MIN_SLEEP_S, began + count.n / rate - time.monotonic()))


async def receive(redis: Redis, count: Count) -> None:
    last: dict[str, Any] = {}
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANNEL)
        async for message in channel.listen():
            update = orjson.loads(message["data"])
            last[update["code"]] = update
            count.n += 1


async def main() -> None:
    reader = await lines()
    count = Count()
    async with Redis.from_url(sys.argv[2], protocol=2) as redis:
        if sys.argv[1] == "publish":
            update = orjson.loads(await reader.readline())
            task = asyncio.create_task(publish(redis, float(sys.argv[3]), update, count))
        else:
            task = asyncio.create_task(receive(redis, count))
            while not (await redis.pubsub_numsub(CHANNEL))[0][1]:
                await asyncio.sleep(MIN_SLEEP_S)
        say(ready=True)
        while await reader.readline():
            if task.done():
                task.result()
            say(n=count.n)
        task.cancel()
        await asyncio.wait({task})


if __name__ == "__main__":
    uvloop.run(main())
