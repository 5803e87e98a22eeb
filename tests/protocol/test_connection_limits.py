"""Limits by address and in all, over real sockets: who counts, who is refused and how, and that all counts end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession
from listening import Client as HttpClient
from listening import Response, until, upgrade
from websockets.exceptions import InvalidStatus

from fastws.errors import CloseCode
from fastws.server.server import Server
from fastws.settings import Settings
from tests.clients import Client, client
from tests.conftest import StartServer
from tests.rawclient import RawClient, frame, upgrade_head

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the token of the administrator"


class Site:
    """A server on the loop of the test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.limits = server.limits
        host, self.port = server.listener.addresses[0]
        self.authority = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"ws://{self.authority}/v1/ws"

    def client(self, forwarded_for: str | None = None, query: str = "", **options: Any) -> Any:
        headers = {} if forwarded_for is None else {"X-Forwarded-For": forwarded_for}
        return client(self.url + query, additional_headers=headers, **options)

    @contextlib.asynccontextmanager
    async def http(self) -> AsyncIterator[HttpClient]:
        peer = HttpClient(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield peer
        finally:
            await peer.close()

    async def handshake(self, **headers: str) -> Response:
        """The answer to one handshake, whose connection is then cut."""
        async with self.http() as peer:
            peer.send(upgrade(**headers))
            return await peer.response()

    async def refused(self, forwarded_for: str | None = None, query: str = "") -> dict[str, Any]:
        """The error that a connection gets in the place of a greeting, before it is closed with 4429."""
        async with self.client(forwarded_for, query, greeted=False) as one:
            error: dict[str, Any] = await one.receive()
            assert (error["type"], error["code"]) == ("error", "LIMIT_EXCEEDED")
            assert await one.closed() == CloseCode.RATE_ABUSE
            details: dict[str, Any] = error["details"]
            return details

    async def until_empty(self) -> None:
        await until(lambda: self.server.hub.n_connections == 0)
        limits = self.limits
        assert (limits.n_admitted, limits.n_guests, limits.n_addresses) == (0, 0, 0)


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Site]:
    server = Server(Settings(**{"port": 0, "jwt_secret": SECRET, "shutdown_spread": 0} | settings))
    await server.start()
    try:
        yield Site(server)
    finally:
        await server.stop()


def token(sub: str = "user", **claims: Any) -> str:
    return jwt.encode({"sub": sub, **claims}, SECRET, "HS256")


# By address.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_has_so_many_connections(host: str) -> None:
    async with serving(host=host, connections_per_ip=2) as site:
        async with site.client() as first, site.client() as second:
            assert await site.refused() == {"limit": 2, "current": 2}
            await first.sync()
            await second.sync()
        await site.until_empty()
        async with site.client(), site.client():
            assert site.limits.n_admitted == 2


async def test_behind_a_proxy_each_client_counts_for_itself() -> None:
    async with serving(connections_per_ip=1, trusted_proxies=("127.0.0.1", "10.0.0.0/8")) as site:
        async with (
            site.client("203.0.113.1"),
            site.client("203.0.113.2"),
            site.client("203.0.113.3, 10.0.0.9"),
            site.client("2001:db8:0:1::1"),
            site.client("2001:db8:0:2::1"),
            # The proxy itself, as when it looks whether the server lives.
            site.client(),
        ):
            for taken in (
                "203.0.113.1",
                # What the client has claimed stands on the left.
                "198.51.100.7, 203.0.113.2",
                "203.0.113.3",
                "::ffff:203.0.113.3",
                "2001:db8:0:1:ffff::7",
                "unknown",
            ):
                assert await site.refused(taken) == {"limit": 1, "current": 1}
            assert site.limits.n_addresses == 6
        await site.until_empty()


async def test_a_stranger_cannot_claim_an_address() -> None:
    async with serving(
        connections_per_ip=1, handshake_rate=8, trusted_proxies=("10.0.0.0/8", "unix")
    ) as site:
        async with site.client("203.0.113.1"):
            for number in range(5):
                await site.refused(f"203.0.113.{number}")
        await until(lambda: site.server.hub.n_connections == 0)
        answers = [
            (await site.handshake(x_forwarded_for=f"10.0.0.{number}", forwarded=f"for=1.1.1.{number}")).status
            for number in range(8)
        ]
        assert 429 in answers


