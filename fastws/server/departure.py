"""Hands a server over to another process that serves at the same sockets already, or takes it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from fastws._core import Hub
from fastws.server.conversations import announce_shutdown
from fastws.server.feed_runner import FeedRunner
from fastws.server.gradual_drain import GradualDrain
from fastws.server.last_values import LastValues
from fastws.server.listener import Listener
from fastws.server.sources import Sources
from fastws.sessions import Sessions

_SESSIONS_LOOK_SECONDS: Final = 0.05
# For clients that are on their way; sessions that are here after that, the relay leaves to the other process.
_SESSIONS_SECONDS: Final = 3.0


class Departure:
    """Gives up what there is to be one of, lets clients go, and leaves the places; see `Server.hand_over`.

    1. `is_under_way` from the begin of :meth:`hand_over` until :meth:`take_back`. Nothing is accepted meanwhile.
    2. The sources end before clients go, who then hear what is published by the other process.
    """

    def __init__(
        self,
        hub: Hub,
        listeners: Sequence[Listener],
        sources: Sources,
        feed_runner: FeedRunner,
        last_values: LastValues,
        sessions: Sessions,
    ) -> None:
        self.is_under_way = False
        self._hub = hub
        self._listeners = listeners
        self._sources = sources
        self._feed_runner = feed_runner
        self._last_values = last_values
        self._sessions = sessions
        self._had_feed = False

    def end_keepalives(self) -> None:
        """From now on, whoever asks again while it is under way asks the process that serves then."""
        for listener in self._listeners:
            listener.app.on_response_prepare.append(self._end_keepalive)

    async def _end_keepalive(self, request: web.Request, response: web.StreamResponse) -> None:
        if self.is_under_way:
            response.headers["Connection"] = "close"
            response.force_close()

    async def hand_over(self, is_hurried: asyncio.Event, *, stop_seconds: float, spread: float) -> int:
        """Let clients go one after another within `spread` seconds; return how many had not taken everything.

        The sources get their part of `stop_seconds`. It ends early when `is_hurried` is set.
        """
        self.is_under_way = True
        self._had_feed = self._feed_runner.keeper is not None and self._feed_runner.keeper.is_owner
        for listener in self._listeners:
            listener.hold()
        stages = asyncio.ensure_future(self._give_up_sources(stop_seconds))
        hurried = asyncio.ensure_future(is_hurried.wait())
        await asyncio.wait((stages, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stages.done():
            # What is left of it is for the stop.
            stages.cancel()
            await asyncio.wait((stages,))
        if not stages.cancelled():
            stages.result()
        self._last_values.give_up()
        n_cut = await GradualDrain(self._hub, announce_shutdown, spread=spread, is_hurried=is_hurried).run()
        patient_until = time.monotonic() + _SESSIONS_SECONDS
        while len(self._sessions) and time.monotonic() < patient_until and not is_hurried.is_set():
            await asyncio.sleep(_SESSIONS_LOOK_SECONDS)
        return n_cut

    async def _give_up_sources(self, stop_seconds: float) -> None:
        await self._sources.end(stop_seconds)
        await self._last_values.stop(stop_seconds / 4)

    def let_go(self) -> None:
        """Leave the places for good to the other process."""
        for listener in self._listeners:
            listener.pass_on()

    async def take_back(self, *, stop_seconds: float) -> None:
        """Serve on, for the other process is gone. What of the sources has not ended yet gets part of `stop_seconds`
        to end, and the feed starts again."""
        self.is_under_way = False
        for listener in self._listeners:
            listener.go_on()
        self._last_values.take_back()
        await self._sources.end(stop_seconds)
        self._feed_runner.start_anew(was_owner=self._had_feed)
