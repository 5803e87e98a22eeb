"""What instances tell each other beside envelopes, as MessagePack. Sans-IO."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from fastws._relay import MAX_SHARDS
from fastws.errors import FastwsError
from fastws.relay.session_messages import (
    NumberText,
    SessionAnswer,
    SessionChanges,
    SessionClaim,
    SessionKept,
    SessionsLeft,
    SessionsPart,
    SessionsRequest,
)

# Alerts carry what a backend has added to them.
MAX_SIZE: Final = 2 << 20

Origin = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Shard = Annotated[int, Meta(ge=0, lt=MAX_SHARDS)]
_Position = Annotated[int, Meta(ge=0, le=2**62)]
_FeedName = Annotated[str, Meta(min_length=1, max_length=64)]
_Figure = Annotated[int, Meta(ge=0, le=2**62)]


FeedState = Literal["live", "stale", "reconnecting", "stopped"]
TableName = Literal["users", "interest"]

MAX_KEY_SIZE: Final = 1024
"""Characters of a key of a table."""

MAX_RANK: Final = 1000

Pair: TypeAlias = tuple[
    Annotated[int, Meta(ge=0, le=2**62)],
    Annotated[int, Meta(ge=0, le=2**62)],
]
Entries: TypeAlias = dict[Annotated[str, Meta(min_length=1, max_length=MAX_KEY_SIZE)], Pair]

NOTHING: Final[Pair] = (0, 0)
"""What a key that is not in a table has."""


class ControlError(FastwsError):
    """A message that is none of these."""


class Candidacy(msgspec.Struct, frozen=True):
    """An instance can run a feed, or `is_owner` of it and does. `rank` is its place in the row; see `Post`."""

    rank: Annotated[int, Meta(ge=0, le=MAX_RANK)]
    is_owner: bool


class Announcement(msgspec.Struct, frozen=True, tag="announcement"):
    """An instance is there. `positions` are those of its last update of each shard; empty when it is leaving.

    `name` is for people. `feeds` are the states of the feeds that it runs, `candidacies` are of those that it can run.
    `figures` are what statistics of all instances together add up. `tables` are the numbers of the last changes that it
    has told of its tables. `sessions` is the number of its last `SessionChanges`, -1 where it has no sessions.
    """

    origin: Origin
    name: Annotated[str, Meta(max_length=300)]
    positions: Annotated[list[_Position], Meta(max_length=MAX_SHARDS)]
    feeds: Annotated[dict[_FeedName, FeedState], Meta(max_length=16)] = {}
    figures: Annotated[dict[Annotated[str, Meta(max_length=64)], _Figure], Meta(max_length=64)] = {}
    candidacies: Annotated[dict[_FeedName, Candidacy], Meta(max_length=16)] = {}
    tables: dict[TableName, _Position] = {}
    sessions: Annotated[int, Meta(ge=-1, le=2**62)] = -1


class ValuesRequest(msgspec.Struct, frozen=True, tag="values"):
    """Somebody wants the last values of these shards, from everyone or from whom it is sent to."""

    origin: Origin
    shards: Annotated[list[_Shard], Meta(max_length=MAX_SHARDS)]


class GapRequest(msgspec.Struct, frozen=True, tag="gap"):
    """Somebody has missed the updates from position `first` to `last` of a shard."""

    origin: Origin
    shard: _Shard
    first: Annotated[int, Meta(ge=1, le=2**62)]
    last: Annotated[int, Meta(ge=1, le=2**62)]


class Kick(msgspec.Struct, frozen=True, tag="kick"):
    """Connections are to be closed everywhere: those of a user, of a token or with an id; the others are None.

    Who sends it counts these by `id`; one without is not to be answered.
    """

    origin: Origin
    user_id: str | None = None
    jti: str | None = None
    connection_id: str | None = None
    id: Annotated[int, Meta(ge=0, le=2**62)] = 0


class KickAnswer(msgspec.Struct, frozen=True, tag="kick-answer"):
    """So many connections were `closed` by the kick `id` of whom it is sent to."""

    origin: Origin
    id: Annotated[int, Meta(ge=1, le=2**62)]
    closed: Annotated[int, Meta(ge=0, le=2**31)]


class UserAlert(msgspec.Struct, frozen=True, tag="alert"):
    """A user is told something, wherever connected; see `fastws.market.alert_messages.Alert`.

    `id` is a random number. One that `is_handed` is for one instance, to which the user has come: it is the one that
    keeps it from then on until the user has heard it.
    """

    origin: Origin
    user_key: Annotated[str, Meta(min_length=1)]
    code: str
    alert_type: str
    threshold: NumberText
    current_price: NumberText
    message: str
    extra: bytes | None = None
    id: Annotated[int, Meta(ge=0, le=2**62)] = 0
    is_handed: bool = False


class AlertHeard(msgspec.Struct, frozen=True, tag="heard"):
    """The user of an alert has heard it."""

    origin: Origin
    id: Annotated[int, Meta(ge=1, le=2**62)]


class TablePart(msgspec.Struct, frozen=True, tag="table"):
    """What has changed in a table of an instance: the change with the number `serial`.

    Or, with the number `part` from 0, a part of the whole table as it was after that change; `is_last` the last one.
    """

    origin: Origin
    table: TableName
    serial: _Position
    entries: Entries
    part: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    is_last: bool = False


class TablesRequest(msgspec.Struct, frozen=True, tag="tables"):
    """Somebody wants the whole of these tables."""

    origin: Origin
    tables: Annotated[list[TableName], Meta(max_length=2)]


class Eviction(msgspec.Struct, frozen=True, tag="evict"):
    """The user's oldest connection is to make room for a newer one elsewhere, if it was opened by `opened_ms`."""

    origin: Origin
    user_key: Annotated[str, Meta(min_length=1)]
    opened_ms: Annotated[int, Meta(ge=0, le=2**62)]


