"""Tokens that are none: each is refused in one way, and nothing of it is told."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tokens import (
    ASYMMETRIC,
    OTHER_SECRET,
    SECRET,
    authenticator,
    base64url,
    logged,
    public_pem,
    raw_token,
    reason,
    signed_payload,
    token,
)

from fastws.auth import AuthError
from fastws.auth.tokens import MAX_TOKEN_SIZE


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    yield from logged()


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
