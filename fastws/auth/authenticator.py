"""Decides whether a token is genuine and current, by the settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog

from fastws import logs
from fastws.auth.identity import Identity, identity_of, time_of
from fastws.auth.jwks import Fetch, RemoteKeys, Timing
from fastws.auth.keys import (
    Key,
    KeyMaterialError,
    Keys,
    has_signed,
    is_symmetric,
    read_key,
    recommended_secret_size,
)
from fastws.auth.revocations import Revocations
from fastws.auth.tokens import AuthError, parse, parse_claims
from fastws.errors import SettingsError
from fastws.settings import Settings

# With these, keys that are fetched anew may make the difference.
_MAY_BE_NEW_KEY: Final = frozenset({"unknown_key", "unavailable"})

_log = structlog.get_logger("fastws.auth")


class Authenticator:
    """Verifies tokens.

    1. The algorithm is the configured one; a token that names another is refused before any key is looked at,
       and every key is of the kind that the algorithm needs.
    2. A key is found by the token's key id among configured and published keys; nothing else in the header of
       a token is used, no address and no key.
    3. No claim is looked at before the signature is verified.
    4. :meth:`verify` never waits. Only :meth:`authenticate` may, for published keys.
    5. Neither an error nor a log line has any part of a token in it.

    Used from the event loop's thread. `clock` returns seconds since the Unix epoch. `fetch` is needed where
    `jwks_url` is set.

    Raises:
        SettingsError: keys are unusable or contradict the algorithm.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
        jwks_timing: Timing | None = None,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._jwks_timing = jwks_timing
        self._revocations = Revocations()
        self._settings = settings
        self._keys = _configured_keys(settings)
        self._remote = self._new_remote(settings)

    @property
    def has_keys(self) -> bool:
        """Whether tokens can be verified at all; without any key configured, every token is refused."""
        return bool(self._keys) or self._remote is not None

    def start(self) -> None:
        """Begin to fetch published keys, where there is a `jwks_url`; a loop must be running."""
        if self._remote is not None:
            self._remote.start()

    async def close(self) -> None:
        """End what :meth:`start` began."""
        if self._remote is not None:
            await self._remote.close()

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings; revoked tokens stay revoked, published keys are kept where they still count.

        Raises:
            SettingsError: they are unusable, and nothing has changed.
        """
        keys = _configured_keys(settings)
        old = self._remote
        is_same = (
            old is not None and old.url == settings.jwks_url and old.algorithm == settings.jwt_algorithm
        )
        remote = old if is_same else self._new_remote(settings)
        self._settings, self._keys, self._remote = settings, keys, remote
        if not is_same:
            self.start()
            if old is not None:
                await old.close()

    def verify(self, token: str, now: float | None = None) -> Identity:
        """Return who `token` says its bearer is; `now` is seconds since the Unix epoch (default: the clock's).

        Takes microseconds and never waits: with an HS secret about as long as parsing the token, with RS and ES
        keys as long as one signature.

        Raises:
            AuthError: the token is not accepted; `reason` says why.
        """
        settings = self._settings
        parsed = parse(token)
        if parsed.algorithm != settings.jwt_algorithm:
            raise AuthError("algorithm")
        candidates = self._candidates(parsed.kid)
        if not any(
            has_signed(settings.jwt_algorithm, key, parsed.signed, parsed.signature) for key in candidates
        ):
            raise AuthError("signature")
        claims = parse_claims(parsed.payload)
        self._check_claims(claims, self._clock() if now is None else now)
        return self._identity(claims, self._clock() if now is None else now)

    async def authenticate(self, token: str) -> Identity:
        """Like :meth:`verify`, but looks for new published keys when the token's key is not known.

        Waits as long as one fetch takes, at most.

        Raises:
            AuthError: the token is not accepted; `reason` says why.
        """
        try:
            return self.verify(token)
        except AuthError as error:
            if self._remote is None or error.reason not in _MAY_BE_NEW_KEY:
                raise
            refusal = error
        if not await self._remote.look_again():
            raise refusal
        return self.verify(token)

    def revoke_jti(self, jti: str, until: float | None = None) -> None:
        """Refuse the token with this id from now on; connections that already live by it are not touched.

        `until` is when it would end by itself (`Identity.ends_at`), None: not known, or never.
        """
        if forgotten := self._revocations.add(jti, until, self._clock()):
            logs.log_limited(_log, "revocations", "too many revoked tokens, some were forgotten", n=forgotten)
