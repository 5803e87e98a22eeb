"""Leaves the sessions of an instance that goes to the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from fastws._core import Hub
from fastws.dialects.holdings import Holdings
from fastws.relay.channels import Channels
from fastws.relay.control import MAX_SIZE, encode
from fastws.relay.links import AnyLink
from fastws.relay.session_messages import SessionLeft, SessionsLeft, key_of, packed
from fastws.relay.session_news import SessionNews
from fastws.relay.session_states import SessionStates, encode_state
from fastws.relay.streams import HOLD_SECONDS
from fastws.sessions import Session

# Bytes of a message, and how long the loop is held for one.
_PART_SIZE: Final = 48 << 10
_SLICE_SECONDS: Final = 0.002
_BUSY_SIZE: Final = 8 << 20
_LOOK_SECONDS: Final = 0.01

_log = structlog.get_logger("fastws.relay")


class SessionLeaving:
    """Says of all sessions at once what would be answered if somebody asked; see `SessionGiving`.

    Belongs to the thread of the event loop.
    """

    def __init__(
        self,
        hub: Hub,
        holdings: Holdings,
        news: SessionNews,
        states: SessionStates,
        link: AnyLink,
        channels: Channels,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.holdings = holdings
        self.news = news
        self._states = states
        self._link = link
        self._channels = channels
        self._origin = origin
        self._clock = clock

    async def leave(self, seconds: float) -> None:
        """Tell others how far the clients of all sessions are: this instance goes, and they come to one of those.

        It takes `seconds` at most, and a second before that while there are gaps to be closed. It holds the loop for
        some milliseconds at a time, and begins with the sessions that ended last.
        """
        patience = self._clock() + HOLD_SECONDS
        while self._states.has_gaps and self._link.is_up and self._clock() < patience:
            await asyncio.sleep(_LOOK_SECONDS)
        deadline = self._clock() + seconds
        self.news.stop_naming()
        sessions = self.holdings.sessions
        self.news.tell_now()
        ids = list(sessions.ids())
        n = 0
        while ids and self._link.is_up and self._clock() < deadline:
            if self._link.queue_size > _BUSY_SIZE:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            left = []
            size = 0
            slice_ends = time.monotonic() + _SLICE_SECONDS
            while ids and size < _PART_SIZE and time.monotonic() < slice_ends:
                session = sessions.look(ids.pop(), time.monotonic())
                if session is not None:
                    left.append(self._left(session))
                    size += len(bytes(left[-1].state))
            message = SessionsLeft(self._origin, self.hub.epoch, self._states.positions(), packed(left))
            self._link.send(self._channels.sessions, encode(message))
            n += len(left)
            await asyncio.sleep(0)
        if n or ids:
            _log.info("sessions were left to the other instances", sessions=n, not_told=len(ids))

    def _left(self, session: Session) -> SessionLeft:
        is_known = not session.is_moved and session.epoch == self.hub.epoch and session.cursor >= 0
        cursor = session.cursor if is_known else 0
        state, _ = self._states.of(session, cursor if is_known else None, 0)
        if session.is_moved:
            # What its client has counted is of an instance before this one.
            state = msgspec.structs.replace(state, marks=None)
        least = cursor if state.marks is None else self._least(session, cursor)
        return SessionLeft(
            key_of(session.session_id), least, cursor, msgspec.Raw(encode_state(state, MAX_SIZE // 2))
        )

    def _least(self, session: Session, cursor: int) -> int:
        """A number up to `cursor` after which nothing was published until then of what is held in mode `all`.

        What a client has seen last may be before that of the kernel: others have got the numbers between.
        """
        held = {topic: options for topic, options in session.subscriptions.items() if not options.latest}
        n_after = self.hub.count_missed(held, cursor)[0]
        least, step = cursor, 1
        while step:
            before = max(least - step, self.hub.history_start - 1, 0)
            if before < least and self.hub.count_missed(held, before)[0] == n_after:
                least = before
                step *= 2
            else:
                step //= 2
        return least
