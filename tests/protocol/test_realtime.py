"""The realtime dialect on a real server; what its messages look like is in the transcripts."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from listening import until
from realtime_site import ADMIN, ask, get, serving, token

from tests.clients import Client, client


async def subscribed(connection: Client, *symbols: str) -> None:
    await ask(connection, "subscribe_asset", symbols=list(symbols))
    for symbol in symbols:
        assert (await connection.receive())["data"] == {"symbol": symbol}


async def synced(connection: Client) -> list[Any]:
    """What came before the answer to a request made now."""
    await ask(connection, "ping", "sync")
    found = []
    while (message := await connection.receive()).get("id") != "sync":
        found.append(message)
    return found


@pytest.mark.parametrize("path", ["/ws/realtime/", "/ws/realtime"])
async def test_the_slash_at_the_end_may_be_left_out(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as site, client(site.url(path)) as connection:
        assert list(connection.greeting) == ["type", "data", "timestamp"]
        assert list(connection.greeting["data"]) == ["status", "connection_id", "authenticated", "user_id"]


@pytest.mark.parametrize("path", ["/realtime/websocket-info", "/realtime/status"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_http_endpoints_have_both_forms(tmp_path: Path, path: str, slash: str) -> None:
    async with serving(tmp_path) as site:
        assert (await get(site, path + slash))[0] == 200


async def test_one_update_serves_both_dialects_and_only_the_newest_comes(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, batch_interval_ms=200) as site,
        site.realtime() as newest,
        site.screener() as everything,
    ):
        await subscribed(newest, "AAPL", "MSFT")
        await everything.subscribe("stock", "AAPL", "MSFT")
        await everything.until_snapshot()
        for price in range(1, 4):
            site.publish("AAPL", price)
        site.publish("MSFT", 7)
        batch = await everything.receive()
        assert [message["price"] for message in batch["messages"]] == [1, 2, 3, 7]
        first, second = await newest.receive(), await newest.receive()
        assert [first["type"], second["type"]] == ["asset_update"] * 2
        assert first["data"] == {"symbol": "AAPL", "price": 3, "high": 3, "low": 1}
        assert second["data"]["symbol"] == "MSFT"
        assert first["timestamp"] == batch["messages"][2]["timestamp"]
        assert await synced(newest) == []


async def test_high_and_low_are_those_of_the_day(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.realtime() as connection:
        day_ms = 86_400_000
        for price, day in ((10, 20_000), (30, 20_000), (20, 20_001)):
            site.publish("AAPL", price, event_time_ms=day * day_ms + day_ms // 2)
        await subscribed(connection, "AAPL")
        assert (await connection.receive())["data"] == {"symbol": "AAPL", "price": 20, "high": 20, "low": 20}
        site.publish("AAPL", "15.50", high=40)
        update = await connection.receive()
        assert update["data"] == {
            "symbol": "AAPL",
            "price": Decimal("15.50"),
            "high": 40,
            "low": Decimal("15.50"),
        }


async def test_a_value_from_before_the_last_start_is_marked(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for price in (10, "2.50", 5):
            site.publish("AAPL", price)
        async with site.screener() as connection:
            await connection.subscribe("stock", "AAPL")
            (before,) = (await connection.until_snapshot())["messages"]
    async with serving(tmp_path) as site, site.realtime() as connection, site.screener() as other:
        await subscribed(connection, "AAPL")
        day = {"high": 10, "low": Decimal("2.50")}
        assert (await connection.receive())["data"] == {"symbol": "AAPL", "price": 5, **day, "stale": True}
        await other.subscribe("stock", "AAPL")
        (after,) = (await other.until_snapshot())["messages"]
        numbers = {"sequence": 0, "seq": 0}
        assert after | numbers == before | numbers | {"stale": True}
        # The day goes on with the range that it had.
        site.publish("AAPL", 7)
        assert (await connection.receive())["data"] == {"symbol": "AAPL", "price": 7, **day}


async def test_subscribing_again_is_answered_with_the_value_and_holds_nothing_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.realtime() as connection:
        site.publish("AAPL", 1)
        for _ in range(2):
            await subscribed(connection, "AAPL")
            assert (await connection.receive())["data"]["price"] == 1
        assert site.server.hub.subscription_counts()["stock"] == 1
        await ask(connection, "unsubscribe_asset", symbols=["AAPL", "MSFT", "AAPL"])
        assert [(await connection.receive())["data"] for _ in range(2)] == [
            {"symbol": "AAPL"},
            {"symbol": "MSFT"},
        ]
        site.publish("AAPL", 2)
        assert await synced(connection) == []


async def test_the_connections_of_a_user_count_over_both_dialects(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, connections_per_user=2) as site,
        site.screener(token=token()),
        site.realtime(token=token()),
        site.realtime(token=token(), greeted=False) as third,
    ):
        refusal = await third.receive()
        assert refusal["data"]["code"] == "LIMIT_EXCEEDED"
        assert refusal["data"]["details"] == {"limit": 2, "current": 2}
        assert await third.closed() == 4429


async def test_there_are_no_sessions_to_take_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.screener(token=token()) as other:
        async with site.realtime(token=token()) as connection:
            await subscribed(connection, "AAPL")
            session_id = connection.greeting["data"]["connection_id"]
            await other.send(type="reconnect", session_id=session_id)
            assert (await other.receive())["details"] == {"reason": "unknown"}
        await until(lambda: site.server.hub.n_connections == 1)
        assert len(site.server.sessions) == 0
        async with site.realtime(token=token(), session_id=session_id) as again:
            assert again.greeting["data"]["connection_id"] != session_id
            assert await synced(again) == []


async def test_where_nobody_is_served_without_a_token(tmp_path: Path) -> None:
    async with serving(tmp_path, allow_anonymous=False, auth_timeout=0.5) as site:
        async with site.realtime() as connection:
            await ask(connection, "subscribe_asset", "x", symbol="AAPL")
            refusal = await connection.receive()
            assert (refusal["data"]["code"], refusal["id"]) == ("AUTH_REQUIRED", "x")
            await ask(connection, "ping")
            assert (await connection.receive())["type"] == "pong"
            await ask(connection, "auth", token=token())
            assert (await connection.receive())["data"]["user_id"] == "alice"
            await subscribed(connection, "AAPL")
        async with site.realtime() as silent:
            assert (await silent.receive())["data"]["code"] == "AUTH_REQUIRED"
            assert await silent.closed() == 4401


async def test_a_token_that_expires_ends_the_connection_unless_it_is_replaced(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as site,
        site.realtime(token=token(seconds=1)) as ending,
        site.realtime(token=token(seconds=1)) as going_on,
    ):
        await ask(going_on, "auth", token=token())
        assert (await going_on.receive())["type"] == "authenticated"
        expired = await ending.receive()
        assert (expired["data"]["code"], expired["data"]["details"]) == (
            "INVALID_TOKEN",
            {"reason": "expired"},
        )
        assert await ending.closed() == 4401
        assert await synced(going_on) == []


async def test_a_client_can_be_kicked(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.realtime(token=token()) as connection:
        assert await site.server.kick(user_id="alice", jti=None, connection_id=None) == (1, [])
        assert await connection.closed() == 4401
        assert site.server.realtime.closes == {("kicked", "server"): 1}


async def test_symbols_that_a_token_does_not_allow(tmp_path: Path) -> None:
    bearer = token(topics=["stock:AAPL"])
    async with serving(tmp_path) as site, site.realtime(token=bearer) as connection:
        await ask(connection, "subscribe_asset", symbol="MSFT")
        refusal = (await connection.receive())["data"]
        assert refusal["code"] == "FORBIDDEN"
        assert refusal["details"] == {"rejected": [{"target": "MSFT", "reason": "forbidden"}]}
        await subscribed(connection, "AAPL")


async def test_messages_are_compressed_where_that_was_agreed(tmp_path: Path) -> None:
    async with serving(tmp_path, compression_threshold=1) as site, site.realtime() as connection:
        assert connection.connection.protocol.extensions
        await subscribed(connection, "AAPL", "MSFT")
        site.publish("AAPL", 1)
        site.publish("MSFT", 2)
        assert [(await connection.receive())["data"]["price"] for _ in range(2)] == [1, 2]
        assert site.server.hub.meters.n_compressed == 2


async def test_a_fault_of_the_server_costs_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.realtime() as connection, site.realtime() as other:
        market, site.server.targets.market = site.server.targets.market, None  # type: ignore[assignment]
        await ask(connection, "subscribe_asset", 5, symbol="AAPL")
        error = await connection.receive()
        assert (error["data"]["code"], error["id"]) == ("INTERNAL_ERROR", 5)
        assert await connection.closed() == 1011
        site.server.targets.market = market
        await subscribed(other, "AAPL")


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"ping"}',
        '{"type":"ping","data":{"any":[1]},"timestamp":1762853400.5}',
        '{"type":"ping","timestamp":null}',
    ],
)
async def test_what_a_client_need_not_send(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as site, site.realtime() as connection:
        await connection.connection.send(text)
        assert (await connection.receive())["type"] == "pong"


# Portfolios.


async def portfolio_of(connection: Client, portfolio_id: int) -> Any:
    """Subscribe to it, and return the members of its value."""
    await ask(connection, "subscribe_portfolio", portfolio_id=portfolio_id)
    assert (await connection.receive())["data"] == {"portfolio_id": portfolio_id}
    return (await connection.receive())["data"]


async def test_a_portfolio_is_taken_from_those_who_hold_it_when_its_owner_changes(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as site,
        site.realtime(token=token()) as first,
        site.screener(token=token()) as second,
        site.realtime(token=token("bob")) as other,
    ):
        site.publish("AAPL", 10)
        await site.import_portfolios("1,alice,Mine,USD", "2,alice,Too,USD")
        await site.import_positions("1,AAPL,2", "2,AAPL,3")
        assert (await portfolio_of(first, 1))["total_value"] == 20
        assert (await portfolio_of(first, 2))["total_value"] == 30
        await second.subscribe("portfolio", "1", "2")
        await second.until_snapshot()
        await ask(other, "subscribe_portfolio", portfolio_id=1)
        assert (await other.receive())["data"]["code"] == "FORBIDDEN"

        await site.import_portfolios("1,bob,Mine,USD", "2,alice,Too,USD")
        error = (await first.receive())["data"]
        assert (error["code"], error["details"]) == (
            "FORBIDDEN",
            {"rejected": [{"target": "1", "reason": "forbidden"}]},
        )
        error = await second.receive()
        assert (error["code"], error["details"]["rejected"][0]["target"]) == ("FORBIDDEN", "1")
        assert (await portfolio_of(other, 1))["total_value"] == 20
        site.publish("AAPL", 11)
        assert (await other.receive())["data"]["total_value"] == 22
        assert (await first.receive())["data"]["portfolio_id"] == 2
        assert (await second.receive())["portfolio_id"] == 2
        assert await synced(first) == []


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_portfolio_is_taken_from_who_was_paused_from_the_beginning(
    tmp_path: Path, *, is_away: bool
) -> None:
    """It was never asked what it is worth, and nobody but `alice` knows that she holds it."""
    async with serving(tmp_path) as site, contextlib.AsyncExitStack() as stack:
        site.publish("AAPL", 10)
        await site.import_portfolios("1,alice,Mine,USD", "2,alice,Too,USD")
        await site.import_positions("1,AAPL,2", "2,AAPL,3")
        paused = await stack.enter_async_context(site.screener(token=token()))
        await paused.send(type="pause")
        await paused.until_type("paused")
        await paused.subscribe("portfolio", "1", "2")
        await paused.until_type("subscribed")
        if is_away:
            await paused.connection.close()
            await until(lambda: len(site.server.sessions) == 1)
            session_id = paused.greeting["connection_id"]
            paused = await stack.enter_async_context(site.screener(token=token(), session_id=session_id))
            await paused.until_type("reconnected")
        assert site.server.portfolios.n_watched == 0
        await site.import_portfolios("1,bob,Secret,USD", "2,alice,Too,USD")
        error = await paused.receive()
        assert (error["code"], error["details"]["rejected"]) == (
            "FORBIDDEN",
            [{"target": "1", "reason": "forbidden"}],
        )
        await paused.send(type="resume")
        await paused.until_type("resumed")
        assert (await paused.until_snapshot())["messages"][0]["portfolio_id"] == 2
        site.publish("AAPL", 11)
        assert (await paused.receive())["portfolio_id"] == 2
        async with site.realtime(token=token("bob")) as other:
            assert (await portfolio_of(other, 1))["name"] == "Secret"


async def test_a_session_brings_no_portfolio_that_is_another_users_by_now(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        site.publish("AAPL", 10)
        await site.import_portfolios("1,alice,Mine,USD", "2,alice,Too,USD")
        async with site.screener(token=token()) as connection:
            await connection.subscribe("portfolio", "1", "2")
            await connection.until_snapshot()
            session_id = connection.greeting["connection_id"]
        await until(lambda: len(site.server.sessions) == 1)
        await site.import_portfolios("1,bob,Mine,USD", "2,alice,Too,USD")
        async with site.screener(token=token(), session_id=session_id) as again:
            restored = await again.receive()
            assert restored["restored_subscriptions"] == {"portfolio": ["2"]}


async def test_nothing_of_a_strangers_portfolio_is_said_anywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with (
        serving(tmp_path, log_level="debug") as site,
        site.realtime(token=token("eve")) as stranger,
        site.screener(token=token("eve")) as other,
        site.realtime() as anonymous,
        site.realtime(token=token()) as owner,
    ):
        site.publish("AAPL", 10)
        await site.import_portfolios("77123,alice,Hidden Treasure,USD")
        await site.import_positions("77123,AAPL,4711.5")
        assert (await portfolio_of(owner, 77123))["name"] == "Hidden Treasure"
        said = []
        for connection in (stranger, anonymous):
            answers = []
            for portfolio_id in (77123, 88123):
                await ask(connection, "subscribe_portfolio", portfolio_id=portfolio_id)
                answer = await connection.receive()
                # What was asked for, and nothing else.
                assert answer["data"].pop("details") == {"portfolio_id": portfolio_id}
                said.append(json.dumps(answer))
                answers.append(answer["data"])
            # One that there is and one that there is not cannot be told apart.
            assert answers[0] == answers[1]
            assert answers[0]["code"] == "FORBIDDEN"
        texts = []
        for name in ("77123", "88123"):
            await other.subscribe("portfolio", name)
            texts.append((await other.receive_text()).partition(',"timestamp"')[0].replace(name, ""))
        assert texts[0] == texts[1]
        for price in range(11, 15):
            site.publish("AAPL", price)
            await owner.until(
                lambda message, value=price * 4711.5: (
                    message["data"].get("total_value") == Decimal(str(value))
                )
            )
        for connection in (stranger, anonymous):
            assert await synced(connection) == []
        await other.sync()
        status = await get(site, "/realtime/status/", Authorization=f"Bearer {token('eve')}")
        assert status[1]["user_stats"]["subscriptions"] == {"portfolios": [], "assets": []}
        public = [
            json.dumps((await get(site, path))[1]) for path in ("/v1/ws/stats", "/realtime/status", "/health")
        ]
        for text in (*said, *public, json.dumps(status[1]), "".join(capfd.readouterr())):
            assert "Treasure" not in text
            assert "77123" not in text
            assert "4711" not in text


async def test_the_status_of_a_user_is_that_of_all_connections(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as site,
        site.realtime(token=token(7)) as first,
        site.screener(token=token(7)) as second,
        site.realtime() as anonymous,
    ):
        await site.import_portfolios("1,7,Mine,USD")
        await subscribed(first, "AAPL", "GOOGL")
        await ask(first, "subscribe_portfolio", portfolio_id=1)
        await second.subscribe("stock", "GOOGL", "MSFT")
        await second.until_snapshot()
        await subscribed(anonymous, "NVDA")
        await synced(first)
        status, body = await get(site, "/realtime/status/", Authorization=f"Bearer {token('7')}")
        assert status == 200
        assert body == {
            "service_status": "running",
            "global_stats": {
                "total_connections": 3,
                "authenticated_users": 1,
                "portfolio_subscriptions": 1,
                "asset_subscriptions": 5,
            },
            "user_stats": {
                "connection_count": 2,
                "subscriptions": {"portfolios": [1], "assets": ["AAPL", "GOOGL", "MSFT"]},
            },
        }
        stats = (await get(site, "/v1/ws/stats"))[1]
        assert stats["subscriptions_by_type"] == {"stock": 5, "market": 0, "sector": 0, "portfolio": 1}
        assert stats["total_subscriptions"] == 6
        assert (await get(site, "/realtime/status/", Authorization="Bearer nonsense"))[0] == 401
        listed = (await get(site, "/v1/ws/connections", Authorization=f"Bearer {ADMIN}"))[1]
        assert [one["subscriptions"].get("portfolio") for one in listed] == [["1"], None, None]


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({}, "ws://127.0.0.1:{}/ws/realtime/"),
        ({"Host": "prices.example"}, "ws://prices.example/ws/realtime/"),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "p.example", "X-Forwarded-For": "203.0.113.7"},
            "wss://p.example/ws/realtime/",
        ),
        (
            {
                "X-Forwarded-Host": "p.example",
                "X-Forwarded-Prefix": "/prices/",
                "X-Forwarded-For": "203.0.113.7",
            },
            "ws://p.example/prices/ws/realtime/",
        ),
    ],
)
async def test_where_the_socket_is_by_the_word_of_trusted_proxies(
    tmp_path: Path, headers: dict[str, str], url: str
) -> None:
    async with serving(tmp_path, trusted_proxies=("127.0.0.1",)) as site:
        body = (await get(site, "/realtime/websocket-info/", **headers))[1]
        assert body["websocket_url"] == url.format(site.port)
        info = body["connection_info"]
        assert f"{info['protocol']}://{info['host']}{info['path']}" == body["websocket_url"]
        assert info["authentication"] == "jwt"
        assert list(body["message_types"].items())[:2] == [
            ("ping", "Health check message"),
            ("subscribe_asset", "Subscribe to asset price updates"),
        ]
    async with serving(tmp_path) as untrusting:
        body = (await get(untrusting, "/realtime/websocket-info/", **headers))[1]
        assert body["connection_info"]["protocol"] == "ws"
        assert body["connection_info"]["path"] == "/ws/realtime/"
