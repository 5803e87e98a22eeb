"""Sessions that wait to be restored: how long, how many, whose."""

from __future__ import annotations

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
