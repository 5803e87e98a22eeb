"""The shape of what a load client measures."""

from typing import TypedDict


class Durations(TypedDict):
    """Percentiles in milliseconds, None when nothing was measured; resolution 0.1 ms, from 51 ms on 0.4 %.

    Latencies run from a message's `timestamp` to its receipt, both on this machine's wall clock. The timestamp
    is cut to whole milliseconds, which adds half a millisecond on average. The messages of a frame are taken to
    be spread evenly between its first and its last one; the full check measures each.
    """

    count: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    mean_ms: float | None


class Pings(Durations):
    """Round trips of application pings, from when each was due to its pong.

    Those that were `skipped`, as the connection still waited for a pong, are in the percentiles with the wait that
    they would have had.
    """

    sent: int
    answered: int
    skipped: int
    open: int
    """Sent and without a pong at the end; the oldest of them has waited for `longest_open_ms`."""
    longest_open_ms: float
    ended: int
    """Sent on connections that ended without a pong."""


class Group(TypedDict):
    """What a group of connections has received."""

    connections: int
    open: int
    closes: dict[int, int]
    """Connections by the code the peer closed them with; 1005: a frame without code, 1006: no close frame."""
    messages: int
    """Published messages, each one of a batch; without those of snapshots."""
    messages_per_second: float
    messages_per_connection: tuple[int, int]
    """The fewest and the most that one connection got."""
    snapshots: int
    snapshot_messages: int
    control_messages: int
    binary_messages: int
    compressed_messages: int
    """Messages that came compressed, of which nothing else is known."""
    shutdowns: int
    """`server_shutdown` messages."""
    frames: int
    bytes: int
    bytes_per_second: float
    receives: int
    lost: int
    """Numbers missing in `seq` at the end, whether declared or not."""
    declared_lost: int
    """Sum of `dropped` in the `overflow` messages received."""
    undeclared_lost: int
    """Summed over connections, what is lost beyond what that connection was told."""
    overflows: int
    duplicates: int
    reordered: int
    """Messages that came after one with a higher `seq`."""
    conflated: int
    sequence_backwards: int
    """Messages or batches whose `sequence` was not above what the connection had seen."""
    errors: int
    first_error: str | None
    unparsed: int
    """Messages that could not be read, or a batch whose size is not that announced."""
    first_unparsed: str | None
    untimed: int
    """Messages without a `timestamp`: in no latency figure."""
    protocol_violations: int
    bad_texts: int
    """Text messages that were no UTF-8; without a check they are not looked at."""
    numbered: int
    """Published messages whose `seq` was checked, those between the edges of a batch included."""
    unnumbered: int
    """Prices and order books without `seq`: that one is missing could not be seen."""
    unwanted: int
    """Numbered messages of what the connection had not subscribed to."""
    unfinished: int
    """Messages in the middle of which their connection ended."""
    begun: int
    """Messages that had begun at the end and not ended."""
    early: int
    """Messages that came before their own timestamp, by `earliest_ms` at most; in the latencies as 0."""
    earliest_ms: float
    overlong: int
    """Messages that took more than 60 s; in the percentiles as 60 s."""
    latency: Durations
    slowest_at: float | None
    """When the message with the largest latency came: seconds of the monotonic clock."""


class ClientShare(TypedDict):
    """What the load client itself needed of its thread's time while `run` lasted."""

    cpu_seconds: float
    cpu_share: float
    busy_share: float
    """Share of the time spent outside of epoll, waits for a processor included."""
    run_delay_seconds: float
    """How long the thread was ready to run and had no processor."""
    wakeups: int
    stall_max_ms: float
    """The longest time in which it did not look at its sockets beyond what it had meant to sleep: work between two
    looks, waits for a processor, being stopped."""


class Restored(TypedDict):
    """Answers to restorations of sessions."""

    sessions: int
    recovered: int
    """Those to which the server had everything since their cursor."""
    missed: int
    """Messages that the answers announced."""


class LoadResult(Group):
    """The figures of a `LoadClient`. Those of `Group` are of the connections that read."""

    url: str
    seconds: float
    silence_max_ms: float
    """The longest time in which no published message came on any connection, without pauses of the client itself."""
    slow: Group | None
    ping: Pings | None
    return_delay: Durations | None
    """What `server_shutdown` told the connections to wait; None when none came."""
    restored: Restored | None
    """None before `restore`."""
    client: ClientShare


class StreamState(TypedDict):
    """What the full check keeps of one symbol and message type on one connection."""

    seq: int
    messages: int
    price: str | None
    digest: int
