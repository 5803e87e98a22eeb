"""A server within a Python program, by what `fastws` exports."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from aiohttp import ClientConnectorError, ClientSession, web

import fastws
from fastws.client import Client
from fastws.client import OrderbookUpdate as BookMessage
from fastws.client import PriceUpdate as PriceMessage
from fastws.feeds.base import MarketSink
from fastws.server import embedding
from tests.serving import environment


def make_server(**settings: object) -> fastws.Server:
    return fastws.Server(port=0, **settings)


async def test_prices_and_books_reach_clients_and_are_remembered() -> None:
    async with make_server() as server, Client(server.url) as client, asyncio.timeout(20):
        await client.subscribe("stock", ["005930"])
        assert server.hub.subscriber_count("stock", "005930") == 1
        assert server.hub.subscriber_count("stock", "AAPL") == 0
        assert server.hub.books("005930") is None
        first = server.hub.publish_price("005930", "71.50", volume=5, venue="KRX")
        assert server.hub.publish_book("005930", [("71.40", 10)], [("71.60", 20), (72, 30)]) == first + 1
        assert server.hub.publish_status("KOSPI", "open") == first + 2
        assert server.hub.publish_json(b'{"type": "price_update", "code": "AAPL", "price": 1.5}') == first + 3
        seen = []
        async for message in client:
            if isinstance(message, PriceMessage | BookMessage):
                seen.append(type(message))
                if len(seen) == 2:
                    break
        assert seen == [PriceMessage, BookMessage]
        price = server.hub.last_price("005930")
        assert price is not None
        assert (str(price.price), price.volume, price.venue) == ("71.50", 5, "KRX")
        book, ring = server.hub.last_book("005930"), server.hub.books("005930")
        assert book is not None
        assert book.asks[1] == (Decimal("72.00"), 30)
        assert ring is not None
        assert len(ring) == 1
        assert server.stats()["active_connections"] == 1


async def test_threads_publish_in_the_order_of_each() -> None:
    n_threads, n = 4, 5000
    last = dict.fromkeys([f"T{i}" for i in range(n_threads)], 0)
    refused = 0

    async with make_server() as server:
        hub = server.hub
        assert server._inner is not None
        wrong = []

        def check(update: fastws.PriceUpdate) -> None:
            code = update.instrument.code
            if update.price != last[code] + 1:
                wrong.append(update)
            last[code] = int(update.price)

        server._inner.market.on_price.append(check)

        def publish(code: str) -> None:
            nonlocal refused
            for i in range(1, n + 1):
                update = hub.make_price(code, i)
                while not hub.publish_threadsafe(update):
                    refused += 1
                    threading.Event().wait(0.001)

        await asyncio.gather(*(asyncio.to_thread(publish, code) for code in last))
    # What waited for the loop has left with the stop.
    assert not wrong
    assert set(last.values()) == {n}
    assert hub.publish_threadsafe(hub.make_price("T0", 1)) is False


async def test_what_waits_is_bounded() -> None:
    async with make_server() as server:
        update = server.hub.make_price("AAA", 1)
        taken = [server.hub.publish_threadsafe(update) for _ in range(embedding.MAX_WAITING + 10)]
        assert taken == [True] * embedding.MAX_WAITING + [False] * 10
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert server.hub.publish_threadsafe(update)


async def test_after_the_end_nothing_is_published() -> None:
    async with make_server() as server:
        hub = server.hub
    with pytest.raises(RuntimeError, match="the server has ended"):
        hub.publish_price("AAA", 1)
    with pytest.raises(RuntimeError, match="entered once"):
        await server.__aenter__()


async def test_a_stop_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    is_ending = asyncio.Event()

    async def serve() -> None:
        async with make_server(
            feed="sim", host="127.0.0.1", database=f"sqlite:///{tmp_path}/fastws.db", shutdown_delay=10.0
        ) as server:
            url.set_result(server.http_url)
            try:
                await asyncio.Event().wait()
            finally:
                is_ending.set()

    serving = asyncio.create_task(serve())
    async with ClientSession() as session, session.ws_connect(f"{await url}/v1/ws") as socket:
        assert (await socket.receive_json())["type"] == "connection"
        serving.cancel()
        await is_ending.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        async with asyncio.timeout(10):
            while not socket.closed:
                await socket.receive()
        with pytest.raises(ClientConnectorError):
            await session.get(f"{await url}/health")
    assert not [
        task for task in asyncio.all_tasks() if "fastws" in task.get_name() or "feed" in task.get_name()
    ]
    async with asyncio.timeout(10):
        while any(thread.name.startswith("fastws") for thread in set(threading.enumerate()) - before):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "expected an object as JSON"),
        (b"[]", "expected"),
        (b'{"type":"price_update","price":1}', "code"),
        (b'{"header":{}}', "type: missing"),
    ],
)
async def test_json_that_cannot_be_published(body: bytes, problem: str) -> None:
    async with make_server() as server:
        with pytest.raises(ValueError, match=problem):
            server.hub.publish_json(body)


async def test_a_price_that_cannot_be_published_names_the_field() -> None:
    async with make_server() as server:
        with pytest.raises(ValueError, match=r"^price: "):
            server.hub.publish_price("AAA", "1e5")
        with pytest.raises(ValueError, match=r"^code: "):
            server.hub.publish_price("A A", 1)


def test_settings_are_checked_before_it_runs() -> None:
    with pytest.raises(fastws.SettingsError, match=r"^prot: there is no such setting"):
        fastws.Server(prot=8000)
    with pytest.raises(fastws.SettingsError, match=r"^port: "):
        fastws.Server(port=70_000)
    with pytest.raises(RuntimeError, match="does not run yet"):
        _ = fastws.Server(port=0).hub


async def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTWS_PORT", "1")
    assert fastws.Server().settings.port == 8000


def test_log_lines_are_the_programs(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, logging, sys, fastws\n"
        "if sys.argv[1:]:\n"
        "    logging.basicConfig(level='INFO', format='%(name)s: %(message)s')\n"
        "async def main():\n"
        "    async with fastws.Server(port=0):\n"
        "        pass\n"
        "asyncio.run(main())\n"
    )

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, program, *arguments],
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        return result.stderr

    assert run() == ""
    assert re.search(
        r"^fastws.listener: event='listening' url='http://127\.0\.0\.1:\d+'$", run("loud"), re.MULTILINE
    )


class Ticks(fastws.Feed):
    """A source of the program's own."""

    name = "ticks"

    async def run(self, market: MarketSink) -> None:
        instrument = market.ensure_instrument("TICK")
        for i in range(1, 10_000):
            market.publish_price(fastws.PriceUpdate(instrument, i))
            await asyncio.sleep(0.001)


