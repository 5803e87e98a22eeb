"""`fastws serve --feed kis` from end to end: the fake KIS server, a server process and WebSocket clients."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastws.kis.testing import FakeKIS, example_keys
from fastws.server.server import Server as InProcess
from fastws.settings import Settings
from tests.clients import Client, Message, Stream, client, updates
from tests.serving import Server, run

SAMSUNG, HYNIX, HYUNDAI, NAVER, KAKAO = "005930", "000660", "005380", "035420", "035720"
QUICK = {"kis_poll_interval": 0.2}


def set_variables(monkeypatch: pytest.MonkeyPatch, kis: FakeKIS, **others: str) -> None:
    for name, value in (kis.variables() | others).items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def serving(directory: Path, *flags: str, **settings: object) -> AsyncIterator[Server]:
    # The fake KIS runs on this loop, and has to answer while the server starts and stops.
    server = await asyncio.to_thread(Server, directory, "--feed", "kis", *flags, **settings)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.end)


@asynccontextmanager
async def serving_here(**settings: object) -> AsyncIterator[InProcess]:
    """A server in this process, whose clocks and limits can be patched."""
    server = InProcess(Settings(port=0, feed="kis", **settings))  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)


def assert_disciplined(kis: FakeKIS) -> None:
    """Nothing that KIS would hold against the client; when requests arrive is also up to the machine."""
    assert kis.journal.max_sessions() == 1
    kinds = {violation.kind for violation in kis.journal.violations}
    assert kinds <= {"hasty_request", "hasty_connect"}, list(kis.journal.violations)


async def figures(server: Server) -> dict[str, float]:
    _, body = await asyncio.to_thread(server.get, "/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith("fastws_kis")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


class Watcher:
    """Everything that one client gets, which has to keep the rules of the wire contract, each update once."""

    def __init__(self, joined: Client) -> None:
        self.client = joined
        self.stream = Stream(from_any=True)
        self.all: list[Message] = []
        self.prices: dict[str, list[tuple[int, int]]] = {}
        joined.on_message = self.take

    def take(self, message: Message) -> None:
        self.stream.take(message)
        for update in updates(message):
            self.all.append(update)
            if update["type"] == "price_update":
                seen = self.prices.setdefault(update["code"], [])
                value = (update["volume"], update["price"])
                assert not seen or value != seen[-1], f"{update} came twice"
                if update["quality"] == "realtime":
                    assert value not in seen[-500:], f"{update} came again"
                seen.append(value)

    async def until(self, is_it: Callable[[Message], object], seconds: float = 20.0) -> Message:
        """Receive until an update of which `is_it` holds."""
        seen = len(self.all)
        async with asyncio.timeout(seconds):
            while True:
                await self.client.receive(seconds)
                for update in self.all[seen:]:
                    if is_it(update):
                        return update
                seen = len(self.all)

    async def until_pushed(self, *codes: str) -> None:
        """Until a trade and a book of each have been pushed."""
        missing = {(code, kind) for code in codes for kind in ("price_update", "orderbook_update")}

        def is_last(update: Message) -> bool:
            if update.get("quality") == "realtime":
                missing.discard((update["code"], update["type"]))
            return not missing

        await self.until(is_last)


def is_status(status: str) -> Callable[[Message], bool]:
    return lambda update: update["type"] == "feed_status" and update["status"] == status


async def test_from_kis_to_clients_and_through_a_lost_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeKIS(rate=300, token_interval=0) as kis:
        set_variables(monkeypatch, kis)
        async with serving(tmp_path, **QUICK) as server, client(server.url) as one, client(server.url) as two:
            assert one.greeting["feeds"] == {"kis": "live"} or one.greeting["feeds"] == {
                "kis": "reconnecting"
            }
            watchers = [Watcher(one), Watcher(two)]
            await one.subscribe("stock", SAMSUNG, HYNIX)
            await two.subscribe("stock", SAMSUNG)
            await watchers[0].until_pushed(SAMSUNG, HYNIX)
            await watchers[1].until_pushed(SAMSUNG)
            trade = await watchers[0].until(lambda u: u["type"] == "price_update")
            assert (trade["venue"], trade["quality"]) == ("UN", "realtime")
            assert trade["trade_volume"] > 0

            kis.do("refuse_connections", seconds=1.0)
            kis.do("drop")
            for watcher in watchers:
                await watcher.until(is_status("reconnecting"))
            await watchers[0].until(is_status("live"))
            await watchers[0].until_pushed(SAMSUNG, HYNIX)
            await watchers[1].until(is_status("live"))
            await watchers[1].until_pushed(SAMSUNG)
            # The book that clients see is that of KIS now.
            await watchers[0].client.sync()
            book = json.loads((await asyncio.to_thread(server.get, f"/v1/stocks/{SAMSUNG}/orderbook"))[1])
            assert len(book["bids"]) == len(book["asks"]) == 10
            assert book["bids"][0]["price"] < book["asks"][0]["price"]

            counted = await figures(server)
            assert counted["fastws_kis_reconnects_total"] == 1
            assert counted['fastws_kis_sessions{state="live"}'] == 1
            assert counted["fastws_kis_bad_frames_total"] == 0
            # The market went on meanwhile.
            assert counted["fastws_kis_gaps_total"] == 2
            assert counted["fastws_kis_lost_volume_total"] > 0
            assert "KIS is away" in server.log
        assert_disciplined(kis)
        # The server has ended its session in order.
        await until(lambda: kis.state()["sessions"] == [], "the end of the session")


async def test_what_does_not_fit_is_polled_and_viewers_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeKIS(rate=100, token_interval=0, app_keys=example_keys(2)) as kis:
        set_variables(monkeypatch, kis)
        keys = tmp_path / "keys.toml"
        keys.write_text("".join(f'{key} = "{secret}"\n' for key, secret in example_keys(2).items()))
        async with (
            serving(tmp_path, "--kis-keys", str(keys), kis_registrations=2, **QUICK) as server,
            client(server.url) as few,
            client(server.url) as many,
        ):
            await few.subscribe("stock", SAMSUNG, HYNIX)
            first = Watcher(few)
            await first.until_pushed(SAMSUNG, HYNIX)
            await many.subscribe("stock", SAMSUNG, HYNIX, NAVER)
            second = Watcher(many)
            polled = await second.until(lambda u: u.get("code") == NAVER and u["type"] == "price_update")
            assert polled["quality"] == "polled"
            book = await second.until(lambda u: u.get("code") == NAVER and u["type"] == "orderbook_update")
            assert book["quality"] == "polled"
            assert book["bids"][0]["price"] < book["asks"][0]["price"]
            counted = await figures(server)
            assert counted['fastws_kis_symbols{quality="realtime"}'] == 2
            assert counted['fastws_kis_symbols{quality="polled"}'] == 1
            sessions = kis.state()["sessions"]
            assert len(sessions) == 2
        assert kis.journal.max_registrations() <= 2
        assert_disciplined(kis)


async def test_a_symbols_file_has_priority_over_viewers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = tmp_path / "symbols.txt"
    symbols.write_text(f"{SAMSUNG}\n{HYNIX}\n{KAKAO}\n")
    async with FakeKIS(rate=100, token_interval=0) as kis:
        set_variables(monkeypatch, kis)
        flags = ("--symbols-file", str(symbols))
        async with serving(tmp_path, *flags, kis_registrations=4, **QUICK) as server:
            assert "the first ones are registered" in server.log
            await until(lambda: len(kis.journal.requests) >= 4, "the registrations")
            registered = {(r.tr_id, r.tr_key) for r in kis.journal.requests}
            assert {key for tr_id, key in registered if tr_id == "H0UNCNT0"} == {SAMSUNG, HYNIX}
            async with client(server.url) as viewer:
                await viewer.subscribe("stock", KAKAO)
                polled = await Watcher(viewer).until(lambda u: u["type"] == "price_update")
                assert polled["quality"] == "polled"


async def test_a_newer_symbols_file_brings_its_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = tmp_path / "symbols.txt"
    symbols.write_text(f"{SAMSUNG}\n")
    async with FakeKIS(rate=100, token_interval=0) as kis:
        set_variables(monkeypatch, kis)

        def is_registered(code: str) -> bool:
            return any(request.tr_key == code for request in kis.journal.requests)

        async with serving(tmp_path, "--symbols-file", str(symbols), **QUICK) as server:
            await until(lambda: is_registered(SAMSUNG), "the first symbol")
            symbols.write_text(f"{KAKAO}\n{SAMSUNG}\n")
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: is_registered(KAKAO), "the new symbol, which nobody looks at")
        assert_disciplined(kis)


async def test_silence_while_the_market_is_open_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.feeds.kis.feed._STALE_AFTER", 1.0)
    # Of a session that says nothing but PINGPONG nobody can tell whether there are no trades.
    async with FakeKIS(rate=200, token_interval=0, pingpong_interval=0.3) as kis:
        set_variables(monkeypatch, kis)
        async with (
            serving_here(kis_poll_rate=0) as server,
            client(f"ws://127.0.0.1:{server.listener.port}/v1/ws") as viewer,
        ):
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG)
            await watcher.until_pushed(SAMSUNG)
            kis.do("mute")
            await watcher.until(is_status("stale"))
            kis.do("clear")
            await watcher.until(is_status("live"))
            # Outside of trading hours it is normal.
            kis.do("operation", tr_key=SAMSUNG, operation_code="174")
            kis.do("mute")
            feed = server.feed_runner.feed
            assert feed is not None
            await until(lambda: feed.stale_after is None, "a halted market")


async def test_a_push_that_goes_silent_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.feeds.kis.feed._CHECK_INTERVAL", 0.5)
    async with FakeKIS(rate=200, token_interval=0, pingpong_interval=0.3) as kis:
        set_variables(monkeypatch, kis)
        async with (
            serving_here(**QUICK) as server,
            client(f"ws://127.0.0.1:{server.listener.port}/v1/ws") as viewer,
        ):
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG, HYNIX)
            await watcher.until_pushed(SAMSUNG, HYNIX)
            # The session goes on, and nothing says that it has lost this one.
            kis.do("mute", tr_key=SAMSUNG)
            for kind in ("price_update", "orderbook_update", "price_update"):
                await watcher.until(
                    lambda u, kind=kind: (
                        (u["type"], u.get("code"), u.get("quality")) == (kind, SAMSUNG, "polled")
                    )
                )
            assert len(kis.journal.sessions) == 1


async def test_statuses_of_the_markets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeKIS(rate=200, token_interval=0) as kis:
        set_variables(monkeypatch, kis)
        async with serving(tmp_path, **QUICK) as server, client(server.url) as viewer:
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG)
            await watcher.until_pushed(SAMSUNG)
            await viewer.subscribe("market", "KOSPI")
            snapshot = await viewer.until_snapshot()
            assert {"market": "KOSPI", "status": "open"}.items() <= next(
                m for m in snapshot["messages"] if m["type"] == "market_status"
            ).items()
            await until(lambda: any(r.tr_id == "H0UNMKO0" for r in kis.journal.requests), "market operations")

            def is_market(status: str) -> Callable[[Message], bool]:
                return lambda u: (
                    u["type"] == "market_status" and (u["market"], u["status"]) == ("KOSPI", status)
                )

            stream = watcher.stream
            stream.has_latest = True  # a market is for overviews
            kis.do("operation", tr_key=SAMSUNG, operation_code="174")
            await watcher.until(is_market("halted"))
            kis.do("operation", tr_key=SAMSUNG, operation_code="175")
            await watcher.until(is_market("open"))
            kis.do("set_phase", phase="closing_auction")
            await watcher.until(is_market("closing_auction"))


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"KIS_APP_SECRET": "wrong"}, "KIS does not accept this app secret; check KIS_APP_SECRET"),
        ({"KIS_WS_URL": "ws://127.0.0.1:1"}, "nothing listens at 127.0.0.1:1; check KIS_WS_URL"),
        ({"KIS_REST_URL": "http://kis.invalid"}, "the host of kis.invalid is not known; check KIS_REST_URL"),
        # The kernel connects no TCP socket to a multicast address, whatever its routes are.
        ({"KIS_WS_URL": "ws://224.0.0.1:1"}, "no connection to KIS: 224.0.0.1:1 cannot be reached; check the network"),
    ],
)  # fmt: skip
async def test_without_kis_the_server_serves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    async with FakeKIS(token_interval=0) as kis:
        set_variables(monkeypatch, kis, **variables)
        async with serving(tmp_path, kis_poll_rate=0, admin_token="the administrator") as server:
            await until(lambda: sentence in server.log, sentence)
            assert len(re.findall("KIS is away", server.log)) == 1
            async with client(server.url) as viewer:
                assert viewer.greeting["feeds"] == {"kis": "reconnecting"}
                await viewer.subscribe("stock", SAMSUNG)
                await viewer.until_snapshot()
                body = json.dumps({"type": "price_update", "code": SAMSUNG, "price": 72_000}).encode()
                headers = {"Authorization": "Bearer the administrator", "Content-Type": "application/json"}
                status, _ = await asyncio.to_thread(server.get, "/v1/publish", "POST", body, headers)
                assert status == 202
                assert (await viewer.until_type("price_update"))["price"] == 72_000


async def test_full_slots_are_told_once_and_the_rest_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeKIS(rate=100, token_interval=0, cap=4) as kis:
        set_variables(monkeypatch, kis)
        async with serving(tmp_path, **QUICK) as server, client(server.url) as viewer:
            watcher = Watcher(viewer)
            codes = (SAMSUNG, HYNIX, HYUNDAI, NAVER)
            await viewer.subscribe("stock", *codes)
            sentence = "KIS gives this app key fewer registrations than asked for"
            await until(lambda: sentence in server.log, sentence)
            polled: set[str] = set()

            def all_have_prices(update: Message) -> bool:
                if update["type"] == "price_update":
                    polled.add(update["code"])
                return polled == set(codes)

            await watcher.until(all_have_prices)
            qualities = {u["quality"] for u in watcher.all if u["type"] == "price_update"}
            assert qualities == {"realtime", "polled"}
            assert server.log.count(sentence) == 1
        assert kis.journal.max_registrations() <= 4
        refused = [r for r in kis.journal.requests if r.answer == "OPSP0008"]
        assert len(refused) <= 2


async def test_an_app_key_in_use_elsewhere_is_told_and_prices_are_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeKIS(token_interval=0) as kis:
        set_variables(monkeypatch, kis)
        kis.do("answer", code="OPSP8996", seconds=30)
        async with serving(tmp_path, **QUICK) as server, client(server.url) as viewer:
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG)
            polled = await watcher.until(lambda u: u["type"] == "price_update")
            assert polled["quality"] == "polled"
            await until(lambda: "another session" in server.log.lower(), "the sentence")
            assert (await asyncio.to_thread(server.stats))["feeds"] == {"kis": "reconnecting"}


async def test_paper_trading_has_krx_and_single_quotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeKIS(rate=100, token_interval=0, environment="paper") as kis:
        set_variables(monkeypatch, kis)
        async with serving(tmp_path, kis_registrations=2) as server, client(server.url) as viewer:
            watcher = Watcher(viewer)
            await viewer.subscribe("stock", SAMSUNG, HYNIX)
            trade = await watcher.until(lambda u: u["type"] == "price_update" and u["quality"] == "realtime")
            assert trade["venue"] == "KRX"
            await watcher.until(lambda u: u["type"] == "price_update" and u["quality"] == "polled")
        assert_disciplined(kis)


def test_without_an_app_key_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIS_APP_KEY", "KIS_APP_SECRET", "KIS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for command in ("serve", "check-config"):
        done = run(tmp_path, command, "--feed", "kis")
        assert done.returncode == 2
        assert "set KIS_APP_KEY" in done.stderr
        assert "Traceback" not in done.stderr
