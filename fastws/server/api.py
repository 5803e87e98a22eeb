"""The HTTP endpoints that act: publishing, kicking and the connection list for the administrator, a user's alerts.

Every body is JSON and errors have the shape of :mod:`fastws.server.http`; those that can be told in terms of the
request say so in ``details``: ``field``, ``index`` (of the element of an array), ``reason`` (why a token is not
accepted), ``limit`` and ``current``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import msgspec
import structlog
from aiohttp import web

from fastws._market import utc_text
from fastws.errors import ErrorCode
from fastws.logs import log_limited
from fastws.market.alert_messages import encode_rule
from fastws.market.alerts import AlertBook, AlertError, AlertLimitError
from fastws.market.portfolio_reader import Reloaded
from fastws.market.store import StoreError
from fastws.server.api_errors import ApiError, error_response, invalid
from fastws.server.bodies import read_ids, read_members, read_object, text_of
from fastws.server.callers import CallersView, bearer_of, check_stock, identify, is_administrator
from fastws.server.http import Endpoint, add_endpoints, json_response
from fastws.server.publishing import PublishingView, publish

_MAX_ID_DIGITS: Final = 19  # of 2**63 - 1; keeps int() from working on a megabyte of digits
_SHOWN_LEFT_OUT: Final = 10
_LISTED_SLICE: Final = 100  # connections, with 50 subscriptions each some 4 ms

_KICKED_BY: Final = ("user_id", "jti", "connection_id")
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}  # RFC 9110 §11.6.1: a 401 without it is malformed

_log = structlog.get_logger("fastws.api")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiView(CallersView, PublishingView, Protocol):
    """What the routes need of the server."""

    @property
    def admin_token(self) -> str | None:
        """The token of the administrator; None or an empty one: nobody is."""

    @property
    def alerts(self) -> AlertBook: ...

    def connections(self, *, has_subscriptions: bool = True) -> Iterable[dict[str, Any]]:
        """The elements of ``/v1/ws/connections``, each made when it is asked for."""

    async def encode_ledger(self, *, has_topics: bool, has_connections: bool) -> bytes:
        """The body of ``/v1/ws/ledger``; see :class:`fastws.server.ledger.Ledger`."""

    async def kick(
        self, *, user_id: str | None, jti: str | None, connection_id: str | None
    ) -> tuple[int, list[str]]:
        """Close the connections of a user, of a token or with an id (the others are None); return how many.

        `user_id` is compared with `Identity.user_key`.
        """

    async def reload_portfolios(self, ids: Sequence[int] | None, /) -> Reloaded:
        """Read portfolios again, all of them for None; see `Portfolios.reload`."""


def add_user_routes(app: web.Application, server: ApiView) -> None:
    """Add the endpoints of users, who bring their tokens, to an application of :mod:`fastws.server.http`."""
    routes = _Routes(server)
    _add(
        app,
        ("GET", "/api/v1/users/me", routes.who, "who a token is"),
        ("GET", "/v1/alerts", routes.list_alerts, "a user's price alerts"),
        ("POST", "/v1/alerts", routes.add_alert, "a new alert"),
        ("DELETE", "/v1/alerts/{id}", routes.delete_alert, "no longer this alert"),
    )


def add_admin_routes(app: web.Application, server: ApiView) -> None:
    """Add the endpoints that want the administrator's token to an application of :mod:`fastws.server.http`."""
    routes = _Routes(server)
    _add(
        app,
        (
            "POST",
            "/v1/publish",
            routes.publish,
            "publish prices, order books, market statuses and alerts; admin",
        ),
        (
            "GET",
            "/v1/ws/connections",
            routes.connections,
            "open WebSocket connections; ?subscriptions=false leaves theirs out; admin",
        ),
        (
            "GET",
            "/v1/ws/ledger",
            routes.ledger,
            "what became of every update; ?topics=false and ?connections=false leave lists out; admin",
        ),
        ("POST", "/v1/admin/kick", routes.kick, "close a user's connections, a token's, or one; admin"),
        (
            "POST",
            "/v1/portfolios/reload",
            routes.reload_portfolios,
            "read portfolios and positions again, all or those of ids; admin",
        ),
        # The token that opens everything is not one for pages.
        is_for_pages=False,
    )


def _add(app: web.Application, *endpoints: tuple[str, str, Handler, str], is_for_pages: bool = True) -> None:
    add_endpoints(
        app,
        (
            Endpoint(method, path, _answering(handler), about, is_for_pages)
            for method, path, handler, about in endpoints
        ),
    )


