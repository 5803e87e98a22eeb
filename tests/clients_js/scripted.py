"""A server that is told what to do: what one in order never does, or cannot be brought to in a short time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve


def stamped(**message: Any) -> str:
    return json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", **message})


def greeting(session: str = "one") -> str:
    members = {"connection_id": session, "epoch": "e", "sequence": 0, "feeds": {}}
    return stamped(type="connection", status="connected", authenticated=False, user_id=None, **members)


def update(seq: int, code: str = "005930", kind: str = "price_update") -> dict[str, Any]:
    return {
        "type": kind,
        "code": code,
        "price": seq,
        "seq": seq,
        "sequence": seq,
        "timestamp": "2026-01-01T00:00:00Z",
    }


@asynccontextmanager
async def scripted(act: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    async def handle(connection: ServerConnection) -> None:
        await act(connection)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as site:
        yield f"ws://127.0.0.1:{site.sockets[0].getsockname()[1]}/v1/ws"


async def accept(connection: ServerConnection, snapshot: list[dict[str, Any]]) -> dict[str, Any]:
    """Answer the next request as `subscribe` is answered; returns it."""
    request: dict[str, Any] = json.loads(await connection.recv())
    kind, targets = request["subscription_type"], request["targets"]
    await connection.send(
        stamped(type="subscribed", subscription_type=kind, targets=targets, id=request["id"])
    )
    size = len(snapshot)
    await connection.send(
        stamped(type="batch", batch_size=size, snapshot=True, messages=snapshot, sequence=0)
    )
    return request


async def refuse_restoration(connection: ServerConnection) -> None:
    error = {"code": "SESSION_RESTORATION_FAILED", "error_code": "SESSION_RESTORATION_FAILED"}
    await connection.send(stamped(type="error", message="unknown", details={}, **error))


async def restore(connection: ServerConnection, n_missed: int = 0) -> None:
    """Say that the session of the first greeting goes on."""
    members = {"session_id": "one", "restored_subscriptions": {"stock": ["005930"]}, "recovered": True}
    await connection.send(stamped(type="reconnected", missed_messages_count=n_missed, **members))
