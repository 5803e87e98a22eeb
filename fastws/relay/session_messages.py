"""What instances tell each other about sessions, as MessagePack. Sans-IO.

Session ids are secrets: who knows one may take the session over. They do not travel; instances name sessions by their
:func:`key_of`, from which nobody gets the id back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from fastws._core import Options, Topic

KEY_SIZE: Final = 16
MAX_SUBSCRIPTIONS_SIZE: Final = 1 << 20
"""Bytes of the subscriptions of a session, beyond which others are not told of it."""

MAX_MOVES: Final = 2**31
"""A session that has moved so often is counted no further."""

NumberText = Annotated[str, Meta(max_length=64, pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
_Origin = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Moves = Annotated[int, Meta(ge=0, le=MAX_MOVES)]
_Key = Annotated[bytes, Meta(min_length=KEY_SIZE, max_length=KEY_SIZE)]
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Kind = Literal["stock", "market", "sector", "portfolio"]
_Epoch = Annotated[str, Meta(max_length=64)]

_Read = TypeVar("_Read")

Answer = Literal["given", "probing", "unknown", "forbidden", "in_use"]


class Group(msgspec.Struct, frozen=True, array_like=True):
    """Topics of one kind that are held with the same options, in the order in which they are held."""

    kind: _Kind
    latest: bool
    max_rate: Annotated[float, Meta(ge=0)]
    channels: Annotated[int, Meta(ge=0, le=255)]
    names: list[_Name]


class SessionState(msgspec.Struct, frozen=True, array_like=True):
    """A session as its holder knows it, named by its key.

    `moves` counts how often it has gone from one instance to another. `lasts_ms` is for how long it can still be
    restored, -1 while its connection is open. `subscriptions` are a list of `Group`, null once there is no session.
    """

    key: _Key
    moves: _Moves
    user_key: str | None
    is_paused: bool
    lasts_ms: Annotated[int, Meta(ge=-1, le=2**53)]
    subscriptions: msgspec.Raw


class SessionChanges(msgspec.Struct, frozen=True, tag="sessions"):
    """What has changed of the sessions of an instance. `number` counts these messages from 1.

    `states` are each a `SessionState`, as :func:`packed` makes them and :func:`read_states` reads them: one that makes
    no sense does not cost the others.
    """

    origin: _Origin
    number: _Count
    states: list[msgspec.Raw]


class SessionsRequest(msgspec.Struct, frozen=True, tag="sessions-request"):
    """Somebody wants to know all sessions of an instance."""

    origin: _Origin


class SessionsPart(msgspec.Struct, frozen=True, tag="sessions-part"):
    """A part of all sessions of an instance, which are counted from 0; `number` is that of the last `SessionChanges`
    before it."""

    origin: _Origin
    number: _Count
    part: _Count
    is_last: bool
    states: list[msgspec.Raw]


class SessionClaim(msgspec.Struct, frozen=True, tag="claim"):
    """A client of `user_key` wants to go on at another instance with a session.

    `last_sequence` and `epoch` are what it says of itself. `is_for_all`: who knows nothing of it is silent.
    """

    origin: _Origin
    claim: _Count
    key: _Key
    user_key: str | None
    last_sequence: int | None
    epoch: _Epoch | None
    is_for_all: bool


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a client is with a channel; see `Hub.marks`. `bit` is that of the channel, `code` its key."""

    bit: Literal[1, 2, 4]
    code: _Name
    first: _Count
    last: _Count


class HandedAlert(msgspec.Struct, frozen=True, array_like=True):
    """A user-addressed message that the client has missed; see `fastws.market.alert_messages.Alert`."""

    code: str
    alert_type: str
    threshold: NumberText
    current_price: NumberText
    message: str
    extra: bytes | None
    id: Annotated[int, Meta(ge=0, le=2**62)] = 0


Reached: TypeAlias = tuple[_Origin, _Count, _Count]
"""How far somebody is with what an origin publishes in a shard: (origin, shard, position)."""


