"""The link of a relay whose Redis is away, with another way to one process."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

from fastws.relay.address import RedisAddress
from fastws.relay.detour_links import DetourLink
from fastws.relay.pair_links import PairEnd
from tests.relays import until


class Side:
    """One of the two processes. Nobody listens at the port of its Redis."""

    def __init__(self, port: int, sock: socket.socket) -> None:
        self.heard: list[bytes] = []
        self.changes: list[str | None] = []
        self.end = PairEnd(sock, on_frame=lambda frame: None, on_lost=lambda: None)
        self.link = DetourLink(
            RedisAddress(f"redis://127.0.0.1:{port}", f"redis://127.0.0.1:{port}", 0),
            on_message=self.heard.append,
            on_change=self.changes.append,
            on_listening=lambda channel: None,
        )
        self.link.listen(["a", "b"])
        self.link.start()

    async def close(self) -> None:
        await self.link.stop(1.0)
        self.end.close()


async def test_two_hear_each_other_without_redis() -> None:
    with socket.socket() as taken:
        # Bound and not listening, so that nobody else gets it.
        taken.bind(("127.0.0.1", 0))
        async with AsyncExitStack() as stack:
            sides = [Side(taken.getsockname()[1], sock) for sock in socket.socketpair()]
            for side in sides:
                stack.push_async_callback(side.close)
            one, two = sides
            await until(lambda: one.changes and two.changes)
            assert not one.link.is_up
            assert not one.link.is_detoured
            for side in sides:
                await side.end.open()
                side.link.attach(side.end)
                assert side.link.is_up
                assert side.link.is_detoured
                assert side.changes[-1] is None
            await until(lambda: all(side.link.is_listening("a") for side in sides))
            waiting = one.link.queue_size
            one.link.send("a", b"to two")
            await until(lambda: two.heard == [b"to two"])
            # What Redis is to have, too, is no reason to be slow.
            assert one.link.queue_size == waiting == 0
            two.link.ignore(["a"])
            two.link.send("b", b"to one")
            await until(lambda: one.heard == [b"to one"])
            one.link.send("a", b"to nobody")
            one.link.send("b", b"to two")
            await until(lambda: len(two.heard) > 1)
            assert two.heard == [b"to two", b"to two"]
            reason = one.changes[0]
            one.link.detach()
            assert one.changes == [reason, None, reason]
            assert "connecting to 127.0.0.1" in str(reason)
            assert not one.link.is_up
            assert one.link.queue_size > 0
            one.link.detach()
            await asyncio.sleep(0)
            assert one.changes == [reason, None, reason]
