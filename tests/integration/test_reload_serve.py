"""``kill -HUP``: what a running server takes over, what it refuses, and what its clients notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fastws.auth.tokens import sign
from tests.certificates import files
from tests.clients import Client, client
from tests.conftest import StartServer
from tests.serving import Server, until

OLD_SECRET = "the old secret, long enough for HS256"
NEW_SECRET = "the new secret, long enough for HS256"


class Reloading:
    """A server with a file of settings that can be changed under it."""

    def __init__(
        self, start: Callable[..., Server], directory: Path, *flags: str, **settings: object
    ) -> None:
        self.config = directory / "fastws.toml"
        self.write(**settings)
        self.server = start("--config", str(self.config), *flags)

    def write(self, **settings: object) -> None:
        # A value in JSON is one in TOML, but for tables.
        self.config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))

    def reload(self, *, says: str = "reloaded", **settings: object) -> str:
        """Write the settings, ask for a reload, and return what is logged about it, up to a line with `says`."""
        self.write(**settings)
        return self.hang_up(says=says)

    def hang_up(self, *, says: str = "reloaded") -> str:
        before = len(self.server.log)
        os.kill(self.server.process.pid, signal.SIGHUP)
        until(lambda: says in self.server.log[before:].rpartition("\n")[0], f"the line with {says!r}")
        return self.server.log[before:]


RESTART = "only a restart changes these settings"


@pytest.fixture
def reloading(server: StartServer, tmp_path: Path) -> Callable[..., Reloading]:
    def start(*flags: str, **settings: object) -> Reloading:
        return Reloading(server, tmp_path, *flags, **settings)

    return start


StartReloading = Callable[..., Reloading]


def token(secret: str, user: str = "user-1") -> str:
    return sign({"sub": user}, secret.encode(), "HS256")


async def is_accepted(server: Server, text: str) -> bool:
    async with client(f"{server.url}?token={text}", greeted=False) as connection:
        first = await connection.receive()
        if first["type"] == "connection":
            return True
        assert (first["type"], first["code"]) == ("error", "INVALID_TOKEN")
        return False


async def is_alive(connection: Client) -> bool:
    await connection.sync()
    return True


# What is taken over.


async def test_another_secret_is_for_those_who_come(reloading: StartReloading) -> None:
    target = reloading(jwt_secret=OLD_SECRET)
    async with client(f"{target.server.url}?token={token(OLD_SECRET)}") as connection:
        assert connection.greeting["authenticated"] is True
        log = target.reload(jwt_secret=NEW_SECRET)
        assert "jwt_secret" in log
        assert OLD_SECRET not in log
        assert NEW_SECRET not in log
        assert not await is_accepted(target.server, token(OLD_SECRET))
        assert await is_accepted(target.server, token(NEW_SECRET))
        assert await is_alive(connection)
        # The way to change a secret without sending anybody away.
        target.reload(jwt_secret=OLD_SECRET, jwt_previous_secret=NEW_SECRET)
        assert await is_accepted(target.server, token(OLD_SECRET))
        assert await is_accepted(target.server, token(NEW_SECRET))


async def test_limits_hold_from_now_on_and_are_greeted(reloading: StartReloading) -> None:
    target = reloading(rate_limit=100, subscription_limit=50)
    async with client(target.server.url) as connection:
        await connection.subscribe("stock", "005930", "000660", "035720")
        await connection.until_snapshot()
        log = target.reload(rate_limit=7, subscription_limit=2, message_bytes=2048)
        for change in (
            "100 messages/s -> 7 messages/s",
            "50 subscriptions -> 2",
            "65536 bytes -> 2048 bytes",
        ):
            assert change in log
        # What is held stays, and no more can be added.
        await connection.subscribe("stock", "AAPL")
        error = await connection.until_type("error")
        assert (error["code"], error["details"]["limit"], error["details"]["current"]) == (
            "LIMIT_EXCEEDED",
            2,
            3,
        )
        for _ in range(20):
            await connection.send(type="ping")
        error = await connection.until_type("error")
        assert (error["code"], error["details"]["rate_limit"]) == ("RATE_LIMIT_EXCEEDED", 7)
        async with client(target.server.url) as other:
            assert other.greeting["limits"] == {"subscriptions": 2, "rate_limit": 7, "message_bytes": 2048}
            await other.connection.send(" " * 4096)
            assert await other.closed() == 1009
        assert target.server.stats()["rate_limit"] == 7


async def test_limits_of_connections(reloading: StartReloading) -> None:
    target = reloading(jwt_secret=OLD_SECRET, connections_per_user=1)
    url = f"{target.server.url}?token={token(OLD_SECRET)}"
    async with client(url) as first:
        async with client(url, greeted=False) as refused:
            assert await refused.closed() == 4429
        target.reload(jwt_secret=OLD_SECRET, connections_per_user=2)
        async with client(url) as second:
            assert await is_alive(first)
            assert await is_alive(second)
            target.reload(jwt_secret=OLD_SECRET, connections_per_user=0, connection_limit=2)
            async with client(url, greeted=False) as refused:
                assert await refused.closed() == 4429


async def test_origins_and_the_admin_token(reloading: StartReloading) -> None:
    target = reloading()
    assert target.server.get("/v1/ws/connections")[0] == 403
    log = target.reload(admin_token="the administrator's", allowed_origins=["https://app.example"])
    assert "changed=['admin_token']" in log
    assert "removed" not in log
    assert target.server.get("/v1/ws/connections")[0] == 401
    async with client(target.server.url, origin="https://app.example"):
        pass


async def test_a_shorter_time_holds_for_who_already_waits(reloading: StartReloading) -> None:
    target = reloading(handshake_timeout=300)
    with target.server.raw_client(handshake=False) as raw:
        raw.send(b"GET /v1/ws HTTP/1.1\r\n")
        target.reload(handshake_timeout=0.2)
        status, _, _ = await asyncio.to_thread(raw.read_response)
        assert status == 408


async def test_the_form_of_the_log(reloading: StartReloading) -> None:
    target = reloading()
    target.reload(log_format="json")
    log = target.reload(says=RESTART, log_format="json", log_level="warning", batch_interval_ms=70)
    (line,) = map(json.loads, log.splitlines())
    assert line["settings"] == ["batch_interval_ms"]


async def test_nothing_changed(reloading: StartReloading) -> None:
    target = reloading(rate_limit=7)
    assert "nothing has changed" in target.hang_up()


async def test_what_takes_a_restart_stays_and_is_named(reloading: StartReloading) -> None:
    target = reloading(batch_interval_ms=50, feed="none")
    log = target.reload(says=RESTART, batch_interval_ms=70, feed="sim", rate_limit=7)
    reloaded, warning = log.splitlines()
    assert "rate_limit" in reloaded
    assert "batch_interval_ms" not in reloaded
    assert "[warning" in warning
    assert "batch_interval_ms" in warning
    assert "feed" in warning
    assert (target.server.stats()["batch_interval_ms"], target.server.stats()["rate_limit"]) == (50, 7)
    # It is said again as long as it is so.
    assert "batch_interval_ms" in target.hang_up(says=RESTART)


async def test_flags_win_as_at_the_start(reloading: StartReloading) -> None:
    target = reloading("--rate-limit", "9", rate_limit=5)
    assert "nothing has changed" in target.reload(rate_limit=6)
    assert target.server.stats()["rate_limit"] == 9


async def serial_number(server: Server) -> int:
    """That of the certificate which a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.tls)
    chain: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    # The end of TLS may take longer than the loop of a test.
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(chain).serial_number


