"""The market on a real hub: what is published where, what is remembered, and what subscribers read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, CHANNEL_STATUS, Channel, Connection, Dialect, Hub
from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.clock import wall_ms
from fastws.market.instruments import Instruments, TableChange
from fastws.market.market import FEED_STATUSES, Market

SCREENER = Dialect("screener", encode_screener)


def make_instruments() -> Instruments:
    return Instruments(
        [
            Instrument("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW"),
            Instrument("AAPL", "Apple", "NASDAQ", "IT", "269.43", "USD"),
            Instrument("KO", "Coca-Cola", "NYSE", None, "70.50", "USD"),
            Instrument("0074K0"),
        ]
    )


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
    yield Market(hub, make_instruments(), book_history=3)
    hub.stop()


def price(market: Market, code: str, number: object) -> PriceUpdate:
    return PriceUpdate(market.ensure_instrument(code), number)  # type: ignore[arg-type]


def book(market: Market, code: str, first: int) -> BookUpdate:
    return BookUpdate(
        market.ensure_instrument(code),
        [(first - i, i + 1) for i in range(10)],
        [(first + 1 + i, i + 1) for i in range(10)],
    )


def channels(market: Market, kind: str, name: str) -> list[Channel]:
    topic = market.hub.find_topic(kind, name)
    assert topic is not None
    return topic.channels


async def test_when_the_last_update_was(market: Market) -> None:
    restored = price(market, "AAPL", 1)
    market.restore(restored, 1000)
    market.set_status("KOSPI", "open")
    assert market.last_update_ms is None
    for publish in (
        lambda: market.publish_book(book(market, "005930", 100)),
        lambda: market.publish_price(restored),
        lambda: market.publish_book(book(market, "AAPL", 100)),
    ):
        began = wall_ms()
        publish()
        assert market.last_update_ms is not None
        assert began <= market.last_update_ms <= wall_ms()
        await asyncio.sleep(0.002)


async def test_what_others_published_long_ago_is_no_younger_for_what_was_here_before_the_start(
    market: Market,
) -> None:
    market.restore(price(market, "AAPL", 1), 1000)
    market.channel_of("orderbook_update", "AAPL")
    market.carry(book(market, "AAPL", 100), stamp=1 << 20, published_ms=5000, head=b"{")
    assert market.last_update_ms == 5000


async def test_prices_go_to_stock_sector_and_market(market: Market) -> None:
    update = price(market, "005930", 73000)
    assert market.publish_price(update) == 1
    assert market.publish_price(price(market, "AAPL", "270.00")) == 2
    last = price(market, "005930", 73100)
    assert market.publish_price(last) == 3
    channel, orderbook = channels(market, "stock", "005930")
    assert (channel.key, channel.name, channel.bit, channel.is_numbered) == (
        "005930",
        "price",
        CHANNEL_PRICE,
        True,
    )
    assert [(topic.kind, topic.name) for topic in channel.topics] == [
        ("stock", "005930"),
        ("sector", "IT"),
        ("market", "KOSPI"),
    ]
    assert channel.seq == 2
    assert channel.last_payload is last
    assert orderbook.seq == 0
    assert [item.key for item in channels(market, "sector", "IT")] == ["005930", "AAPL"]
    assert [item.key for item in channels(market, "market", "NASDAQ")] == ["AAPL"]
    assert market.last_price("005930") is last
    assert market.last_price("KO") is market.last_price("999999") is None


async def test_books_go_to_the_stock_and_into_its_ring(market: Market) -> None:
    assert market.book_ring("005930") is None
    assert market.last_book("005930") is None
    updates = [book(market, "005930", 73000 + 100 * i) for i in range(5)]
    before = wall_ms()
    assert [market.publish_book(update) for update in updates] == [1, 2, 3, 4, 5]
    _, channel = channels(market, "stock", "005930")
    assert (channel.key, channel.name, channel.bit, channel.is_numbered) == (
        "005930",
        "orderbook",
        CHANNEL_ORDERBOOK,
        True,
    )
    assert [(topic.kind, topic.name) for topic in channel.topics] == [("stock", "005930")]
    assert (channel.seq, channel.last_payload) == (5, updates[-1])
    assert market.last_book("005930") is updates[-1]
    ring = market.book_ring("005930")
    assert ring is not None
    assert (ring.depth, ring.n_written) == (3, 5)
    window = ring.last(3)
    assert window.bid_prices[:, 0].tolist() == [73200, 73300, 73400]
    assert all(before - 1 <= ms <= wall_ms() for ms in window.published_times.tolist())
    assert market.last_price("005930") is None


async def test_an_instrument_without_market_or_sector(market: Market) -> None:
    market.publish_price(price(market, "0074K0", 1))
    market.publish_price(price(market, "KO", "70.51"))
    assert [topic.kind for topic in channels(market, "stock", "0074K0")[0].topics] == ["stock"]
    assert [topic.kind for topic in channels(market, "stock", "KO")[0].topics] == ["stock", "market"]


async def test_instruments(market: Market) -> None:
    samsung = market.instrument("005930")
    assert samsung is not None
    assert market.ensure_instrument("005930") is samsung
    assert market.instrument("NEW") is None
    new = market.ensure_instrument("NEW")
    assert (new.code, new.name) == ("NEW", "NEW")
    assert market.ensure_instrument("NEW") is new
    assert market.instruments.get("NEW") is new
    with pytest.raises(ValueError, match=r"^code: "):
        market.ensure_instrument("")


async def test_an_instrument_of_no_table_is_added_when_it_is_published(market: Market) -> None:
    new = Instrument("MSFT", "Microsoft", "NASDAQ", "IT")
    market.publish_book(BookUpdate(new, [], []))
    assert market.instrument("MSFT") is new
    assert [item.key for item in channels(market, "market", "NASDAQ")] == ["MSFT"]
    # Another object of a known code is the same stock, with the topics that the table gives it.
    market.publish_price(PriceUpdate(Instrument("MSFT", "Other", "NYSE"), 5))
    market.publish_price(PriceUpdate(Instrument("AAPL", "Other", "NYSE"), 5))
    assert market.instrument("MSFT") is new
    assert [item.seq for item in channels(market, "stock", "MSFT")] == [1, 1]
    assert [item.key for item in channels(market, "market", "NASDAQ")] == ["MSFT", "AAPL"]
    assert market.hub.find_topic("market", "NYSE") is None


async def test_a_topic_may_be_asked_for_before_its_first_update(market: Market) -> None:
    topic = market.topic("stock", "005930")
    assert topic.channels == []
    market.publish_price(price(market, "005930", 1))
    assert market.topic("stock", "005930") is topic
    assert [channel.name for channel in topic.channels] == ["price", "orderbook"]


async def test_market_status(market: Market) -> None:
    assert market.set_status("KOSPI", "open") == 1
    assert market.publish_status(MarketStatus("KOSPI", "closed", extra=b'"phase":9')) == 2
    (channel,) = channels(market, "market", "KOSPI")
    assert (channel.key, channel.name, channel.bit, channel.is_numbered) == (
        "KOSPI",
        "market_status",
        CHANNEL_STATUS,
        False,
    )
    assert channel.last_payload.status == "closed"
    with pytest.raises(ValueError, match=r"^status: must not be empty"):
        market.set_status("KOSPI", "")
    assert market.hub.sequence == 2


async def test_feed_status_is_published_when_it_changes(market: Market) -> None:
    assert market.feeds == {}
    assert market.set_feed_status("kis", "live") == 1
    assert market.set_feed_status("kis", "live") == 0
    assert market.set_feed_status("sim", "live") == 2
    assert market.set_feed_status("kis", "reconnecting") == 3
    assert market.set_feed_status("kis", "live") == 4
    assert market.feeds == {"kis": "live", "sim": "live"}
    with pytest.raises(
        ValueError, match=r"^status: expected one of live, reconnecting, stale, stopped, got 'dead'"
    ):
        market.set_feed_status("kis", "dead")
    with pytest.raises(ValueError, match=r"^feed: must not be empty"):
        market.set_feed_status("", "live")
    assert market.feeds == {"kis": "live", "sim": "live"}
    assert market.hub.sequence == 4
    assert {"live", "stale", "reconnecting", "stopped"} == FEED_STATUSES


async def test_stock_body(market: Market) -> None:
    assert market.stock_body("005930") is None
    assert market.stock_body("999999") is None
    market.publish_book(book(market, "005930", 73000))
    assert market.stock_body("005930") is None
    market.publish_price(price(market, "005930", 73000))
    before = wall_ms()
    samsung = market.ensure_instrument("005930")
    market.publish_price(PriceUpdate(samsung, "73000.00", change_percent="1.90", volume=2**60))
    body = market.stock_body("005930")
    assert body is not None
    message = json.loads(body, parse_float=Decimal)
    stamp = message.pop("timestamp")
    assert before - 1 <= millis(stamp) <= wall_ms()
    assert [(key, str(value)) for key, value in message.items()] == [
        ("type", "price_update"),
        ("code", "005930"),
        ("name", "Samsung Electronics"),
        ("price", "73000.00"),
        ("change_percent", "1.90"),
        ("volume", str(2**60)),
        ("sequence", "3"),
        ("seq", "2"),
    ]
    assert b" " not in body.replace(b"Samsung Electronics", b"")


def millis(stamp: str) -> int:
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


async def test_orderbook_body(market: Market) -> None:
    assert market.orderbook_body("005930") is None
    assert market.orderbook_body("999999") is None
    market.publish_price(price(market, "005930", 73000))
    assert market.orderbook_body("005930") is None
    for i in range(5):
        market.publish_book(book(market, "005930", 73000 + 100 * i))
    body = market.orderbook_body("005930")
    assert body is not None
    message = json.loads(body)
    assert list(message) == ["type", "code", "bids", "asks", "timestamp", "sequence", "seq", "history"]
    assert (message["sequence"], message["seq"]) == (6, 5)
    assert len(message["bids"]) == len(message["asks"]) == 10
    assert message["bids"][0] == {"price": 73400, "quantity": 1}
    assert message["history"] == [{key: message[key] for key in ("bids", "asks", "timestamp")}]
    message = json.loads(market.orderbook_body("005930", 2, 10) or b"")
    assert [level["price"] for level in message["asks"]] == [73401, 73402]
    assert [item["bids"][0]["price"] for item in message["history"]] == [73200, 73300, 73400]
    assert {len(item["bids"]) for item in message["history"]} == {2}
    assert "history" not in json.loads(market.orderbook_body("005930", history=0) or b"")
    with pytest.raises(ValueError, match=r"^depth: "):
        market.orderbook_body("005930", 0)
    with pytest.raises(ValueError, match=r"^n: "):
        market.orderbook_body("005930", 1, -1)


async def test_a_wrong_book_history_is_refused_at_once(market: Market) -> None:
    with pytest.raises(ValueError, match=r"^depth: expected 1 to 1000000 books, got 0"):
        Market(market.hub, market.instruments, book_history=0)


class Subscriber:
    """The server's side of one connection: subscribes on opening and hears nothing from the client."""

    def __init__(self, market: Market, targets: list[tuple[str, str]]) -> None:
        self.market = market
        self.targets = targets
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()

    def on_open(self, connection: Connection, /) -> None:
        options = self.market.hub.options()
        connection.set_subscriptions({self.market.topic(*target): options for target in self.targets})
        self.opened.set()

    def on_message(self, connection: Connection, data: bytes, is_text: bool, /) -> None:
        raise AssertionError(data)

    def on_rate_limited(self, connection: Connection, /) -> None:
        raise AssertionError

    def on_close(self, connection: Connection, code: int, /) -> None:
        self.closed.set()


