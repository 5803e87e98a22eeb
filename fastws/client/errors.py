"""Exceptions of the client. Sans-IO."""

from __future__ import annotations

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
