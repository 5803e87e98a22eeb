"""The fan-out hot path. Everything here belongs to the thread of the event loop."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, final

CHANNEL_PRICE: Final[int]
CHANNEL_ORDERBOOK: Final[int]
CHANNEL_STATUS: Final[int]

class Handler(Protocol):
    """What a connection calls; see `Connection`."""

    def on_open(self, connection: Connection, /) -> None: ...
    def on_message(self, connection: Connection, data: bytes, is_text: bool, /) -> None: ...
    def on_rate_limited(self, connection: Connection, /) -> None: ...
    def on_close(self, connection: Connection, code: int, /) -> None: ...

@final
class Dialect:
    name: Final[str]
    index: Final[int]
    encode: Final[Callable[[Any, int], bytes]]
    batches: Final[bool]
    def __init__(
        self, name: str, encode: Callable[[Any, int], bytes], index: int = 0, *, batches: bool = True
    ) -> None: ...

@final
class Options:
    latest: Final[bool]
    interval_ms: Final[int]
    channels: Final[int]
    max_rate: Final[float]
    def __init__(self, latest: bool, interval_ms: int, channels: int, max_rate: float) -> None: ...

@final
class Topic:
    kind: Final[str]
    name: Final[str]
    number: Final[int]
    kind_index: Final[int]
    channels: Final[list[Channel]]
    @property
    def n_subscribers(self) -> int: ...

@final
class Channel:
    key: Final[str]
    name: Final[str]
    topics: Final[tuple[Topic, ...]]
    is_numbered: Final[bool]
    is_private: Final[bool]
    bit: Final[int]
    seq: Final[int]
    stamp: Final[int]
    @property
    def last_payload(self) -> Any: ...
    @property
    def last_published_ms(self) -> int: ...
    @property
    def last_times_ns(self) -> tuple[int, int, int, int] | None: ...

class Tap: ...

HISTOGRAM_BOUNDS: Final[tuple[float, ...]]

@final
class Meters:
    opened: Final[dict[str, int]]
    n_bytes_sent: Final[int]
    n_bytes_received: Final[int]
    n_rate_limited: Final[int]
    n_blocks: Final[int]
    n_overflows: Final[int]
    n_restores: Final[int]
    n_compressed: Final[int]
    n_bytes_to_compress: Final[int]
    n_bytes_compressed: Final[int]
    n_expanded: Final[int]
    n_bytes_to_expand: Final[int]
    n_bytes_expanded: Final[int]
    def histograms(self) -> dict[str, tuple[list[int], float]]: ...

@final
class Flusher:
    share: Final[float]
    effective_interval_ms: Final[float]
    busy_ns: Final[int]
    n_flushes: Final[int]
    n_sends: Final[int]
    last_flush_ns: Final[int]
    @property
    def is_idle(self) -> bool: ...
    def flush_all(self) -> None: ...
    def stop(self) -> None: ...

@final
class Hub:
    loop: Final[asyncio.AbstractEventLoop]
    epoch: Final[str]
    sequence: Final[int]
    interval_ms: Final[int]
    flusher: Final[Flusher]
    meters: Final[Meters]
    topics: Final[dict[tuple[str, str], Topic]]
    cohorts: Final[dict[bytes, Any]]
    rate_limit: Final[int]
    control_rate_limit: Final[int]
    outbox_soft_size: Final[int]
    outbox_hard_size: Final[int]
    n_connections: Final[int]
    n_accepted: Final[int]
    n_messages_sent: Final[int]
    n_messages_received: Final[int]
    loop_lag_ms: Final[float]
    closes: Final[dict[int, int]]
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        epoch: str,
        interval_ms: int = 30,
        cohort_size: int = 256,
        outbox_soft_size: int = ...,
        outbox_hard_size: int = ...,
        stall_timeout: float = 30.0,
        rate_limit: int = 100,
        control_rate_limit: int = 200,
        ping_interval: float = 25.0,
        pong_timeout: float = 60.0,
        idle_timeout: float = 300.0,
        flush_share: float = 0.75,
        compress: Callable[[bytes, int], bytes] | None = None,
        inflate: Callable[[bytes, int], bytes] | None = None,
        deflate_threshold: int = 256,
        history_size: int = ...,
        logger: logging.Logger | None = None,
    ) -> None: ...
    def configure(
        self,
        *,
        outbox_soft_size: int | None = None,
        outbox_hard_size: int | None = None,
        stall_timeout: float | None = None,
        rate_limit: int | None = None,
        control_rate_limit: int | None = None,
        ping_interval: float | None = None,
        pong_timeout: float | None = None,
        idle_timeout: float | None = None,
        flush_share: float | None = None,
        deflate_threshold: int | None = None,
        history_size: int | None = None,
        compress: Callable[[bytes, int], bytes] | None = None,
    ) -> None: ...
    def topic(self, kind: str, name: str) -> Topic: ...
    def find_topic(self, kind: str, name: str) -> Topic | None: ...
    def channel(
        self,
        key: str,
        name: str,
        topics: tuple[Topic, ...],
        *,
        bit: int,
        numbered: bool,
        private: bool = False,
    ) -> Channel: ...
    def move_channels(self, moves: dict[Channel, tuple[Topic, ...]]) -> None: ...
    def options(self, *, latest: bool = False, max_rate: float = 0.0, channels: int = ...) -> Options: ...
    def set_received(self, at_ns: int) -> None: ...
    def publish(self, channel: Channel, payload: object) -> int: ...
    def attach(self, tap: Tap | None) -> None: ...
    def publish_carried(
        self, channel: Channel, payload: object, *, stamp: int, published_ms: int, head: bytes
    ) -> int: ...
    def note_missed(self, channel: Channel, n: int) -> None: ...
    def tell(self, channel: Channel, payload: object, connections: Iterable[Connection]) -> int: ...
    def broadcast(self, channel: Channel, payload: object) -> int: ...
    history_start: Final[int]
    history_size: Final[int]
    def count_missed(
        self, wanted: dict[Topic, Options], cursor: int, starts: dict[Topic | Channel, int] | None = None
    ) -> tuple[int, bool]: ...
    def marks(self, wanted: dict[Topic, Options], cursor: int) -> list[tuple[Channel, int, int]] | None: ...
    def starts(
        self, wanted: dict[Topic, Options], marks: list[tuple[Channel, int, int]], since: int
    ) -> tuple[int, dict[Topic | Channel, int]] | None: ...
    def connection_list(self) -> list[Connection]: ...
    def subscription_counts(self) -> dict[str, int]: ...
    def n_by_dialect(self) -> dict[str, int]: ...
    @property
    def n_history(self) -> int: ...
    def update_counts(self, *, private: bool = True) -> dict[str, int]: ...
    def queued_messages(self) -> int: ...
    def queued_bytes(self) -> int: ...
    def outboxes(self) -> dict[str, int]: ...
    def ledger(self) -> dict[str, int]: ...
    def audit(self, *, channels: bool = False) -> dict[str, Any]: ...
    def stop(self) -> None: ...

class Connection(asyncio.BufferedProtocol):
    hub: Final[Hub]
    transport: Final[asyncio.Transport]
    handler: Final[Handler]
    dialect: Final[Dialect]
    message_count: Final[int]
    close_reason: Final[str | None]
    context: Any
    def __init__(
        self,
        hub: Hub,
        transport: asyncio.Transport,
        handler: Handler,
        dialect: Dialect,
        *,
        max_message_size: int,
        allow_binary: bool = False,
        window_bits: int = 0,
    ) -> None: ...
    def open(self, leftover: bytes = b"") -> None: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def is_paused(self) -> bool: ...
    @property
    def opened_at_ms(self) -> int: ...
    @property
    def last_activity_ms(self) -> int: ...
    @property
    def queued_bytes(self) -> int: ...
    @property
    def queued_messages(self) -> int: ...
    def ledger(self) -> dict[str, int]: ...
    def subscriptions(self) -> dict[Topic, Options]: ...
    def set_subscriptions(self, wanted: dict[Topic, Options], is_paused: bool | None = None) -> None: ...
    def send_snapshot(self, topics: Iterable[tuple[Topic, Options]]) -> None: ...
    left_subscriptions: Final[dict[Topic, Options] | None]
    left_sequence: Final[int]
    left_paused: Final[bool]
    left_whole: Final[bool]
    @property
    def is_restoring(self) -> bool: ...
    @property
    def addressed_ahead(self) -> list[int]: ...
    @property
    def heard_at_ns(self) -> int: ...
    def ping(self) -> None: ...
    def restore(
        self,
        wanted: dict[Topic, Options],
        cursor: int,
        is_paused: bool = False,
        also: Iterable[int] = (),
        starts: dict[Topic | Channel, int] | None = None,
    ) -> bool: ...
    def send(self, data: bytes, is_text: bool = True) -> None: ...
    def send_control(self, data: bytes, *, is_followed: bool = False) -> None: ...
    def charge(self, n: int) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
    def abort(self, code: int, reason: str | None = None) -> None: ...
    def data_received(self, data: bytes) -> None: ...

def debug_counters() -> dict[str, int]: ...
def send_followed(fd: int, data: bytes) -> int: ...