async def read_messages(reader: asyncio.StreamReader, n: int) -> list[dict[str, Any]]:
    """Read unmasked text frames until they have brought `n` messages, batches taken apart."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len(messages) < n:
            head = await reader.readexactly(2)
            assert head[0] == 0x81
            size = head[1]
            if size >= 126:
                size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
            message = json.loads(await reader.readexactly(size), parse_float=Decimal)
            messages += message["messages"] if message["type"] == "batch" else [message]
    return messages


async def test_subscribers_read_what_is_published(market: Market) -> None:
    subscriber = Subscriber(market, [("stock", "005930"), ("market", "KOSPI"), ("sector", "IT")])

    class Opener(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            connection = Connection(market.hub, transport, subscriber, SCREENER, max_message_size=65536)
            transport.set_protocol(connection)
            connection.open()

    server = await asyncio.get_running_loop().create_server(Opener, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(30):
            await subscriber.opened.wait()
        market.publish_price(price(market, "005930", 73000))
        market.publish_book(book(market, "005930", 73000))
        market.publish_price(price(market, "AAPL", "270.10"))
        market.publish_book(book(market, "AAPL", 270))
        market.publish_price(price(market, "KO", 70))
        market.set_status("KOSPI", "open")
        market.set_status("NYSE", "open")
        market.set_feed_status("kis", "live")
        messages = await read_messages(reader, 5)
        shown = [(item["type"], item.get("code"), item["sequence"], item.get("seq")) for item in messages]
        assert shown == [
            ("price_update", "005930", 1, 1),
            ("orderbook_update", "005930", 2, 1),
            ("price_update", "AAPL", 3, 1),
            ("market_status", None, 6, None),
            ("feed_status", None, 8, None),
        ]
        assert str(messages[2]["price"]) == "270.10"
        # What HTTP shows is what was sent, but for the time: each takes its own look at the clock.
        body = json.loads(market.orderbook_body("005930", history=0) or b"")
        assert abs(millis(body.pop("timestamp")) - millis(messages[1].pop("timestamp"))) <= 1000
        assert body == messages[1]
    finally:
        writer.close()
        server.close()
        async with asyncio.timeout(30):
            await subscriber.closed.wait()


# A newer instrument table.


def newer(*instruments: Instrument) -> Instruments:
    return Instruments(instruments)


def update_instruments(market: Market, table: Instruments) -> TableChange:
    change = market.instruments.compare(table)
    for _ in market.update_instruments(table, change):
        pass
    return change


async def test_others_have_their_turn_while_a_large_table_is_taken_over(market: Market) -> None:
    def table(name: str) -> Instruments:
        return newer(*(Instrument(f"S{i}", "Name", name) for i in range(1000)))

    update_instruments(market, table("OLD"))
    for i in range(1000):
        market.publish_price(price(market, f"S{i}", 1))
    later = table("NEW")
    n_moved = []
    for _ in market.update_instruments(later, market.instruments.compare(later)):
        n_moved.append(len(channels(market, "market", "NEW")))
        assert n_moved[-1] + len(channels(market, "market", "OLD")) == 1000
        assert len(market.instruments.members_of_market("NEW")) == n_moved[-1]
    assert n_moved == [250, 500, 750, 1000]


async def test_an_instrument_moves_to_other_topics(market: Market) -> None:
    market.publish_price(price(market, "005930", 73000))
    (channel,) = channels(market, "sector", "IT")
    assert update_instruments(
        market,
        newer(
            Instrument("005930", "Samsung", "KOSDAQ", "BIO"), Instrument("000660", "SK hynix", "KOSPI", "IT")
        ),
    ) == (("000660",), ("005930",), ("AAPL", "KO", "0074K0"))
    assert channels(market, "sector", "IT") == []
    assert channels(market, "market", "KOSPI") == []
    assert channels(market, "sector", "BIO") == channels(market, "market", "KOSDAQ") == [channel]
    assert [topic.kind for topic in channel.topics] == ["stock", "sector", "market"]
    assert channel in channels(market, "stock", "005930")
    sequence = market.publish_price(price(market, "005930", 73001))
    assert channel.seq == 2
    assert json.loads(market.stock_body("005930") or b"") | {"timestamp": ""} == {
        "type": "price_update", "code": "005930", "name": "Samsung", "price": 73001, "timestamp": "",
        "sequence": sequence, "seq": 2,
    }  # fmt: skip
    # One without a market has the topic of its own only.
    update_instruments(market, newer(Instrument("005930", "Samsung")))
    assert [topic.kind for topic in channel.topics] == ["stock"]
    assert channels(market, "sector", "BIO") == channels(market, "market", "KOSDAQ") == []


async def test_the_order_books_of_one_that_moves_stay(market: Market) -> None:
    market.publish_book(book(market, "005930", 72900))
    before = channels(market, "stock", "005930")
    update_instruments(market, newer(Instrument("005930", "Samsung", "KOSDAQ", "BIO")))
    assert set(channels(market, "stock", "005930")) == set(before)
    assert market.publish_book(book(market, "005930", 73000))
    ring = market.book_ring("005930")
    assert ring is not None
    assert len(ring) == 2
