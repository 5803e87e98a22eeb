"""The HTTP endpoint with which a user has prices polled at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Protocol

import msgspec
from aiohttp import web

from fastws.errors import ErrorCode, FeedAwayError
from fastws.server.callers import CallersView, identify
from fastws.server.handshake import Refusal
from fastws.server.http import Endpoint, HttpError, add_endpoints, json_response
from fastws.wording import explain

MAX_SYMBOLS: Final = 100
"""Symbols of one request."""

_MAX_USERS: Final = 1 << 16


class _Request(msgspec.Struct):
    symbols: list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]]


_requests = msgspec.json.Decoder(_Request)


class ForceView(CallersView, Protocol):
    """What the route needs of the server."""

    @property
    def force_update_interval(self) -> float:
        """Least time between two updates of a user, in seconds; 0 is no limit."""

    async def force_update(self, codes: Sequence[str], /) -> tuple[list[str], dict[str, str]]:
        """Poll symbols now; returns whose price is current, and by code why others are not.

        Raises:
            FeedAwayError: the feed runs at another instance, which cannot be asked.
        """


class Cooldowns:
    """When each user may ask again. Sans-IO; times are of any one monotonic clock, in seconds.

    At most `max_users` are remembered; with more within an interval, those that have waited longest may ask early.
    """

    def __init__(self, max_users: int = _MAX_USERS) -> None:
        self._max_users = max_users
        self._asked_at: dict[str, float] = {}  # the longest ago first

    def take(self, user: str, interval: float, now: float) -> float:
        """Count a request and return 0.0, or return for how many seconds the user may make none."""
        wait = self._asked_at.get(user, -math.inf) + interval - now
        if wait > 0.0:
            return wait
        self._asked_at.pop(user, None)
        self._asked_at[user] = now
        while self._asked_at:
            oldest, asked_at = next(iter(self._asked_at.items()))
            if asked_at + interval > now and len(self._asked_at) <= self._max_users:
                break
            del self._asked_at[oldest]
        return 0.0

    def forget(self, user: str) -> None:
        """What the user has asked for was not done."""
        self._asked_at.pop(user, None)


def add_force_routes(
    app: web.Application, server: ForceView, *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Add the endpoint to an application of :mod:`fastws.server.http`."""
    cooldowns = Cooldowns()

    async def force(request: web.Request) -> web.Response:
        identity = await identify(request, server)
        symbols = _read(await request.read())
        seconds = cooldowns.take(identity.user_key, server.force_update_interval, clock())
        if seconds:
            raise _too_soon(math.ceil(seconds))
        allowed = [code for code in symbols if identity.allows("stock", code)]
        try:
            updated, failed = await server.force_update(allowed)
        except FeedAwayError as error:
            cooldowns.forget(identity.user_key)
            raise HttpError(
                Refusal(503, "SERVICE_UNAVAILABLE", f"{error}; try again", (("Retry-After", "1"),))
            ) from None
        # Whether there is a symbol is no business of somebody whose token does not allow it.
        reasons = failed | {code: "the token does not allow it" for code in symbols if code not in allowed}
        return json_response(
            {
                "updated": updated,
                "failed": [{"symbol": code, "reason": reasons[code]} for code in symbols if code in reasons],
            },
            status=202,
        )

    add_endpoints(
        app,
        (
            Endpoint(
                "POST", "/api/realtime/force_price_update", force, "poll the prices of symbols now; users"
            ),
        ),
    )


def _read(body: bytes) -> list[str]:
    try:
        symbols = list(dict.fromkeys(_requests.decode(body).symbols))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        field, problem = explain(str(error))
        where = f"{field}: " if field else 'expected {"symbols":["AAPL"]}: '
        refusal = Refusal(400, ErrorCode.INVALID_MESSAGE, where + problem)
        raise HttpError(refusal, {"field": field.partition("[")[0]} if field else None) from None
    if not symbols:
        refusal = Refusal(400, ErrorCode.INVALID_MESSAGE, "symbols: name at least one")
        raise HttpError(refusal, {"field": "symbols"})
    if len(symbols) > MAX_SYMBOLS:
        raise HttpError(
            Refusal(
                413,
                ErrorCode.LIMIT_EXCEEDED,
                f"a request may name {MAX_SYMBOLS} symbols, this one names {len(symbols)}",
            ),
            {"limit": MAX_SYMBOLS, "current": len(symbols)},
        )
    return symbols


def _too_soon(seconds: int) -> HttpError:
    return HttpError(
        Refusal(
            429,
            ErrorCode.RATE_LIMIT_EXCEEDED,
            f"prices were polled for you a moment ago; again in {seconds} s",
            (("Retry-After", str(seconds)),),
        ),
        {"retry_after": seconds},
    )
