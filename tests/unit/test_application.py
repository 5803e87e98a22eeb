"""What the application says of users: read, kept for a while, bounded; failing in every way that it can."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from fastws.auth import AuthError, application, headers_for
from fastws.auth.application import MAX_ANSWER_SIZE, Application
from fastws.logs import limiter

NOW = 1_800_000_000.0
URL = "https://app.example/whoami"
COOKIE = {"cookie": "sessionid=secret-cookie"}
BEARER = {"authorization": "Bearer secret-token"}

Answer = tuple[int, bytes] | Exception


def user(user_id: object, **members: object) -> Answer:
    return 200, json.dumps({"user_id": user_id, **members}).encode()


class Asked:
    """Stands in for the network: answers what it is told to, once `gate` is open, and counts."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.seen: list[Mapping[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.n_at_once = self.most_at_once = 0

    async def __call__(
        self, url: str, headers: Mapping[str, str], max_size: int, time_limit: float
    ) -> tuple[int, bytes]:
        assert (url, max_size) == (URL, MAX_ANSWER_SIZE)
        self.seen.append(headers)
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        try:
            await self.gate.wait()
        finally:
            self.n_at_once -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(asked: Asked, **settings: Any) -> tuple[Application, Clock]:
    clock = Clock()
    defaults = {
        "time_limit": 5.0,
        "cache_ttl": 10.0,
        "session_ttl": 3600.0,
        "clock": lambda: NOW,
        "monotonic": clock,
    }
    return Application(URL, asked, **defaults | settings), clock


async def refused(subject: Application, headers: Mapping[str, str] = COOKIE) -> str:
    with pytest.raises(AuthError) as caught:
        await subject.identify(headers)
    assert "secret" not in str(caught.value)
    return caught.value.reason


async def test_what_it_tells_of_a_user() -> None:
    asked = Asked(user(7, expires_at=NOW + 60, portfolios=[1, "2"], topics=["stock:*"], tier="gold", other=1))
    subject, _ = made(asked)
    identity = await subject.identify(COOKIE)
    assert identity is not None
    assert (identity.user_id, identity.user_key, identity.ends_at, identity.tier) == (
        7,
        "7",
        NOW + 60,
        "gold",
    )
    assert identity.portfolios == {"1", "2"}
    assert identity.topics == ("stock:*",)
    assert identity.jti is None


@pytest.mark.parametrize(
    ("answer", "headers", "reason"),
    [
        (user(None), COOKIE, None),
        ((401, b""), COOKIE, None),
        ((401, b""), BEARER, "refused"),
        ((401, b""), COOKIE | BEARER, "refused"),
        ((403, b""), COOKIE, "forbidden"),
        (user("u", expires_at=NOW), COOKIE, "expired"),
        ((302, b""), COOKIE, "application"),
        ((404, b""), COOKIE, "application"),
        ((500, b"{}"), COOKIE, "application"),
        ((200, b""), COOKIE, "application"),
        ((200, b"<html>secret"), COOKIE, "application"),
        ((200, b"[1]"), COOKIE, "application"),
        ((200, b"\xff"), COOKIE, "application"),
        ((200, b"[" * 60_000), COOKIE, "application"),
        ((200, b"{}"), COOKIE, "application"),
        ((200, b'{"id":7}'), COOKIE, "application"),
        (user(""), COOKIE, "application"),
        (user(True), COOKIE, "application"),
        (user(1.5), COOKIE, "application"),
        (user("u", expires_at="tomorrow"), COOKIE, "application"),
        (user("u", expires_at=NOW * 1000), COOKIE, "application"),
        (user("u", portfolios="all"), COOKIE, "application"),
        (OSError("refused"), COOKIE, "application"),
        (TimeoutError("slow"), COOKIE, "application"),
    ],
)
async def test_every_other_answer(answer: Answer, headers: dict[str, str], reason: str | None) -> None:
    limiter._written.clear()
    subject, _ = made(Asked(answer))
    with capture_logs() as lines:
        if reason is None:
            assert await subject.identify(headers) is None
        else:
            assert await refused(subject, headers) == reason
    assert [line["url"] for line in lines] == ([URL] if reason == "application" else [])
    assert "secret-" not in repr(lines)


async def test_a_new_cause_is_logged_at_once() -> None:
    limiter._written.clear()
    asked = Asked(OSError("refused"))
    subject, _ = made(asked)
    with capture_logs() as lines:
        for answer in (OSError("refused"), OSError("refused"), (500, b""), (500, b""), (200, b"[]")):
            asked.answer = answer
            assert await refused(subject, COOKIE) == "application"
    assert [line["error"].partition(";")[0] for line in lines] == [
        "refused",
        "the answer is HTTP status 500",
        "the answer is not a JSON object",
    ]


async def test_an_answer_counts_for_its_time_and_for_its_headers_only() -> None:
    asked = Asked(user("u"))
    subject, clock = made(asked)
    for headers in (COOKIE, BEARER, COOKIE | BEARER, {"cookie": "", **BEARER}, COOKIE):
        await subject.identify(headers)
    assert len(asked.seen) == 3
    clock.now = 9.9
    await subject.identify(COOKIE)
    assert len(asked.seen) == 3
    clock.now = 10.0
    await subject.identify(COOKIE)
    assert len(asked.seen) == 4
    subject.forget()
    await subject.identify(COOKIE)
    assert len(asked.seen) == 5
    assert "secret" not in repr(vars(subject))


