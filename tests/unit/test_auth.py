"""Which tokens are accepted, and what is made of them."""

from __future__ import annotations

import fnmatch
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_tokens import (
    ASYMMETRIC,
    CLAIMS,
    NOW,
    OTHER_SECRET,
    SECRET,
    authenticator,
    base64url,
    error_of,
    logged,
    private_key,
    private_pem,
    public_pem,
    raw_token,
    reason,
    signed_payload,
    token,
)

from fastws import logs
from fastws.auth import Authenticator, Identity, token_of
from fastws.auth.keys import MAX_TRIED, read_private_key
from fastws.auth.revocations import Revocations
from fastws.auth.tokens import sign
from fastws.errors import SettingsError
from fastws.settings import Settings


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    yield from logged()


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
