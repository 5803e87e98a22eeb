"""The Python client with real servers: what interrupts it, what it is told, and how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from decimal import Decimal
from typing import Any, TypeVar

import jwt
import pytest

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws.client import (
    Alert,
    Backoff,
    Client,
    ClosedError,
    ConnectError,
    Gap,
    Interrupted,
    Message,
    Overflow,
    PriceUpdate,
    RefreshFailed,
    RequestError,
    Restored,
    TokenError,
    link,
)
from fastws.client.sync import SyncClient
from tests.certificates import files
from tests.conftest import StartServer
from tests.serving import ROOT, Server, free_port, until

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator"
CODE = "005930"
SOON = Backoff(0.02, 0.1)
T = TypeVar("T")


def token(seconds: float = 600, sub: str = "alice") -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + seconds}, SECRET, "HS256")


def publish(server: Server, *bodies: object) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    status, text = server.get("/v1/publish", "POST", json.dumps(bodies).encode(), headers)
    assert status == 202, text


def price(number: object, code: str = CODE, **more: object) -> dict[str, object]:
    return {"type": "price_update", "code": code, "price": number, **more}


async def until_one(client: Client, kind: type[T], seconds: float = 30) -> tuple[T, list[Message]]:
    """The next message of a type, and those before it."""
    before: list[Message] = []
    async with asyncio.timeout(seconds):
        async for message in client:
            if isinstance(message, kind):
                return message, before
            before.append(message)
    raise AssertionError("the client has ended")


def connect(server: Server, **options: Any) -> Client:
    return Client(server.url, ssl=server.tls, **{"backoff": SOON, **options})


async def test_numbers_keep_their_digits_and_what_is_passed_through_stays(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    async with connect(server, token=token()) as client:
        assert client.user_id == "alice"
        accepted = await client.subscribe("stock", [CODE, "none such"])
        assert accepted.targets == [CODE]
        assert [(item.target, item.reason) for item in accepted.rejected] == [("none such", "unknown symbol")]
        publish(server, price(73000, note={"deep": 1.5}, volume=9))
        update, _ = await until_one(client, PriceUpdate)
        assert (update.price, type(update.price), update.volume) == (73000, int, 9)
        assert update.extra == {"note": {"deep": Decimal("1.5")}}
        publish(server, price(150.25))
        update, _ = await until_one(client, PriceUpdate)
        assert update.price == Decimal("150.25")
        assert (update.seq, update.snapshot, update.timestamp.tzinfo) == (2, False, UTC)
        # Again, and its last value comes marked.
        await client.subscribe("stock", [CODE], mode="latest")
        update, _ = await until_one(client, PriceUpdate)
        assert (update.snapshot, update.seq) == (True, 2)
        body = {"code": CODE, "alert_type": "price_above", "threshold": 1000, "user_id": "alice"}
        publish(server, {"type": "alert", **body, "current_price": 1001, "message": "up"})
        alert, _ = await until_one(client, Alert)
        assert (alert.threshold, alert.message) == (1000, "up")
        await client.unsubscribe("stock", [CODE])
        assert client.subscriptions == {}
        with pytest.raises(RequestError, match="none such") as caught:
            await client.subscribe("stock", ["none such"])
        assert caught.value.code == "SUBSCRIPTION_FAILED"
        waiting = asyncio.create_task(anext(client))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(ClosedError, match="closed"):
        await client.ping()


async def test_a_server_that_stops_and_starts(server: StartServer) -> None:
    port = free_port()
    first = server("--feed", "sim", "--port", str(port), shutdown_spread=0)
    async with connect(first) as client:
        await client.subscribe("stock", [CODE], channels=["price"])
        await client.subscribe("market", ["KOSPI"], max_rate=2)
        await until_one(client, PriceUpdate)
        old = client.session_id
        await asyncio.to_thread(first.end)
        interrupted, _ = await until_one(client, Interrupted)
        assert (interrupted.code, interrupted.is_planned) == (1012, True)
        assert not client.is_live
        second = await asyncio.to_thread(lambda: server("--feed", "sim", "--port", str(port)))
        restored, before = await until_one(client, Restored)
        assert not restored.recovered
        assert restored.reason
        assert not any(isinstance(message, (PriceUpdate, Gap)) for message in before)
        assert client.session_id != old
        first_value, _ = await until_one(client, PriceUpdate)
        # The snapshot is empty where the new server has published nothing yet.
        assert first_value.snapshot or first_value.seq == 1
        await until_one(client, PriceUpdate)
        assert client.subscriptions == {"stock": [CODE], "market": ["KOSPI"]}
        # A request that is answered after those that make the subscriptions again.
        await client.ping()
        assert second.stats()["subscriptions_by_type"] == {"stock": 1, "market": 1, "sector": 0}


async def test_tokens_are_replaced_before_they_expire_and_after(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    asked: list[float] = []

    async def source() -> str:
        asked.append(time.monotonic())
        if len(asked) == 3:
            raise OSError("the house of tokens is closed")
        return token(1.5 if len(asked) < 3 else 600)

    async with connect(server, refresh_token=source) as client:
        # The first by the source, the second before the expiry of the first; the third fails, and is tried again.
        failed, before = await until_one(client, RefreshFailed)
        assert "house of tokens" in failed.reason
        assert before == []
        async with asyncio.timeout(30):
            while len(asked) < 4:
                await asyncio.sleep(0.01)
        await client.ping()
        assert client.statistics.connections <= 2
    assert asked[1] - asked[0] < 1.5

    # Kicked out, with a token that may be good or not.
    async with connect(server, token=token(), refresh_token=source) as client:
        await client.subscribe("stock", [CODE])
        headers = {"Authorization": f"Bearer {ADMIN}"}
        body = json.dumps({"user_id": "alice"}).encode()
        status, text = await asyncio.to_thread(server.get, "/v1/admin/kick", "POST", body, headers)
        assert status == 200, text
        interrupted, _ = await until_one(client, Interrupted)
        assert interrupted.code == 4401
        await until_one(client, Restored)
        assert len(asked) == 5


async def test_a_token_that_expires_while_it_connects_is_replaced(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    lives = iter((600, -1, -1, 600))

    async def source() -> str:
        return token(next(lives), sub="carol")

    async with connect(server, refresh_token=source) as client:
        await client.subscribe("stock", [CODE], snapshot=False)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        body = json.dumps({"user_id": "carol"}).encode()
        status, text = await asyncio.to_thread(server.get, "/v1/admin/kick", "POST", body, headers)
        assert status == 200, text
        restored, before = await until_one(client, Restored)
        assert restored.recovered
        assert [message.code for message in before if isinstance(message, Interrupted)] == [4401] * 3
        publish(server, price(7))
        update, _ = await until_one(client, PriceUpdate)
        assert update.price == 7


async def test_a_token_that_expires_without_a_new_one_ends_it(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    async with connect(server, token=token(1)) as client:
        with pytest.raises(TokenError, match="refresh_token=") as caught:
            await until_one(client, Gap)
        assert caught.value.code == 4401
        with pytest.raises(TokenError):
            await client.ping()
    with pytest.raises(TokenError, match="give a valid token=") as caught:
        await connect(server, token=token(-5)).open()
    assert "INVALID_TOKEN" in str(caught.value)
    bad = token(600)[:-4]

    async def source() -> str:
        return bad

    with pytest.raises(TokenError):
        await connect(server, token=bad, refresh_token=source).open()


@pytest.mark.plain("what the kernel holds is counted")
async def test_a_slow_consumer_is_told_what_it_lost(server: StartServer) -> None:
    started = server("--feed", "sim", simulator_rate=20_000, batch_interval_ms=10, history_bytes=1 << 20)
    async with Client(started.url, queue_size=200, backoff=SOON, request_timeout=5) as client:
        await client.subscribe("stock", [CODE])
        async with asyncio.timeout(20):
            while client.statistics.pauses == 0:
                await asyncio.sleep(0.01)
            # The kernel's buffers and then the server's outbox fill.
            while not any("lost" in name and value for name, value in losses(started)):
                await asyncio.sleep(0.05)
        assert client.statistics.waiting < 1000
        # Also now a request is answered.
        await client.ping()
        lost, before = await until_one(client, Overflow, 20)
        assert lost.items[0].code == CODE
        assert not any(isinstance(message, (Gap, Interrupted)) for message in before)
        for _ in range(3000):
            assert not isinstance(await anext(client), Gap)
        assert client.statistics.repeated == 0


def losses(server: Server) -> list[tuple[str, float]]:
    status, text = server.get("/metrics")
    assert status == 200
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
    return [(name, float(value)) for name, value in lines]


@pytest.mark.plain("the proxy would have to speak TLS")
async def test_a_connection_that_only_the_client_knows_to_be_dead(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    async with FaultProxy.run(server.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}"
        async with Client(url, backoff=SOON, ping_interval=0.1, ping_timeout=0.3) as client:
            await client.subscribe("stock", [CODE], snapshot=False)
            proxy.strand()
            await until_one(client, Interrupted)
            publish(server, price(1), price(2))
            restored, _ = await until_one(client, Restored)
            assert restored.recovered
            assert [(await until_one(client, PriceUpdate))[0].price for _ in range(2)] == [1, 2]
            # Nothing comes any more, and nobody says so.
            for each in proxy.connections:
                assert each.other is not None
                each.other.is_deaf = True
            interrupted, _ = await until_one(client, Interrupted)
            assert "no sign of life" in interrupted.reason


@pytest.mark.plain("the proxy would have to speak TLS")
async def test_a_pause_outlives_an_interruption_and_a_restart(server: StartServer) -> None:
    settings = {"admin_token": ADMIN, "shutdown_spread": 0}
    first = server("--feed", "none", **settings)
    async with (
        FaultProxy.run(first.port) as proxy,
        Client(f"ws://127.0.0.1:{proxy.port}", backoff=SOON) as client,
    ):
        await client.subscribe("stock", [CODE, "000660"])
        publish(first, price(1))
        await until_one(client, PriceUpdate)
        await client.pause()
        assert client.is_paused
        publish(first, price(2), price(3))
        proxy.kill()
        restored, before = await until_one(client, Restored)
        assert restored.recovered
        publish(first, price(4), price(5, "000660"))
        # Accepted, and nothing comes of it yet.
        await client.subscribe("stock", ["035720"])
        await client.ping()
        await client.resume()
        found = [(await until_one(client, PriceUpdate))[0] for _ in range(2)]
        assert {(update.code, update.price, update.snapshot) for update in found} == {
            (CODE, 4, True),
            ("000660", 5, True),
        }
        publish(first, price(6), price(7, "035720"))
        found = [(await until_one(client, PriceUpdate))[0] for _ in range(2)]
        assert [(update.price, update.snapshot) for update in found] == [(6, False), (7, False)]

        await client.pause()
        await asyncio.to_thread(first.end)
        second = await asyncio.to_thread(lambda: server("--feed", "none", **settings))
        proxy.target = second.port
        _, before = await until_one(client, Restored)
        assert not any(isinstance(message, Gap) for message in before)
        await client.ping()
        publish(second, price(8))
        await client.ping()
        assert client.is_paused
        assert client.statistics.waiting == 0
        # Whether it was done before the connection ended nobody knows, and either way the value comes.
        proxy.kill()
        await client.resume()
        _, before = await until_one(client, PriceUpdate)
        assert not any(isinstance(message, Gap) for message in before)
        publish(second, price(9))
        update, before = await until_one(client, PriceUpdate)
        assert (update.price, update.snapshot, before) == (9, False, [])


@pytest.mark.plain("the proxy would have to speak TLS")
async def test_a_value_that_a_rate_held_back_comes_with_the_restoration(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    async with (
        FaultProxy.run(server.port) as proxy,
        Client(f"ws://127.0.0.1:{proxy.port}", backoff=SOON) as client,
    ):
        await client.subscribe("stock", [CODE], max_rate=0.01, snapshot=False)
        await client.subscribe("stock", ["000660"], snapshot=False)
        publish(server, price(1))
        await until_one(client, PriceUpdate)
        # It waits for its time, and what was published later has come.
        publish(server, price(2))
        publish(server, price(3, "000660"))
        update, _ = await until_one(client, PriceUpdate)
        assert update.price == 3
        proxy.kill()
        restored, _ = await until_one(client, Restored)
        assert restored.recovered
        update, before = await until_one(client, PriceUpdate)
        assert (update.code, update.price, before) == (CODE, 2, [])
        await client.ping()
        # It comes once.
        assert client.statistics.waiting == 0


@asynccontextmanager
async def tunnels(credentials: str) -> AsyncIterator[tuple[int, list[str]]]:
    """A proxy that takes CONNECT from who has `credentials`; its port, and what it was asked for."""
    asked: list[str] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        verb, place, _ = head.split(" ", 2)
        asked.append(f"{verb} {place}")
        if f"Proxy-Authorization: Basic {b64encode(credentials.encode()).decode()}\r\n" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        onward_reader, onward = await asyncio.open_connection(*place.split(":"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, onward), copy(onward_reader, writer))

    site = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield site.sockets[0].getsockname()[1], asked
    finally:
        site.close()
        await site.wait_closed()


async def test_through_a_proxy(shared_server: StartServer, over: dict[str, str]) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET, **over)
    async with tunnels("me:secret") as (port, asked):
        async with connect(server, proxy=f"http://me:secret@127.0.0.1:{port}") as client:
            await client.subscribe("stock", [CODE], snapshot=False)
            publish(server, price(5))
            update, _ = await until_one(client, PriceUpdate)
            assert update.price == 5
        with pytest.raises(ConnectError, match=r"connecting to .* failed: .*407") as caught:
            await connect(server, proxy=f"http://me:guessed@127.0.0.1:{port}").open()
        assert "guessed" not in str(caught.value)
        assert asked == [f"CONNECT 127.0.0.1:{server.port}"] * 2
    with pytest.raises(ConnectError, match=r"nothing listens at the proxy 127\.0\.0\.1:1:") as caught:
        await connect(server, proxy="http://me:secret@127.0.0.1:1").open()
    assert "secret" not in str(caught.value)


async def test_what_is_compressed_is_expanded(server: StartServer) -> None:
    started = server("--feed", "none", admin_token=ADMIN)
    bodies = [price(number, note="the same again and again " * 20) for number in range(1, 40)]
    async with connect(started, compression=True) as packed, connect(started) as plain:
        for client in (packed, plain):
            await client.subscribe("stock", [CODE])
        publish(started, *bodies)
        for client in (packed, plain):
            found = [(await until_one(client, PriceUpdate))[0] for _ in bodies]
            assert [update.price for update in found] == [body["price"] for body in bodies]
            assert found[0].extra == {"note": bodies[0]["note"]}
    metrics = dict(losses(started))
    assert metrics["fastws_compressions_total"] == 1
    assert metrics["fastws_compression_output_bytes_total"] < 2000


async def test_errors_say_what_to_do(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    base = server.url.removesuffix("/v1/ws")
    with pytest.raises(ConnectError, match=r"HTTP 404: check the path of url"):
        await Client(base + "/no/such", ssl=server.tls).open()
    with pytest.raises(ConnectError, match=r"nothing listens at .* check the port"):
        await Client("ws://127.0.0.1:1", connect_attempts=2, backoff=SOON).open()
    with pytest.raises(ConnectError, match=r"HTTP 403: .*allowed_origins"):
        await connect(server, headers={"Origin": "https://elsewhere.example"}).open()
    if server.tls is None:
        with pytest.raises(ConnectError, match="use ws:// in url"):
            await Client(base.replace("ws:", "wss:")).open()
    # Full: the limit of connections of a user is 5.
    async with asyncio.TaskGroup() as group:
        full = [connect(server, token=token(sub="bob")) for _ in range(5)]
        for client in full:
            group.create_task(client.open())
    with pytest.raises(ConnectError, match="LIMIT_EXCEEDED"):
        await connect(server, token=token(sub="bob")).open()
    for client in full:
        await client.close()


@pytest.mark.plain("it starts a server with TLS itself")
async def test_tls_and_certificates_that_nobody_trusts(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", certfile=str(files().certfile))
    async with connect(server) as client:
        assert await client.ping() < 5
    with pytest.raises(ConnectError, match=r"not trusted .*give ssl= a context"):
        await Client(server.url, ssl=ssl.create_default_context()).open()
    with pytest.raises(ConnectError, match="needs wss:// there"):
        await Client(server.url.replace("wss:", "ws:")).open()


def test_the_synchronous_client(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    before = threading.active_count()
    with SyncClient(server.url, ssl=server.tls, token=token()) as client:
        assert client.subscribe("stock", [CODE], snapshot=False).targets == [CODE]
        publish(server, price(5), price(6))
        found = [next(client), next(client)]
        assert [message.price for message in found if isinstance(message, PriceUpdate)] == [5, 6]
        with pytest.raises(TimeoutError):
            client.get(timeout=0.01)
        assert client.ping() < 5
        client.pause()
        client.resume()
        again = client.get(timeout=10)
        assert isinstance(again, PriceUpdate)
        assert (again.price, again.snapshot) == (6, True)
        assert client.subscriptions == {"stock": [CODE]}
        with pytest.raises(RequestError):
            client.subscribe("stock", ["none such"])
        closing = threading.Timer(0.05, client.close)
        closing.start()
        assert client.get() is None
        closing.join()
        with pytest.raises(ClosedError):
            client.ping()
    with pytest.raises(ConnectError, match="nothing listens"):
        SyncClient("ws://127.0.0.1:1").open()
    assert threading.active_count() == before


def test_callbacks_have_a_thread_of_their_own(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    before = threading.active_count()
    seen: list[tuple[object, str]] = []

    def on_message(message: Message) -> None:
        if isinstance(message, PriceUpdate):
            seen.append((message.price, threading.current_thread().name))
            assert message.price != 8, "eight is too many"
            # From here too.
            client.ping()

    client = SyncClient(server.url, on_message=on_message, ssl=server.tls)
    client.open()
    client.subscribe("stock", [CODE], snapshot=False)
    with pytest.raises(ValueError, match="on_message"):
        next(client)
    publish(server, price(7))
    until(lambda: seen, "the callback")
    publish(server, price(8))
    until(lambda: len(seen) == 2, "the other callback")
    with pytest.raises(AssertionError, match="eight"):
        client.close()
    client.close()
    assert seen == [(7, "fastws callbacks"), (8, "fastws callbacks")]
    assert threading.active_count() == before


async def test_a_client_that_is_closed_while_it_connects_says_so() -> None:
    has_connected = asyncio.Event()
    async with deaf_server(has_connected) as url:
        client = Client(url)
        opening = asyncio.create_task(client.open())
        await has_connected.wait()
        await client.close()
        with pytest.raises(ClosedError, match="before it was connected"):
            await opening
        with pytest.raises(ClosedError):
            await client.subscribe("stock", [CODE])


@asynccontextmanager
async def deaf_server(has_connected: asyncio.Event) -> AsyncIterator[str]:
    """Takes connections, and answers nothing."""
    writers = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        has_connected.set()

    site = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{site.sockets[0].getsockname()[1]}"
    finally:
        for writer in writers:
            writer.close()
        site.close()
        await site.wait_closed()


async def test_an_iteration_that_is_cancelled_loses_nothing(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    async with connect(server) as client:
        await client.subscribe("stock", [CODE], snapshot=False)
        found: list[Message] = []

        async def take() -> None:
            async for message in client:
                found.append(message)

        number = 0
        async with asyncio.timeout(20):
            while number < 50:
                task = asyncio.create_task(take())
                await asyncio.sleep(0)
                number += 1
                await asyncio.to_thread(publish, server, price(number))
                # Before, at, or after what comes.
                for _ in range(number % 4):
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.wait((task,))
            while len(found) < number:
                found.append(await anext(client))
        assert [message.price for message in found if isinstance(message, PriceUpdate)] == list(
            range(1, number + 1)
        )


async def test_a_machine_that_has_slept_looks_at_once(
    shared_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    monkeypatch.setattr(link, "_LOOK_SECONDS", 0.1)
    async with FaultProxy.run(server.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}"
        # Silence alone would be noticed after minutes.
        async with Client(url, backoff=SOON, ping_interval=100, ping_timeout=100) as client:
            await client.subscribe("stock", [CODE], snapshot=False)
            proxy.stall()
            real = time.time
            monkeypatch.setattr(link.time, "time", lambda: real() + 8 * 3600)
            interrupted, _ = await until_one(client, Interrupted)
            assert "no sign of life within 0.1 s" in interrupted.reason
            restored, _ = await until_one(client, Restored)
            assert restored.recovered


def test_a_program_that_ends_without_closing_ends_in_silence(shared_server: StartServer) -> None:
    server = shared_server("--feed", "none", admin_token=ADMIN, jwt_secret=SECRET)
    program = """