async def test_a_proxy_on_the_unix_socket_can_be_trusted(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with serving(
        unix_socket=path, connections_per_ip=1, trusted_proxies=("unix",), sources={"port": "--port"}
    ) as site:
        async with site.client("203.0.113.1"), contextlib.AsyncExitStack() as stack:
            for address in ("203.0.113.1", "203.0.113.2"):
                await stack.enter_async_context(site.client(address, unix=True, path=path))
            await stack.enter_async_context(site.client(unix=True, path=path))
            # That over TCP comes from this machine, whatever it says.
            assert site.limits.n_addresses == 4
            for address in ("203.0.113.1", "unknown", None):
                async with site.client(address, unix=True, path=path, greeted=False) as refused:
                    assert (await refused.receive())["code"] == "LIMIT_EXCEEDED"
        await site.until_empty()


async def test_the_headers_of_a_proxy_decide_what_the_own_origin_is() -> None:
    async with serving(trusted_proxies=("127.0.0.1",)) as site:
        told = {"host": "backend:8000", "x_forwarded_host": "app.example", "x_forwarded_proto": "https"}
        assert (await site.handshake(origin="https://app.example", **told)).status == 101
        assert (await site.handshake(origin="http://app.example", **told)).status == 403
        assert (await site.handshake(origin="http://backend:8000", **told)).status == 403
        site.server.peers.update(())
        assert (await site.handshake(origin="https://app.example", **told)).status == 403


# In all.


async def test_there_are_so_many_connections_in_all() -> None:
    async with serving(connection_limit=3, trusted_proxies=("127.0.0.1",)) as site:
        async with site.client("203.0.113.1"), site.client("203.0.113.2"), site.client("203.0.113.3"):
            assert await site.refused("203.0.113.4") == {"limit": 3, "current": 3}
        await site.until_empty()
        async with site.client("203.0.113.4"):
            pass
        await site.until_empty()


async def test_far_over_the_limits_a_refusal_costs_no_connection() -> None:
    """Clients that do not take their refusal stay for a while, but not without bound."""
    async with serving(connection_limit=20, connections_per_ip=1, trusted_proxies=("127.0.0.1",)) as site:

        async def crowd(address: str, n: int) -> list[HttpClient]:
            """Take as many handshakes as there are, and say nothing more."""
            peers = []
            for _ in range(n):
                peer = HttpClient(*await asyncio.open_connection("127.0.0.1", site.port))
                peers.append(peer)
                peer.send(upgrade(x_forwarded_for=address))
                assert (await peer.response()).status == 101
            return peers

        peers = await crowd("203.0.113.1", 9)
        answer = await site.handshake(x_forwarded_for="203.0.113.1")
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        error = json.loads(answer.body)["error"]
        assert error["code"] == "LIMIT_EXCEEDED"
        assert error["message"] == "An address may have 1 connections; close one first"
        for number in range(2, 21):
            peers += await crowd(f"203.0.113.{number}", 1)
        answer = await site.handshake(x_forwarded_for="203.0.113.99")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert json.loads(answer.body)["error"]["code"] == "LIMIT_EXCEEDED"
        assert site.server.hub.n_connections == 28
        for peer in peers:
            await peer.close()
        await site.until_empty()
        async with site.client("203.0.113.1"):
            pass


# The rate of handshakes.


async def test_handshakes_over_the_rate_are_answered_429_before_the_upgrade() -> None:
    async with serving(handshake_rate=4, trusted_proxies=("127.0.0.1",)) as site:
        answers = [await site.handshake(x_forwarded_for="203.0.113.1") for _ in range(12)]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) >= 7
        assert {answer.status for answer in answers} == {101, 429}
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].headers["content-type"] == "application/json; charset=utf-8"
        assert json.loads(refused[0].body) == {
            "error": {
                "code": "RATE_LIMIT_EXCEEDED",
                "message": "An address may open 4 connections a second; wait a moment",
            }
        }
        # Others are not concerned, nor are plain requests.
        assert (await site.handshake(x_forwarded_for="203.0.113.2")).status == 101
        async with (
            ClientSession() as session,
            session.get(f"http://{site.authority}/v1/ws/stats") as response,
        ):
            stats = await response.json()
        assert stats["refused_by_limit"]["handshake_rate"] == len(refused)
        waited = time.monotonic()

        async def is_granted() -> bool:
            return (await site.handshake(x_forwarded_for="203.0.113.1")).status == 101

        async with asyncio.timeout(30):
            while not await is_granted():
                await asyncio.sleep(0.02)
        assert time.monotonic() - waited < 2


