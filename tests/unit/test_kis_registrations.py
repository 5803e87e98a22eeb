"""Which registrations are asked for and when: answers, limits, and an hour of churn on a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
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


class Server:
    """What KIS enforces, with bad manners of its own: answers are lost, late, or not what one hopes for."""

    def __init__(self, rng: random.Random, cap: int) -> None:
        self.rng = rng
        self.cap = cap
        self.registered: set[Registration] = set()
        self.history: dict[Registration, deque[float]] = {}

    def obey(self, request: Request, now: float) -> tuple[float, str] | None:
        if request.is_removal:
            code = "OPSP0001" if request.registration in self.registered else "OPSP0003"
            self.registered.discard(request.registration)
        elif self.rng.random() < 0.05:
            code = self.rng.choice(["OPSP0007", "OPSP8993"])
        elif request.registration in self.registered:
            code = "OPSP0002"
        elif len(self.registered) >= self.cap:
            code = "OPSP0008"
        else:
            self.registered.add(request.registration)
            cycles = self.history.setdefault(request.registration, deque())
            cycles.append(now)
            code = "OPSP0000"
        if self.rng.random() < 0.05:
            return None
        return now + self.rng.choice([0.01, 0.01, 0.3, 12.0]), code


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    n_symbols=st.integers(1, 80),
    cap=st.integers(1, 45),
    interest_every=st.sampled_from([0.7, 5.0, 30.0]),
    drop_every=st.sampled_from([60.0, 600.0, 1e9]),
)
def test_an_hour_of_churn(
    seed: int, n_symbols: int, cap: int, interest_every: float, drop_every: float
) -> None:
    """Viewers come and go at random; the rules hold at every moment, and in the end what is wanted is registered."""
    rng = random.Random(seed)
    limits = Limits()
    symbols = [Registration(rng.choice(["H0UNCNT0", "H0UNASP0"]), f"{i:06}") for i in range(n_symbols)]
    registrations, server = Registrations(limits), Server(rng, cap)
    now, end = 0.0, 3600.0
    churn_end = end - 900.0
    answers: list[tuple[float, int, int, Ack]] = []
    epoch = n_answers = 0
    next_interest, next_drop = 0.0, drop_every
    sent: list[tuple[float, Request]] = []
    asked_at: dict[Registration, float] = {}  # in this session
    registrations.on_connected(now)
    while now < end:
        for _ in range(3):
            if next_interest > now or now >= churn_end:
                break
            symbol = rng.choice(symbols)
            if symbol in registrations and rng.random() < 0.6:
                registrations.unwant(symbol)
            else:
                registrations.want(symbol, priority=-rng.randrange(3))
            next_interest += rng.expovariate(1.0 / interest_every)
        if now >= next_drop:
            next_drop = now + drop_every if now < churn_end else float("inf")
            epoch += 1
            server.registered.clear()
            asked_at.clear()
            registrations.on_disconnected(now)
            registrations.on_connected(now)
        while answers and answers[0][0] <= now:
            _, _, of, answer = heapq.heappop(answers)
            if of == epoch:
                registrations.on_ack(answer, now)
        if rng.random() < 0.3:
            registrations.on_data(*rng.choice(symbols), now)
        registrations.take_changes(now)
        request = registrations.next_request(now)
        if request is not None and not request.is_removal and request.registration not in asked_at:
            assert registrations.n_occupied <= limits.cap
        if request is not None:
            if sent:
                assert now - sent[-1][0] >= limits.pace - ROUNDING
            sent.append((now, request))
            if request.is_removal:
                assert request.registration in asked_at, "nothing is taken back that was not asked for"
                assert now - asked_at[request.registration] >= limits.min_dwell - ROUNDING
            else:
                asked_at[request.registration] = now
            reply = server.obey(request, now)
            if reply is not None:
                n_answers += 1
                heapq.heappush(answers, (reply[0], n_answers, epoch, ack(request.registration, reply[1])))
            continue
        wake = registrations.wake_at(now)
        assert wake > now, "it would be asked again and again for nothing"
        times = [wake, end]
        if answers:
            times.append(answers[0][0])
        if now < churn_end:
            times.append(max(next_interest, now + 0.05))
        times.append(next_drop)
        now = max(now, min(times))
    removals = [at for at, request in sent if request.is_removal]
    for first, last in zip(removals, removals[limits.removal_burst * 2 :], strict=False):
        assert last - first >= limits.removal_interval * (limits.removal_burst - 1) - ROUNDING
    for symbol, times_registered in server.history.items():
        in_minute = Counter(int(at // 60.0) for at in times_registered)
        assert max(in_minute.values()) <= 10, f"{symbol} was made anew too often"
    # Long after the last wish everything is where it should be: as much as there is room for is registered.
    final = {symbol for symbol in symbols if registrations.state(symbol) is State.ACTIVE}
    failed = {symbol for symbol in symbols if registrations.state(symbol) is State.FAILED}
    assert final <= server.registered
    assert len(final) >= min(registrations.cap, len(registrations) - len(failed)) - len(failed)
