"""Sessions that another instance is asked for: how long, how often, and what becomes of who waits."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from fastws.dialects.clients import Arrival
from fastws.market.alert_messages import Alert
from fastws.relay import late_answers
from fastws.relay.awake_clock import READING_SECONDS, AwakeClock
from fastws.relay.control import encode
from fastws.relay.peers import PEER_SILENCE_SECONDS
from fastws.relay.session_claims import (
    ANSWER_SECONDS,
    ASKING_SECONDS,
    HEARING_SECONDS,
    LEVEL_SECONDS,
    SILENCE_SECONDS,
)
from fastws.relay.session_messages import MAX_MOVES, SessionAnswer
from fastws.sessions import Session
from tests.relays import until
from tests.unit.session_sites import is_announcement, is_answer, known, pass_time, settle, sites


def alert(number: int) -> Alert:
    return Alert("A", "price_above", number, number, "m")


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


@pytest.mark.parametrize("longer", [0.0, PEER_SILENCE_SECONDS], ids=["heard in time", "held to be gone"])
async def test_one_that_is_silent_before_it_was_asked_is_asked_for_what_it_has_for_the_user(
    longer: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its client holds was heard by nobody here, and the holder stands still before it has told its values."""
    async with sites(codes=()) as (wire, clock, (one, two)):
        one.hold("s", "A", user_key="kim")
        await known(two)
        one.alerts.tell("kim", alert(1))
        await settle()
        handed: list[tuple[object, list[str]]] = []

        def hand(client: object, alerts: Iterable[Alert]) -> None:
            handed.append((client, [str(each.threshold) for each in alerts]))

        # What of it the client has heard here already is not looked at: nothing is.
        monkeypatch.setattr(late_answers, "unheard", lambda mail, client, heard, alerts: alerts)
        two.mail.hand = hand  # type: ignore[method-assign]
        one.link.is_held = True
        asker = two.ask("s", "kim")
        await pass_time(clock, max(SILENCE_SECONDS, HEARING_SECONDS) + 0.2, two)
        await until(lambda: asker.found)
        assert two.missed(asker.found) is None
        await pass_time(clock, longer, two)
        two.relay.meetings.look_after(clock())
        assert len(two.relay.peers) == (0 if longer else 1)
        # It answers before it says that it is there.
        wire.is_lost = is_announcement
        one.link.let_go()
        await until(lambda: handed)
        assert handed == [(asker, ["1"])]
        assert not len(one.sessions)


