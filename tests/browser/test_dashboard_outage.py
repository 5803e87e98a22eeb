"""The dashboard when the server is gone, does not answer, or has much to say: nothing old is shown as current."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from tests.browser.dashboard import PATH, dashboard
from tests.browser.dashboard_soak import measure, start_server
from tests.browser.devtools import browsing
from tests.browser.publishing import ADMIN, book, price, publish
from tests.conftest import StartServer
from tests.serving import Server, free_port

# Noted in every frame: how many values say that they are current, what state the connection is shown to be in, and what
# the first price is.
WATCHER = """
  window.frames_seen = [];
  (function look() {
    const { link } = document.documentElement.dataset;
    const fresh = document.querySelectorAll('#watch-rows [data-fresh=true], #detail[data-fresh=true]').length;
    const price = document.querySelector('#watch-rows .price').textContent;
    const last = window.frames_seen.at(-1);
    if (!last || last.link !== link || last.fresh !== fresh || last.price !== price) {
      window.frames_seen.push({ link, fresh, price });
    }
    requestAnimationFrame(look);
  })();
"""
FIGURES = "document.querySelector('#server')"
SAID_OF_FIGURES = "['age', 'note'].map((name) => document.querySelector(`#server-${name}`).textContent)"
# How many ms after the last figures came they were marked as old, and the server was said not to answer.
FIGURES_WATCHER = """
  window.figures_ages = {};
  new MutationObserver(() => {
    const came = performance.getEntriesByType("resource").filter(({ name }) => name.endsWith("v1/ws/stats")).at(-1);
    const age = performance.now() - came.responseEnd;
    if (document.querySelector("#server").dataset.fresh === "false") window.figures_ages.old ??= age;
    if (document.querySelector("#server-note").textContent !== "") window.figures_ages.silent ??= age;
  }).observe(document.querySelector("#server"), {
    subtree: true, attributes: true, childList: true, characterData: true,
  });
