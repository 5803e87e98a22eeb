"""The HTTP endpoints that act: publishing, kicking and the connection list for the administrator, a user's alerts.

Every body is JSON and errors have the shape of :mod:`fastws.server.http`; those that can be told in terms of the
request say so in ``details``: ``field``, ``index`` (of the element of an array), ``reason`` (why a token is not
accepted), ``limit`` and ``current``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Final, Protocol, assert_never

import msgspec
import structlog
from aiohttp import web

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, utc_text
from fastws.errors import ErrorCode, FastwsError
from fastws.feeds.lines import LineError, decode_body
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert, UserAlert, encode_rule, read_alert
from fastws.market.alerts import AlertBook, AlertError, AlertLimitError
from fastws.market.instruments import MAX_INSTRUMENTS, Instruments
from fastws.market.market import Market
from fastws.market.portfolio_reader import Reloaded
from fastws.market.store import StoreError
from fastws.server.callers import CallersView, bearer_of, check_stock, identify, is_administrator
from fastws.server.handshake import error_body
from fastws.server.http import Endpoint, add_endpoints, json_response

_MAX_ID_DIGITS: Final = 19  # of 2**63 - 1; keeps int() from working on a megabyte of digits
MAX_UPDATES: Final = 5000  # of one request: they are published in one go
MAX_RELOADED: Final = 10_000  # portfolios that a request names; beyond, reading all of them is as fast
_SHOWN_MARKETS: Final = 10
_SHOWN_LEFT_OUT: Final = 10
_SLICE: Final = 250  # elements read before the loop runs on, which is about a millisecond
_LISTED_SLICE: Final = 100  # connections, with 50 subscriptions each some 4 ms

_KICKED_BY: Final = ("user_id", "jti", "connection_id")
_BY_SERVER: Final = ("timestamp", "sequence", "seq", "snapshot")
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}  # RFC 9110 §11.6.1: a 401 without it is malformed

_log = structlog.get_logger("fastws.api")


class _Object(msgspec.Struct, gc=False):
    """Any object, unread."""


_objects = msgspec.json.Decoder(list[_Object])
_ids = msgspec.json.Decoder(
    Annotated[
        list[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]], msgspec.Meta(max_length=MAX_RELOADED)
    ]
)
_INDEX: Final = re.compile(r"`\$\[(\d+)\]`")
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_text = msgspec.json.Decoder(str)
_members = msgspec.json.Decoder(dict[str, Any])

Update = PriceUpdate | BookUpdate | MarketStatus
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiView(CallersView, Protocol):
    """What the routes need of the server."""

    @property
    def admin_token(self) -> str | None:
        """The token of the administrator; None or an empty one: nobody is."""

    @property
    def takes_updates(self) -> bool:
        """False once the last values are on their way to the clients of a server that stops."""

    @property
    def alerts(self) -> AlertBook: ...

    @property
    def market(self) -> Market: ...

    def tell(self, user_key: str, alert: Alert, /) -> int:
        """Publish an alert to a user, compared by `Identity.user_key`; return its sequence."""

    def connections(self, *, has_subscriptions: bool = True) -> Iterable[dict[str, Any]]:
        """The elements of ``/v1/ws/connections``, each made when it is asked for."""

    async def encode_ledger(self, *, has_topics: bool, has_connections: bool) -> bytes:
        """The body of ``/v1/ws/ledger``; see :class:`fastws.server.ledger.Ledger`."""

    def kick(self, *, user_id: str | None, jti: str | None, connection_id: str | None) -> int:
        """Close the connections of a user, of a token or with an id (the others are None); return how many.

        `user_id` is compared with `Identity.user_key`.
        """

    async def reload_portfolios(self, ids: Sequence[int] | None, /) -> Reloaded:
        """Read portfolios again, all of them for None; see `Portfolios.reload`."""


class _ApiError(FastwsError):
    """Raised by a route to answer an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(code, message, details)
        self.headers = headers or {}