async def test_a_late_upgrade_is_charged_and_counted_like_any_other() -> None:
    async with serving(handshake_rate=1, connections_per_ip=1, trusted_proxies=("127.0.0.1",)) as site:
        async with site.http() as peer:
            peer.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await peer.response()).status == 200
            peer.send(upgrade(x_forwarded_for="203.0.113.1"))
            assert (await peer.response()).status == 101
            assert site.limits.n_addresses == 1
            async with site.http() as other:
                other.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert (await other.response()).status == 200
                other.send(upgrade(x_forwarded_for="203.0.113.1"))
                answer = await other.response()
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
                assert await other.rest() == b""
        await site.until_empty()


async def test_a_flood_of_bad_tokens_is_one_of_handshakes() -> None:
    async with serving(handshake_rate=5) as site:
        statuses = []
        for _ in range(15):
            status = 101
            try:
                async with site.client(query="?token=junk", greeted=False) as one:
                    assert (await one.receive())["code"] == "INVALID_TOKEN"
                    assert await one.closed() == CloseCode.TOKEN_INVALID
            except InvalidStatus as refusal:
                status = refusal.response.status_code
            statuses.append(status)
        assert set(statuses) == {101, 429}
        assert statuses[:5] == [101] * 5
        await site.until_empty()


async def test_a_message_with_a_token_is_charged_as_several() -> None:
    async with serving(rate_limit=40) as site, site.client() as one:
        for number in range(8):
            await one.send(type="auth", token=token(), id=number)
        answers = [await one.receive() for _ in range(5)]
        assert [answer["type"] for answer in answers] == ["authenticated"] * 4 + ["error"]
        assert answers[-1]["code"] == "RATE_LIMIT_EXCEEDED"
    # However low the limit is, a client may authenticate and subscribe at once.
    async with serving(rate_limit=2) as site, site.client() as one:
        await one.send(type="auth", token=token())
        await one.send(type="subscribe", subscription_type="stock", targets=["005930"])
        assert [(await one.receive())["type"] for _ in range(2)] == ["authenticated", "subscribed"]


# Connections that go on.


async def test_a_session_can_be_taken_over_where_only_one_connection_is_allowed() -> None:
    """The usual case of a limit that is reached: the same client behind a dead network."""
    async with serving(connections_per_ip=1, connection_limit=1) as site:

        def dead() -> tuple[RawClient, str]:
            raw = RawClient(site.port)
            greeting = raw.read_message()
            raw.send_message(type="subscribe", subscription_type="stock", targets=["005930"])
            assert raw.read_message()["type"] == "subscribed"
            return raw, greeting["connection_id"]

        raw, session_id = await asyncio.to_thread(dead)
        try:
            # Without the session it is one too many, and so is one of another's session.
            assert await site.refused() == {"limit": 1, "current": 1}
            assert await site.refused(query="?session_id=550e8400-e29b-41d4-a716-446655440000")
            async with site.client(query=f"?session_id={session_id}") as one:
                assert one.greeting["connection_id"] == session_id
                assert (await one.receive())["type"] == "reconnected"
                assert (site.limits.n_admitted, site.limits.n_guests) == (1, 0)
        finally:
            raw.close()
        await site.until_empty()
        # A session whose connection lives stays where it is, and then there is no room.
        async with site.client() as living:
            reading = asyncio.create_task(_read(living))
            assert await site.refused(query=f"?session_id={living.greeting['connection_id']}")
            reading.cancel()
        await site.until_empty()


async def _read(connection: Client) -> None:
    while True:
        await connection.receive()