class SessionAnswer(msgspec.Struct, frozen=True, tag="claim-answer"):
    """What becomes of a claim: the session is given away, or it is not, or an old connection is asked first.

    Without `marks` it cannot be said what the client has missed; `n_missed` is how many updates that are. `was_open`:
    its connection has ended only now. `is_early`: the marks are older than the claim, and leave out what had no update
    then. `positions` are how far the holder is, and so what the client may have seen.
    """

    origin: _Origin
    claim: _Count
    what: Answer
    moves: _Moves = 0
    is_paused: bool = False
    was_open: bool = False
    subscriptions: list[Group] = []
    marks: list[Mark] | None = None
    n_missed: _Count = 0
    alerts: list[HandedAlert] = []
    is_early: bool = False
    positions: list[Reached] = []


class SessionLeft(msgspec.Struct, frozen=True, array_like=True):
    """A session of an instance that goes, as the `SessionAnswer` `state` says; only its positions are elsewhere.

    Its marks are those of a client that has seen everything up to number `cursor`. Between `least` and that there was
    nothing for it of what it holds in mode `all`.
    """

    key: _Key
    least: _Count
    cursor: _Count
    state: msgspec.Raw


class SessionsLeft(msgspec.Struct, frozen=True, tag="sessions-left"):
    """An instance goes, and leaves sessions to whomever their clients come to.

    `epoch` is that of the numbers in it, `positions` are how far the instance was. `sessions` are each a `SessionLeft`;
    see `SessionChanges`.
    """

    origin: _Origin
    epoch: _Epoch
    positions: list[Reached]
    sessions: list[msgspec.Raw]


class SessionKept(msgspec.Struct, frozen=True, tag="session-kept"):
    """What is known of a session whose `holder` is gone, for whoever has asked all for it with the claim `claim`.

    `left` is what the holder has left of it, None if it could not; `epoch` and `positions` are of the same message.
    """

    origin: _Origin
    claim: _Count
    holder: _Origin
    state: SessionState
    epoch: _Epoch = ""
    positions: list[Reached] = []
    left: SessionLeft | None = None


NO_SUBSCRIPTIONS: Final = b"\xc0"
"""Of a session that is no more: null."""

_encoder: Final = msgspec.msgpack.Encoder()
_states: Final = msgspec.msgpack.Decoder(SessionState)
_left: Final = msgspec.msgpack.Decoder(SessionLeft)
_groups: Final = msgspec.msgpack.Decoder(list[Group])
_answers: Final = msgspec.msgpack.Decoder(SessionAnswer)


def packed(each: Iterable[SessionState | SessionLeft]) -> list[msgspec.Raw]:
    """The sessions of a message."""
    return [msgspec.Raw(_encoder.encode(one)) for one in each]


def read_states(states: Iterable[msgspec.Raw]) -> tuple[list[SessionState], list[str]]:
    """Read those of a `SessionChanges` or `SessionsPart`, and why others cannot be read."""
    return _read_each(_states, states)


def read_left(sessions: Iterable[msgspec.Raw]) -> tuple[list[SessionLeft], list[str]]:
    """Read those of a `SessionsLeft`, and why others cannot be read."""
    return _read_each(_left, sessions)


def _read_each(
    decoder: msgspec.msgpack.Decoder[_Read], each: Iterable[msgspec.Raw]
) -> tuple[list[_Read], list[str]]:
    found, errors = [], []
    for one in each:
        try:
            found.append(decoder.decode(one))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            errors.append(str(error))
    return found, errors


def key_of(session_id: str) -> bytes:
    """What a session is called between instances."""
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).digest()[:KEY_SIZE]


def groups_of(subscriptions: Mapping[Topic, Options]) -> list[Group]:
    """Subscriptions as they travel."""
    groups: list[Group] = []
    before: tuple[str, Options] | None = None
    for topic, options in subscriptions.items():
        if before != (topic.kind, options):
            before = topic.kind, options
            kind: _Kind = topic.kind  # type: ignore[assignment]  # there are no other kinds
            groups.append(Group(kind, options.latest, options.max_rate, options.channels, []))
        groups[-1].names.append(topic.name)
    return groups


def read_groups(data: bytes) -> list[Group]:
    """Read the subscriptions of a `SessionState`.

    Raises:
        msgspec.DecodeError: they are none.
    """
    return _groups.decode(data)


def read_answer(data: bytes) -> SessionAnswer:
    """Read the state of a `SessionLeft`.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _answers.decode(data)
