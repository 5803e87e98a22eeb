"""Settings of tokens that cannot be used, and what is said about them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from made_tokens import SECRET, logged, private_pem, public_pem

from fastws.auth import Authenticator
from fastws.errors import SettingsError
from fastws.settings import Settings


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    yield from logged()


def settings_error(name: str, **settings: Any) -> str:
    given = dict.fromkeys(settings, "fastws.toml")
    with pytest.raises(SettingsError) as caught:
        Authenticator(Settings(**settings, sources=given))
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "\n" not in text
    assert (caught.value.setting, caught.value.source) == (name, given.get(name, "default"))
    assert "(from fastws.toml); " in text or name not in given
    for value in settings.values():
        for secret in value.values() if isinstance(value, dict) else [value]:
            # What is plainly the path of a file may be shown; that no secret passes for one is tested below.
            is_path = str(secret).endswith((".pem", ".pub")) or (
                str(secret).startswith("/") and Path(str(secret)).parent.is_dir()
            )
            assert not isinstance(secret, str) or len(secret) < 8 or is_path or secret not in text
    return text


def test_keys_that_contradict_the_algorithm() -> None:
    text = settings_error("jwt_public_key", jwt_public_key=public_pem("RS256"))
    assert "of no use to HS256" in text
    assert "set jwt_algorithm to" in text
    settings_error("jwks_url", jwks_url="https://id.example/jwks.json")
    settings_error("jwt_public_key", jwt_public_key=public_pem("RS256"), jwt_secret=SECRET)
    text = settings_error("jwt_secret", jwt_secret=SECRET, jwt_algorithm="RS256")
    assert "of no use to RS256" in text
    assert "set jwt_public_key, jwt_keys or jwks_url" in text
    settings_error("jwt_secret", jwt_secret=SECRET, jwt_algorithm="ES256", jwt_public_key=public_pem("ES256"))
    settings_error(
        "jwt_previous_secret",
        jwt_previous_secret=SECRET, jwt_algorithm="ES256", jwt_public_key=public_pem("ES256"),
    )  # fmt: skip
    settings_error("jwt_previous_secret", jwt_previous_secret=SECRET)
    assert "RS256 needs a public key" in settings_error("jwt_algorithm", jwt_algorithm="RS256")
    assert "nobody could connect" in settings_error("allow_anonymous", allow_anonymous=False)
    Authenticator(Settings(allow_anonymous=False, jwt_secret=SECRET))
    Authenticator(Settings(jwt_algorithm="HS512"))


def test_public_keys_that_cannot_be_used(tmp_path: Path) -> None:
    def text(key: str, algorithm: str = "RS256") -> str:
        settings_error("jwt_keys", jwt_keys={"k1": key}, jwt_algorithm=algorithm)
        return settings_error("jwt_public_key", jwt_public_key=key, jwt_algorithm=algorithm)

    assert "cannot be read: No such file" in text(str(tmp_path / "missing.pem"))
    assert "cannot be read: Is a directory" in text(str(tmp_path))
    assert "cannot be read" in text("with a \x00 in it")
    missing = f"is in the file {tmp_path}/missing, which cannot be read: No such file"
    assert missing in text(str(tmp_path / "missing"))
    assert "is in the file keys/missing.pub, which" in text("keys/missing.pub")
    for secret in (
        "a secret in the wrong place",
        "/0d+rYk/x7Zq==",
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
        "/c2VjcmV0==",
    ):
        assert secret not in text(secret)
        assert "is in a file that cannot be read" in text(secret)
    assert "is not a public key in PEM" in text(
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    )
    assert "is not a public key in PEM" in text("-----BEGIN NOTHING")
    assert "is a private key" in text(private_pem("RS256"))
    assert "is a certificate" in text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "an RSA key of 1024 bits" in text(public_pem("weak RSA"))
    assert "set jwt_algorithm to ES256" in text(public_pem("ES256"))
    assert "on the curve secp384r1 and does not fit jwt_algorithm ES256" in text(public_pem("ES384"), "ES256")
    assert "set jwt_algorithm to RS256" in text(public_pem("RS256"), "EdDSA")
    assert "set jwt_algorithm to EdDSA" in text(public_pem("EdDSA"), "PS256")
    assert "use an RSA, EC or Ed25519 key" in text(public_pem("K"), "ES256")
    dsa_key = dsa.generate_private_key(1024).public_key()
    pem = dsa_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert "a key of a kind that signs no tokens" in text(pem)
    file = tmp_path / "key.bin"
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read: it is not a text" in text(str(file))


@pytest.mark.parametrize(
    "secret",
    [public_pem("RS256"), private_pem("ES256"), "ssh-rsa AAAAB3NzaC1yc2E", '{"kty":"oct","k":"AAAA"}'],
)
def test_secrets_that_are_none(secret: str) -> None:
    assert "is no secret for HS256" in settings_error("jwt_secret", jwt_secret=secret)
    assert "the key 'k1' is no secret" in settings_error("jwt_keys", jwt_keys={"k1": secret})


def test_empty_keys() -> None:
    assert "it is empty" in settings_error("jwt_keys", jwt_keys={"k1": ""})


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"jwt_secret": "x" * 31}, ["jwt_secret"]),
        ({"jwt_secret": "x" * 32}, []),
        ({"jwt_secret": "x" * 32, "jwt_algorithm": "HS384"}, ["jwt_secret"]),
        ({"jwt_secret": "x" * 64, "jwt_algorithm": "HS512"}, []),
        ({"jwt_secret": "x" * 32, "jwt_previous_secret": "short"}, ["jwt_previous_secret"]),
        ({"jwt_keys": {"k1": "ü" * 16, "k2": "short"}}, ["jwt_keys"]),
    ],
)
def test_a_short_secret_is_warned_of(settings: dict[str, Any], names: list[str], log: io.StringIO) -> None:
    Authenticator(Settings(**settings))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["setting"] for line in lines] == names
    assert all(line["level"] == "warning" for line in lines)
    assert 'short"' not in log.getvalue()
    assert "xxxx" not in log.getvalue()
