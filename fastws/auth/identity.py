"""Who a verified token says its bearer is, and what it lets them see. Sans-IO."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

import msgspec

from fastws.auth.tokens import AuthError

LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999, the last moment that ISO 8601 texts can show, in seconds since the Unix epoch."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The bearer of a verified token. Claims that fastws does not use are not kept.

    `user_id` is shown as it came, `user_key` is what users are compared by: 123 and "123" are one user.
    `expires_at` is the token's expiry and `ends_at`, later by the leeway, when a connection that lives by the
    token ends; both in seconds since the Unix epoch, None: never. Before its expiry, or without one, a connection
    ends that was let in by the word of the application, which is to be asked anew. `portfolios` and `topics` are
    allow-lists, None where the token does not limit its bearer; an empty one allows nothing.
    """

    user_id: str | int
    user_key: str
    expires_at: float | None = None
    ends_at: float | None = None
    jti: str | None = None
    tier: str | None = None
    portfolios: frozenset[str] | None = None
    topics: tuple[str, ...] | None = None

    @property
    def is_to_be_confirmed(self) -> bool:
        """Whether at `ends_at` nothing has expired, and who comes back may be let in as before."""
        return self.ends_at is not None and (self.expires_at is None or self.ends_at < self.expires_at)

    def allows(self, kind: str, target: str | int) -> bool:
        """Whether the token lets its bearer subscribe to `target`, where `kind` is stock, market, sector, ….

        The patterns of `topics` are ``kind:target``, or ``target`` for every kind; ``*`` stands for any
        characters, upper and lower case are told apart. Portfolios are looked up in `portfolios` where the
        token has them; that they belong to the user is not checked here.
        """
        text = str(target)
        if kind == "portfolio" and self.portfolios is not None:
            return text in self.portfolios
        return self.topics is None or any(_allows(pattern, kind, text) for pattern in self.topics)


def identity_of(claims: Mapping[str, Any], *, user_id_claim: str = "sub", leeway: float = 0.0) -> Identity:
    """Return the identity in the claims of a genuine token; whether it is current is not checked here.

    Raises:
        AuthError: "claim": the user's id is missing, or a claim is not of its type.
    """
    user_id = claims.get(user_id_claim)
    if not _is_user_id(user_id):
        raise AuthError("claim", f"the claim {user_id_claim} of the token is not the id of a user")
    expires_at = time_of(claims, "exp")
    if expires_at is not None and expires_at > LAST_SECOND:
        # Nearly always milliseconds; taken for seconds, the token would be valid for millennia.
        raise AuthError("claim", "the claim exp of the token is beyond the year 9999; it counts seconds")
    portfolios = _list_of(claims, "portfolios")
    return Identity(
        user_id=user_id,
        user_key=str(user_id),
        expires_at=expires_at,
        ends_at=None if expires_at is None else expires_at + leeway,
        jti=_text_of(claims, "jti"),
        tier=_text_of(claims, "tier"),
        portfolios=None if portfolios is None else frozenset(portfolios),
        topics=_list_of(claims, "topics"),
    )


def time_of(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a claim that is a time (RFC 7519 §2, NumericDate) in seconds since the Unix epoch; None: absent.

    A time too big for a float is infinite.

    Raises:
        AuthError: "claim": it is not a number.
    """
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AuthError("claim", f"the claim {name} of the token is not a number of seconds")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _text_of(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is not None and not (isinstance(value, str) and value):
        raise AuthError("claim", f"the claim {name} of the token is not a text")
    return value


def _list_of(claims: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    if name not in claims:
        return None
    value = claims[name]
    # null is refused: taking it for absent would turn an issuer's empty list into everything.
    if not isinstance(value, list) or not all(_is_item(item) for item in value):
        raise AuthError("claim", f"the claim {name} of the token is not a list of texts or whole numbers")
    return tuple(map(str, value))


def _is_user_id(value: object) -> TypeGuard[str | int]:
    if isinstance(value, str):
        return bool(value.strip())
    # bool is an int to Python. What has no 64 bits could be read but not written again.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_item(item: object) -> bool:
    return isinstance(item, (str, int)) and not isinstance(item, bool)


def _allows(pattern: str, kind: str, target: str) -> bool:
    pattern_kind, separator, pattern_target = pattern.partition(":")
    if separator:
        return _matches(pattern_kind, kind) and _matches(pattern_target, target)
    return _matches(pattern, target)


def _matches(pattern: str, text: str) -> bool:
    """Whether `pattern`, in which ``*`` stands for any characters, fits the whole of `text`; in linear time."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == text
    *middle, last = others
    if not text.startswith(first):
        return False
    return _has_in_order(text, middle, len(first), len(text) - len(last)) and text.endswith(last)


def _has_in_order(text: str, parts: Iterable[str], start: int, end: int) -> bool:
    """Whether `parts` stand in ``text[start:end]`` one after the other; taking each at its first place is enough."""
    for part in parts:
        found = text.find(part, start, end) if start <= end else -1
        if found < 0:
            return False
        start = found + len(part)
    return start <= end
