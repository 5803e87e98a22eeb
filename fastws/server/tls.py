"""The certificate of a server, and the rules of TLS that new connections get."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import structlog
from cryptography import x509

from fastws.settings import Settings

# Forward secrecy and authenticated encryption; those of TLS 1.3 are all of that kind.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

_log = structlog.get_logger("fastws.tls")


class TlsContext:
    """The certificate and the rules of new TLS connections.

    `n_failed` counts connections that sent something and came to no handshake.
    """

    def __init__(self, settings: Settings) -> None:
        """Read `certfile` and `keyfile`; see :func:`make_tls`."""
        self.n_failed = 0
        self.context, self._certificate = _load(settings)

    @property
    def expires_at(self) -> datetime:
        """When the certificate ends."""
        return self._certificate.not_valid_after_utc

    def adopt(self, other: TlsContext) -> bool:
        """Give new connections what `other` has read later; the open ones go on as they are.

        Returns whether that is another certificate.
        """
        is_other = other._certificate != self._certificate
        self.context, self._certificate = other.context, other._certificate
        return is_other


def make_tls(settings: Settings) -> TlsContext | None:
    """What the settings say of TLS, None without a certificate.

    Raises:
        SettingsError: naming `certfile` or `keyfile` and the fix.
    """
    if settings.certfile is not None:
        return TlsContext(settings)
    if settings.keyfile is not None:
        raise settings.error(
            "keyfile", "there is no certfile that it is the key of", "set certfile as well or unset it"
        )
    return None


class _EncryptedKeyError(Exception):
    """The key asks for a password."""


def _load(settings: Settings) -> tuple[ssl.SSLContext, x509.Certificate]:
    certfile = cast(str, settings.certfile)
    keyfile = certfile if settings.keyfile is None else settings.keyfile
    key_setting = "certfile" if settings.keyfile is None else "keyfile"
    chain = _read(settings, "certfile", certfile)
    key = _read(settings, key_setting, keyfile)
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise settings.error(
            "certfile", f"{certfile} holds no certificate in PEM", "name the file of the chain"
        )
    if b"PRIVATE KEY-----" not in key:
        fix = "name the file of the key" + (" in keyfile" if settings.keyfile is None else "")
        raise settings.error(key_setting, f"{keyfile} holds no private key in PEM", fix)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer that could renegotiate could make the server work without end on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certfile, keyfile, password=_refuse_password)
        certificate = x509.load_pem_x509_certificate(chain)
    except _EncryptedKeyError:
        raise settings.error(
            key_setting,
            f"the key in {keyfile} is encrypted",
            "decrypt it (openssl pkey -in FILE -out NEW) and let only this user read it",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise settings.error(
                key_setting,
                f"the key in {keyfile} does not belong to the first certificate in {certfile}",
                "name the key that it was issued for, and put the server's certificate before the others",
            ) from None
        raise settings.error(
            "certfile",
            f"{certfile} and the key in {keyfile} cannot be used ({error.reason or error})",
            "look at them with openssl x509 -in FILE and openssl pkey -in FILE",
        ) from None
    except (OSError, ValueError) as error:
        raise settings.error(
            "certfile", f"{certfile} cannot be used ({error})", "look at it with openssl x509 -in FILE"
        ) from None
    if certificate.not_valid_after_utc < datetime.now(UTC):
        _log.warning(
            "the certificate has expired, and clients will refuse it",
            certfile=certfile,
            expired=f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        )
    return context, certificate


def _refuse_password() -> str:
    raise _EncryptedKeyError


def _read(settings: Settings, setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise settings.error(
            setting, f"cannot read {path} ({reason})", "check the path and its permissions"
        ) from None
