"""Sessions of instances that are gone, where a client comes to one that has joined since."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fastws.dialects.clients import Arrival
from fastws.relay.control import decode, encode
from fastws.relay.session_messages import SessionKept
from fastws.sessions import Session
from tests.relays import until
from tests.unit.session_sites import Asker, Clock, Site, Wire, known, pass_time, settle, sites


async def join(wire: Wire, clock: Clock, others: list[Site]) -> Site:
    """One that joins when others are there already; the test stops it with :func:`leave`."""
    new = Site(wire, clock)
    others = [site for site in others if site.link in wire.links]
    await until(lambda: all(len(site.relay.peers) == len(others) for site in (*others, new)))
    await until(lambda: new.claims.news.is_complete)
    clock.now += 0.2
    return new


async def found(asker: Asker, clock: Clock, *all_of_them: Site) -> Session | str | None:
    """What becomes of a claim, in time."""
    for _ in range(60):
        if asker.found is not None:
            break
        await pass_time(clock, 0.1, *all_of_them)
        # What is said and listened to on the way takes time of the machine.
        await asyncio.sleep(0.02)
    return asker.found


@pytest.mark.parametrize("stops", [True, False])
async def test_who_joins_gets_what_others_keep(stops: bool) -> None:
    async with sites(3) as (wire, clock, [one, two, three]):
        one.publish("A", 1)
        one.hold("s", "A", user_key="kim")
        one.hold("t", "A", user_key="kim")
        await known(two, 2)
        await known(three, 2)
        await settle()
        if stops:
            await one.relay.stop()
        else:
            wire.links.remove(one.link)
            for site in (two, three):
                site.relay.meetings.end(one.relay.origin)
        await until(lambda: len(two.relay.peers) == len(three.relay.peers) == 1)
        new = await join(wire, clock, [one, two, three])
        try:
            assert len(new.claims.sessions) == 0
            all_of_them = (two, three, new)
            assert await found(new.ask("s", "lee"), clock, *all_of_them) == "forbidden"
            arrival = Arrival(last_sequence=one.hub.sequence, epoch=one.hub.epoch)
            session = await found(new.ask("s", "kim", arrival), clock, *all_of_them)
            assert isinstance(session, Session)
            assert session.moves == 1
            assert [topic.name for topic in session.subscriptions] == ["A"]
            assert new.missed(session) == ([0] if stops else None)
            # It is there now, and nobody keeps it any more.
            new.sessions.save(session)
            await until(
                lambda: all(
                    [each.origin for each in site.claims.sessions if not each.is_orphan] == [new.relay.origin]
                    for site in (two, three)
                )
            )
            # The other one is kept for as long as it was.
            clock.now += 1e6
            new.claims.look(clock.now)
            assert await found(new.ask("t", "kim"), clock, *all_of_them) == "unknown"
        finally:
            await new.relay.stop()
            new.hub.stop()


async def test_of_two_that_take_it_one_has_it() -> None:
    """A client that is gone from one before that has said that the session is there comes to another one."""
    async with sites(3) as (wire, clock, [one, two, three]):
        one.hold("s", "A")
        await known(two)
        await known(three)
        await one.relay.stop()
        await until(lambda: len(two.relay.peers) == len(three.relay.peers) == 1)
        new = await join(wire, clock, [two, three])
        try:
            sites_left = (two, three, new)
            session = await found(new.ask("s"), clock, *sites_left)
            assert isinstance(session, Session)
            other = await found(two.ask("s"), clock, *sites_left)
            assert isinstance(other, Session)
            new.sessions.save(session)
            two.sessions.save(other)
            winner, loser = (new, two) if new.relay.origin > two.relay.origin else (two, new)
            await until(lambda: len(loser.sessions) == 0)
            await until(
                lambda: all(
                    [each.origin for each in site.claims.sessions] == [winner.relay.origin]
                    for site in (three, loser)
                )
            )
            assert len(winner.sessions) == 1
        finally:
            await new.relay.stop()
            new.hub.stop()


async def test_it_is_told_when_it_is_known_that_the_holder_is_gone() -> None:
    """One that was killed and started again at once: those that are there still count on the one before."""
    async with sites(2) as (wire, clock, [one, two]):
        one.hold("s", "A")
        await known(two)
        wire.links.remove(one.link)
        new = Site(wire, clock)
        try:
            await until(lambda: len(new.relay.peers) == 1 and new.claims.news.is_complete)
            clock.now += 0.2
            asker = new.ask("s")
            await pass_time(clock, 0.5, two, new)
            assert asker.found is None
            assert isinstance(await found(asker, clock, two, new), Session)
        finally:
            await new.relay.stop()
            new.hub.stop()


async def test_who_has_met_nobody_yet_asks_a_moment_later() -> None:
    async with sites(2) as (wire, clock, [one, two]):
        one.hold("s", "A")
        await known(two)
        await one.relay.stop()
        new = Site(wire, clock)
        try:
            asker = new.ask("s")
            assert (asker.found, len(new.relay.peers)) == (None, 0)
            await until(lambda: len(new.relay.peers) == 1 and new.claims.news.is_complete)
            clock.now += 0.2
            await until(lambda: asker.found)
            assert isinstance(asker.found, Session)
        finally:
            await new.relay.stop()
            new.hub.stop()


async def test_only_what_was_asked_for_is_taken() -> None:
    async with sites(3) as (wire, clock, [one, two, three]):
        one.hold("s", "A")
        await known(two)
        await known(three)
        await one.relay.stop()
        await until(lambda: len(two.relay.peers) == len(three.relay.peers) == 1)
        new = await join(wire, clock, [two, three])
        kept: list[bytes] = []

        def is_kept(data: bytes) -> bool:
            if data[:3] != b"FWR" and isinstance(decode(data), SessionKept):
                kept.append(data)
                return True
            return False

        try:
            wire.is_lost = is_kept
            assert await found(new.ask("s"), clock, two, three, new) == "unknown"
            assert len(kept) >= 2
            # Too late, and nothing that anybody waits for.
            new.link.on_message(kept[0])
            assert len(new.claims.sessions) == 0
            asker = new.ask("another")
            number = max(new.claims._claims)
            message = decode(kept[0])
            assert isinstance(message, SessionKept)
            before = new.relay.counts.refused
            new.link.on_message(encode(msgspec.structs.replace(message, claim=number)))
            assert new.relay.counts.refused == before + 1
            assert await found(asker, clock, two, three, new) == "unknown"
        finally:
            await new.relay.stop()
            new.hub.stop()
