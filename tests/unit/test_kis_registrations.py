"""Which registrations are asked for and when: answers, limits, and an hour of churn on a clock of its own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastws.kis.control import Ack, Outcome, Registration, Request
from fastws.kis.registrations import Limits, Registrations, State

A = Registration("H0UNCNT0", "005930")
B = Registration("H0UNCNT0", "000660")
C = Registration("H0UNASP0", "005930")
NOTICE = Registration("H0STCNI0", "HTSID0001")
LIMITS = Limits()
ROUNDING = 1e-6


def ack(registration: Registration, code: str = "OPSP0000") -> Ack:
    outcome = {
        "OPSP0000": Outcome.REGISTERED,
        "OPSP0001": Outcome.REMOVED,
        "OPSP0002": Outcome.REGISTERED,
        "OPSP0003": Outcome.REMOVED,
        "OPSP0007": Outcome.LATER,
        "OPSP0008": Outcome.FULL,
        "OPSP8993": Outcome.REFUSED,
    }[code]
    return Ack(registration, outcome, code, "text", "", "")


class Driver:
    """A session, and the clock that it goes by."""

    def __init__(self, limits: Limits = LIMITS, wanted: Iterable[Registration] = ()) -> None:
        self.now = 1000.0
        self.registrations = Registrations(limits)
        for registration in wanted:
            self.registrations.want(registration)
        self.registrations.on_connected(self.now)

    def send(self) -> Request | None:
        return self.registrations.next_request(self.now)

    def wait(self) -> Request | None:
        """Go on to the next request; None when there is none without something happening."""
        while True:
            self.registrations.take_changes(self.now)
            request = self.send()
            if request is not None:
                return request
            at = self.registrations.wake_at(self.now)
            if at == float("inf"):
                return None
            assert at > self.now
            self.now = at

    def answer(self, registration: Registration, code: str = "OPSP0000") -> object:
        return self.registrations.on_ack(ack(registration, code), self.now)

    def activate(self) -> None:
        """Have everything registered that may be, without letting half a minute go by."""
        end = self.now + 20.0
        while self.now < end:
            request = self.send()
            if request is not None:
                self.answer(request.registration, "OPSP0001" if request.is_removal else "OPSP0000")
            at = self.registrations.wake_at(self.now)
            self.now = min(at, end)

    def state(self, registration: Registration) -> State | None:
        return self.registrations.state(registration)


def test_requests_keep_their_distance() -> None:
    driver = Driver(wanted=[A, B, C])
    assert driver.send() == Request(A, is_removal=False)
    assert driver.send() is None
    driver.now += 0.19
    assert driver.send() is None
    driver.now += 0.011
    assert driver.send() == Request(B, is_removal=False)


def test_the_distance_is_kept_over_a_reconnect() -> None:
    driver = Driver(wanted=[A])
    driver.send()
    driver.registrations.on_disconnected(driver.now)
    driver.registrations.on_connected(driver.now + 0.05)
    driver.now += 0.05
    assert driver.send() is None


def test_a_pace_that_kis_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"faster than every 0\.1 s"):
        Registrations(Limits(pace=0.05))
    with pytest.raises(ValueError, match="at least one registration"):
        Registrations(Limits(cap=0))


def test_a_registration_goes_from_pending_to_active() -> None:
    driver = Driver(wanted=[A])
    assert driver.state(A) is State.PENDING
    driver.send()
    assert driver.state(A) is State.PENDING
    change = driver.answer(A)
    assert change == (A, State.ACTIVE, "", "", False)
    assert driver.state(A) is State.ACTIVE
    assert driver.state(B) is None
    assert A in driver.registrations
    assert list(driver.registrations) == [A]
    assert driver.wait() is None, "what is registered is not asked for again"


def test_already_registered_is_a_success() -> None:
    driver = Driver(wanted=[A])
    driver.send()
    driver.answer(A, "OPSP0002")
    assert driver.state(A) is State.ACTIVE


def test_data_is_a_confirmation() -> None:
    driver = Driver(wanted=[A])
    driver.send()
    assert driver.registrations.on_data(*A, driver.now) == (A, State.ACTIVE, "", "", False)
    assert driver.answer(A) is None, "the answer comes late and changes nothing"
    assert driver.registrations.on_data(*B, driver.now) is None


@pytest.mark.parametrize("code", ["OPSP8993"])
def test_a_refusal_is_final_until_it_is_wanted_anew(code: str) -> None:
    driver = Driver(wanted=[A])
    driver.send()
    assert driver.answer(A, code) == (A, State.FAILED, code, "text", False)
    assert driver.wait() is None
    driver.registrations.on_disconnected(driver.now)
    driver.registrations.on_connected(driver.now)
    assert driver.wait() is None, "another session does not help"
    driver.registrations.want(A)
    assert driver.wait() == Request(A, is_removal=False)


def test_what_is_put_off_is_tried_again_a_few_times_and_then_slowly() -> None:
    driver = Driver(wanted=[A])
    times = []
    for _ in range(5):
        assert driver.wait() == Request(A, is_removal=False)
        times.append(driver.now)
        driver.answer(A, "OPSP0007")
    assert [b - a for a, b in itertools.pairwise(times)] == [5.0, 20.0, 60.0, 300.0]


def test_an_unanswered_request_is_repeated_and_then_given_up_for_a_while() -> None:
    driver = Driver(wanted=[A])
    times = []
    for _ in range(3):
        assert driver.wait() == Request(A, is_removal=False)
        times.append(driver.now)
    assert [b - a for a, b in itertools.pairwise(times)] == [8.0, 8.0]
    driver.now += 8.0
    assert driver.registrations.take_changes(driver.now) == [(A, State.FAILED, "", "", False)]
    assert driver.state(A) is State.FAILED
    began = driver.now
    assert driver.wait() == Request(A, is_removal=False)
    assert driver.now - began == 300.0


def test_a_full_session_teaches_its_cap() -> None:
    driver = Driver(wanted=[A, B, C])
    for registration in (A, B):
        driver.wait()
        driver.answer(registration)
    driver.wait()
    assert driver.answer(C, "OPSP0008") == (C, State.PENDING, "OPSP0008", "text", True)
    assert driver.registrations.cap == 2
    assert driver.registrations.waiting == [C]
    assert driver.wait() is None, "it is not asked for again"
    driver.registrations.unwant(A)
    assert driver.wait() == Request(A, is_removal=True)
    driver.answer(A, "OPSP0001")
    assert driver.wait() == Request(C, is_removal=False)


def test_a_learned_cap_is_forgotten_after_an_hour() -> None:
    driver = Driver(wanted=[A, B])
    driver.wait()
    driver.answer(A)
    driver.wait()
    driver.answer(B, "OPSP0008")
    driver.registrations.on_disconnected(driver.now)
    driver.registrations.on_connected(driver.now)
    assert driver.registrations.cap == 1
    driver.now += 3600.0
    driver.registrations.on_disconnected(driver.now)
    driver.registrations.on_connected(driver.now)
    assert driver.registrations.cap == 40


def test_full_with_nothing_registered_is_tried_again_later() -> None:
    driver = Driver(wanted=[A])
    driver.wait()
    began = driver.now
    driver.answer(A, "OPSP0008")
    assert driver.registrations.cap == 40
    assert driver.wait() == Request(A, is_removal=False)
    assert driver.now - began == 60.0


def test_beyond_the_cap_nothing_is_asked_for() -> None:
    wanted = [Registration("H0UNCNT0", f"{i:06}") for i in range(50)]
    driver = Driver(wanted=wanted)
    driver.activate()
    assert driver.registrations.n_active == 40
    assert driver.registrations.waiting == wanted[40:]


def test_notices_come_first_then_priority_then_order() -> None:
    driver = Driver(wanted=[A])
    driver.registrations.want(B, priority=-1)
    driver.registrations.want(C)
    driver.registrations.want(NOTICE, priority=9)
    order = []
    for _ in range(4):
        request = driver.wait()
        assert request is not None
        order.append(request.registration)
        driver.answer(request.registration)
    assert order == [NOTICE, B, A, C]


def test_what_comes_before_takes_a_place_but_not_before_the_dwell() -> None:
    driver = Driver(Limits(cap=1), [A])
    driver.wait()
    driver.answer(A)
    began = driver.now
    driver.registrations.want(B, priority=-1)
    assert driver.wait() == Request(A, is_removal=True)
    assert driver.now - began == 30.0
    driver.answer(A, "OPSP0001")
    assert driver.wait() == Request(B, is_removal=False)
    assert driver.state(A) is State.PENDING


def test_what_is_unwanted_stays_for_its_dwell_and_may_be_wanted_again_for_nothing() -> None:
    driver = Driver(wanted=[A])
    driver.wait()
    driver.answer(A)
    for _ in range(5):
        assert driver.registrations.unwant(A)
        assert driver.state(A) is None
        driver.now += 5.0
        assert driver.send() is None
        driver.registrations.want(A)
        assert driver.state(A) is State.ACTIVE
    assert driver.wait() is None
    assert not driver.registrations.unwant(B)


def test_what_was_never_registered_is_not_taken_back() -> None:
    driver = Driver(wanted=[A])
    driver.registrations.unwant(A)
    assert driver.wait() is None
    assert len(driver.registrations) == 0


def test_wanted_again_while_it_is_taken_back() -> None:
    driver = Driver(wanted=[A])
    driver.wait()
    driver.answer(A)
    driver.registrations.unwant(A)
    assert driver.wait() == Request(A, is_removal=True)
    driver.registrations.want(A)
    assert driver.wait() == Request(A, is_removal=True), "unanswered, it is repeated"
    driver.answer(A, "OPSP0003")
    assert driver.wait() == Request(A, is_removal=False)


def test_a_removal_that_is_never_answered_is_believed() -> None:
    driver = Driver(wanted=[A])
    driver.wait()
    driver.answer(A)
    driver.registrations.unwant(A)
    assert [driver.wait(), driver.wait(), driver.wait()] == [Request(A, is_removal=True)] * 2 + [None]
    assert driver.registrations.n_occupied == 0


def test_unwanted_before_the_answer_it_is_taken_back_all_the_same() -> None:
    driver = Driver(wanted=[A])
    driver.wait()
    driver.registrations.unwant(A)
    assert driver.wait() == Request(A, is_removal=True), "KIS may have it"
    driver.answer(A, "OPSP0003")
    assert driver.wait() is None


def test_a_new_socket_knows_nothing() -> None:
    driver = Driver(wanted=[A, B])
    driver.activate()
    driver.registrations.on_disconnected(driver.now)
    assert driver.state(A) is State.PENDING
    assert driver.registrations.wake_at(driver.now) == float("inf")
    assert driver.send() is None
    driver.registrations.on_connected(driver.now)
    assert {driver.wait(), driver.wait()} == {Request(A, is_removal=False), Request(B, is_removal=False)}


def test_closing_takes_back_everything_at_once() -> None:
    driver = Driver(wanted=[A, B])
    driver.activate()
    began = driver.now
    driver.registrations.close()
    for _ in range(2):
        request = driver.wait()
        assert request is not None
        assert request.is_removal
        driver.answer(request.registration, "OPSP0001")
    assert driver.now - began < 0.5
    assert driver.wait() is None
    driver.registrations.on_disconnected(driver.now)
    driver.registrations.on_connected(driver.now)
    assert driver.wait() is not None, "what was wanted is still"


def test_a_silent_registration_is_made_anew_once_while_there_is_other_data() -> None:
    driver = Driver(wanted=[A, B])
    driver.activate()
    registered = driver.now - 20.0
    driver.now += 10.0
    driver.registrations.on_data(*B, driver.now)
    assert driver.wait() == Request(A, is_removal=False)
    assert 60.0 <= driver.now - registered < 61.0
    driver.answer(A, "OPSP0002")
    assert driver.wait() is None, "it has never had data: it may be that nobody trades it"


def test_without_any_data_silence_means_nothing() -> None:
    driver = Driver(wanted=[A, B, NOTICE])
    driver.activate()
    assert driver.wait() is None


def test_a_lively_registration_that_stays_silent_is_taken_back_and_made_again_once() -> None:
    driver = Driver(wanted=[A])
    driver.activate()
    driver.registrations.on_data(*A, driver.now)
    driver.registrations.on_disconnected(driver.now)
    driver.registrations.on_connected(driver.now)
    driver.activate()
    assert driver.wait() == Request(A, is_removal=False)
    driver.answer(A, "OPSP0002")
    assert driver.wait() == Request(A, is_removal=True)
    driver.answer(A, "OPSP0001")
    assert driver.wait() == Request(A, is_removal=False)
    driver.answer(A)
    assert driver.wait() is None


def test_data_of_an_earlier_registration_does_not_hide_that_it_is_silent_now() -> None:
    driver = Driver(Limits(cap=1), [A])
    driver.wait()
    driver.answer(A)
    driver.registrations.on_data(*A, driver.now)
    driver.registrations.want(B, priority=-1)
    assert driver.wait() == Request(A, is_removal=True)
    driver.answer(A, "OPSP0001")
    assert driver.wait() == Request(B, is_removal=False)
    driver.answer(B)
    driver.registrations.unwant(B)
    assert driver.wait() == Request(B, is_removal=True)
    driver.answer(B, "OPSP0001")
    assert driver.wait() == Request(A, is_removal=False)
    driver.answer(A)
    began = driver.now
    assert driver.wait() == Request(A, is_removal=False), "it was lively before"
    assert driver.now - began == 60.0


def test_answers_to_nothing_change_nothing() -> None:
    driver = Driver(wanted=[A])
    for code in ("OPSP0000", "OPSP0001", "OPSP0007", "OPSP0008", "OPSP8993"):
        assert driver.answer(B, code) is None
    assert driver.registrations.on_ack(Ack(None, Outcome.REFUSED, "OPSP9999", "", "", ""), driver.now) is None
    driver.wait()
    driver.answer(A)
    for code in ("OPSP0001", "OPSP0003", "OPSP0007", "OPSP0008", "OPSP8993"):
        assert driver.answer(A, code) is None
    assert driver.state(A) is State.ACTIVE


# An hour: viewers come and go, the connection is lost, KIS answers late or not at all.

HOUR = 3600.0
QUIET = 900.0
SYMBOLS = [Registration(("H0UNCNT0", "H0UNASP0")[i % 2], f"{i:06}") for i in range(60)]


class Server:
    """What KIS enforces, with bad manners of its own: `manners` tells for one request after the other how it is
    answered, over and over. Data comes only of what is registered."""

    def __init__(self, cap: int, manners: list[str]) -> None:
        self.cap = cap
        self.manners = itertools.cycle(manners)
        self.registered: set[Registration] = set()
        self.made: dict[Registration, list[float]] = {}

    def obey(self, request: Request, now: float) -> tuple[float, str] | None:
        manner = next(self.manners)
        registration = request.registration
        if manner in ("OPSP0007", "OPSP8993"):
            code = manner if not request.is_removal else "OPSP0007"
        elif request.is_removal:
            code = "OPSP0001" if registration in self.registered else "OPSP0003"
            self.registered.discard(registration)
        elif registration in self.registered:
            code = "OPSP0002"
        elif len(self.registered) >= self.cap:
            code = "OPSP0008"
        else:
            self.registered.add(registration)
            self.made.setdefault(registration, []).append(now)
            code = "OPSP0000"
        return None if manner == "silent" else (now + {"slow": 0.3, "late": 7.0}.get(manner, 0.01), code)


events = st.lists(
    st.one_of(
        # A viewer of a symbol comes (with a priority) or goes, in bursts or with long pauses.
        st.tuples(
            st.sampled_from(["want", "want", "unwant"]),
            st.floats(0.5, 20.0),
            st.integers(0, len(SYMBOLS) - 1),
            st.integers(-3, 0),
        ),
        # One viewer cannot make up its mind.
        st.tuples(st.just("flap"), st.floats(0.5, 5.0), st.integers(0, len(SYMBOLS) - 1), st.integers(2, 40)),
        # Everybody changes the page.
        st.tuples(
            st.just("page"), st.floats(1.0, 60.0), st.integers(0, len(SYMBOLS) - 1), st.integers(2, 40)
        ),
        st.tuples(st.just("drop"), st.floats(1.0, 300.0), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=120,
)
manners = st.lists(
    st.sampled_from(["prompt"] * 6 + ["slow", "late", "silent", "OPSP0007", "OPSP8993"]),
    min_size=1,
    max_size=40,
).filter(lambda answers: answers.count("prompt") * 2 >= len(answers))


def interest(drawn: list[tuple[str, float, int, int]]) -> Iterator[tuple[float, str, Registration, int]]:
    """The events drawn, again and again until the last quarter of the hour, as single steps in time."""
    now = 0.0
    for kind, pause, index, number in itertools.cycle(drawn):
        if kind == "flap":
            for n in range(number):
                now += pause
                yield now, ("want", "unwant")[n % 2], SYMBOLS[index], 0
        elif kind == "page":
            now += pause
            for n in range(number):
                yield now, "unwant", SYMBOLS[(index + n) % len(SYMBOLS)], 0
                yield now, "want", SYMBOLS[(index + number + n) % len(SYMBOLS)], -1
        else:
            now += pause
            yield now, kind, SYMBOLS[index], number
        if now >= HOUR - QUIET:
            return


class Churn:
    """An hour on a clock of its own; every step checks what KIS would block for."""

    def __init__(self, cap: int, answers: list[str]) -> None:
        self.now = 0.0
        self.registrations = Registrations(LIMITS)
        self.server = Server(cap, answers)
        self.sent: list[tuple[float, Request]] = []
        self.asked_at: dict[Registration, float] = {}  # in this session
        self._answers: list[tuple[float, int, Ack]] = []
        self._data_at = 0.0
        self.registrations.on_connected(self.now)

    def run_until(self, end: float) -> None:
        while self.now < end:
            while self._answers and self._answers[0][0] <= self.now:
                self.registrations.on_ack(heapq.heappop(self._answers)[2], self.now)
            if self.now >= self._data_at:
                self._data_at = self.now + 15.0
                for registration in self.server.registered:
                    self.registrations.on_data(*registration, self.now)
            self.registrations.take_changes(self.now)
            request = self.registrations.next_request(self.now)
            if request is not None:
                self._take(request)
                continue
            wake = self.registrations.wake_at(self.now)
            assert wake > self.now, "it would be asked again and again for nothing"
            times = [wake, end, self._data_at]
            if self._answers:
                times.append(self._answers[0][0])
            self.now = max(self.now, min(times))

    def _take(self, request: Request) -> None:
        now, registration = self.now, request.registration
        if self.sent:
            assert now - self.sent[-1][0] >= LIMITS.pace - ROUNDING
        self.sent.append((now, request))
        if request.is_removal:
            assert registration in self.asked_at, "nothing is taken back that was not asked for"
            assert now - self.asked_at[registration] >= LIMITS.min_dwell - ROUNDING
        else:
            self.asked_at[registration] = now
        reply = self.server.obey(request, now)
        assert len(self.server.registered) <= LIMITS.cap, "never more than the cap"
        if reply is not None:
            heapq.heappush(self._answers, (reply[0], len(self.sent), ack(registration, reply[1])))

    def drop(self) -> None:
        self.registrations.on_disconnected(self.now)
        self.server.registered.clear()
        self.asked_at.clear()
        self._answers.clear()
        self.registrations.on_connected(self.now)


def most_in(times: list[float], seconds: float) -> int:
    """The most of them that lie within so many seconds."""
    return max((sum(1 for at in times if first <= at < first + seconds) for first in times), default=0)


def test_put_off_after_a_removal_that_was_not_answered() -> None:
    """The first request may have been obeyed: what is wanted again by then is not held to be there."""
    driver = Driver(wanted=[A])
    driver.activate()
    driver.registrations.on_data(*A, driver.now)
    driver.registrations.unwant(A)
    assert driver.wait() == Request(A, is_removal=True)
    assert driver.wait() == Request(A, is_removal=True)
    driver.answer(A, "OPSP0007")
    driver.registrations.want(A)
    assert driver.state(A) is not State.ACTIVE
    put_off_at = driver.now
    assert driver.wait() == Request(A, is_removal=True)
    assert driver.now - put_off_at == pytest.approx(LIMITS.retry_delays[0])
    driver.answer(A, "OPSP0003")
    assert driver.wait() == Request(A, is_removal=False)
    driver.answer(A)
    assert driver.state(A) is State.ACTIVE


def test_removals_that_are_not_answered_are_no_more_than_others() -> None:
    symbols = SYMBOLS[: LIMITS.cap]
    driver = Driver(wanted=symbols)
    driver.activate()
    for registration in symbols:
        driver.registrations.unwant(registration)
    times = []
    while (request := driver.wait()) is not None:
        assert request.is_removal
        times.append(driver.now)
    assert len(times) == 2 * len(symbols), "each was asked for twice"
    for i, last in enumerate(times[LIMITS.removal_burst :], start=1):
        assert last - times[0] >= LIMITS.removal_interval * i - ROUNDING


# Where removals were put off after one that had been obeyed, and repeated faster than they may be made.
CROWDED = [
    ("page", 1.0, 3, 2), ("want", 2.8341244601609694, 11, -1), ("page", 40.683677180763844, 29, 38),
    ("want", 6.679826450538392, 0, 0), ("drop", 253.47123101013554, 0, 0), ("want", 10.822904505554778, 0, 0),
    ("want", 19.926080673103282, 0, 0), ("page", 1.0, 0, 33), ("page", 20.020523288806075, 24, 21),
    ("want", 0.5, 0, 0),
]  # fmt: skip


# Where one that KIS had no room for, and did not say so, was unwanted and wanted again.
FLAPPING = [
    ("flap", 1.9860733715245282, 49, 28), ("unwant", 16.234153984897155, 15, -2), ("flap", 4.401492553704962, 57, 37),
    ("page", 37.82640287747411, 15, 8), ("flap", 1.15, 0, 6), ("flap", 1.39, 3, 11),
    ("want", 10.6912074353238, 28, -3), ("page", 28.857586259372034, 36, 31),
]  # fmt: skip


def test_what_was_never_answered_is_asked_for_again_when_it_is_wanted_again() -> None:
    driver = Driver(wanted=[A])
    assert driver.send() == Request(A, is_removal=False)
    driver.registrations.unwant(A)
    driver.now += LIMITS.ack_timeout
    assert driver.send() is None, "KIS may have it, and it is not there long enough to be taken back"
    driver.registrations.want(A)
    assert driver.wait() == Request(A, is_removal=False)
    driver.answer(A)
    assert driver.state(A) is State.ACTIVE
    assert driver.send() is None


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(drawn=FLAPPING, answers=["prompt", "prompt", "prompt", "silent"], cap=26)
@example(drawn=CROWDED, answers=["prompt", "prompt", "OPSP8993", "silent"], cap=13)
@given(drawn=events, answers=manners, cap=st.integers(3, 45))
def test_an_hour_of_churn(drawn: list[tuple[str, float, int, int]], answers: list[str], cap: int) -> None:
    """Whatever the viewers do there is no loop of registering, and in the end what is wanted is registered."""
    churn = Churn(cap, answers)
    n_drops = 0
    for at, kind, registration, priority in interest(drawn):
        churn.run_until(min(at, HOUR - QUIET))
        if kind == "want":
            churn.registrations.want(registration, priority)
        elif kind == "unwant":
            churn.registrations.unwant(registration)
        else:
            n_drops += 1
            churn.drop()
    churn.run_until(HOUR - QUIET)
    churn.server.manners = itertools.repeat("prompt")
    churn.run_until(HOUR)
    removals = [at for at, request in churn.sent if request.is_removal]
    for first, last in zip(removals, removals[LIMITS.removal_burst * 2 :], strict=False):
        assert last - first >= LIMITS.removal_interval * (LIMITS.removal_burst - 1) - ROUNDING
    if not n_drops:
        for registration, times in churn.server.made.items():
            assert most_in(times, 60.0) <= 3, f"{registration} was made anew too often"
    # A quarter of an hour after the last wish everything is where it should be: all that there is room for.
    registrations = churn.registrations
    active = {item for item in registrations if registrations.state(item) is State.ACTIVE}
    failed = {item for item in registrations if registrations.state(item) is State.FAILED}
    assert active <= churn.server.registered
    assert len(active) >= min(registrations.cap, len(registrations) - len(failed))


def test_what_has_gone_silent_is_registered_anew_and_then_taken_back_once() -> None:
    driver = Driver(wanted=[A, B])
    driver.activate()
    for registration in (A, B):
        driver.registrations.on_data(*registration, driver.now)
    driver.now += 3600.0
    driver.registrations.on_data(*B, driver.now)
    assert driver.send() is None, "silence alone is no fault"
    assert driver.registrations.renew(A, driver.now)
    assert not driver.registrations.renew(A, driver.now + 1.0)
    assert driver.send() == Request(A, is_removal=False)
    # KIS says that it has it: it is taken back, and made again.
    driver.answer(A, "OPSP0002")
    began = driver.now
    assert driver.wait() == Request(A, is_removal=True)
    assert driver.now - began >= LIMITS.silent_after
    driver.answer(A, "OPSP0001")
    assert driver.wait() == Request(A, is_removal=False)
    driver.answer(A)
    assert driver.wait() is None


def test_a_renewal_that_does_not_help_is_repeated_later_each_time() -> None:
    driver = Driver(wanted=[A])
    driver.activate()
    driver.registrations.on_data(*A, driver.now)
    renewed: list[float] = []
    end = driver.now + 4 * 3600.0
    while driver.now < end:
        driver.now += 10.0
        if driver.registrations.renew(A, driver.now):
            renewed.append(driver.now)
            assert driver.wait() == Request(A, is_removal=False)
            driver.answer(A)
    pauses = [round(later - earlier, -1) for earlier, later in itertools.pairwise(renewed)]
    assert pauses == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]
    # Data shows that it has helped.
    driver.registrations.on_data(*A, driver.now)
    driver.now += 3600.0
    assert driver.registrations.renew(A, driver.now)
    assert driver.registrations.renew(A, driver.now + 300.0)


def test_only_what_kis_has_is_renewed() -> None:
    driver = Driver(wanted=[A])
    assert not driver.registrations.renew(A, driver.now)
    assert not driver.registrations.renew(B, driver.now)
    driver.activate()
    driver.registrations.unwant(A)
    assert not driver.registrations.renew(A, driver.now)
