"""The dashboard under load: `python -m tests.browser.dashboard_soak --seconds 60`.

50 symbols with 1,000 price updates a second between them and the order book of one, on a real server and in Chromium.
Fails when a task of the page has kept the reader waiting for longer than 200 ms, when memory has grown, or when
something on the screen was not current at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.browser.dashboard import PATH, Dashboard
from tests.browser.devtools import Page, browsing
from tests.serving import Server

N_SYMBOLS = 50
RATE = 1000
LONGEST_TASK_MS = 200
# Of a processor, with all pixels drawn in software.
MAX_CPU = 0.6
# Of what the page holds after a collection: more than that between the first third of the time and the last is growth.
HEAP_GROWTH = 1.05
HEAP_SLACK = 1 << 20
_WARM_UP_SECONDS = 5.0
_N_SAMPLES = 12
_TRACED_SECONDS = 3.0

# Before the page's own scripts.
_WATCH = """
  window.observed = { tasks: [], frames: 0 };
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) window.observed.tasks.push(duration);
  }).observe({ type: "longtask" });
  (function count() {
    window.observed.frames += 1;
    requestAnimationFrame(count);
  })();
"""


class Outcome(NamedTuple):
    """What was seen within `seconds`: per second if not said otherwise, tasks in ms, memory in bytes.

    `cpu` is the share of the time that the page's main thread computed, and `longest_computed` the longest that a task
    did, within a few seconds after the others: neither counts what it waited for others on a busy machine.
    `longest_task` is what a reader waits, whatever for.
    """

    seconds: float
    updates: float
    messages: float
    frames: float
    cpu: float
    n_long_tasks: int
    longest_task: float
    longest_computed: float
    heap: list[int]
    n_nodes: int
    n_stale: int
    problems: list[str]

    def complaints(self, *, has_machine: bool) -> list[str]:
        """What is not as it should be; how long tasks took counts only where the page `has_machine` to itself."""
        found = [f"the page had a problem: {problem}" for problem in self.problems]
        if self.cpu > MAX_CPU:
            found.append(f"the page computed for {self.cpu:.0%} of the time, which is over {MAX_CPU:.0%}")
        if self.longest_computed > LONGEST_TASK_MS / 2:
            found.append(
                f"a task computed for {self.longest_computed:.0f} ms, which is over {LONGEST_TASK_MS / 2:.0f} ms"
            )
        if has_machine and self.longest_task > LONGEST_TASK_MS:
            found.append(f"a task took {self.longest_task:.0f} ms, which is over {LONGEST_TASK_MS} ms")
        if self.updates < 0.9 * RATE:
            found.append(f"there were {self.updates:.0f} updates/s, and not {RATE}")
        third = len(self.heap) // 3
        first, last = min(self.heap[:third]), min(self.heap[-third:])
        if last > HEAP_GROWTH * first + HEAP_SLACK:
            found.append(f"the heap grew from {first / 1e6:.2f} MB to {last / 1e6:.2f} MB")
        if self.n_stale:
            found.append(f"{self.n_stale} rows were not current at the end")
        return found


def start_server(directory: Path) -> Server:
    """A server whose simulator has 50 symbols, and twice the rate, as every other update is a book."""
    lines = [
        f"{100_000 + number},Number {number},KOSPI,IT,{10_000 + 100 * number},KRW"
        for number in range(N_SYMBOLS)
    ]
    symbols = directory / "symbols.csv"
    symbols.write_text("\n".join(["symbol,name,market,sector,previous_close,currency", *lines, ""]))
    return Server(
        directory,
        *("--feed", "sim", "--simulator-rate", str(2 * RATE), "--symbols-file", str(symbols)),
        subscription_limit=N_SYMBOLS + 20,
        simulator_opening_burst=1,
    )


async def measure(server: Server, page: Page, seconds: float) -> Outcome:
    """Open the dashboard of `server` with all its symbols, and look at it for so long."""
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
    await page.resize(1440, 900)
    await page.open(server.http_url + PATH)
    codes = json.dumps([str(100_000 + number) for number in range(N_SYMBOLS)])
    await page.run(f"localStorage.setItem('fastws.watchlist', {json.dumps(codes)})")
    await page.open(server.http_url + PATH)
    shown = Dashboard(page)
    await shown.until_link("live")
    await page.until(f"document.querySelectorAll('#watch-rows [data-fresh=true]').length === {N_SYMBOLS}", 30)
    await asyncio.sleep(min(_WARM_UP_SECONDS, seconds / 2))
    await page.call("Performance.enable", timeDomain="threadTicks")
    before, computed = await asyncio.to_thread(server.stats), await _cpu_seconds(page)
    began = time.monotonic()
    await page.run("Object.assign(window.observed, { tasks: [], frames: 0 })")
    heap = []
    for number in range(1, _N_SAMPLES + 1):
        heap.append(await _heap(page))
        await asyncio.sleep(max(0.0, began + seconds * number / _N_SAMPLES - time.monotonic()))
    seen = await page.run("window.observed")
    elapsed = time.monotonic() - began
    computed = await _cpu_seconds(page) - computed
    after = await asyncio.to_thread(server.stats)
    handed_on = [stats["updates"]["delivered"] + stats["updates"]["conflated"] for stats in (before, after)]
    return Outcome(
        seconds=round(elapsed, 1),
        updates=round((handed_on[1] - handed_on[0]) / elapsed, 1),
        messages=round((after["messages_sent"] - before["messages_sent"]) / elapsed, 1),
        frames=round(seen["frames"] / elapsed, 1),
        cpu=round(computed / elapsed, 3),
        n_long_tasks=len(seen["tasks"]),
        longest_task=max(seen["tasks"], default=0.0),
        longest_computed=await _longest_computed(page),
        heap=heap,
        n_nodes=await page.run("document.getElementsByTagName('*').length"),
        n_stale=await page.run("document.querySelectorAll('#watch-rows [data-fresh=false]').length"),
        problems=list(page.problems),
    )


async def _cpu_seconds(page: Page) -> float:
    metrics = (await page.call("Performance.getMetrics"))["metrics"]
    (seconds,) = [float(one["value"]) for one in metrics if one["name"] == "TaskDuration"]
    return seconds


async def _longest_computed(page: Page) -> float:
    """The longest of the tasks of the page's main thread, in ms of its processor time."""
    events: list[dict[str, Any]] = []
    is_complete = asyncio.Event()
    page.on("Tracing.dataCollected", lambda params: events.extend(params["value"]))
    page.on("Tracing.tracingComplete", lambda params: is_complete.set())
    categories = ["devtools.timeline", "disabled-by-default-devtools.timeline"]
    await page.call(
        "Tracing.start", traceConfig={"includedCategories": categories, "excludedCategories": ["*"]}
    )
    await asyncio.sleep(_TRACED_SECONDS)
    await page.call("Tracing.end")
    async with asyncio.timeout(30):
        await is_complete.wait()
    drawing = {(one["pid"], one["tid"]) for one in events if one["name"] == "FireAnimationFrame"}
    tasks = [one for one in events if one["name"] == "RunTask" and (one["pid"], one["tid"]) in drawing]
    assert tasks, "nothing was traced"
    return max(float(one.get("tdur", 0)) / 1000 for one in tasks)


async def _heap(page: Page) -> int:
    """What is held, and not what waits to be collected."""
    tasks = await page.run("window.observed.tasks.length")
    await page.call("HeapProfiler.collectGarbage")
    used = int((await page.call("Runtime.getHeapUsage"))["usedSize"])
    # The collection is a long task of ours and none of the page's.
    await page.run(
        f"new Promise(requestAnimationFrame).then(() => {{ window.observed.tasks.length = {tasks}; }})"
    )
    return used


async def soak(seconds: float, directory: Path) -> Outcome:
    server = await asyncio.to_thread(start_server, directory)
    try:
        async with browsing(directory / "profile") as page:
            return await measure(server, page, seconds)
    finally:
        await asyncio.to_thread(server.end)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.dashboard_soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="default: 60")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        outcome = asyncio.run(soak(arguments.seconds, Path(directory)))
    figures: dict[str, Any] = outcome._asdict()
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    complaints = outcome.complaints(has_machine=True)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
