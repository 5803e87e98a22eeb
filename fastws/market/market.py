"""Where prices, books and statuses enter: the market remembers the last ones and hands them to the hub."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, CHANNEL_STATUS
from fastws._market import (
    BookUpdate,
    DayRange,
    FeedStatus,
    Instrument,
    MarketStatus,
    PriceUpdate,
    encode_book,
    encode_screener,
)
from fastws._rings import BookRing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    from fastws._core import Channel, Hub, Topic
    from fastws.market.freshness import SymbolStatus
    from fastws.market.instruments import Instruments, TableChange

# Instruments taken over in a row, which is about a millisecond.
_SLICE: Final = 250

FEED_STATUSES: Final = frozenset({"live", "stale", "reconnecting", "stopped"})


class Stale(NamedTuple):
    """A value from before the last start of the server, when it was published at `published_ms` (Unix epoch)."""

    value: PriceUpdate | BookUpdate
    published_ms: int


_STALE: Final = b',"stale":true'


def encode_stale(payload: Stale) -> bytes:
    """Return the message of a value of before, with its time of then; see `encode_screener`."""
    return encode_screener(payload.value, payload.published_ms) + _STALE


class _Stock:
    """What the market holds about one instrument."""

    __slots__ = (
        "book",
        "book_channel",
        "book_sequence",
        "day",
        "instrument",
        "price",
        "price_channel",
        "price_sequence",
        "ring",
        "status_channel",
    )

    def __init__(self, instrument: Instrument, price_channel: Channel, book_channel: Channel) -> None:
        self.instrument = instrument
        self.price_channel = price_channel
        self.book_channel = book_channel
        self.price: PriceUpdate | None = None
        self.price_sequence = 0
        self.day = DayRange()
        self.book: BookUpdate | None = None
        self.book_sequence = 0
        self.ring: BookRing | None = None
        self.status_channel: Channel | None = None


class Channels(NamedTuple):
    """Where updates of an instrument are published."""

    instrument: Instrument
    prices: Channel
    books: Channel


class Market:
    """Last prices, order books, and what feeds publish.

    Belongs to the thread of the event loop. A stock costs nothing before its first update; the ring of its
    last `book_history` books is allocated at the first book.

    `feeds` maps each feed that has reported to its last status.

    Raises:
        ValueError: `book_history` is out of bounds (see `BookRing`).
    """

    def __init__(self, hub: Hub, instruments: Instruments, *, book_history: int = 64) -> None:
        self.hub = hub
        self.instruments = instruments
        BookRing(book_history)  # a wrong depth is to fail here and not at the first book
        self.book_history = book_history
        self.feeds: dict[str, str] = {}
        self._stocks: dict[str, _Stock] = {}
        self._newest: _Stock | None = None
        self._status_channels: dict[str, Channel] = {}
        self._feed_channels: dict[str, Channel] = {}
        # Bound once: looking them up per update is a tenth of what publishing costs here.
        self._publish = hub.publish
        # Called with every price once it is published; alerts and portfolios hang on it.
        self.on_price: list[Callable[[PriceUpdate], object]] = []
        # Called with every status of a market, wherever it was said.
        self.on_status: list[Callable[[MarketStatus], object]] = []
        self.n_changes = 0
        """How often instruments have come to other markets or sectors."""

    # Publishing.

    def publish_price(self, update: PriceUpdate) -> int:
        """Remember and publish a price; return its sequence.

        An instrument that is in no table is added to it.
        """
        try:
            stock = self._stocks[update.instrument.code]
        except KeyError:
            stock = self._open(update.instrument)
        self._newest = stock
        stock.price = update
        stock.day.take(update)
        stock.price_sequence = sequence = self._publish(stock.price_channel, update)
        for follow in self.on_price:
            follow(update)
        return sequence

    def publish_book(self, update: BookUpdate) -> int:
        """Write an order book to its ring, publish it and return its sequence.

        An instrument that is in no table is added to it.
        """
        try:
            stock = self._stocks[update.instrument.code]
        except KeyError:
            stock = self._open(update.instrument)
        if stock.ring is None:
            stock.ring = BookRing(self.book_history)
        self._newest = stock
        stock.book = update
        stock.book_sequence = sequence = self._publish(stock.book_channel, update)
        stock.ring.push(update, stock.book_channel.last_published_ms)
        return sequence

    def restore(
        self,
        update: PriceUpdate | BookUpdate,
        published_ms: int,
        day: tuple[int | Decimal, int | Decimal] | None = None,
    ) -> int:
        """Take a value from before the last start for the last one, until there is a newer; return its sequence.

        For use before anybody is connected: it is in snapshots, marked stale, and no live update. It fires no alert,
        and is in no ring of books. `day` is the highest and the lowest price of its day until then, if known.

        Raises:
            ValueError: `published_ms` is outside the years 1970 to 9999.
        """
        payload = Stale(update, published_ms)
        encode_stale(payload)  # what cannot be written is to fail here and not in a snapshot
        stock = self._stocks.get(update.instrument.code) or self._open(update.instrument)
        if isinstance(update, PriceUpdate):
            stock.price = update
            stock.day.take(update, published_ms)
            if day is not None:
                high, low = day
                at_ms = update.event_time_ms or published_ms
                stock.day.take(PriceUpdate(update.instrument, high, high=high, low=low), at_ms)
            stock.price_sequence = sequence = self._publish(stock.price_channel, payload)
        else:
            stock.book = update
            stock.book_sequence = sequence = self._publish(stock.book_channel, payload)
        return sequence

    def publish_status(self, update: MarketStatus) -> int:
        """Publish the trading status of a market to its subscribers; return its sequence."""
        for note in self.on_status:
            note(update)
        return self.hub.publish(self._status_channel(update.market), update)

    def publish_symbol_status(self, update: SymbolStatus) -> int:
        """Tell the subscribers of a symbol, and those of its sector and market, whether it is stale.

        Each instance tells its own subscribers: others may hear what this one does not. Returns its sequence; 0 for a
        symbol of which there was no update, and then nothing is published.
        """
        stock = self._stocks.get(update.code)
        if stock is None:
            return 0
        if stock.status_channel is None:
            stock.status_channel = self.hub.channel(
                update.code, "symbol_status", stock.price_channel.topics, bit=CHANNEL_STATUS, numbered=False
            )
        return self._publish(stock.status_channel, update)

    # What other instances publish.

    def channel_of(self, message: str, code: str) -> Channel:
        """Return where messages of the type `message` about `code`, or about the market of that name, are published.

        An instrument that is in no table is added to it.

        Raises:
            ValueError: `code` cannot be one (see `Instrument`).
        """
        if message == "market_status":
            return self._status_channel(code)
        stock = self._stocks.get(code) or self._open(self.ensure_instrument(code))
        return stock.price_channel if message == "price_update" else stock.book_channel

    def carry(
        self, update: PriceUpdate | BookUpdate | MarketStatus, *, stamp: int, published_ms: int, head: bytes
    ) -> int:
        """Remember and publish what another instance has published; see `Hub.publish_carried`.

        :meth:`channel_of` was asked for its channel before.
        """
        if isinstance(update, MarketStatus):
            channel = self._status_channel(update.market)
            for note in self.on_status:
                note(update)
            return self.hub.publish_carried(
                channel, update, stamp=stamp, published_ms=published_ms, head=head
            )
        stock = self._stocks[update.instrument.code]
        self._newest = stock
        if isinstance(update, BookUpdate):
            if stock.ring is None:
                stock.ring = BookRing(self.book_history)
            stock.book = update
            stock.book_sequence = sequence = self.hub.publish_carried(
                stock.book_channel, update, stamp=stamp, published_ms=published_ms, head=head
            )
            stock.ring.push(update, published_ms)
            return sequence
        stock.price = update
        stock.day.take(update, update.event_time_ms or published_ms)
        stock.price_sequence = sequence = self.hub.publish_carried(
            stock.price_channel, update, stamp=stamp, published_ms=published_ms, head=head
        )
        for follow in self.on_price:
            follow(update)
        return sequence

    def set_received(self, at_ns: int) -> None:
        """Say when what is published from now on was received; see `Hub.set_received`."""
        self.hub.set_received(at_ns)

    def set_status(self, market: str, status: str) -> int:
        """Publish the trading status of `market`, such as ``("KOSPI", "open")``; return its sequence."""
        return self.publish_status(MarketStatus(market, status))

    def set_feed_status(self, feed: str, status: str) -> int:
        """Announce the state of a feed to every connection; return its sequence, 0 when nothing has changed.

        Raises:
            ValueError: `status` is none of `FEED_STATUSES`.
        """
        if status not in FEED_STATUSES:
            raise ValueError(f"status: expected one of {', '.join(sorted(FEED_STATUSES))}, got {status!r}")
        if self.feeds.get(feed) == status:
            return 0
        update = FeedStatus(feed, status)
        channel = self._feed_channels.get(feed)
        if channel is None:
            channel = self.hub.channel(feed, "feed_status", (), bit=CHANNEL_STATUS, numbered=False)
            self._feed_channels[feed] = channel
        self.feeds[feed] = status
        return self.hub.broadcast(channel, update)

    # Instruments.

    def instrument(self, code: str) -> Instrument | None:
        """Return the instrument of `code`, or None when it is in no table."""
        return self.instruments.get(code)

    def ensure_instrument(self, code: str) -> Instrument:
        """Return the instrument of `code`; a code in no table becomes an instrument named like it.

        Raises:
            ValueError: `code` cannot be one (see `Instrument`).
        """
        instrument = self.instruments.get(code)
        if instrument is None:
            instrument = Instrument(code)
            self.instruments.add(instrument)
        return instrument

    def update_instruments(self, newer: Instruments, change: TableChange) -> Iterator[None]:
        """Take over a newer instrument table (see `Instruments.update`) without breaking a subscription.

        `change` is what `Instruments.compare` has found. Yields every now and then, so that others have their turn;
        at each such moment an instrument is as it was, or wholly as it will be.

        Prices of an instrument that has come to another market or sector go to the subscribers of that one from
        then on, and no more to those of the old one.
        """
        places = {code: place for place, code in enumerate(self._stocks)}
        # In the order of the channels, so that each is found at the front of what it leaves.
        changed = tuple(sorted(change.changed, key=lambda code: places.get(code, -1)))
        moves = {}
        for n, code in enumerate(self.instruments.update(newer, change._replace(changed=changed)), 1):
            stock = self._stocks.get(code)
            if stock is not None and (topics := self._topics(stock.instrument)) != stock.price_channel.topics:
                moves[stock.price_channel] = topics
                if stock.status_channel is not None:
                    moves[stock.status_channel] = topics
            if n % _SLICE == 0:
                if moves:
                    self._move(moves)
                    moves = {}
                yield
        if moves:
            self._move(moves)

    def _move(self, moves: dict[Channel, tuple[Topic, ...]]) -> None:
        self.n_changes += 1
        self.hub.move_channels(moves)

    def topic(self, kind: str, name: str) -> Topic:
        """Return what clients subscribe to: `kind` is stock, market or sector."""
        return self.hub.topic(kind, name)

    # What was published last.

    @property
    def last_update_ms(self) -> int | None:
        """When the last price or book was published, ms since the Unix epoch; None before the first since the start."""
        stock = self._newest
        if stock is None:
            return None
        # One of the two may be from before the start, which is as old as the start by its channel.
        return max(
            channel.last_published_ms
            for channel in (stock.price_channel, stock.book_channel)
            if not isinstance(channel.last_payload, Stale)
        )

    @property
    def n_updated(self) -> int:
        """How many instruments there have been updates of."""
        return len(self._stocks)

    def channels(self, first: int) -> Iterator[Channels]:
        """The channels of these, from the `first` one on, in the order of their first updates."""
        for stock in islice(self._stocks.values(), first, None):
            yield Channels(stock.instrument, stock.price_channel, stock.book_channel)

    def channels_of(self, code: str) -> Channels | None:
        """The channels of a symbol, None before its first update."""
        stock = self._stocks.get(code)
        return None if stock is None else Channels(stock.instrument, stock.price_channel, stock.book_channel)

    def live_values(self) -> Iterator[tuple[str, PriceUpdate | BookUpdate, int]]:
        """Every last value that was published since the start, with the type of its message and its time (ms)."""
        for stock in list(self._stocks.values()):
            price, book = stock.price, stock.book
            if price is not None and stock.price_channel.last_payload is price:
                yield "price_update", price, stock.price_channel.last_published_ms
            if book is not None and stock.book_channel.last_payload is book:
                yield "orderbook_update", book, stock.book_channel.last_published_ms

    def last_price(self, code: str) -> PriceUpdate | None:
        """Return the last price of `code`, or None."""
        stock = self._stocks.get(code)
        return None if stock is None else stock.price

    def day_range(self, code: str) -> DayRange | None:
        """Return the highest and the lowest price of the day of `code`, or None before its first update."""
        stock = self._stocks.get(code)
        return None if stock is None else stock.day

    def last_book(self, code: str) -> BookUpdate | None:
        """Return the last order book of `code`, or None."""
        stock = self._stocks.get(code)
        return None if stock is None else stock.book

    def book_ring(self, code: str) -> BookRing | None:
        """Return the last books of `code`, or None before its first."""
        stock = self._stocks.get(code)
        return None if stock is None else stock.ring

    def stock_body(self, code: str) -> bytes | None:
        """Return the last price message of `code` as JSON, or None before its first.

        It is the message as it was published, with `sequence` and `seq`; with `stale` when that was before the last
        start of the server.
        """
        stock = self._stocks.get(code)
        if stock is None or stock.price is None:
            return None
        payload = stock.price_channel.last_payload
        if isinstance(payload, Stale):
            head = encode_stale(payload)
        else:
            head = encode_screener(stock.price, stock.price_channel.last_published_ms)
        return head + b',"sequence":%d,"seq":%d}' % (stock.price_sequence, stock.price_channel.seq)

    def orderbook_body(self, code: str, depth: int = 10, history: int = 1) -> bytes | None:
        """Return the last order book message of `code` as JSON, or None before its first.

        It is the message as it was published, cut to the best `depth` levels a side, with one more member:
        `history` holds the last `history` books, oldest first (so the last of them is this one), fewer when
        fewer are held (see `BookRing.encode`); 0 leaves the member out. A book from before the last start is the
        only one until the next one comes.

        Raises:
            ValueError: `depth` is under 1 or `history` is negative.
        """
        stock = self._stocks.get(code)
        if stock is None or stock.book is None:
            return None
        payload, ring = stock.book_channel.last_payload, stock.ring
        if isinstance(payload, Stale):
            head = encode_book(stock.book, payload.published_ms, depth) + _STALE
            ring = BookRing(1)
            ring.push(stock.book, payload.published_ms)
        elif ring is not None:
            head = encode_book(stock.book, stock.book_channel.last_published_ms, depth)
        else:
            return None
        numbers = b',"sequence":%d,"seq":%d' % (stock.book_sequence, stock.book_channel.seq)
        books = ring.encode(history, depth)
        return head + numbers + (b',"history":%b}' % books if history else b"}")

    def _open(self, instrument: Instrument) -> _Stock:
        code = instrument.code
        known = self.instruments.get(code)
        if known is None:
            self.instruments.add(instrument)
            known = instrument
        topics = self._topics(known)
        stock = _Stock(
            known,
            self.hub.channel(code, "price", topics, bit=CHANNEL_PRICE, numbered=True),
            self.hub.channel(code, "orderbook", topics[:1], bit=CHANNEL_ORDERBOOK, numbered=True),
        )
        self._stocks[code] = stock
        return stock

    def _status_channel(self, market: str) -> Channel:
        channel = self._status_channels.get(market)
        if channel is None:
            channel = self.hub.channel(
                market,
                "market_status",
                (self.hub.topic("market", market),),
                bit=CHANNEL_STATUS,
                numbered=False,
            )
            self._status_channels[market] = channel
        return channel

    def _topics(self, instrument: Instrument) -> tuple[Topic, ...]:
        """The topics that the prices of an instrument belong to, the most specific first."""
        topics = [self.hub.topic("stock", instrument.code)]
        if instrument.sector is not None:
            topics.append(self.hub.topic("sector", instrument.sector))
        if instrument.market is not None:
            topics.append(self.hub.topic("market", instrument.market))
        return tuple(topics)
