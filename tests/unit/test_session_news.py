"""What instances hear of each other's sessions."""

from __future__ import annotations

import msgspec

from fastws.relay.control import encode
from fastws.relay.session_messages import (
    NO_SUBSCRIPTIONS,
    Group,
    SessionChanges,
    SessionLeft,
    SessionsLeft,
    SessionsPart,
    SessionState,
    key_of,
    packed,
)
from tests.relays import until
from tests.unit.session_sites import Site, known, sites

NONSENSE = msgspec.Raw(b"\x93\x01\x02\x03")
CHANNEL = "{test:0}:sessions"


def state(session_id: str) -> SessionState:
    groups = [Group("stock", False, 0.0, 3, ["A"])]
    return SessionState(key_of(session_id), 0, "kim", False, -1, msgspec.Raw(msgspec.msgpack.encode(groups)))


def next_number(site: Site) -> int:
    assert site.relay.sessions is not None
    site.relay.sessions.news.number += 1
    return site.relay.sessions.news.number


async def test_a_session_that_makes_no_sense_does_not_cost_the_others_of_its_message() -> None:
    async with sites() as (_, _, (one, two)):
        good = packed([state("s"), state("t")])
        changes = SessionChanges(one.relay.origin, next_number(one), [good[0], NONSENSE, good[1]])
        one.link.send(CHANNEL, encode(changes))
        await known(two, 2)
        assert two.relay.counts.refused == 1
        # And of what an instance leaves that goes.
        left = SessionLeft(key_of("t"), 0, 0, msgspec.Raw(NO_SUBSCRIPTIONS))
        message = SessionsLeft(one.relay.origin, "epoch", [], [NONSENSE, *packed([left])])
        one.link.send(CHANNEL, encode(message))
        await until(lambda: two.relay.counts.refused == 2)
        assert [each.key for each in two.claims.sessions if each.is_orphan] == [key_of("t")]


async def test_all_sessions_are_known_though_one_of_them_makes_no_sense() -> None:
    """Else who has missed something would ask for all of them again and again."""
    async with sites() as (_, _, (one, two)):
        number = next_number(one)
        one.relay.meetings.announce()  # two has missed it, and asks
        await until(lambda: not two.claims.news.is_complete)
        assert one.relay.sessions is not None
        one.relay.sessions.news.stop_naming()
        part = SessionsPart(one.relay.origin, number, 0, True, [NONSENSE, *packed([state("s")])])
        one.link.send(f"{{test:0}}:to:{two.relay.origin:016x}", encode(part))
        await known(two)
        assert two.claims.news.is_complete
