"""Connections that are to be closed everywhere: the other instances are told, and say how many they have closed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final, NamedTuple

from fastws.relay.channels import Channels
from fastws.relay.control import Kick, KickAnswer, encode
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peers

ANSWER_SECONDS: Final = 1.0
"""How long the answers of the others are waited for; closing takes them some milliseconds."""


class Kicked(NamedTuple):
    """How many connections others have closed, and the names of those that have not said."""

    n_closed: int
    missing: list[str]


class _Asked:
    def __init__(self, origins: set[int]) -> None:
        self.missing = origins
        self.n_closed = 0
        self.is_done = asyncio.Event()
        if not origins:
            self.is_done.set()


class Kicking:
    """Tells all others of a kick, and does what they say. Belongs to the thread of the event loop.

    `on_kick` closes connections of this instance, and returns how many. One that is not heard while it is told does not
    hear of it later, and a token that was kicked is refused by those only that have.
    """

    def __init__(self, link: AnyLink, channels: Channels, peers: Peers, *, origin: int) -> None:
        self.on_kick: Callable[[Kick], int] = lambda kick: 0
        self._link = link
        self._channels = channels
        self._peers = peers
        self._origin = origin
        self._ids = itertools.count(1)
        self._asked: dict[int, _Asked] = {}

    async def kick(self, *, user_id: str | None, jti: str | None, connection_id: str | None) -> Kicked:
        """Have connections of all other instances closed, and wait for what those say that are there.

        One of the three says which; the others are None.
        """
        number = next(self._ids)
        names = {peer.origin: peer.name for peer in self._peers}
        asked = self._asked[number] = _Asked(set(names))
        self._link.send(
            self._channels.control, encode(Kick(self._origin, user_id, jti, connection_id, number))
        )
        try:
            if self._link.is_up:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await asked.is_done.wait()
        except TimeoutError:
            pass  # the answer says who is missing
        finally:
            del self._asked[number]
        return Kicked(asked.n_closed, [names[origin] for origin in names if origin in asked.missing])

    def hear(self, kick: Kick) -> None:
        """Close what another instance says."""
        n_closed = self.on_kick(kick)
        if kick.id:
            self._link.send(
                self._channels.inbox(kick.origin), encode(KickAnswer(self._origin, kick.id, n_closed))
            )

    def hear_answer(self, answer: KickAnswer) -> None:
        """Count what another instance has closed."""
        asked = self._asked.get(answer.id)
        if asked is not None and answer.origin in asked.missing:
            asked.missing.discard(answer.origin)
            asked.n_closed += answer.closed
            if not asked.missing:
                asked.is_done.set()