import asyncio, sys, threading
from fastws.client import Client, ClosedError
from fastws.client.sync import SyncClient

url = sys.argv[1]

async def main():
    client = Client(url)
    await client.open()
    await client.subscribe("stock", ["005930"])
    return client

client = asyncio.run(main())

async def use():
    try:
        await client.ping()
    except ClosedError as error:
        print(error)
    await client.close()

asyncio.run(use())
other = SyncClient(url)
other.open()
other.subscribe("stock", ["005930"])
threading.Thread(target=lambda: list(other), daemon=True).start()
print("over")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program, server.url],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("the client is closed\nover\n", "", 0)


def test_the_synchronous_client_is_closed_by_another_thread_while_it_connects() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as site:
        client = SyncClient(f"ws://127.0.0.1:{site.getsockname()[1]}", connect_timeout=60)
        outcome: list[BaseException] = []

        def open_it() -> None:
            try:
                client.open()
            except ClosedError as error:
                outcome.append(error)

        opening = threading.Thread(target=open_it)
        opening.start()
        # It has connected, and waits for an answer that never comes.
        with site.accept()[0]:
            client.close()
        opening.join(10)
        assert not opening.is_alive()
    assert [str(error) for error in outcome] == ["the client was closed"]
    assert threading.active_count() == before
