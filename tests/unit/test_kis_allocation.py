"""Who gets a registration: the rules of `Allocation`, alone and together with the registrations of real sessions in an
hour of a virtual clock."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from fastws.feeds.kis.allocation import Allocation
from fastws.kis.control import Ack, Outcome, Registration
from fastws.kis.registration import Limits
from fastws.kis.registrations import Registrations
from fastws.market.interest import Interest

DWELL = 60.0
CODES = [f"{100_000 + n}" for n in range(12)]
TR_IDS = ("H0UNCNT0", "H0UNASP0")

interests = st.dictionaries(
    st.sampled_from(CODES), st.builds(Interest, st.integers(0, 30), st.integers(1, 3)), max_size=len(CODES)
)


rooms = st.lists(st.integers(0, 9), min_size=2, max_size=2)


def viewers(**numbers: int) -> dict[str, Interest]:
    return {name.removeprefix("s"): Interest(n, 0) for name, n in numbers.items()}


def test_places_go_by_viewers_and_stay() -> None:
    allocation = Allocation(1, size=2, min_dwell=DWELL)
    allocation.update(viewers(s000001=1, s000002=5, s000003=3), [5], 0.0)
    assert set(allocation.codes_of(0)) == {"000002", "000003"}
    assert allocation.waiting == ["000001"]
    # More viewers, and nothing moves before the dwell is over.
    assert not allocation.update(viewers(s000001=9, s000002=5, s000003=3), [5], DWELL - 1)
    changes = allocation.update(viewers(s000001=9, s000002=5, s000003=3), [5], DWELL)
    assert [(change.code, change.is_removal) for change in changes] == [("000003", True), ("000001", False)]


def test_a_small_lead_takes_no_place() -> None:
    allocation = Allocation(1, size=1, min_dwell=DWELL)
    allocation.update(viewers(s000001=10), [1], 0.0)
    assert not allocation.update(viewers(s000001=10, s000002=12), [1], 1000.0)
    assert allocation.update(viewers(s000001=10, s000002=13), [1], 2000.0)
    assert "000002" in allocation


def test_what_nobody_wants_goes_after_its_dwell_or_for_somebody_else() -> None:
    allocation = Allocation(1, size=1, min_dwell=DWELL)
    allocation.update(viewers(s000001=1), [2], 0.0)
    allocation.update(viewers(s000001=1), [2], 50.0)
    assert not allocation.update({}, [2], 109.0)
    assert [change.code for change in allocation.update({}, [2], 110.0)] == ["000001"]
    allocation.update(viewers(s000001=1), [1], 200.0)
    changes = allocation.update(viewers(s000002=1), [1], 260.0)
    assert [change.code for change in changes] == ["000001", "000002"]


def test_fixed_symbols_come_before_all_viewers() -> None:
    allocation = Allocation(2, size=2, fixed=["000001", "000002", "000003"], min_dwell=DWELL)
    crowd = viewers(s000009=1000)
    allocation.update(crowd, [2, 2], 0.0)
    assert "000001" in allocation
    assert "000002" in allocation
    assert allocation.waiting == ["000003", "000009"]
    assert allocation.session_of("000001") != allocation.session_of("000002")
    assert not allocation.update(crowd, [2, 2], 10_000.0)


def test_symbols_of_a_dead_session_go_to_another_one() -> None:
    allocation = Allocation(2, size=1, min_dwell=DWELL)
    allocation.update(viewers(s000001=3, s000002=2), [1, 1], 0.0)
    lost = allocation.session_of("000001")
    assert lost is not None
    room = [1, 1]
    room[lost] = 0
    # Its dwell is not over; that of the other one protects that.
    allocation.update(viewers(s000001=3, s000002=2), room, 1.0)
    assert allocation.waiting == ["000001"]
    allocation.update(viewers(s000001=3, s000002=2), room, DWELL)
    assert allocation.waiting == ["000002"]


def test_what_kis_refuses_gets_no_place_for_a_time() -> None:
    allocation = Allocation(1, size=1, min_dwell=DWELL)
    allocation.update(viewers(s000001=3, s000002=2), [1], 0.0)
    assert allocation.refuse("000001", until=100.0) is not None
    allocation.update(viewers(s000001=3, s000002=2), [1], 1.0)
    assert allocation.codes_of(0) == ["000002"]
    allocation.update(viewers(s000001=3, s000002=2), [2], 100.0)
    assert "000001" in allocation


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(interests, st.lists(st.integers(0, 9), min_size=2, max_size=2), st.floats(0.25, 90)),
        max_size=25,
    ),
    st.integers(1, 2),
    st.lists(st.sampled_from(CODES), max_size=4),
)
def test_the_rules_hold_whatever_is_wanted(
    steps: list[tuple[dict[str, Interest], list[int], float]], size: int, fixed: list[str]
) -> None:
    allocation = Allocation(2, size=size, fixed=fixed, min_dwell=DWELL)
    places: dict[str, int] = {}
    placed_at: dict[str, float] = {}
    last_room = [0, 0]
    now = 0.0
    for interest, room, seconds in steps:
        now += seconds
        for code, session, is_removal in allocation.update(interest, room, now):
            if is_removal:
                assert places.pop(code) == session
                has_shrunk = room[session] // size < last_room[session] // size
                assert has_shrunk or now >= placed_at[code] + DWELL
            else:
                assert code not in places
                places[code], placed_at[code] = session, now
            held = Counter(places.values())
        held = Counter(places.values())
        for session in (0, 1):
            assert held[session] * size <= room[session]
            assert set(allocation.codes_of(session)) == {code for code, at in places.items() if at == session}
        wanted = {*fixed, *interest}
        assert set(allocation.waiting) == wanted - places.keys()
        if allocation.waiting:
            assert all(room[session] - held[session] * size < size for session in (0, 1))
        last_room = room


class Kis:
    """What KIS does with the requests of a session, and what it would hold against it."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.registered: set[Registration] = set()
        self.requests: list[tuple[float, Registration, bool]] = []
        self.answers: deque[Ack] = deque()
        self.n_most = self.n_refused = 0

    def take(self, registration: Registration, is_removal: bool, now: float) -> None:
        self.requests.append((now, registration, is_removal))
        outcome, code = Outcome.REGISTERED, "OPSP0000"
        if is_removal:
            assert registration in self.registered, "takes back what is not registered"
            self.registered.remove(registration)
            outcome, code = Outcome.REMOVED, "OPSP0001"
        elif len(self.registered) >= self.cap:
            outcome, code = Outcome.FULL, "OPSP0008"
            self.n_refused += 1
            self.requests.pop()
        else:
            assert registration not in self.registered, "registers twice"
            self.registered.add(registration)
        self.n_most = max(self.n_most, len(self.registered))
        self.answers.append(Ack(registration, outcome, code, "", "", ""))


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    mood=st.sampled_from(("sway", "swap", "storm")),
    cap=st.sampled_from((3, 8, 16)),
)
def test_an_hour_of_churn_makes_no_loop(seed: int, mood: str, cap: int) -> None:
    generator = random.Random(seed)
    codes = [f"{200_000 + n}" for n in range(30)]
    allocation = Allocation(2, size=2, fixed=codes[:2], min_dwell=DWELL)
    limits = Limits(cap=40, min_dwell=DWELL)
    sessions = [Registrations(limits), Registrations(limits)]
    kis = [Kis(cap), Kis(cap)]
    for session in sessions:
        session.on_connected(0.0)
    popularity = {code: generator.randint(1, 20) for code in codes}
    now = 0.0
    while now < 3600.0:
        interest = {}
        for n, code in enumerate(codes):
            if mood == "sway":
                n_viewers = popularity[code] + generator.randint(-1, 1)
            elif mood == "swap":
                n_viewers = 100 if (n + int(now)) % 2 else 0
            else:
                n_viewers = generator.choice((0, 0, 1, 500))
            if n_viewers > 0:
                interest[code] = Interest(n_viewers, 0)
        for code, place, is_removal in allocation.update(interest, [s.cap for s in sessions], now):
            for tr_id in TR_IDS:
                registration = Registration(tr_id, code)
                if is_removal:
                    sessions[place].unwant(registration)
                else:
                    sessions[place].want(registration)
        for session, server in zip(sessions, kis, strict=True):
            for turn in range(4):
                while server.answers:
                    session.on_ack(server.answers.popleft(), now + turn / 4)
                request = session.next_request(now + turn / 4)
                if request is None:
                    break
                server.take(request.registration, request.is_removal, now + turn / 4)
        now += 1.0
    for server in kis:
        assert server.n_most <= min(cap, 40)
        times = [at for at, _, _ in server.requests]
        assert all(later - at >= 0.1 for at, later in itertools.pairwise(times))
        assert server.n_refused <= 1, "asks for more than KIS has said there is"
        made: dict[Registration, list[float]] = defaultdict(list)
        for at, registration, is_removal in server.requests:
            if is_removal:
                assert at - made[registration][-1] >= DWELL
            else:
                made[registration].append(at)
        # One registration is made anew once a minute at most, and all together no faster than KIS bears.
        for ats in made.values():
            assert all(later - at >= DWELL for at, later in itertools.pairwise(ats))
        assert sum(is_removal for _, _, is_removal in server.requests) <= 3600 / 3 + 20
