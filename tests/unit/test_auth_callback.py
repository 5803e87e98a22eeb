"""What a function of the program says of users: read, bounded, and failing in every way that it can."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from fastws.auth import AuthError, AuthRequest, Callback
from fastws.auth.callback import CallbackIdentities
from fastws.logs import limiter

NOW = 1_800_000_000.0
REQUEST = AuthRequest(
    "secret-token", {"cookie": "secret-cookie"}, {"key": "secret-key"}, "/v1/ws", "192.0.2.1"
)


@pytest.fixture(autouse=True)
def _loud() -> None:
    limiter._written.clear()


def asking(callback: Callback, *, time_limit: float = 10.0) -> CallbackIdentities:
    return CallbackIdentities(
        callback, time_limit=time_limit, session_ttl=3600.0, clock=lambda: NOW, chance=lambda: 0.0
    )


@pytest.mark.parametrize(
    ("answer", "user_id"), [("ann", "ann"), (7, 7), ({"user_id": "ann", "tier": None}, "ann")]
)
async def test_who_it_is(answer: Any, user_id: object) -> None:
    async def later(request: AuthRequest) -> Any:
        assert request is REQUEST
        return answer

    for callback in (lambda request: answer, later):
        identity = await asking(callback).identify(REQUEST)
        assert identity is not None
        assert identity.user_id == user_id
        # A connection does not outlive a logout for ever.
        assert (identity.ends_at, identity.expires_at) == (NOW + 3600, None)


async def test_what_an_answer_may_say() -> None:
    answer = {
        "user_id": "ann", "expires_at": NOW + 60, "topics": ["stock:*"], "portfolios": [1], "tier": "gold", "x": 1,
    }  # fmt: skip
    identity = await asking(lambda request: answer).identify(REQUEST)
    assert identity is not None
    assert (identity.expires_at, identity.ends_at) == (NOW + 60, NOW + 60)
    assert (identity.topics, identity.portfolios, identity.tier) == (("stock:*",), frozenset({"1"}), "gold")


@pytest.mark.parametrize("answer", [None, {"user_id": None}])
async def test_nobody(answer: Any) -> None:
    assert await asking(lambda request: answer).identify(REQUEST) is None


@pytest.mark.parametrize("reason", ["refused", "forbidden", "expired"])
async def test_a_refusal_is_handed_on(reason: Any) -> None:
    def refuse(request: AuthRequest) -> None:
        raise AuthError(reason, "the subscription has ended")

    with capture_logs() as logged, pytest.raises(AuthError, match=r"^the subscription has ended$") as caught:
        await asking(refuse).identify(REQUEST)
    assert caught.value.reason == reason
    assert not logged


async def test_a_session_that_has_ended() -> None:
    with pytest.raises(AuthError) as caught:
        await asking(lambda request: {"user_id": 1, "expires_at": NOW}).identify(REQUEST)
    assert caught.value.reason == "expired"


def fail(request: AuthRequest) -> None:
    raise KeyError("table")


def refuse_wrongly(request: AuthRequest) -> None:
    raise AuthError("no_money")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (fail, "table"),
        (refuse_wrongly, "'no_money' is none of malformed"),
        (lambda request: {}, "user_id .* is not the id of a user"),
        (lambda request: True, "is not the id of a user"),
        (lambda request: {"user_id": 1, "topics": "all"}, "topics"),
        (lambda request: {"user_id": 1, "expires_at": "soon"}, "exp"),
        (lambda request: ["ann"], "is not the id of a user"),
    ],
)
async def test_what_goes_wrong_is_logged_and_refuses_the_one(callback: Any, said: str) -> None:
    with capture_logs() as logged, pytest.raises(AuthError) as caught:
        await asking(callback).identify(REQUEST)
    assert caught.value.reason == "application"
    assert "secret" not in str(logged)
    (line,) = logged
    assert line["log_level"] == "error"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(line["error"])


async def test_it_has_a_time_limit_with_its_turn() -> None:
    gate = asyncio.Event()
    n_now = n_at_once = 0

    async def wait(request: AuthRequest) -> str:
        nonlocal n_now, n_at_once
        n_now += 1
        n_at_once = max(n_at_once, n_now)
        try:
            await gate.wait()
        finally:
            n_now -= 1
        return "ann"

    callers = asking(wait, time_limit=0.05)
    with capture_logs() as logged:
        found = await asyncio.gather(*(callers.identify(REQUEST) for _ in range(100)), return_exceptions=True)
    assert {type(error) for error in found} == {AuthError}
    assert n_at_once == 64
    assert [line["error"] for line in logged] == ["no answer within 0.05 s"]


def test_a_request_shows_no_secret() -> None:
    assert repr(REQUEST) == "<AuthRequest /v1/ws of 192.0.2.1>"
