"""What is known of the sessions of other instances: whose they are, for how long, and how much of them."""

from __future__ import annotations

import sys

import msgspec
import pytest

from fastws.relay.control import ControlError, decode, encode
from fastws.relay.peer_sessions import Left, PeerSession, PeerSessions
from fastws.relay.session_messages import (
    KEY_SIZE,
    MAX_MOVES,
    Group,
    SessionAnswer,
    SessionChanges,
    SessionLeft,
    SessionState,
    key_of,
    packed,
    read_groups,
    read_states,
)


def session(
    key: str, origin: int = 1, moves: int = 0, expires_at: float | None = None, user: str | None = "kim"
) -> PeerSession:
    return PeerSession(key_of(key), origin, moves, user, False, expires_at, b"\x90", 0)


def test_of_two_holders_one_has_it() -> None:
    known = PeerSessions(1 << 20)
    assert known.put(session("a", origin=1))
    assert known.put(session("a", origin=2, moves=1)), "it has moved"
    assert not known.put(session("a", origin=3)), "that is older"
    assert known.put(session("a", origin=3, moves=1)), "the higher origin"
    assert not known.put(session("a", origin=2, moves=1))
    assert known.put(session("a", origin=3, moves=0)), "who has it says how it is"
    known.remove(2, key_of("a"))
    assert len(known) == 1
    known.remove(3, key_of("a"))
    assert (len(known), known.size) == (0, 0)


def test_who_is_gone_leaves_its_sessions_for_a_while() -> None:
    known = PeerSessions(1 << 20)
    known.put(session("open"))
    known.put(session("ended", expires_at=103.0, user=None))
    known.put(session("other's", origin=2, user="lee"))
    assert not known.has_orphan_of("kim")
    known.lose(1, 100.0, 10.0, 7)
    assert known.has_orphan_of("kim")
    assert not known.has_orphan_of("lee")
    assert known.get(key_of("ended"), 102.9) is not None
    assert known.get(key_of("ended"), 103.0) is None
    known.expire(109.9)
    assert len(known) == 2
    known.expire(110.0)
    assert [each.user_key for each in known] == ["lee"]
    assert not known.has_orphan_of("kim")


def test_what_is_not_named_any_more_is_not_there() -> None:
    known = PeerSessions(1 << 20)
    for key in ("a", "b"):
        known.put(session(key))
    known.put(session("c", origin=2))
    known.begin_all(1)
    known.put(session("b"))
    known.put(session("d"))
    known.end_all(1)
    assert {each.key for each in known} == {key_of(key) for key in "bcd"}


def test_only_so_much_is_known() -> None:
    one = session("a")
    known = PeerSessions(10 * one.size)
    for number in range(25):
        known.put(session(f"{number}"))
    assert (len(known), known.n_dropped) == (10, 15)
    assert known.size <= known.limit
    assert known.get(key_of("0"), 0.0) is None
    assert known.get(key_of("24"), 0.0) is not None


def test_states_travel_without_ids() -> None:
    groups = [Group("stock", False, 0.0, 3, ["A", "더"]), Group("market", True, 5.0, 1, ["KOSPI"])]
    state = SessionState(key_of("secret"), 2, None, True, 5000, msgspec.Raw(msgspec.msgpack.encode(groups)))
    data = encode(SessionChanges(7, 1, packed([state])))
    assert b"secret" not in data
    found = decode(data)
    assert isinstance(found, SessionChanges)
    ((read,), _) = read_states(found.states)
    assert read_groups(bytes(read.subscriptions)) == groups
    assert len(read.key) == KEY_SIZE
    with pytest.raises(ControlError):
        decode(data.replace(key_of("secret"), b""))
    with pytest.raises(msgspec.DecodeError):
        read_groups(b"\x91\x01")


def test_what_was_left_is_the_last_word_unless_the_session_has_moved() -> None:
    known = PeerSessions(1 << 20)
    known.put(session("a"))
    left = Left("epoch", [], SessionLeft(key_of("a"), 0, 0, msgspec.Raw(b"\xc0")))
    known.leave(key_of("a"), 1, left, 100.0, 10.0, 7)
    known.begin_all(1)
    assert known.put(session("a")), "it is with that one still"
    known.end_all(1)
    (found,) = known
    assert (found.left, found.lost_at) == (left, 7)
    known.put(session("a", moves=1))
    (found,) = known
    assert (found.left, found.lost_at) == (None, None)
    assert not known.has_orphan_of("kim")
    assert known.size == found.size


def test_who_is_heard_of_again_is_not_among_the_oldest() -> None:
    known = PeerSessions(3 * session("a").size)
    for key in "abcad":
        known.put(session(key))
    assert {each.key for each in known} == {key_of(key) for key in "cad"}


def test_instances_that_came_and_went_take_no_room() -> None:
    known = PeerSessions(1 << 20)
    known.put(session("old"))
    known.begin_all(1)
    known.put(session("a"))
    known.lose(1, 100.0, 10.0, 7)
    known.begin_all(1)
    known.put(session("b"))
    known.end_all(1)
    assert {each.key for each in known} == {key_of("b")}, "it does not name the others any more"
    for origin in range(2, 10_000):
        known.begin_all(origin)
        known.end_all(origin)
        known.lose(origin, 100.0, 10.0, 7)
    assert size_of_tables(known) < 10_000


def size_of_tables(known: PeerSessions) -> int:
    """Bytes of the tables."""
    return sum(sys.getsizeof(table) for table in vars(known).values())


@pytest.mark.parametrize("moves", [MAX_MOVES + 1, 2**62, -1])
def test_nothing_moves_so_often_that_nobody_could_say_it(moves: int) -> None:
    state = SessionState(key_of("a"), moves, None, False, 0, msgspec.Raw(b"\x90"))
    found = decode(encode(SessionChanges(7, 1, packed([state]))))
    assert isinstance(found, SessionChanges)
    good, errors = read_states(found.states)
    assert (good, len(errors)) == ([], 1)
    with pytest.raises(ControlError):
        decode(encode(SessionAnswer(7, 1, "given", moves)))
