"""The test page in Chromium, on real servers of both dialects: what it sends, what it shows, what it hands on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.browser.access import contrast, unnamed
from tests.browser.devtools import Page, browsing
from tests.browser.publishing import ADMIN, price, publish
from tests.certificates import files
from tests.clients_js.node import require_package
from tests.conftest import StartServer
from tests.serving import ROOT, Server, require_program

SECRET = "a secret of more than thirty-two bytes"
SETTINGS = {"admin_token": ADMIN, "jwt_secret": SECRET, "rate_limit": 1000}
HOSTILE = '<img src=x onerror="window.hacked=1">'
# The rows of the log: type, way, time until the reply, and whole text.
ROWS = """
  [...document.querySelectorAll("#log .row")].map((row) => ({
    kind: row.querySelector(".kind").textContent,
    way: row.classList[1],
    isPart: row.classList.contains("part"),
    reply: row.querySelector(".reply").textContent,
    text: row.querySelector(".preview").textContent,
  }))
"""


class TestPage:
    """The page, used by its controls."""

    __test__ = False

    def __init__(self, page: Page) -> None:
        self.page = page

    async def connect(self, dialect: str = "screener") -> None:
        await self.page.run(f"document.querySelector('[name=dialect][value={dialect}]').click()")
        await self.page.click("#connect")
        await self.page.until("document.querySelector('#state').dataset.state === 'open'")
        await self.until_row("connection")

    async def disconnect(self) -> None:
        await self.page.click("#disconnect")
        await self.page.until("document.querySelector('#state').dataset.state === 'closed'")

    async def write(self, text: str) -> None:
        """Put `text` into the editor, as if typed."""
        await self.page.run(
            f"""(() => {{
              const editor = document.querySelector("#editor");
              editor.value = {json.dumps(text)};
              editor.dispatchEvent(new Event("input", {{ bubbles: true }}));
            }})()"""
        )

    async def send(self, message: object) -> None:
        await self.write(message if isinstance(message, str) else json.dumps(message))
        await self.page.click("#send")

    async def rows(self, kind: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await self.page.run(ROWS)
        return [row for row in rows if kind in ("", row["kind"])]

    async def until_row(self, kind: str, containing: str = "") -> dict[str, Any]:
        """The first row of a type that has this text."""
        condition = f"row.kind === {json.dumps(kind)} && row.text.includes({json.dumps(containing)})"
        found: dict[str, Any] = await self.page.until(f"({ROWS}).find((row) => {condition})")
        return found

    async def choose(self, selector: str, value: str) -> None:
        await self.page.run(
            f"""(() => {{
              const field = document.querySelector({json.dumps(selector)});
              field.value = {json.dumps(value)};
              for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, {{ bubbles: true }}));
            }})()"""
        )

    async def fact(self, name: str) -> str:
        facts = await self.page.run(
            "Object.fromEntries([...document.querySelectorAll('#facts dt')]"
            ".map((term) => [term.textContent, term.nextElementSibling.textContent]))"
        )
        return str(facts[name])


@asynccontextmanager
async def opened(server: Server, tmp_path: Path, path: str = "/realtime/test/") -> AsyncIterator[TestPage]:
    async with browsing(tmp_path / "profile", "--lang=en-US") as page:
        await page.open(server.http_url + path)
        await page.until("document.documentElement.dataset.ready === 'true'")
        yield TestPage(page)
        assert page.problems == []


async def test_both_dialects(shared_server: StartServer, tmp_path: Path) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    publish(target, price("005930", 73000))
    async with opened(target, tmp_path) as page:
        await page.connect()
        assert (await page.fact("Compression")).startswith("permessage-deflate")
        await page.send({"type": "subscribe", "subscription_type": "stock", "targets": ["005930", "000660"]})
        answer = await page.until_row("subscribed")
        assert answer["way"] == "received"
        assert 0 < float(answer["reply"].removesuffix(" ms")) < 5000
        snapshot = await page.until_row("batch", "1 message, snapshot")
        assert snapshot["reply"] == ""
        body = '[{"type":"price_update","code":"005930","price":73100},'
        body += '{"type":"price_update","code":"000660","price":250500.10}]'
        status, _ = target.get("/v1/publish", "POST", body.encode(), {"Authorization": f"Bearer {ADMIN}"})
        assert status == 202
        batch = await page.until_row("batch", "2 messages ")
        assert '"price":250500.10' in batch["text"]
        # Unfolded, its messages have rows of their own, in order and digit for digit.
        await page.page.click("#unfold")
        parts = [row for row in await page.rows("price_update") if row["isPart"]]
        assert [part["text"].partition('"price":')[2].partition(",")[0] for part in parts] == [
            "73000",
            "73100",
            "250500.10",
        ]
        await page.disconnect()
        assert "1000" in await page.page.text("#state")
        # The session goes on where it was left.
        publish(target, price("005930", 73200))
        await page.page.run("document.querySelector('#options').open = true")
        await page.page.click("#last-session")
        await page.connect()
        await page.until_row("reconnected", '"recovered":true')
        await page.until_row("price_update", "73200")
        await page.disconnect()

        # Without compression, and in the other dialect.
        await page.page.click("#compression")
        await page.page.click("#clear")
        await page.connect("realtime")
        assert await page.fact("Compression") == "none"
        assert "session_id" not in await page.fact("Address")
        await page.send({"type": "subscribe_asset", "data": {"symbol": "005930"}})
        assert (await page.until_row("subscribed"))["reply"]
        await page.until_row("asset_update", '"price":73200')
        publish(target, price("005930", 73300))
        await page.until_row("asset_update", '"price":73300')


async def test_tokens(shared_server: StartServer, tmp_path: Path) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    token = jwt.encode({"sub": "user-123"}, SECRET, "HS256")
    async with opened(target, tmp_path) as page:
        # What is no token of the header is refused by the browser, and not shown by the page.
        await page.choose("#token", "two words")
        await page.page.click("#connect")
        await page.page.until(
            "document.querySelector('#state').textContent.startsWith('The browser refuses')"
        )
        assert "two words" not in await page.page.text("body")
        # What is none for the server.
        await page.choose("#token", "no.token.atall")
        await page.page.click("#connect")
        await page.until_row("error", "INVALID_TOKEN")
        await page.page.until("document.querySelector('#state').textContent.startsWith('Closed: 4401 ')")
        for carrier, protocol in (("subprotocol", "fastws"), ("query", "none")):
            await page.page.click("#clear")
            await page.choose("#token", token)
            await page.choose("#carrier", carrier)
            await page.connect()
            assert await page.fact("User") == "user-123"
            assert await page.fact("Subprotocol") == protocol
            await page.disconnect()
        assert token not in await page.page.run("document.body.textContent")


@pytest.mark.parametrize("dialect", ["screener", "realtime"])
async def test_every_template_is_understood(shared_server: StartServer, tmp_path: Path, dialect: str) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    contract = target.get_json("/v1/asyncapi.json")
    wanted = [
        contract["components"]["messages"][name]["name"]
        for name, operation in contract["operations"].items()
        if operation["action"] == "receive" and operation["channel"]["$ref"].endswith(dialect)
    ]
    async with opened(target, tmp_path) as page:
        await page.connect(dialect)
        n_templates = await page.page.run("document.querySelector('#template').options.length")
        for i in range(n_templates):
            await page.choose("#template", str(i))
            await page.page.click("#send")
        await page.page.until(f"({ROWS}).filter((row) => row.reply !== '').length === {n_templates}")
        rows = await page.rows()
        sent = [row["kind"] for row in rows if row["way"] == "sent"]
        assert len(sent) == n_templates
        assert list(dict.fromkeys(sent)) == wanted
        for row in await page.rows("error"):
            # What it is about is not there, or the token is no token; but it was understood.
            assert "INVALID_MESSAGE" not in row["text"]


async def test_what_users_and_servers_say_is_text(server: StartServer, tmp_path: Path) -> None:
    symbols = tmp_path / "symbols.csv"
    symbols.write_text(
        f'symbol,name,market,sector,previous_close\nEVIL,"{HOSTILE.replace(chr(34), chr(34) * 2)}",KOSPI,IT,100\n'
    )
    target = server("--feed", "none", "--symbols-file", str(symbols), **SETTINGS)
    async with opened(target, tmp_path) as page:
        await page.connect()
        await page.send({"type": "subscribe", "subscription_type": "stock", "targets": ["EVIL", HOSTILE]})
        await page.until_row("subscribed")
        publish(target, price("EVIL", 100, type_of=HOSTILE))
        update = await page.until_row("price_update", "<img src=x onerror=")
        assert HOSTILE in json.loads(update["text"])["name"]
        # A type of the client's own, and no JSON at all.
        await page.send({"type": HOSTILE})
        await page.until_row(HOSTILE)
        await page.send(f"{HOSTILE} {{")
        assert "can be sent all the same" in await page.page.text("#validity")
        await page.until_row("", HOSTILE)
        # Everything open, in both languages, and filtered by it.
        await page.page.run("document.querySelectorAll('#log .row').forEach((row) => (row.open = true))")
        await page.page.until("document.querySelectorAll('#log .inside').length > 5")
        await page.choose("#kind", HOSTILE)
        assert [row["kind"] for row in await page.rows()] == [HOSTILE]
        await page.choose("#kind", "")
        await page.page.click("#choices button:first-of-type")
        assert await page.page.text("#choices button:first-of-type") == "English"
        assert await page.page.run("document.querySelectorAll('img, #log script, main iframe').length") == 0
        assert await page.page.run("window.hacked") is None
        # And its policy would hold where the page did not.
        blocked = await page.page.run(
            """(() => {
              try { document.body.innerHTML = "<b>x</b>"; } catch (error) { return error.name; }
            })()"""
        )
        assert blocked == "TypeError"
        assert len(page.page.problems) == 1
        assert "TrustedHTML" in page.page.problems.pop()


async def test_the_log_is_bounded_and_can_be_paused_filtered_and_copied(
    server: StartServer, tmp_path: Path
) -> None:
    # Every update is a message of its own.
    target = server("--feed", "none", "--batch-interval-ms", "0", **SETTINGS)
    publish(target, price("005930", 1))
    async with opened(target, tmp_path) as page:
        await page.connect()
        await page.send({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"]})
        await page.until_row("subscribed")
        n = 0
        for _ in range(5):
            publish(target, *(price("005930", n + i) for i in range(300)))
            n += 300
        await page.until_row("price_update", f'"price":{n - 1},')
        rows = await page.rows()
        assert len(rows) <= 1000
        assert {row["kind"] for row in rows} <= {"price_update", "batch"}

        await page.page.click("#pause")
        publish(target, price("005930", n), price("005930", n + 1))
        await page.page.until("document.querySelector('#pause').textContent === 'Resume (2 new)'")
        assert len(await page.rows()) == len(rows)
        await page.page.click("#pause")
        await page.until_row("price_update", f'"price":{n + 1},')

        await page.send({"type": "ping"})
        await page.until_row("pong")
        await page.choose("#direction", "sent")
        assert [row["kind"] for row in await page.rows()] == ["ping"]
        await page.choose("#direction", "")
        await page.choose("#search", f'"PRICE":{n + 1},')
        assert len(await page.rows()) == 1
        await page.choose("#search", "")

        await page.page.click("#clear")
        assert await page.rows() == []
        token = jwt.encode({"sub": "user-123"}, SECRET, "HS256")
        await page.send({"type": "auth", "token": token})
        await page.until_row("authenticated", "user-123")
        await page.page.call(
            "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
        )
        await page.page.click("#copy-log")
        await page.page.until("document.querySelector('#copy-log').textContent === 'Copied'")
        copied = await page.page.run("navigator.clipboard.readText()")
        lines = [json.loads(line) for line in copied.splitlines()]
        assert [json.loads(line["text"])["type"] for line in lines] == ["auth", "authenticated"]
        assert [line["direction"] for line in lines] == ["sent", "received"]
        assert lines[1]["reply_ms"] > 0
        assert lines[0]["size"] > len(token)
        assert token not in copied

        target.signal(signal.SIGTERM)
        await page.page.until(
            "document.querySelector('#state').textContent === 'Closed: 1012 server restart'"
        )
        await page.until_row("server_shutdown")
        assert target.wait() == 0
        await page.page.click("#connect")
        await page.page.until("document.querySelector('#state').textContent.startsWith('No connection.')")
        # That a connection fails is what browsers log themselves.
        assert len(page.page.problems) == 1
        assert "ERR_CONNECTION_REFUSED" in page.page.problems.pop()


def shell_words(directory: Path, script: str, program: str) -> list[str]:
    """What a program is called with, and what it is given, where a shell runs `script`."""
    stub = directory / program
    stub.write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\ntest "$0" = "${0%wscat}" && cat\n:\n'
    )
    stub.chmod(0o755)
    result = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{directory}:{os.environ['PATH']}", "FASTWS_TOKEN": "T O K"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert result.stderr == ""
    return result.stdout.splitlines()


async def output_of(*command: str, wanted: str, **options: Any) -> str:
    """The first line of a program's output that has `wanted` in it; the program is ended."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            async for line in process.stdout:
                if wanted in line.decode():
                    return line.decode()
        raise AssertionError(f"{command[0]} ended without {wanted}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_same_as_code(shared_server: StartServer, tmp_path: Path) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    token = jwt.encode({"sub": "user-123"}, SECRET, "HS256")
    text = {"type": "ping", "id": 'it\'s "quoted" $HOME `id` \\n 한글'}
    compact = json.dumps(text, ensure_ascii=False, separators=(",", ":"))
    async with opened(target, tmp_path) as page:
        codes = {}
        for has_token in (False, True):
            await page.choose("#token", token if has_token else "")
            await page.write(json.dumps(text, ensure_ascii=False, indent=2))
            for language in ("javascript", "python", "wscat", "websocat"):
                await page.choose("#language", language)
                codes[language, has_token] = await page.page.run(
                    "document.querySelector('#code').textContent"
                )
    assert not any(token in code for code in codes.values())
    authority = str(files().authority_file)
    secret = os.environ | {
        "FASTWS_TOKEN": token,
        "SSL_CERT_FILE": authority,
        "NODE_EXTRA_CA_CERTS": authority,
    }
    for has_token in (False, True):
        answer = '"type":"pong"'
        python = await output_of(
            sys.executable, "-c", codes["python", has_token], wanted=answer, env=secret, cwd=tmp_path
        )
        assert json.loads(python)["id"] == text["id"]
        words = shell_words(tmp_path, codes["wscat", has_token], "wscat")
        header = ["--header", "Authorization: Bearer T O K"] if has_token else []
        assert words == ["--connect", target.url, *header, "--execute", compact, "--wait", "60"]
        words = shell_words(tmp_path, codes["websocat", has_token], "websocat")
        header = ["--header=Authorization: Bearer T O K"] if has_token else []
        assert words == ["--no-close", target.url, *header, compact]
    greeting = await output_of(
        sys.executable, "-c", codes["python", True], wanted='"connection"', env=secret, cwd=tmp_path
    )
    assert json.loads(greeting)["user_id"] == "user-123"
    node = require_program("node")
    require_package("ws")
    for has_token in (False, True):
        script = codes["javascript", has_token].replace("…", token)
        script = f'globalThis.WebSocket ??= (await import("ws")).WebSocket;\n{script}'
        wanted = '"type":"pong"'
        line = await output_of(
            node, "--input-type=module", "--eval", script, wanted=wanted, env=secret, cwd=ROOT / "tests"
        )
        assert json.loads(line)["id"] == text["id"]


@pytest.mark.plain("it is about pages that came without TLS")
async def test_from_another_machine_without_tls(shared_server: StartServer, tmp_path: Path) -> None:
    """There browsers take some features away, and complain of headers that mean nothing there."""
    target = shared_server("--feed", "none", **SETTINGS)
    base = f"http://prices.test:{target.port}"
    async with browsing(
        tmp_path / "profile", "--lang=en-US", "--host-resolver-rules=MAP prices.test 127.0.0.1"
    ) as tab:
        await tab.open(f"{base}/realtime/dashboard/")
        await tab.until("document.querySelector('#watch-rows') !== null")
        await tab.open(f"{base}/realtime/test/")
        await tab.until("document.documentElement.dataset.ready === 'true'")
        assert await tab.run("isSecureContext") is False
        page = TestPage(tab)
        await page.connect()
        assert f"ws://prices.test:{target.port}/v1/ws" == await page.fact("Address")
        await tab.click("#copy-code")
        await tab.until("document.querySelector('#by-hand').open")
        assert await tab.run("document.querySelector('#by-hand-text').value") == await tab.run(
            "document.querySelector('#code').textContent"
        )
        selected = "document.activeElement.selectionEnd - document.activeElement.selectionStart"
        assert await tab.run(selected) > 100
        await tab.press("Escape")
        await tab.until("!document.querySelector('#by-hand').open")
        assert tab.problems == []


async def test_by_keyboard_on_a_phone_and_in_both_languages(
    shared_server: StartServer, tmp_path: Path
) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    # Without its trailing slash it is the same page.
    async with opened(target, tmp_path, "/realtime/test") as page:
        tab = page.page
        order = []
        for _ in range(9):
            await tab.press("Tab")
            order.append(await tab.run("document.activeElement.id || document.activeElement.tagName"))
        assert order[:3] == ["A", "BUTTON", "BUTTON"]
        assert order[4:8] == ["token", "show-token", "SUMMARY", "connect"], order
        await tab.run("document.querySelector('#connect').focus()")
        await tab.press("Enter")
        await page.until_row("connection")
        await page.write('{"type": "ping"}')
        await tab.run("document.querySelector('#editor').focus()")
        await tab.press("Control+Enter")
        await page.until_row("pong")

        texts = await tab.run("import('/static/testpage/texts.js').then(({ TEXTS }) => TEXTS)")
        assert texts["en"].keys() == texts["ko"].keys()
        named = await tab.run(
            """[...document.querySelectorAll("*")].flatMap((element) =>
              ["i18n", "i18nLabel", "i18nTitle", "i18nPlaceholder"].map((name) => element.dataset?.[name])
            ).filter(Boolean)"""
        )
        assert set(named) <= texts["en"].keys()

        await tab.resize(360, 740, is_phone=True, ratio=2)
        for language in ("ko", "en"):
            await tab.click("#choices button:first-of-type")
            assert await tab.run("document.documentElement.lang") == language
            assert await tab.text("#traffic-heading") == texts[language]["traffic"]
            assert await tab.run("document.title") == texts[language]["title"]
            # Nothing sticks out.
            assert await tab.run("document.documentElement.scrollWidth") <= 360
        for theme in ("dark", "light"):
            await tab.click("#choices button:last-of-type")
            assert await tab.run("document.documentElement.dataset.theme") == theme
            measured = await contrast(tab)
            assert measured.too_little == [], theme
            assert measured.n_texts > 40
            assert measured.n_fields >= 5
        n_controls, nameless = await unnamed(tab)
        assert n_controls > 15
        assert nameless == []
        # The next visit remembers.
        await tab.click("#choices button:first-of-type")
        await tab.open(target.http_url + "/realtime/test/")
        assert (
            await tab.run("document.documentElement.lang + document.documentElement.dataset.theme")
            == "kolight"
        )
