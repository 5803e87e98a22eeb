"""Sessions that another instance is asked for: how long, how often, and what becomes of who waits."""

from __future__ import annotations

import pytest

from fastws.relay.session_claims import ANSWER_SECONDS, SILENCE_SECONDS
from fastws.sessions import Session
from tests.relays import until
from tests.unit.session_sites import is_answer, known, pass_time, settle, sites


async def test_a_holder_that_is_slow_is_waited_for() -> None:
    """It is heard, and only its answer takes long: as on a machine that has too much to do."""
    async with sites() as (_, clock, (one, two)):
        one.publish("A", 1)
        one.hold("s", "A", "B")
        one.publish("A", 2)
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        await pass_time(clock, SILENCE_SECONDS - 0.2, two)
        assert asker.found is None
        one.link.let_go()
        await until(lambda: asker.found)
        assert two.missed(asker.found) == [1, 0]
        assert not len(one.sessions)


async def test_a_holder_that_is_heard_is_waited_for_so_long_and_no_longer() -> None:
    async with sites() as (wire, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        wire.is_lost = is_answer
        asker = two.ask("s")
        for _ in range(int(ANSWER_SECONDS) - 1):
            await pass_time(clock, 1.0, two)
            one.relay.meetings.announce()
            await settle()
        await pass_time(clock, 0.8, two)
        assert asker.found is None
        await pass_time(clock, 0.4, two)
        assert two.missed(asker.found) is None


async def test_one_of_which_nothing_is_heard_is_not_waited_for() -> None:
    async with sites() as (_, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.relay.meetings.announce()
        await settle()
        one.link.is_held = True
        first = clock.now
        await pass_time(clock, 0.5, two)
        asker = two.ask("s")
        while asker.found is None:
            await pass_time(clock, 0.1, two)
        assert SILENCE_SECONDS - 0.05 < clock.now - first < SILENCE_SECONDS + 0.15
        assert two.missed(asker.found) is None
        # The next one need not wait at all.
        one.link.let_go()
        one.hold("t", "A")
        await known(two)
        one.link.is_held = True
        await pass_time(clock, SILENCE_SECONDS + 0.1, two)
        assert isinstance(two.ask("t").found, Session)


async def test_who_stood_still_itself_has_heard_nobody() -> None:
    async with sites() as (_, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        await pass_time(clock, 0.1, two)
        clock.now += 10
        two.claims.look(clock.now)
        await pass_time(clock, 1.0, two)
        assert asker.found is None
        one.link.let_go()
        await until(lambda: asker.found)
        assert two.missed(asker.found) == [0]


@pytest.mark.parametrize("how", ["it stops", "its process ends"])
async def test_one_whose_end_is_known_is_not_waited_for(how: str) -> None:
    async with sites() as (_, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        if how == "it stops":
            one.link.is_held = False
            await one.relay.stop()
            await settle()
        else:
            two.relay.meetings.end(one.relay.origin)
        two.claims.look(clock.now)
        assert isinstance(asker.found, Session)


async def test_an_answer_that_is_lost_is_given_again() -> None:
    async with sites() as (wire, clock, (one, two)):
        one.hold("s", "A")
        one.publish("A", 1)
        await known(two)
        wire.is_lost = is_answer
        asker = two.ask("s")
        await until(lambda: not len(one.sessions))
        assert asker.found is None
        wire.is_lost = lambda data: False
        await pass_time(clock, 1.1, two)
        assert two.missed(asker.found) == [1]
        assert one.relay.counts.sessions["given"] == two.relay.counts.sessions["taken"] == 1


async def test_what_is_missing_at_the_holder_is_waited_for() -> None:
    async with sites(3) as (wire, _, (one, two, three)):
        one.hold("s", "A")
        await known(two)
        lost = []

        def is_first_envelope(data: bytes) -> bool:
            if data[:3] == b"FWR" and len(lost) < 2:
                lost.append(data)
                return True
            return False

        # Neither of the others gets it, until they hear by the next one that it is missing.
        wire.is_lost = is_first_envelope
        three.publish("A", 1)
        await until(lambda: len(lost) == 2)
        three.link.is_held = True
        three.publish("A", 2)
        three.relay.sending.flush()
        three.link.let_go()
        three.link.is_held = True
        await until(lambda: one.relay.n_streams_with_gaps)
        asker = two.ask("s")
        await settle()
        assert asker.found is None
        three.link.let_go()
        await until(lambda: asker.found)
        assert two.missed(asker.found) == [2]


async def test_who_follows_is_heard_also_when_the_first_one_fails() -> None:
    async with sites() as (_, _, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        follower = two.ask("s")
        asker.found = "not to be told"
        one.link.let_go()
        await until(lambda: follower.found)
        assert isinstance(asker.error, AssertionError)
        assert follower.found == "unknown"  # it was given, and is not to be had again


async def test_one_waiter_that_fails_does_not_keep_the_others() -> None:
    async with sites() as (_, clock, (one, _)):
        heard = []

        def fail() -> None:
            raise ValueError("a fault")

        missing = frozenset([0])
        for then in (fail, lambda: heard.append(1), fail, lambda: heard.append(2)):
            one.relay.when_heard(missing, then)
        clock.now += 10
        await until(lambda: heard == [1, 2])
