"""What the load client counts and checks of the messages that come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)


from load_peer import (
    Connected,
    Peer,
    batch,
    book,
    connecting,
    faults,
    frame,
    message,
    read_frame,
    run_of,
    utc,
)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with contextlib.closing(Peer()) as peer:
        yield peer


@pytest.fixture
def connected(peer: Peer) -> Iterator[Callable[..., Connected]]:
    yield from connecting(peer)


@pytest.fixture(params=["edges", "full"])
def check(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_runs_without_a_fault(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    result = made.deliver_texts(
        batch([message(4)], snapshot=True), run_of(5, 5), run_of(6, 105), run_of(106, 106), run_of(107, 108)
    )
    assert faults(result) == {}
    assert result["messages"] == 104
    assert (result["snapshots"], result["snapshot_messages"]) == (1, 1)
    assert result["control_messages"] == 1
    assert result["messages_per_connection"] == (104, 104)
    assert result["latency"]["count"] == 104


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(5, 9), (11, 12)], {"lost": 1, "undeclared_lost": 1}),
        ([(6, 9)], {"lost": 1, "undeclared_lost": 1}),  # between the snapshot and the first update
        ([(5, 9), (20, 20)], {"lost": 10, "undeclared_lost": 10}),
        ([(5, 9), (5, 9)], {"duplicates": 5}),
        ([(5, 9), (9, 9)], {"duplicates": 1, "sequence_backwards": 1}),
        ([(5, 9), (8, 12)], {"duplicates": 2}),
        ([(4, 6)], {"duplicates": 1}),  # what the snapshot had shown
        ([(5, 5), (8, 9), (6, 7), (10, 11)], {"reordered": 2, "sequence_backwards": 1}),
        (
            [(5, 5), (10, 10), (7, 8), (7, 8)],
            {"lost": 2, "undeclared_lost": 2, "reordered": 2, "duplicates": 2, "sequence_backwards": 2},
        ),
        ([(5, 5), (9, 9), (6, 12)], {"reordered": 3, "duplicates": 1}),
    ],
)
def test_faults_between_frames(
    connected: Callable[..., Connected], runs: list[tuple[int, int]], expected: dict[str, int]
) -> None:
    made = connected()
    result = made.deliver_texts(batch([message(4)], snapshot=True), *(run_of(*run) for run in runs))
    assert faults(result) == expected
    full = connected(check="full")
    result = full.deliver_texts(batch([message(4)], snapshot=True), *(run_of(*run) for run in runs))
    found = faults(result)
    # Counted per message there, and the number of the server per message too.
    assert found.pop("sequence_backwards", 0) >= expected.get("sequence_backwards", 0)
    assert found == {name: n for name, n in expected.items() if name != "sequence_backwards"}


def test_an_empty_snapshot_means_that_the_first_number_is_one(
    connected: Callable[..., Connected], check: str
) -> None:
    assert faults(connected(check=check).deliver_texts(batch([], snapshot=True), run_of(1, 3))) == {}
    found = faults(connected(check=check).deliver_texts(batch([], snapshot=True), run_of(3, 3)))
    assert found == {"lost": 2, "undeclared_lost": 2}


def test_without_a_snapshot_the_first_number_is_the_base(
    connected: Callable[..., Connected], check: str
) -> None:
    assert faults(connected(check=check).deliver_texts(run_of(700, 703), run_of(704, 704))) == {}


def test_a_stale_snapshot_sets_no_base(connected: Callable[..., Connected], check: str) -> None:
    stale = message(900).replace(b',"timestamp"', b',"stale":true,"timestamp"')
    result = connected(check=check).deliver_texts(batch([stale], snapshot=True, sequence=0), run_of(1, 2))
    assert {name: n for name, n in faults(result).items() if name != "sequence_backwards"} == {}


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda seqs: [*seqs[:1], *seqs[2:]], {"lost": 1, "undeclared_lost": 1}),
        (lambda seqs: [*seqs[:2], *seqs[1:]], {"duplicates": 1}),
    ],
)
def test_faults_inside_a_frame(
    connected: Callable[..., Connected],
    n: int,
    change: Callable[[list[int]], list[int]],
    expected: dict[str, int],
) -> None:
    """In frames that lie whole in the buffer, and in those of which only head and tail were kept."""
    data = frame(batch([message(seq) for seq in change(list(range(1, n + 1)))]))
    whole = connected()
    whole.deliver(data)
    assert faults(whole.client.result()) == expected
    cut = connected()
    for i in range(0, len(data), 997):
        cut.deliver(data[i : i + 997])
    assert faults(cut.client.result()) == expected
    full = connected(check="full")
    full.deliver(data)
    found = faults(full.client.result())
    found.pop("sequence_backwards", None)
    assert found == expected


def test_unnumbered_messages_in_a_batch_are_no_fault(connected: Callable[..., Connected], check: str) -> None:
    status = message(None, sequence=35, kind="market_status")
    mixed = batch([message(3), status, message(4)])
    result = connected(check=check).deliver_texts(
        run_of(1, 2), mixed, run_of(5, 6), batch([status, message(7)])
    )
    found = faults(result)
    assert found.pop("sequence_backwards", 0) <= 1  # the repeated status, in the full check
    assert found == {}
    assert result["messages"] == 9


def test_too_many_holes_forget_the_oldest(connected: Callable[..., Connected]) -> None:
    made = connected()
    made.deliver_texts(*(run_of(seq, seq) for seq in range(1, 42, 2)))
    assert made.client.result()["lost"] == 20
    result = made.deliver_texts(run_of(2, 2), run_of(40, 40))
    assert (result["lost"], result["reordered"], result["duplicates"]) == (19, 1, 1)


def test_declared_losses(connected: Callable[..., Connected], check: str) -> None:
    overflow = (
        b'{"type":"overflow","items":[{"code":"005930","channel":"price","dropped":5,"from_seq":10,"to_seq":14},'
        b'{"code":"005930","channel":"price","dropped":2,"from_seq":16,"to_seq":17}],"timestamp":"%s"}'
        % utc().encode()
    )
    made = connected(2, check=check)
    made.deliver(frame(run_of(1, 9)) + frame(overflow) + frame(run_of(15, 15)) + frame(run_of(18, 20)))
    result = made.client.result()
    assert (result["lost"], result["declared_lost"], result["undeclared_lost"]) == (7, 7, 0)
    assert result["overflows"] == 1
    # What one connection was told excuses nothing on another.
    made.deliver(frame(run_of(1, 9)) + frame(run_of(11, 11)), index=1)
    assert made.client.result()["undeclared_lost"] == 1


def test_conflation_is_no_loss(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check, conflated=True)
    result = made.deliver_texts(
        batch([message(3)], snapshot=True), run_of(9, 9), run_of(10, 10), run_of(20, 20)
    )
    assert faults(result) == {"conflated": 14}
    result = made.deliver_texts(run_of(19, 19), run_of(20, 20))
    assert (result["reordered"], result["duplicates"]) == (1, 1)


def test_the_number_of_the_server_must_not_fall(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    result = made.deliver_texts(batch([message(1), message(2)], sequence=500), message(3, sequence=400))
    assert faults(result) == {"sequence_backwards": 1}
    result = made.deliver_texts(batch([message(4), message(5)], sequence=300))
    assert result["sequence_backwards"] >= 2


def test_a_portfolio_shows_the_number_before_it(connected: Callable[..., Connected], check: str) -> None:
    value = message(None, sequence=20, kind="portfolio_update")
    made = connected(check=check)
    result = made.deliver_texts(run_of(1, 2), value, value, run_of(3, 4), message(5))
    assert faults(result) == {}
    assert faults(made.deliver_texts(value)) == {"sequence_backwards": 1}


def test_reset_forgets_counts_and_keeps_positions(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    made.deliver_texts(run_of(1, 4), run_of(6, 6))
    made.client.reset()
    assert faults(made.client.result()) == {}
    result = made.deliver_texts(run_of(7, 8), run_of(10, 10))
    assert faults(result) == {"lost": 1, "undeclared_lost": 1}
    assert result["messages"] == 3


# Other messages.


def test_errors_are_counted_and_the_first_is_kept(connected: Callable[..., Connected]) -> None:
    made = connected()
    result = made.deliver_texts(
        b'{"type":"error","code":"RATE_LIMIT_EXCEEDED"}', b'{"type":"error","code":"X"}'
    )
    assert result["errors"] == 2
    assert result["first_error"] == '{"type":"error","code":"RATE_LIMIT_EXCEEDED"}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"[]",
        b'{"type":"batch","batch_size":2,"messages":[]}',
        b'{"type":"batch","batch_size":x,"messages":[],"timestamp":"2025-11-11T00:00:00Z","sequence":1}',
        b'{"type":"batch","batch_size":1,"messages":[1],"timestamp":"2025-11-11T00:00:00Z","sequence":1}',
        b'{"type":"batch","batch_size":1,"messages":[{}],"timestamp":"2025-11-11T00:00:00Z","sequence":1}',
        b'{"type":"price_update","code":"005930","timestamp":"2025-13-1',
    ],
)
def test_what_cannot_be_read_is_counted(connected: Callable[..., Connected], check: str, text: bytes) -> None:
    result = connected(check=check).deliver_texts(text)
    assert result["unparsed"] == 1
    assert (result["first_unparsed"] or "") == text.decode()


def test_a_batch_must_be_as_long_as_it_says(connected: Callable[..., Connected]) -> None:
    wrong = batch([message(1), message(2)], size=3)
    assert connected(check="full").deliver_texts(wrong)["unparsed"] == 1
    assert connected(check="edges").deliver_texts(wrong)["unparsed"] == 1


def test_messages_of_other_servers_are_counted(connected: Callable[..., Connected]) -> None:
    update = (
        f'{{"type":"asset_update","data":{{"symbol":"AAPL","price":150.25}},"timestamp":"{utc()}"}}'.encode()
    )
    result = connected(check="none").deliver_texts(b"tick", b'{"type":"tick"}', update)
    assert faults(result) == {"untimed": 1}
    assert result["messages"] == 3
    result = connected(check="edges").deliver_texts(update)
    assert faults(result) == {}
    assert result["latency"]["count"] == 1


# The full check.


def test_the_full_check_keeps_every_stream(connected: Callable[..., Connected]) -> None:
    made = connected(2, check="full")
    first = batch(
        [
            message(1, code="005930", sequence=1),
            message(1, code="000660", sequence=2, price="1.50"),
            book(1, code="005930", sequence=3),
            message(2, code="005930", sequence=4, price="73100"),
        ]
    )
    made.deliver(frame(first))
    made.deliver(frame(first), index=1)
    assert faults(made.client.result()) == {}
    streams = made.client.streams(0)
    assert set(streams) == {
        ("price_update", "005930"),
        ("price_update", "000660"),
        ("orderbook_update", "005930"),
    }
    assert streams["price_update", "005930"]["seq"] == 2
    assert streams["price_update", "005930"]["messages"] == 2
    assert streams["price_update", "005930"]["price"] == "73100"
    assert streams["price_update", "000660"]["price"] == "1.50"
    assert streams["orderbook_update", "005930"]["price"] is None
    assert made.client.streams(1) == streams
    made.deliver(frame(batch([message(3, code="000660", sequence=5), book(2, sequence=6)])))
    result = made.client.result()
    assert faults(result) == {"lost": 1, "undeclared_lost": 1}
    assert (
        made.client.streams(0)["orderbook_update", "005930"]["digest"]
        != (streams["orderbook_update", "005930"]["digest"])
    )
    with pytest.raises(IndexError):
        made.client.streams(2)


def test_many_symbols(connected: Callable[..., Connected]) -> None:
    made = connected(check="full")
    codes = [f"{i:06d}" for i in range(2000)]
    for seq in (1, 2):
        texts = [message(seq, code=code, sequence=seq * 10_000 + i) for i, code in enumerate(codes)]
        made.deliver(frame(batch(texts)))
    assert faults(made.client.result()) == {}
    streams = made.client.streams(0)
    assert len(streams) == 2000
    assert {state["seq"] for state in streams.values()} == {2}


def test_symbols_first_seen_after_the_snapshot_start_with_one(connected: Callable[..., Connected]) -> None:
    made = connected(check="full")
    result = made.deliver_texts(
        batch([message(7, code="A", sequence=1)], snapshot=True),
        message(1, code="B", sequence=2),
        message(3, code="C", sequence=3),
    )
    assert faults(result) == {"lost": 2, "undeclared_lost": 2}


# What a check cannot see, and what must not come.


def unnumbered(seq: int) -> bytes:
    return message(None, sequence=10 * seq)


def test_prices_without_numbers_are_counted(connected: Callable[..., Connected], check: str) -> None:
    texts = [
        unnumbered(1),
        batch([message(1, sequence=20), unnumbered(3), message(2, sequence=40)]),
        message(None, sequence=50, kind="market_status"),
    ]
    result = connected(check=check).deliver_texts(*texts)
    assert faults(result) == {"unnumbered": 2}
    assert (result["numbered"], result["messages"]) == (2, 5)


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xe0\x9f\x80"],
)
def test_text_must_be_utf8(connected: Callable[..., Connected], check: str, text: bytes) -> None:
    made = connected(check=check)
    made.deliver(frame(b'{"type":"price_update","name":"1234567' + text + b'"}'))
    result = made.client.result()
    assert faults(result) == {"bad_texts": 1}
    assert (result["open"], result["closes"]) == (0, {})
    assert read_frame(made.ends[0]) == (8, b"\x03\xef")


def test_characters_of_every_length_are_text(connected: Callable[..., Connected], check: str) -> None:
    name = '{"type":"feed_status","name":"aé삼😀\ud7ff\ue000\U0010ffff"}'.encode()
    result = connected(check=check).deliver_texts(name, b" " * 7 + name)
    assert faults(result) == {"unparsed": 1}


LONG = ("a" * 2000 + "é삼성😀\ud7ff\ue000\U0010ffff" + "b" * 2000).encode()


def in_frames(text: bytes, cut: int) -> bytes:
    return frame(text[:cut], final=False) + frame(text[cut:], opcode=0)


def test_long_texts_may_be_cut_anywhere(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    head = b'{"type":"feed_status","name":"'
    text = head + LONG + b'"}'
    cuts = range(len(head) + 1999, len(text) - 2000)
    for cut in cuts:
        made.deliver(in_frames(text, cut))
        whole = frame(text)
        made.deliver(whole[:cut])
        made.deliver(whole[cut:])
    result = made.client.result()
    assert faults(result) == {}
    assert result["control_messages"] == 1 + 2 * len(cuts)


@pytest.mark.parametrize("end", ["b" * 2000, ""])
def test_long_texts_must_be_utf8(connected: Callable[..., Connected], check: str, end: str) -> None:
    ill_formed = [LONG[2000:2000 + n] for n in (1, 3, 4, 6, 7, 9, 10, 11, 14, 20)]  # fmt: skip
    ill_formed += [
        b"\xff",
        b"\xc1\xbf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xe0\x9f\x80",
        b"\xf0\x8f",
    ]
    cases = [(bad, cut) for bad in ill_formed for cut in range(len(bad) + 1)]
    made = connected(len(cases), check=check)
    for i, (bad, cut) in enumerate(cases):
        head = b'{"type":"feed_status","name":"' + b"a" * 2000
        made.deliver(in_frames(head + bad + end.encode(), len(head) + cut), i)
        assert read_frame(made.ends[i]) == (8, b"\x03\xef"), bad
    result = made.client.result()
    assert result["bad_texts"] == len(cases)
    assert (result["open"], result["closes"]) == (0, {})


def test_what_was_not_subscribed_to_is_counted(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check, wanted=lambda index: {("price_update", "005930")})
    result = made.deliver_texts(run_of(1, 3), message(4))
    assert faults(result) == {}
    made = connected(check=check, wanted=lambda index: {("price_update", "005930")})
    result = made.deliver_texts(run_of(1, 3, code="000660"), book(4, sequence=40))
    assert faults(result) == {"unwanted": 4}


def test_what_all_subscribe_to_counts_for_each(connected: Callable[..., Connected], check: str) -> None:
    """What a connection is not known to subscribe to may be anything; one that subscribes to nothing gets nothing."""
    members = {("price_update", f"{code:06d}") for code in range(1000)}
    own: list[set[tuple[str, str]] | None] = [{("price_update", "005930")}, set(), None]
    made = connected(3, check=check, wanted=own.__getitem__, wanted_by_all=members)
    for code in ("000000", "000500", "000999"):
        for i in range(3):
            made.deliver(frame(message(1, code=code, sequence=int(code) + 1)), i)
    assert "unwanted" not in faults(made.client.result())
    for i in range(3):
        made.deliver(frame(message(1, code="005930", sequence=6000)), i)
    assert made.client.result()["unwanted"] == 1
    for i in range(3):
        made.deliver(frame(message(1, code="001000", sequence=7000)), i)
    assert made.client.result()["unwanted"] == 3