async def test_another_certificate_is_for_those_who_come(server: StartServer, tmp_path: Path) -> None:
    certfile = tmp_path / "server.pem"
    files().authority.issue(certfile)
    target = Reloading(partial(server, certfile=certfile), tmp_path)
    before = await serial_number(target.server)
    async with client(target.server.url) as connection:
        files().authority.issue(certfile, days=2)
        assert await serial_number(target.server) == before
        assert "certificate=" in target.hang_up()
        after = await serial_number(target.server)
        assert after != before
        assert await is_alive(connection)
        assert "nothing has changed" in target.hang_up()
    assert await serial_number(target.server) == after


# Symbols.

HEADER = "symbol,name,market,sector,previous_close\n"


def price(code: str, number: int) -> dict[str, Any]:
    return {"type": "price_update", "code": code, "price": number}


class Publisher:
    """Publishes by the administrator's endpoint."""

    ADMIN = "the administrator's"

    def __init__(self, server: Server) -> None:
        self._server = server

    async def publish(self, *bodies: dict[str, Any]) -> None:
        body = json.dumps(bodies).encode()
        head = (
            f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.ADMIN}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port, ssl=self._server.tls)
        writer.write(head + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b" 202 " in answer.splitlines()[0], answer


async def test_symbols_change_under_their_subscribers(reloading: StartReloading, tmp_path: Path) -> None:
    symbols = tmp_path / "symbols.csv"
    symbols.write_text(HEADER + "A1,Old Name,KOSPI,IT,100\nB2,Bee,KOSPI,IT,200\nC3,Sea,KOSDAQ,Bio,300\n")
    settings = {"symbols_file": str(symbols), "admin_token": Publisher.ADMIN, "batch_interval_ms": 0}
    target = reloading(**settings)
    publisher = Publisher(target.server)
    async with client(target.server.url) as by_stock, client(target.server.url) as by_sector:
        await by_stock.subscribe("stock", "A1", "B2")
        await by_sector.subscribe("sector", "Bio", mode="all")
        for connection in (by_stock, by_sector):
            await connection.until_snapshot()
        # The last has a code that is in no table, which no table can lose.
        await publisher.publish(price("A1", 1), price("B2", 1), price("X9", 1))
        first = await by_stock.until_type("price_update")
        assert (first["name"], first["seq"]) == ("Old Name", 1)

        symbols.write_text(
            HEADER + "A1,New Name,KOSPI,Bio,150\nC3,Sea,KOSDAQ,Bio,300\nD4,Dee,KOSDAQ,IT,400\n"
        )
        log = target.hang_up()
        assert "instruments_added=1" in log
        assert "instruments_changed=1" in log
        assert "instruments_kept_though_not_in_table=1" in log

        await publisher.publish(price("A1", 2), price("B2", 2), price("D4", 2))
        renamed = await by_stock.until(lambda message: message.get("price") == 2)
        # The subscription goes on, without a gap, under the new name, and has come to the other sector as well.
        assert (renamed["code"], renamed["name"], renamed["seq"]) == ("A1", "New Name", 2)
        assert (await by_sector.until_type("price_update"))["code"] == "A1"
        # What the table does not name any more is served on, also to new subscribers.
        assert (await by_stock.until_type("price_update"))["code"] == "B2"
        async with client(target.server.url) as late:
            await late.subscribe("stock", "B2", "D4", "A1")
            assert (await late.until_type("subscribed"))["targets"] == ["B2", "D4", "A1"]
            assert len((await late.until_snapshot())["messages"]) == 3
            await late.subscribe("sector", "Bio", "IT")
            snapshot = await late.until(
                lambda message: message.get("snapshot") and message["batch_size"] == 3
            )
            assert {update["code"] for update in snapshot["messages"]} == {"A1", "B2", "D4"}
    stocks = target.server.get_json("/v1/stocks?sector=Bio")["stocks"]
    assert [stock["code"] for stock in stocks] == ["A1", "C3"]
    assert target.server.get_json("/v1/stocks/A1")["name"] == "New Name"


# What is refused.


@contextlib.contextmanager
def logging_errors(
    directory: Path, variables: Mapping[str, object] | None = None, **settings: object
) -> Iterator[Reloading]:
    """A server that may log errors, but no tracebacks, and ends as it should."""
    target = Reloading(partial(Server, directory, **(variables or {})), directory, **settings)
    try:
        yield target
        target.server.signal(signal.SIGTERM)
        assert target.server.wait() == 0
    finally:
        target.server.process.kill()
        target.server.process.wait()
    assert "Traceback" not in target.server.log


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rate_limit": "seven"}, ("rate_limit", "expected a whole number")),
        ({"ratelimit": 7}, ("ratelimit", "did you mean rate_limit?")),
        ({"ping_interval": 90}, ("ping_interval", "lower ping_interval or raise pong_timeout")),
        ({"symbols_file": "nowhere.csv"}, ("symbols_file", "nowhere.csv")),
        ({"symbols_file": "fastws.toml"}, ("symbols_file", "line 1")),
        ({"jwt_algorithm": "RS256"}, ("jwt_secret", "RS256")),
        ({"trusted_proxies": ["nonsense"]}, ("trusted_proxies", "nonsense")),
        (
            {"jwt_algorithm": "ES256", "jwt_secret": None, "jwt_public_key": "nowhere.pem"},
            ("jwt_public_key",),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_what_is_wrong_changes_nothing(
    tmp_path: Path, settings: dict[str, Any], named: tuple[str, ...]
) -> None:
    (tmp_path / "symbols.csv").write_text(HEADER + "A1,Name,KOSPI,IT,100\n")
    before: dict[str, object] = {"jwt_secret": OLD_SECRET, "rate_limit": 30, "symbols_file": "symbols.csv"}
    with logging_errors(tmp_path, **before) as target:
        server = target.server
        async with client(server.url) as connection:
            # Another limit, another secret and another table come with what is wrong.
            (tmp_path / "symbols.csv").write_text(HEADER + "A1,Other,KOSPI,IT,100\nB2,Bee,KOSPI,IT,100\n")
            wanted = before | {"rate_limit": 70, "jwt_secret": NEW_SECRET} | settings
            log = target.reload(**{name: value for name, value in wanted.items() if value is not None})
            (line,) = log.splitlines()
            assert "[error" in line
            assert all(word in line for word in named), line
            assert OLD_SECRET not in log
            assert NEW_SECRET not in log
            assert server.stats()["rate_limit"] == 30
            assert await is_accepted(server, token(OLD_SECRET))
            assert not await is_accepted(server, token(NEW_SECRET))
            assert [stock["name"] for stock in server.get_json("/v1/stocks")["stocks"]] == ["Name"]
            assert await is_alive(connection)
        # Repaired, it is taken over.
        assert "[info" in target.reload(**before | {"rate_limit": 70})
        assert server.stats()["rate_limit"] == 70


async def test_a_wrong_certificate_changes_nothing(tmp_path: Path) -> None:
    certfile = tmp_path / "server.pem"
    files().authority.issue(certfile)
    good = certfile.read_bytes()
    with logging_errors(tmp_path, {"certfile": certfile}, rate_limit=30) as target:
        before = await serial_number(target.server)
        for wrong in (b"", good[: len(good) // 2], good.replace(b"A", b"B")):
            certfile.write_bytes(wrong)
            log = target.reload(rate_limit=70)
            assert "[error" in log
            assert "certfile: " in log
            assert await serial_number(target.server) == before
            assert target.server.stats()["rate_limit"] == 30
        certfile.write_bytes(good)
        assert "[info" in target.reload(rate_limit=70)


async def test_many_at_once_are_done_one_after_the_other(reloading: StartReloading) -> None:
    target = reloading(rate_limit=1)
    for limit in range(2, 30):
        target.write(rate_limit=limit)
        os.kill(target.server.process.pid, signal.SIGHUP)
    await asyncio.to_thread(until, lambda: target.server.stats()["rate_limit"] == 29, "the last reload")


# systemd.


async def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with logging_errors(tmp_path, rate_limit=5) as target:
            assert manager.recv(4096) == b"READY=1\nSTATUS=313 instruments, feed none"
            target.reload(rate_limit=6)
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096) == b"READY=1\nSTATUS=313 instruments, feed none"
            target.reload(rate_limit="x")
            assert manager.recv(4096).startswith(b"RELOADING=1\n")
            state, _, status = manager.recv(4096).partition(b"\n")
            assert state == b"READY=1"
            assert status.startswith(b"STATUS=the last reload failed: rate_limit: ")
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=stopping"
