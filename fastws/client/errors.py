"""Exceptions of the client, and one sentence for each way in which a connection can fail to be made. Sans-IO."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

from fastws.errors import FastwsError


class ClientError(FastwsError):
    """Root of what the client raises."""


class UsageError(ClientError, ValueError):
    """An argument cannot be used; the text names it and says what to do."""


class ClosedError(ClientError):
    """The client is closed, or was not opened."""


class ConnectError(ClientError):
    """No connection could be made. `may_retry`: it may be otherwise a moment later."""

    def __init__(self, text: str, *, may_retry: bool = True) -> None:
        super().__init__(text)
        self.may_retry = may_retry


class EndedError(ClientError):
    """The server has ended the connection in a way that connecting again does not mend. `code` is the close code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class TokenError(EndedError):
    """The token is not accepted, or has expired, and there is no new one."""


class RequestError(ClientError):
    """The server has refused a request: `code` and `details` as in its message ``error``."""

    def __init__(self, code: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details


class RequestTimeoutError(ClientError, TimeoutError):
    """A request was not answered in time. It may have been done all the same."""


def explain(error: BaseException, place: str, time_limit: float) -> ConnectError:
    """What to tell about a connection to `place` (host and port) that could not be made in `time_limit` seconds."""
    match error:
        case TimeoutError():
            text = f"{place} did not answer within {time_limit:g} s: check url, or raise connect_timeout"
        case socket.gaierror():
            text = f"the host of {place} is not known: check url"
        case ConnectionRefusedError():
            text = f"nothing listens at {place}: check the port in url, and that the server runs"
        case ssl.SSLCertVerificationError():
            text = (
                f"the certificate of {place} is not trusted ({error.verify_message}): give ssl= a context that trusts "
                "its authority, and use the name in url that the certificate is for"
            )
        case ssl.SSLError():
            text = (
                f"{place} does not speak TLS as it should ({error.reason or error}): for a server without TLS use "
                "ws:// in url"
            )
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
            text = f"{place} cannot be reached: check the network"
        case OSError(strerror=str(reason)):
            text = f"no connection to {place}: {reason}"
        case _:
            text = f"no connection to {place}: {error or type(error).__name__}"
    is_final = isinstance(error, ssl.SSLError)
    return ConnectError(text, may_retry=not is_final)


def explain_status(status: int, place: str, path: str) -> ConnectError:
    """What to tell about an upgrade that was answered with an HTTP status."""
    advice = {
        400: "check url; a server with TLS needs wss:// there",
        401: "give token=",
        403: "the server's setting allowed_origins does not allow the Origin in headers=",
        404: "check the path of url; it is usually /v1/ws",
        503: "the server is stopping, or full; try again later",
    }.get(status, "check url")
    text = f"{place} answered the WebSocket upgrade of {path} with HTTP {status}: {advice}"
    return ConnectError(text, may_retry=status >= 500 or status in (408, 429))
