"""The dashboard with little to show: a price of 0, a single one, no order book, an empty one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.browser.dashboard import Dashboard, dashboard, number
from tests.browser.publishing import ADMIN, book, price, publish
from tests.conftest import StartServer

# What is written into the chart, from when it was last wiped.
WATCHER = """
  window.labels = [];
  const { clearRect, fillText } = CanvasRenderingContext2D.prototype;
  const isChart = ({ canvas }) => canvas.closest("#chart") !== null;
  CanvasRenderingContext2D.prototype.clearRect = function (...area) {
    if (isChart(this)) window.labels = [];
    return clearRect.apply(this, area);
  };
  CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
    if (isChart(this) && text !== "") window.labels.push(text);
    return fillText.call(this, text, ...place);
  };
"""
LADDER = """
  ["#ladder-note", "#ladder-asks-total", "#ladder-bids-total"]
    .map((name) => document.querySelector(name).textContent)
    .concat(getComputedStyle(document.querySelector(".balance")).visibility)
"""


async def prices_on_the_axis(shown: Dashboard) -> list[str]:
    """The labels of the chart's axis of prices, from below; those of the other one are times of day."""
    labels: list[str] = await shown.page.run("window.labels.filter((label) => !label.includes(':'))")
    return sorted(labels, key=number)


async def choose(shown: Dashboard, code: str) -> None:
    await shown.page.click(f"#watch-rows tr[data-code={code}]")
    await shown.page.until(f"document.querySelector('#detail-code').textContent === '{code}'")
    await shown.page.until(f"document.querySelector('#chart').ariaLabel.startsWith('Price of {code}')")


async def test_little_is_shown_as_what_it_is(server: StartServer, tmp_path: Path) -> None:
    target = server("--feed", "none", "--symbols-file", str(symbols(tmp_path)), admin_token=ADMIN)
    publish(
        target,
        price("ZERO", 0),
        price("FIVE", 5),
        {"type": "price_update", "code": "CENT", "price": 0.05},
        price("LARGE", 98765432),
        price("BASE", 100, change=100),
        book("BASE", 100),
        {"type": "orderbook_update", "code": "ZERO", "bids": [], "asks": []},
    )
    async with dashboard(target, tmp_path / "profile") as shown:
        page = shown.page
        await page.run(WATCHER)
        assert set(await shown.codes()) == {"ZERO", "FIVE", "CENT", "LARGE", "BASE", "QUIET"}

        for code, value, least, text in (
            ("ZERO", 0.0, 1.0, "0"),
            ("FIVE", 5.0, 1.0, "5"),
            ("CENT", 0.05, 0.01, "0.05"),
            ("LARGE", 98765432.0, 1.0, "98,765,432"),
        ):
            await choose(shown, code)
            assert await page.text("#detail-price") == text
            for key in ("2", "4"):
                await page.press(key)
                await page.until("window.labels.length > 3")
                labels = await prices_on_the_axis(shown)
                values = [number(label) for label in labels]
                # Several, which differ as they are written, and the price is among them.
                assert 3 <= len(set(labels)) == len(labels), labels
                assert values[0] <= value <= values[-1]
                assert "-0" not in labels
                assert all(b - a > 0.999 * least for a, b in pairwise(values)), labels
                # As wide as what is written: nothing is cut off.
                assert max(map(len, labels)) <= len(text) + 1

        # No price at all: no scale that would be one.
        await choose(shown, "QUIET")
        await page.until("window.labels.length > 3")
        assert await prices_on_the_axis(shown) == []
        assert await page.run("document.querySelector('#chart').ariaLabel") == (
            "Price of QUIET, Candles: nothing yet"
        )

        # Nothing is weighed where nothing is offered.
        await page.until("document.querySelector('#ladder-note').textContent === 'No order book yet'")
        assert await page.run(LADDER) == ["No order book yet", "", "", "hidden"]
        await choose(shown, "ZERO")
        await page.until("document.querySelector('#ladder').dataset.fresh === 'true'")
        assert await page.run(LADDER) == ["", "0", "0", "hidden"]
        await choose(shown, "BASE")
        await page.until("document.querySelector('#ladder-note').textContent === 'Spread 10'")
        assert await page.run(LADDER) == ["Spread 10", "2", "1", "visible"]
        assert await page.run("document.querySelector('#ladder-balance').style.transform") == "scaleX(0.67)"
        # Against a close of 0 nothing is so many percent.
        percents = (
            "[...document.querySelectorAll('.level .level-percent')].map((cell) => cell.textContent).join('')"
        )
        assert await page.run(percents) == ""
        assert (await shown.row("BASE"))["percent"] == ""
        assert page.problems == []


def symbols(directory: Path) -> Path:
    file = directory / "symbols.csv"
    codes = ("ZERO", "FIVE", "CENT", "LARGE", "BASE", "QUIET")
    header = "symbol,name,market,sector,previous_close\n"
    file.write_text(header + "".join(f"{code},{code},,,\n" for code in codes))
    return file
