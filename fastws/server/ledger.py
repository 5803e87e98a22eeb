"""What became of every update: the body of ``/v1/ws/ledger``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from fastws._core import Hub
from fastws.dialects.clients import Client

_SLICE: Final = 64
_SUMS: Final = ("cohorts", "connections")


class Ledger:
    """The accounts of one server, told whenever somebody asks. Belongs to the thread of the event loop.

    Sums, topics and whether all of it adds up are of one moment. Connections are told by and by, each of its moment.
    """

    def __init__(self, hub: Hub, clients: Mapping[str, Client]) -> None:
        """`clients`: those that are connected, by their ids."""
        self._hub = hub
        self._clients = clients

    async def encode(self, *, has_topics: bool, has_connections: bool) -> bytes:
        """The body; without `has_topics` and `has_connections` it has the sums only."""
        found = self._hub.audit(channels=has_topics)
        body = {"balanced": not found["faults"], **{name: found[name] for name in (*_SUMS, "faults")}}
        parts = [msgspec.json.encode(body)[:-1]]
        for name, lines in (
            ("by_topic", iter(found["channels"]) if has_topics else None),
            ("by_connection", self._connections() if has_connections else None),
        ):
            if lines is None:
                continue
            elements = []
            for n, line in enumerate(lines, 1):
                elements.append(msgspec.json.encode(line))
                if n % _SLICE == 0:
                    await asyncio.sleep(0)
            parts.append(b',"%b":[%b]' % (name.encode(), b",".join(elements)))
        return b"".join([*parts, b"}"])

    def _connections(self) -> Iterator[dict[str, Any]]:
        for client in list(self._clients.values()):
            if self._clients.get(client.connection_id) is client:
                yield {
                    "connection_id": client.connection_id,
                    "user_id": None if client.identity is None else client.identity.user_id,
                    "dialect": client.connection.dialect.name,
                    **client.connection.ledger(),
                }


def joined(bodies: Mapping[int, bytes]) -> bytes:
    """One body for those of several workers, by their numbers. Topics have a line for each worker."""
    read = {number: msgspec.json.decode(data) for number, data in sorted(bodies.items())}
    first = next(iter(read.values()))
    body: dict[str, Any] = {"balanced": all(each["balanced"] for each in read.values())}
    for name in _SUMS:
        body[name] = {key: sum(each[name][key] for each in read.values()) for key in first[name]}
    body["faults"] = [
        f"worker {number}: {fault}" for number, each in read.items() for fault in each["faults"]
    ]
    for name in ("by_topic", "by_connection"):
        if name in first:
            body[name] = [{"worker": number} | line for number, each in read.items() for line in each[name]]
    return msgspec.json.encode(body)
