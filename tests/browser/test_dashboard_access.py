"""The dashboard for everybody: by keyboard, read aloud, on small screens, in both themes."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import jwt

from tests.browser.access import check_that_it_is_found, contrast, focus, unnamed
from tests.browser.dashboard import PATH, dashboard
from tests.browser.publishing import ADMIN, book, price, publish
from tests.conftest import StartServer

SECRET = "a secret of more than thirty-two bytes"


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
            focused = await focus(page)
            assert focused.is_seen, focused
            assert focused.contrast >= 3, focused
            if focused.name in way:
                break
            way.append(focused.name)
            if focused.name == "candles":
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
        n_controls, nameless = await unnamed(page)
        assert n_controls > 20
        assert nameless == []
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
                measured = await contrast(page)
                assert measured.too_little == [], (theme, scheme)
                assert measured.n_texts > 80
                assert measured.n_fields >= 3
            await check_that_it_is_found(page)
        await page.run(
            "for (const one of document.querySelectorAll('[data-fresh]')) one.dataset.fresh = 'false'"
        )
        await page.run("document.querySelector('#server-age').textContent = '5s old'")
        assert (await contrast(page)).too_little == []

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
