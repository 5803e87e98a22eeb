"""Who a client is: tokens (JWT, RFC 7519) in, identities out. See :class:`fastws.auth.authenticator.Authenticator`."""
