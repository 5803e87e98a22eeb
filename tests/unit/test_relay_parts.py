"""The smaller parts of the relay: addresses, the messages beside envelopes, what was sent, who is there, delays."""

from __future__ import annotations

import random
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws.relay.address import AddressError, RedisAddress, parse_address
from fastws.relay.control import (
    MAX_SIZE,
    Announcement,
    ControlError,
    GapRequest,
    Kick,
    Message,
    UserAlert,
    ValuesRequest,
    decode,
    encode,
)
from fastws.relay.delays import LAST_SECONDS, Delays
from fastws.relay.interest import LINGER_SECONDS, ShardInterest
from fastws.relay.peers import PEER_SILENCE_SECONDS, Peers
from fastws.relay.ring import SentRing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# Addresses.


@pytest.mark.parametrize(
    ("text", "shown", "database"),
    [
        ("redis://10.0.0.5", "redis://10.0.0.5:6379", 0),
        ("redis://user:pass%40word@host:7000/3", "redis://host:7000", 3),
        ("rediss://:secret@[2001:db8::5]:6380/1?ssl_ca_certs=/x.pem", "rediss://[2001:db8::5]:6380", 1),
        ("redis://host?db=7", "redis://host:6379", 7),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock", 2),
    ],
)
def test_an_address(text: str, shown: str, database: int) -> None:
    assert parse_address(text) == RedisAddress(text, shown, database)


def test_sentinels() -> None:
    address = parse_address(
        "rediss+sentinel://user:secret@one,[::1]:5,three:26380/my%20master/4?sentinel_password=x%26y&ssl_cert_reqs=none"
    )
    assert address.sentinels == (("one", 26379), ("::1", 5), ("three", 26380))
    assert address.service == "my master"
    assert address.database == 4
    assert address.sentinel_password == "x&y"
    assert address.url == "rediss://user:secret@{}/4?ssl_cert_reqs=none"
    assert address.shown == "rediss+sentinel://one:26379,[::1]:5,three:26380/my%20master"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.5:6379",
        "http://host",
        "redis://",
        "redis://:secret@",
        "redis://host:secret",
        "redis://host/secret",
        "redis://host/99999",
        "redis+sentinel://secret1,secret2",
        "redis+sentinel:///secret",
        "redis+sentinel://host:secret/master",
        "redis://[secret",
    ],
)
def test_one_that_is_none_is_not_shown(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)


# Messages beside envelopes.


@pytest.mark.parametrize(
    "message",
    [
        Announcement(2**62, "host/1", [0, 5, 2**62], {"kis": "stale"}, {"active_connections": 7}),
        Kick(1, user_id="u"),
        UserAlert(1, "u", "A", "price_above", "100.50", "-1", "text", b'"a":1'),
        Announcement(1, "", []),
        ValuesRequest(7, [0, 1023]),
        GapRequest(7, 3, 1, 2**62),
    ],
)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "announcement", "origin": 0, "name": "", "positions": []},
        {"type": "announcement", "origin": 1, "name": "", "positions": [-1]},
        {"type": "announcement", "origin": 1, "name": "", "positions": [0] * 1025},
        {"type": "announcement", "origin": 1, "name": "x" * 301, "positions": []},
        {"type": "values", "origin": 1, "shards": [1024]},
        {"type": "announcement", "origin": 1, "name": "", "positions": [], "feeds": {"kis": "odd"}},
        {"type": "alert", "origin": 1, "user_key": "u", "threshold": "1e5"},
        {"type": "gap", "origin": 1, "shard": 1, "first": 0, "last": 1},
        {"type": "gap", "origin": 1, "shard": 1},
        {"type": "other"},
        [],
    ],
)
def test_one_with_other_members_is_refused(wrong: object) -> None:
    with pytest.raises(ControlError):
        decode(msgspec.msgpack.encode(wrong))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_anything_is_a_message_or_refused(data: bytes) -> None:
    with suppress(ControlError):
        assert decode(encode(decode(data))) == decode(data)


def test_a_long_one_is_not_looked_at() -> None:
    with pytest.raises(ControlError, match="too long"):
        decode(bytes(MAX_SIZE + 1))


# What was sent.


def test_the_ring_finds_what_covers_a_gap() -> None:
    ring = SentRing(2, 1000)
    ring.add(0, 1, 3, b"a" * 10)
    ring.add(1, 1, 1, b"x")
    ring.add(0, 4, 1, b"b")
    ring.add(0, 5, 2, b"c")
    assert ring.find(0, 1, 6) == [b"a" * 10, b"b", b"c"]
    assert ring.find(0, 3, 4) == [b"a" * 10, b"b"]
    assert ring.find(0, 5, 5) == [b"c"]
    assert ring.find(0, 6, 7) == []
    assert ring.find(0, 5, 4) == []
    assert ring.find(1, 1, 1) == [b"x"]
    assert ring.find(1, 2, 2) == []


def test_the_ring_lets_go_of_the_oldest_of_all_shards() -> None:
    ring = SentRing(2, 25)
    for position in range(1, 4):
        for shard in (0, 1):
            ring.add(shard, position, 1, bytes(10))
    assert (ring.size, len(ring)) == (20, 2)
    assert ring.find(0, 3, 3)
    assert ring.find(1, 3, 3)
    assert ring.find(0, 2, 3) == []
    ring.add(0, 4, 1, bytes(100))
    assert (ring.size, len(ring)) == (0, 0)


# Who is there, what is wanted, and when to try again.


def test_peers_are_lost_when_they_are_silent_and_are_not_excused() -> None:
    clock = Clock()
    peers = Peers(clock)
    one, two = peers.add(1, "one"), peers.add(2, "two")
    clock.now += PEER_SILENCE_SECONDS
    peers.hear(two)
    assert peers.lost() == []
    clock.now += 0.1
    assert peers.lost() == [one]
    # Whoever says anything is there, announced or not.
    peers.note_word(one.origin)
    assert peers.lost() == []
    clock.now += PEER_SILENCE_SECONDS + 0.1
    assert peers.lost() == [one, two]
    peers.excuse()
    assert peers.lost() == []
    peers.remove(one, is_missed=False)
    assert (list(peers), peers.get(1), len(peers)) == ([two], None, 1)


def test_a_shard_is_wanted_for_a_while_longer() -> None:
    clock = Clock()
    interest = ShardInterest(8, clock)
    assert interest.want([1, 2]) == [1, 2]
    clock.now += LINGER_SECONDS - 1
    assert interest.want([2, 3]) == [3]
    clock.now += 2
    assert interest.expired() == [1]
    assert interest.shards == {2, 3}
    assert interest.want([1]) == [1]


def test_delays_grow_to_their_most_and_begin_anew() -> None:
    delays = Delays(random.Random(1))
    found = [delays.next_delay() for _ in range(2000)]
    assert 0.02 <= found[0] <= 0.05
    assert max(found) <= LAST_SECONDS
    assert min(found[8:]) >= LAST_SECONDS / 2
    assert len(set(found[8:])) > 1000
    delays.reset()
    assert delays.next_delay() <= 0.05
