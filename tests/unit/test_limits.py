"""Limits of connections: the buckets against a plain model, the counts through every order of events."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.limits import Buckets, Excess, Limits
from fastws.server.common_counts import CommonCounts

SECOND = 1_000_000_000


# Buckets.


@given(
    # Rates whose interval is a whole number of nanoseconds.
    st.sampled_from([1, 2, 4, 5, 8, 10, 100]),
    st.integers(0, 10**18),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2 * SECOND) | st.just(0)), max_size=60),
)
def test_a_bucket_is_one_of_tokens(rate: int, start: int, events: list[tuple[str, int]]) -> None:
    buckets = Buckets(rate)
    model: dict[str, tuple[Fraction, int]] = {}
    now = start
    for key, pause in events:
        now += pause
        tokens, at = model.get(key, (Fraction(rate), now))
        tokens = min(Fraction(rate), tokens + Fraction(rate * (now - at), SECOND))
        waited = buckets.take(key, now)
        if tokens >= 1:
            assert waited == 0
            tokens -= 1
        else:
            assert math.isclose(waited, (1 - tokens) / rate, abs_tol=1e-9)
            assert buckets.wait(key, now + math.ceil((1 - tokens) / rate * SECOND)) == 0
        model[key] = (tokens, now)


def test_who_hammers_gets_its_rate_all_the_same() -> None:
    buckets = Buckets(10)
    taken = sum(buckets.take("a", now) == 0 for now in range(0, 5 * SECOND, SECOND // 1000))
    assert taken == 10 + 49


def test_full_buckets_are_forgotten() -> None:
    buckets = Buckets(2)
    for number in range(1000):
        assert buckets.take(str(number), number * SECOND // 100) == 0
        # Those of the last second or two.
        assert len(buckets) <= 201
    buckets.take("last", 20 * SECOND)
    assert len(buckets) == 1


def test_millions_of_keys_are_bounded() -> None:
    buckets = Buckets(1, max_keys=100)
    for number in range(10_000):
        assert buckets.take(str(number), SECOND + number) == 0
        assert len(buckets) <= 200
    assert buckets.take("9999", SECOND + 10_000) > 0


def test_a_refused_attempt_is_not_kept() -> None:
    buckets = Buckets(1)
    buckets.take("a", 0)
    for now in range(1000):
        assert buckets.take("a", now) > 0
        assert buckets.wait("b", now) == 0
    assert len(buckets) == 1


def test_no_rate_is_no_limit_and_keeps_nothing() -> None:
    buckets = Buckets(0)
    assert all(buckets.take("a", 0) == 0 for _ in range(1000))
    assert len(buckets) == 0


# Limits.


def test_an_address_has_so_many_connections() -> None:
    limits = Limits(connections_per_ip=2)
    for _ in range(3):
        limits.arrive("a")
    assert limits.admit("a") is None
    assert limits.admit("a") is None
    assert limits.admit("a") == Excess("connections_per_ip", 2, 2)
    limits.arrive("b")
    assert limits.admit("b") is None
    limits.depart("a", is_admitted=True)
    assert limits.admit("a") is None
    assert limits.refusals["connections_per_ip"] == 1


def test_there_are_so_many_connections_in_all() -> None:
    limits = Limits(connection_limit=2)
    for key in ("a", "c", "b"):
        limits.arrive(key)
    assert limits.admit("a") is None
    assert limits.admit("c") is None
    assert limits.admit("b") == Excess("connection_limit", 2, 2)
    assert "2 connections" in Excess("connection_limit", 2, 2).message


def test_the_handshake_rate_says_when_to_come_again() -> None:
    limits = Limits(handshake_rate=2)
    assert [limits.handshake("a", 5) for _ in range(3)] == [None, None, Excess("handshake_rate", 2, 2, 1)]
    assert limits.handshake("b", 5) is None
    assert limits.handshake("a", 5 + SECOND // 2) is None


def test_bad_tokens_have_buckets_of_their_own() -> None:
    limits = Limits(handshake_rate=2)
    for _ in range(3):
        limits.note_bad_token("a", 0)
    assert limits.token_wait("a", 0) == 1
    assert limits.token_wait("b", 0) == 0
    assert limits.handshake("a", 0) is None


@pytest.mark.parametrize("setting", ["connection_limit", "connections_per_ip"])
@pytest.mark.parametrize(("limit", "n_spare"), [(1, 8), (50, 8), (200, 20)])
def test_far_over_a_limit_no_handshake_is_granted(setting: str, limit: int, n_spare: int) -> None:
    limits = Limits(**{setting: limit})
    for _ in range(limit):
        limits.arrive("a")
        assert limits.admit("a") is None
    for _ in range(n_spare):
        assert limits.handshake("a", 0) is None
        limits.arrive("a")
        excess = limits.admit("a")
        assert excess is not None
        assert excess.setting == setting
    assert limits.handshake("a", 0) == Excess(setting, limit, limit, 5)
    limits.depart("a", is_admitted=False)
    assert limits.handshake("a", 0) is None


def test_many_may_wait_to_be_known_when_there_is_room_for_them() -> None:
    limits = Limits(connection_limit=1000)
    for _ in range(1100):
        assert limits.handshake("a", 0) is None
        limits.arrive("a")
    assert limits.handshake("a", 0) is not None


def test_one_that_gives_way_makes_room_for_its_successor() -> None:
    limits = Limits(connection_limit=2, connections_per_ip=1)
    limits.arrive("a")
    limits.arrive("b")
    assert limits.admit("a") is None
    assert limits.admit("b") is None
    limits.arrive("a")
    # Somewhere else it frees a place in all, but none at this address.
    assert limits.admit("a", n_leaving=1) == Excess("connections_per_ip", 1, 1)
    assert limits.admit("a", n_leaving=1, n_leaving_of_key=1) is None
    limits.dismiss("a")
    assert (limits.n_admitted, limits.n_guests) == (2, 1)
    limits.depart("a", is_admitted=False)
    assert (limits.n_admitted, limits.n_guests) == (2, 0)


def test_limits_can_change_while_connections_are_there() -> None:
    limits = Limits()
    for _ in range(5):
        limits.arrive("a")
        assert limits.admit("a") is None
    limits.update(connection_limit=0, connections_per_ip=3, handshake_rate=1)
    limits.arrive("a")
    assert limits.admit("a") == Excess("connections_per_ip", 3, 5)
    assert limits.handshake("a", 0) is None
    assert limits.handshake("a", 0) == Excess("handshake_rate", 1, 1, 1)
    limits.update(connection_limit=0, connections_per_ip=0, handshake_rate=0)
    assert limits.admit("a") is None
    assert limits.handshake("a", 0) is None


@given(
    st.integers(0, 4),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", "c"]), st.integers(0, 99)), max_size=80),
)
def test_the_counts_are_right_in_every_order_and_return_to_zero(
    connection_limit: int, connections_per_ip: int, steps: list[tuple[int, str, int]]
) -> None:
    limits = Limits(connection_limit=connection_limit, connections_per_ip=connections_per_ip)
    guests: list[str] = []
    admitted: list[str] = []
    for step, key, choice in steps:
        if step == 0:
            limits.arrive(key)
            guests.append(key)
        elif step == 1 and guests:
            chosen = guests[choice % len(guests)]
            is_full = connection_limit and len(admitted) >= connection_limit
            is_full_for_key = connections_per_ip and admitted.count(chosen) >= connections_per_ip
            excess = limits.admit(chosen)
            assert (excess is not None) == bool(is_full or is_full_for_key)
            if excess is None:
                guests.remove(chosen)
                admitted.append(chosen)
        elif step == 2 and admitted:
            chosen = admitted.pop(choice % len(admitted))
            limits.dismiss(chosen)
            guests.append(chosen)
        elif step == 3 and guests + admitted:
            index = choice % len(guests + admitted)
            is_admitted = index >= len(guests)
            chosen = admitted.pop(index - len(guests)) if is_admitted else guests.pop(index)
            limits.depart(chosen, is_admitted=is_admitted)
        assert (limits.n_guests, limits.n_admitted) == (len(guests), len(admitted))
        assert limits.n_addresses == len(set(admitted))
    for key in guests:
        limits.depart(key, is_admitted=False)
    for key in admitted:
        limits.depart(key, is_admitted=True)
    assert (limits.n_guests, limits.n_admitted, limits.n_addresses) == (0, 0, 0)
    assert not limits._guests_by_key


def test_connections_of_several_processes_are_counted_together() -> None:
    counts = CommonCounts(3)
    one, two = (
        Limits(connection_limit=20, connections_per_ip=3, elsewhere=counts.of_worker(number))
        for number in (1, 2)
    )
    third = counts.of_worker(3)
    for limits in (one, two, one):
        assert limits.handshake("a", 0) is None
        limits.arrive("a")
        assert limits.admit("a") is None
    two.arrive("a")
    assert two.admit("a") == Excess("connections_per_ip", 3, 3)
    # One of those that are here makes room for it.
    one.arrive("a")
    assert one.admit("a", n_leaving=1, n_leaving_of_key=1) is None
    one.depart("a", is_admitted=True)
    assert third.of_key("a") == third.n_connections == 3
    third.add("b", 17)
    one.arrive("c")
    assert one.admit("c") == Excess("connection_limit", 20, 20)
    third.add("b", 100)
    assert two.handshake("c", 0) == Excess("connection_limit", 20, 120, 5)
    assert two.handshake("b", 0) == Excess("connection_limit", 20, 120, 5)
    # A process that has ended has none.
    counts.clear(3)
    assert one.admit("c") is None
    counts.clear(1)
    assert third.n_connections == third.of_key("a") == 1


def test_addresses_are_told_apart() -> None:
    counts = CommonCounts(2)
    one, two = counts.of_worker(1), counts.of_worker(2)
    addresses = {f"10.0.{i >> 8}.{i & 255}": 1 + i % 3 for i in range(3000)}
    for address, n in addresses.items():
        one.add(address, n)
    assert {address: two.of_key(address) for address in addresses} == addresses
    assert two.n_connections == sum(addresses.values())
    assert one.n_connections == one.of_key("10.0.0.1") == 0
    for address, n in addresses.items():
        one.add(address, -n)
    assert not any(two.of_key(address) for address in addresses)
