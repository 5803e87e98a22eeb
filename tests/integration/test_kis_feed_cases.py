"""The KIS feed when KIS sends too little, when there is no token yet, and for symbols that KIS does not have."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing

from fastws.kis import auth
from fastws.kis.registration import Limits
from fastws.kis.testing import FakeKIS
from tests.clients import client
from tests.integration.test_kis_feed import (
    HYNIX,
    QUICK,
    SAMSUNG,
    Watcher,
    is_status,
    serving,
    serving_here,
    set_variables,
    until,
)
from tests.serving import run

PRICE, BOOK = "price_update", "orderbook_update"
HEADER = "symbol,name,market,sector,previous_close,currency\n"


@pytest.fixture(autouse=True)
def no_tokens() -> Iterator[None]:
    """Tokens are kept for the process, and those of another fake server are not good for this one."""
    yield
    auth._tokens.clear()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes takes a second."""

    def limits(**given: Any) -> Limits:
        return Limits(**{**given, "min_dwell": 0.5, "silent_after": 0.5, "slow_retry": 1.0})

    monkeypatch.setattr("fastws.feeds.kis.feed.Limits", limits)
    monkeypatch.setattr("fastws.feeds.kis.feed._CHECK_INTERVAL", 0.5)
    monkeypatch.setattr("fastws.feeds.kis.feed._STALE_AFTER", 1.0)
    monkeypatch.setattr("fastws.feeds.kis.published._BOOK_PATIENCE", 0.5)
    monkeypatch.setattr("fastws.feeds.kis.silence._PATIENCE", 1.0)


def url_of(server: Any) -> str:
    return f"ws://127.0.0.1:{server.listener.port}/v1/ws"


def is_pushed(kind: str, code: str, quality: str) -> Any:
    return lambda update: (update["type"], update.get("code"), update.get("quality")) == (kind, code, quality)


def repeated(kis: FakeKIS) -> list[tuple[str, str]]:
    """What was registered although KIS had it: what was renewed."""
    return [(entry.tr_id, entry.tr_key) for entry in kis.journal.requests if entry.answer == "OPSP0002"]


@pytest.mark.parametrize(
    ("silent", "kind", "other"),
    [("H0UNASP0", BOOK, PRICE), ("H0UNCNT0", PRICE, BOOK)],
    ids=["book", "trades"],
)
async def test_half_of_a_symbol_goes_silent_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, hasty: None, silent: str, kind: str, other: str
) -> None:
    async with FakeKIS(rate=200, token_interval=0, pingpong_interval=0.3) as kis:
        set_variables(monkeypatch, kis)
        async with serving_here(**QUICK) as server, client(url_of(server)) as viewer:
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG, HYNIX)
            await watcher.until_pushed(SAMSUNG, HYNIX)
            kis.do("mute", tr_id=silent, tr_key=SAMSUNG)
            if (
                kind == BOOK
            ):  # a price that a poll tells of gets as long to be pushed as it takes to register anew
                await watcher.until(is_pushed(kind, SAMSUNG, "polled"))
            # The other half goes on to be pushed, and this one is registered anew, which mends it.
            await watcher.until(is_pushed(other, SAMSUNG, "realtime"))
            await until(lambda: (silent, SAMSUNG) in repeated(kis), "registered anew")
            await viewer.sync()
            await watcher.until(is_pushed(kind, SAMSUNG, "realtime"))
            other_tr = {"H0UNASP0": "H0UNCNT0", "H0UNCNT0": "H0UNASP0"}[silent]
            assert (other_tr, SAMSUNG) not in repeated(kis)
            assert len(kis.journal.sessions) == 1
            assert not any(is_status("stale")(update) for update in watcher.all)


async def test_silence_without_polls_is_mended(monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    async with FakeKIS(rate=200, token_interval=0, pingpong_interval=0.3) as kis:
        set_variables(monkeypatch, kis)
        async with serving_here(kis_poll_rate=0) as server, client(url_of(server)) as viewer:
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG, HYNIX)
            await watcher.until_pushed(SAMSUNG, HYNIX)
            kis.do("mute")
            all_of_it = {(tr_id, code) for tr_id in ("H0UNCNT0", "H0UNASP0") for code in (SAMSUNG, HYNIX)}
            await until(lambda: all_of_it <= {*repeated(kis)}, "all registered anew")
            await viewer.sync()
            await watcher.until_pushed(SAMSUNG, HYNIX)
            assert len(kis.journal.sessions) == 1
            assert {u["quality"] for u in watcher.all if u["type"] in (PRICE, BOOK)} == {"realtime"}


