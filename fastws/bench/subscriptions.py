"""What the connections of a load subscribe to, as it is written on the command line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

KINDS: Final = ("stock", "market", "sector")
MODES: Final = ("all", "latest")
CHANNELS: Final = ("price", "orderbook")
MESSAGE_TYPES: Final = {"price": "price_update", "orderbook": "orderbook_update"}
SYNTAX: Final = "KIND:TARGET[,TARGET...][,mode=all|latest][,max_rate=N][,channels=price+orderbook]"


Stream = tuple[str, str]
"""Type and code of numbered messages."""


@dataclass(frozen=True)
class Stock:
    """A stock as the server lists it; it may be of no market and of no sector."""

    code: str
    market: str | None
    sector: str | None


@dataclass(frozen=True)
class Subscription:
    """A `subscribe` request; None leaves an option to the server."""

    kind: str
    targets: tuple[str, ...]
    mode: str | None = None
    max_rate: float | None = None
    channels: tuple[str, ...] | None = None

    @property
    def is_conflated(self) -> bool:
        """Whether holes in `seq` are newer values in the place of older ones, and no loss."""
        if self.mode is not None or self.max_rate is not None:
            return self.mode != "all"
        return self.kind != "stock"

    @property
    def is_one_stream(self) -> bool:
        """Whether all that comes is numbered by one `seq`."""
        return (
            self.kind == "stock"
            and len(self.targets) == 1
            and self.channels is not None
            and len(self.channels) == 1
        )

    def request(self) -> bytes:
        members: dict[str, object] = {
            "type": "subscribe",
            "subscription_type": self.kind,
            "targets": self.targets,
        }
        for name in ("mode", "max_rate", "channels"):
            value = getattr(self, name)
            if value is not None:
                members[name] = value
        return json.dumps(members, separators=(",", ":")).encode()

    def streams(self, listed: Iterable[Stock]) -> frozenset[Stream]:
        """What answers it from a server that has the stocks `listed`, which count for markets and sectors only."""
        channels = self.channels or CHANNELS
        if self.kind == "stock":
            return frozenset((MESSAGE_TYPES[name], code) for name in channels for code in self.targets)
        # Of their members there are prices only.
        if "price" not in channels:
            return frozenset()
        members = (stock.code for stock in listed if getattr(stock, self.kind) in self.targets)
        return frozenset((MESSAGE_TYPES["price"], code) for code in members)

    def __str__(self) -> str:
        parts = [*self.targets] if len(self.targets) <= 3 else [f"{len(self.targets)} targets"]
        return f"{self.kind}:{','.join(parts)}{_options_text(self)}"


@dataclass(frozen=True)
class RandomStocks:
    """For each connection its own random `n` of the stocks that the server lists."""

    n: int
    options: Subscription
    """Its targets are empty."""
    is_at_most: bool = False
    """Whether fewer will do where there are fewer."""

    def draw(self, codes: Sequence[str], generator: random.Random) -> Subscription:
        targets = tuple(generator.sample(codes, min(self.n, len(codes))))
        return Subscription("stock", targets, self.options.mode, self.options.max_rate, self.options.channels)

    def __str__(self) -> str:
        return (
            f"{'up to ' if self.is_at_most else ''}{self.n} random stocks each{_options_text(self.options)}"
        )


def parse(text: str) -> Subscription:
    """Read a subscription such as ``stock:005930,000660,mode=latest``.

    :raises ValueError: it is none; the text says why.
    """
    kind, colon, rest = text.strip().partition(":")
    if not colon or kind not in KINDS:
        raise ValueError(f"{text!r} is no subscription; write {SYNTAX}, where KIND is {', '.join(KINDS)}")
    targets, options = _split(rest, text)
    if not targets:
        raise ValueError(f"{text!r} names no {kind}; write {SYNTAX}")
    return _with_options(kind, targets, options, text)


def parse_random(text: str) -> RandomStocks:
    """Read ``50`` or ``50,mode=latest``.

    :raises ValueError: it is neither; the text says why.
    """
    numbers, options = _split(text, text)
    if len(numbers) != 1 or not numbers[0].isascii() or not numbers[0].isdigit() or int(numbers[0]) < 1:
        raise ValueError(f"{text!r} is no number of stocks; write N[,mode=all|latest][,max_rate=N], as 50")
    return RandomStocks(int(numbers[0]), _with_options("stock", (), options, text))


def parse_lines(lines: Iterable[str]) -> list[Subscription]:
    """Read a subscription of every line that is neither empty nor begins with ``#``.

    :raises ValueError: a line is no subscription; the text names it by its number.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                found.append(parse(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return found


def requests(
    fixed: Sequence[Subscription], drawn: RandomStocks | None, codes: Sequence[str], seed: int
) -> Callable[[int], tuple[bytes, ...]]:
    """Return what gives the requests of a connection by its index; the same ones for the same `seed`."""
    same = tuple(subscription.request() for subscription in fixed)
    if drawn is None:
        return lambda index: same
    stocks = drawn
    return lambda index: (*same, _drawn(stocks, codes, seed, index).request())


def own_streams(
    drawn: RandomStocks | None, codes: Sequence[str], seed: int
) -> Callable[[int], frozenset[Stream]]:
    """Return what gives, by its index, what only this connection's requests ask for."""
    if drawn is None:
        return lambda index: frozenset()
    stocks = drawn
    return lambda index: _drawn(stocks, codes, seed, index).streams(())


def _drawn(drawn: RandomStocks, codes: Sequence[str], seed: int, index: int) -> Subscription:
    return drawn.draw(codes, random.Random(f"{seed}:{index}"))  # noqa: S311 - a choice that can be repeated


def _split(text: str, whole: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Take names and NAME=VALUE pairs apart."""
    names = []
    options: dict[str, str] = {}
    for part in text.split(","):
        name, sign, value = part.strip().partition("=")
        if not sign:
            names.append(name)
        elif name in options:
            raise ValueError(f"{whole!r} gives {name} twice")
        else:
            options[name] = value
    if names and not all(names):
        raise ValueError(f"{whole!r} has an empty name between commas")
    return tuple(names), options


def _with_options(kind: str, targets: tuple[str, ...], options: dict[str, str], whole: str) -> Subscription:
    unknown = options.keys() - {"mode", "max_rate", "channels"}
    if unknown:
        raise ValueError(f"{whole!r}: {min(unknown)} is no option; there are mode, max_rate and channels")
    mode = options.get("mode")
    if mode is not None and mode not in MODES:
        raise ValueError(f"{whole!r}: mode is {' or '.join(MODES)}, not {mode!r}")
    max_rate = None
    if "max_rate" in options:
        try:
            max_rate = float(options["max_rate"])
        except ValueError:
            max_rate = 0.0
        if not 0 < max_rate < float("inf"):
            raise ValueError(f"{whole!r}: max_rate is a number above 0, not {options['max_rate']!r}")
        if mode == "all":
            raise ValueError(f"{whole!r}: max_rate makes the mode latest; leave mode=all out")
    channels = None
    if "channels" in options:
        channels = tuple(options["channels"].split("+"))
        if len(set(channels)) < len(channels) or not set(channels) <= set(CHANNELS):
            raise ValueError(f"{whole!r}: channels are price, orderbook or price+orderbook")
    return Subscription(kind, targets, mode, max_rate, channels)


def _options_text(subscription: Subscription) -> str:
    words = []
    if subscription.mode is not None:
        words.append(f"mode={subscription.mode}")
    if subscription.max_rate is not None:
        words.append(f"max_rate={subscription.max_rate:g}")
    if subscription.channels is not None:
        words.append(f"channels={'+'.join(subscription.channels)}")
    return "".join(f",{word}" for word in words)