async def test_a_session_is_not_lost_for_want_of_room() -> None:
    async with serving(connections_per_ip=1) as site:
        async with site.client() as one:
            await one.subscribe("stock", "005930")
            await one.until_snapshot()
            session_id = one.greeting["connection_id"]
        await site.until_empty()
        async with site.client():
            await site.refused(query=f"?session_id={session_id}")
        await site.until_empty()
        async with site.client(query=f"?session_id={session_id}") as one:
            assert (await one.receive())["restored_subscriptions"] == {"stock": ["005930"]}


async def test_an_evicted_connection_makes_room_at_its_address_at_once() -> None:
    async with serving(
        connections_per_user=1,
        connections_per_ip=1,
        on_connection_limit="evict_oldest",
        trusted_proxies=("127.0.0.1",),
    ) as site:
        query = f"?token={token()}"
        async with site.client("203.0.113.1", query) as first, site.client("203.0.113.1", query) as second:
            assert await first.closed() == CloseCode.RATE_ABUSE
            async with site.client("203.0.113.2"):
                # Nobody is evicted for the sake of one that does not get in.
                assert await site.refused("203.0.113.2", query) == {"limit": 1, "current": 1}
                await second.sync()
        await site.until_empty()


# Those who are not known yet.


async def test_who_waits_to_be_known_is_bounded_and_not_forgotten() -> None:
    """While the issuer of tokens does not answer, its users wait, connected."""

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    silent = await asyncio.start_server(keep, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/jwks.json"
    unknown = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJhIn0." + "A" * 342
    async with serving(
        connections_per_ip=2,
        jwt_secret=None,
        jwt_algorithm="RS256",
        jwks_url=url,
        trusted_proxies=("127.0.0.1",),
    ) as site:
        peers = []
        for _ in range(10):
            peer = HttpClient(*await asyncio.open_connection("127.0.0.1", site.port))
            peers.append(peer)
            peer.send(upgrade(f"/v1/ws?token={unknown}", x_forwarded_for="203.0.113.1"))
            assert (await peer.response()).status == 101
        assert (site.limits.n_guests, site.limits.n_admitted) == (10, 0)
        assert (await site.handshake(x_forwarded_for="203.0.113.1")).status == 429
        async with site.client("203.0.113.2"):
            assert site.limits.n_admitted == 1
        for peer in peers:
            peer.writer.transport.abort()
        await site.until_empty()
    silent.close()
    await silent.wait_closed()


async def test_whatever_ends_a_connection_it_is_counted_no_more() -> None:
    rng = random.Random(7)
    async with serving(
        connections_per_ip=6,
        connection_limit=14,
        connections_per_user=2,
        allow_anonymous=False,
        auth_timeout=0.2,
        admin_token=ADMIN,
        trusted_proxies=("127.0.0.1",),
        on_connection_limit="evict_oldest",
    ) as site:
        server = site.server

        async def live() -> None:
            way = rng.randrange(9)
            query = ""
            if way == 0:
                query = "?token=junk"
            elif way == 1:
                query = f"?token={token(rng.choice('ab'))}"
            elif way == 2:
                # The token ends a moment later, and the connection with it.
                query = f"?token={token('short', exp=time.time() + 0.3)}"
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            address = f"203.0.113.{rng.randrange(3)}"
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                writer.write(upgrade_head("/v1/ws" + query, x_forwarded_for=address))
                if way == 3:
                    # Gone before it was answered.
                    writer.transport.abort()
                    return
                await reader.readuntil(b"\r\n\r\n")
                if way == 4:
                    writer.transport.abort()
                elif way == 5:
                    writer.write(frame(1, b"{}", mask=None))
                elif way == 6:
                    writer.write(frame(8, b"\x03\xe8"))
                elif way == 7:
                    chosen = rng.choice([*server.admission.presence.by_id, ""])
                    await server.kick(user_id=None, jti=None, connection_id=chosen)
                elif way == 8:
                    writer.write_eof()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        while await reader.read(65536):
                            pass
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        async def lives() -> None:
            for _ in range(10):
                await live()

        async with asyncio.timeout(60):
            await asyncio.gather(*(lives() for _ in range(20)))
        await site.until_empty()
        assert server.hub.n_accepted > 100
        assert sum(site.limits.refusals.values()) > 0


# Who it was.


async def test_the_address_as_found_is_in_the_log_and_in_the_list_of_connections(server: StartServer) -> None:
    target = server("--feed", "none", admin_token=ADMIN, trusted_proxies="127.0.0.1", connections_per_ip=1)
    headers = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9"}
    async with client(target.url, additional_headers=headers):
        async with (
            ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as session,
            session.get(
                f"{target.http_url}/v1/ws/connections", ssl=True if target.tls is None else target.tls
            ) as response,
        ):
            connections = await response.json()
        assert [connection["peer"] for connection in connections] == ["203.0.113.9"]
        assert target.stats()["addresses"] == 1
        async with client(target.url, additional_headers=headers, greeted=False) as second:
            assert await second.closed() == CloseCode.RATE_ABUSE
    closed = [line for line in target.log.splitlines() if "connection closed" in line]
    assert len(closed) == 1
    assert "peer=203.0.113.9" in closed[0]
    assert "198.51.100.7" not in target.log


# Connections that wait for a request.


@contextlib.asynccontextmanager
async def silent(site: Site, n: int) -> AsyncIterator[list[HttpClient]]:
    """`n` connections that say nothing, accepted in the order of the list."""
    peers: list[HttpClient] = []
    try:
        for _ in range(n):
            n_accepted = site.server.listener.n_accepted
            peers.append(HttpClient(*await asyncio.open_connection("127.0.0.1", site.port)))
            await until(lambda before=n_accepted: site.server.listener.n_accepted > before)
        yield peers
    finally:
        for peer in peers:
            await peer.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.server.waiting.PATIENCE_SECONDS", 0.0)


async def test_connections_that_wait_for_their_head_give_way(impatient: None) -> None:
    async with serving(half_open_per_ip=3) as site, silent(site, 5) as peers:
        listener = site.server.listener
        assert listener.n_pending == 3
        assert [await peer.reader.read() for peer in peers[:2]] == [b"", b""]
        assert site.limits.refusals["half_open_per_ip"] == 2
        # Those that are left can still go on.
        for peer in peers[2:]:
            peer.send(upgrade())
            assert (await peer.response()).status == 101
        assert listener.n_pending == 0
        # Connections with a head do not count.
        async with silent(site, 3):
            assert listener.n_pending == 3
        await until(lambda: listener.n_pending == 0)
        assert len(listener._unheard) == 0
        assert site.limits.refusals["half_open_per_ip"] == 2


async def test_a_crowd_that_comes_at_once_is_let_in() -> None:
    async with serving(half_open_per_ip=3) as site, silent(site, 20) as peers:
        assert site.server.listener.n_pending == 20
        for peer in peers:
            peer.send(upgrade())
        assert [(await peer.response()).status for peer in peers] == [101] * 20


async def test_scarce_descriptors_leave_no_time() -> None:
    async with serving(half_open_per_ip=3) as site:
        site.server.listener._acceptors[0]._scarce_fd = 0
        async with silent(site, 5):
            assert site.server.listener.n_pending == 3


async def test_trusted_proxies_may_open_ahead(impatient: None) -> None:
    async with serving(half_open_per_ip=2, trusted_proxies=("127.0.0.1",)) as site, silent(site, 5):
        assert site.server.listener.n_pending == 5
        assert site.limits.refusals["half_open_per_ip"] == 0


async def test_half_open_per_ip_0_is_no_limit(impatient: None) -> None:
    async with serving(half_open_per_ip=0) as site, silent(site, 5):
        assert site.server.listener.n_pending == 5


async def test_idle_http_connections_give_way(impatient: None) -> None:
    async with serving(half_open_per_ip=3) as site, contextlib.AsyncExitStack() as stack:
        peers = []
        for _ in range(3):
            peer = await stack.enter_async_context(site.http())
            peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await peer.response()).status == 200
            peers.append(peer)
        # The first has asked again since, so the second is the one that goes.
        peers[0].send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peers[0].response()).status == 200
        last = await stack.enter_async_context(site.http())
        last.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await last.response()).status == 200
        assert await peers[1].reader.read() == b""
        for peer in (peers[0], peers[2], last):
            peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await peer.response()).status == 200
        assert site.limits.refusals["half_open_per_ip"] == 1