async def test_a_restart_within_a_minute_waits_for_the_token_and_polls_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastws.kis.auth._TOKEN_INTERVAL", 1.5)
    async with FakeKIS(rate=100, token_interval=3600) as kis, aiohttp.ClientSession() as http:
        set_variables(monkeypatch, kis)
        body = {"grant_type": "client_credentials", "appkey": kis.app_key, "appsecret": kis.app_secret}
        async with http.post(f"{kis.rest_url}/oauth2/tokenP", json=body) as answer:
            assert answer.status == 200  # that of the server that ran before
        with structlog.testing.capture_logs() as logs:
            async with (
                serving_here(kis_registrations=2, **QUICK) as server,
                client(url_of(server)) as viewer,
            ):
                watcher = Watcher(viewer)
                await viewer.subscribe("stock", SAMSUNG, HYNIX)
                await until(lambda: [e for e in logs if e["event"] == "KIS cannot be polled"], "the sentence")
                # What is registered does not need a token.
                await watcher.until(lambda u: u["type"] == PRICE and u["quality"] == "realtime")
                kis.set({"token_interval": 0.0})
                await watcher.until(lambda u: u["type"] == PRICE and u["quality"] == "polled")
                await until(
                    lambda: [e for e in logs if e["event"] == "KIS answers polls again"], "the end of it"
                )
        (told,) = [entry for entry in logs if entry["event"] == "KIS cannot be polled"]
        assert "KIS issues one access token a minute" in told["error"]
        assert told["error"].endswith("(EGW00133)")
        assert told["retry_in_s"] == 1.5
        asked = [call.at for call in kis.journal.calls if call.path == "/oauth2/tokenP"]
        assert all(later - earlier >= 1.4 for earlier, later in itertools.pairwise(asked[1:]))


def test_a_file_of_symbols_that_kis_does_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIS_APP_KEY", "x" * 36)
    monkeypatch.setenv("KIS_APP_SECRET", "y" * 180)
    symbols = tmp_path / "us.csv"
    symbols.write_text(HEADER + "AAPL,Apple,NASDAQ,IT,231,USD\nMSFT,Microsoft,NASDAQ,IT,419,USD\n")
    sentence = (
        "fastws: error: symbols_file: KIS has none of its symbols (from --symbols-file); name Korean stocks, with "
        "codes such as 005930, or another feed\n"
    )
    for command in ("serve", "check-config"):
        done = run(tmp_path, command, "--feed", "kis", "--symbols-file", str(symbols))
        assert done.returncode == 2
        assert sentence in done.stderr


async def test_symbols_that_kis_does_not_have_are_told_at_the_start_and_when_somebody_wants_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = tmp_path / "mixed.csv"
    symbols.write_text(
        f"{HEADER}AAPL,Apple,NASDAQ,IT,231,USD\n{SAMSUNG},Samsung,KOSPI,IT,70000,KRW\nMSFT,Microsoft,NASDAQ,IT,419,USD\n"
    )
    async with FakeKIS(rate=100, token_interval=0) as kis:
        set_variables(monkeypatch, kis)
        flags = ("--symbols-file", str(symbols))
        async with (
            serving(
                tmp_path, *flags, unknown_symbols="accept", admin_token="the administrator", **QUICK
            ) as server,
            client(server.url) as viewer,
        ):
            sentence = "KIS does not have symbols that are wanted"
            assert sentence in server.log
            assert "['AAPL', 'MSFT']" in server.log
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG, "AAPL")
            await watcher.until_pushed(SAMSUNG)
            # It is no error to want them: somebody else may publish their prices.
            body = json.dumps(
                {"type": PRICE, "code": "AAPL", "price": 231.5, "volume": 5, "quality": "polled"}
            ).encode()
            headers = {"Authorization": "Bearer the administrator", "Content-Type": "application/json"}
            assert (await asyncio.to_thread(server.get, "/v1/publish", "POST", body, headers))[0] == 202

            assert (await watcher.until(lambda u: u.get("code") == "AAPL"))["price"] == 231.5
        assert not any(request.tr_key in ("AAPL", "MSFT") for request in kis.journal.requests)
        assert kis.journal.n_violations("malformed") == 0


async def test_a_feed_that_nobody_wants_anything_of_tells_whether_kis_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastws.feeds.kis.session._PROBATION", 0.2)

    async with FakeKIS(token_interval=0) as kis, aiohttp.ClientSession() as http:
        set_variables(monkeypatch, kis)

        async def seen(server: Any) -> tuple[bool, str, str]:
            """What `/health`, clients and `/metrics` are told."""
            root = f"http://127.0.0.1:{server.listener.port}"
            async with http.get(f"{root}/health") as answer:
                is_running = (await answer.json())["price_feed_running"]
            async with http.get(f"{root}/metrics") as answer:
                found = re.findall(r'fastws_kis_sessions\{state="(\w+)"\} 1\.0', await answer.text())
            return is_running, server.feeds["kis"], *found

        async with serving_here(**QUICK) as server:

            async def until_seen(*expected: object) -> None:
                async with asyncio.timeout(20.0):
                    while await seen(server) != expected:
                        await asyncio.sleep(0.05)

            await until_seen(True, "live", "idle")
            kis.do("refuse_connections", seconds=2.0)
            kis.do("drop")
            await until_seen(False, "reconnecting", "away")
            await until_seen(True, "live", "idle")
            assert not kis.journal.requests, "nothing was registered for that"
