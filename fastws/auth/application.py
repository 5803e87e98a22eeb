"""Who a request is by the word of the application: its session cookie, or tokens that only it can read."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from fastws import logs
from fastws.auth.identity import Identity, identity_of
from fastws.auth.tokens import AuthError

MAX_ANSWER_SIZE: Final = 64 << 10
MAX_KEPT: Final = 10_000
"""Answers kept at a time; beyond, the oldest go."""
MAX_ASKING: Final = 64
"""Questions that the application is asked at a time; the others wait for their turn."""
MAX_WAITING: Final = 10_000

Ask = Callable[[str, Mapping[str, str], int, float], Awaitable[tuple[int, bytes]]]
"""``await ask(url, headers, max_size, time_limit)`` returns the status of a GET with these headers and its body, in
bytes at most `max_size`. It follows no redirect, keeps no cookie, and raises OSError for whatever goes wrong."""

# Of `session_ttl`, what a session may be short of it: those who have come together are not to come back together.
_SPREAD: Final = 0.25

# Texts of what has gone wrong that the log tells apart.
_MAX_CAUSES: Final = 16

_OK: Final = 200
_NOBODY: Final = 401
_FORBIDDEN: Final = 403

_MEMBERS: Final = ("user_id", "portfolios", "topics", "tier")
_members = msgspec.json.Decoder(dict[str, Any])
_log = structlog.get_logger("fastws.auth")


class Application:
    """Asks the application at one URL who sends a request.

    It is sent the request's headers ``Cookie`` and ``Authorization``, and answers 200 with a JSON object: `user_id`, a
    text or an integer, or null for nobody; and if it wants to `expires_at` (seconds since the Unix epoch),
    `portfolios`, `topics` and `tier`, which mean what the claims of a token do. 401 is nobody, too, but where there was
    an ``Authorization``, which is refused then. 403 refuses this user.

    1. No header is kept, logged, or part of an error: answers are kept under a digest of them.
    2. An answer counts for `cache_ttl` seconds, 0 is not at all; `MAX_KEPT` are kept. What went wrong is not kept.
    3. Who asks the same at the same time waits for the same answer.
    4. Nobody waits for longer than `time_limit`, its turn included; more than `MAX_WAITING` do not even wait.
    5. A connection does not live by an answer for longer than `session_ttl` seconds, or it would outlive a logout for
       ever: at a random moment of the last quarter of it `Identity.ends_at` has come.

    Used from the event loop's thread. `clock` returns seconds since the Unix epoch, `monotonic` any seconds, and
    `chance` numbers from 0 to 1.
    """

    def __init__(
        self,
        url: str,
        ask: Ask,
        *,
        time_limit: float,
        cache_ttl: float,
        session_ttl: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self.time_limit = time_limit
        self.cache_ttl = cache_ttl
        self.session_ttl = session_ttl
        self._ask = ask
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._kept: OrderedDict[bytes, tuple[Identity | None, float]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Identity | None]] = {}
        self._causes: dict[str, int] = {}
        self._turns = asyncio.Semaphore(MAX_ASKING)

    @property
    def n_kept(self) -> int:
        """Answers kept, those whose time is over included."""
        return len(self._kept)

    async def identify(self, headers: Mapping[str, str]) -> Identity | None:
        """Return who sends a request with `headers` (lower-case names); None: nobody.

        Raises:
            AuthError: "refused", "forbidden", "expired", or "application": it could not be asked.
        """
        key = _digest(headers)
        found = self._kept.get(key)
        if found is not None and self._monotonic() < found[1]:
            return self._current(found[0])
        asking = self._asking.get(key)
        if asking is None:
            if len(self._asking) >= MAX_WAITING:
                raise self._unavailable("too many requests wait for its answers")
            asking = asyncio.get_running_loop().create_task(self._answer(headers), name="fastws auth_url")
            self._asking[key] = asking
            asking.add_done_callback(lambda task: self._note(key, task))
        # Unlike awaiting the task, this does not cancel it for all when one who waits is cancelled.
        await asyncio.wait((asking,))
        if asking.cancelled():
            raise self._unavailable("the server stops")
        return self._current(asking.result())

    def forget(self) -> None:
        """Let no answer count any longer."""
        self._kept.clear()

    async def close(self) -> None:
        """End what is under way; who waits for it is refused."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _note(self, key: bytes, task: asyncio.Task[Identity | None]) -> None:
        del self._asking[key]
        if task.cancelled() or task.exception() is not None or self.cache_ttl <= 0:
            return
        self._kept.pop(key, None)
        self._kept[key] = task.result(), self._monotonic() + self.cache_ttl
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def _current(self, identity: Identity | None) -> Identity | None:
        if identity is None:
            return None
        # From now on, and not from the answer on: it would have begun to end where it is kept for longer.
        return confirmed(identity, self._clock(), self.session_ttl, self._chance())

    async def _answer(self, headers: Mapping[str, str]) -> Identity | None:
        try:
            async with asyncio.timeout(self.time_limit), self._turns:
                status, body = await self._ask(self.url, headers, MAX_ANSWER_SIZE, self.time_limit)
        except OSError as error:
            raise self._unavailable(str(error) or type(error).__name__) from None
        if status == _NOBODY:
            if "authorization" in headers:
                raise AuthError("refused")
            return None
        if status == _FORBIDDEN:
            raise AuthError("forbidden")
        if status != _OK:
            raise self._unavailable(f"the answer is HTTP status {status}; 200, 401 and 403 are understood")
        return self._read(body)

    def _read(self, body: bytes) -> Identity | None:
        try:
            return identity_of_members(_members.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._unavailable("the answer is not a JSON object") from None
        except AuthError as error:
            raise self._unavailable(f"the answer cannot be used: {error}") from None

    def _unavailable(self, problem: str) -> AuthError:
        # Each cause has lines of its own, as a new one is news; so many at most, as their texts may be anything.
        if problem not in self._causes and len(self._causes) < _MAX_CAUSES:
            self._causes[problem] = len(self._causes)
        kind = f"auth_url {self._causes.get(problem, 'other')}"
        logs.log_limited(_log, kind, "auth_url does not tell who users are", url=self.url, error=problem)
        return AuthError("application")


def identity_of_members(members: Mapping[str, Any]) -> Identity | None:
    """Return who an answer with these members names; None: nobody, which is a `user_id` of None.

    Raises:
        AuthError: "claim": a member is missing, or not of its type.
    """
    if members.get("user_id", ...) is None:
        return None
    claims: dict[str, Any] = {name: members[name] for name in _MEMBERS if name in members}
    if members.get("expires_at") is not None:
        claims["exp"] = members["expires_at"]
    return identity_of(claims, user_id_claim="user_id")


def confirmed(identity: Identity, now: float, session_ttl: float, chance: float) -> Identity:
    """Return an identity that ends at a moment, by `chance`, of the last quarter of `session_ttl`, if not before.

    Raises:
        AuthError: "expired": it has ended.
    """
    if identity.ends_at is not None and now >= identity.ends_at:
        raise AuthError("expired", "the session has expired")
    ends_at = now + session_ttl * (1 - _SPREAD * chance)
    if identity.ends_at is not None and identity.ends_at <= ends_at:
        return identity
    return msgspec.structs.replace(identity, ends_at=ends_at)


def headers_for(headers: Mapping[str, str], token: str | None) -> dict[str, str]:
    """What the application is asked with: of a request's headers those that tell users apart; {} where there is none.

    `headers` has lower-case names (or compares names without case); `token` is what it has brought in another place.
    """
    found = {name: headers[name] for name in ("cookie", "authorization") if headers.get(name)}
    if token is not None and "authorization" not in found:
        found["authorization"] = f"Bearer {token}"
    return found


def _digest(headers: Mapping[str, str]) -> bytes:
    """What nobody can tell the headers from; each part has its length with it, so that no two run into one."""
    digest = hashlib.blake2b(digest_size=32)
    for name in ("cookie", "authorization"):
        value = headers.get(name, "").encode("utf-8", "surrogateescape")
        digest.update(len(value).to_bytes(8, "big") + value)
    return digest.digest()