async def test_who_stood_still_itself_has_heard_nobody() -> None:
    async with sites(clock_of=AwakeClock) as (_, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        await pass_time(clock, SILENCE_SECONDS - 0.2, two)
        clock.now += 10
        await pass_time(clock, READING_SECONDS, two)
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


async def test_only_who_was_asked_is_believed() -> None:
    async with sites(3) as (_, _, (one, two, three)):
        one.hold("s", "A")
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        for what in ("forbidden", "unknown", "given"):
            answer = SessionAnswer(three.relay.origin, 1, what)
            three.link.send(f"{{test:0}}:to:{two.relay.origin:016x}", encode(answer))
        await until(lambda: two.relay.counts.refused == 3)
        assert asker.found is None
        one.link.let_go()
        await until(lambda: isinstance(asker.found, Session))


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
        await until(lambda: not len(two.claims.sessions))  # its holder says that it is not there any more
        await pass_time(clock, 1.1, two)
        assert two.missed(asker.found) == [1]
        assert one.relay.counts.sessions["given"] == two.relay.counts.sessions["taken"] == 1


async def test_one_that_dies_with_its_answer_leaves_what_was_announced() -> None:
    async with sites() as (wire, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        wire.is_lost = is_answer
        asker = two.ask("s")
        await until(lambda: not len(two.claims.sessions))
        two.relay.meetings.end(one.relay.origin)
        two.claims.look(clock.now)
        assert two.missed(asker.found) is None


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


async def test_nobody_goes_on_before_what_was_seen_elsewhere_is_here() -> None:
    """Also in mode `latest`: a snapshot would show an older value after a newer one."""
    async with sites(3) as (_, clock, (one, two, three)):
        one.hold("s", "A", latest=True)
        one.hold("t", "A")
        await known(two, 2)
        slow = []

        def is_late(data: bytes) -> bool:
            return data[:3] == b"FWR" and data[16:24] == three.relay.origin.to_bytes(8, "little")

        # What three publishes comes to two only when it asks for it.
        deliver = two.link.on_message
        two.link.on_message = lambda data: slow.append(data) if is_late(data) else deliver(data)  # type: ignore[method-assign]
        three.publish("A", 7)
        await until(lambda: one.last("A") == 7)
        latest, every = two.ask("s"), two.ask("t")
        await until(lambda: not len(one.sessions))
        await pass_time(clock, 0.3, two)
        assert latest.found is every.found is None
        assert slow
        for data in slow:
            deliver(data)
        await until(lambda: latest.found and every.found)
        assert two.last("A") == 7
        assert two.missed(latest.found) == [0]
        assert two.missed(every.found) == [1]


async def test_who_is_not_level_in_time_says_so() -> None:
    async with sites(3) as (_, clock, (one, two, three)):
        one.hold("s", "A", latest=True)
        one.hold("t", "A")
        await known(two, 2)
        deliver = two.link.on_message
        of_three = three.relay.origin.to_bytes(8, "little")
        two.link.on_message = lambda data: None if data[16:24] == of_three else deliver(data)  # type: ignore[method-assign]
        three.publish("A", 7)
        await until(lambda: one.last("A") == 7)
        latest, every = two.ask("s"), two.ask("t")
        await until(lambda: not len(one.sessions))
        await pass_time(clock, LEVEL_SECONDS - 0.1, two)
        assert latest.found is every.found is None
        await pass_time(clock, 0.3, two)
        assert two.missed(latest.found) is two.missed(every.found) is None


async def test_a_session_moves_on_before_anybody_has_used_it() -> None:
    """What is known of it goes along: how far its client is, and what its user has not heard."""
    async with sites(3) as (_, _, (one, two, three)):
        one.hold("s", "A", "B", user_key="kim")
        one.publish("A", 1)
        one.alerts.tell("kim", alert(1))
        await known(two)
        await known(three)
        asker = two.ask("s", "kim")
        await until(lambda: asker.found)
        assert isinstance(asker.found, Session)
        # Its client has gone meanwhile.
        two.sessions.save(asker.found)
        two.publish("A", 2)
        two.alerts.tell("kim", alert(2))
        await until(lambda: [each.moves for each in three.claims.sessions] == [1])
        asker = three.ask("s", "kim")
        await until(lambda: asker.found)
        assert three.missed(asker.found) == [2, 0]
        assert isinstance(asker.found, Session)
        assert asker.found.moves == 2
        assert asker.found.handed is not None
        assert [each.threshold for each in asker.found.handed.alerts] == [1, 2]
        assert asker.found.handed.n_missed == 1


async def test_what_nobody_told_of_before_a_second_move_is_not_counted_on() -> None:
    async with sites(3) as (_, _, (one, two, three)):
        one.hold("s", "A", "B")
        one.publish("A", 1)
        await known(two)
        asker = two.ask("s")
        await until(lambda: asker.found)
        assert isinstance(asker.found, Session)
        two.sessions.save(asker.found)
        two.publish("B", 2)
        await until(lambda: [each.moves for each in three.claims.sessions] == [1])
        asker = three.ask("s")
        await until(lambda: asker.found)
        assert three.missed(asker.found) is None


async def test_alerts_are_kept_until_they_were_told() -> None:
    """While they are on their way nobody else tells them; what nobody has told waits where it was."""
    async with sites() as (wire, clock, (one, two)):
        for session_id, number in (("s", 1), ("t", 2)):
            one.hold(session_id, "A", user_key=session_id)
            one.alerts.tell(session_id, alert(number))
        await known(two, 2)
        wire.is_lost = is_answer
        told, lost = two.ask("s", "s"), two.ask("t", "t")
        await until(lambda: not len(one.sessions))
        assert one.untold("s") == one.untold("t") == []
        wire.is_lost = lambda data: False
        await pass_time(clock, 1.1, two)
        assert isinstance(told.found, Session)
        assert isinstance(lost.found, Session)
        assert told.found.handed is not None
        (handed,) = told.found.handed.alerts
        two.mail.on_told(handed)
        await settle()
        await pass_time(clock, 5.0, one)
        assert (one.untold("s"), one.untold("t")) == ([], [2])


@pytest.mark.parametrize(("last_sequence", "n_missed"), [(None, 2), (1, 2), (2, 2), (0, None), (3, None)])
async def test_who_stops_leaves_its_sessions(last_sequence: int | None, n_missed: int | None) -> None:
    """Nobody has to ask it any more. A client that has not seen what was sent to it does not go on without a gap."""
    async with sites() as (_, _, (one, two)):
        one.publish("A", 1)
        one.publish("C", 1)
        one.hold("s", "A", "B", user_key="kim")
        one.hold("t", "A", latest=True)
        one.publish("A", 2)
        one.alerts.tell("kim", alert(1))
        await known(two, 2)
        await one.relay.stop()
        await until(lambda: not len(two.relay.peers))
        two.publish("A", 3)
        epoch = None if last_sequence is None else one.hub.epoch
        asker = two.ask("s", "kim", Arrival(last_sequence=last_sequence, epoch=epoch))
        assert two.missed(asker.found) == (None if n_missed is None else [n_missed, 0])
        assert isinstance(asker.found, Session)
        assert asker.found.moves == 1
        assert asker.found.handed is not None
        assert [each.threshold for each in asker.found.handed.alerts] == [1]
        assert asker.found.handed.n_missed == 1
        latest = two.ask("t", arrival=Arrival(last_sequence=0, epoch=one.hub.epoch))
        assert two.missed(latest.found) == [0]
        # They have gone to their clients.
        assert two.ask("s", "kim").found == "unknown"


async def test_what_was_counted_at_another_server_is_not_what_was_left() -> None:
    async with sites() as (_, _, (one, two)):
        one.hold("s", "A")
        await known(two)
        await one.relay.stop()
        await until(lambda: not len(two.relay.peers))
        asker = two.ask("s", arrival=Arrival(last_sequence=0, epoch="another"))
        assert two.missed(asker.found) is None


async def test_what_is_left_waits_only_so_long_and_takes_only_so_much() -> None:
    async with sites() as (_, clock, (one, two)):
        one.hold("s", "A", user_key="kim")
        await known(two)
        size = two.claims.sessions.size
        await one.relay.stop()
        await until(lambda: two.claims.sessions.has_orphan_of("kim"))
        await until(lambda: not len(two.relay.peers))
        assert two.claims.sessions.size > size
        clock.now += 1e9  # sessions here end by another clock
        assert two.ask("s", "kim").found == "unknown"
        assert two.claims.sessions.size == 0
        assert not two.claims.sessions.has_orphan_of("kim")


async def test_what_was_missed_of_a_server_that_is_gone_counts_from_when_it_went() -> None:
    async with sites() as (_, _, (one, two)):
        for number in range(10):
            two.publish("A", number)
        one.hold("s", "A")
        await known(two)
        two.relay.meetings.end(one.relay.origin)
        two.publish("A", 10)
        asker = two.ask("s")
        assert isinstance(asker.found, Session)
        assert asker.found.handed is not None
        assert two.hub.count_missed(asker.found.subscriptions, asker.found.handed.since)[0] == 1


async def test_who_follows_is_heard_also_when_the_first_one_fails() -> None:
    async with sites() as (_, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.link.is_held = True
        asker = two.ask("s")
        follower = two.ask("s")
        asker.found = "not to be told"
        one.link.let_go()
        await until(lambda: asker.error)
        await pass_time(clock, ASKING_SECONDS + 0.2, two)
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


async def test_a_session_that_nobody_was_told_of_is_found() -> None:
    """Its client was quicker than the news of it, and goes on without a gap."""
    async with sites() as (_, _, (one, two)):
        one.hold("s", "A", "B", user_key="kim")
        one.publish("A", 1)
        assert not len(two.claims.sessions)
        asker = two.ask("s", "kim")
        assert asker.found is None
        await until(lambda: asker.found)
        assert two.missed(asker.found) == [1, 0]
        assert not len(one.sessions)


async def test_one_that_nobody_was_told_of_is_its_users() -> None:
    async with sites() as (_, _, (one, two)):
        one.hold("s", "A", user_key="kim")
        asker = two.ask("s", "lee")
        await until(lambda: asker.found)
        assert asker.found == "forbidden"
        assert len(one.sessions) == 1


async def test_nobody_waits_long_for_what_nobody_has() -> None:
    async with sites() as (_, clock, (_, two)):
        asker = two.ask("s")
        await pass_time(clock, ASKING_SECONDS - 0.1, two)
        assert asker.found is None
        await pass_time(clock, 0.2, two)
        assert asker.found == "unknown"


async def test_ids_that_were_made_up_do_not_keep_everyone_busy() -> None:
    async with sites() as (_, clock, (_, two)):
        # By now nobody keeps what was there before it.
        clock.now += two.sessions.ttl
        two.claims.look(clock.now)
        askers = [two.ask(f"made up {number}") for number in range(1000)]
        asked = [asker for asker in askers if asker.found is None]
        assert len(asked) == 200
        assert {asker.found for asker in askers if asker not in asked} == {"unknown"}
        await pass_time(clock, 1.1, two)
        assert {asker.found for asker in askers} == {"unknown"}
        assert two.ask("made up 0").found is None


async def test_the_end_of_a_connection_is_told_at_once() -> None:
    """Not an interval later; of those that follow it within one, with the others."""
    async with sites(interval_ms=60_000) as (_, clock, (one, two)):
        one.hold("s", "A")
        await known(two)
        one.hold("t", "A")
        await settle()
        assert len(two.claims.sessions) == 1
        clock.now += 60
        one.hold("u", "A")
        await known(two, 3)


async def test_a_session_that_has_moved_as_often_as_can_be_said_moves_still() -> None:
    """Else whoever has taken it says what nobody reads, and takes all that it says beside it along."""
    async with sites() as (_, _, (one, two)):
        for session_id in ("s", "t"):
            one.hold(session_id, "A", moves=MAX_MOVES)
        await known(two, 2)
        asker = two.ask("s")
        await until(lambda: asker.found)
        two.relay.meetings.end(one.relay.origin)
        for found in (asker.found, two.ask("t").found):
            assert isinstance(found, Session)
            assert found.moves == MAX_MOVES


@pytest.mark.parametrize("what", ["it is away", "it is slow"])
async def test_all_sessions_are_named_only_while_there_is_room(what: str) -> None:
    async with sites() as (_, clock, (one, two)):
        for number in range(500):
            one.hold(f"{number}", "A")
        await known(two, 500)
        two.claims.sessions.lose(one.relay.origin, clock.now, 0.0, 0)
        two.claims.sessions.expire(clock.now)
        if what == "it is away":
            one.link.is_up = False
        else:
            one.link.queue_size = 15 << 20
        assert one.relay.sessions is not None
        one.relay.sessions.news.tell_all(two.relay.origin)
        sent = one.link.n_sent
        one.relay.sessions.news.tell_all(two.relay.origin)
        await settle()
        assert one.link.n_sent == sent
        one.link.is_up, one.link.queue_size = True, 0
        await known(two, 500)


async def test_who_could_not_be_told_may_ask_again() -> None:
    async with sites() as (_, _, (one, two)):
        one.hold("s", "A")
        await known(two)
        assert one.relay.sessions is not None
        news = one.relay.sessions.news
        find = news.holdings.find

        def fail(session_id: str) -> None:
            raise ValueError("a fault")

        errors: list[object] = []
        loop = one.hub.loop
        loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))
        news.holdings.find = fail  # type: ignore[method-assign,assignment]
        news.tell_all(two.relay.origin)
        await until(lambda: errors)
        news.holdings.find = find  # type: ignore[method-assign]
        two.claims.sessions.remove(one.relay.origin, next(iter(two.claims.sessions)).key)
        news.tell_all(two.relay.origin)
        await known(two)
        loop.set_exception_handler(None)


async def test_who_leaves_names_its_sessions_no_more() -> None:
    """What it has left of them is the last that it says, and not how they were before."""
    async with sites() as (_, _, (one, two)):
        for number in range(500):
            one.hold(f"{number}", "A")
        one.publish("A", 1)
        await known(two, 500)
        assert one.relay.sessions is not None
        one.relay.sessions.news.tell_all(two.relay.origin)
        await one.relay.sessions.leave()
        one.relay.sessions.news.tell_all(two.relay.origin)
        sent = one.link.n_sent
        await until(lambda: all(each.is_orphan for each in two.claims.sessions))
        for _ in range(5):
            await settle()
        assert one.link.n_sent == sent
        assert two.missed(two.ask("499").found) == [1]
