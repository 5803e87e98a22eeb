"""Recorded KIS frames through a real server to a real client, compared with the fields of the file itself."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Message, Stream, client, updates
from tests.conftest import StartServer
from tests.serving import ROOT

FRAMES = ROOT / "fastws" / "data" / "kis_frames.txt"
PRICE, BOOK = "price_update", "orderbook_update"
TRADES = ("H0STCNT0", "H0NXCNT0", "H0UNCNT0")
BOOKS = ("H0STASP0", "H0NXASP0", "H0UNASP0")
VENUES = {"ST": "KRX", "NX": "NXT", "UN": "UN"}

# Places of the columns that matter, the same at every venue (KIS: MKSC_SHRN_ISCD, STCK_PRPR, PRDY_VRSS, …).
CODE, PRICE_AT, CHANGE, CHANGE_PERCENT, HIGH, LOW, TRADE_VOLUME, VOLUME = 0, 2, 4, 5, 8, 9, 12, 13
ASKS, BIDS, ASK_QUANTITIES, BID_QUANTITIES = 3, 13, 23, 33

Expected = dict[str, Any]


def records(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(TR, fields) of every record of a file of frames, in order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        _, tr, count, body = line.split("|", 3)
        fields = body.split("^")
        width, rest = divmod(len(fields), int(count))
        assert rest == 0, line
        for start in range(0, len(fields), width):
            yield tr, fields[start : start + width]


def expected_updates(path: Path) -> list[Expected]:
    """What the records of a file say, by the names of the wire contract."""
    found: list[Expected] = []
    for tr, fields in records(path):
        update: Expected = {"code": fields[CODE], "venue": VENUES[tr[2:4]]}
        if tr in TRADES:
            update |= {
                "type": PRICE,
                "price": Decimal(fields[PRICE_AT]),
                "change": Decimal(fields[CHANGE]),
                "change_percent": Decimal(fields[CHANGE_PERCENT]),
                "volume": Decimal(fields[VOLUME]),
                "trade_volume": Decimal(fields[TRADE_VOLUME]),
                "high": Decimal(fields[HIGH]),
                "low": Decimal(fields[LOW]),
            }
        else:
            assert tr in BOOKS, tr
            update |= {
                "type": BOOK,
                "bids": levels(fields, BIDS, BID_QUANTITIES),
                "asks": levels(fields, ASKS, ASK_QUANTITIES),
            }
        found.append(update)
    return found


def levels(fields: list[str], prices: int, quantities: int) -> list[dict[str, int]]:
    """Up to ten levels; an auction fills three and leaves the others 0."""
    pairs = zip(fields[prices : prices + 10], fields[quantities : quantities + 10], strict=True)
    return [{"price": int(price), "quantity": int(quantity)} for price, quantity in pairs if int(price)]


def shown(update: Message, expected: Expected) -> Expected:
    """The members of a message that are expected; numbers as exact as they came."""
    return {
        name: Decimal(update[name]) if isinstance(value, Decimal) else update[name]
        for name, value in expected.items()
    }


@pytest.fixture(scope="module")
def expected() -> list[Expected]:
    """What the shipped file says. The counts guard the reading of it."""
    found = expected_updates(FRAMES)
    assert sum(update["type"] == PRICE for update in found) == 9
    assert sum(update["type"] == BOOK for update in found) == 5
    return found


async def collect(url: str, n: int, *codes: str, **options: object) -> list[Message]:
    """The first `n` live updates of some stocks, checked to be without a gap."""
    received: list[Message] = []
    stream = Stream(from_any=True)
    async with client(url) as connection:
        await connection.subscribe("stock", *codes, **options)
        await connection.until_snapshot()
        connection.on_message = stream.take
        while len(received) < n:
            received += [update for update in updates(await connection.receive()) if "seq" in update]
    return received


def check(received: list[Message], expected: list[Expected], *codes: str) -> None:
    """Each update is that of its place in the file, which is played from the start of the server, over and over."""
    ordered = [update for update in expected if update["code"] in codes]
    by_channel: dict[tuple[str, str], list[Expected]] = {}
    for update in ordered:
        by_channel.setdefault((update["code"], update["type"]), []).append(update)
    for update in received:
        channel = by_channel[update["code"], update["type"]]
        wanted = channel[(update["seq"] - 1) % len(channel)]
        assert shown(update, wanted) == wanted
    # The same over all: the order of the file, from wherever the client came in.
    first = shown_key(received[0])
    cycle = [shown_key(update) for update in ordered]
    starts = [place for place, key in enumerate(cycle) if key == first]
    assert any(
        all(
            shown_key(update) == key
            for update, key in zip(
                received, itertools.islice(itertools.cycle(cycle), start, None), strict=False
            )
        )
        for start in starts
    )


def shown_key(update: Message) -> tuple[Any, ...]:
    if update["type"] == PRICE:
        return (
            PRICE,
            update["code"],
            update["venue"],
            *(Decimal(update[name]) for name in ("price", "volume")),
        )
    return (BOOK, update["code"], update["venue"], str(update["bids"]), str(update["asks"]))


async def test_every_record_of_the_shipped_frames_in_order(
    server: StartServer, expected: list[Expected]
) -> None:
    target = server("--feed", f"replay:{FRAMES}", "--replay-loop", "--replay-speed", "10")
    ours = [update for update in expected if update["code"] == "005930"]
    assert len(ours) == 9
    received = await collect(target.url, 3 * len(ours), "005930")
    check(received, expected, "005930")
    # Every one of its seven trades and two books has come.
    assert {
        (update["type"], update["seq"] % 7 if update["type"] == PRICE else update["seq"] % 2)
        for update in received
    } == {
        *((PRICE, place) for place in range(7)),
        *((BOOK, place) for place in range(2)),
    }


async def test_every_record_of_the_shipped_frames_at_full_speed(
    server: StartServer, expected: list[Expected]
) -> None:
    target = server(
        "--feed",
        f"replay:{FRAMES}",
        "--replay-loop",
        "--replay-speed",
        "max",
        # The frames come over 50,000 times a second; what Python cannot take meanwhile waits here.
        outbox_soft_bytes=1 << 28,
        outbox_hard_bytes=1 << 29,
    )
    received = await collect(target.url, 5000, "005930", "000660")
    check(received, expected, "005930", "000660")


async def test_a_frame_of_three_records_gives_three_updates(server: StartServer, tmp_path: Path) -> None:
    frame = next(line for line in FRAMES.read_text().splitlines() if line.startswith("0|H0STCNT0|003|"))
    path = tmp_path / "three.txt"
    # The first line waits for nothing; the frame comes 1.5 s after it.
    path.write_text(f'@0 {{"type":"market_status","market":"KOSPI","status":"open"}}\n@1500 {frame}\n')
    target = server("--feed", f"replay:{path}")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        assert (await connection.until_snapshot())["messages"] == []
        # One turn of the loop publishes all of them, and the state of the feed.
        batch = await connection.receive()
    wanted = expected_updates(path_of_frames(tmp_path, frame))
    prices = [update for update in batch["messages"] if update["type"] == PRICE]
    assert [shown(update, want) for update, want in zip(prices, wanted, strict=True)] == wanted
    assert [update["seq"] for update in prices] == [1, 2, 3]


def path_of_frames(directory: Path, *frames: str) -> Path:
    path = directory / "frames-only.txt"
    path.write_text("\n".join([*frames, ""]))
    return path


async def test_receive_times_pace_the_replay_and_speed_divides_them(
    server: StartServer, tmp_path: Path
) -> None:
    frames = [line for line in FRAMES.read_text().splitlines() if line.startswith("0|H0UNCNT0|001|")]
    (frame,) = frames
    at = [0, 3000, 3400, 3500, 4700]
    path = tmp_path / "timed.txt.gz"
    path.write_bytes(gzip.compress("".join(f"@{1762819200000 + ms} {frame}\n" for ms in at).encode()))
    target = server("--feed", f"replay:{path}", "--replay-speed", "2")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        published: list[float] = []
        while len(published) < 4:
            published += [
                datetime.fromisoformat(update["timestamp"]).timestamp() * 1000
                for update in updates(await connection.receive())
                if update["type"] == PRICE
            ]
    for (place, one), (_, other) in itertools.pairwise(enumerate(published, 1)):
        wanted = (at[place + 1] - at[place]) / 2
        # What is late does not delay the next, so this holds for each pause and not only on average.
        assert abs(other - one - wanted) < 100


async def test_bad_lines_are_left_out_and_told_once(server: StartServer, tmp_path: Path) -> None:
    good = [line for line in FRAMES.read_text().splitlines() if line.startswith("0|")]
    path = tmp_path / "damaged.txt"
    lines = ["@0 " + good[0]]
    for number, line in enumerate(good):
        lines += [
            f"@{1500 + number} {line}",
            f"@{1500 + number} 0|H0STCNT0|001|005930^1^2",
            f"@{1500 + number} 0|H0STCNT0|00",
            f"@{1500 + number} {{not json",
            "@x 1",
        ]
    path.write_text("\n".join(lines))
    target = server("--feed", f"replay:{path}", "--batch-interval-ms", "0")
    wanted = [
        update for update in expected_updates(path_of_frames(tmp_path, *good)) if update["code"] == "005930"
    ]
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        received: list[Message] = []
        while len(received) < len(wanted):
            received += [update for update in updates(await connection.receive()) if "seq" in update]
    assert [shown(update, want) for update, want in zip(received, wanted, strict=True)] == wanted
    target.until_feed_is("stopped")
    kinds = [line for line in target.log.splitlines() if "replay leaves out lines like this one" in line]
    assert 3 <= len(kinds) <= 4, kinds
