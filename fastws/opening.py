"""Why a WebSocket that this program opens could not be opened."""

from __future__ import annotations

from enum import Enum

from fastws.errors import FastwsError


class Cause(Enum):
    """Why a WebSocket could not be opened."""

    TIMEOUT = "no answer in time"
    UNKNOWN_HOST = "the host has no address"
    NO_LISTENER = "nothing listens there"
    UNREACHABLE = "no way to the host"
    UNTRUSTED = "the certificate is not trusted"
    NO_TLS = "no TLS, or not as it should be"
    STATUS = "an HTTP status instead of the upgrade"
    NO_WEBSOCKET = "an answer that is no upgrade"
    ENDED = "the other side ended the connection in the handshake"
    OTHER = "something else"


class OpenError(FastwsError):
    """A WebSocket could not be opened.

    `status` is that of the answer where the cause is STATUS, and 0 elsewhere. `detail` are the words of the system or
    of the TLS library, where there are any.
    """

    def __init__(self, cause: Cause, detail: str = "", status: int = 0) -> None:
        super().__init__(f"{cause.value}: {detail or status}".removesuffix(": 0"))
        self.cause = cause
        self.detail = detail
        self.status = status

    def statement(self, place: str, time_limit: float, path: str = "") -> str:
        """What has happened, as a sentence that advice can follow.

        It is of a connection to `place`, a host and its port, that had `time_limit` seconds and was to be upgraded at
        `path`.
        """
        match self.cause:
            case Cause.TIMEOUT:
                return f"{place} did not answer within {time_limit:g} s"
            case Cause.UNKNOWN_HOST:
                return f"the host of {place} is not known"
            case Cause.NO_LISTENER:
                return f"nothing listens at {place}"
            case Cause.UNREACHABLE:
                return f"{place} cannot be reached"
            case Cause.UNTRUSTED:
                return f"the certificate of {place} is not trusted ({self.detail})"
            case Cause.NO_TLS:
                return f"{place} does not speak TLS as it should ({self.detail})"
            case Cause.STATUS:
                upgrade = f"the WebSocket upgrade of {path}" if path else "the WebSocket upgrade"
                return f"{place} answered {upgrade} with HTTP {self.status}"
            case Cause.NO_WEBSOCKET:
                return f"what listens at {place} does not speak WebSocket"
            case Cause.ENDED:
                return f"{place} ended the connection in the handshake"
            case Cause.OTHER:
                return f"connecting to {place} failed: {self.detail}"
