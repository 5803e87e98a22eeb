"""When the client connects again, by which code and with which chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.client.backoff import Backoff, Reconnection
from fastws.client.errors import UsageError
from fastws.errors import CloseCode


def most(backoff: Backoff) -> Reconnection:
    return Reconnection(backoff, lambda: 1.0)


def test_waits_double_up_to_the_most_and_begin_again_after_a_good_connection() -> None:
    reconnection = most(Backoff(0.5, 4))
    assert [reconnection.delay(0) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]
    reconnection.note_live(100)
    assert reconnection.delay(101) == 4
    reconnection.note_live(200)
    assert reconnection.delay(206) == 0.5


def test_the_server_says_when() -> None:
    reconnection = most(Backoff())
    reconnection.note_shutdown(4.2)
    assert reconnection.is_announced
    assert reconnection.delay(0, 1012) == 4.2
    assert not reconnection.is_announced
    assert reconnection.delay(0, 1012) == 0.5
    # It did not end after all.
    reconnection.note_shutdown(9)
    reconnection.note_live(1)
    assert reconnection.delay(1) == 1


def test_a_server_is_not_believed_for_ever() -> None:
    reconnection = most(Backoff(0.5, 4))
    waits = []
    for now in range(5):
        reconnection.note_live(now)
        # As one that is stopped again as soon as it is started, or a proxy before one that is stopping.
        reconnection.note_shutdown(0)
        waits.append(reconnection.delay(now, 1012))
    assert waits == [0, 0.5, 1, 2, 4]
    reconnection.note_live(10)
    reconnection.note_shutdown(9)
    assert reconnection.delay(11) == 9
    # Nobody waits for a year.
    reconnection.note_live(20)
    reconnection.note_shutdown(31e6)
    assert reconnection.delay(26) == 0.5


def test_abuse_waits_longer_at_once() -> None:
    assert most(Backoff()).delay(0, CloseCode.RATE_ABUSE) == 4


@pytest.mark.parametrize("code", CloseCode)
def test_every_code_of_the_server(code: CloseCode) -> None:
    verdict = Reconnection(Backoff()).verdict(code)
    assert (verdict == "again") == code.should_reconnect
    assert (verdict == "token") == (code in (CloseCode.TOKEN_INVALID, CloseCode.FORBIDDEN))


@given(st.floats(0.001, 100), st.floats(1, 1000), st.lists(st.floats(0, 1, exclude_max=True), min_size=1))
def test_never_beyond_the_most(first: float, factor: float, chances: list[float]) -> None:
    drawn = iter(chances)
    reconnection = Reconnection(Backoff(first, first * factor), lambda: next(drawn))
    for n, chance in enumerate(chances):
        assert reconnection.delay(0) == pytest.approx(min(first * factor, first * 2.0**n) * chance)


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (2, 1)])
def test_what_cannot_be(arguments: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="first <= most"):
        Backoff(*arguments)
