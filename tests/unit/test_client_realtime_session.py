"""The session of the realtime client with answers that no server should give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastws.client.backoff import Backoff, Reconnection
from fastws.client.messages import Restored, Unreadable
from fastws.client.realtime_messages import AssetUpdate, Message, decode
from fastws.client.realtime_session import Outcome, RealtimeSession

TIME = "2025-11-11T09:30:00.123Z"
NO_TIME = "2026-99-99T00:00:00.000Z"


def tell(session: RealtimeSession, **message: Any) -> list[Message]:
    return session.receive(json.dumps({"timestamp": TIME, "data": {}, **message}).encode(), 0.0)


@pytest.fixture
def session() -> RealtimeSession:
    found = RealtimeSession(Reconnection(Backoff()))
    greeting = {"status": "connected", "connection_id": "x", "authenticated": False, "user_id": None}
    assert tell(found, type="connection", data=greeting) == []
    assert found.is_live
    return found


@pytest.mark.parametrize(
    "message",
    [
        {"type": "pong", "timestamp": NO_TIME},
        {"type": "subscribed"},
        {"type": "unsubscribed"},
        {"type": "asset_update", "data": 5},
        {"type": "server_shutdown", "data": {"reconnect_after_ms": 10**400}},
        {"type": "asset_update", "data": {"symbol": "A", "price": 1}, "timestamp": "2025-11-11T09:30:00"},
    ],
)
def test_what_cannot_be_is_unreadable(session: RealtimeSession, message: dict[str, Any]) -> None:
    (told,) = tell(session, **message)
    assert isinstance(told, Unreadable)
    assert session.held == {}


def test_only_the_answer_of_a_request_answers_it(session: RealtimeSession) -> None:
    (number,) = session.subscribe("asset", ["A"])
    for wrong in (
        {"type": "pong"},
        {"type": "unsubscribed", "data": {"symbol": "A"}},
        {"type": "subscribed", "data": {"portfolio_id": 1}},
    ):
        (told,) = tell(session, id=number, **wrong)
        assert isinstance(told, Unreadable)
    assert session.answers == []
    assert tell(session, type="subscribed", data={"symbol": "A"}, id=number) == []
    assert session.answers == [(number, Outcome(["A"], [], None))]


@pytest.mark.parametrize("rejected", ["abc", None, [5], [{"target": "A"}]])
def test_an_error_whose_details_make_no_sense_is_an_error(session: RealtimeSession, rejected: object) -> None:
    (number,) = session.subscribe("asset", ["A"])
    error = {"code": "SUBSCRIPTION_FAILED", "message": "no", "details": {"rejected": rejected}}
    assert tell(session, type="error", data=error, id=number) == []
    ((_, outcome),) = session.answers
    assert [(item.target, item.reason) for item in outcome.rejected] == [("A", "no")]


def test_a_value_of_before_the_start_of_the_server_is_stale(session: RealtimeSession) -> None:
    tell(session, type="asset_update", data={"symbol": "A", "price": 1, "stale": True})
    assert session.ages.is_stale("A")
    tell(session, type="asset_update", data={"symbol": "A", "price": 2})
    assert not session.ages.is_stale("A")


def test_a_second_greeting_of_a_connection_changes_nothing(session: RealtimeSession) -> None:
    session.subscribe("asset", ["A"])
    session.outgoing.clear()
    data = {"status": "connected", "connection_id": "y", "authenticated": True, "user_id": 5}
    (told,) = tell(session, type="connection", data=data)
    assert isinstance(told, Unreadable)
    assert (session.outgoing, session.user_id) == ([], None)
    session.connection_lost()
    (told,) = tell(session, type="connection", data=data)
    assert isinstance(told, Restored)
    assert (len(session.outgoing), session.user_id) == (1, 5)


def test_times_are_in_utc() -> None:
    text = {
        "type": "asset_update",
        "data": {"symbol": "A", "price": 1},
        "timestamp": "2025-11-11T18:30:00+09:00",
    }
    told = decode(json.dumps(text).encode())
    assert isinstance(told, AssetUpdate)
    assert told.timestamp.isoformat() == "2025-11-11T09:30:00+00:00"
