"""A dialect without batches: whole messages, each in a frame of its own, several of them in one write."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

import pytest
from core_harness import Bench, Client, bench, sends_past_transports
from listening import scenario, until

from fastws import deflate
from fastws._core import CHANNEL_STATUS, Dialect
from fastws._frames import FrameReader

NEVER_MS = 60_000


class Enveloped:
    """A dialect that counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.dialect = Dialect("enveloped", self.encode, 1, batches=False)

    def encode(self, payload: Any, published_ms: int) -> bytes:
        if payload < 0:
            raise ValueError("not to be written")
        self.asked.append(payload)
        return b'{"type":"value","data":{"value":%d,"pad":"%b"}}' % (payload, b"x" * pad_size(payload))


def pad_size(payload: int) -> int:
    """Sizes on both sides of every form of a frame's header."""
    return {125: 125, 126: 126, 65_535: 65_535, 65_536: 65_536}.get(payload, 0)


def value(payload: int) -> dict[str, Any]:
    return {"type": "value", "data": {"value": payload, "pad": "x" * pad_size(payload)}}


async def connect(made: Bench, dialect: Dialect) -> Client:
    made.dialect = dialect
    return await made.connect()


async def taken(client: Client, n: int) -> list[Any]:
    return [await client.next() for _ in range(n)]


@pytest.mark.plain("it counts sends past the transport, which encrypts")
@sends_past_transports
@scenario
@pytest.mark.parametrize("interval_ms", [30, 0])
async def test_what_one_flush_holds_leaves_as_frames_in_one_write(interval_ms: int) -> None:
    async with bench(interval_ms=interval_ms) as made:
        client = await connect(made, Enveloped().dialect)
        made.subscribe(client, "A", "B", "C", latest=True)
        n_sends = made.hub.flusher.n_sends
        made.publish("A", 1)
        made.publish("B", 2)
        made.publish("A", 3)
        made.publish("C", 4)
        assert await taken(client, 3) == [value(2), value(3), value(4)]
        assert made.hub.flusher.n_sends == n_sends + 1
        await client.drain()
        assert client.messages == []
        ledger = client.connection.ledger()
        assert (ledger["delivered"], ledger["conflated"]) == (3, 1)


@scenario
async def test_frames_of_every_size_have_their_header() -> None:
    sizes = [125, 1, 126, 2, 65_535, 65_536, 3]
    async with bench() as made:
        client = await connect(made, Enveloped().dialect)
        made.subscribe(client, *map(str, sizes), latest=True)
        for size in sizes:
            made.publish(str(size), size)
        assert await taken(client, len(sizes)) == [value(size) for size in sizes]


@scenario
async def test_one_update_serves_both_dialects_and_each_writes_it_once() -> None:
    enveloped = Enveloped()
    async with bench() as made:
        batched = [await made.connect() for _ in range(3)]
        framed = [await connect(made, enveloped.dialect) for _ in range(3)]
        for client in (*batched, *framed):
            made.subscribe(client, "A", "B", latest=True)
        # Another cohort, which shares the texts.
        made.subscribe(framed[2], "A", latest=True)
        made.publish("A", 1)
        made.publish("B", 2)
        for client in batched:
            message = await client.next()
            assert [update["value"] for update in message["messages"]] == [1, 2]
        for client in framed[:2]:
            assert await taken(client, 2) == [value(1), value(2)]
        assert await taken(framed[2], 1) == [value(1)]
        assert enveloped.asked == [1, 2]


@scenario
async def test_a_snapshot_is_frames_too_and_of_nothing_it_is_nothing() -> None:
    async with bench() as made:
        client = await connect(made, Enveloped().dialect)
        wanted = made.subscribe(client, "A", "B", latest=True)
        client.connection.send_snapshot(wanted.items())
        await client.drain()
        assert client.messages == []
        made.publish("A", 1)
        made.publish("B", 2)
        await taken(client, 2)
        client.connection.send_snapshot(wanted.items())
        assert await taken(client, 2) == [value(1), value(2)]
        made.subscribe(client, "A", latest=True)
        client.connection.send_snapshot(made.subscribe(client, "A", latest=True).items())
        assert await taken(client, 1) == [value(1)]


@scenario
async def test_each_message_is_compressed_by_itself() -> None:
    async with bench(
        window_bits=15, deflate_threshold=100, compress=partial(deflate.compress, level=1)
    ) as made:
        client = await connect(made, Enveloped().dialect)
        client.frames = Inflating()  # type: ignore[assignment]
        made.subscribe(client, "1", "126", latest=True)
        made.publish("1", 1)
        made.publish("126", 126)
        assert await taken(client, 2) == [value(1), value(126)]
        assert made.hub.meters.n_compressed == 1


class Inflating:
    """The frames of a client that has agreed to permessage-deflate without context takeover."""

    def __init__(self) -> None:
        self.frames = FrameReader(is_client=True, max_message_size=1 << 20, rsv_allowed=0x40)

    def feed(self, data: bytes) -> list[Any]:
        return [
            (kind, opcode, False, zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff"))
            if kind == "message" and compressed
            else (kind, opcode, compressed, payload)
            for kind, opcode, compressed, payload in self.frames.feed(data)
        ]


@scenario
async def test_what_the_core_says_by_itself_is_in_the_envelope() -> None:
    async with bench(interval_ms=NEVER_MS, outbox_soft_size=8_000, outbox_hard_size=8_000) as made:
        client = await connect(made, Enveloped().dialect)
        status = made.hub.channel(
            "M", "status", (made.hub.topic("market", "M"),), bit=CHANNEL_STATUS, numbered=False
        )
        client.connection.set_subscriptions(
            {
                made.topic("A"): made.hub.options(latest=True),
                made.hub.topic("market", "M"): made.hub.options(),
            }
        )
        made.publish("A", -1)
        failed = await client.next()
        assert list(failed) == ["type", "data", "timestamp"]
        assert failed["type"] == "error"
        assert list(failed["data"]) == ["code", "error_code", "message", "details"]
        assert failed["data"]["code"] == "INTERNAL_ERROR"
        for payload in range(1000):
            made.hub.publish(status, payload)
        made.hub.flusher.flush_all()
        await until(lambda: made.hub.flusher.is_idle)
        lost = await client.next()
        assert list(lost) == ["type", "data", "timestamp"]
        assert lost["type"] == "overflow"
        ((name, items),) = lost["data"].items()
        assert name == "items"
        assert [(item["code"], item["channel"]) for item in items] == [("M", "status")]
        assert await client.next() == value(items[0]["to_seq"])


@scenario
async def test_a_slow_client_gets_the_newest_of_each_when_it_reads_again() -> None:
    async with bench(send_buffer=4096) as made:
        client = await connect(made, Enveloped().dialect)
        names = [str(n) for n in (125, 126, *range(1, 30))]
        made.subscribe(client, *names, latest=True)
        while not client.connection.queued_bytes:
            for name in names:
                made.publish(name, int(name))
            made.hub.flusher.flush_all()
            await made.flushed()
        for _ in range(50):
            for name in names:
                made.publish(name, int(name) * 1000)
            made.hub.flusher.flush_all()
            await made.flushed()
        await client.drain()
        last = {message["data"]["value"] for message in client.messages[-len(names) :]}
        assert last == {int(name) * 1000 for name in names}
        assert all(message["type"] == "value" for message in client.messages)
        # The transport and the client's own buffers had room for some.
        assert client.connection.ledger()["conflated"] > 10 * len(names)
