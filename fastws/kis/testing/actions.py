"""Everything that the fake server can be told to do: by a script, by Python, or over HTTP. Sans-IO.

An action is a table (or a JSON object) with `do`, its name, and the fields below. Unless it says otherwise it
concerns all open sessions; `app_key` narrows it to those of one app key, and in a step of a script that waits
for a session it is that session's. What has `times` and `seconds` waits to be met, and then happens once, or so
often, or for so long. A field without a default has to be given.
"""

from __future__ import annotations

import re
import textwrap
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec

from fastws.kis.testing.replies import Malformation
from fastws.kis.testing.settings import Phase, ScriptError, convert

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0)]
Some: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Status: TypeAlias = Annotated[int, msgspec.Meta(ge=200, le=599)]
MessageCode: TypeAlias = Annotated[str, msgspec.Meta(pattern="^OPSP[0-9]{4}$")]


_WIDTH: Final = 96


def _name(class_name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


class Action(
    msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="do", tag=_name
):
    """The base of them all."""

    app_key: str | None = None


class Fault(Action, kw_only=True, frozen=True):
    """An action that waits to be met: once, or so many `times`, or for so many `seconds`; `clear` ends it."""

    times: Some | None = None
    seconds: Seconds | None = None


class RequestFault(Fault, kw_only=True, frozen=True):
    """A fault of requests; `tr_id` and `tr_key` narrow it to some of them."""

    tr_id: str | None = None
    tr_key: str | None = None


# Connections


class Drop(Action, kw_only=True, frozen=True):
    """Cut the TCP connection, without a close frame."""


class Close(Action, kw_only=True, frozen=True):
    """Close with a close frame."""

    code: Annotated[int, msgspec.Meta(ge=1000, le=4999)] = 1000
    reason: Annotated[str, msgspec.Meta(max_length=120)] = ""


class Silence(Action, kw_only=True, frozen=True):
    """Stay connected and say nothing more, not even PINGPONG; what would have been said is lost."""

    seconds: Seconds | None = None


class RefuseUpgrade(Fault, kw_only=True, frozen=True):
    """Answer the next WebSocket handshakes with an HTTP status."""

    status: Status = 503


class HangUpgrade(Fault, kw_only=True, frozen=True):
    """Never answer the next WebSocket handshakes."""


class RefuseConnections(Action, kw_only=True, frozen=True):
    """Stop to listen, so that new connections are refused; those there are stay."""

    seconds: Seconds


# Answers


class Answer(RequestFault, kw_only=True, frozen=True):
    """Answer requests with `code` instead of doing what they ask for; OPSP8996 is followed by a close."""

    code: MessageCode
    text: str | None = None
    close: bool | None = None


class NoAck(RequestFault, kw_only=True, frozen=True):
    """Do what requests ask for (not, with ``obey = false``), and do not answer."""

    obey: bool = True


class LateAck(RequestFault, kw_only=True, frozen=True):
    """Answer so much later; with ``after_data = true`` not before the first data of the registration."""

    delay: Seconds = 0.0
    after_data: bool = False


class ReorderAcks(RequestFault, kw_only=True, frozen=True):
    """Hold answers back until there are `of`, then send them the other way round."""

    of: Annotated[int, msgspec.Meta(ge=2, le=100)] = 2


class Mute(Action, kw_only=True, frozen=True):
    """Send no data of registrations that are acknowledged: those there are, and of those to come the next `coming`.

    A muted registration gets data again once it is registered again.
    """

    tr_id: str | None = None
    tr_key: str | None = None
    coming: Annotated[int, msgspec.Meta(ge=0)] = 0


# Messages


class Say(Action, kw_only=True, frozen=True):
    """Send a message as it is."""

    message: str


class Malformed(Action, kw_only=True, frozen=True):
    """Send a message that no client can use."""

    kind: Malformation


class Burst(Action, kw_only=True, frozen=True):
    """Send so many frames of so many records at once, over the trades and books that are registered."""

    frames: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    records: Annotated[int, msgspec.Meta(ge=1, le=999)] = 19


class Pingpong(Action, kw_only=True, frozen=True):
    """Send PINGPONG now."""


class Notice(Action, kw_only=True, frozen=True):
    """Send an encrypted execution notice to those who have registered for them.

    `text` is the clear text, values with ^ between them; without it an order is accepted or (the default) filled.
    With ``damaged = true`` it is encrypted with another key.
    """

    text: str | None = None
    tr_key: str | None = None
    code: str = "005930"
    quantity: Annotated[int, msgspec.Meta(ge=1)] = 10
    price: Annotated[int, msgspec.Meta(ge=1)] = 72_100
    filled: bool = True
    damaged: bool = False


class Operation(Action, kw_only=True, frozen=True):
    """Send a market-operation record of a symbol; `halted` also stops or starts its trades."""

    tr_key: str
    halted: bool | None = None
    reason: str = ""
    operation_code: str = ""
    expected_code: str = ""
    status_code: str = "55"
    vi: Literal["Y", "N"] = "N"
    overtime_vi: Literal["Y", "N", ""] = ""


class SetPhase(Action, kw_only=True, frozen=True):
    """Go over to another phase of the day, with its market-operation records."""

    phase: Phase


class Play(Action, kw_only=True, frozen=True):
    """Play a file of messages, one a line, as `fastws record` writes them or bare.

    They go to whom has registered TR and code of the first record, or with ``to = "everyone"`` to all sessions.
    `speed` divides the pauses, 0 leaves them out. Lines without a time are 100 ms apart. With ``wait = true`` it
    begins a second after the last registration.
    """

    file: str
    speed: Seconds = 1.0
    loop: bool = False
    wait: bool = False
    to: Literal["registered", "everyone"] = "registered"


# HTTP


class Rest(Fault, kw_only=True, frozen=True):
    """Answer HTTP calls wrongly: late, with a `status`, with an error `code`, with a `body` of any kind; and say with
    `retry_after` when to come again."""

    of: Literal["approval", "token", "quotations", "all"] = "all"
    delay: Seconds = 0.0
    status: Status | None = None
    code: str | None = None
    body: str | None = None
    retry_after: Seconds | None = None


# Credentials and the rest


class ExpireKeys(Action, kw_only=True, frozen=True):
    """Forget the approval keys issued so far, so that registrations with them get OPSP0011."""


class ExpireTokens(Action, kw_only=True, frozen=True):
    """Let the access tokens issued so far be too old."""


class Block(Action, kw_only=True, frozen=True):
    """Block an app key (all, without `app_key`) as KIS does with those that misbehave."""

    seconds: Seconds | None = None


class Unblock(Action, kw_only=True, frozen=True):
    """End blocks."""


class Set(Action, kw_only=True, frozen=True):
    """Change settings."""

    settings: dict[str, Any]


class Clear(Action, kw_only=True, frozen=True):
    """End all faults, silences, mutes and blocks."""


class Forget(Action, kw_only=True, frozen=True):
    """Empty the journal."""


GROUPS: Final[dict[str, tuple[type[Action], ...]]] = {
    "connections": (Drop, Close, Silence, RefuseUpgrade, HangUpgrade, RefuseConnections),
    "answers": (Answer, NoAck, LateAck, ReorderAcks, Mute),
    "messages": (Say, Malformed, Burst, Pingpong, Notice, Operation, SetPhase, Play),
    "HTTP": (Rest,),
    "others": (ExpireKeys, ExpireTokens, Block, Unblock, Set, Clear, Forget),
}
GROUPS_OF_SESSIONS: Final = (Drop, Close, Silence, Say, Malformed, Pingpong)
"""Actions that are done to each session by itself."""
ACTIONS: Final[dict[str, type[Action]]] = {
    _name(kind.__name__): kind for kinds in GROUPS.values() for kind in kinds
}


class UnknownActionError(ScriptError):
    """`do` is missing or names nothing."""


def read_action(fields: object) -> Action:
    """Make an action of a table. Raises ScriptError that begins with the field that is wrong."""
    if isinstance(fields, Action):
        return fields
    if not isinstance(fields, dict):
        raise ScriptError('expected an object such as {"do": "drop"}')
    name = fields.get("do")
    if not isinstance(name, str) or name not in ACTIONS:
        raise UnknownActionError(f"do: {name!r} is no action; they are {', '.join(ACTIONS)}")
    return convert(fields, ACTIONS[name])  # type: ignore[no-any-return]


def describe() -> str:
    """All actions with their fields, for people."""
    lines = []
    for group, kinds in GROUPS.items():
        lines.append(f"{group}:")
        for kind in kinds:
            lines.append(f"  {_name(kind.__name__)}")
            for paragraph in (kind.__doc__ or "").split("\n\n"):
                text = " ".join(paragraph.replace("``", "").split())
                lines += textwrap.wrap(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
            fields = ", ".join(
                _field(field) for field in msgspec.structs.fields(kind) if field.name != "app_key"
            )
            if fields:
                lines += textwrap.wrap(
                    f"fields: {fields}", _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 14
                )
    return "\n".join(lines)


def _field(field: Any) -> str:
    if field.default is msgspec.NODEFAULT:
        choices = [repr(choice) for choice in get_args(field.type) if isinstance(choice, str)]
        return f"{field.name} (required{': ' * bool(choices)}{', '.join(choices)})"
    if field.default is None:
        return str(field.name)
    return f"{field.name} = {msgspec.json.encode(field.default).decode()}"