class _ElementError(FastwsError):
    """An element cannot be published. `field` is what is wrong with it, None for all of it."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field = field


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
        except _ApiError as problem:
            return _error_response(problem)

    return answer


def _error_response(problem: _ApiError) -> web.Response:
    response = json_response(problem.body, status=problem.status)
    response.headers.update(problem.headers)
    return response


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "true")
    if text not in ("true", "false"):
        raise _ApiError(400, "INVALID_PARAMETER", f"{name} must be true or false")
    return text == "true"


async def encode_connections(server: ApiView, *, has_subscriptions: bool) -> bytes:
    """The body of ``/v1/ws/connections``."""
    elements = []
    for n, connection in enumerate(server.connections(has_subscriptions=has_subscriptions), 1):
        elements.append(msgspec.json.encode(connection))
        if n % _LISTED_SLICE == 0:
            await asyncio.sleep(0)
    return b"[%b]" % b",".join(elements)


async def publish(server: ApiView, body: bytes) -> web.Response:
    """Publish what the body of a request wants to be published, and return its answer."""
    try:
        updates = await _read_updates(body, server.market)
        if not server.takes_updates:
            raise _ApiError(503, "SHUTTING_DOWN", "the server is stopping", headers={"Retry-After": "5"})
        # Here, as other requests may have added codes while this one was read.
        _check_room(server.market, updates)
    except _ApiError as problem:
        return _error_response(problem)
    # In one go: the sequences of a request have no gaps.
    sequences = [_publish(server, update) for update in updates]
    return json_response(
        {"accepted": len(sequences), "first_sequence": sequences[0], "last_sequence": sequences[-1]},
        status=202,
    )


class _Routes:
    def __init__(self, server: ApiView) -> None:
        self._server = server

    # Of the administrator.

    async def connections(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        has_subscriptions = _flag(request, "subscriptions")
        if request.query.get("scope", "instance") != "instance":
            raise _ApiError(
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
        members = await _read_object(request)
        named = [name for name in _KICKED_BY if members.get(name) is not None]
        if len(named) != 1:
            given = f"got {' and '.join(named)}" if named else "got none of them"
            raise _invalid(
                named[-1] if named else "user_id", f"expected one of {', '.join(_KICKED_BY)}; {given}"
            )
        name = named[0]
        value = members[name]
        # The ids of users may be whole numbers, and are compared as texts.
        if name == "user_id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise _invalid(name, f"{name}: expected a text that is not empty")
        n_closed = self._server.kick(
            user_id=value if name == "user_id" else None,
            jti=value if name == "jti" else None,
            connection_id=value if name == "connection_id" else None,
        )
        return json_response({"closed": n_closed})

    async def reload_portfolios(self, request: web.Request) -> web.Response:
        self._check_admin(request)
        ids = read_ids(await request.read())
        try:
            done = await self._server.reload_portfolios(ids)
        except StoreError as error:
            log_limited(_log, "portfolios-unavailable", "portfolios cannot be read", error=str(error))
            raise _ApiError(
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
            raise _ApiError(
                403, ErrorCode.FORBIDDEN, "this server has no admin token; set admin_token to allow this"
            )
        if bearer_of(request) is None:
            raise _ApiError(
                401,
                ErrorCode.AUTH_REQUIRED,
                "send the admin token as Authorization: Bearer",
                headers=_CHALLENGE,
            )
        if not is_administrator(request, token):
            raise _ApiError(401, ErrorCode.INVALID_TOKEN, "this is not the admin token", headers=_CHALLENGE)

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
        raw = _read_members(await request.read())
        code = _text_of(raw, "code")
        check_stock(identity, code, field="code")
        alert_type = _text_of(raw, "alert_type")
        if "threshold" not in raw:
            raise _invalid("threshold", "threshold: missing")
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
            raise _ApiError(404, "NOT_FOUND", "you have no alert with this id")
        return web.Response(status=204)


@contextlib.contextmanager
def _alert_errors() -> Iterator[None]:
    """Turn the errors of an alert book into answers."""
    try:
        yield
    except AlertError as error:
        raise _invalid(error.field, str(error)) from None
    except AlertLimitError as error:
        details = {"limit": error.limit, "current": error.limit}
        raise _ApiError(403, ErrorCode.LIMIT_EXCEEDED, str(error), details) from None
    except StoreError as error:
        # Its text names the database, which is no business of a user.
        log_limited(_log, "alerts-unavailable", "alerts cannot be reached", error=str(error))
        raise _ApiError(
            503,
            "SERVICE_UNAVAILABLE",
            "the database of alerts does not do its part; look later whether it was done, or try again",
        ) from None


def _invalid(field: str | None, message: str, **details: object) -> _ApiError:
    return _ApiError(
        400, ErrorCode.INVALID_MESSAGE, message, details if field is None else {**details, "field": field}
    )


# Bodies of requests.


async def _read_object(request: web.Request) -> dict[str, Any]:
    try:
        return _members.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid(None, "expected a JSON object in UTF-8") from None


def read_ids(body: bytes) -> list[int] | None:
    """The `ids` of a request whose body may be missing, as they may be; None for all."""
    if not body.strip():
        return None
    members = _read_members(body)
    if "ids" not in members:
        return None
    try:
        ids: list[int] = _ids.decode(members["ids"])
    except msgspec.DecodeError:
        raise _invalid(
            "ids", f"ids: expected up to {MAX_RELOADED} ids of portfolios, which are whole numbers"
        ) from None
    return ids


def _read_members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        body.decode()  # raw members are not looked at
        return _raw_members.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid(None, "expected a JSON object in UTF-8") from None


def _text_of(members: Mapping[str, msgspec.Raw], name: str) -> str:
    if name not in members:
        raise _invalid(name, f"{name}: missing")
    try:
        return _any_text.decode(members[name])
    except msgspec.DecodeError:
        raise _invalid(name, f"{name}: expected text") from None


async def _read_updates(body: bytes, market: Market) -> list[Update | UserAlert]:
    """Return what the body of a publish request wants to be published, one or more; nothing has changed yet.

    Raises:
        _ApiError: naming the first element that cannot be published.
    """
    try:
        body.decode()  # what is passed through unread has to be UTF-8 as well
        compact = msgspec.json.format(body, indent=-1)
        is_list = compact.startswith(b"[")
        if is_list and compact.count(b",") >= MAX_UPDATES:
            _check_number(compact)
        elements = _elements.decode(compact) if is_list else [msgspec.Raw(compact)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(None, f"expected an object or a list as JSON in UTF-8: {error}") from None
    if not elements:
        raise _invalid(None, "the list is empty")
    # New codes enter the table when they are published: until then, the request may be refused. Should another
    # request add one of them meanwhile, its instrument stays in the table; these updates look the same with ours.
    new: dict[str, Instrument] = {}

    def instrument_of(code: str) -> Instrument:
        known = market.instrument(code) or new.get(code)
        if known is None:
            new[code] = known = Instrument(code)
        return known

    updates: list[Update | UserAlert] = []
    for i, element in enumerate(elements):
        if i % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        try:
            update = _read_update(bytes(element), instrument_of)
            if isinstance(update, MarketStatus):
                _check_market(update.market, market.instruments)
            updates.append(update)
        except _ElementError as error:
            raise _invalid(error.field, f"element {i}: {error}", index=i) from None
    return updates


def _check_number(compact: bytes) -> None:
    """Refuse a list of too many elements before it is taken apart, which would take ten times as long."""
    try:
        n = len(_objects.decode(compact))
    except msgspec.ValidationError as error:
        where = _INDEX.search(str(error))
        i = int(where[1]) if where else 0
        raise _invalid(None, f"element {i}: expected an object", index=i) from None
    if n > MAX_UPDATES:
        raise _ApiError(
            413,
            ErrorCode.LIMIT_EXCEEDED,
            f"a request may publish {MAX_UPDATES} elements, this one has {n}; send several requests",
            {"limit": MAX_UPDATES, "current": n},
        )


def _check_room(market: Market, updates: Iterable[Update | UserAlert]) -> None:
    """Refuse what would make too many instruments."""
    codes = {update.instrument.code for update in updates if isinstance(update, PriceUpdate | BookUpdate)}
    n_new = sum(1 for code in codes if market.instrument(code) is None)
    n_known = len(market.instruments)
    if n_new and n_known + n_new > MAX_INSTRUMENTS:
        raise _ApiError(
            403,
            ErrorCode.LIMIT_EXCEEDED,
            f"{n_new} of these codes are new, and there may be {MAX_INSTRUMENTS} instruments; "
            "put what you need into symbols_file",
            {"limit": MAX_INSTRUMENTS, "current": n_known},
        )


def _check_market(name: str, instruments: Instruments) -> None:
    # Nobody can subscribe to another one: it is most likely misspelt.
    if name not in instruments.markets:
        known = ", ".join(islice(instruments.markets, _SHOWN_MARKETS))
        more = ", …" if len(instruments.markets) > _SHOWN_MARKETS else ""
        known_text = f"known are {known}{more}" if known else "the instruments have none"
        raise _ElementError(
            "market", f"market: unknown market {name[:64]!r}; {known_text}, and symbols_file names them"
        )


def _read_update(element: bytes, instrument_of: Callable[[str], Instrument]) -> Update | UserAlert:
    try:
        members = _raw_members.decode(element)
    except (msgspec.DecodeError, RecursionError):
        raise _ElementError(None, "expected an object") from None
    for name in _BY_SERVER:
        if name in members:
            raise _ElementError(name, f"{name}: is set by the server, leave it out")
    if _is_alert(members):
        try:
            return read_alert(members)
        except ValueError as error:
            raise _ElementError(str(error).partition(":")[0], str(error)) from None
    try:
        update = decode_body(element, instrument_of)
    except LineError as error:
        if error.kind == "message type":
            raise _ElementError("type", f"type: {error}, nor alert") from None
        raise _ElementError(str(error).partition(":")[0], str(error)) from None
    if update is None:  # a control message of KIS, which has no type
        raise _ElementError("type", "type: missing")
    return update


def _is_alert(members: Mapping[str, msgspec.Raw]) -> bool:
    try:
        return _any_text.decode(members.get("type", b"")) == "alert"
    except msgspec.DecodeError:
        return False


def _publish(server: ApiView, update: Update | UserAlert) -> int:
    market = server.market
    if isinstance(update, UserAlert):
        return server.tell(update.user_key, update.alert)
    if isinstance(update, PriceUpdate):
        return market.publish_price(update)
    if isinstance(update, BookUpdate):
        return market.publish_book(update)
    if isinstance(update, MarketStatus):
        return market.publish_status(update)
    assert_never(update)
