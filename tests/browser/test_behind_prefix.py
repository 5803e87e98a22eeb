"""The pages behind a real nginx that has put them below a path of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser.devtools import browsing
from tests.conftest import StartServer
from tests.nginx import proxying

PREFIX = "/prices/fastws/"


@pytest.mark.plain("the proxy ends TLS")
async def test_pages_work_below_a_prefix(server: StartServer, tmp_path: Path) -> None:
    target = server("--feed", "sim", trusted_proxies="127.0.0.1")
    with proxying(tmp_path, f"{target.http_url}/", prefix=PREFIX) as port:
        base = f"http://127.0.0.1:{port}"
        async with browsing(tmp_path / "profile", "--lang=en-US") as page:
            for slash in ("/", ""):
                await page.open(f"{base}{PREFIX}realtime/test{slash}")
                await page.until("document.querySelector('#template').options.length > 5")
                await page.click("#connect")
                await page.until("document.querySelector('#state').dataset.state === 'open'")
                shown = await page.text("#facts")
                assert f"ws://127.0.0.1:{port}{PREFIX}v1/ws" in shown
                await page.click("#send")
                await page.until("document.querySelector('#log').textContent.includes('price_update')")
                # From one page to the other by its link.
                await page.click("nav a")
                await page.until(f"location.pathname === '{PREFIX}realtime/dashboard/'")

                await page.open(f"{base}{PREFIX}realtime/dashboard{slash}")
                before = await page.until("document.querySelector('#watch-rows').innerText.trim()")
                await page.until(
                    f"document.querySelector('#watch-rows').innerText.trim() !== {json.dumps(before)}"
                )
                loaded = await page.run("performance.getEntriesByType('resource').map(({ name }) => name)")
                assert loaded
                assert all(address.startswith(base + PREFIX) for address in loaded), loaded

            # Where the server says that its other socket is, it is.
            told = await page.run(
                f"fetch('{PREFIX}realtime/websocket-info/').then((one) => one.json()).then((one) => one.websocket_url)"
            )
            assert told == f"ws://127.0.0.1:{port}{PREFIX}ws/realtime/"
            greeting = await page.run(
                f"""new Promise((resolve, reject) => {{
                  const socket = new WebSocket({json.dumps(told)});
                  socket.onmessage = ({{ data }}) => resolve(JSON.parse(data).type);
                  socket.onerror = () => reject(new Error("refused"));
                }})"""
            )
            assert greeting == "connection"
            assert page.problems == []
