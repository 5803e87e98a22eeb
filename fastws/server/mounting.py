"""A server at a path of somebody else's HTTP server: of an application of aiohttp, or of uvicorn.

Neither serves the WebSocket connections: with its handshake a connection is taken from them, and is then what it would
be had it come to a port of fastws.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, cast

import msgspec
from aiohttp import web
from yarl import URL

from fastws.server.handshake import MAX_HEAD_SIZE, HeadReader, Refusal, Request, refusal_response
from fastws.server.http import MAX_BODY_SIZE, problem_response
from fastws.server.listener import Listener

_AWAY: Final = Refusal(503, "SERVICE_UNAVAILABLE", "the server does not run", (("Retry-After", "5"),))
_NOT_FOUND: Final = Refusal(404, "NOT_FOUND", "there is no WebSocket at this path")

FindListener = Callable[[], Listener | None]
"""Returns what serves, None while nothing does."""


def check_prefix(prefix: str) -> str:
    """Return a path that a server may be mounted at, without its trailing slash.

    Raises:
        ValueError: it is none.
    """
    bare = prefix.rstrip("/")
    if (bare and not bare.startswith("/")) or any(character in bare for character in "{}?#% "):
        raise ValueError(f"prefix: expected a path such as /prices, got {prefix!r}")
    return bare


def behind(prefix: str, path: str) -> str | None:
    """Return what of `path` comes after `prefix`, from its slash on; None: it is not there."""
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    if rest and rest[0] not in "/?":
        return None
    return rest if rest.startswith("/") else f"/{rest}"


def add_to_aiohttp(app: web.Application, prefix: str, find: FindListener) -> None:
    """Have `app` answer what is at `prefix`, a result of :func:`check_prefix`, by the listener."""

    async def answer(request: web.Request) -> web.StreamResponse:
        listener = find()
        rest = behind(prefix, request.raw_path)
        if listener is None or rest is None:
            return problem_response(_AWAY if listener is None else _NOT_FOUND)
        inner = request.clone(rel_url=URL(rest, encoded=True), client_max_size=MAX_BODY_SIZE)
        return await listener.answer(inner)

    if prefix:
        app.router.add_route("*", prefix, answer)
    app.router.add_route("*", prefix + "/{fastws:.*}", answer)


def uvicorn_protocol(prefix: str, find: FindListener) -> Callable[..., asyncio.Protocol]:
    """Return what uvicorn takes as `ws`: it opens what is at `prefix`, and leaves the rest to uvicorn's own."""

    def make(**of_uvicorn: Any) -> asyncio.Protocol:
        return _Handshake(prefix, find, of_uvicorn)

    return make


class _Handshake(asyncio.Protocol):
    """A connection that uvicorn has found to ask for a WebSocket, until somebody has it.

    1. uvicorn gives it the head at once, in one piece, and makes it the transport's protocol after that: so the
       connection is handed on in the next turn of the loop, and what has come by then with it.
    2. What is for others goes to a protocol of uvicorn's own from the first byte.
    """

    def __init__(self, prefix: str, find: FindListener, of_uvicorn: dict[str, Any]) -> None:
        self._prefix = prefix
        self._find = find
        self._of_uvicorn = of_uvicorn
        self._head: Request | Refusal | None = None
        self._after = b""
        self._other: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.data_received(data)
        elif self._head is None:
            self._read_head(data)
        else:
            # The client does not know yet that it may send: what comes is little, or an attack.
            self._after += data
            if len(self._after) > MAX_HEAD_SIZE:
                self._transport.abort()

    def eof_received(self) -> bool | None:
        return None if self._other is None else self._other.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None:
            self._other.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.pause_writing()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.resume_writing()

    def _read_head(self, data: bytes) -> None:
        reader = HeadReader()
        head = reader.feed(data)
        loop = asyncio.get_running_loop()
        rest = behind(self._prefix, head.path) if isinstance(head, Request) else None
        listener = self._find()
        is_ours = rest is not None and (listener is None or listener.upgrades.has_path(rest))
        if not is_ours and (make_other := _uvicorns_own()) is not None:
            self._other = make_other(**self._of_uvicorn)
            self._other.connection_made(self._transport)
            self._other.data_received(data)
            loop.call_soon(self._leave)
            return
        if isinstance(head, Request):
            target = head.target[len(self._prefix) :]
            self._head = msgspec.structs.replace(head, path=rest, target=target) if is_ours else _NOT_FOUND
        else:
            self._head = head or _NOT_FOUND
        self._after = reader.body
        loop.call_soon(self._hand_on)

    def _leave(self) -> None:
        if self._other is not None and self._transport.get_protocol() is self:
            self._transport.set_protocol(self._other)

    def _hand_on(self) -> None:
        if self._transport.is_closing():
            return
        listener, head = self._find(), self._head
        if listener is None or not isinstance(head, Request):
            refusal = head if isinstance(head, Refusal) else _AWAY
            self._transport.write(refusal_response(refusal))
            self._transport.close()
        else:
            listener.upgrades.take(self._transport, head, self._after)


def _uvicorns_own() -> Callable[..., asyncio.Protocol] | None:
    """What uvicorn would have taken, by which of the packages that it knows is installed; None: none of them is."""
    # Whoever calls this is uvicorn, which is no part of what fastws needs.
    found: Callable[..., asyncio.Protocol] | None = import_module(
        "uvicorn.protocols.websockets.auto"
    ).AutoWebSocketsProtocol
    return found
