"""Sessions that wait to be restored: how long, how many, whose."""

from __future__ import annotations

import time

from fastws.sessions import Session, Sessions


def session(session_id: str, user_key: str | None = "kim", saved_at: float = 0.0) -> Session:
    return Session(session_id, user_key, {}, False, 1, "epoch", saved_at)


def test_a_session_is_given_back_once_and_to_its_user_only() -> None:
    sessions = Sessions(ttl=10)
    sessions.save(session("1"))
    assert sessions.take("1", "lee", 1) == sessions.take("1", None, 1) == "not the user's"
    assert sessions.take("1", "kim", 1) == session("1")
    assert sessions.take("1", "kim", 1) == "expired or unknown"


def test_it_ends_with_its_time_also_when_it_was_given_back_in_vain() -> None:
    sessions = Sessions(ttl=10)
    sessions.save(session("1"))
    sessions.save(session("2", saved_at=5))
    taken = sessions.take("1", "kim", 8)
    assert isinstance(taken, Session)
    sessions.save(taken)
    assert sessions.take("1", "kim", 10) == "expired or unknown"
    assert isinstance(sessions.take("2", "kim", 14.9), Session)


def test_users_of_kept_sessions_are_known() -> None:
    sessions = Sessions(ttl=10, limit=3)
    sessions.save(session("1"))
    sessions.save(session("2"))
    sessions.save(session("2"))
    sessions.save(session("3", None))
    assert sessions.has_user("kim")
    assert not sessions.has_user("lee")
    assert isinstance(sessions.take("1", "kim", 0), Session)
    assert sessions.has_user("kim")
    sessions.save(session("4", "lee"))
    sessions.save(session("5", "lee", saved_at=1))  # one over the limit
    assert not sessions.has_user("kim")
    assert sessions.has_user("lee")
    sessions.expire(10)
    assert sessions.has_user("lee")
    sessions.expire(11)
    assert not sessions.has_user("lee")
    assert len(sessions) == 0


def test_one_owner_pushes_out_only_its_own() -> None:
    sessions = Sessions(ttl=10, limit=2000)
    sessions.save(session("kim's"))
    sessions.save(Session("other's", None, {}, False, 1, "epoch", 0.0, address_key="other"))
    for i in range(2500):
        sessions.save(Session(f"{i}", None, {}, False, 1, "epoch", 1.0, address_key="flood"))
    assert len(sessions) == 2 + 200
    for i in range(300):
        sessions.save(session(f"k{i}", "flood", 1.0))
    assert len(sessions) == 2 + 200 + 200
    assert isinstance(sessions.take("other's", None, 1), Session)
    assert isinstance(sessions.take("kim's", "kim", 1), Session)
    assert sessions.take("2299", None, 1) == sessions.take("k99", "flood", 1) == "expired or unknown"
    assert isinstance(sessions.take("2300", None, 1), Session)
    assert isinstance(sessions.take("k100", "flood", 1), Session)


def test_very_many_that_end_at_once_go_step_by_step() -> None:
    n = 100_000
    sessions = Sessions(ttl=10, limit=n)
    for i in range(n):
        sessions.save(session(str(i), f"user {i % 50}"))
    began = time.process_time()
    sessions.expire(10)
    assert len(sessions) == n - 1000
    assert sessions.take(str(n - 1), f"user {(n - 1) % 50}", 10) == "expired or unknown"
    while len(sessions):
        sessions.expire(10)
    # With a search for the first one each time it takes several seconds.
    assert time.process_time() - began < 1
