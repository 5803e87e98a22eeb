"""Kept messages: which ones are there, in which order, and that they are bounded."""

from __future__ import annotations

import time
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from fastws.mailboxes import Kept, Mailboxes


def kept(sequence: int) -> Kept:
    return Kept(sequence, 1000 + sequence, f"payload {sequence}")


def test_messages_are_kept_by_user_in_order_and_may_be_looked_at_again() -> None:
    boxes = Mailboxes(ttl=10, limit_per_user=5)
    for sequence, user in enumerate("abaab"):
        boxes.keep(user, kept(sequence), now=0)
    for _ in range(2):
        assert boxes.of("a", 9.9) == [kept(0), kept(2), kept(3)]
        assert boxes.of("b", 9.9) == [kept(1), kept(4)]
    assert boxes.of("c", 9.9) == []
    assert len(boxes) == 5
    assert boxes.of("a", 10) == []
    assert len(boxes) == 0


def test_the_oldest_go_first() -> None:
    boxes = Mailboxes(ttl=10, limit_per_user=2, limit=3)
    for sequence in range(4):
        boxes.keep("a", kept(sequence), now=0)
    assert boxes.of("a", 0) == [kept(2), kept(3)]
    for sequence in (4, 5):
        boxes.keep("b", kept(sequence), now=0)
    assert boxes.of("a", 0) == [kept(3)]
    assert boxes.of("b", 0) == [kept(4), kept(5)]


def test_none_at_all_are_kept_where_none_are_wanted() -> None:
    boxes = Mailboxes(ttl=10, limit_per_user=0)
    boxes.keep("a", kept(1), now=0)
    assert len(boxes) == 0
    assert boxes.of("a", 0) == []


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=60),
    st.integers(0, 4),
    st.integers(1, 8),
)
def test_it_is_what_a_list_of_all_messages_tells(
    steps: list[tuple[str, int]], limit_per_user: int, limit: int
) -> None:
    """Against a model: everything in one list, from which the limits take away."""
    boxes = Mailboxes(ttl=10, limit_per_user=limit_per_user, limit=limit)
    model: deque[tuple[str, int, int]] = deque()
    now = 0
    for sequence, (user, pause) in enumerate(steps):
        now += pause
        boxes.keep(user, kept(sequence), now)
        while model and now - model[0][2] >= 10:
            model.popleft()
        model.append((user, sequence, now))
        mine = [item for item in model if item[0] == user]
        for item in mine[: max(0, len(mine) - limit_per_user)]:
            model.remove(item)
        while len(model) > limit:
            model.popleft()
        assert len(boxes) == len(model)
        for each in "abc":
            assert boxes.of(each, now) == [kept(s) for u, s, _ in model if u == each]


def test_what_nobody_has_heard_may_be_taken_out() -> None:
    boxes = Mailboxes(ttl=10, limit_per_user=3)
    for sequence, user in enumerate("aabaa"):
        boxes.keep(user, kept(sequence), now=0, is_told=sequence == 3)
    boxes.note_told(1)
    assert boxes.take_untold("a", 0) == [kept(4)]  # 0 was one too many
    assert boxes.take_untold("a", 0) == []
    assert boxes.of("a", 0) == [kept(1), kept(3)]
    assert boxes.take_untold("b", 10) == []
    assert len(boxes) == 0


def test_very_many_that_end_at_once_go_step_by_step() -> None:
    n = 100_000
    boxes = Mailboxes(ttl=10, limit_per_user=100, limit=n)
    for sequence in range(n):
        boxes.keep(f"user {sequence % 5000}", kept(sequence), now=0)
    began = time.process_time()
    boxes.expire(10)
    assert len(boxes) == n - 1000
    assert boxes.of("user 4999", 10) == []
    while len(boxes):
        boxes.expire(10)
    # With a search for the first one each time it takes several seconds.
    assert time.process_time() - began < 1


def test_what_is_entrusted_to_somebody_is_told_by_nobody_else() -> None:
    boxes = Mailboxes(ttl=10, limit_per_user=3)
    for number in range(1, 4):
        boxes.keep("kim", kept(number), 0.0, is_told=number == 2)
        boxes.entrust(number)
    assert boxes.take_untold("kim", 0.0) == []
    assert boxes.of("kim", 0.0) == [kept(1), kept(2), kept(3)]
    boxes.note_told(1)
    for number in range(1, 5):
        boxes.take_back(number)
    assert boxes.take_untold("kim", 0.0) == [kept(3)]