async def test_a_feed_of_the_program() -> None:
    async with make_server(feed=Ticks()) as server, asyncio.timeout(20):
        while server.hub.last_price("TICK") is None:
            await asyncio.sleep(0.001)
        assert server.stats()["feeds"] == {"ticks": "live"}


async def test_a_feed_by_its_name() -> None:
    async with make_server(feed="sim") as server, asyncio.timeout(20):
        while list(server.stats()["feeds"].values()) != ["live"]:
            await asyncio.sleep(0.001)
    with pytest.raises(fastws.SettingsError, match="feed"):
        fastws.Server(feed="simm")


async def test_workers_and_upgrades_are_of_programs(tmp_path: Path) -> None:
    with pytest.raises(fastws.SettingsError, match="workers: an embedded server is one process"):
        fastws.Server(workers=2)
    with pytest.raises(
        fastws.SettingsError, match="upgrade_socket: an embedded server ends with its program"
    ):
        fastws.Server(upgrade_socket=str(tmp_path / "upgrade.sock"))


async def test_another_thread_is_told_what_it_is_to_use() -> None:
    async with make_server() as server:
        for publish in (
            lambda: server.hub.publish_price("A", 1),
            lambda: server.hub.publish_book("A", [(1, 1)], [(2, 1)]),
            lambda: server.hub.publish_status("KOSPI", "open"),
            lambda: server.hub.publish_json(b'{"type":"price_update","code":"A","price":1}'),
        ):
            with pytest.raises(RuntimeError, match="publish_threadsafe"):
                await asyncio.to_thread(publish)
        assert server.hub.last_price("A") is None


async def test_what_is_no_update_is_told_to_who_publishes_it() -> None:
    async with make_server() as server:
        with pytest.raises(TypeError, match="not int"):
            server.hub.publish_threadsafe(3)  # type: ignore[arg-type]


async def test_beside_an_application_of_aiohttp() -> None:
    """One loop, one process: the application's own routes, and a server that they publish into."""
    key = web.AppKey("fastws", fastws.Server)

    async def with_fastws(app: web.Application) -> AsyncIterator[None]:
        async with make_server() as app[key]:
            yield

    async def trade(request: web.Request) -> web.Response:
        sequence = request.app[key].hub.publish_price("005930", (await request.json())["price"])
        return web.json_response({"sequence": sequence, "websocket": request.app[key].url})

    app = web.Application()
    app.cleanup_ctx.append(with_fastws)
    app.router.add_post("/trade", trade)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with ClientSession() as session, asyncio.timeout(20):
            async with session.post(f"http://{host}:{port}/trade", json={"price": 71500}) as answer:
                told = await answer.json()
            async with Client(told["websocket"]) as client:
                await client.subscribe("stock", ["005930"])
                async for message in client:
                    if isinstance(message, PriceMessage):
                        assert message.price == 71500
                        break
    finally:
        await runner.cleanup()
