"""``fastws token``: tokens for tests and trials."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from fastws.auth.keys import KeyMaterialError, PrivateKey, is_symmetric, read_private_key, read_secret
from fastws.auth.tokens import sign
from fastws.cli.options import add_config, add_settings, load_settings
from fastws.errors import SettingsError
from fastws.settings import SETTINGS, Settings

TOKEN_EXAMPLES: Final = """\
examples:
  fastws token --sub user-123 --jwt-secret "$SECRET"
      a token of user-123 for an hour, for `fastws serve --jwt-secret "$SECRET"`
  fastws token --config fastws.toml --sub user-123 --expires never --tier gold --claim 'topics=["stock:*"]'
      secret, algorithm, audience and issuer as the server has them
  fastws token --sub user-123 --algorithm ES256 --key private.pem --kid key-1
      for a server that has the public key
"""  # noqa: S105 - no password but a help text


def fill_token(token: argparse.ArgumentParser) -> None:
    token.epilog = TOKEN_EXAMPLES
    add_config(token)
    token.add_argument("--sub", metavar="ID", type=_user_id, required=True, help="id of the user")
    token.add_argument(
        "--expires",
        metavar="SECONDS",
        type=_lifetime,
        default=3600.0,
        help="how long it is valid; below 0 it has expired, never leaves the expiry out (default: 3600 s)",
    )
    token.add_argument("--tier", help="the claim tier")
    token.add_argument(
        "--claim",
        metavar="NAME=VALUE",
        type=_claim,
        action="append",
        default=[],
        help="a further claim; VALUE is JSON, or else a text; may be given several times",
    )
    key = token.add_mutually_exclusive_group()
    add_settings(key, ("jwt_secret",))
    key.add_argument("--key", metavar="FILE", help="file with the private key in PEM, or with the secret")
    token.add_argument("--kid", metavar="ID", help="key id to write into the token; picks from jwt_keys")
    token.add_argument(
        "--algorithm",
        SETTINGS["jwt_algorithm"].flag,
        metavar="NAME",
        dest="jwt_algorithm",
        default=argparse.SUPPRESS,
        help=f"algorithm to sign with (default: {SETTINGS['jwt_algorithm'].default_text})",
    )
    token.set_defaults(run=_token)


def _token(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    now = int(time.time())
    claims: dict[str, Any] = {settings.user_id_claim: options.sub, "iat": now}
    if options.expires is not None:
        claims["exp"] = now + round(options.expires)
    for name, value in (
        ("tier", options.tier),
        ("aud", settings.jwt_audience),
        ("iss", settings.jwt_issuer),
    ):
        if value is not None:
            claims[name] = value
    claims.update(options.claim)
    print(sign(claims, _signing_key(options, settings), settings.jwt_algorithm, options.kid))
    return 0


def _signing_key(options: argparse.Namespace, settings: Settings) -> PrivateKey:
    algorithm = settings.jwt_algorithm
    if options.key is not None:
        text, source = _read_key(options.key), "--key"
    elif not is_symmetric(algorithm):
        raise SettingsError(f"--key: {algorithm} signs with a private key; give its file: --key FILE")
    elif options.kid in settings.jwt_keys:
        text, source = settings.jwt_keys[options.kid], "jwt_keys"
    elif settings.jwt_secret is not None:
        text, source = settings.jwt_secret, "jwt_secret"
    else:
        raise SettingsError(
            "jwt_secret: there is nothing to sign with; give --jwt-secret, or a private key with --key FILE "
            "and --algorithm",
            setting="jwt_secret",
        )
    try:
        return read_secret(text, algorithm) if is_symmetric(algorithm) else read_private_key(text, algorithm)
    except KeyMaterialError as error:
        raise SettingsError(f"{source}: the key {error}") from None


def _read_key(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        # The path is not shown, because it may be a secret in the wrong place.
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise SettingsError(f"--key: the file cannot be read: {reason}; give the path of a key") from None


def _user_id(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the id of a user is not empty, and no server takes such a token")
    return text


def _lifetime(text: str) -> float | None:
    if text == "never":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("inf")
    if not abs(seconds) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write seconds, such as 60, or never")
    return seconds


def _claim(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no claim; write NAME=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return name, value
