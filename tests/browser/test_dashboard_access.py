"""The dashboard for everybody: by keyboard, read aloud, on small screens, in both themes."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import jwt

from tests.browser.dashboard import PATH, dashboard
from tests.browser.test_js_client import ADMIN, book, price, publish
from tests.conftest import StartServer

SECRET = "a secret of more than thirty-two bytes"

# Every text that is seen, with its contrast to what is painted below it, as WCAG 2 has it; those under the limit.
LOW_CONTRAST = """
(() => {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let n = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest(".spoken, .skip, option")) continue;
    const below = [];
    for (let up = element; up; up = up.parentElement) below.unshift(getComputedStyle(up).backgroundColor);
    const style = getComputedStyle(element);
    const back = paint(["white", ...below]);
    const front = paint(["white", ...below, style.color]);
    const [light, dark] = [luminance(back), luminance(front)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    n += 1;
    const name = element.id || element.className;
    if (ratio < (isLarge ? 3 : 4.5)) found.push(`${name} "${node.data}" ${ratio.toFixed(2)}`);
  }
  return { n, found };
})()
"""
FOCUSED = """
(() => {
  const element = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const { top, bottom } = element.getBoundingClientRect();
  return {
    name: element.id || element.dataset.code || element.dataset.scheme || element.dataset.range || element.textContent,
    is_seen: outlineStyle !== "none" && parseFloat(outlineWidth) >= 1 && bottom > 0 && top < innerHeight,
  };
})()
"""
CONTROLS = {
    "button",
    "textbox",
    "combobox",
    "row",
    "gridcell",
    "link",
    "dialog",
    "grid",
    "listbox",
    "table",
    "img",
}
NAMED = CONTROLS - {"row", "gridcell"}


async def test_it_can_be_read_and_used_by_everybody(server: StartServer, tmp_path: Path) -> None:
    target = server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    publish(
        target,
        price("005930", 73000, change=1000, change_percent=1.39),
        price("000660", 606000, change=-1000, change_percent=-0.17),
        price("373220", 463500, change=0, change_percent=0.0),
        book("005930", 73000),
    )
    token = jwt.encode({"sub": "trader", "exp": time.time() + 600}, SECRET, "HS256")
    async with dashboard(target, tmp_path / "profile") as shown:
        page = shown.page
        await shown.until_price("373220", "463,500")

        # Tab goes the way of the eye, to each control once, and shows where it is.
        await page.run("document.body.focus()")
        way = []
        for _ in range(30):
            await page.press("Tab")
            focused = await page.run(FOCUSED)
            assert focused["is_seen"], focused
            if focused["name"] in way:
                break
            way.append(focused["name"])
            if focused["name"] == "candles":
                break
        assert way == [
            *("Skip to the watch-list", "kr", "western", "한국어"),
            *(await page.run("[document.querySelector('#display').lastChild.textContent]")),
            *("account", "search", "005930", "Keys", "1", "5", "15", "candles"),
        ]
        await page.press("Shift+Tab")
        await page.press("Enter")
        assert await page.run("document.activeElement.ariaPressed") == "true"
        # The same by a key, from anywhere.
        await page.press("4")
        await page.until("document.querySelector('[data-range=candles]').ariaPressed === 'true'")
        await page.press("2")

        # What a screen reader is told: no control without a name. Prices are not announced.
        await shown.sign_in(token)
        await page.until("!document.querySelector('#alerts-body').hidden")
        tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
        controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in NAMED]
        assert len(controls) > 20
        unnamed = [node for node in controls if not node.get("name", {}).get("value", "").strip()]
        assert unnamed == []
        # What stands in an empty field is no name of it: it is gone when something is typed.
        assert await page.run(
            "[...document.querySelectorAll('input, select')].every((one) => one.labels.length === 1)"
        )
        live = await page.run(
            "[...document.querySelectorAll('[aria-live], [role=status], [role=alert]')].map((one) => one.id)"
        )
        assert sorted(live) == [
            *(
                "alert-problem",
                "link-state",
                "notices",
                "search-note",
                "server-note",
                "spoken",
                "token-problem",
            ),
        ]

        # Contrast in both themes and both ways of colouring, with values that are current and such that are not.
        for theme in ("light", "dark"):
            await page.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
            for scheme in ("western", "kr"):
                await page.click(f"#colours [data-scheme={scheme}]")
                contrast = await page.run(LOW_CONTRAST)
                assert contrast["found"] == [], (theme, scheme)
                assert contrast["n"] > 80
        await page.run(
            "for (const one of document.querySelectorAll('[data-fresh]')) one.dataset.fresh = 'false'"
        )
        assert (await page.run(LOW_CONTRAST))["found"] == []

        # Nothing sticks out on the smallest phones, in either language.
        for width in (360, 390, 800, 1180):
            await page.resize(width, 740, is_phone=width < 500)
            for _ in ("Korean", "English"):
                await page.click("#display button")
                wide = await page.run("document.documentElement.scrollWidth")
                assert wide <= width, (width, wide)

        # Nothing from elsewhere is loaded, or could be.
        policy = await page.run(
            "fetch(location.href).then((response) => response.headers.get('content-security-policy'))"
        )
        assert "default-src 'none'" in policy
        assert "'unsafe" not in policy
        loaded = await page.run("performance.getEntriesByType('resource').map((one) => one.name)")
        assert all(name.startswith(target.http_url) for name in loaded), loaded
        markup = (await asyncio.to_thread(target.get, PATH))[1].decode()
        assert not re.search(r"<script(?![^>]* src=)|<style|\bstyle=|\bon\w+=|https?://", markup)
        assert page.problems == []