"""


async def test_a_killed_server_comes_back_under_the_page(tmp_path: Path) -> None:
    port = str(free_port())
    flags = ("--feed", "none", "--port", port)
    first = await asyncio.to_thread(Server, tmp_path, *flags, admin_token=ADMIN)
    second = None
    try:
        publish(first, price("005930", 73000, change=1000), price("000660", 606000), book("005930", 73000))
        async with dashboard(first, tmp_path / "profile") as shown:
            page = shown.page
            await shown.until_price("005930", "73,000")
            await shown.until_price("000660", "606,000")
            await page.until("document.querySelector('#ladder').dataset.fresh === 'true'")
            await page.run("window.is_the_same_page = true")
            await page.run(WATCHER)

            first.signal(signal.SIGKILL)
            assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
            await shown.until_link("reconnecting")
            await page.until("document.querySelectorAll('[data-fresh=true]:not(#server)').length === 0")
            # What was known is still there to be read, and said not to be current.
            assert (await shown.row("005930"))["price"] == "73,000"
            assert await page.text("#detail-badge") == "not current"
            await page.until(
                "document.querySelector('#link-detail').textContent.startsWith('next attempt in')"
            )
            await page.until("document.title.startsWith('(stale)')")

            second = await asyncio.to_thread(Server, tmp_path, *flags, admin_token=ADMIN)
            # Of the other one nothing is known yet, and its old price is not said to be current.
            publish(second, price("005930", 74000, change=2000), book("005930", 74000))
            await shown.until_link("live", 40)
            await shown.until_price("005930", "74,000")
            await page.until("document.querySelector('#ladder').dataset.fresh === 'true'")
            assert (await shown.levels())[9]["price"] == "74,000"
            assert not (await shown.row("000660"))["is_fresh"]
            publish(second, price("000660", 607000))
            await shown.until_price("000660", "607,000")
            publish(second, price("005930", 74100, change=2100))
            await shown.until_price("005930", "74,100")

            seen = await page.run("window.frames_seen")
            gone = next(i for i, frame in enumerate(seen) if frame["link"] != "live")
            for frame in seen[gone:]:
                assert frame["fresh"] == 0 or (frame["link"], frame["price"] != "73,000") == ("live", True), (
                    seen
                )
            assert await page.run("window.is_the_same_page")
            # The browser itself says that it could not connect.
            assert [one for one in page.problems if "ERR_CONNECTION" not in one] == []
    finally:
        if second is not None:
            await asyncio.to_thread(second.end)
        first.process.kill()
        first.process.wait()


async def test_what_is_not_told_is_not_current(tmp_path: Path, server: StartServer) -> None:
    target = server("--feed", "none", admin_token=ADMIN)
    publish(target, price("005930", 73000))
    is_old = "document.querySelector('#watch-rows tr').dataset.fresh === 'false'"
    async with dashboard(target, tmp_path / "profile") as shown:
        page = shown.page
        await shown.until_price("005930", "73,000")

        # A hidden page rests, and comes back with what is true.
        hidden = "Object.defineProperty(document, '{}', {{ value: {}, configurable: true }});"
        tell = "document.dispatchEvent(new Event('visibilitychange'))"
        await page.run(hidden.format("hidden", "true") + hidden.format("visibilityState", "'hidden'") + tell)
        await page.until(is_old)
        before = await asyncio.to_thread(target.stats)
        publish(target, *(price("005930", 73000 + number) for number in range(1, 101)))
        publish(target, price("000660", 606000))
        assert (await asyncio.to_thread(target.stats))["messages_sent"] - before["messages_sent"] <= 2
        assert (await shown.row("005930"))["price"] == "73,000"
        await page.run(f"delete document.hidden; delete document.visibilityState; {tell}")
        await shown.until_price("005930", "73,100")
        await shown.until_price("000660", "606,000")

        # A server that does not answer is not live, though the connection stands; nor are its own figures.
        await page.until(f"{FIGURES}.dataset.fresh === 'true'")
        assert await page.run(SAID_OF_FIGURES) == ["", ""]
        await page.run(FIGURES_WATCHER)
        target.process.send_signal(signal.SIGSTOP)
        try:
            await page.until(is_old, 15)
            assert await page.run("document.documentElement.dataset.link") != "live"
            await page.until("document.querySelector('#server-note').textContent !== ''")
            age, note = await page.run(SAID_OF_FIGURES)
            assert re.fullmatch(r"[3-9]s old", age)
            assert note == "The server does not answer."
            # Counted from when the last figures came.
            ages = await page.run("window.figures_ages")
            assert 3000 <= ages["old"] < 4500
            assert 3000 <= ages["silent"] < 4500
            # It grows old before the eyes, and is announced once.
            await page.until(f"{FIGURES}.querySelector('#server-age').textContent !== '{age}'")
            assert (await page.run(SAID_OF_FIGURES))[1] == note
        finally:
            target.process.send_signal(signal.SIGCONT)
        await shown.until_link("live", 40)
        await shown.until_price("005930", "73,100")
        await page.until(f"{FIGURES}.dataset.fresh === 'true'")
        assert await page.run(SAID_OF_FIGURES) == ["", ""]

        # Nor is what a feed has said that has ended.
        ended = server("--feed", "replay:sample", "--replay-speed", "max")
        await asyncio.to_thread(ended.until_feed_is, "stopped")
        await page.open(ended.http_url + PATH)
        await shown.until_link("stale")
        assert await page.text("#link-detail") == "feed replay: stopped"
        await page.until("/\\d/.test(document.querySelector('#watch-rows .price')?.textContent)")
        assert not any(row["is_fresh"] for row in await shown.rows())


@pytest.mark.long
async def test_it_keeps_up_with_a_thousand_updates_a_second(tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_server, tmp_path)
    try:
        async with browsing(tmp_path / "profile") as page:
            outcome = await measure(server, page, 4.0)
    finally:
        await asyncio.to_thread(server.end)
    assert outcome.complaints(has_machine=False) == [], json.dumps(outcome._asdict())
