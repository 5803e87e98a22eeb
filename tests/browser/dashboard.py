"""The dashboard as a reader has it before them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.browser.devtools import Page, browsing
from tests.serving import Server

PATH = "/realtime/dashboard/"

# Row by row what the watch-list says; numbers as they are read.
_ROWS = """
[...document.querySelectorAll("#watch-rows tr")].map((row) => {
  const text = (selector) => row.querySelector(selector).textContent;
  return {
    code: row.dataset.code, name: text(".name"), price: text(".price"), change: text(".change"),
    percent: text(".percent"), is_fresh: row.dataset.fresh === "true", direction: row.dataset.direction,
    is_chosen: row.getAttribute("aria-selected") === "true",
  };
})
"""
_LEVELS = """
[...document.querySelectorAll("#ladder .level")].map((row) => ({
  side: row.dataset.side,
  price: row.querySelector(".level-price").textContent,
  quantity: row.querySelector(".quantity").textContent,
  length: Number(row.querySelector(".bar").style.transform.slice(7, -1)),
}))
"""


class Dashboard:
    """The page, used by its controls and read from the screen."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def rows(self) -> list[dict[str, Any]]:
        """The lines of the watch-list."""
        found: list[dict[str, Any]] = await self.page.run(_ROWS)
        return found

    async def row(self, code: str) -> dict[str, Any]:
        (found,) = [row for row in await self.rows() if row["code"] == code]
        return found

    async def codes(self) -> list[str]:
        return [row["code"] for row in await self.rows()]

    async def levels(self) -> list[dict[str, Any]]:
        """The lines of the order book, from the highest ask to the lowest bid."""
        found: list[dict[str, Any]] = await self.page.run(_LEVELS)
        return found

    async def until_price(self, code: str, text: str) -> None:
        """Wait until a price is on the screen, as current."""
        row = f"document.querySelector('#watch-rows tr[data-code={json.dumps(code)}]')"
        await self.page.until(
            f"{row}?.dataset.fresh === 'true' && {row}.querySelector('.price').textContent === {json.dumps(text)}"
        )

    async def until_link(self, state: str, seconds: float = 30.0) -> None:
        await self.page.until(f"document.documentElement.dataset.link === {json.dumps(state)}", seconds)

    async def search(self, text: str) -> list[str]:
        """Type into the search, by keyboard; returns the codes that are found."""
        await self.page.run("document.activeElement.blur()")
        await self.page.press("/")
        assert await self.page.run("document.activeElement.id") == "search"
        await self.page.type(text)
        await self.page.until(
            "document.querySelector('#search').ariaExpanded === 'true' || "
            "!document.querySelector('#search-note').hidden"
        )
        found: list[str] = await self.page.run(
            "[...document.querySelectorAll('#search-results li')].map((one) => one.dataset.code)"
        )
        return found

    async def sign_in(self, token: str) -> None:
        await self.page.click("#account")
        await self.page.until("document.querySelector('#sign-in').open")
        await self.page.type(token)
        await self.page.press("Enter")


@asynccontextmanager
async def dashboard(server: Server, profile: Path, *flags: str) -> AsyncIterator[Dashboard]:
    """The dashboard of a server, connected."""
    async with browsing(profile, *flags) as page:
        await page.resize(1440, 900)
        await page.call("Emulation.setLocaleOverride", locale="en-US")
        await page.open(server.http_url + PATH)
        await page.until("document.documentElement.dataset.ready === 'true'", 30)
        shown = Dashboard(page)
        await shown.until_link("live")
        yield shown


def number(text: str) -> float:
    """The number that a text on the screen says."""
    return float(text.replace(",", "").removesuffix("%"))
