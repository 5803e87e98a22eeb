"""Who a request is by a function of the program that fastws runs in: its sessions, its API keys, its tokens."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog

from fastws import logs
from fastws.auth.application import MAX_ASKING, confirmed, identity_of_members
from fastws.auth.identity import Identity
from fastws.auth.tokens import AuthError

_log = structlog.get_logger("fastws.auth")


class AuthRequest(msgspec.Struct, frozen=True):
    """What a client has brought that may tell who it is, with a WebSocket handshake or an HTTP request.

    `token` is that of ``Authorization: Bearer``, of ``?token=`` or of a message; None: it has brought none. `headers`
    have lower-case names; `query` has the last value of each name, decoded; `path` is as asked for, behind the prefix
    of a mounted server. `address` is the client's, also behind `trusted_proxies`. A token that comes in a message, on
    an open connection, comes alone: `path` is ``""`` then.
    """

    token: str | None
    headers: Mapping[str, str]
    query: Mapping[str, str] = {}
    path: str = ""
    address: str = "unknown"

    def __repr__(self) -> str:
        # The rest are credentials, and a repr ends up in logs.
        return f"<AuthRequest {self.path} of {self.address}>"


Answer = Mapping[str, Any] | str | int | None
"""Who it is: a mapping with the members of an answer of `auth_url` (`user_id`, and `expires_at`, `portfolios`,
`topics`, `tier` where wanted), or only the id of the user; None: nobody."""

Callback = Callable[[AuthRequest], Awaitable[Answer] | Answer]
"""Says who sends a request, plain or async; one that is plain must not wait, as all would wait with it. It raises
`AuthError` with the reason "refused" (connect again with something else) or "forbidden" (do not), and the text that
the client gets."""


class CallbackIdentities:
    """Asks a `Callback`, which may take its time and fail.

    1. Nobody waits for longer than `time_limit`, its turn included; `MAX_ASKING` are asked about at a time.
    2. What the callback raises, but for `AuthError`, refuses the one client with "application", and is logged.
    3. A connection does not live by an answer for longer than `session_ttl` seconds; see `confirmed`.

    Nothing is remembered: a callback that is slow keeps its own answers.
    """

    def __init__(
        self,
        callback: Callback,
        *,
        time_limit: float,
        session_ttl: float,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.time_limit = time_limit
        self.session_ttl = session_ttl
        self._callback = callback
        self._clock = clock
        self._chance = chance
        self._turns = asyncio.Semaphore(MAX_ASKING)

    async def identify(self, request: AuthRequest) -> Identity | None:
        """Return who sends a request; None: nobody.

        Raises:
            AuthError: of the callback, or "application": it cannot say, or has taken too long.
        """
        try:
            async with asyncio.timeout(self.time_limit), self._turns:
                answer = self._callback(request)
                if inspect.isawaitable(answer):
                    answer = await answer
            identity = _identity(answer)
        except AuthError:
            raise
        except Exception as error:
            self._log_failure(error)
            raise AuthError("application") from None
        if identity is None:
            return None
        return confirmed(identity, self._clock(), self.session_ttl, self._chance())

    def _log_failure(self, error: Exception) -> None:
        is_late = isinstance(error, TimeoutError)
        logs.log_limited(
            _log,
            f"authenticator {type(error).__name__}",
            "the authenticator does not tell who users are",
            level="error",
            error=f"no answer within {self.time_limit:g} s" if is_late else str(error)[:200],
            exc_info=None if is_late else error,
        )


def _identity(answer: Answer) -> Identity | None:
    if answer is None:
        return None
    members = answer if isinstance(answer, Mapping) else {"user_id": answer}
    try:
        return identity_of_members(members)
    except AuthError as error:
        raise ValueError(f"what it has returned cannot be used: {error}") from None
