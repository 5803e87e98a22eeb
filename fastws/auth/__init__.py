"""Who a client is: tokens (JWT, RFC 7519) in, identities out."""

from fastws.auth.application import headers_for
from fastws.auth.authenticator import Authenticator
from fastws.auth.callback import AuthRequest, Callback
from fastws.auth.identity import Identity
from fastws.auth.tokens import AuthError, token_of

__all__ = ["AuthError", "AuthRequest", "Authenticator", "Callback", "Identity", "headers_for", "token_of"]
