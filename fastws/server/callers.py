"""Who asks over HTTP: the tokens of users, and what they let them see."""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection, Mapping
from typing import Final, Protocol

from aiohttp import web

from fastws.auth import Authenticator, AuthError, AuthRequest, Identity, token_of
from fastws.errors import ErrorCode
from fastws.limits import Limits
from fastws.server.handshake import Refusal, Request, check_origin
from fastws.server.http import HttpError
from fastws.server.peers import FORWARDING_HEADERS, Peer, Peers, endpoint

_READING: Final = ("GET", "HEAD")
# Schemes of Authorization that browsers add by themselves once the user has logged in, as they do cookies.
_SENT_BY_BROWSERS: Final = ("basic", "digest", "negotiate", "ntlm")

CHALLENGE = (("WWW-Authenticate", "Bearer"),)
"""RFC 9110 §11.6.1: a 401 without it is malformed."""


class CallersView(Protocol):
    """What is needed of the server to know its callers."""

    @property
    def allow_anonymous(self) -> bool:
        """Whether prices are shown to callers without a token."""

    @property
    def allowed_origins(self) -> Collection[str]:
        """Origins of pages, beside the server's own, that may act for the users who have them open."""

    @property
    def authenticator(self) -> Authenticator: ...

    @property
    def peers(self) -> Peers: ...

    @property
    def limits(self) -> Limits: ...


def bearer_of(request: web.Request) -> str | None:
    """Return the token of the header ``Authorization: Bearer``, unread; None where there is no such header."""
    scheme, _, given = request.headers.get("Authorization", "").strip().partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def is_administrator(request: web.Request, admin_token: str | None) -> bool:
    """Whether a request has the token of the administrator. None or an empty one: nobody has."""
    given = bearer_of(request)
    if given is None or not admin_token:
        return False
    # aiohttp decodes headers in this way, and compare_digest takes only ASCII as text.
    given_bytes, token_bytes = (text.encode(errors="surrogateescape") for text in (given, admin_token))
    return hmac.compare_digest(given_bytes, token_bytes)


async def identify(request: web.Request, server: CallersView) -> Identity:
    """Return who sends a request that only users may send.

    Raises:
        HttpError: 401, there is no token or it is not accepted, ``reason`` in the details says why; 403, the
            application or the origin of the page is against it; 429, there were too many such tokens from this address;
            or 503, the issuer's keys cannot be had, or the application not be asked.
    """
    identity = await find_caller(request, server)
    if identity is None:
        raise HttpError(
            Refusal(
                401,
                ErrorCode.AUTH_REQUIRED,
                "send a token as Authorization: Bearer, or as ?token=",
                CHALLENGE,
            )
        )
    return identity


async def identify_reader(request: web.Request, server: CallersView) -> Identity | None:
    """Return who wants to see prices; None for somebody without a token where `allow_anonymous` lets them.

    A token that is not accepted is refused also there: whoever brings one is to learn that it has ended.

    Raises:
        HttpError: as `identify`.
    """
    if not server.allow_anonymous:
        return await identify(request, server)
    return await find_caller(request, server)


def check_stock(identity: Identity | None, code: str, **details: object) -> None:
    """Hold the symbol that a request is about against the topics of its sender's token.

    To be called before anything tells whether there is this symbol.

    Raises:
        HttpError: 403, with `details`.
    """
    if identity is not None and not identity.allows("stock", code):
        refusal = Refusal(403, ErrorCode.FORBIDDEN, f"the token does not allow stock:{code[:64]}")
        raise HttpError(refusal, details)


async def find_caller(request: web.Request, server: CallersView) -> Identity | None:
    """Return who sends a request that anybody may send; None for somebody who does not say it.

    Raises:
        HttpError: as `identify`, for what was brought and is not accepted.
    """
    token = token_of(request.headers, request.query, ())
    authenticator = server.authenticator
    peer = peer_of(request, server.peers)
    asked_with = (
        authenticator.question(
            AuthRequest(token, _headers_of(request), dict(request.query), request.path, peer.address)
        )
        if authenticator.asks(token)
        else None
    )
    if token is None and asked_with is None:
        return None
    if asked_with is not None:
        _check_page(request, server, asked_with.headers, peer)
    key = peer.key
    limits = server.limits
    if seconds := limits.token_wait(key, time.monotonic_ns()):
        raise HttpError(
            Refusal(
                429,
                ErrorCode.RATE_LIMIT_EXCEEDED,
                "too many tokens from this address were not accepted; wait a moment",
                (("Retry-After", str(seconds)),),
            ),
            {"retry_after": seconds},
        )
    try:
        return await authenticator.identify(token, asked_with)
    except AuthError as error:
        if error.reason in ("unavailable", "application"):
            # The outage of another is not the client's fault, and not charged to it.
            refusal = Refusal(503, "SERVICE_UNAVAILABLE", str(error), (("Retry-After", "5"),))
            raise HttpError(refusal, {"reason": error.reason}) from None
        if error.reason == "forbidden":
            raise HttpError(Refusal(403, ErrorCode.FORBIDDEN, str(error)), {"reason": error.reason}) from None
        limits.note_bad_token(key, time.monotonic_ns())
        refusal = Refusal(401, ErrorCode.INVALID_TOKEN, str(error), CHALLENGE)
        raise HttpError(refusal, {"reason": error.reason}) from None


def _check_page(request: web.Request, server: CallersView, asked_with: Mapping[str, str], peer: Peer) -> None:
    """Refuse what another site's page does in the name of a user (CWE-352): browsers send cookies along by themselves.

    A token in the query proves nothing: any page can write one into its address, and the application, which is sent
    the cookie with it, may go by the cookie. A header Authorization no page can send to another site that does not
    agree, except where it is the browser that adds it.

    Raises:
        HttpError: 403.
    """
    if request.method in _READING:
        return
    scheme = request.headers.get("Authorization", "").partition(" ")[0].lower()
    if scheme not in _SENT_BY_BROWSERS if scheme else "cookie" not in asked_with:
        return
    names = [name for name in ("origin", "host") if name in request.headers]
    page = Request(
        request.method,
        request.path_qs,
        request.path,
        request.query_string,
        (1, 1),
        {name: request.headers[name] for name in names},
        peer,
    )
    if (refusal := check_origin(page, server.allowed_origins)) is not None:
        raise HttpError(refusal)


def _headers_of(request: web.Request) -> dict[str, str]:
    """The headers of a request, each once; HTTP/2 proxies may have cut the cookies into several."""
    headers = request.headers
    found = {name.lower(): ", ".join(headers.getall(name)) for name in headers}
    if "cookie" in found:
        found["cookie"] = "; ".join(headers.getall("Cookie"))
    if "authorization" in found:
        found["authorization"] = headers["Authorization"]
    return found


def peer_of(request: web.Request, peers: Peers) -> Peer:
    """Return who has sent a request, be it through trusted proxies."""
    transport = request.transport
    if transport is None:  # it has gone
        return Peer()
    address, is_tls = endpoint(transport)
    headers = {
        name: ", ".join(request.headers.getall(name))
        for name in FORWARDING_HEADERS
        if name in request.headers
    }
    return peers.find(address, headers, is_tls=is_tls)
