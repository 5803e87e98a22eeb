"""A whole server whose connections have no network: what a client says, what is published, and how fast it reads.

A conversation is lines of text:

    @CODE NUMBER    publish a price
    ~               send what is pending
    <NUMBER         read so many bytes; from then on the client reads only when it is told to
    <               read all, from now on
    ^QUERY          connect again, with this query, going on with the session before
    anything else   a message of the client
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Final

from fastws._frames import OP_TEXT, FrameReader, build_frame
from fastws._inlet import Inlet
from fastws._market import PriceUpdate
from fastws.dialects.conversation import Conversation
from fastws.server.embedding import Hub
from fastws.server.handshake import Request, parse_head
from fastws.server.server import Server
from fastws.settings import Settings
from tests.fake_transport import FakeTransport

SECRET: Final = "a secret of more than thirty-two bytes"
# {"sub": "alice"}, signed with it.
TOKEN: Final = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSJ9.CSbhTdocJq79OoEwdcixbFeuxRsxqnF8VaqGWSSQUmg"
)
MAX_LINES: Final = 60
_MASK: Final = b"\x01\x02\x03\x04"
# What a conversation leaves behind, sessions and alerts, ends with the server.
_CONVERSATIONS: Final = 2000


class Stack:
    """The server, and one client after the other."""

    def __init__(self) -> None:
        self._log = logging.getLogger("fastws")
        self._log_level = self._log.level
        self._log.setLevel(logging.CRITICAL)
        self.loop = asyncio.new_event_loop()
        self._n_conversations = 0
        self._server: Server | None = None
        self._hub: Hub | None = None

    def converse(self, dialect: str, script: bytes) -> None:
        """Carry out a script; AssertionError where the server breaks a promise."""
        self._n_conversations += 1
        if self._server is not None and self._n_conversations % _CONVERSATIONS == 0:
            self.loop.run_until_complete(self._server.stop())
            self._server = None
        self.loop.run_until_complete(self._converse(dialect, script))

    def publish_natively(self, publish: Callable[[Inlet], None]) -> None:
        """Have `publish` put something into the ring of extensions."""
        self.loop.run_until_complete(self._publish_natively(publish))

    async def _publish_natively(self, publish: Callable[[Inlet], None]) -> None:
        await self._serve()
        assert self._hub is not None
        publish(self._hub.__fastws_inlet__)
        await turns(2)

    def close(self) -> None:
        self._log.setLevel(self._log_level)
        if self._server is not None:
            self.loop.run_until_complete(self._server.stop())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    async def _serve(self) -> Server:
        if self._server is None:
            settings = Settings(
                host="127.0.0.1",
                port=0,
                feed="none",
                database="sqlite://",
                jwt_secret=SECRET,
                rate_limit=1000,
                shutdown_spread=0,
                unknown_symbols="accept",
            )
            self._server = Server(settings)
            await self._server.start()
            self._hub = Hub(self._server)
        return self._server

    async def _converse(self, dialect: str, script: bytes) -> None:
        server = await self._serve()
        conversation: Conversation = server.screener if dialect == "screener" else server.realtime
        faults_before = dict(conversation.closes)
        client = Client(server, conversation, "")
        clients = [client]
        try:
            for line in script.split(b"\n")[:MAX_LINES]:
                if line[:1] == b"@":
                    publish(server, line[1:])
                elif line == b"~":
                    server.hub.flusher.flush_all()
                elif line[:1] == b"<":
                    digits = line[1:6]
                    client.transport.take(int(digits) if digits.isdigit() else None)
                elif line[:1] == b"^":
                    client.transport.close()
                    await turns(3)
                    client = Client(
                        server, conversation, client.going_on(line[1:].decode("latin-1", "replace"))
                    )
                    clients.append(client)
                else:
                    client.say(line)
                await turns(2)
            server.hub.flusher.flush_all()
            await turns(3)
            for client in clients:
                client.transport.take()
            await turns(3)
            check_law(server.hub.ledger())
            for client in clients:
                client.check()
        finally:
            for client in clients:
                client.transport.abort()
            await turns(5)
        faults = {
            key: n
            for key, n in conversation.closes.items()
            if key[0] == 1011 and n != faults_before.get(key, 0)
        }
        assert not faults, faults


class Client:
    """One connection, and what came on it."""

    def __init__(self, server: Server, conversation: Conversation, query: str) -> None:
        self.transport = FakeTransport(asyncio.get_running_loop())
        self._reader = FrameReader(is_client=True, max_message_size=16 << 20)
        self._n_read = 0
        self.messages: list[dict[str, Any]] = []
        request = parse_head(f"GET /?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1", "replace"))
        if not isinstance(request, Request):
            request = parse_head(b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n")
            assert isinstance(request, Request)
        server.conversations.open(conversation, self.transport, request, b"", 0)

    def say(self, text: bytes) -> None:
        self.transport.deliver((build_frame(OP_TEXT, text, mask=_MASK),))

    def read(self) -> None:
        """Take in what has come: whole messages of JSON that have a type, and no fault of the server."""
        new = bytes(self.transport.received[self._n_read :])
        self._n_read += len(new)
        for event in self._reader.feed(new):
            if event[0] == "message":
                message = json.loads(event[3])
                assert isinstance(message, dict)
                assert isinstance(message["type"], str)
                assert "INTERNAL_ERROR" not in (message.get("code"), message.get("error_code")), message
                self.messages.append(message)
            else:
                assert event[0] in ("ping", "pong", "close"), event
                assert event[:2] != ("close", 1011), event

    def check(self) -> None:
        self.read()
        # What is numbered is in order, and no number comes twice.
        numbers = [
            message["sequence"]
            for message in self.messages
            if message["type"] in ("price_update", "orderbook_update") and not message.get("snapshot")
        ]
        assert numbers == sorted(set(numbers)), numbers

    def going_on(self, query: str) -> str:
        """The query of a connection that goes on with this one's session."""
        self.read()
        greeting = self.messages[0] if self.messages else {}
        own = f"session_id={greeting.get('connection_id', '')}&last_sequence={greeting.get('sequence', 0)}"
        return f"{own}&epoch={greeting.get('epoch', '')}&{query}"


def publish(server: Server, line: bytes) -> None:
    code, _, number = line.partition(b" ")
    if code.isalnum() and len(code) <= 16 and number.isdigit() and len(number) <= 12:
        instrument = server.market.ensure_instrument(code.decode())
        server.market.publish_price(PriceUpdate(instrument, int(number)))


def check_law(ledger: dict[str, int]) -> None:
    parts = ("delivered", "conflated", "lost", "undelivered", "waiting")
    assert ledger["published"] == sum(ledger[part] for part in parts), ledger
    assert all(value >= 0 for value in ledger.values()), ledger


async def turns(n: int) -> None:
    """Let the loop do what is due."""
    for _ in range(n):
        await asyncio.sleep(0)


_stack: Stack | None = None


def converse(dialect: str, script: bytes) -> None:
    """The same on the one stack of this process, which `close` ends."""
    _current().converse(dialect, script)


def publish_natively(publish: Callable[[Inlet], None]) -> None:
    """Have `publish` put something into the ring of the stack's extensions."""
    _current().publish_natively(publish)


def _current() -> Stack:
    global _stack
    if _stack is None:
        _stack = Stack()
    return _stack


def close() -> None:
    global _stack
    if _stack is not None:
        _stack.close()
        _stack = None
