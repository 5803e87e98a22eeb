"""The dashboard when one of its symbols falls silent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.browser.dashboard import dashboard
from tests.browser.publishing import ADMIN, price, publish
from tests.conftest import StartServer
from tests.serving import Server, until

ROW = "document.querySelector('#watch-rows tr[data-code=\"{}\"]').dataset.fresh"


def teach(target: Server, *codes: str) -> None:
    """Have the server learn how often symbols are updated."""
    publish(target, {"type": "market_status", "market": "KOSPI", "status": "open"})

    def are_learned() -> bool:
        for n in range(30):
            publish(target, *[price(code, 73_000 + n) for code in codes])
        limits = [target.get_json(f"/v1/stocks/{code}/freshness")["stale_after_ms"] for code in codes]
        return all(limit is not None and limit < 4000 for limit in limits)

    until(are_learned, "cadences", 15.0)


@pytest.mark.long
async def test_a_silent_symbol_is_grey_and_says_so(server: StartServer, tmp_path: Path) -> None:
    target = server("--feed", "none", admin_token=ADMIN, symbol_stale_min=2, symbol_stale_learning=0)
    async with dashboard(target, tmp_path / "profile") as shown:
        await asyncio.to_thread(teach, target, "005930", "000660")

        async def publish_one() -> None:
            n = 0
            while True:
                n += 1
                publish(target, price("000660", 606_000 + n % 2))
                await asyncio.sleep(0.2)

        ticking = asyncio.create_task(publish_one())
        try:
            publish(target, price("005930", 73_100))
            await shown.until_price("005930", "73,100")
            await shown.page.until(f"{ROW.format('005930')} === 'false'", 15)
            assert await shown.page.run(ROW.format("000660")) == "true"
            await shown.page.run("document.querySelector('#watch-rows tr[data-code=\"005930\"]').click()")
            await shown.page.until("document.querySelector('#detail-badge').textContent === 'stale'")
            publish(target, price("005930", 73_200))
            await shown.until_price("005930", "73,200")
            await shown.page.until("document.querySelector('#detail-badge').hidden")
        finally:
            ticking.cancel()
