"""The site that `make docs` builds: whole, and with nothing in it that comes from another place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import web

from fastws.errors import CloseCode, ErrorCode
from fastws.messages.examples import _LINES, _REALTIME_LINES, examples, realtime_examples
from fastws.settings import SETTINGS
from tests.browser.devtools import browsing
from tests.browser.test_chromium import Site as Server
from tests.serving import ROOT, require_module


class Page(HTMLParser):
    """What a page loads, the places in it that can be linked to, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if tag == "a":
            self.linked.append(found.get("href") or "")
        else:
            self.loaded += [address for name in ("src", "href", "srcset") if (address := found.get(name))]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the site."""
    require_module("mkdocs")
    require_module("material")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return directory


@pytest.fixture(scope="module")
def site(built: Path) -> dict[str, Page]:
    return {str(path.relative_to(built)): Page(path) for path in built.rglob("*.html")}


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: dict[str, Page]) -> None:
    sources = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")
    }
    assert site.keys() == sources | {"404.html", "bench_results/index.html"}
    for name, page in site.items():
        assert [address for address in page.loaded if re.match(r"\w+:|//", address)] == [], name
        assert "made of:" not in page.text, name


def test_the_protocol_pages_have_every_message_to_the_letter(site: dict[str, Page]) -> None:
    for name, messages, lines in (
        ("screener", examples(), _LINES),
        ("realtime", realtime_examples(), _REALTIME_LINES),
    ):
        page = site[f"protocol/{name}.html"]
        assert messages.keys() <= page.ids
        for line in filter(None, lines.split("\n")):
            assert line in page.text
    codes = site["protocol/codes.html"].text
    assert all(f"{code}" in codes and code.meaning in codes for code in ErrorCode)
    assert all(str(int(code)) in codes and code.meaning in codes for code in CloseCode)


def test_the_reference_has_every_setting_and_command(site: dict[str, Page]) -> None:
    assert SETTINGS.keys() <= site["operations/settings.html"].ids
    commands = {"serve", "check-config", "feed", "update-prices", "import", "record", "token", "bench"}
    assert commands <= site["operations/commands.html"].ids
    metrics = site["operations/metrics.html"].text
    for name in ("connections", "stage_seconds", "kis_sessions", "poll_calls_total", "portfolios_left_out"):
        assert f"fastws_{name}" in metrics
    assert "/v1/portfolios/reload" in site["protocol/http.html"].text


def test_links_of_the_readme_lead_somewhere() -> None:
    for name in ("README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))):
        path = ROOT / name
        for address in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            place = address.partition("#")[0]
            if place and not re.match(r"\w+:", place):
                assert (path.parent / place).exists(), f"{name}: {address}"


async def test_it_is_read_and_searched_from_the_disk_and_from_a_server(built: Path, tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_static("/", built)
    server = Server()
    async with server.running(app), browsing(tmp_path / "profile") as page:
        asked: list[str] = []
        await page.resize(1300, 900)
        page.on("Network.requestWillBeSent", lambda params: asked.append(params["request"]["url"]))
        for origin in (built.as_uri(), server.origin):
            await page.open(f"{origin}/operations/settings.html")
            assert "Settings" in await page.text("h1")
            await page.click("input.md-search__input")
            await page.type("portfolio_interval_ms")
            await page.press("End")  # a key, as of somebody who types
            await page.until("document.querySelectorAll('.md-search-result__item').length > 0")
            found = await page.run("document.querySelector('.md-search-result__link').href")
            await page.open(found)
            assert "portfolio_interval_ms" in await page.text("article")
        assert all(address.startswith((built.as_uri(), server.origin, "data:")) for address in asked), asked
        assert page.problems == []
