"""The dashboard in Chromium: what it shows is what the server says."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import jwt

from tests.browser.dashboard import Dashboard, dashboard, number
from tests.browser.devtools import browsing
from tests.browser.publishing import ADMIN, book, price, publish
from tests.clients import client
from tests.conftest import StartServer
from tests.serving import Server, run

SECRET = "a secret of more than thirty-two bytes"
SETTINGS = {"admin_token": ADMIN, "jwt_secret": SECRET}
HOSTILE = '<img src=x onerror="window.hacked=1">'

SYMBOLS = """symbol,name,market,sector,previous_close,currency
005930,Samsung Electronics,KOSPI,IT,72000,KRW
000660,SK hynix,KOSPI,IT,606000,KRW
AAPL,Apple,NASDAQ,IT,269.43,USD
"""


def token(user: str, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + 600, **claims}, SECRET, "HS256")


async def stands_still(server: Server, shown: Dashboard, code: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the server and the screen say of a symbol that had no price between the two answers of the server."""
    before = await asyncio.to_thread(server.get_json, f"/v1/stocks/{code}")
    row = await shown.row(code)
    after = await asyncio.to_thread(server.get_json, f"/v1/stocks/{code}")
    return (after, row) if before == after else await stands_still(server, shown, code)


async def until_equal(server: Server, shown: Dashboard, code: str) -> None:
    """Fail unless the screen says what the server does, within the second that an update may take on a busy machine."""
    deadline = time.monotonic() + 5
    while True:
        said, row = await stands_still(server, shown, code)
        found = [number(row[name]) for name in ("price", "change", "percent")]
        if found == [said["price"], said["change"], said["change_percent"]]:
            assert row["is_fresh"]
            assert row["direction"] == (
                "up" if said["change"] > 0 else "down" if said["change"] < 0 else "same"
            )
            return
        assert time.monotonic() < deadline, (said, row)


async def test_prices_the_order_book_and_the_chart_move(server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "symbols.csv").write_text(SYMBOLS)
    target = server(
        *("--feed", "sim", "--simulator-rate", "20", "--symbols-file", str(tmp_path / "symbols.csv")),
        simulator_opening_burst=1,
    )
    async with dashboard(target, tmp_path / "profile") as shown:
        page = shown.page
        assert await shown.codes() == ["005930", "000660", "AAPL"]
        await page.until(
            "[...document.querySelectorAll('#watch-rows .price')].every((one) => /\\d/.test(one.textContent))"
        )
        for code in await shown.codes():
            await until_equal(target, shown, code)
        # A dollar has cents, a won has none.
        assert "." in (await shown.row("AAPL"))["price"]
        assert "." not in (await shown.row("005930"))["price"]
        await page.until("document.querySelectorAll('#markets li').length === 2")
        assert await page.text("#markets") == "KOSPI open\nNASDAQ open"

        # The first one is chosen; its prices come and are drawn.
        before = await page.run("document.querySelector('#chart canvas').toDataURL()")
        first = await page.text("#detail-price")
        await page.until(f"document.querySelector('#detail-price').innerText !== {json.dumps(first)}", 20)
        await page.until(f"document.querySelector('#chart canvas').toDataURL() !== {json.dumps(before)}")
        assert await page.text("#detail-name") == "Samsung Electronics"
        assert (await page.run("document.title")).endswith("Samsung Electronics")
        label = await page.until(
            "document.querySelector('#chart').ariaLabel.match(/lowest ([\\d,]+), highest ([\\d,]+)/)"
        )
        assert number(label[1]) <= number(label[2])
        await page.until(
            "[...document.querySelectorAll('#watch-rows canvas')].some((one) => "
            "one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some((byte) => byte > 0))"
        )

        # Its book is that of another client's socket.
        async with client(target.url) as connection:
            await connection.subscribe("stock", "005930", channels=["orderbook"])
            deadline = time.monotonic() + 10
            books = []
            while True:
                message = await connection.receive()
                updates = message["messages"] if message["type"] == "batch" else [message]
                books += [one for one in updates if one["type"] == "orderbook_update"]
                levels = await shown.levels()
                if books and said_by(books[-1]) == [
                    (one["side"], one["price"], one["quantity"]) for one in levels
                ]:
                    break
                assert time.monotonic() < deadline, (books[-1:], levels)
        longest = max(number(level["quantity"]) for level in levels)
        for level in levels:
            assert abs(level["length"] - number(level["quantity"]) / longest) < 0.006
        assert page.problems == []


