"""What happens to a client between its handshake and its greeting, and to its tokens and sessions meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import msgspec
import pytest
from aiohttp import ClientSession
from listening import until

from fastws._market import BookUpdate, PriceUpdate
from fastws.auth import AuthError, Identity
from fastws.clock import wall_ms
from fastws.dialects import screener
from fastws.dialects.clients import Client as ServedClient
from fastws.server.reload import reload
from fastws.server.server import Server
from fastws.settings import Settings
from tests.clients import client
from tests.rawclient import RawClient, upgrade_head

SECRET = "a secret of more than thirty-two bytes"
CODE = "005930"


def token(sub: str = "alice", seconds: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + seconds, **claims}, SECRET, "HS256")


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[Server, str]]:
    server = Server(Settings(**{"port": 0, "jwt_secret": SECRET, "shutdown_spread": 0} | settings))
    await server.start()
    try:
        yield server, "ws://{}:{}/v1/ws".format(*server.listener.addresses[0])
    finally:
        await server.stop()


def served(server: Server) -> ServedClient:
    (only,) = server.admission.presence.by_id.values()
    return only


@contextlib.asynccontextmanager
async def mute(server: Server, bearer: str) -> AsyncIterator[str]:
    """A connection that answers nothing; yields its id."""
    raw = RawClient(server.listener.addresses[0][1], handshake=False)
    loop = asyncio.get_running_loop()
    try:
        raw.send(upgrade_head(f"/v1/ws?token={bearer}"))
        await loop.run_in_executor(None, raw.read_response)
        greeting = await loop.run_in_executor(None, raw.read_message)
        yield greeting["connection_id"]
    finally:
        raw.close()


@pytest.mark.parametrize("named", ["jti", "user_id", "connection_id"])
async def test_a_client_that_takes_a_session_over_is_kicked(named: str) -> None:
    async with serving() as (server, url), mute(server, token()) as session_id:
        bearer = token(jti="j")
        async with client(f"{url}?session_id={session_id}&token={bearer}", greeted=False) as connection:
            await until(lambda: bool(server.admission.presence.arriving))
            chosen = {"jti": "j", "user_id": "alice", "connection_id": session_id}[named]
            n_closed, _ = await server.kick(
                **{"jti": None, "user_id": None, "connection_id": None} | {named: chosen}
            )
            assert n_closed == (1 if named == "jti" else 2)
            assert await connection.closed() == 4401
        assert not server.admission.presence.arriving


@pytest.mark.parametrize("reason", ["expired", "revoked"])
async def test_a_token_that_ended_while_a_session_was_taken_over(reason: str) -> None:
    async with serving() as (server, url), mute(server, token()) as session_id:
        bearer = token(jti="j", seconds=0.4 if reason == "expired" else 600)
        async with client(f"{url}?session_id={session_id}&token={bearer}", greeted=False) as connection:
            await until(lambda: bool(server.admission.presence.arriving))
            if reason == "revoked":
                server.authenticator.revoke_jti("j")
            error = await connection.receive()
            assert (error["code"], error["details"]) == ("INVALID_TOKEN", {"reason": reason})
            assert await connection.closed() == 4401
        assert len(server.sessions) == 1  # what was taken is kept for its user
        assert server.authenticator.failures == {reason: 1}


async def test_a_revocation_is_kept_as_long_as_the_token() -> None:
    async with serving(jwt_leeway=0) as (server, url), client(f"{url}?token={token(jti='j')}"):
        ends_at = served(server).identity
        assert ends_at is not None
        await server.kick(user_id=None, jti="j", connection_id=None)
        await server.kick(user_id=None, jti="unknown", connection_id=None)
        revoked = server.authenticator._revocations
        assert ends_at.ends_at is not None
        assert revoked.has("j", ends_at.ends_at - 1)
        assert not revoked.has("j", ends_at.ends_at)
        assert revoked.has("unknown", 1e12)


@pytest.mark.parametrize("sequence", ["9" * 5000, str(2**63), "9" * 19, "1" * 18])
async def test_numbers_that_no_sequence_has_cost_no_session(sequence: str) -> None:
    async with serving() as (server, url):
        async with client(url) as connection:
            await connection.subscribe("stock", CODE)
            await connection.sync()
        await until(lambda: len(server.sessions) == 1)
        session_id = connection.greeting["connection_id"]
        async with client(f"{url}?session_id={session_id}&last_sequence={sequence}") as again:
            answer = await again.receive()
            assert answer["type"] == "reconnected"
            assert answer["restored_subscriptions"] == {"stock": [CODE]}
            assert answer["recovered"] is False


@pytest.mark.parametrize("sequence", [2**63, 2**64, 10**400])
async def test_the_same_in_a_message(sequence: int) -> None:
    async with serving() as (_, url), client(url) as connection:
        await connection.send(type="reconnect", session_id="x", last_sequence=sequence)
        error = await connection.receive()
        assert (error["code"], error["details"]) == ("INVALID_MESSAGE", {"field": "last_sequence"})
        assert "9223372036854775807" in error["message"]


@pytest.mark.parametrize("way", ["handshake", "message"])
async def test_a_session_whose_restoration_fails_is_kept(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> None:
        raise ArithmeticError("a fault of ours")

    async with serving() as (server, url):
        async with client(f"{url}?token={token()}") as connection:
            await connection.subscribe("stock", CODE)
            await connection.sync()
        await until(lambda: len(server.sessions) == 1)
        session_id = connection.greeting["connection_id"]
        monkeypatch.setattr(screener, "restore", failing)
        query = f"&session_id={session_id}" if way == "handshake" else ""
        async with client(f"{url}?token={token()}{query}") as again:
            if way == "message":
                await again.send(type="reconnect", session_id=session_id)
            assert await again.closed() == 1011
        await until(lambda: not server.admission.presence.by_id)
        monkeypatch.undo()
        async with client(f"{url}?token={token()}&session_id={session_id}") as again:
            assert (await again.receive())["restored_subscriptions"] == {"stock": [CODE]}


@pytest.mark.parametrize("second", ["good", "bad"])
async def test_of_two_tokens_the_later_one_counts(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (server, url), client(url) as connection:
        verify, has_key = server.authenticator.verify, asyncio.Event()
        waits = token("early")

        async def authenticate(text: str) -> Identity:
            await has_key.wait()
            return verify(text)

        def verify_now(text: str) -> Identity:
            if text == waits:
                raise AuthError("unknown_key")
            return verify(text)

        monkeypatch.setattr(server.authenticator, "verify", verify_now)
        monkeypatch.setattr(server.authenticator, "authenticate", authenticate)
        await connection.send(type="auth", id=1, token=waits)
        await connection.send(type="auth", id=2, token=token("late") if second == "good" else "bad")
        assert (await connection.receive())["id"] == 2
        has_key.set()
        answer = await connection.receive()
        assert answer["id"] == 1
        if second == "good":
            assert (answer["code"], answer["details"]) == ("INVALID_TOKEN", {"reason": "superseded"})
        else:
            assert answer["type"] == "authenticated"
        assert served(server).user_key == ("late" if second == "good" else "early")


async def test_the_end_of_a_token_is_looked_at_again_and_again() -> None:
    """The loop's clock is not the one by which tokens end."""
    async with serving() as (server, url), client(f"{url}?token={token()}"):
        looking = server.admission.credentials._looking
        assert looking.when() - server.hub.loop.time() < 1
        await asyncio.sleep(max(0, looking.when() - server.hub.loop.time()))
        await until(lambda: server.admission.credentials._looking is not looking)
        assert server.admission.credentials._looking is not None


