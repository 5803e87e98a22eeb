"""How the micro-benchmarks measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.calibration import Yardstick, calibrate
from benchmarks.wiring import Wiring

_T = TypeVar("_T")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "once: takes seconds, and is told as it is: repeating it says no more")


class Measure:
    """Times one function, and notes in ``extra_info`` what the time is of.

    A call of the function should take a millisecond or so: short enough to run now and then without being
    interrupted, because the shortest time is the one that counts, and long enough that the clock costs nothing.
    """

    def __init__(self, benchmark: BenchmarkFixture, what: str) -> None:
        self.benchmark = benchmark
        self._what = what

    def __call__(
        self,
        function: Callable[..., _T],
        *arguments: Any,
        unit: str,
        items: int = 1,
        size: int = 0,
        setup: Callable[[], object] | None = None,
        rounds: int = 30,
        like: Yardstick = "native",
        against: str | None = None,
        at_least: float | None = None,
    ) -> _T:
        """Return what `function` returned last.

        :param unit: what is counted, in the plural: messages, updates.
        :param items: how many of them one call makes.
        :param size: bytes that one call goes through; with it, MB/s are told too.
        :param setup: runs before each of `rounds` calls, and is not timed. Without it, as many rounds are made as
            fit into the time that pytest-benchmark gives.
        :param like: the yardstick that a slow machine slows down as it does this function.
        :param against: this is the work of a peer; the name of the benchmark of ours that it is compared with.
        :param at_least: what must be reached: items per second, or, beside `against`, how many times faster ours is.
        """
        benchmark = self.benchmark
        before = calibrate()
        ran, waited = _processor_ns()
        result: _T
        if setup is None:
            result = benchmark(function, *arguments)
        else:

            def prepare() -> None:
                setup()

            result = benchmark.pedantic(  # type: ignore[no-untyped-call]
                function, args=arguments, setup=prepare, rounds=rounds, iterations=1, warmup_rounds=1
            )
        now_ran, now_waited = _processor_ns()
        after = calibrate()
        info = benchmark.extra_info
        info["waiting"] = round((now_waited - waited) / max(1, now_waited - waited + now_ran - ran), 4)
        info.update(unit=f"{unit}/s", items=items, what=self._what, yardstick=like)
        info["yardsticks"] = {name: min(before[name], after[name]) for name in before}
        if size:
            info["bytes"] = size
        if against is not None:
            info["against"] = against
        if at_least is not None:
            info["at_least"] = at_least
        if benchmark.stats is not None:  # None with --benchmark-disable
            seconds = benchmark.stats.stats.min
            info[f"{unit}_per_s"] = round(items / seconds)
            info[f"ns_per_{unit.rstrip('s').replace(' ', '_')}"] = round(seconds / items * 1e9, 1)
            if size:
                info["MB_per_s"] = round(size / seconds / 1e6, 1)
        return result


def _processor_ns() -> tuple[int, int]:
    """How long this thread has had a processor, and has waited for one; zeros where the kernel does not tell."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return 0, 0
    return int(ran), int(waited)


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    documentation = request.function.__doc__
    assert documentation, "the first line of its docstring stands in the table"
    return Measure(benchmark, documentation.strip().splitlines()[0].rstrip("."))


@pytest.fixture
def wiring() -> Iterator[Callable[..., Wiring]]:
    """Make a hub on socketpairs with ``wiring(**settings of the hub)``; it is taken down with the test."""
    made: list[Wiring] = []

    def make(**settings: Any) -> Wiring:
        made.append(Wiring(**settings))
        return made[-1]

    yield make
    for wired in made:
        wired.close()
