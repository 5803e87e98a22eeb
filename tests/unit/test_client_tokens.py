"""When a token is to be replaced, by the server's clock."""

from __future__ import annotations

from datetime import UTC, datetime

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.client.tokens import TokenClock, expiry_of

SECRET = "a secret of more than thirty-two bytes"


def token(**claims: object) -> str:
    return jwt.encode({"sub": "alice", **claims}, SECRET, "HS256")


def test_the_expiry_of_a_token() -> None:
    assert expiry_of(token(exp=1_800_000_000)) == 1_800_000_000
    assert expiry_of(token(exp=1_800_000_000.5)) == 1_800_000_000.5
    for other in (None, "", "x", "a.b.c", "..", token(), "a.e30.c", "a.W10.c", "a.ÿ.c"):
        assert expiry_of(other) is None


@given(st.text())
def test_any_text_is_a_token_without_expiry_or_with_one(text: str) -> None:
    assert expiry_of(f"a.{text}.c") is None or isinstance(expiry_of(f"a.{text}.c"), float)


@pytest.mark.parametrize(("lifetime", "wanted"), [(3600, 3540), (100, 75), (2, 1.5), (-5, -5)])
def test_a_while_before(lifetime: float, wanted: float) -> None:
    clock = TokenClock()
    # This machine's clock is no matter: 50 here is a time of the server's.
    clock.set_server_time(datetime.fromtimestamp(1_000_000_000, UTC), 50)
    clock.set_token(token(exp=1_000_000_000 + lifetime), 50)
    assert clock.refresh_at == pytest.approx(50 + wanted)
    clock.set_token("opaque", 50)
    assert clock.refresh_at is None


def test_trying_again() -> None:
    clock = TokenClock()
    clock.set_server_time(datetime.fromtimestamp(1_000_000_000, UTC), 0)
    clock.set_token(token(exp=1_000_000_100), 0)
    assert (clock.retry(75), clock.refresh_at) == (10, 85)
    assert (clock.retry(95), clock.refresh_at) == (2.5, 97.5)
    assert (clock.retry(200), clock.refresh_at) == (1, 201)
