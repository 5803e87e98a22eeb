"""The envelopes in which instances hand each other what they publish."""

import logging
from collections.abc import Callable
from typing import Final, final

from fastws._core import Channel, Dialect, Hub, Tap
from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate

LIVE: Final[int]
REPEATED: Final[int]
LAST_VALUES: Final[int]
INSTEAD: Final[int]
KIND_PRICE: Final[int]
KIND_BOOK: Final[int]
KIND_STATUS: Final[int]
MAX_SHARDS: Final[int]
MAX_ENVELOPE_SIZE: Final[int]
FULL_SIZE: Final[int]

class EnvelopeError(ValueError): ...

def check_shards(n: int) -> int: ...
def stamp_at(seconds: float) -> int: ...
def shard_of(key: str, n_shards: int) -> int: ...
def is_json_members(data: bytes) -> bool: ...
def empty_envelope(
    kind: int, *, n_shards: int, shard: int, origin: int, first: int, is_last: bool = True
) -> bytes: ...
def relabel(envelope: bytes, kind: int, is_last: bool) -> bytes: ...

@final
class Outgoing(Tap):
    origin: Final[int]
    n_shards: Final[int]
    n_updates: Final[int]
    n_failed: Final[int]
    def __init__(
        self,
        hub: Hub,
        dialect: Dialect,
        *,
        origin: int,
        n_shards: int,
        on_filled: Callable[[], object],
        logger: logging.Logger,
    ) -> None: ...
    def envelopes(self) -> list[tuple[int, int, int, bytes]]: ...
    def positions(self) -> list[int]: ...
    def last_values(self, shard: int, kind: int = ...) -> list[bytes]: ...
    def shard_of_channel(self, channel: Channel) -> int: ...

@final
class Carried:
    kind: Final[int]
    code: Final[str]
    stamp: Final[int]
    published_ms: Final[int]
    number: Final[int]
    body: Final[bytes]
    is_sound: Final[bool]
    def price(self, instrument: Instrument) -> PriceUpdate: ...
    def book(self, instrument: Instrument) -> BookUpdate: ...
    def status(self) -> MarketStatus: ...

@final
class Envelope:
    kind: Final[int]
    is_last: Final[bool]
    n_shards: Final[int]
    shard: Final[int]
    origin: Final[int]
    first: Final[int]
    updates: Final[list[Carried]]

def read_envelope(data: bytes) -> Envelope: ...
