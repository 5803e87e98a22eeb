"""A connection and who it is, and how its dialect is told what is decided about it. Sans-IO."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from fastws._core import Connection
from fastws.auth import AuthRequest, Identity
from fastws.errors import ErrorCode
from fastws.sessions import Session


class Arrival(msgspec.Struct, frozen=True):
    """What a client brings with the handshake. `address` is for people; limits count by `address_key`.

    `asked_with` is what tells who it is where somebody is asked; see `Authenticator.question`.
    """

    token: str | None = None
    asked_with: AuthRequest | None = None
    session_id: str | None = None
    last_sequence: int | None = None
    epoch: str | None = None
    address: str = "unknown"
    address_key: str = "unknown"


class Speaker(Protocol):
    """How a dialect says what is decided about a client."""

    @property
    def keeps_sessions(self) -> bool:
        """Whether what a connection held can be restored after its end."""

    def greet(self, client: Client, sequence: int, /, *, is_followed: bool) -> None: ...

    def restored(self, client: Client, session: Session, cursor: int | None, /) -> None: ...

    def refuse(
        self, connection: Connection, code: ErrorCode, message: str, details: dict[str, object], /
    ) -> None: ...

    def obey_waiting(self, client: Client, /) -> None: ...

    def note_held(self, client: Client, /) -> None:
        """What a client holds has changed."""

    def fail(self, client: Client, request: str, /) -> None:
        """End a connection over the exception that is being handled."""


def new_id() -> str:
    """A random UUID (RFC 9562, version 4), for half of what `uuid` takes: every handshake waits for it."""
    text = os.urandom(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


class Client:
    """One connection and who it is. `waiting` holds its messages while that is still being found out, and while one of
    them `is_delayed`.

    `is_counted` is whether it counts to the limits, which it may cease to do before it ends.
    """

    __slots__ = (
        "arrival",
        "connection",
        "connection_id",
        "entered_sequence",
        "expiry",
        "identity",
        "is_admitted",
        "is_counted",
        "is_delayed",
        "is_kept",
        "moved_until",
        "moves",
        "n_in_snapshots",
        "n_tokens",
        "owed",
        "speaker",
        "token_number",
        "unrestored",
        "waiting",
    )

    def __init__(self, connection: Connection, arrival: Arrival, speaker: Speaker) -> None:
        self.connection = connection
        self.arrival = arrival
        self.speaker = speaker
        self.connection_id = new_id()
        self.identity: Identity | None = None
        # By when it has to bring a token, or another one; see `Credentials`.
        self.expiry: Any = None
        self.is_admitted = False
        self.is_counted = False
        self.is_delayed = False
        self.waiting: tuple[bytes, ...] = ()
        # A session that was taken and whose restoration failed: it is kept again in place of what is held.
        self.unrestored: Session | None = None
        # How often its session has gone from one instance to another; and whether there is to be one when it ends, or
        # another instance has it.
        self.moves = 0
        # Until when the connection that its session had elsewhere may still be counted there.
        self.moved_until = 0.0
        self.is_kept = True
        # Tokens given on the open connection, and which of them was accepted last; see `Credentials`.
        self.n_tokens = 0
        self.token_number = 0
        # Values sent in snapshots; see `Subscriptions`.
        self.n_in_snapshots = 0
        # Of what is addressed to the user: from where on it comes to this connection, and what is to come when the
        # connection is resumed; see `Mail`.
        self.entered_sequence = 0
        self.owed: tuple[int, ...] = ()

    @property
    def user_key(self) -> str | None:
        """What users are compared by; None for one without a token."""
        return None if self.identity is None else self.identity.user_key

    def refuse(self, code: ErrorCode, message: str, details: dict[str, object]) -> None:
        """Have the dialect say why something cannot be had."""
        self.speaker.refuse(self.connection, code, message, details)

    def guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call what the loop calls on behalf of this client: a fault of ours ends the connection that met it."""
        try:
            function(*arguments)
        except Exception:
            self.speaker.fail(self, "admission")
