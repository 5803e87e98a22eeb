"""Where a client goes on at another hub: told by stamps, found among what that one has published in its own order."""

from __future__ import annotations

import asyncio
import random

import pytest

from fastws._core import CHANNEL_PRICE, Channel, Dialect, Hub, Options, Topic

NAMES = "ABCD"


class Site:
    """A hub that carries updates, and the stamps that it has published, by number."""

    def __init__(self, history: int = 1 << 20) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0, history_size=history)
        self.dialect = Dialect("screener", lambda payload, published_ms: b"{}")
        self.topics = {name: self.hub.topic("stock", name) for name in NAMES}
        self.channels = {
            name: self.hub.channel(name, "price", (topic,), bit=CHANNEL_PRICE, numbered=True)
            for name, topic in self.topics.items()
        }
        self.published: list[tuple[str, int]] = []

    def carry(self, name: str, stamp: int) -> None:
        number = self.hub.publish_carried(
            self.channels[name], stamp, stamp=stamp, published_ms=0, head=b'{"type":"price_update"'
        )
        self.published.append((name, stamp))
        assert number == len(self.published)

    def wanted(self, names: str, **options: bool) -> dict[Topic, Options]:
        return {self.topics[name]: self.hub.options(**options) for name in names}

    def marks_of(self, marks: list[tuple[Channel, int, int]]) -> list[tuple[Channel, int, int]]:
        """Those of another hub, with the channels of this one."""
        return [(self.channels[channel.key], first, last) for channel, first, last in marks]


def interleaved(rng: random.Random, n: int) -> list[tuple[str, int]]:
    """The stamps 1 to `n` of some channels, each channel's in order."""
    of = {name: [stamp for stamp in range(1, n + 1) if "ABCDAB"[stamp % 6] == name] for name in NAMES}
    order = []
    while any(of.values()):
        name = rng.choice([name for name in NAMES if of[name]])
        order.append((name, of[name].pop(0)))
    return order


async def test_what_was_missed_at_one_is_what_comes_at_the_other() -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for _ in range(60):
        one, two = Site(), Site()
        orders = [interleaved(rng, 60) for _ in range(2)]
        known = rng.randint(0, 60)
        for name, stamp in orders[0][:known]:
            one.carry(name, stamp)
        # The other one knows at least as much, as when it has listened all the time.
        for name, stamp in orders[1]:
            if (name, stamp) in orders[0][:known]:
                two.carry(name, stamp)
        since = two.hub.sequence
        later = [each for each in orders[1] if each not in two.published]
        for name, stamp in later[: rng.randint(0, len(later))]:
            two.carry(name, stamp)
        names = "".join(rng.sample(NAMES, rng.randint(1, 4)))
        cursor = rng.randint(0, known)
        marks = one.hub.marks(one.wanted(names), cursor)
        assert marks is not None
        found = two.hub.starts(two.wanted(names), two.marks_of(marks), since)
        assert found is not None, f"seed {seed}"
        begin, starts = found
        seen = {each for each in one.published[:cursor] if each[0] in names}
        comes = [
            (name, stamp)
            for number, (name, stamp) in enumerate(two.published, 1)
            if name in names and number > max(begin, starts[two.channels[name]])
        ]
        assert seen.isdisjoint(comes), f"seed {seed}"
        assert seen | set(comes) == {each for each in two.published if each[0] in names}, f"seed {seed}"
        assert two.hub.count_missed(two.wanted(names), begin, starts) == (len(comes), True)
        for site in (one, two):
            site.hub.stop()


async def test_what_is_not_here_is_not_gone_on_with() -> None:
    one, two = Site(), Site()
    wanted, there = one.wanted("A"), two.wanted("A")
    for stamp in range(1, 11):
        one.carry("A", stamp)
        if stamp != 5:
            two.carry("A", stamp)
    marks = one.hub.marks(wanted, 3)
    assert marks == [(one.channels["A"], 4, 10)]
    assert two.hub.starts(there, two.marks_of(marks), 9) is not None
    # The one that comes first is missing.
    marks = one.hub.marks(wanted, 4)
    assert marks is not None
    assert two.hub.starts(there, two.marks_of(marks), 9) is None
    # The one that has come last there is still to come here.
    one.carry("A", 11)
    marks = one.hub.marks(wanted, 11)
    assert marks == [(one.channels["A"], 0, 11)]
    assert two.hub.starts(there, two.marks_of(marks), 9) is None
    two.carry("A", 11)
    assert two.hub.starts(there, two.marks_of(marks), 9) == (10, {two.channels["A"]: 10})
    # What was missed here is missed by who comes, too.
    two.hub.note_missed(two.channels["A"], 3)
    two.carry("A", 12)
    assert two.hub.starts(there, [(two.channels["A"], 11, 12)], 10) is None
    for site in (one, two):
        site.hub.stop()


async def test_what_begins_with_a_last_value_may_have_had_more_before() -> None:
    one, two = Site(), Site()
    for stamp in range(1, 5):
        one.carry("A", stamp)
    two.carry("A", 4)
    wanted, there = one.wanted("A"), two.wanted("A")
    marks = one.hub.marks(wanted, 4)
    assert marks == [(one.channels["A"], 0, 4)]
    assert two.hub.starts(there, two.marks_of(marks), 1) == (1, {two.channels["A"]: 1})
    # One that was left before the last ones.
    before = [(two.channels["A"], 0, 2)]
    assert two.hub.starts(there, before, 1) is None
    assert one.hub.starts(wanted, [(one.channels["A"], 0, 2)], 4) == (2, {one.channels["A"]: 2})
    # It is known of some that they are missing.
    two.hub.note_missed(two.channels["A"], 1)
    two.carry("A", 6)
    assert two.hub.starts(there, [(two.channels["A"], 0, 4)], 2) is None
    for site in (one, two):
        site.hub.stop()


async def test_history_has_to_reach_back() -> None:
    one, two = Site(), Site(history=7000)
    for stamp in range(1, 31):
        one.carry("A", stamp)
        two.carry("A", stamp)
    marks = one.hub.marks(one.wanted("A"), 10)
    assert marks is not None
    assert two.hub.starts(two.wanted("A"), two.marks_of(marks), 30) is None
    assert one.hub.marks(one.wanted("A"), 31) is None
    assert two.hub.marks(two.wanted("A"), 10) is None
    # Of what is held in mode `latest` the current value is enough.
    assert one.hub.marks(one.wanted("A", latest=True), 10) == []
    found = two.hub.starts(two.wanted("A", latest=True), [], 30)
    assert found == (30, {two.topics["A"]: 30})
    for site in (one, two):
        site.hub.stop()


async def test_what_no_relay_has_stamped_cannot_be_told() -> None:
    one = Site()
    one.carry("A", 1)
    one.hub.publish(one.channels["A"], 2)
    assert one.hub.marks(one.wanted("A"), 1) is None
    assert one.hub.marks(one.wanted("A"), 2) == [(one.channels["A"], 0, 1)]
    one.hub.stop()


async def test_channels_that_nobody_told_of_go_on_from_the_question() -> None:
    two = Site()
    for stamp in range(1, 5):
        two.carry("AB"[stamp % 2], stamp)
    found = two.hub.starts(two.wanted("AB"), [(two.channels["A"], 0, 4)], 3)
    assert found == (3, {two.channels["A"]: 4, two.channels["B"]: 3})
    with pytest.raises(TypeError):
        two.hub.starts(two.wanted("AB"), None, 3)  # type: ignore[arg-type]
    two.hub.stop()