def said_by(update: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The lines of an order book as they are read."""
    sides = [("ask", level) for level in reversed(update["asks"])] + [
        ("bid", level) for level in update["bids"]
    ]
    return [(side, f"{level['price']:,}", f"{level['quantity']:,}") for side, level in sides]


async def test_the_list_is_the_readers_own(server: StartServer, tmp_path: Path) -> None:
    quoted = HOSTILE.replace('"', '""')
    others = "".join(f"00000{number},Number {number},KOSDAQ,IT,100,KRW\n" for number in range(8))
    (tmp_path / "symbols.csv").write_text(f'{SYMBOLS}{others}HOSTILE,"{quoted}",KOSPI,IT,100,KRW\n')
    target = server("--feed", "none", "--symbols-file", str(tmp_path / "symbols.csv"), **SETTINGS)
    publish(target, price("005930", 73000, change=1000, change_percent=1.39), price("AAPL", 270, change=-1))
    publish(target, price("HOSTILE", 100))
    async with dashboard(target, tmp_path / "profile") as shown:
        page = shown.page
        first = await shown.codes()
        assert first == ["005930", "000660", "AAPL", *(f"00000{number}" for number in range(7))]
        await shown.until_price("005930", "73,000")
        await page.click("tr[data-code=AAPL] .remove")
        first.remove("AAPL")
        assert await shown.codes() == first

        assert await shown.search("aapl") == ["AAPL"]
        await page.press("Enter")
        await shown.until_price("AAPL", "270.00")
        assert (await shown.row("AAPL"))["is_chosen"]
        assert await shown.search("number") == [f"00000{number}" for number in range(8)]
        await page.press("ArrowUp")
        assert "Number 7" in await page.text("#search-results [aria-selected=true]")
        await page.press("Escape")
        assert await shown.codes() == [*first, "AAPL"]
        assert await shown.search("no such thing") == []
        assert "no such thing" in await page.text("#search-note")
        await page.press("Escape")

        # A name is text, wherever it is shown.
        assert await shown.search("hostile") == ["HOSTILE"]
        await page.press("Enter")
        await shown.until_price("HOSTILE", "100")
        assert (await shown.row("HOSTILE"))["name"] == HOSTILE
        assert await page.text("#detail-name") == HOSTILE
        assert await page.run("window.hacked") is None

        # By keyboard: the chosen row has the focus of the list, Delete removes it, Alt moves it.
        await page.run("document.querySelector('#watch-rows [aria-selected=true]').focus()")
        await page.press("Delete")
        assert await shown.codes() == [*first, "AAPL"]
        assert await page.run("document.activeElement.dataset.code") == "AAPL"
        await page.press("Home")
        assert await page.run("document.activeElement.dataset.code") == first[0]
        await page.press("ArrowDown")
        await page.press("Delete")
        await page.press("Alt+ArrowUp")
        wanted = [first[2], first[0], *first[3:], "AAPL"]
        assert await shown.codes() == wanted
        held = json.loads(
            await asyncio.to_thread(lambda: target.get("/v1/ws/connections", headers=AUTHORITY)[1])
        )
        assert sorted(held[0]["subscriptions"]["stock"]) == sorted(wanted)

        # It is there at the next visit, and so are the language and the colours.
        await page.click("#display button")
        await page.click("#colours [data-scheme=western]")
        await page.open(page_url(target))
        await shown.until_link("live")
        await page.until(f"document.querySelectorAll('#watch-rows tr').length === {len(wanted)}")
        assert await shown.codes() == wanted
        assert await page.text("#watch-title") == "관심종목"
        assert await page.run("document.documentElement.lang") == "ko"
        await shown.until_price("AAPL", "270.00")
        green = await page.run(
            "getComputedStyle(document.querySelector('#watch-rows [data-direction=up] .price')).color"
        )
        await page.click("#colours [data-scheme=kr]")
        red = await page.run(
            "getComputedStyle(document.querySelector('#watch-rows [data-direction=up] .price')).color"
        )
        assert green != red
        # What is missing in the price of AAPL, its percentage, is made from nothing.
        assert (await shown.row("AAPL"))["percent"] == ""
        assert page.problems == []


AUTHORITY = {"Authorization": f"Bearer {ADMIN}"}


def page_url(server: Server) -> str:
    return f"{server.http_url}/realtime/dashboard/"


async def test_alerts_and_portfolios_are_for_those_who_sign_in(server: StartServer, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'fastws.db'}"
    (tmp_path / "portfolios.csv").write_text(
        "id,owner,name,currency\n7,trader,Growth,KRW\n8,other,Secret,KRW\n"
    )
    (tmp_path / "positions.csv").write_text("portfolio_id,symbol,quantity\n7,005930,10\n8,005930,1000\n")
    for kind in ("portfolios", "positions"):
        done = run(tmp_path, "import", kind, str(tmp_path / f"{kind}.csv"), "--database", database)
        assert done.returncode == 0, done.stderr
    target = server("--feed", "none", "--database", database, **SETTINGS)
    publish(target, price("005930", 73000, change=1000), book("005930", 73000))
    async with dashboard(target, tmp_path / "profile") as shown:
        page = shown.page
        await shown.until_price("005930", "73,000")
        assert await page.run("document.querySelector('#alerts-body').hidden")
        await shown.sign_in("not-a-token")
        await page.until("document.querySelector('#token-problem').textContent.includes('JWT')")
        await page.run("document.querySelector('#token').value = ''")
        await page.type(jwt.encode({"sub": "trader"}, SECRET.upper(), "HS256"))
        await page.press("Enter")
        await page.until("document.querySelector('#token-problem').textContent.includes('not accepted')")
        # The browser itself notes the answer 401.
        assert [problem for problem in page.problems if "401" not in problem] == []
        page.problems.clear()
        await page.run("document.querySelector('#sign-in-close').click()")
        mine = token("trader")
        await shown.sign_in(mine)
        await page.until("document.querySelector('#account-user').textContent === 'trader'")

        portfolio = "document.querySelector('#portfolio-rows tr')"
        await page.until(f"{portfolio}?.dataset.fresh === 'true'")
        assert await page.run(
            "[...document.querySelectorAll('#portfolio-rows tr')].map((one) => one.dataset.portfolio)"
        ) == ["7"]
        assert await page.text("#portfolio-rows .value") == "730,000"
        assert await page.text("#portfolio-rows .change") == "+10,000"

        # Made in the form, with the price that it suggests, and fired by the next one above.
        await page.until("document.querySelector('#alert-threshold').value === '73000'")
        await page.click("#alert-form button")
        await page.until("document.querySelectorAll('#alert-list li').length === 1")
        assert "waiting" in await page.text("#alert-list li")
        status, body = await asyncio.to_thread(
            target.get, "/v1/alerts", headers={"Authorization": f"Bearer {mine}"}
        )
        assert status == 200
        assert [(rule["code"], rule["threshold"]) for rule in json.loads(body)] == [("005930", 73000)]
        publish(target, price("005930", 73500, change=1500))
        await page.until("document.querySelector('#notices .notice') !== null")
        assert "Samsung Electronics exceeded 73,000" in await page.text("#notices")
        await page.until("document.querySelector('#alert-list li').dataset.fired === 'true'")
        # When it was; on another day that is said, too.
        fired = await page.text("#alert-list li")
        assert re.search(r"Price above 73,000 · fired \d\d:\d\d:\d\d at 73,500", fired), fired
        spoken = "import('/static/dashboard/format.js').then(({ timeText }) => timeText('2025-11-11T09:30:00+09:00'))"
        assert re.fullmatch(r"2025-11-1[01] \d\d:\d\d:00", await page.run(spoken))
        await page.until(f"{portfolio}.querySelector('.value').textContent === '735,000'")
        async with client(f"{target.url}?token={mine}") as connection:
            await connection.subscribe("portfolio", "7")
            (value,) = (await connection.until_snapshot())["messages"]
        assert value["total_value"] == 735000

        # What is wrong is said where it was typed.
        await page.run("document.querySelector('#alert-threshold').value = 'much'")
        await page.click("#alert-form button")
        await page.until("document.querySelector('#alert-problem').textContent.includes('Write a number')")
        page.problems[:] = [problem for problem in page.problems if "400" not in problem]
        await page.click("#alert-list button")
        await page.until("document.querySelectorAll('#alert-list li').length === 0")
        assert page.problems == []

        # The token is nowhere but in this tab, and gone when it is said so.
        assert await page.run("Object.values(localStorage).join().includes('eyJ')") is False
        assert await page.run("sessionStorage.length") == 1
        await page.click("#account")
        await page.until("document.querySelector('#account-user').textContent === ''")
        assert await page.run("sessionStorage.length") == 0
        await page.until("document.querySelector('#alerts-body').hidden")
        assert await page.run("document.querySelectorAll('#portfolio-rows tr').length") == 0
        await shown.until_price("005930", "73,500")

        # A token that ends is told, and the page goes on as nobody's.
        await shown.sign_in(jwt.encode({"sub": "trader", "exp": time.time() + 2}, SECRET, "HS256"))
        await page.until("document.querySelector('#account-user').textContent === 'trader'")
        await page.until("document.querySelector('#notices').textContent.includes('You were signed out')")
        await page.until("document.querySelector('#account-user').textContent === ''")
        assert await page.run("sessionStorage.length") == 0
        publish(target, price("005930", 73600, change=1600))
        await shown.until_price("005930", "73,600")


async def test_a_server_for_users_only_asks_to_sign_in(server: StartServer, tmp_path: Path) -> None:
    target = server("--feed", "none", allow_anonymous="false", **SETTINGS)
    publish(target, price("005930", 73000))
    async with browsing(tmp_path / "profile") as page:
        shown = Dashboard(page)
        await page.open(page_url(target))
        await page.until("!document.querySelector('#auth-required').hidden")
        assert await shown.rows() == []
        await page.click("#auth-required-button")
        await page.until("document.querySelector('#sign-in').open")
        await page.type(token("trader"))
        await page.press("Enter")
        await shown.until_price("005930", "73,000")
        assert await page.run("document.querySelector('#auth-required').hidden")
        # It is found again by the next visit in this tab.
        await page.open(page_url(target))
        await shown.until_price("005930", "73,000")
        assert await page.run("document.querySelector('#auth-required').hidden")
