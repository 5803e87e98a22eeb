"""The load generator behind `fastws bench`: one thread, thousands of connections, every message counted.

Linux only, as it is built on epoll.
"""

from fastws.bench._client import LoadClient, LoadError
from fastws.bench.figures import (
    ClientShare,
    Durations,
    Group,
    LoadResult,
    Pings,
    Restored,
    StreamState,
)

__all__ = [
    "ClientShare",
    "Durations",
    "Group",
    "LoadClient",
    "LoadError",
    "LoadResult",
    "Pings",
    "Restored",
    "StreamState",
]