async def test_an_outage_of_the_issuer_is_not_charged_to_users() -> None:
    settings = {
        "jwt_secret": None,
        "jwt_algorithm": "RS256",
        "jwks_url": "http://127.0.0.1:1/",
        "handshake_rate": 2,
    }
    async with serving(**settings) as (server, url), ClientSession() as session:
        key = jwt.encode({"sub": "a"}, SECRET, "HS256")
        head = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9"  # {"alg":"RS256","typ":"JWT"}
        for _ in range(6):
            bearer = {"Authorization": f"Bearer {head}{key[key.index('.') :]}"}
            async with session.get(
                url.replace("ws:", "http:").replace("/v1/ws", "/v1/alerts"), headers=bearer
            ) as got:
                assert got.status == 503
                assert got.headers["Retry-After"] == "5"
                error = (await got.json())["error"]
                assert error["code"] == "SERVICE_UNAVAILABLE"
                assert error["details"] == {"reason": "unavailable"}
        assert server.authenticator.failures == {"unavailable": 6}


async def test_what_is_kept_of_a_client_on_its_way_in_has_a_size() -> None:
    async with serving() as (server, url), mute(server, token()) as session_id:
        address = f"{url}?session_id={session_id}&token={token()}"
        async with client(address, greeted=False) as connection:
            await until(lambda: bool(server.admission.presence.arriving))
            (arriving,) = server.admission.presence.arriving
            for name in "abc":
                await connection.send(type="ping", id=name, padding=30_000 * "x")
            limited = await connection.receive()
            assert limited["code"] == "RATE_LIMIT_EXCEEDED"
            assert 60_000 < sum(map(len, arriving.waiting)) <= 65_536
            for name in "ab":
                assert (await connection.until_type("pong"))["id"] == name


