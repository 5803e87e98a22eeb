"""A Redis of a test's own, as a process on a free port."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scenarios import redis_server
from tests.serving import free_port, require_program


class RedisServer(redis_server.RedisServer):
    """One ``redis-server``, on a port that no other test gets; a test is skipped where there is none."""

    def __init__(self, directory: Path, *options: str, config: Path | None = None) -> None:
        require_program(redis_server.PROGRAM)
        super().__init__(directory, *options, port=free_port(), config=config)
