"""What a worker does for the others that serve the same port, and asks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog
from aiohttp import web

from fastws.errors import FeedAwayError
from fastws.server import api, publishing, together
from fastws.server.http import json_response
from fastws.server.metrics import PARENT, parent_exposition, workers_exposition
from fastws.server.siblings import SiblingError
from fastws.server.workers import OWNER, Worker

if TYPE_CHECKING:
    from fastws.server.server import Server

_FORCE_SECONDS: Final = 20.0
_PUBLISH_SECONDS: Final = 5.0

_log = structlog.get_logger("fastws.workers")


class _Kick(msgspec.Struct):
    """The body of a kick, which was found in order by who has asked."""

    user_id: str | int | None = None
    jti: str | None = None
    connection_id: str | None = None


class _Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes


_kicks: Final = msgspec.json.Decoder(_Kick)
_answers: Final = msgspec.msgpack.Decoder(_Answer)
_ids: Final = msgspec.msgpack.Decoder(list[int] | None)
_flags: Final = msgspec.msgpack.Decoder(tuple[bool, bool])
_codes: Final = msgspec.msgpack.Decoder(list[str])
_forced: Final = msgspec.msgpack.Decoder(tuple[list[str], dict[str, str], str])
_encode: Final = msgspec.msgpack.Encoder().encode


class Shared:
    """Joins `server`, which is a worker's, to the others. Belongs to the thread of the event loop.

    1. What there is to be one of is the owner's: it runs the feed, publishes what comes over HTTP, so that the order of
       requests is the order of updates, and saves last values. While it is not there, others publish themselves.
    2. All have the same database. A rule for alerts that one of them makes waits at all of them, and fires once; see
       `SharedRules`.
    """

    def __init__(self, server: Server, worker: Worker) -> None:
        self.worker = worker
        self._server = server
        self._siblings = worker.siblings
        self._metrics: Callable[[bool, bool], bytes] = lambda is_open, is_whole: b""
        self._siblings.answers |= {
            "stats": self._answer_stats,
            "n_connections": self._answer_n_connections,
            "connections": self._answer_connections,
            "ledger": self._answer_ledger,
            "kick": self._answer_kick,
            "realtime": self._answer_realtime,
            "reload_portfolios": self._answer_reload_portfolios,
            "metrics": self._answer_metrics,
            "publish": self._answer_publish,
            "force_update": self._answer_force_update,
        }

    @property
    def is_owner(self) -> bool:
        return self.worker.is_owner

    @property
    def admin_token(self) -> str | None:
        return self._server.admin_token

    @property
    def connection_limit(self) -> int:
        return self._server.settings.connection_limit

    def start(self) -> None:
        self._siblings.start()

    async def stop(self) -> None:
        await self._siblings.stop()

    # Figures.

    def give_metrics(self, exposition: Callable[[bool, bool], bytes]) -> None:
        """Know what makes this worker's own figures: as OpenMetrics or not, and all of them or not."""
        self._metrics = exposition

    async def metrics(self, is_open: bool, is_whole: bool) -> bytes:
        """The figures of all workers and of their parent."""
        answers = await self._siblings.ask_all("metrics", b"%d%d" % (is_open, is_whole))
        texts = {self.worker.number: self._metrics(is_open, is_whole)} | answers.found
        labelled = [together.label(text.decode(), str(number)) for number, text in sorted(texts.items())]
        labelled.append(together.label(parent_exposition(is_open=is_open).decode(), PARENT))
        common = workers_exposition(self.worker, texts.keys(), is_open=is_open).decode()
        return together.join([*labelled, common]).encode()

    async def _answer_metrics(self, data: bytes) -> bytes:
        return self._metrics(data[:1] == b"1", data[1:] == b"1")

    async def _answer_stats(self, data: bytes) -> bytes:
        return msgspec.json.encode(self._server.stats())

    async def _answer_n_connections(self, data: bytes) -> bytes:
        return b"%d" % self._server.n_connections

    async def _answer_connections(self, data: bytes) -> bytes:
        return await api.encode_connections(self._server, has_subscriptions=data == b"true")

    async def _answer_ledger(self, data: bytes) -> bytes:
        has_topics, has_connections = _flags.decode(data)
        return await self._server.encode_ledger(has_topics=has_topics, has_connections=has_connections)

    async def _answer_realtime(self, data: bytes) -> bytes:
        body: dict[str, Any] = {"global_stats": self._server.realtime_totals()}
        if data:
            body["user_stats"] = self._server.user_stats(data.decode())
        return msgspec.json.encode(body)

    # What is done everywhere.

    async def _answer_kick(self, data: bytes) -> bytes:
        kick = _kicks.decode(data)
        n = self._server.admission.kick(
            user_id=None if kick.user_id is None else str(kick.user_id),
            jti=kick.jti,
            connection_id=kick.connection_id,
        )
        return b"%d" % n

    async def _answer_reload_portfolios(self, data: bytes) -> bytes:
        await self._server.reload_portfolios(_ids.decode(data))
        return b""

    # What only the owner does.

    async def publish(self, body: bytes) -> web.Response | None:
        """Let the owner publish the body of a request; None where it is not there."""
        if not self.worker.has_owner:
            return None
        answer = _answers.decode(await self._siblings.ask(OWNER, "publish", body, seconds=_PUBLISH_SECONDS))
        response = json_response(answer.body, status=answer.status)
        response.headers.update(answer.headers)
        return response

    async def _answer_publish(self, data: bytes) -> bytes:
        response = await publishing.publish(self._server, data)
        headers = {name: text for name, text in response.headers.items() if name == "Retry-After"}
        return _encode(_Answer(response.status, headers, cast(bytes, response.body)))

    async def force_update(self, codes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Let the owner poll symbols now, or have them polled.

        Raises:
            FeedAwayError: it is not there, or those that it has asked are not.
        """
        try:
            answer = await self._siblings.ask(OWNER, "force_update", _encode(codes), seconds=_FORCE_SECONDS)
        except SiblingError:
            raise FeedAwayError("the feed is being started anew") from None
        updated, failed, away = _forced.decode(answer)
        if away:
            raise FeedAwayError(away)
        return updated, failed

    async def _answer_force_update(self, data: bytes) -> bytes:
        try:
            return _encode((*await self._server.force_update(_codes.decode(data)), ""))
        except FeedAwayError as error:
            return _encode(([], {}, str(error)))
