"""Tables that instances tell each other: whatever is lost or comes twice, both end with the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.relay import tables
from fastws.relay.control import MAX_KEY_SIZE, TablePart, decode, encode
from fastws.relay.tables import OwnTable, PeerTable


def told(table: OwnTable) -> list[TablePart]:
    """What is told now, as it comes."""
    parts = [decode(encode(part)) for part in table.changes()]
    assert all(isinstance(part, TablePart) for part in parts)
    return [part for part in parts if isinstance(part, TablePart)]


def test_changes_are_told_once() -> None:
    own, peer = OwnTable(1, "users"), PeerTable()
    peer.announced(own.serial)
    assert peer.is_whole
    own.put("a", (1, 10))
    own.put("b", (2, 20))
    own.put("c", (1, 1))
    own.put("c", (0, 0))
    (part,) = told(own)
    assert part.entries == {"a": (1, 10), "b": (2, 20)}
    peer.receive(part)
    own.put("a", (1, 10))
    assert not told(own)
    own.put("a", (0, 0))
    for part in told(own):
        peer.receive(part)
        peer.receive(part)
    peer.announced(own.serial)
    assert peer.is_whole
    assert peer.entries == {"b": (2, 20)}
    assert peer.get("a") == (0, 0)
    own.put("x" * (MAX_KEY_SIZE + 1), (1, 1))
    assert not told(own)


def test_a_table_is_replaced() -> None:
    own = OwnTable(1, "interest")
    own.replace({"a": (1, 0), "b": (0, 5)})
    assert [part.entries for part in told(own)] == [{"a": (1, 0), "b": (0, 5)}]
    own.replace({"b": (0, 5), "c": (1, 1)})
    assert [part.entries for part in told(own)] == [{"a": (0, 0), "c": (1, 1)}]
    assert len(own) == 2
    # What was to be told, and is so no more.
    own.replace({"b": (9, 9), "c": (1, 1), "d": (1, 1)})
    own.replace({"b": (0, 5), "c": (1, 1)})
    assert not told(own)


def test_a_whole_table_in_parts_with_changes_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART_ENTRIES", 3)
    own, peer = OwnTable(1, "users"), PeerTable()
    for i in range(10):
        own.put(str(i), (1, i))
    told(own)
    peer.announced(own.serial)
    assert not peer.is_whole
    first, *rest = own.whole()
    assert [(part.part, part.is_last) for part in (first, *rest)] == [(i, i == 3) for i in range(4)]
    peer.receive(first)
    own.put("1", (0, 0))
    own.put("new", (5, 5))
    for part in (*told(own), *rest):
        peer.receive(part)
    peer.announced(own.serial)
    assert peer.is_whole
    assert peer.entries == {str(i): (1, i) for i in range(10) if i != 1} | {"new": (5, 5)}


def test_a_lost_change_shows_with_the_next_one() -> None:
    own, peer = OwnTable(1, "users"), PeerTable()
    peer.announced(own.serial)
    own.put("a", (1, 1))
    assert told(own)
    own.put("b", (2, 2))
    for part in told(own):
        peer.receive(part)
    assert not peer.is_whole
    # What comes counts all the same.
    assert peer.entries == {"b": (2, 2)}
    for part in own.whole():
        peer.receive(part)
    assert peer.is_whole
    assert peer.entries == {"a": (1, 1), "b": (2, 2)}


def test_a_lost_part_of_a_whole_table_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART_ENTRIES", 3)
    own, peer = OwnTable(1, "users"), PeerTable()
    for i in range(10):
        own.put(str(i), (1, i))
    told(own)
    whole = own.whole()
    for lost in range(4):
        peer.announced(own.serial)
        assert peer.is_to_be_asked(2.0 * lost, 1.0)
        assert not peer.is_to_be_asked(2.0 * lost + 0.5, 1.0)
        for part in whole[:lost] + whole[lost + 1 :]:
            peer.receive(part)
        assert not peer.is_whole
    # Nor is it whole where a change was lost meanwhile.
    peer.receive(whole[0])
    own.put("a", (1, 1))
    assert told(own)
    own.put("b", (1, 1))
    for part in (*told(own), *whole[1:]):
        peer.receive(part)
    assert not peer.is_whole
    for part in own.whole():
        peer.receive(part)
        peer.receive(part)
    assert peer.is_whole
    assert len(peer.entries) == 12


def test_many_changes_are_told_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHANGES", 4)
    monkeypatch.setattr(tables, "PART_ENTRIES", 3)
    own, peer = OwnTable(1, "users"), PeerTable()
    for i in range(10):
        own.put(str(i), (1, i))
    sizes = []
    while parts := told(own):
        sizes.append([len(part.entries) for part in parts])
        for part in parts:
            peer.receive(part)
    assert sizes == [[3, 1], [3, 1], [2]]
    assert peer.entries == {str(i): (1, i) for i in range(10)}


_pairs = st.tuples(st.integers(0, 3), st.integers(0, 3))
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdef"), _pairs),
        st.tuples(
            st.sampled_from(["tell", "lose", "twice", "whole", "announce"]), st.just(""), st.just((0, 0))
        ),
    )
)


@given(_steps)
def test_both_are_the_same_in_the_end(steps: list[tuple[str, str, tuple[int, int]]]) -> None:
    own, peer = OwnTable(1, "users"), PeerTable()
    peer.announced(own.serial)
    for what, key, pair in steps:
        if what == "put":
            own.put(key, pair)
        elif what == "announce":
            peer.announced(own.serial)
        elif what == "whole":
            for part in own.whole():
                peer.receive(part)
        else:
            for part in told(own):
                for _ in range({"tell": 1, "lose": 0, "twice": 2}[what]):
                    peer.receive(part)
    for part in told(own):
        peer.receive(part)
    peer.announced(own.serial)
    if not peer.is_whole:
        for part in own.whole():
            peer.receive(part)
    peer.announced(own.serial)
    assert peer.is_whole
    everything = {key: pair for part in own.whole() for key, pair in part.entries.items()}
    assert peer.entries == everything


def test_a_table_without_end_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ENTRIES", 100)
    table = PeerTable()
    for n in range(30):
        table.receive(TablePart(1, "users", n + 1, {f"u{10 * n + i}": (1, 1) for i in range(10)}))
    assert len(table.entries) == 100
    # One that comes as a whole, and never ends.
    for n in range(30):
        table.receive(TablePart(1, "users", 31, {f"v{10 * n + i}": (1, 1) for i in range(10)}, part=n))
        for i in range(200):
            table.receive(TablePart(1, "users", 32 + 200 * n + i, {"u1": (2, 2)}))
    assert len(table.entries) == 100
    assert not table.is_whole
    table.receive(TablePart(1, "users", 31, {"w": (1, 1)}, part=0, is_last=True))
    assert table.is_whole
    assert table.entries == {"w": (1, 1)}
