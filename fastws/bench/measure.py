"""A measured stretch of load, with a look at the server every second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastws.bench._client import LoadClient
from fastws.bench.figures import LoadResult
from fastws.bench.process import Process, Sample


@dataclass(frozen=True)
class Run:
    """A measured stretch of load."""

    connect_s: float
    load: LoadResult
    server: dict[str, Any] | None
    """What its process needed; None when it is not known, or was gone before there were two looks at it."""
    timeline: list[dict[str, float]]
    """A row for each second: `at` in s since the beginning, `messages` in that second, `rss` of the server in bytes,
    and how many slow readers are left (`slow_open`)."""


def observe(
    client: LoadClient,
    process: Process | None,
    *,
    seconds: float,
    connect_s: float,
    is_stopped: Callable[[], bool] = lambda: False,
    on_second: Callable[[float, LoadResult], object] | None = None,
) -> Run:
    """Run an open `client` for so many seconds, less when no connection is left or `is_stopped` says so.

    `on_second` is told the time since the beginning and the figures until then, once a second.
    """
    samples = [process.sample()] if process else []
    own_started = time.process_time()
    began = time.monotonic()
    timeline: list[dict[str, float]] = []
    n_before = 0
    while (left := began + seconds - time.monotonic()) > 0.001 and client.n_open and not is_stopped():
        client.run(min(1.0, left))
        result = client.result()
        at = time.monotonic() - began
        row: dict[str, float] = {"at": at, "messages": result["messages"] - n_before}
        n_before = result["messages"]
        if result["slow"]:
            row["slow_open"] = result["slow"]["open"]
        if process:
            try:
                samples.append(process.sample())
            except (FileNotFoundError, ProcessLookupError):  # it has ended, as its connections tell
                process = None
            else:
                row["rss"] = samples[-1].rss
        timeline.append(row)
        if on_second:
            on_second(at, result)
    own_s = time.process_time() - own_started
    return Run(connect_s, client.result(), _server(samples, own_s), timeline)


def _server(samples: list[Sample], own_s: float) -> dict[str, Any] | None:
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    elapsed = last.at - first.at
    cpu_s = last.cpu_s - first.cpu_s
    return {
        "cpu_cores": cpu_s / elapsed,
        "waited_seconds": last.waited_s - first.waited_s,
        "rss_first": first.rss,
        "rss_last": last.rss,
        "rss_most": max(sample.rss for sample in samples),
        "other_processes_cores": max(
            0.0, (last.machine_busy_s - first.machine_busy_s - cpu_s - own_s) / elapsed
        ),
    }
