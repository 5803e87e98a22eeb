from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, TypeAlias

from fastws.bench.figures import LoadResult, StreamState
from fastws.errors import FastwsError

_Text: TypeAlias = bytes | str
_Item: TypeAlias = _Text | tuple[_Text, ...]

class LoadError(FastwsError): ...

class LoadClient:
    def __init__(
        self,
        url: str,
        connections: int,
        *,
        subscribe: _Text
        | Sequence[_Text | tuple[_Text, ...]]
        | Callable[[int], _Text | tuple[_Text, ...]]
        | None = None,
        wait_for: str | None = "subscribed",
        n_answers: int = 0,
        check: Literal["none", "edges", "full"] = "edges",
        conflated: bool = False,
        n_slow: int = 0,
        slow_receive_buffer: int = 0,
        n_ping: int = 0,
        ping_interval_ms: float = 100.0,
        ping_message: bytes = b'{"type":"ping"}',
        headers: Mapping[str, str] | None = None,
        deflate: bool = False,
        keep_sessions: bool = False,
        nap_us: int = 0,
        wanted: Callable[[int], Collection[tuple[str, str]] | None] | None = None,
        wanted_by_all: Collection[tuple[str, str]] = (),
    ) -> None: ...
    @property
    def url(self) -> str: ...
    @property
    def n_open(self) -> int: ...
    def connect(
        self,
        *,
        timeout: float = 30.0,
        max_in_flight: int = 100,
        ramp_up: float = 0.0,
        step: int = 1,
        on_progress: Callable[[int], object] | None = None,
    ) -> None: ...
    def cut(self) -> None: ...
    def restore(
        self,
        *,
        timeout: float = 30.0,
        max_in_flight: int = 100,
        on_progress: Callable[[int], object] | None = None,
    ) -> None: ...
    def run(self, seconds: float) -> None: ...
    def stop(self) -> None: ...
    def reset(self) -> None: ...
    def close(self, *, timeout: float = 2.0) -> None: ...
    def result(self) -> LoadResult: ...
    def latencies(self, *, slow: bool = False) -> list[tuple[float, float]]: ...
    def streams(self, index: int) -> dict[tuple[str, str], StreamState]: ...
