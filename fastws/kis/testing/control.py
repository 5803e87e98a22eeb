"""The endpoint through which other processes look into the fake server and tell it what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from fastws.kis.testing.settings import ScriptError

if TYPE_CHECKING:
    from fastws.kis.testing.server import FakeKIS

_KINDS: Final = ("requests", "sessions", "calls", "violations")


class Control:
    """``/_fake``: state, journal and actions, as JSON.

    GET /_fake                          what is going on, and a summary of the journal
    GET /_fake/requests?since=12.5      entries of the journal from that time on; also sessions, calls, violations
    POST /_fake                         an action or a list of them: {"do": "drop"}; the answer says what they hit
    """

    def __init__(self, server: FakeKIS) -> None:
        self._server = server

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/_fake", self._state)
        router.add_post("/_fake", self._do)
        router.add_get("/_fake/{kind}", self._journal)

    async def _state(self, request: web.Request) -> web.Response:
        return _json(self._server.state())

    async def _journal(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in _KINDS:
            return _json({"error": f"there is no {kind}; there are {', '.join(_KINDS)}"}, 404)
        try:
            since = float(request.query.get("since", "0"))
        except ValueError:
            return _json({"error": "since: expected seconds since the start of the server"}, 400)
        entries: Any = getattr(self._server.journal, kind)
        # A session counts as long as it is open.
        return _json([entry for entry in entries if _time(entry) >= since])

    async def _do(self, request: web.Request) -> web.Response:
        try:
            given = msgspec.json.decode(await request.read())
        except (msgspec.DecodeError, RecursionError) as error:
            return _json({"error": f"not JSON: {error}"}, 400)
        wanted = given if isinstance(given, list) else [given]
        results = []
        for i, fields in enumerate(wanted):
            try:
                results.append(self._server.do(fields if isinstance(fields, dict) else {}))
            except ScriptError as error:
                place = f"[{i}]: " if isinstance(given, list) else ""
                return _json({"error": f"{place}{error}", "done": results}, 400)
        return _json({"done": results})


def _time(entry: Any) -> float:
    at = getattr(entry, "at", None)
    if at is not None:
        return float(at)
    return float("inf") if entry.closed_at is None else float(entry.closed_at)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