async def test_one_value_cannot_pass_for_two() -> None:
    asked = Asked(user("u"))
    subject, _ = made(asked)
    await subject.identify({"cookie": "a", "authorization": "b"})
    await subject.identify({"cookie": "ab"})
    await subject.identify({"authorization": "ab"})
    assert len(asked.seen) == 3


@pytest.mark.parametrize(
    ("answer", "cache_ttl"), [(OSError("away"), 10.0), ((403, b""), 10.0), (user("u"), 0.0)]
)
async def test_what_is_not_kept(answer: Answer, cache_ttl: float) -> None:
    asked = Asked(answer)
    subject, _ = made(asked, cache_ttl=cache_ttl)
    for _ in range(2):
        if answer == user("u"):
            assert await subject.identify(COOKIE)
        else:
            await refused(subject)
    assert len(asked.seen) == 2
    assert subject.n_kept == 0


async def test_a_kept_user_expires() -> None:
    asked = Asked(user("u", expires_at=NOW + 1))
    clock = Clock()
    clock.now = NOW
    subject, _ = made(asked, clock=clock)
    assert await subject.identify(COOKIE)
    clock.now = NOW + 1
    assert await refused(subject) == "expired"
    assert len(asked.seen) == 1


@pytest.mark.parametrize(
    ("expires_in", "chance", "ends_in"),
    [(None, 0.0, 100), (None, 1.0, 75), (99.5, 0.0, 99.5), (200.0, 0.5, 87.5), (80.0, 1.0, 75)],
)
async def test_how_long_a_connection_may_live_by_an_answer(
    expires_in: float | None, chance: float, ends_in: float
) -> None:
    expires_at = None if expires_in is None else NOW + expires_in
    asked = Asked(user("u", expires_at=expires_at))
    clock = Clock()
    clock.now = NOW
    subject, _ = made(asked, session_ttl=100.0, clock=clock, chance=lambda: chance)
    identity = await subject.identify(COOKIE)
    assert identity is not None
    assert (identity.ends_at, identity.expires_at) == (NOW + ends_in, expires_at)
    assert identity.is_to_be_confirmed is (ends_in != expires_in)
    clock.now = NOW + 9
    again = await subject.identify(COOKIE)
    assert again is not None
    assert again.ends_at is not None
    assert again.ends_at - NOW == min(ends_in + 9, expires_in or ends_in + 9), (
        "an answer that is kept counts too"
    )
    assert len(asked.seen) == 1


async def test_who_asks_the_same_waits_for_the_same_answer() -> None:
    asked = Asked(user("u"))
    asked.gate.clear()
    subject, _ = made(asked)
    waiting = [asyncio.create_task(subject.identify(COOKIE)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    asked.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {
        identity.user_id for identity in found[1:] if not isinstance(identity, BaseException) and identity
    } == {"u"}
    assert len(asked.seen) == 1


async def test_questions_take_turns_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "MAX_WAITING", 100)
    monkeypatch.setattr(application, "MAX_KEPT", 50)
    asked = Asked(user("u"))
    asked.gate.clear()
    subject, _ = made(asked)
    waiting = [asyncio.create_task(subject.identify({"cookie": str(n)})) for n in range(101)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asked.seen) == application.MAX_ASKING
    asked.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(one, AuthError) for one in found) == 1
    assert (len(asked.seen), asked.most_at_once, subject.n_kept) == (100, application.MAX_ASKING, 50)


async def test_nobody_waits_for_longer_than_the_limit() -> None:
    asked = Asked(user("u"))
    asked.gate.clear()
    subject, _ = made(asked, time_limit=0.05)
    waiting = [subject.identify({"cookie": str(n)}) for n in range(application.MAX_ASKING + 5)]
    async with asyncio.timeout(30):
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert {one.reason for one in found if isinstance(one, AuthError)} == {"application"}
    asked.gate.set()
    assert await subject.identify(COOKIE)


async def test_the_end_leaves_nobody_waiting() -> None:
    asked = Asked(user("u"))
    asked.gate.clear()
    subject, _ = made(asked)
    waiting = asyncio.create_task(refused(subject))
    await asyncio.sleep(0)
    await subject.close()
    assert await waiting == "application"
    await subject.close()


@pytest.mark.parametrize(
    ("headers", "token", "expected"),
    [
        ({}, None, {}),
        ({"cookie": "", "host": "h"}, None, {}),
        (
            {"cookie": "a", "authorization": "Basic b", "host": "h"},
            None,
            {"cookie": "a", "authorization": "Basic b"},
        ),
        ({"cookie": "a"}, "t", {"cookie": "a", "authorization": "Bearer t"}),
        ({"authorization": "Bearer t"}, "t", {"authorization": "Bearer t"}),
    ],
)
def test_what_it_is_asked_with(headers: dict[str, str], token: str | None, expected: dict[str, str]) -> None:
    assert headers_for(headers, token) == expected
