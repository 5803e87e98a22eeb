"""What is remembered for a while: how long, how much, and what goes first."""

from __future__ import annotations

from fastws.relay.expiring import Expiring


def test_a_value_is_over_after_its_time() -> None:
    known: Expiring[str, int] = Expiring(seconds=10, limit=100)
    assert known.put("a", 1, 1, 0.0) == known.put("b", 2, 1, 5.0) == []
    assert (known.get("a", 9.9), known.get("a", 10.0), known.get("b", 10.0)) == (1, None, 2)
    assert known.expire(10.0) == [1]
    assert (len(known), known.size) == (1, 1)
    assert (known.pop("b", 14.9), known.pop("b", 14.9), known.size) == (2, None, 0)


def test_one_that_is_put_again_lasts_from_then_on() -> None:
    known: Expiring[str, int] = Expiring(seconds=10, limit=100)
    known.put("a", 1, 3, 0.0)
    known.put("b", 2, 1, 1.0)
    known.put("a", 3, 2, 9.0)
    assert known.size == 3
    assert known.expire(11.0) == [2]
    assert known.get("a", 18.9) == 3
    assert known.pop("a", 19.0) is None
    assert known.size == 0


def test_of_too_much_the_oldest_go() -> None:
    known: Expiring[int, int] = Expiring(seconds=10, limit=5)
    gone = [each for number in range(5) for each in known.put(number, number, 2, float(number))]
    assert gone == [0, 1, 2]
    assert [number for number in range(5) if known.get(number, 4.0) is not None] == [3, 4]
    assert known.put(9, 9, 6, 5.0) == [3, 4, 9]
    assert known.size == len(known) == 0