def _answering(handler: Handler) -> Handler:
    """Return `handler` with its errors as responses."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as problem:
            return error_response(problem)

    return answer


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "true")
    if text not in ("true", "false"):
        raise ApiError(400, "INVALID_PARAMETER", f"{name} must be true or false")
    return text == "true"


async def encode_connections(server: ApiView, *, has_subscriptions: bool) -> bytes:
    """The body of ``/v1/ws/connections``."""
    elements = []
    for n, connection in enumerate(server.connections(has_subscriptions=has_subscriptions), 1):
        elements.append(msgspec.json.encode(connection))
        if n % _LISTED_SLICE == 0:
            await asyncio.sleep(0)
    return b"[%b]" % b",".join(elements)


class _Routes:
    def __init__(self, server: ApiView) -> None:
        self._server = server

    # Of the administrator.

    async def connections(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        has_subscriptions = _flag(request, "subscriptions")
        if request.query.get("scope", "instance") != "instance":
            raise ApiError(
                400,
                "INVALID_PARAMETER",
                "scope must be instance: each server has a list of its own connections",
            )
        return json_response(await encode_connections(self._server, has_subscriptions=has_subscriptions))

    async def ledger(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        wanted = {f"has_{name}": _flag(request, name) for name in ("topics", "connections")}
        return json_response(await self._server.encode_ledger(**wanted))

    async def kick(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        members = await read_object(request)
        named = [name for name in _KICKED_BY if members.get(name) is not None]
        if len(named) != 1:
            given = f"got {' and '.join(named)}" if named else "got none of them"
            raise invalid(
                named[-1] if named else "user_id", f"expected one of {', '.join(_KICKED_BY)}; {given}"
            )
        name = named[0]
        value = members[name]
        # The ids of users may be whole numbers, and are compared as texts.
        if name == "user_id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise invalid(name, f"{name}: expected a text that is not empty")
        n_closed, missing = await self._server.kick(
            user_id=value if name == "user_id" else None,
            jti=value if name == "jti" else None,
            connection_id=value if name == "connection_id" else None,
        )
        return json_response({"closed": n_closed, **({"missing": missing} if missing else {})})

    async def reload_portfolios(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        ids = read_ids(await request.read())
        try:
            done = await self._server.reload_portfolios(ids)
        except StoreError as error:
            log_limited(_log, "portfolios-unavailable", "portfolios cannot be read", error=str(error))
            raise ApiError(
                503, "SERVICE_UNAVAILABLE", f"the portfolios stay as they are: {error}; try again"
            ) from None
        return json_response(
            {
                "portfolios": done.n_portfolios,
                "positions": done.n_positions,
                "owners_changed": done.n_moved,
                "left_out": len(done.left_out),
                "first_left_out": [
                    {"id": number, "problem": problem}
                    for number, problem in islice(done.left_out.items(), _SHOWN_LEFT_OUT)
                ],
                "seconds": round(done.seconds, 3),
            }
        )

    async def publish(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        return await publish(self._server, await request.read())

    def _check_admin(self, request: web.Request) -> None:
        token = self._server.admin_token
        if not token:
            raise ApiError(
                403, ErrorCode.FORBIDDEN, "this server has no admin token; set admin_token to allow this"
            )
        if bearer_of(request) is None:
            raise ApiError(
                401,
                ErrorCode.AUTH_REQUIRED,
                "send the admin token as Authorization: Bearer",
                headers=_CHALLENGE,
            )
        if not is_administrator(request, token):
            raise ApiError(401, ErrorCode.INVALID_TOKEN, "this is not the admin token", headers=_CHALLENGE)

    # Of users.

    async def who(self, request: web.Request) -> web.Response:
        identity = await identify(request, self._server)
        expires_at = identity.expires_at
        return json_response(
            {
                "user_id": identity.user_id,
                "expires_at": None if expires_at is None else utc_text(int(expires_at * 1000)),
                "tier": identity.tier,
            }
        )

    async def add_alert(self, request: web.Request) -> web.Response:
        identity = await identify(request, self._server)
        raw = read_members(await request.read())
        code = text_of(raw, "code")
        check_stock(identity, code, field="code")
        alert_type = text_of(raw, "alert_type")
        if "threshold" not in raw:
            raise invalid("threshold", "threshold: missing")
        # As it is written, so that no digit changes.
        threshold = bytes(raw["threshold"]).decode()
        with _alert_errors():
            rule = await self._server.alerts.add(identity.user_key, code, alert_type, threshold)
        return json_response(encode_rule(rule), status=201)

    async def list_alerts(self, request: web.Request) -> web.Response:
        identity = await identify(request, self._server)
        with _alert_errors():
            rules = await self._server.alerts.list(identity.user_key)
        return json_response(b"[%b]" % b",".join(map(encode_rule, rules)))

    async def delete_alert(self, request: web.Request) -> web.Response:
        identity = await identify(request, self._server)
        text = request.match_info["id"]
        is_deleted = False
        if len(text) <= _MAX_ID_DIGITS and text.isascii() and text.isdigit():
            with _alert_errors():
                is_deleted = await self._server.alerts.delete(identity.user_key, int(text))
        if not is_deleted:
            raise ApiError(404, "NOT_FOUND", "you have no alert with this id")
        return web.Response(status=204)


@contextlib.contextmanager
def _alert_errors() -> Iterator[None]:
    """Turn the errors of an alert book into answers."""
    try:
        yield
    except AlertError as error:
        raise invalid(error.field, str(error)) from None
    except AlertLimitError as error:
        details = {"limit": error.limit, "current": error.limit}
        raise ApiError(403, ErrorCode.LIMIT_EXCEEDED, str(error), details) from None
    except StoreError as error:
        # Its text names the database, which is no business of a user.
        log_limited(_log, "alerts-unavailable", "alerts cannot be reached", error=str(error))
        raise ApiError(
            503,
            "SERVICE_UNAVAILABLE",
            "the database of alerts does not do its part; look later whether it was done, or try again",
        ) from None