async def test_the_first_message_of_a_client_on_its_way_in_may_be_as_large_as_any() -> None:
    async with serving(message_bytes=200_000) as (server, url), mute(server, token()) as session_id:
        address = f"{url}?session_id={session_id}&token={token()}"
        async with client(address, greeted=False) as connection:
            await until(lambda: bool(server.admission.presence.arriving))
            await connection.send(type="ping", id="large", padding=150_000 * "x")
            assert (await connection.until_type("pong"))["id"] == "large"


# Snapshots.


@pytest.mark.parametrize("way", ["resume", "subscribe", "set"])
async def test_snapshots_over_and_over_are_charged_by_their_size(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(subscription_limit=10_000) as (server, url), client(url) as connection:
        instruments = server.market.instruments
        markets, sectors = list(instruments.markets), list(instruments.sectors)
        stocks = [instrument.code for instrument in instruments]
        for i, instrument in enumerate(instruments):
            server.market.publish_price(PriceUpdate(instrument, i + 1))
            server.market.publish_book(BookUpdate(instrument, [(i + 1, 1)], []))
        monkeypatch.setattr("fastws.dialects.targets._VALUES_PER_MESSAGE", 1)  # as if the table were large
        n_limited = 0

        def note(message: Any) -> None:
            nonlocal n_limited
            n_limited += message.get("code") == "RATE_LIMIT_EXCEEDED"

        connection.on_message = note
        for kind, targets in (("market", markets), ("sector", sectors), ("stock", stocks)):
            for i in range(0, len(targets), 50):
                await connection.subscribe(kind, *targets[i : i + 50])
        await connection.sync()
        assert n_limited == 0
        began = wall_ms()
        for _ in range(20):
            if way == "resume":
                await connection.send(type="resume")
            elif way == "subscribe":
                await connection.subscribe("market", *markets)
            else:
                await connection.send(type="set_subscriptions", subscriptions={})
                await connection.send(type="set_subscriptions", subscriptions={"market": markets})
        await connection.until(lambda message: n_limited > 0)
        assert wall_ms() - began < 10_000


# Sessions.


async def test_once_tokens_are_required_no_session_comes_without_one() -> None:
    async with serving() as (server, url):
        async with client(url) as connection:
            await connection.subscribe("stock", CODE)
            await connection.sync()
        await until(lambda: len(server.sessions) == 1)
        await reload(server, msgspec.structs.replace(server.settings, allow_anonymous=False))
        address = f"{url}?session_id={connection.greeting['connection_id']}"
        async with client(address) as again:
            error = await again.receive()
            assert (error["code"], error["details"]) == (
                "SESSION_RESTORATION_FAILED",
                {"reason": "forbidden"},
            )
            assert again.greeting["connection_id"] != connection.greeting["connection_id"]
            assert not served(server).connection.subscriptions()
        assert len(server.sessions) == 1


async def test_sessions_without_a_token_count_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.sessions._MIN_PER_OWNER", 2)
    async with serving(session_limit=10) as (server, url):
        async with client(f"{url}?token={token()}") as connection:
            pass
        for _ in range(4):
            async with client(url) as other:
                await other.subscribe("stock", CODE)
                await other.sync()
        await until(lambda: not server.admission.presence.by_id)
        assert len(server.sessions) == 3
        session_id = connection.greeting["connection_id"]
        async with client(f"{url}?token={token()}&session_id={session_id}") as again:
            assert (await again.receive())["type"] == "reconnected"
