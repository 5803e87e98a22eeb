"""What a source of polled prices is: one small class that asks one provider, and says what it was answered.

A source does not schedule, repeat, check, publish or log anything: whoever polls it does (`fastws.feeds.asker`). So
one of your own is short. Put it into a package whose metadata has an entry point of the group ``fastws.sources``::

    [project.entry-points."fastws.sources"]
    bank = "my_package:BankSource"

and ``fastws feed --source bank:https://quotes.bank.example`` and ``--feed poll:bank:https://…`` find it. A whole one::

    class BankSource(Source):
        name = "bank"
        symbols_per_call = 20
        min_interval = 0.5

        def __init__(self, argument: str, settings: Settings) -> None:
            if not argument:
                raise SourceSetupError("the source bank needs its address: bank:https://…")
            self._url = argument

        async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
            codes = ",".join(instrument.code for instrument in instruments)
            try:
                async with aiohttp.ClientSession() as http, http.get(f"{self._url}?of={codes}") as response:
                    if response.status == 429:
                        wait = seconds_of(response.headers, time.time())
                        raise SourceLimitError("it takes no more calls", wait)
                    response.raise_for_status()
                    rows = json.loads(await response.text(), parse_float=Decimal)
            except (aiohttp.ClientError, ValueError) as error:
                raise SourceError(f"it gave no usable answer: {error}") from None
            return Answer([Quote(code=row["code"], price=row["last"]) for row in rows])
"""

from __future__ import annotations

import datetime
import email.utils
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from fastws.errors import FeedError

if TYPE_CHECKING:
    from fastws._market import Instrument
    from fastws.settings import Settings

POLLED: Final = "polled"

Number = int | Decimal | str | float
"""A text is a plain decimal ("150.25"); a float counts by its shortest text, so round what is not exact first."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class SourceSetupError(FeedError):
    """A source cannot be used as it is set up; another try will not help. The text says what to do."""


class SourceError(FeedError):
    """A call did not succeed; another one may. The text says why, as what follows the name of the source."""


class SourceLimitError(SourceError):
    """The source takes no more calls for now; `retry_after` is for how many seconds, None where it did not say."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoPricesError(FeedError):
    """The source answers, and has nothing of this instrument: no failure of the source."""


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of one instrument, with the digits of the source, unchecked.

    `price` is the last one, `previous_close` that of the trading day before; `change` and `change_percent` are worked
    out from it where they are None. `volume`, `high` and `low` are the day's. `time_ms` is when the price was made
    (Unix epoch), None where the source does not say; `delay_s` how late its prices are by agreement. While the market
    `is_closed` the last price holds, however old it is.
    """

    code: str
    price: Number
    previous_close: Number | None = None
    change: Number | None = None
    change_percent: Number | None = None
    volume: Number | None = None
    high: Number | None = None
    low: Number | None = None
    currency: str | None = None
    venue: str | None = None
    time_ms: int | None = None
    delay_s: float = 0.0
    is_closed: bool = False


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of one trading day of an instrument, unchecked; `date` is that where it is listed.

    `currency` is None where the source does not say.
    """

    date: datetime.date
    close: Number | None
    open: Number | None = None
    high: Number | None = None
    low: Number | None = None
    volume: Number | None = None
    currency: str | None = None


class Answer(NamedTuple):
    """`quotes` in any order; `refused` says of other codes why there is none, one line each. What is in neither was not
    in the answer."""

    quotes: Sequence[Quote]
    refused: Mapping[str, str] = {}


class Source(ABC):
    """One provider of prices, used from one event loop, one call at a time.

    `name` is what it is called in flags and in `feed_status`. At most `symbols_per_call` instruments are asked for at
    once, and calls begin at least `min_interval` seconds apart, which its provider allows. `quality` goes into what is
    published. Its constructor gets what follows the name and a colon where it is named, "" where nothing does, and
    must not block; it raises :class:`SourceSetupError`.
    """

    name: ClassVar[str]
    symbols_per_call: int = 50
    min_interval: float = 0.0
    quality: str = POLLED

    @abstractmethod
    def __init__(self, argument: str, settings: Settings) -> None: ...

    def serves(self, instrument: Instrument) -> bool:
        """Whether it may know the instrument; the others are never asked for."""
        return True

    @abstractmethod
    async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
        """Ask for the last prices of one to `symbols_per_call` instruments.

        Cancelled when it takes too long. Raises :class:`SourceError`; what else it raises counts as one, too.
        """

    async def days(self, instrument: Instrument, first: datetime.date, last: datetime.date) -> Sequence[Day]:
        """Ask for the daily prices of trading days from `first` to `last`, both included, in any order.

        A day whose session is still under way is left out: its close is not known yet. Errors as of :meth:`quotes`,
        and :class:`NoPricesError`.
        """
        raise SourceSetupError(f"the source {self.name} has no daily prices")

    async def close(self) -> None:
        """Close what is open. A call that comes later opens it again."""
        return


def seconds_of(headers: Mapping[str, str], now: float) -> float | None:
    """Return how many seconds from `now` (Unix epoch) the ``Retry-After`` of `headers` asks for.

    It is a number of seconds or an HTTP date (RFC 9110 §10.2.3); None where it is missing or neither.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - now)
