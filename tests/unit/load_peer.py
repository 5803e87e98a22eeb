"""A server whose every byte a test writes, and load clients that are connected to it."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import orjson

from fastws.bench import Group, LoadClient, LoadResult, Pings

SUBSCRIBE = b'{"type":"subscribe","subscription_type":"stock","targets":["005930"],"channels":["price"]}'
SUBSCRIBED = (
    b'{"type":"subscribed","subscription_type":"stock","targets":["005930"],"timestamp":"2025-11-11"}'
)
DEADLINE = 10.0
FAULTS = (
    "lost",
    "undeclared_lost",
    "duplicates",
    "reordered",
    "conflated",
    "sequence_backwards",
    "errors",
    "unparsed",
    "untimed",
    "protocol_violations",
    "bad_texts",
    "unnumbered",
    "unwanted",
    "unfinished",
)


def faults(result: LoadResult) -> dict[str, int]:
    """The checks that found something."""
    found: dict[str, Any] = dict(result)
    return {name: found[name] for name in FAULTS if found[name]}


def slow(result: LoadResult) -> Group:
    assert result["slow"] is not None
    return result["slow"]


def pings(result: LoadResult) -> Pings:
    assert result["ping"] is not None
    return result["ping"]


def utc(seconds: float | None = None) -> str:
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def message(
    seq: int | None,
    *,
    sequence: int | None = None,
    code: str = "005930",
    kind: str = "price_update",
    price: str = "73000",
    at: float | None = None,
) -> bytes:
    """A published message as the server writes it; `sequence` is ten times `seq` unless given."""
    text = f'{{"type":"{kind}","code":"{code}","name":"Samsung \\"Electronics\\", 삼성전자","price":{price},'
    text += f'"change_percent":1.39,"timestamp":"{utc(at)}","sequence":{sequence or 10 * (seq or 0)}'
    if seq is not None:
        text += f',"seq":{seq}'
    return (text + "}").encode()


def book(seq: int, *, code: str = "005930", sequence: int) -> bytes:
    levels = ",".join(f'{{"price":{72900 - 100 * i},"quantity":{1000 + seq + i}}}' for i in range(10))
    text = f'{{"type":"orderbook_update","code":"{code}","bids":[{levels}],"asks":[{levels}]'
    return f'{text},"timestamp":"{utc()}","sequence":{sequence},"seq":{seq}}}'.encode()


def batch(
    messages: list[bytes], *, snapshot: bool = False, size: int | None = None, sequence: int | None = None
) -> bytes:
    if sequence is None:
        sequence = orjson.loads(messages[-1])["sequence"] if messages else 0
    head = f'{{"type":"batch","batch_size":{len(messages) if size is None else size}'
    head += ',"snapshot":true,"messages":[' if snapshot else ',"messages":['
    return head.encode() + b",".join(messages) + f'],"timestamp":"{utc()}","sequence":{sequence}}}'.encode()


def run_of(first: int, last: int, **options: Any) -> bytes:
    """One published run of numbers: bare if it is one, else a batch."""
    messages = [message(seq, **options) for seq in range(first, last + 1)]
    return messages[0] if len(messages) == 1 else batch(messages)


def frame(payload: bytes, *, opcode: int = 1, final: bool = True) -> bytes:
    head = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + struct.pack("!BH", 126, len(payload)) + payload
    return head + struct.pack("!BQ", 127, len(payload)) + payload


class Peer:
    """A listening socket and the server's side of what connects to it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(DEADLINE)
        self.url = f"ws://127.0.0.1:{self.listener.getsockname()[1]}/v1/ws"
        self.sockets: list[socket.socket] = []
        self.heads: list[bytes] = []
        self.extensions = b""

    def accept(self, response: bytes | None = None) -> socket.socket:
        """Take the next connection and answer its upgrade with `response`, by default the right 101."""
        connection, _ = self.listener.accept()
        connection.settimeout(DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(connection)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self.heads.append(head)
        agreed = b"Sec-WebSocket-Extensions: " + self.extensions + b"\r\n" if self.extensions else b""
        connection.sendall(self.switching(head)[:-2] + agreed + b"\r\n" if response is None else response)
        return connection

    @staticmethod
    def switching(head: bytes) -> bytes:
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        accept = base64.b64encode(
            hashlib.sha1(lines[b"Sec-WebSocket-Key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        )
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def close(self) -> None:
        for item in [self.listener, *self.sockets]:
            item.close()


def exactly(connection: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        assert part, "the client ended the connection"
        data += part
    return data


def read_frame(connection: socket.socket) -> tuple[int, bytes]:
    """Opcode and payload of the client's next frame, which must be final and masked."""
    first, second = exactly(connection, 2)
    assert first & 0x80
    assert second & 0x80
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", exactly(connection, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", exactly(connection, 8))
    mask = exactly(connection, 4)
    payload = exactly(connection, size)
    return first & 0x0F, bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))


class Connected:
    """A connected client and the server's ends of its connections, in order."""

    def __init__(self, peer: Peer, n: int = 1, *, greeting: bytes = SUBSCRIBED, **options: Any) -> None:
        self.client = LoadClient(peer.url, n, subscribe=options.pop("subscribe", SUBSCRIBE), **options)
        self.ends: list[socket.socket] = []
        self.payloads: list[bytes] = []
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.client.connect, timeout=DEADLINE, max_in_flight=1)
            for _ in range(n):
                end = peer.accept()
                opcode, payload = read_frame(end)
                assert opcode == 1
                self.payloads.append(payload)
                end.sendall(frame(greeting))
                self.ends.append(end)
            done.result(DEADLINE)

    def deliver(self, data: bytes, index: int = 0) -> None:
        """Send and have the client take all of it."""
        want = self.client.result()["bytes"] + len(data)
        self.ends[index].sendall(data)
        self.until(lambda result: result["bytes"] >= want)

    def until(self, condition: Callable[[LoadResult], bool]) -> LoadResult:
        deadline = time.monotonic() + DEADLINE
        while not condition(self.client.result()):
            assert time.monotonic() < deadline, self.client.result()
            self.client.run(0)
        return self.client.result()

    def deliver_texts(self, *texts: bytes) -> LoadResult:
        self.deliver(b"".join(frame(text) for text in texts))
        return self.client.result()


def connecting(peer: Peer) -> Iterator[Callable[..., Connected]]:
    """Yield what makes clients that are connected to `peer`, and is ended with them."""
    made = []

    def make(n: int = 1, **options: Any) -> Connected:
        made.append(Connected(peer, n, **options))
        return made[-1]

    yield make
    for item in made:
        item.client.close(timeout=0)
