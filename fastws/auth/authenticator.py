"""Decides who a client is, by the settings: whether a token is genuine and current, or what the application says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from fastws import logs
from fastws.auth.application import Application, Ask, headers_for
from fastws.auth.callback import AuthRequest, Callback, CallbackIdentities
from fastws.auth.configured import configured_keys
from fastws.auth.identity import Identity, identity_of, time_of
from fastws.auth.jwks import Fetch, RemoteKeys, Timing
from fastws.auth.keys import Keys, has_signed
from fastws.auth.revocations import Revocations
from fastws.auth.tokens import AuthError, parse, parse_claims
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
    5. `failures` counts the tokens that were not accepted, each once, by reason.
    6. Neither an error nor a log line has any part of a token in it.
    7. The application at `auth_url`, or the `callback`, is asked about those who bring no token, and about tokens
       where there is no key to verify any: a token that can be verified needs nobody's word.

    Used from the event loop's thread. `clock` returns seconds since the Unix epoch. `fetch` is needed where
    `jwks_url` is set, and `ask` where `auth_url` is. A `callback` is in the place of an `auth_url`.

    Raises:
        SettingsError: keys are unusable or contradict the algorithm.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fetch: Fetch | None = None,
        ask: Ask | None = None,
        callback: Callback | None = None,
        clock: Callable[[], float] = time.time,
        jwks_timing: Timing | None = None,
    ) -> None:
        self._fetch = fetch
        self._ask = ask
        self._callback = callback
        self._clock = clock
        self._jwks_timing = jwks_timing
        self._revocations = Revocations()
        self._settings = settings
        self._keys = configured_keys(settings, has_callback=callback is not None)
        self._remote = self._new_remote(settings)
        self._application = self._new_application(settings)
        self._callers = self._new_callers(settings)
        self._merged: tuple[Keys, Keys] | None = None
        self.failures: dict[str, int] = {}

    @property
    def keys_age(self) -> float | None:
        """Seconds since the issuer's keys were fetched; None where there are none."""
        return None if self._remote is None else self._remote.age

    @property
    def has_keys(self) -> bool:
        """Whether tokens can be verified at all; without any key configured, every token is refused."""
        return bool(self._keys) or self._remote is not None

    def asks(self, token: str | None) -> bool:
        """Whether somebody else is asked who brings this token, or none; see :meth:`identify`."""
        has_other = self._application is not None or self._callers is not None
        return has_other and (token is None or not self.has_keys)

    def question(self, request: AuthRequest) -> AuthRequest | None:
        """What of a request :meth:`identify` is to be given; None where nobody is asked, or there is nothing to ask."""
        if not self.asks(request.token):
            return None
        if self._callers is not None:
            return request
        headers = headers_for(request.headers, request.token)
        return AuthRequest(request.token, headers) if headers else None

    def start(self) -> None:
        """Begin to fetch published keys, where there is a `jwks_url`; a loop must be running."""
        if self._remote is not None:
            self._remote.start()

    async def close(self) -> None:
        """End what :meth:`start` began."""
        if self._remote is not None:
            await self._remote.close()
        if self._application is not None:
            await self._application.close()

    async def reload(self, settings: Settings) -> bool:
        """Go on with other settings: keys are read and fetched again, revoked tokens stay revoked.

        Published keys count until the new ones are there, unless they are of another address or algorithm. Returns
        whether the configured keys are others now.

        Raises:
            SettingsError: they are unusable, and nothing has changed.
        """
        keys = configured_keys(settings, has_callback=self._callback is not None)
        self._callers = self._new_callers(settings)
        before, self._application = self._application, self._new_application(settings)
        old, new = self._remote, self._new_remote(settings)
        if old is not None and new is not None and (old.url, old.algorithm) == (new.url, new.algorithm):
            new.keys, new.fetched_at = old.keys, old.fetched_at
        has_new_keys = keys != self._keys
        self._settings, self._keys, self._remote, self._merged = settings, keys, new, None
        self.start()
        if old is not None:
            await old.close()
        if before is not None:
            await before.close()
        return has_new_keys

    def verify(self, token: str, now: float | None = None) -> Identity:
        """Return who `token` says its bearer is; `now` is seconds since the Unix epoch (default: the clock's).

        Never waits: it takes a few microseconds for an HS secret, and the time of one signature check for
        each other key tried.

        Raises:
            AuthError: the token is not accepted; `reason` says why. It is counted in `failures`, unless other keys
                could make the difference: :meth:`authenticate` finds that out.
        """
        try:
            return self._verify(token, now)
        except AuthError as error:
            if error.reason not in _MAY_BE_NEW_KEY:
                self._count(error)
            raise

    def _verify(self, token: str, now: float | None = None) -> Identity:
        algorithm = self._settings.jwt_algorithm
        parsed = parse(token)
        if parsed.algorithm != algorithm:
            raise AuthError("algorithm")
        keys = self._all_keys()
        for key in keys.candidates(parsed.kid):
            if has_signed(algorithm, key, parsed.signed, parsed.signature):
                break
        else:
            raise self._refusal(parsed.kid, keys)
        return self._identity(parse_claims(parsed.payload), self._clock() if now is None else now)

    async def authenticate(self, token: str) -> Identity:
        """Like :meth:`verify`, but fetches the published keys when the token's key is not known.

        Waits as long as one fetch takes, at most.

        Raises:
            AuthError: the token is not accepted; `reason` says why, and it is counted in `failures`.
        """
        try:
            return await self._authenticate(token)
        except AuthError as error:
            self._count(error)
            raise

    async def _authenticate(self, token: str) -> Identity:
        # A second time where the settings were replaced meanwhile: who had asked the issuer of before got no answer,
        # and it may be another one now.
        for _ in range(2):
            try:
                return self._verify(token)
            except AuthError as error:
                if (remote := self._remote) is None or error.reason not in _MAY_BE_NEW_KEY:
                    raise
                reason = error.reason
            if not await remote.look_again() and self._remote is remote:
                raise AuthError(reason)
        return self._verify(token)

    async def identify(self, token: str | None, request: AuthRequest | None) -> Identity | None:
        """Return who sends a request with `token`, of which :meth:`question` has made `request`; None: nobody says it.

        Waits as long as the application may take, or one fetch.

        Raises:
            AuthError: the token, or the user, is not accepted, or it cannot be found out; counted in `failures`.
        """
        if not self.asks(token):
            return None if token is None else await self.authenticate(token)
        if request is None:
            return None
        try:
            if self._callers is not None:
                return await self._callers.identify(request)
            return None if self._application is None else await self._application.identify(request.headers)
        except AuthError as error:
            self._count(error)
            raise

    def check(self, identity: Identity) -> None:
        """Look again at an identity that was verified a while ago.

        Raises:
            AuthError: its token has expired or was revoked since; it is counted in `failures`.
        """
        now = self._clock()
        error = None
        if identity.ends_at is not None and now >= identity.ends_at:
            error = AuthError("expired")
        elif identity.jti is not None and self._revocations.has(identity.jti, now):
            error = AuthError("revoked")
        if error is not None:
            self._count(error)
            raise error

    def _count(self, error: AuthError) -> None:
        self.failures[error.reason] = self.failures.get(error.reason, 0) + 1

    def revoke_jti(self, jti: str, until: float | None = None) -> None:
        """Refuse the token with this id from now on; connections that already live by it are not touched.

        `until` is when it would end by itself (`Identity.ends_at`), None: never, or not known.
        """
        if forgotten := self._revocations.add(jti, until, self._clock()):
            logs.log_limited(_log, "revocations", "too many revoked tokens, some were forgotten", n=forgotten)

    def _new_remote(self, settings: Settings) -> RemoteKeys | None:
        if settings.jwks_url is None:
            return None
        if self._fetch is None:
            raise ValueError("jwks_url is set and there is nothing to fetch it with")
        return RemoteKeys(settings.jwks_url, settings.jwt_algorithm, self._fetch, self._jwks_timing)

    def _new_application(self, settings: Settings) -> Application | None:
        if settings.auth_url is None:
            return None
        if self._ask is None:
            raise ValueError("auth_url is set and there is nothing to ask it with")
        return Application(
            settings.auth_url,
            self._ask,
            time_limit=settings.auth_url_timeout,
            cache_ttl=settings.auth_cache_ttl,
            session_ttl=settings.auth_session_ttl,
            clock=self._clock,
        )

    def _new_callers(self, settings: Settings) -> CallbackIdentities | None:
        if self._callback is None:
            return None
        return CallbackIdentities(
            self._callback,
            time_limit=settings.auth_url_timeout,
            session_ttl=settings.auth_session_ttl,
            clock=self._clock,
        )

    def _all_keys(self) -> Keys:
        if self._remote is None:
            return self._keys
        published = self._remote.keys
        if self._merged is None or self._merged[0] is not published:
            self._merged = (published, self._keys | published)
        return self._merged[1]

    def _refusal(self, kid: str | None, keys: Keys) -> AuthError:
        """Return what to say of a token that no key has signed."""
        if self._remote is not None and not self._remote.keys:
            return AuthError("unavailable")
        if not keys:
            return AuthError("unknown_key", "this server has no key to verify tokens with")
        if kid is not None and kid not in keys.named and (keys.named or self._remote is not None):
            return AuthError("unknown_key")
        return AuthError("signature")

    def _identity(self, claims: dict[str, Any], now: float) -> Identity:
        settings = self._settings
        identity = identity_of(claims, user_id_claim=settings.user_id_claim, leeway=settings.jwt_leeway)
        if identity.ends_at is None:
            if settings.require_exp:
                raise AuthError("claim", "the token has no claim exp, and this server demands one")
        elif now >= identity.ends_at:
            raise AuthError("expired")
        not_before = time_of(claims, "nbf")
        if not_before is not None and now + settings.jwt_leeway < not_before:
            raise AuthError("not_yet_valid")
        # When a token was issued decides nothing (RFC 7519 §4.1.6), and issuers' clocks run ahead.
        time_of(claims, "iat")
        if settings.jwt_issuer is not None and claims.get("iss") != settings.jwt_issuer:
            raise AuthError("issuer")
        if not _is_addressed(claims, settings.jwt_audience):
            raise AuthError("audience")
        if identity.jti is not None and self._revocations.has(identity.jti, now):
            raise AuthError("revoked")
        return identity


def _is_addressed(claims: dict[str, Any], audience: str | None) -> bool:
    """Whether a token may be used here: one that names audiences must name this one (RFC 7519 §4.1.3)."""
    named = claims.get("aud")
    if audience is None:
        return named is None or named == []
    return named == audience or (isinstance(named, list) and audience in named)
