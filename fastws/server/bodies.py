"""Bodies of requests, which are JSON objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from fastws.server.api_errors import invalid

MAX_RELOADED: Final = 10_000  # portfolios that a request names; beyond, reading all of them is as fast

_ids = msgspec.json.Decoder(
    Annotated[
        list[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]], msgspec.Meta(max_length=MAX_RELOADED)
    ]
)
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_text = msgspec.json.Decoder(str)
_members = msgspec.json.Decoder(dict[str, Any])


async def read_object(request: web.Request) -> dict[str, Any]:
    try:
        return _members.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(None, "expected a JSON object in UTF-8") from None


def read_ids(body: bytes) -> list[int] | None:
    """The `ids` of a request whose body may be missing, as they may be; None for all."""
    if not body.strip():
        return None
    members = read_members(body)
    if "ids" not in members:
        return None
    try:
        ids: list[int] = _ids.decode(members["ids"])
    except msgspec.DecodeError:
        raise invalid(
            "ids", f"ids: expected up to {MAX_RELOADED} ids of portfolios, which are whole numbers"
        ) from None
    return ids


def read_members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        body.decode()  # raw members are not looked at
        return _raw_members.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(None, "expected a JSON object in UTF-8") from None


def text_of(members: Mapping[str, msgspec.Raw], name: str) -> str:
    if name not in members:
        raise invalid(name, f"{name}: missing")
    try:
        return _any_text.decode(members[name])
    except msgspec.DecodeError:
        raise invalid(name, f"{name}: expected text") from None
