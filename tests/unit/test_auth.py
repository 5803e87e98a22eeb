"""Which tokens are accepted, what is made of them, and what is said about the others."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st

from fastws import logs
from fastws.auth import Authenticator, AuthError, Identity, token_of
from fastws.auth.keys import MAX_TRIED, read_private_key
from fastws.auth.revocations import Revocations
from fastws.auth.tokens import MAX_TOKEN_SIZE, sign
from fastws.errors import SettingsError
from fastws.settings import Settings

NOW = 1_800_000_000.0
SECRET = "an HS secret that is long enough for every algorithm, SHA-512 included"
OTHER_SECRET = "another HS secret that is long enough for every algorithm, SHA-512 included"
CLAIMS: dict[str, Any] = {"sub": "user-123", "exp": NOW + 60}
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


def private_key(kind: str, number: int = 0) -> Any:
    """Return key `number` that signs with algorithm `kind`."""
    # RSA keys take long to make.
    return _new_key("RSA" if kind.startswith(("RS", "PS")) else kind, number)


@cache
def _new_key(kind: str, number: int) -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "weak RSA":
        return rsa.generate_private_key(65537, 1024)
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(
        {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "K": ec.SECP256K1()}[kind]
    )


def public_pem(kind: str, number: int = 0) -> str:
    key = private_key(kind, number).public_key()
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private_pem(kind: str, number: int = 0) -> str:
    key = private_key(kind, number)
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def authenticator(**settings: Any) -> Authenticator:
    if not settings.keys() & {"jwt_secret", "jwt_public_key", "jwt_keys"}:
        settings["jwt_secret"] = SECRET
    return Authenticator(Settings(**settings), clock=lambda: NOW)


def token(
    claims: dict[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256", **header: Any
) -> str:
    return jwt.encode(CLAIMS if claims is None else claims, key, algorithm, headers=header)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: bytes, payload: bytes, secret: str = SECRET) -> str:
    """Sign arbitrary bytes, which no library would."""
    signed = f"{base64url(header)}.{base64url(payload)}"
    signature = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64url(signature)}"


def signed_payload(payload: bytes) -> str:
    return raw_token(b'{"alg":"HS256"}', payload)


def error_of(verify: Callable[[], object], text: str) -> AuthError:
    """Return the error of `verify`, which must not tell anything of the token `text`."""
    with pytest.raises(AuthError) as caught:
        verify()
    error = caught.value
    assert "\n" not in str(error)
    report = "".join(traceback.format_exception(error)) + repr(error)
    assert not any(part in report for part in text.split(".") if len(part) > 7)
    assert error.__cause__ is None
    assert error.__context__ is None or isinstance(error.__context__, AuthError)
    return error


def reason(subject: Authenticator, text: str) -> str:
    return error_of(lambda: subject.verify(text), text).reason


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# Genuine tokens.


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_secret(algorithm: str) -> None:
    subject = authenticator(jwt_algorithm=algorithm)
    assert subject.verify(token(algorithm=algorithm)).user_id == "user-123"
    assert reason(subject, token(key=OTHER_SECRET, algorithm=algorithm)) == "signature"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_public_key(algorithm: str) -> None:
    subject = authenticator(jwt_algorithm=algorithm, jwt_public_key=public_pem(algorithm))
    assert subject.verify(token(key=private_key(algorithm), algorithm=algorithm)).user_id == "user-123"
    assert reason(subject, token(key=private_key(algorithm, 1), algorithm=algorithm)) == "signature"


def test_ed448() -> None:
    subject = authenticator(jwt_algorithm="EdDSA", jwt_public_key=public_pem("Ed448"))
    assert subject.verify(token(key=private_key("Ed448"), algorithm="EdDSA")).user_key == "user-123"
    assert reason(subject, token(key=private_key("EdDSA"), algorithm="EdDSA")) == "signature"


@pytest.mark.parametrize("algorithm", ["HS256", "HS512", *ASYMMETRIC])
def test_tokens_made_here_are_good_everywhere(algorithm: str) -> None:
    if algorithm.startswith("HS"):
        signing, verifying = SECRET.encode(), SECRET
    else:
        signing = read_private_key(private_pem(algorithm), algorithm)  # type: ignore[assignment]
        verifying = public_pem(algorithm)
    made = sign({"sub": "ü", "exp": 4_000_000_000}, signing, algorithm, "k1")
    assert jwt.decode(made, verifying, [algorithm]) == {"sub": "ü", "exp": 4_000_000_000}
    assert jwt.get_unverified_header(made) == {"alg": algorithm, "typ": "JWT", "kid": "k1"}


def test_the_public_key_in_a_file_and_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(public_pem("ES256"))
    for text in (str(file), public_pem("ES256").replace("\n", "\\n")):
        subject = authenticator(jwt_algorithm="ES256", jwt_public_key=text)
        assert subject.verify(token(key=private_key("ES256"), algorithm="ES256")).user_id == "user-123"


# Algorithms.


def test_the_public_key_is_no_secret() -> None:
    """RS→HS confusion: a token signed with HMAC and the text of the public key, which everyone has."""
    subject = authenticator(jwt_algorithm="RS256", jwt_public_key=public_pem("RS256"))
    payload = json.dumps(CLAIMS).encode()
    for secret in (public_pem("RS256"), public_pem("RS256").strip(), public_pem("RS256") + "\n"):
        assert reason(subject, raw_token(b'{"alg":"HS256","typ":"JWT"}', payload, secret)) == "algorithm"
        assert reason(subject, raw_token(b'{"alg":"RS256","typ":"JWT"}', payload, secret)) == "signature"


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "", "HS384", "hs256", "HS256 ", "ES256", "RS256"]
)
@pytest.mark.parametrize("signature", ["", "AAAA", None])
def test_no_token_chooses_its_algorithm(name: str, signature: str | None) -> None:
    text = raw_token(json.dumps({"alg": name}).encode(), json.dumps(CLAIMS).encode())
    if signature is not None:
        text = f"{text.rpartition('.')[0]}.{signature}"
    assert reason(authenticator(), text) == "algorithm"
    subject = authenticator(jwt_algorithm="PS256", jwt_public_key=public_pem("PS256"))
    assert reason(subject, text) == "algorithm"


def test_keys_of_one_kind_have_one_algorithm() -> None:
    subject = authenticator(jwt_algorithm="PS256", jwt_public_key=public_pem("PS256"))
    text = token(key=private_key("RS256"), algorithm="RS256")
    assert reason(subject, text) == "algorithm"
    renamed = base64url(b'{"alg":"PS256"}') + text[text.index(".") :]
    assert reason(subject, renamed) == "signature"


# Key ids and rotation.


def test_the_previous_secret_is_accepted() -> None:
    subject = authenticator(jwt_secret=SECRET, jwt_previous_secret=OTHER_SECRET)
    assert subject.verify(token()).user_id == "user-123"
    assert subject.verify(token(key=OTHER_SECRET)).user_id == "user-123"
    assert reason(subject, token(key=SECRET + OTHER_SECRET)) == "signature"


def test_a_key_id_picks_the_key() -> None:
    subject = authenticator(jwt_keys={"k1": SECRET, "k2": OTHER_SECRET})
    assert subject.verify(token(kid="k1")).user_id == "user-123"
    assert subject.verify(token(key=OTHER_SECRET, kid="k2")).user_id == "user-123"
    assert reason(subject, token(kid="k2")) == "signature"
    for kid in ("k3", "", "../../etc/passwd", "' OR 1=1 --", "K1"):
        assert reason(subject, token(kid=kid)) == "unknown_key"


def test_without_a_key_id_every_key_is_tried_up_to_a_bound() -> None:
    keys = {f"k{number}": f"{OTHER_SECRET} {number}" for number in range(MAX_TRIED + 4)}
    subject = authenticator(jwt_keys=keys)
    secrets = list(keys.values())
    assert subject.verify(token(key=secrets[0])).user_id == "user-123"
    assert subject.verify(token(key=secrets[MAX_TRIED - 1])).user_id == "user-123"
    assert reason(subject, token(key=secrets[MAX_TRIED])) == "signature"
    assert subject.verify(token(key=secrets[MAX_TRIED], kid=f"k{MAX_TRIED}")).user_id == "user-123"


def test_a_key_id_that_nobody_configured_does_not_matter_to_a_key_without_one() -> None:
    assert authenticator().verify(token(kid="made-up")).user_id == "user-123"
    assert reason(authenticator(), token(key=OTHER_SECRET, kid="made-up")) == "signature"
    subject = authenticator(jwt_secret=SECRET, jwt_keys={"k1": OTHER_SECRET})
    assert subject.verify(token(kid="made-up")).user_id == "user-123"
    assert reason(subject, token(key="x" * 64, kid="made-up")) == "unknown_key"


def test_a_token_does_not_bring_its_own_key() -> None:
    key = private_key("ES256", 1)
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    subject = authenticator(jwt_algorithm="ES256", jwt_public_key=public_pem("ES256"))
    for header in (
        {"jwk": jwk},
        {"jku": "http://127.0.0.1:9/jwks.json"},
        {"x5u": "http://127.0.0.1:9/cert.pem"},
        {"x5c": ["MIIB"], "jwk": "no object", "jku": 5},
    ):
        assert reason(subject, token(key=key, algorithm="ES256", **header)) == "signature"
        good = token(key=private_key("ES256"), algorithm="ES256", **header)
        assert subject.verify(good).user_id == "user-123"


def test_without_keys_every_token_is_refused() -> None:
    subject = Authenticator(Settings())
    assert not subject.has_keys
    assert authenticator().has_keys
    assert reason(subject, token()) == "unknown_key"


async def test_reload() -> None:
    subject = authenticator()
    subject.revoke_jti("j")
    await subject.reload(Settings(jwt_secret=OTHER_SECRET, jwt_issuer="i"))
    assert reason(subject, token()) == "signature"
    assert subject.verify(token(CLAIMS | {"iss": "i"}, OTHER_SECRET)).user_id == "user-123"
    assert reason(subject, token(CLAIMS | {"iss": "i", "jti": "j"}, OTHER_SECRET)) == "revoked"
    with pytest.raises(SettingsError):
        await subject.reload(Settings(jwt_secret=SECRET, jwt_algorithm="RS256"))
    assert subject.verify(token(CLAIMS | {"iss": "i"}, OTHER_SECRET)).user_id == "user-123"
    assert (await subject.authenticate(token(CLAIMS | {"iss": "i"}, OTHER_SECRET))).user_id == "user-123"


# Time.


@pytest.mark.parametrize(
    ("claims", "leeway", "expected"),
    [
        ({"exp": NOW + 1}, 0, None),
        ({"exp": NOW}, 0, "expired"),
        ({"exp": NOW + 0.5}, 0, None),
        ({"exp": NOW - 0.5}, 0, "expired"),
        ({"exp": NOW - 10}, 11, None),
        ({"exp": NOW - 10}, 10, "expired"),
        ({"exp": 0}, 0, "expired"),
        ({"exp": -1}, 0, "expired"),
        ({"exp": -(10**300)}, 0, "expired"),
        ({"exp": 253_402_300_799}, 0, None),
        ({"exp": 253_402_300_800}, 0, "claim"),
        ({"exp": (NOW + 60) * 1000}, 0, "claim"),
        ({"exp": 10**300}, 0, "claim"),
        ({"exp": str(int(NOW + 60))}, 0, "claim"),
        ({"exp": True}, 0, "claim"),
        ({"exp": None}, 0, "claim"),
        ({"exp": [NOW + 60]}, 0, "claim"),
        ({}, 0, None),
        ({"nbf": NOW}, 0, None),
        ({"nbf": NOW + 1}, 0, "not_yet_valid"),
        ({"nbf": NOW + 10}, 10, None),
        ({"nbf": NOW + 11}, 10, "not_yet_valid"),
        ({"nbf": -5}, 0, None),
        ({"nbf": "0"}, 0, "claim"),
        ({"nbf": None}, 0, "claim"),
        ({"exp": NOW - 1, "nbf": NOW + 1}, 0, "expired"),
        ({"iat": NOW + 10}, 0, None),
        ({"iat": "now"}, 0, "claim"),
    ],
)
def test_times(claims: dict[str, Any], leeway: float, expected: str | None) -> None:
    subject = authenticator(jwt_leeway=leeway)
    text = signed_payload(json.dumps({"sub": "u"} | claims).encode())
    if expected is not None:
        assert reason(subject, text) == expected
        return
    identity = subject.verify(text)
    expires_at = claims.get("exp")
    assert identity.expires_at == expires_at
    assert identity.ends_at == (None if expires_at is None else expires_at + leeway)


def test_numbers_too_big_for_python_floats() -> None:
    for digits in ("9" * 400, "1" + "0" * 5000):
        assert reason(authenticator(), signed_payload(b'{"sub":"u","exp":%b}' % digits.encode())) in (
            "claim",
            "malformed",
        )
        assert reason(authenticator(), signed_payload(b'{"sub":"u","exp":-%b}' % digits.encode())) in (
            "expired",
            "malformed",
        )


def test_the_moment_is_given_or_the_clocks() -> None:
    subject = authenticator()
    assert subject.verify(token(), NOW + 59.9).user_id == "user-123"
    assert error_of(lambda: subject.verify(token(), NOW + 60), token()).reason == "expired"


def test_an_expiry_can_be_demanded() -> None:
    text = token({"sub": "u"})
    assert authenticator().verify(text).expires_at is None
    assert reason(authenticator(require_exp=True), text) == "claim"
    assert authenticator(require_exp=True).verify(token()).expires_at == NOW + 60


# Issuer and audience.


@pytest.mark.parametrize(
    ("settings", "claims", "expected"),
    [
        ({}, {"iss": "anyone"}, None),
        ({"jwt_issuer": "https://id.example"}, {"iss": "https://id.example"}, None),
        ({"jwt_issuer": "https://id.example"}, {"iss": "https://id.example/"}, "issuer"),
        ({"jwt_issuer": "https://id.example"}, {}, "issuer"),
        ({"jwt_issuer": "https://id.example"}, {"iss": ["https://id.example"]}, "issuer"),
        ({"jwt_audience": "fastws"}, {"aud": "fastws"}, None),
        ({"jwt_audience": "fastws"}, {"aud": ["other", "fastws"]}, None),
        ({"jwt_audience": "fastws"}, {"aud": "other"}, "audience"),
        ({"jwt_audience": "fastws"}, {"aud": "fastws2"}, "audience"),
        ({"jwt_audience": "fastws"}, {"aud": ["other"]}, "audience"),
        ({"jwt_audience": "fastws"}, {"aud": []}, "audience"),
        ({"jwt_audience": "fastws"}, {"aud": {"fastws": 1}}, "audience"),
        ({"jwt_audience": "fastws"}, {}, "audience"),
        ({}, {"aud": "other"}, "audience"),
        ({}, {"aud": []}, None),
    ],
)
def test_issuer_and_audience(settings: dict[str, Any], claims: dict[str, Any], expected: str | None) -> None:
    subject = authenticator(**settings)
    text = signed_payload(json.dumps(CLAIMS | claims).encode())
    if expected is None:
        assert subject.verify(text).user_id == "user-123"
    else:
        assert reason(subject, text) == expected


# Claims.


@pytest.mark.parametrize("user_id", ["user-123", "123", "ü 삼성", 123, 0, -5, 2**63 - 1])
def test_the_user_id_is_shown_as_it_came_and_compared_as_a_text(user_id: str | int) -> None:
    identity = authenticator().verify(signed_payload(json.dumps({"sub": user_id}).encode()))
    assert identity.user_id == user_id
    assert type(identity.user_id) is type(user_id)
    assert identity.user_key == str(user_id)


@pytest.mark.parametrize(
    "text",
    ['""', '" "', "null", "true", "false", "1.5", "1.0", "1e3", "[]", '["u"]', "{}", str(2**63), str(10**30)],
)
def test_what_is_no_user_id(text: str) -> None:
    assert reason(authenticator(), signed_payload(b'{"sub":%b}' % text.encode())) == "claim"


def test_the_claim_of_the_user_id() -> None:
    subject = authenticator(user_id_claim="uid")
    assert subject.verify(token({"uid": 7, "sub": ["whatever"]})).user_id == 7
    assert reason(subject, token({"sub": "u"})) == "claim"
    assert reason(authenticator(), token({})) == "claim"


def test_optional_claims() -> None:
    identity = authenticator().verify(
        token(
            CLAIMS | {"jti": "j-1", "tier": "gold", "portfolios": [123, "abc"], "topics": ["stock:*"], "x": 1}
        )
    )
    assert identity == Identity(
        user_id="user-123",
        user_key="user-123",
        expires_at=NOW + 60,
        ends_at=NOW + 60,
        jti="j-1",
        tier="gold",
        portfolios=frozenset({"123", "abc"}),
        topics=("stock:*",),
    )
    bare = authenticator().verify(token({"sub": "u", "jti": None, "tier": None}))  # as serializers write
    assert (bare.jti, bare.tier, bare.portfolios, bare.topics, bare.expires_at) == (None,) * 5
    with pytest.raises(AttributeError):
        identity.tier = "free"  # type: ignore[misc]


@pytest.mark.parametrize(
    "claims",
    [
        {"jti": 5},
        {"jti": ""},
        {"tier": ["gold"]},
        {"tier": 1},
        {"topics": "stock:*"},
        {"topics": None},
        {"topics": [None]},
        {"topics": [True]},
        {"topics": {"stock:*": True}},
        {"portfolios": None},
        {"portfolios": 5},
        {"portfolios": [1.5]},
    ],
)
def test_claims_of_the_wrong_type(claims: dict[str, Any]) -> None:
    assert reason(authenticator(), signed_payload(json.dumps(CLAIMS | claims).encode())) == "claim"


# What a token lets its bearer see.


def identity(**claims: Any) -> Identity:
    return Identity(user_id="u", user_key="u", **claims)


@pytest.mark.parametrize(
    ("topics", "kind", "target", "allowed"),
    [
        (None, "stock", "005930", True),
        ((), "stock", "005930", False),
        (("*",), "stock", "005930", True),
        (("stock:*",), "stock", "005930", True),
        (("stock:*",), "market", "KOSPI", False),
        (("stock:005930",), "stock", "005930", True),
        (("stock:005930",), "stock", "0059301", False),
        (("stock:005930",), "market", "005930", False),
        (("005*",), "stock", "005930", True),
        (("005*",), "market", "005930", True),
        (("005*",), "stock", "105930", False),
        (("*:KOSPI",), "market", "KOSPI", True),
        (("*:KOSPI",), "market", "KOSDAQ", False),
        (("market:KO*I",), "market", "KOSPI", True),
        (("market:KOSPI*SPI",), "market", "KOSPI", False),
        (("stock:KRX:*",), "stock", "KRX:005930", True),
        (("KRX:*",), "stock", "KRX:005930", False),
        (("stock:aapl",), "stock", "AAPL", False),
        (("stock:[A]APL", "stock:?APL"), "stock", "AAPL", False),
        (("market:KOSPI", "stock:A*"), "stock", "AAPL", True),
        ((":",), "stock", "", False),
        (("",), "stock", "AAPL", False),
    ],
)
def test_topics(topics: tuple[str, ...] | None, kind: str, target: str, allowed: bool) -> None:
    assert identity(topics=topics).allows(kind, target) is allowed


def test_portfolios() -> None:
    assert identity().allows("portfolio", 123)
    assert identity(portfolios=frozenset({"123"})).allows("portfolio", 123)
    assert identity(portfolios=frozenset({"123"})).allows("portfolio", "123")
    assert not identity(portfolios=frozenset({"123"})).allows("portfolio", 12)
    assert not identity(portfolios=frozenset()).allows("portfolio", 12)
    assert identity(portfolios=frozenset()).allows("stock", "AAPL")
    assert identity(portfolios=frozenset({"123"}), topics=("stock:*",)).allows("portfolio", 123)
    assert not identity(topics=("stock:*",)).allows("portfolio", 123)
    assert identity(topics=("portfolio:1*",)).allows("portfolio", 123)


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
@example("*a*b*", "ab")
@example("ab*ba", "aba")
def test_patterns_are_those_of_file_names(pattern: str, target: str) -> None:
    assert identity(topics=(pattern,)).allows("stock", target) is fnmatch.fnmatchcase(target, pattern)


def test_no_pattern_takes_long() -> None:
    pattern = "a*" * 3000 + "b"
    assert not identity(topics=(pattern,)).allows("stock", "a" * 6000)
    assert identity(topics=(pattern,)).allows("stock", "a" * 6000 + "b")


# Revoked tokens.


def test_a_revoked_token_is_refused_until_it_would_have_expired() -> None:
    subject = authenticator()
    text = token(CLAIMS | {"jti": "j-1", "exp": NOW + 100})
    assert subject.verify(text).jti == "j-1"
    subject.revoke_jti("j-1", NOW + 100)
    subject.revoke_jti("j-1", NOW + 1)  # cannot shorten it
    assert reason(subject, text) == "revoked"
    assert reason(subject, token(CLAIMS | {"jti": "j-1", "exp": NOW + 100}, OTHER_SECRET)) == "signature"
    assert subject.verify(token(CLAIMS | {"jti": "j-2"})).jti == "j-2"
    assert subject.verify(token(CLAIMS)).jti is None
    subject.revoke_jti("j-2")
    assert reason(subject, token(CLAIMS | {"jti": "j-2"})) == "revoked"


def test_revoked_tokens_take_bounded_room() -> None:
    revocations = Revocations(160)
    for number in range(100):
        assert revocations.add(f"short {number}", 10.0, 0.0) == 0
    for number in range(60):
        assert revocations.add(f"long {number}", 1000.0 + number, 0.0) == 0
    assert revocations.add("long 0", 2000.0, 5.0) == 0  # known already: needs no room
    assert len(revocations) == 160
    assert revocations.add("first that needs room", None, 20.0) == 0
    assert len(revocations) == 61
    assert not revocations.has("short 0", 5.0)
    for number in range(99):
        revocations.add(f"more {number}", 3000.0 + number, 20.0)
    assert len(revocations) == 160
    assert revocations.add("one too many", 3000.0, 20.0) == 11
    assert len(revocations) == 150
    gone = [number for number in range(60) if not revocations.has(f"long {number}", 20.0)]
    assert gone == list(range(1, 12))
    assert revocations.has("first that needs room", 1e12)


def test_forgetting_a_revoked_token_is_said(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "limiter", logs.LogLimiter())
    subject = authenticator()
    subject._revocations = Revocations(1)
    subject.revoke_jti("a")
    assert log.getvalue() == ""
    subject.revoke_jti("b")
    assert "some were forgotten" in log.getvalue()


# Malformed tokens.

GOOD = token()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "undefined",
        HEADER,
        f"{HEADER}.{PAYLOAD}",
        f".{PAYLOAD}.{SIGNATURE}",
        f"{GOOD}.",
        f"{GOOD}.{SIGNATURE}",
        f"{GOOD}.x.y",  # five parts, as of an encrypted one
        f" {GOOD}",
        f"{GOOD}\n",
        f"{GOOD}=",
        f"{HEADER}=.{PAYLOAD}.{SIGNATURE}",
        f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}*",
        GOOD.replace(".", "\uff0e"),
        f"\ud800{GOOD}",
        f"{GOOD}\x00",
        "a" * (MAX_TOKEN_SIZE + 1),
        f"{HEADER}.{'A' * MAX_TOKEN_SIZE}.{SIGNATURE}",
        raw_token(b"", b"{}"),
        raw_token(b"{}", b"{}"),
        raw_token(b"[]", b"{}"),
        raw_token(b'"HS256"', b"{}"),
        raw_token(b'{"alg":null}', b"{}"),
        raw_token(b'{"alg":["HS256"]}', b"{}"),
        raw_token(b'{"alg":"HS256","kid":5}', b"{}"),
        raw_token(b'{"alg":"HS256","kid":["k"]}', b"{}"),
        raw_token(b'{"alg":"HS256"', b"{}"),
        raw_token(b'{"alg":"HS256","crit":["exp"],"exp":1}', b'{"sub":"u"}'),
        raw_token(b'{"alg":"HS256","crit":["b64"],"b64":false}', b'{"sub":"u"}'),
        raw_token(b'{"alg":"HS256","crit":null}', b'{"sub":"u"}'),
        raw_token(b'{"alg":"HS256","x":' + b"[" * 5000, b"{}"),
        signed_payload(b""),
        signed_payload(b"[]"),
        signed_payload(b"null"),
        signed_payload(b'"sub"'),
        signed_payload(b'{"sub":"u"'),
        signed_payload(b'{"sub":"u"}{}'),
        signed_payload(b'{"sub":"\xff"}'),
        signed_payload(b'{"sub":"\\ud800"}'),
        signed_payload(b'{"sub":"u","exp":NaN}'),
        signed_payload(b'{"sub":"u","exp":Infinity}'),
        signed_payload(b'{"sub":"u","x":' + b"[" * 5000),
        signed_payload(b'\xef\xbb\xbf{"sub":"u"}'),
    ],
)
def test_malformed(text: str) -> None:
    assert reason(authenticator(), text) == "malformed"


def test_every_changed_character_is_noticed() -> None:
    """Also where the change leaves the decoded bytes as they were."""
    subject = authenticator()
    assert subject.verify(GOOD).user_id == "user-123"
    for index, old in enumerate(GOOD):
        for new in "ABCDwxyz0189-_+/=.":
            if new != old:
                changed = GOOD[:index] + new + GOOD[index + 1 :]
                assert reason(subject, changed) in ("malformed", "algorithm", "signature")


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(AuthError):
        authenticator().verify(text)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_no_parts_raise_anything_else(parts: list[bytes]) -> None:
    with pytest.raises(AuthError):
        authenticator().verify(".".join(map(base64url, parts)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("sub", "exp", "nbf", "iat", "aud", "iss", "jti", "tier", "portfolios", "topics"), json_values
        ),
    )
)
def test_genuine_nonsense_raises_nothing_else(claims: dict[str, Any]) -> None:
    text = signed_payload(json.dumps(claims).encode())
    for settings in ({}, {"jwt_audience": "a", "jwt_issuer": "i", "jwt_leeway": 5.0}):
        try:
            got = authenticator(**settings).verify(text)
        except AuthError:
            continue
        assert got.user_id == claims["sub"]
        assert isinstance(got.user_id, (str, int))
        json.dumps(str(got.user_id)).encode()
        got.allows("stock", "005930")


@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "typ", "jwk", "x"]), json_values))
def test_nonsense_in_the_header_raises_nothing_else(header: dict[str, Any]) -> None:
    for algorithm in ("HS256", "ES256", "EdDSA"):
        text = raw_token(json.dumps(header | {"alg": algorithm}).encode(), b'{"sub":"u"}', OTHER_SECRET)
        settings = (
            {}
            if algorithm == "HS256"
            else {"jwt_algorithm": algorithm, "jwt_public_key": public_pem(algorithm)}
        )
        assert reason(authenticator(**settings), text) in ("malformed", "signature")


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@given(signature=st.binary(max_size=600))
def test_no_signature_raises_anything_else(algorithm: str, signature: bytes) -> None:
    subject = authenticator(jwt_algorithm=algorithm, jwt_public_key=public_pem(algorithm))
    header = base64url(json.dumps({"alg": algorithm}).encode())
    assert reason(subject, f"{header}.{PAYLOAD}.{base64url(signature)}") == "signature"


def test_nothing_is_logged_of_a_token(log: io.StringIO) -> None:
    subject = authenticator()
    for text in (GOOD, token(key=OTHER_SECRET), "x" * 9000, f"{HEADER}.{PAYLOAD}."):
        try:
            subject.verify(text)
        except AuthError:
            logging.getLogger("fastws.test").exception("refused")
    assert log.getvalue().count("refused") == 3
    assert not any(part in log.getvalue() for part in (HEADER, PAYLOAD, SIGNATURE, "xxxxxxxx", SECRET))


# Where a request carries its token.


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({}, {}, None),
        ({"authorization": "Bearer a.b.c"}, {}, "a.b.c"),
        ({"authorization": "bearer   a.b.c "}, {}, "a.b.c"),
        ({"authorization": "Bearer a.b.c"}, {"token": "q"}, "a.b.c"),
        ({"authorization": "Basic dTpw"}, {"token": "q"}, "q"),
        ({"authorization": "Bearer"}, {"token": "q"}, "q"),
        ({"authorization": "Bearer undefined"}, {"token": "q"}, "q"),
        ({"authorization": "Bearerx"}, {}, None),
        ({"sec-websocket-protocol": "fastws, bearer.a.b.c"}, {"token": "q"}, "a.b.c"),
        ({"sec-websocket-protocol": "bearer.a.b.c,fastws"}, {}, "a.b.c"),
        ({"sec-websocket-protocol": "fastws"}, {"token": "q"}, "q"),
        ({"sec-websocket-protocol": "fastws, bearer.null"}, {"token": "q"}, "q"),
        ({"sec-websocket-protocol": "fastws, bearer."}, {}, None),
        ({"sec-websocket-protocol": "fastws, bearerx.a"}, {}, None),
        ({"authorization": "Bearer h", "sec-websocket-protocol": "bearer.s"}, {"token": "q"}, "h"),
        ({}, {"token": "a.b.c"}, "a.b.c"),
        ({}, {"token": "undefined"}, None),
        ({}, {"token": "null"}, None),
        ({}, {"token": ""}, None),
        ({}, {"token": " "}, None),
        ({}, {"Token": "a.b.c"}, None),
    ],
)
def test_where_the_token_is(headers: dict[str, str], query: dict[str, str], expected: str | None) -> None:
    assert token_of(headers, query) == expected
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    assert token_of(headers, query, offered) == expected


# Settings that cannot be used.


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
