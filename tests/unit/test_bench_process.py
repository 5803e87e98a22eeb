"""When the machine stood still, as sleepers on each processor have seen it."""

from __future__ import annotations

import os
import random
import sys
import time

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench import process
from fastws.bench.process import StallProbe


def probe_of(*late: list[tuple[float, float]]) -> StallProbe:
    probe = StallProbe()
    probe.late = list(late)
    return probe


def test_the_machine_stood_still_when_all_were_late_at_once() -> None:
    probe = probe_of([(1.0, 2.0), (5.0, 6.0), (7.0, 8.0)], [(1.5, 5.5), (6.0, 7.0), (7.5, 9.0)])
    assert probe.stalls() == [(1.5, 2.0), (5.0, 5.5), (7.5, 8.0)]
    assert probe.stalled_ms(1.75, 5.25) == 500.0
    assert probe_of([(1.0, 2.0)], [(1.0, 2.0)], []).stalls() == []
    assert probe_of([(1.0, 2.0)]).stalls() == [(1.0, 2.0)]


def test_the_same_as_by_comparing_each_with_each() -> None:
    generator = random.Random(1)
    for _ in range(200):
        late = []
        for _ in range(3):
            edges = sorted(generator.sample(range(60), 2 * generator.randrange(8)))
            late.append([(float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)])
        covered = [{t for a, b in one for t in range(int(a), int(b))} for one in late]
        found = {t for a, b in probe_of(*late).stalls() for t in range(int(a), int(b))}
        assert found == set.intersection(*covered)


def test_an_hour_on_a_busy_machine_is_compared_in_no_time() -> None:
    late = [[(0.05 * i, 0.05 * i + 0.02) for i in range(72_000)] for _ in range(2)]
    began = time.process_time()
    assert len(probe_of(*late).stalls()) == 72_000
    assert time.process_time() - began < 5.0


def test_a_sleeper_that_is_late_very_often_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # More than a pipe holds, after which a writer would wait for a reader.
    program = (
        "import time\nprint('watching')\nfor i in range(20_000): print(i, i + 0.5)\n"
        "print(1e9, 2e9, flush=True)\ntime.sleep(60)"
    )
    monkeypatch.setattr(process, "_PROBE", program)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    with StallProbe() as probe:
        ((_, output),) = probe._processes
        deadline = time.monotonic() + 15
        while b"2000000000.0" not in os.pread(output.fileno(), 1 << 20, 0):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert len(probe.late[0]) == 20_001


def test_sleepers_are_there_while_they_are_needed() -> None:
    with StallProbe() as probe:
        processes = [sleeper for sleeper, _ in probe._processes]
        assert len(processes) == len(os.sched_getaffinity(0))
    assert all(sleeper.returncode is not None for sleeper in processes)
    assert len(probe.late) == len(processes)
    assert probe.report()["machine_stall_max_ms"] >= 0
