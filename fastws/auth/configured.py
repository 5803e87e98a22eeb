"""The keys that settings name: read, and held against the algorithm and the other settings."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from fastws.auth.keys import (
    Key,
    KeyMaterialError,
    Keys,
    is_symmetric,
    read_key,
    recommended_secret_size,
)
from fastws.settings import Settings
from fastws.settings_catalog import is_plain_path

_log = structlog.get_logger("fastws.auth")


def configured_keys(settings: Settings, *, has_callback: bool) -> Keys:
    """Read the keys in `settings`.

    Raises:
        SettingsError: one is unusable, or contradicts another setting.
    """
    _check_combination(settings, has_callback=has_callback)
    algorithm = settings.jwt_algorithm
    named = {
        kid: (_read(settings, "jwt_keys", key, f"the key {kid!r}"),) for kid, key in settings.jwt_keys.items()
    }
    unnamed = tuple(
        _read(settings, name, getattr(settings, name), "the key")
        for name in ("jwt_secret", "jwt_previous_secret", "jwt_public_key")
        if getattr(settings, name) is not None
    )
    _warn_of_http("jwks_url", settings.jwks_url, "without https, whoever is on the way can replace the keys")
    _warn_of_http(
        "auth_url", settings.auth_url, "without https, whoever is on the way can read the sessions of users"
    )
    if is_symmetric(algorithm):
        for name in ("jwt_secret", "jwt_previous_secret"):
            _warn_of_short(name, getattr(settings, name), algorithm)
        for key in settings.jwt_keys.values():
            _warn_of_short("jwt_keys", key, algorithm)
    return Keys(named, unnamed)


def _check_combination(settings: Settings, *, has_callback: bool) -> None:
    algorithm = settings.jwt_algorithm
    if is_symmetric(algorithm):
        if settings.jwt_public_key is not None or settings.jwks_url is not None:
            raise settings.error(
                "jwt_public_key" if settings.jwt_public_key is not None else "jwks_url",
                f"public keys are of no use to {algorithm}, which is what jwt_algorithm says",
                "set jwt_algorithm to what the issuer signs with, such as RS256",
            )
        if settings.jwt_previous_secret is not None and settings.jwt_secret is None:
            raise settings.error(
                "jwt_previous_secret", "there is no jwt_secret that came after it", "set jwt_secret"
            )
        needed = "jwt_secret, jwt_keys or auth_url"
    else:
        for name in ("jwt_secret", "jwt_previous_secret"):
            if getattr(settings, name) is not None:
                raise settings.error(
                    name,
                    f"a secret is of no use to {algorithm}, which is what jwt_algorithm says",
                    "set jwt_public_key, jwt_keys or jwks_url instead, or jwt_algorithm to HS256",
                )
        needed = "jwt_public_key, jwt_keys or jwks_url"
    if settings.jwt_secret or settings.jwt_public_key or settings.jwt_keys or settings.jwks_url:
        return
    if not settings.allow_anonymous and settings.auth_url is None and not has_callback:
        raise settings.error(
            "allow_anonymous", "nobody could connect: there is no key to verify tokens with", f"set {needed}"
        )
    if not is_symmetric(algorithm):
        raise settings.error("jwt_algorithm", f"{algorithm} needs a public key", f"set {needed}")


def _read(settings: Settings, name: str, text: str, subject: str) -> Key:
    if not is_symmetric(settings.jwt_algorithm) and "-----BEGIN" not in text:
        try:
            text = Path(text).read_text()
        except (OSError, ValueError) as error:
            # Anything else than a path may be a secret in the wrong place.
            file = f"the file {text}, which" if is_plain_path(text) else "a file that"
            reason = error.strerror if isinstance(error, OSError) else "it is not a text"
            raise settings.error(
                name, f"{subject} is in {file} cannot be read: {reason}", "give its path, or PEM text"
            ) from None
    try:
        return read_key(text, settings.jwt_algorithm)
    except KeyMaterialError as error:
        raise settings.error(name, f"{subject} {error.problem}", error.fix) from None


def _warn_of_short(name: str, secret: str | None, algorithm: str) -> None:
    needed = recommended_secret_size(algorithm)
    if secret is not None and len(secret.encode()) < needed:
        # Whoever has one token can try all short secrets at home.
        _log.warning("the secret is short and may be guessed", setting=name, bytes_recommended=needed)


def _warn_of_http(name: str, address: str | None, danger: str) -> None:
    url = urlsplit(address or "")
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        _log.warning(danger, setting=name)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