class RulesChanged(msgspec.Struct, frozen=True, tag="rules"):
    """Alert rules were made or deleted; their rows in the database, if it is the same one, say what is."""

    origin: Origin
    ids: Annotated[list[Annotated[int, Meta(ge=1, le=2**63 - 1)]], Meta(max_length=10_000)]


_Code = Annotated[str, Meta(min_length=1, max_length=64)]
_MAX_CODES: Final = 100


class ForceRequest(msgspec.Struct, frozen=True, tag="force"):
    """A user wants prices polled at once; it is sent to the instance that runs the feed. `id` comes back."""

    origin: Origin
    id: Annotated[int, Meta(ge=1, le=2**62)]
    codes: Annotated[list[_Code], Meta(min_length=1, max_length=_MAX_CODES)]


class ForceAnswer(msgspec.Struct, frozen=True, tag="forced"):
    """Whose price is current now, and why others are not, by code."""

    origin: Origin
    id: Annotated[int, Meta(ge=1, le=2**62)]
    updated: Annotated[list[_Code], Meta(max_length=_MAX_CODES)]
    failed: Annotated[dict[_Code, Annotated[str, Meta(max_length=1000)]], Meta(max_length=_MAX_CODES)]


SessionMessage: TypeAlias = (
    SessionChanges
    | SessionsRequest
    | SessionsPart
    | SessionClaim
    | SessionAnswer
    | SessionKept
    | SessionsLeft
)
Message: TypeAlias = (
    Announcement
    | ValuesRequest
    | GapRequest
    | Kick
    | KickAnswer
    | UserAlert
    | AlertHeard
    | TablePart
    | TablesRequest
    | Eviction
    | RulesChanged
    | ForceRequest
    | ForceAnswer
    | SessionMessage
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Read a message.

    Raises:
        ControlError: it is none.
    """
    if len(data) > MAX_SIZE:
        raise ControlError(f"a message of {len(data)} bytes is too long")
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(str(error)) from None
    return message
