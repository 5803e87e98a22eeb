"""What instances tell each other beside envelopes, as MessagePack. Sans-IO."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from fastws._relay import MAX_SHARDS
from fastws.errors import FastwsError

# Alerts carry what a backend has added to them.
MAX_SIZE: Final = 2 << 20

Origin = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Shard = Annotated[int, Meta(ge=0, lt=MAX_SHARDS)]
_Position = Annotated[int, Meta(ge=0, le=2**62)]
_FeedName = Annotated[str, Meta(min_length=1, max_length=64)]
_Figure = Annotated[int, Meta(ge=0, le=2**62)]
_Number = Annotated[str, Meta(max_length=64, pattern=r"^-?[0-9]+(\.[0-9]+)?$")]


FeedState = Literal["live", "stale", "reconnecting", "stopped"]


class ControlError(FastwsError):
    """A message that is none of these."""


class Announcement(msgspec.Struct, frozen=True, tag="announcement"):
    """An instance is there. `positions` are those of its last update of each shard; empty when it is leaving.

    `name` is for people. `feeds` are the states of its own feeds. `figures` are what statistics of all instances
    together add up.
    """

    origin: Origin
    name: Annotated[str, Meta(max_length=300)]
    positions: Annotated[list[_Position], Meta(max_length=MAX_SHARDS)]
    feeds: Annotated[dict[_FeedName, FeedState], Meta(max_length=16)] = {}
    figures: Annotated[dict[Annotated[str, Meta(max_length=64)], _Figure], Meta(max_length=64)] = {}


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
    """Connections are to be closed everywhere: those of a user, of a token or with an id; the others are None."""

    origin: Origin
    user_id: str | None = None
    jti: str | None = None
    connection_id: str | None = None


class UserAlert(msgspec.Struct, frozen=True, tag="alert"):
    """A user is told something, wherever connected; see `fastws.market.alert_messages.Alert`."""

    origin: Origin
    user_key: Annotated[str, Meta(min_length=1)]
    code: str
    alert_type: str
    threshold: _Number
    current_price: _Number
    message: str
    extra: bytes | None = None


Message: TypeAlias = Announcement | ValuesRequest | GapRequest | Kick | UserAlert

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
