"""Every exception of fastws, and the tables of error codes and of WebSocket close codes.

The tables drive messages, close frames, metric labels and documentation: a code that is not here is never sent,
except that a client's own close code is sent back to it (RFC 6455 §5.5.1).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class FastwsError(Exception):
    """Root of every exception that fastws raises on purpose."""


class SettingsError(FastwsError):
    """A setting is unknown, malformed or cannot be used.

    The text is one line: what is wrong, where it came from, and what to do. `setting` is the setting's name,
    `source` where its value came from (``"--port"``, ``"FASTWS_PORT"``, ``"fastws.toml"``, ``"default"``);
    either is empty where it is not known. `opposes` is the setting that it contradicts, if that is what is wrong.
    """

    def __init__(self, message: str, *, setting: str = "", source: str = "", opposes: str = "") -> None:
        super().__init__(message)
        self.setting = setting
        self.source = source
        self.opposes = opposes


class FeedError(FastwsError):
    """An upstream feed failed or delivered what cannot be used; its supervisor restarts it."""


class FeedAwayError(FastwsError):
    """A feed runs elsewhere, and who runs it cannot be asked or has not answered; the text says which."""


class TableError(FastwsError):
    """A file with a table cannot be read; the text names the file and the line."""


class InstrumentError(TableError):
    """An instrument table cannot be read; the text names the file and the line."""


class CloseCode(IntEnum):
    """WebSocket close codes that fastws sends.

    Each member carries `meaning` (also the reason text of the close frame), `should_reconnect` (whether a
    client that does nothing else about it may simply connect again) and `label` (for metrics).
    """

    meaning: str
    should_reconnect: bool
    label: str

    def __new__(cls, code: int, meaning: str, should_reconnect: bool, label: str) -> CloseCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.should_reconnect = should_reconnect
        member.label = label
        return member

    # RFC 6455 §7.4.1. The first two are answers: a client that ends, a browser that leaves the page.
    NORMAL = 1000, "normal closure", True, "normal"
    GOING_AWAY = 1001, "going away", True, "going_away"
    PROTOCOL_ERROR = 1002, "protocol error", False, "protocol_error"
    UNSUPPORTED_DATA = 1003, "binary messages are not accepted", False, "unsupported_data"
    INVALID_TEXT = 1007, "invalid UTF-8", False, "invalid_text"
    TOO_BIG = 1009, "message too big", False, "too_big"
    INTERNAL_ERROR = 1011, "internal error", True, "internal_error"
    RESTART = 1012, "server restart", True, "restart"
    # The private range of fastws.
    TOKEN_INVALID = 4401, "token invalid or expired", False, "token_invalid"
    FORBIDDEN = 4403, "forbidden", False, "forbidden"
    SLOW_CONSUMER = 4408, "slow consumer", True, "slow_consumer"
    IDLE = 4409, "idle or no pong", True, "idle"
    REPLACED = 4410, "session continued elsewhere", False, "replaced"
    RATE_ABUSE = 4429, "rate abuse or connection limit", True, "rate_abuse"


class ErrorCode(StrEnum):
    """Codes of the message ``error``, on WebSocket connections; HTTP answers with those that fit, and others.

    Each member carries `meaning`, `details` (the members that ``details`` may have) and `closes` (the code that the
    connection may be closed with after it, None where it always goes on).
    """

    meaning: str
    details: tuple[str, ...]
    closes: CloseCode | None

    def __new__(
        cls, code: str, meaning: str, details: tuple[str, ...] = (), closes: CloseCode | None = None
    ) -> ErrorCode:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.details = details
        member.closes = closes
        return member

    INVALID_MESSAGE = (
        "INVALID_MESSAGE",
        "the message is no JSON, of no known type, or has a wrong field",
        ("field",),
    )
    INVALID_TOKEN = (
        "INVALID_TOKEN",
        "the token is not accepted, or has expired; answering auth, the connection goes on as it was",
        ("reason",),
        CloseCode.TOKEN_INVALID,
    )
    SUBSCRIPTION_FAILED = (
        "SUBSCRIPTION_FAILED",
        "none of the targets could be subscribed to",
        ("rejected",),
    )
    RATE_LIMIT_EXCEEDED = (
        "RATE_LIMIT_EXCEEDED",
        "messages came faster than allowed and were dropped; said at most once a second",
        ("rate_limit",),
        CloseCode.RATE_ABUSE,
    )
    SESSION_RESTORATION_FAILED = (
        "SESSION_RESTORATION_FAILED",
        "the session cannot be had; the connection goes on as a new one",
        ("reason",),
    )
    TOKEN_REFRESH_ERROR = (
        "TOKEN_REFRESH_ERROR",
        "the new token is not accepted, or is another user's; the old one stays",
        ("reason",),
    )
    AUTH_REQUIRED = (
        "AUTH_REQUIRED",
        "the server serves nobody without a token",
        (),
        CloseCode.TOKEN_INVALID,
    )
    FORBIDDEN = (
        "FORBIDDEN",
        "no target may be had by this user, or what the connection holds may not any more, or nothing at all",
        ("rejected", "reason"),
        CloseCode.FORBIDDEN,
    )
    LIMIT_EXCEEDED = (
        "LIMIT_EXCEEDED",
        "a limit of subscriptions or connections is reached",
        ("limit", "current", "rejected"),
        CloseCode.RATE_ABUSE,
    )
    INTERNAL_ERROR = (
        "INTERNAL_ERROR",
        "the server failed to do what was asked, by a fault of its own or of what it depends on",
        ("reason",),
        CloseCode.INTERNAL_ERROR,
    )
