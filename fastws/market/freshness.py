"""Notices symbols of which nothing comes any more although they should be updated. Sans-IO."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from fastws._core import HISTOGRAM_BOUNDS
from fastws._freshness import Cadences, Sampler
from fastws._market import utc_text
from fastws.market.market import Stale
from fastws.market.sessions import QUIET, Calendar, MarketSessions, kind_of

if TYPE_CHECKING:
    from fastws._core import Channel
    from fastws._market import MarketStatus
    from fastws.market.market import Market

STALE: Final = "stale"
LIVE: Final = "live"
# Of a description only; no message says these.
UNJUDGED: Final = "unjudged"
RESTORED: Final = "restored"

# Room is made for so many symbols at once.
_STEP: Final = 1024
# So many statuses are published, and reasons asked for, in a row; it takes about a millisecond.
_MOST: Final = 250
# A feed is stale when half of its symbols are, at least so many, and no longer when a quarter is.
_LEAST_JUDGED: Final = 10
_BEGINS: Final = 0.5
_ENDS: Final = 0.25


class SymbolStatus(NamedTuple):
    """Whether the silence of a symbol is longer than can be: "stale", else "live".

    `last_ms` is when its last price or book was published, Unix epoch; `usual_ms` how long it usually is from one to
    the next, and `limit_ms` from which silence on it is stale; 0 where that is not known.
    """

    code: str
    status: str
    last_ms: int
    usual_ms: int
    limit_ms: int


class _Place:
    """A market, as far as sessions go. `wanted` is the kind of its phase, `kind` the one that counts."""

    __slots__ = ("has_traded", "kind", "members", "opened_at", "wanted")

    def __init__(self) -> None:
        self.members: list[int] = []
        self.kind = self.wanted = QUIET
        self.opened_at = 0.0
        self.has_traded = False


class Counts(NamedTuple):
    """How many symbols there have been updates of, the silence of how many would be noticed, and how many are stale."""

    known: int
    judged: int
    stale: int


class Freshness:
    """Looks at all symbols of `market` about once a second, and publishes the `symbol_status` of those that change.

    1. A symbol is what is newer of its price and its order book. So one in a volatility interruption is not stale:
       its book goes on. What it is compared with is learned; see `Cadences`.
    2. It is judged while its market trades without a break: before, in and after the regular session, each with its own
       kind of cadence, and not in auctions, halts and pauses. Where nobody has said that a session is open, it
       begins with the first update of any of the market: on a holiday that nobody knew of there is none.
    3. `is_quiet` is asked of each symbol that would be stale: whether its silence has a reason. It is asked again while
       it is stale.
    4. A symbol that is stale and is updated is live at once for those who see the update; its `symbol_status` follows
       with the next look. When very many change together, 250 a look are told, the first ones first.

    `now` is monotonic and `wall` Unix time, both in seconds.
    """

    def __init__(
        self,
        market: Market,
        calendars: Mapping[str, Calendar],
        *,
        least: float,
        most: float,
        learning: float,
        is_quiet: Callable[[str], bool] = lambda code: False,
    ) -> None:
        self.cadences = Cadences(least=least, most=most, learning=learning)
        self.are_most_stale = False
        """Whether so many symbols are stale that it is the feed rather than they."""
        self.lag_counts = [0] * (len(HISTOGRAM_BOUNDS) + 1)
        """How long after the exchange's time prices were received, by the bounds of histograms: of each symbol with
        pushed prices the last one of each look."""
        self.lag_seconds = 0.0
        self._market = market
        self._sessions = MarketSessions(calendars)
        self._is_quiet = is_quiet
        self._sampler = Sampler()
        self._codes: list[str] = []
        self._numbers: dict[str, int] = {}
        self._places: dict[str | None, _Place] = {}
        # Of each symbol.
        self._homes: list[_Place | None] = []
        self._n_changes = market.n_changes
        self._room = 0
        self._seq = np.zeros(0, np.int64)
        self._at = np.zeros(0)
        self._lags = np.zeros(0, np.float32)
        self._bounds = np.array(HISTOGRAM_BOUNDS, np.float32)
        self._told: set[int] = set()
        # In order, each once: those whose status is not the one that was told, and the stale ones.
        self._untold: dict[int, None] = {}
        self._asking: dict[int, None] = {}
        self._said: list[MarketStatus] = []
        market.on_status.append(self._said.append)

    def configure(self, *, least: float, most: float, learning: float) -> None:
        """Set other limits of silence; see `Cadences`."""
        self.cadences.configure(least=least, most=most, learning=learning)

    @property
    def counts(self) -> Counts:
        return Counts(len(self._codes), self.cadences.n_judged, self.cadences.n_stale)

    def is_stale(self, code: str) -> bool:
        number = self._numbers.get(code)
        return number is not None and self.cadences.is_stale(number)

    def stale_codes(self, most: int) -> list[str]:
        """The codes of some symbols that are stale."""
        return [self._codes[number] for number in islice(self._told, most)]

    def look(self, now: float, wall: float, stood_still: float = 0.0) -> None:
        """Judge all symbols, and tell what has changed.

        Of the time since the last look `stood_still` seconds do not count: nobody here could take anything then.
        """
        if stood_still:
            self.cadences.stand_still(stood_still)
        self._adopt(now)
        n_lags = self._sampler.read(self._seq, self._at, self._lags)
        self._count_lags(n_lags)
        self._follow_sessions(now, wall)
        stale, live = self.cadences.look(self._seq, self._at, now)
        for number in stale:
            if self._is_quiet(self._codes[number]):
                self.cadences.excuse(number, now)
            else:
                self._asking[number] = None
            self._note(number)
        for number in live:
            self._note(number)
        self._ask_again(now)
        self._tell(now, wall)
        _, n_judged, n_stale = self.counts
        share = n_stale / max(n_judged, _LEAST_JUDGED)
        self.are_most_stale = share >= (_ENDS if self.are_most_stale else _BEGINS)

    def describe(self, code: str, now: float, wall: float) -> dict[str, Any] | None:
        """What is known of a symbol: the body of ``/v1/stocks/{code}/freshness``; None before its first update.

        The status is "restored" while there is nothing but values from before the start, of whose silence nothing is
        known here, and "unjudged" where its silence would not be noticed.
        """
        channels, number = self._market.channels_of(code), self._numbers.get(code)
        if channels is None:
            return None
        cadences = self.cadences
        market = channels.instrument.market
        is_restored = not (_is_fresh(channels.prices) or _is_fresh(channels.books))
        # It is too new to have been looked at where it has no number.
        interval = None if number is None else cadences.interval(number)
        limit = None if number is None else cadences.limit(number)
        silence = 0.0 if number is None else cadences.silence(number, now)
        status = STALE if self.is_stale(code) else LIVE
        if is_restored:
            status = RESTORED
        elif limit is None:
            status = UNJUDGED
        return {
            "code": code,
            "status": status,
            "market_phase": None if market is None else self._sessions.phase(market, wall)[0],
            "silent_ms": None if is_restored else round(silence * 1000),
            "usual_interval_ms": None if interval is None else round(interval * 1000),
            "stale_after_ms": None if limit is None else round(limit * 1000),
            "price": _times(channels.prices, now, wall),
            "orderbook": _times(channels.books, now, wall),
        }

    def _adopt(self, now: float) -> None:
        """Take symbols that are new, and those that have come to another market."""
        market, first = self._market, len(self._codes)
        n_new = market.n_updated - first
        if n_new:
            if first + n_new > self._room:
                self._grow(first + n_new)
            self.cadences.add(n_new, now)
            for channels in market.channels(first):
                code = channels.instrument.code
                self._sampler.add(channels.prices, channels.books)
                self._numbers[code] = len(self._codes)
                self._codes.append(code)
                self._homes.append(None)
        if self._n_changes != market.n_changes:
            self._n_changes = market.n_changes
            for place in self._places.values():
                place.members.clear()
            self._place(0, now)
            self._places = {name: place for name, place in self._places.items() if place.members}
        elif n_new:
            self._place(first, now)

    def _place(self, first: int, now: float) -> None:
        """Note where symbols are. Those that were there before stay as they are, stale ones stale."""
        came: dict[_Place, list[int]] = {}
        for number, channels in enumerate(self._market.channels(first), first):
            place = self._places.setdefault(channels.instrument.market, _Place())
            place.members.append(number)
            if self._homes[number] is not place:
                self._homes[number] = place
                came.setdefault(place, []).append(number)
        for place, members in came.items():
            self._enter(members, place.kind, now)

    def _enter(self, members: list[int], kind: int, now: float) -> None:
        self.cadences.enter(members, kind, now)
        for number in members:
            self._note(number)

    def _grow(self, n: int) -> None:
        self._room = -(-n // _STEP) * _STEP
        self._seq = np.append(self._seq, np.full(self._room - len(self._seq), -1, np.int64))
        self._at = np.append(self._at, np.zeros(self._room - len(self._at)))
        self._lags = np.zeros(self._room, np.float32)

    def _count_lags(self, n: int) -> None:
        if n == 0:
            return
        lags = np.maximum(self._lags[:n], 0.0)
        places = np.searchsorted(self._bounds, lags)
        for i, count in zip(*np.unique(places, return_counts=True), strict=True):
            self.lag_counts[int(i)] += int(count)
        self.lag_seconds += float(lags.sum())

    # Sessions.

    def _follow_sessions(self, now: float, wall: float) -> None:
        for status in self._said:
            self._sessions.on_status(status.market, status.status, wall)
        self._said.clear()
        self._sessions.pass_on(wall)
        for name, place in self._places.items():
            phase, is_said = (None, False) if name is None else self._sessions.phase(name, wall)
            wanted = kind_of(phase)
            if wanted != place.wanted:
                place.wanted, place.opened_at, place.has_traded = wanted, now, False
            if not place.has_traded and wanted != QUIET:
                place.has_traded = is_said or bool(self._at[place.members].max() >= place.opened_at)
            kind = wanted if place.has_traded else QUIET
            if kind != place.kind:
                place.kind = kind
                self._enter(place.members, kind, now)

    # What is stale.

    def _ask_again(self, now: float) -> None:
        """Some symbols that are stale may have a reason by now."""
        # Not one by one off the front: each look at it goes over all that were there.
        for number in list(islice(self._asking, _MOST)):
            del self._asking[number]
            if not self.cadences.is_stale(number):
                continue
            if self._is_quiet(self._codes[number]):
                self.cadences.excuse(number, now)
                self._note(number)
            else:
                self._asking[number] = None

    def _note(self, number: int) -> None:
        """To be called when a symbol may have become stale, or live."""
        if self.cadences.is_stale(number) != (number in self._told):
            self._untold[number] = None
        else:
            self._untold.pop(number, None)

    def _tell(self, now: float, wall: float) -> None:
        for number in list(islice(self._untold, _MOST)):
            del self._untold[number]
            is_stale = self.cadences.is_stale(number)
            (self._told.add if is_stale else self._told.discard)(number)
            interval, limit = self.cadences.interval(number), self.cadences.limit(number)
            self._market.publish_symbol_status(
                SymbolStatus(
                    self._codes[number],
                    STALE if is_stale else LIVE,
                    int((wall - (now - float(self._at[number]))) * 1000),
                    round((interval or 0.0) * 1000),
                    round((limit or 0.0) * 1000),
                )
            )


def encode_symbol_status(status: SymbolStatus, published_ms: int, *, is_enveloped: bool = False) -> bytes:
    """Return the message of a status without its closing brace; as of the realtime dialect if it `is_enveloped`."""
    members: dict[str, str | int] = {
        "symbol" if is_enveloped else "code": status.code,
        "status": status.status,
        "last_update": utc_text(max(0, status.last_ms)),
    }
    if status.usual_ms:
        members["usual_interval_ms"] = status.usual_ms
    if status.limit_ms:
        members["stale_after_ms"] = status.limit_ms
    body = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    timestamp = utc_text(published_ms)
    if is_enveloped:
        return f'{{"type":"symbol_status","data":{body},"timestamp":"{timestamp}"'.encode()
    return f'{{"type":"symbol_status",{body[1:-1]},"timestamp":"{timestamp}"'.encode()


def _is_fresh(channel: Channel) -> bool:
    """Whether something was published on a channel since the start."""
    return channel.last_times_ns is not None and not isinstance(channel.last_payload, Stale)


def _times(channel: Channel, now: float, wall: float) -> dict[str, str | bool | None] | None:
    """When the last update of a channel happened, was received, published, flushed and sent.

    Of one from before the start it is known when it was published then, and nothing of its way.
    """
    found, payload = channel.last_times_ns, channel.last_payload
    if found is None:
        return None
    is_restored = isinstance(payload, Stale)
    event_ms = getattr(payload.value if is_restored else payload, "event_time_ms", 0)
    names = ("received", "published", "flushed", "sent")
    shown: dict[str, str | bool | None] = {"event_time": utc_text(event_ms) if event_ms else None}
    if is_restored:
        known = {"published": utc_text(payload.published_ms), "restored": True}
        return shown | dict.fromkeys(names) | known
    for name, ns in zip(names, found, strict=True):
        shown[name] = utc_text(max(0, int((wall - now + ns * 1e-9) * 1000))) if ns else None
    return shown
