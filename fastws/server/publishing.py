"""What ``POST /v1/publish`` takes: updates and alerts of others, all of a request or nothing of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final, Protocol, assert_never

import msgspec
from aiohttp import web

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate
from fastws.errors import ErrorCode, FastwsError
from fastws.feeds.lines import LineError, decode_body
from fastws.market.alert_messages import Alert, UserAlert, read_alert
from fastws.market.instruments import MAX_INSTRUMENTS, Instruments
from fastws.market.market import Market
from fastws.server.api_errors import ApiError, error_response, invalid
from fastws.server.http import json_response

MAX_UPDATES: Final = 5000  # of one request: they are published in one go
_SHOWN_MARKETS: Final = 10
_SLICE: Final = 250  # elements read before the loop runs on, which is about a millisecond
_BY_SERVER: Final = ("timestamp", "sequence", "seq", "snapshot")


class _Object(msgspec.Struct, gc=False):
    """Any object, unread."""


_objects = msgspec.json.Decoder(list[_Object])
_INDEX: Final = re.compile(r"`\$\[(\d+)\]`")
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_text = msgspec.json.Decoder(str)

Update = PriceUpdate | BookUpdate | MarketStatus


class PublishingView(Protocol):
    """What publishing needs of the server."""

    @property
    def takes_updates(self) -> bool:
        """False once the last values are on their way to the clients of a server that stops."""

    @property
    def market(self) -> Market: ...

    def tell(self, user_key: str, alert: Alert, /) -> int:
        """Publish an alert to a user, compared by `Identity.user_key`; return its sequence."""


class _ElementError(FastwsError):
    """An element cannot be published. `field` is what is wrong with it, None for all of it."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field = field


async def publish(server: PublishingView, body: bytes) -> web.Response:
    """Publish what the body of a request wants to be published, and return its answer."""
    try:
        updates = await _read_updates(body, server.market)
        if not server.takes_updates:
            raise ApiError(503, "SHUTTING_DOWN", "the server is stopping", headers={"Retry-After": "5"})
        # Here, as other requests may have added codes while this one was read.
        _check_room(server.market, updates)
    except ApiError as problem:
        return error_response(problem)
    # In one go: the sequences of a request have no gaps.
    sequences = [_publish(server, update) for update in updates]
    return json_response(
        {"accepted": len(sequences), "first_sequence": sequences[0], "last_sequence": sequences[-1]},
        status=202,
    )


async def _read_updates(body: bytes, market: Market) -> list[Update | UserAlert]:
    """Return what the body of a publish request wants to be published, one or more; nothing has changed yet.

    Raises:
        ApiError: naming the first element that cannot be published.
    """
    try:
        body.decode()  # what is passed through unread has to be UTF-8 as well
        compact = msgspec.json.format(body, indent=-1)
        is_list = compact.startswith(b"[")
        if is_list and compact.count(b",") >= MAX_UPDATES:
            _check_number(compact)
        elements = _elements.decode(compact) if is_list else [msgspec.Raw(compact)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(None, f"expected an object or a list as JSON in UTF-8: {error}") from None
    if not elements:
        raise invalid(None, "the list is empty")
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
            raise invalid(error.field, f"element {i}: {error}", index=i) from None
    return updates


def _check_number(compact: bytes) -> None:
    """Refuse a list of too many elements before it is taken apart, which would take ten times as long."""
    try:
        n = len(_objects.decode(compact))
    except msgspec.ValidationError as error:
        where = _INDEX.search(str(error))
        i = int(where[1]) if where else 0
        raise invalid(None, f"element {i}: expected an object", index=i) from None
    if n > MAX_UPDATES:
        raise ApiError(
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
        raise ApiError(
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


def _publish(server: PublishingView, update: Update | UserAlert) -> int:
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
