"""Records of trades, books and market operations in the layouts of KIS, from made-up trades and books. Sans-IO.

Column order: ``fastws/data/kis_columns.json``. What is in a column follows captured frames where there are some,
also where its name says otherwise: SHNU_RATE is a plain ratio, and ANTC_CNTG_VRSS is minus the previous close
outside of auctions.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

Venue: TypeAlias = Literal["KRX", "NXT", "UN"]

TRADE_TRS: Final[dict[Venue, str]] = {"KRX": "H0STCNT0", "NXT": "H0NXCNT0", "UN": "H0UNCNT0"}
BOOK_TRS: Final[dict[Venue, str]] = {"KRX": "H0STASP0", "NXT": "H0NXASP0", "UN": "H0UNASP0"}
EXPECTED_TRS: Final[dict[Venue, str]] = {"KRX": "H0STANC0", "NXT": "H0NXANC0", "UN": "H0UNANC0"}
OPERATION_TRS: Final[dict[Venue, str]] = {"KRX": "H0STMKO0", "NXT": "H0NXMKO0", "UN": "H0UNMKO0"}
USUAL_WIDTHS: Final = {
    "H0STCNT0": 47,
    "H0NXCNT0": 47,
    "H0UNCNT0": 47,
    "H0STASP0": 63,
    "H0NXASP0": 62,
    "H0UNASP0": 66,
    "H0STANC0": 45,
    "H0NXANC0": 46,
    "H0UNANC0": 46,
    "H0STMKO0": 10,
    "H0NXMKO0": 10,
    "H0UNMKO0": 10,
}
LEVELS: Final = 10
_BASE_BOOK: Final = 59

# KRX, since January 2023: from this price on, in steps of so much.
_TICKS: Final = (
    (500_000, 1_000),
    (200_000, 500),
    (50_000, 100),
    (20_000, 50),
    (5_000, 10),
    (2_000, 5),
    (0, 1),
)


class PhaseCodes(NamedTuple):
    """What a phase of the day is on the wire, and who trades in it."""

    new_mkop: str
    hour: str
    market: str
    is_auction: bool
    venues: frozenset[Venue]
    operation: str
    """MKOP_CLS_CODE when it begins."""


_ALL: Final[frozenset[Venue]] = frozenset({"KRX", "NXT", "UN"})
_KRX: Final[frozenset[Venue]] = frozenset({"KRX", "UN"})
PHASES: Final = {
    "pre_market": PhaseCodes("10", "0", "1", False, frozenset({"NXT", "UN"}), "130"),
    "opening_auction": PhaseCodes("10", "B", "2", True, _KRX, "110"),
    "regular": PhaseCodes("20", "0", "2", False, _ALL, "112"),
    "closing_auction": PhaseCodes("21", "A", "2", True, _KRX, "121"),
    "after_market": PhaseCodes("30", "0", "3", False, _ALL, "140"),
    "closed": PhaseCodes("30", "0", "5", False, frozenset(), "129"),
}


def limits(previous_close: int) -> tuple[int, int]:
    """The lowest and the highest price of the day."""
    low, high = -(-previous_close * 7 // 10), previous_close * 13 // 10
    return -(-low // tick(low)) * tick(low), high // tick(high) * tick(high)


def tick(price: int) -> int:
    return next(size for start, size in _TICKS if price >= start)


def sign(difference: int) -> str:
    return "2" if difference > 0 else "5" if difference < 0 else "3"


class Totals:
    """The day of a symbol at one venue, as its trades have made it."""

    __slots__ = (
        "amount",
        "buy_volume",
        "high",
        "high_time",
        "low",
        "low_time",
        "n_buys",
        "n_sells",
        "open",
        "open_time",
        "sell_volume",
        "volume",
    )

    def __init__(self) -> None:
        self.open = self.high = self.low = 0
        self.open_time = self.high_time = self.low_time = "000000"
        self.volume = self.amount = 0
        self.n_buys = self.n_sells = self.buy_volume = self.sell_volume = 0

    def add(self, price: int, quantity: int, is_buy: bool, time: str) -> None:
        if self.volume == 0:
            self.open = self.high = self.low = price
            self.open_time = self.high_time = self.low_time = time
        elif price > self.high:
            self.high, self.high_time = price, time
        elif price < self.low:
            self.low, self.low_time = price, time
        self.volume += quantity
        self.amount += price * quantity
        if is_buy:
            self.n_buys += 1
            self.buy_volume += quantity
        else:
            self.n_sells += 1
            self.sell_volume += quantity


class Book:
    """Ten levels a side; prices and quantities as many as there are."""

    __slots__ = ("ask_prices", "ask_quantities", "bid_prices", "bid_quantities", "total_ask", "total_bid")

    def __init__(self, asks: list[tuple[int, int]], bids: list[tuple[int, int]]) -> None:
        self.ask_prices = [price for price, _ in asks]
        self.bid_prices = [price for price, _ in bids]
        self.ask_quantities = [quantity for _, quantity in asks]
        self.bid_quantities = [quantity for _, quantity in bids]
        self.total_ask = sum(self.ask_quantities)
        self.total_bid = sum(self.bid_quantities)

    def share(self, venue: Venue) -> Book:
        """The part of it that stands at one venue; a unified book is all of it."""
        if venue == "UN":
            return self
        part = Book([], [])
        part.ask_prices, part.bid_prices = self.ask_prices, self.bid_prices
        part.ask_quantities = [_part(quantity, venue) for quantity in self.ask_quantities]
        part.bid_quantities = [_part(quantity, venue) for quantity in self.bid_quantities]
        part.total_ask, part.total_bid = sum(part.ask_quantities), sum(part.bid_quantities)
        return part


def _part(quantity: int, venue: Venue) -> int:
    at_nxt = quantity * 3 // 10
    return at_nxt if venue == "NXT" else quantity - at_nxt


class Stock:
    """A symbol that somebody has asked for."""

    __slots__ = ("book", "code", "is_halted", "limits", "name", "previous_close", "previous_volume", "totals")

    def __init__(self, code: str, name: str, previous_close: int, previous_volume: int) -> None:
        self.code = code
        self.name = name
        self.previous_close = previous_close
        self.previous_volume = previous_volume
        self.limits = limits(previous_close)
        self.totals: dict[Venue, Totals] = {"KRX": Totals(), "NXT": Totals(), "UN": Totals()}
        self.book = Book([], [])
        self.is_halted = False

    def price_sign(self, price: int) -> str:
        """1 and 4 are the limits of the day."""
        if price == self.limits[1]:
            return "1"
        if price == self.limits[0]:
            return "4"
        return sign(price - self.previous_close)


def trade(
    stock: Stock,
    venue: Venue,
    price: int,
    quantity: int,
    is_buy: bool,
    time: str,
    date: str,
    phase: PhaseCodes,
    width: int,
) -> str:
    """The record of a trade that is in the totals already. `quantity` 0 is an expected price."""
    day, book = stock.totals[venue], stock.book.share(venue)
    change = price - stock.previous_close
    volume = day.volume or 1
    values = (
        f"{stock.code}^{time}^{price}^{stock.price_sign(price)}^{change}^{change * 100 / stock.previous_close:.2f}"
        f"^{day.amount / volume:.2f}^{day.open}^{day.high}^{day.low}"
        f"^{_first(book.ask_prices)}^{_first(book.bid_prices)}^{quantity}^{day.volume}^{day.amount}"
        f"^{day.n_sells}^{day.n_buys}^{day.n_buys - day.n_sells}"
        f"^{day.buy_volume * 100 / (day.sell_volume or 1):.2f}^{day.sell_volume}^{day.buy_volume}"
        f"^{'1' if is_buy else '5'}^{day.buy_volume / volume:.2f}^{day.volume * 100 / stock.previous_volume:.2f}"
        f"^{day.open_time}^{sign(price - day.open)}^{price - day.open}"
        f"^{day.high_time}^{sign(price - day.high)}^{price - day.high}"
        f"^{day.low_time}^{sign(price - day.low)}^{price - day.low}"
        f"^{date}^{phase.new_mkop}^{'Y' if stock.is_halted else 'N'}"
        f"^{_first(book.ask_quantities)}^{_first(book.bid_quantities)}^{book.total_ask}^{book.total_bid}"
        f"^{day.volume / (stock.previous_volume * 4):.2f}^{stock.previous_volume}"
        f"^{day.volume * 100 / stock.previous_volume:.2f}^{phase.hour}^^{day.open}^{phase.market}"
    )
    return _fit(values, 47, width)


def book(
    stock: Stock,
    venue: Venue,
    before: Book,
    price: int,
    time: str,
    phase: PhaseCodes,
    width: int,
) -> str:
    """The record of a book, which was `before` the last time; `price` is that of the last trade."""
    book, before = stock.book.share(venue), before.share(venue)
    n = 3 if phase.is_auction else LEVELS
    close = stock.previous_close
    if phase.is_auction:
        quantity = _first(book.ask_quantities) * 20
        change = price - close
        expected = (
            f"{price}^{quantity}^{quantity}^{change}^{stock.price_sign(price)}^{change * 100 / close:.2f}"
        )
    else:
        expected = f"0^0^0^-{close}^5^-100.00"
    asks, bids = book.ask_prices, book.bid_prices
    middle = f"{(asks[0] + bids[0]) / 2:g}" if asks and bids and not phase.is_auction else "0"
    if middle != "0" and float(middle) >= 1e6:
        middle = str((asks[0] + bids[0]) // 2)
    mid_quantity = (_first(book.ask_quantities) + _first(book.bid_quantities)) // 8
    values = (
        f"{stock.code}^{time}^{phase.hour}^{_ten(asks, n)}^{_ten(bids, n)}"
        f"^{_ten(book.ask_quantities, n)}^{_ten(book.bid_quantities, n)}^{book.total_ask}^{book.total_bid}"
        f"^0^0^{expected}^{stock.totals[venue].volume}"
        f"^{book.total_ask - before.total_ask}^{book.total_bid - before.total_bid}^0^0^0"
    )
    at_krx, at_nxt = f"{middle}^{mid_quantity}^2", f"{middle}^{mid_quantity * 3 // 10}^1"
    if venue == "KRX":
        return _fit(f"{values}^{at_krx}^{phase.market}", _BASE_BOOK + 4, width)
    if venue == "NXT" and width == _BASE_BOOK + 6:
        return f"{values}^{at_krx}^{at_nxt}"  # the layout of the official samples
    if venue == "NXT":
        return _fit(f"{values}^{at_nxt}", _BASE_BOOK + 3, width)
    return _fit(f"{values}^{at_krx}^{at_nxt}^1", _BASE_BOOK + 7, width)


def operation(
    venue: Venue,
    code: str,
    is_halted: bool,
    width: int,
    *,
    reason: str = "",
    operation_code: str = "",
    expected_code: str = "",
    status_code: str = "55",
    vi: str = "N",
    overtime_vi: str = "",
) -> str:
    """The record of a market operation."""
    exchange = {"KRX": "1", "NXT": "2", "UN": "3"}[venue]
    halted = "Y" if is_halted else "N"
    values = (
        f"{code}^{halted}^{reason or '(null)'}^{operation_code}^{expected_code}^^^{status_code}^{vi}"
        f"^{overtime_vi}^{exchange}"
    )
    return _fit(values, 11, width)


def _first(values: list[int]) -> int:
    return values[0] if values else 0


def _ten(values: list[int], n: int) -> str:
    shown = values[:n]
    return "^".join(map(str, shown)) + "^0" * (LEVELS - len(shown)) if shown else "0" + "^0" * (LEVELS - 1)


def _fit(values: str, width: int, wanted: int) -> str:
    """Cut values off, or append the columns of a future layout."""
    if wanted == width:
        return values
    if wanted > width:
        return values + "^9" * (wanted - width)
    return "^".join(values.split("^", wanted)[:wanted])
