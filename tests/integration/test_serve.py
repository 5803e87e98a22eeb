"""``fastws serve`` as a user starts, asks and stops it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

import fastws
from tests.clients import Client, Message, client, updates
from tests.conftest import StartServer
from tests.serving import Server, run, until

SHUTDOWN = (signal.SIGTERM, signal.SIGINT)


def replay(directory: Path, *lines: str) -> str:
    path = directory / "feed.replay"
    path.write_text("\n".join([*lines, ""]))
    return f"replay:{path}"


def price(code: str, value: int) -> str:
    return json.dumps(
        {"type": "price_update", "code": code, "price": value, "change": -5, "volume": value * 10}
    )


def book(code: str, best: int, depth: int = 10) -> str:
    return json.dumps(
        {
            "type": "orderbook_update",
            "code": code,
            "bids": [{"price": best - level, "quantity": level + 1} for level in range(depth)],
            "asks": [{"price": best + 1 + level, "quantity": 100 + level} for level in range(depth)],
        }
    )


def is_found(server: Server, path: str) -> bool:
    return server.get(path)[0] == 200


# Starting.


def test_start_up_lines_name_every_url(server: StartServer, over: dict[str, str]) -> None:
    target = server("--feed", "sim", **over)
    for line in (
        "fastws is ready",
        target.url,
        f"{target.http_url}/health",
        f"{target.http_url}/v1/ws/stats",
        f"{target.http_url}/realtime/dashboard/",
        f"{target.http_url}/realtime/test/",
    ):
        assert line in target.log
    urls = re.findall(r"https?://127\.0\.0\.1:\d+(/\S+)", target.log)
    for path in urls:
        # No price may have come when the server has just started.
        until(partial(is_found, target, path), f"{path} of the start-up lines")


def test_pages_can_be_left_out(server: StartServer) -> None:
    target = server(web_pages=False)
    assert "/realtime/dashboard" not in target.log
    for path in ("/realtime/dashboard/", "/realtime/test/", "/static/testpage/main.js"):
        assert target.get(path)[0] == 404
    assert target.get("/static/fastws.js")[0] == 200


def test_no_feed_is_said_once_at_start(server: StartServer) -> None:
    target = server()
    assert target.log.count("--feed sim") == 1
    assert target.get_json("/health")["price_feed_running"] is False
    assert target.stats()["feeds"] == {}


def test_what_an_operator_should_know_is_said_at_start(server: StartServer) -> None:
    target = server(
        "--host", "0.0.0.0", database="sqlite:///here.db", admin_token="short", connection_limit=10_000_000
    )
    until(lambda: "can be reached wherever clients can" in target.log, "the warnings")
    (room,) = [line for line in target.log.splitlines() if " room " in line]
    assert re.search(r"connections=\d+", room)
    assert re.search(r"database=/\S+/here\.db", room)
    assert "admin_token is short" in target.log
    assert re.search(r"connection_limit is 10000000 and only \d+ connections fit", target.log)


def test_a_second_server_of_a_database_says_so(server: StartServer, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/fastws.db"
    first = server("--feed", "none", database=database)
    second = server("--feed", "none", database=database)
    assert "another server uses this database" in second.log
    assert "another server" not in first.log


def test_without_a_feed_prices_are_published(server: StartServer) -> None:
    target = server(admin_token="the administrator")
    assert "no prices will arrive" not in target.log
    (url,) = re.findall(r"prices come by POST (\S+)", target.log)
    assert target.get_json("/health")["price_feed_running"] is False
    path = url.removeprefix(target.http_url)
    body = b'{"type":"price_update","code":"005930","price":1}'
    headers = {"Authorization": "Bearer the administrator"}
    assert target.get(path, "POST", body, headers)[0] == 202
    assert target.get_json("/health")["price_feed_running"] is True


def test_a_port_of_ones_own_choice(server: StartServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The last one of a flag given twice holds, so this one and not the port 0 of the fixture.
    assert server("--port", str(port)).port == port


def test_environment_and_file_configure_as_flags_do(server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "fastws.toml").write_text('batch_interval_ms = 70\nrate_limit = 7\nfeed = "sim"\n')
    target = server(
        "--config", "fastws.toml", "--batch-interval-ms", "90", rate_limit=8, subscription_limit=9
    )
    stats = target.stats()
    assert (stats["batch_interval_ms"], stats["rate_limit"]) == (90, 8)
    assert list(stats["feeds"]) == ["simulator"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--feed", "nonsense"), ("feed", "nonsense", "sim", "replay:FILE")),
        (("--feed", "replay"), ("feed", "replay:FILE")),
        (("--feed", "replay:nowhere.txt"), ("feed", "nowhere.txt")),
        (("--feed", "replay:."), ("feed",)),
        (("--feed", "kis"), ("feed", "KIS_APP_KEY", "kis_keys")),
        (("--symbols-file", "nowhere.csv"), ("symbols_file", "nowhere.csv")),
        (("--port", "99999"), ("port", "99999", "--port")),
        (("--port", "eight"), ("port", "eight", "--port")),
        (("--host", "203.0.113.1"), ("host", "203.0.113.1")),
        (("--batch-interval-ms", "-1"), ("batch_interval_ms", "-1")),
        (("--replay-speed", "0"), ("replay_speed",)),
        (("--config", "nowhere.toml"), ("config", "nowhere.toml")),
        (("--fed", "sim"), ("--fed", "--feed")),
        (("surplus",), ("surplus",)),
    ],
    ids=" ".join,
)
def test_what_is_wrong_ends_with_2_and_one_line(
    tmp_path: Path, arguments: tuple[str, ...], named: tuple[str, ...]
) -> None:
    result = run(tmp_path, "serve", "--port", "0", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    # What is told about the start comes before, and is no error.
    lines = [line for line in result.stderr.splitlines() if "[info " not in line]
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in named), lines[0]


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    result = run(tmp_path, "serve", "--port", "0", batch_intervall_ms=30)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "FASTWS_BATCH_INTERVALL_MS" in line
    assert "FASTWS_BATCH_INTERVAL_MS" in line


def test_a_port_that_is_taken(server: StartServer, tmp_path: Path) -> None:
    target = server()
    result = run(tmp_path, "serve", "--port", str(target.port))
    assert result.returncode == 2
    # What was logged before is no error.
    (line,) = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert str(target.port) in line
    assert "in use" in line
    assert "Traceback" not in result.stderr
    assert target.get_json("/health")["status"] == "ok"


# Asking.


def test_health_and_readiness(server: StartServer) -> None:
    target = server("--feed", "sim")
    target.until_feed_is("live")
    health = target.get_json("/health")
    assert list(health) == ["status", "price_feed_running", "active_connections", "timestamp"]
    assert (health["status"], health["price_feed_running"], health["active_connections"]) == ("ok", True, 0)
    age = datetime.now(UTC) - datetime.fromisoformat(health["timestamp"])
    assert abs(age.total_seconds()) < 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", health["timestamp"])
    assert target.get_json("/ready")["status"] == "ready"
    # A path without its trailing slash behaves like the one with it.
    assert target.get_json("/health/")["status"] == "ok"
    assert target.get("/health", "HEAD") == (200, b"")


async def test_stats_have_exactly_the_keys_of_the_contract_first(server: StartServer) -> None:
    target = server("--feed", "sim", "--rate-limit", "250")
    keys = [
        "active_connections",
        "total_subscriptions",
        "subscriptions_by_type",
        "messages_sent",
        "saved_sessions",
        "batching_enabled",
        "batch_interval_ms",
        "queued_messages",
        "rate_limiting_enabled",
        "rate_limit",
    ]
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client(target.url)) for _ in range(3)]
        for connection in connections:
            await connection.subscribe("stock", "005930", "000660")
            await connection.subscribe("market", "KOSPI")
            await connection.subscribe("sector", "IT")
            for _ in range(3):
                await connection.until_snapshot()
        stats = target.stats()
        assert list(stats)[: len(keys)] == keys
        assert stats["active_connections"] == 3
        assert target.get_json("/health")["active_connections"] == 3
        assert stats["subscriptions_by_type"] == {"stock": 6, "market": 3, "sector": 3}
        assert stats["total_subscriptions"] == 12
        assert (stats["batching_enabled"], stats["batch_interval_ms"]) == (True, 30)
        assert (stats["rate_limiting_enabled"], stats["rate_limit"]) == (True, 250)
        assert stats["saved_sessions"] == 0
        assert isinstance(stats["queued_messages"], int)
        # A greeting and three acknowledgements each, at least: a snapshot may be empty at the start.
        assert stats["messages_sent"] >= 3 * 4
    assert until(lambda: target.stats()["active_connections"] == 0, "the end of the connections")
    assert target.stats()["subscriptions_by_type"] == {"stock": 0, "market": 0, "sector": 0}


async def test_messages_sent_counts_each_message_of_a_batch(server: StartServer, tmp_path: Path) -> None:
    lines = ["@0 " + price("000660", 1)] + [
        f"@{1500 + number // 50} " + price("005930", number) for number in range(1, 101)
    ]
    target = server("--feed", replay(tmp_path, *lines))
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        before = target.stats()["messages_sent"]
        # A hundred prices and the end of the feed.
        n = 0
        while n < 101:
            n += len(updates(await connection.receive()))
    assert target.stats()["messages_sent"] - before == 101
    ledger = target.stats()["updates"]
    assert (
        ledger["published"]
        == ledger["delivered"]
        + ledger["conflated"]
        + ledger["lost"]
        + ledger["undelivered"]
        + ledger["waiting"]
    )
    assert (ledger["lost"], ledger["waiting"]) == (0, 0)


async def test_the_ledger_says_what_became_of_every_update(server: StartServer) -> None:
    target = server("--feed", "none", unknown_symbols="accept", admin_token="a token")
    headers = {"Authorization": "Bearer a token"}

    def ledger(query: str = "") -> dict[str, Any]:
        status, body = target.get(f"/v1/ws/ledger{query}", headers=headers)
        found: dict[str, Any] = json.loads(body)
        assert (status, found["balanced"], found["faults"]) == (200, True, [])
        return found

    async with client(target.url) as connection, client(target.url) as other:
        for each in (connection, other):
            await each.subscribe("stock", "005930")
            await each.until_snapshot()
        body = f"[{','.join(price('005930', number) for number in range(1, 101))}]".encode()
        assert target.get("/v1/publish", "POST", body, headers)[0] == 202
        for each in (connection, other):
            n = 0
            while n < 100:
                n += len(updates(await each.receive()))
        found = await asyncio.to_thread(
            until,
            lambda: None if (found := ledger())["connections"]["waiting"] else found,
            "everything to be in the kernel",
        )
        (topic,) = [line for line in found["by_topic"] if line["channel"] == "price"]
        assert (topic["key"], topic["published"], topic["due"], topic["flushed"]) == ("005930", 100, 100, 100)
        assert [line["delivered"] for line in found["by_connection"]] == [100, 100]
        assert found["connections"]["delivered"] == found["connections"]["published"] == 200
        assert sorted(ledger("?topics=false&connections=false")) == [
            "balanced",
            "cohorts",
            "connections",
            "faults",
        ]
    assert target.get("/v1/ws/ledger?topics=no", headers=headers)[0] == 400


def test_the_overview_and_the_stocks(server: StartServer) -> None:
    target = server()
    overview = target.get_json("/")
    assert (overview["name"], overview["version"]) == ("fastws", fastws.__version__)
    assert {"/v1/ws", "/health", "/v1/stocks"} <= {endpoint["path"] for endpoint in overview["endpoints"]}
    stocks = target.get_json("/v1/stocks")["stocks"]
    assert f"{len(stocks)} instruments" in target.log
    assert stocks[0].keys() == {"code", "name", "market", "sector", "currency"}
    chosen = target.get_json("/v1/stocks?market=KOSPI&sector=IT")["stocks"]
    assert chosen == [stock for stock in stocks if (stock["market"], stock["sector"]) == ("KOSPI", "IT")]
    assert chosen


def test_a_loop_over_nothing_stops_the_feed_with_one_error(tmp_path: Path) -> None:
    feed = replay(tmp_path, "# nothing")
    target = Server(tmp_path, "--feed", feed, "--replay-loop")
    try:
        target.until_feed_is("stopped")
        target.signal(signal.SIGTERM)
        assert target.wait() == 0
    finally:
        target.process.kill()
        target.process.wait()
    (line,) = [line for line in target.log.splitlines() if "holds nothing to replay" in line]
    assert "[error" in line
    assert ".py" not in line
    assert "restarted" not in target.log


async def test_a_stock_and_its_order_books_are_what_was_published(
    server: StartServer, tmp_path: Path
) -> None:
    lines = [price("005930", 73000), *(book("005930", 72000 + 100 * number) for number in range(5))]
    target = server("--feed", replay(tmp_path, *lines), "--replay-speed", "max")
    target.until_feed_is("stopped")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        last_price, last_book = (await connection.until_snapshot())["messages"]
    assert target.get_json("/v1/stocks/005930") == last_price
    assert last_price["price"] == 73000

    whole = target.get_json("/v1/stocks/005930/orderbook")
    history = whole.pop("history")
    assert whole == last_book
    assert len(history) == 1
    assert len(last_book["bids"]) == len(last_book["asks"]) == 10
    assert last_book["bids"][0] == {"price": 72400, "quantity": 1}

    cut = target.get_json("/v1/stocks/005930/orderbook?depth=3&history=4")
    assert (cut["bids"], cut["asks"]) == (last_book["bids"][:3], last_book["asks"][:3])
    assert [books["bids"][0]["price"] for books in cut["history"]] == [72100, 72200, 72300, 72400]
    assert all(len(books["bids"]) == len(books["asks"]) == 3 for books in cut["history"])
    assert len(target.get_json("/v1/stocks/005930/orderbook?history=1000")["history"]) == 5


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/stocks/999999", 404),
        ("/v1/stocks/999999/orderbook", 404),
        ("/v1/stocks/000660", 404),
        ("/v1/stocks/000660/orderbook", 404),
        ("/v1/stocks/000660/orderbook?depth=0", 400),
        ("/v1/stocks/000660/orderbook?depth=11", 400),
        ("/v1/stocks/000660/orderbook?depth=x", 400),
        ("/v1/stocks/000660/orderbook?history=-1", 400),
        ("/v1/stocks/000660/orderbook?history=" + "9" * 3000, 400),
        ("/v1/stocks/%00", 404),
        ("/v1/stocks/..%2f..%2fetc%2fpasswd", 404),
        ("/nowhere", 404),
        ("/v1/stocks?market=LSE", 400),
        ("/v1/stocks?sector=", 400),
        ("/v1/ws", 426),
    ],
)
def test_http_errors_are_json(shared_server: StartServer, path: str, status: int) -> None:
    found, body = shared_server("--feed", "none").get(path)
    assert found == status
    error = json.loads(body)["error"]
    assert set(error) >= {"code", "message"}
    assert all(isinstance(error[name], str) and error[name] for name in ("code", "message"))


def test_methods_that_are_not_supported(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none")
    for method in ("POST", "DELETE", "PUT"):
        status, body = target.get("/health", method)
        assert status == 405
        assert json.loads(body)["error"]["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize("way", ["flag", "variable"])
async def test_origins_of_browsers(server: StartServer, way: str, over: dict[str, str]) -> None:
    origins = "https://app.example,http://localhost:3000"
    given: dict[str, object] = dict(over)
    if way == "variable":
        given["allowed_origins"] = origins
    target = server(*(("--allowed-origins", origins) if way == "flag" else ()), **given)
    # A page that came in plain is another origin than the same page over TLS; a plain port may have TLS before it.
    others = [] if target.tls is None else [f"http://127.0.0.1:{target.port}"]
    for origin in (None, target.http_url, "https://app.example", "http://localhost:3000"):
        async with client(target.url, origin=origin):
            pass
    for origin in (*others, "https://evil.example", "http://app.example", "https://app.example.evil", "null"):
        with pytest.raises(InvalidStatus) as refusal:
            async with client(target.url, origin=origin):
                pass
        assert refusal.value.response.status_code == 403
        assert json.loads(refusal.value.response.body)["error"]["code"] == "ORIGIN_NOT_ALLOWED"


# Stopping.


async def received_until_close(connection: Client) -> tuple[list[Message], int, str]:
    """What comes until the server closes, the code and the reason."""
    received: list[Message] = []
    connection.on_message = received.append
    code = await connection.closed()
    return received, code, connection.connection.close_reason or ""


@pytest.mark.parametrize("number", SHUTDOWN, ids=lambda number: number.name)
async def test_a_signal_delivers_the_last_values_and_closes_with_1012(
    server: StartServer, tmp_path: Path, number: signal.Signals, over: dict[str, str]
) -> None:
    # Of the day's last updates, the first leaves at once and the others would wait a minute for their flush.
    lines = ["@0 " + price("000660", 1), "@1300 " + price("005930", 1)]
    lines += [f"@{1500 + place} " + price("005930", place) for place in range(2, 40)]
    target = server("--feed", replay(tmp_path, *lines), "--batch-interval-ms", "60000", **over)
    async with AsyncExitStack() as stack:
        modes = ("all", "all", "latest")
        connections = [await stack.enter_async_context(client(target.url)) for _ in modes]
        for connection, mode in zip(connections, modes, strict=True):
            await connection.subscribe("stock", "005930", mode=mode)
            await connection.until_snapshot()
        slow = await stack.enter_async_context(client(target.url))
        await slow.subscribe("stock", "005930", max_rate=0.01)
        await slow.until_snapshot()
        idle = await stack.enter_async_context(client(target.url))
        for connection in (*connections, slow):
            assert (await connection.receive())["price"] == 1
        await asyncio.to_thread(target.until_feed_is, "stopped")

        target.signal(number)
        for connection, mode in zip(connections, modes, strict=True):
            received, code, _ = await received_until_close(connection)
            assert code == 1012
            prices = [
                u["price"] for message in received for u in updates(message) if u["type"] == "price_update"
            ]
            assert prices == (list(range(2, 40)) if mode == "all" else [39])
        _, code, reason = await received_until_close(idle)
        assert (code, reason) == (1012, "server restart")
        received, code, _ = await received_until_close(slow)
        assert code == 1012
        prices = [u["price"] for message in received for u in updates(message) if u["type"] == "price_update"]
        assert prices[-1:] == [39]
    assert target.wait() == 0
    assert "stopped" in target.log.splitlines()[-1]


async def test_a_signal_in_the_middle_of_the_day(server: StartServer, over: dict[str, str]) -> None:
    target = server("--feed", "sim", simulator_rate=2000, **over)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client(target.url)) for _ in range(20)]
        for connection in connections:
            await connection.subscribe("market", "KOSPI", mode="all")
            await connection.until_snapshot()
        target.signal(signal.SIGTERM)
        ends = []
        for connection in connections:
            received, code, _ = await received_until_close(connection)
            assert code == 1012
            published = [update for message in received for update in updates(message)]
            sequences = [update["sequence"] for update in published]
            assert sequences == sorted(set(sequences))
            ends.append([u["sequence"] for u in published if u["type"] == "price_update"][-1:])
        # Equal subscribers have got equally far.
        assert len({str(end) for end in ends if end}) <= 1
    assert target.wait() == 0


def test_a_client_that_does_not_answer_the_close_holds_nothing_up(
    server: StartServer, over: dict[str, str]
) -> None:
    target = server("--feed", "sim", **over)
    with (
        target.raw_client(),
        target.raw_client(handshake=False) as half,
        target.raw_client(handshake=False) as kept,
    ):
        half.send(b"GET /v1/ws HTTP/1.1\r\n")
        kept.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.read_response()[0] == 200
        target.signal(signal.SIGTERM)
        until(lambda: "stopping" in target.log, "the beginning of the end")
        # It has two seconds to answer the close frame.
        assert target.process.wait(8) == 0


def test_while_draining_it_is_not_ready_and_takes_nobody(server: StartServer, over: dict[str, str]) -> None:
    target = server("--feed", "none", **over)
    ready = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
    # A connection from before is still answered while one that does not close holds the drain up.
    with target.raw_client(), target.raw_client(handshake=False) as kept:
        kept.send(ready)
        assert kept.read_response()[0] == 200
        target.signal(signal.SIGTERM)
        until(lambda: "stopping" in target.log, "the beginning of the end")
        kept.send(ready)
        status, _, body = kept.read_response()
        assert status == 503
        assert b'"draining"' in body
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", target.port), timeout=5)
        assert target.wait() == 0


def test_python_m_fastws_and_the_version(tmp_path: Path) -> None:
    result = run(tmp_path, "--version")
    assert result.returncode == 0
    assert re.fullmatch(r"fastws \d+\.\d+\S*\n", result.stdout)
    help_text = run(tmp_path, "serve", "--help")
    assert help_text.returncode == 0
    for flag in (
        "--host",
        "--port",
        "--feed",
        "--symbols-file",
        "--replay-speed",
        "--replay-loop",
        "--batch-interval-ms",
    ):
        assert flag in help_text.stdout
