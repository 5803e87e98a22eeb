"""Where a server listens: Unix sockets, the administrator's own address, and what else may be in the way."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from listening import listening, plain_app, scenario
from websockets.asyncio.client import unix_connect

from fastws.errors import SettingsError
from fastws.server.listener import Listener
from fastws.server.places import Place, TcpPlace, UnixPlace, admin_place, main_places
from fastws.settings import Settings
from tests import serving
from tests.certificates import files
from tests.clients import Client, client
from tests.conftest import StartServer

ADMIN = "the administrator's token"
MOVED = (
    ("GET", "/metrics"),
    ("GET", "/v1/ws/connections"),
    ("GET", "/v1/ws/ledger"),
    ("POST", "/v1/publish"),
    ("POST", "/v1/admin/kick"),
    ("POST", "/v1/portfolios/reload"),
)


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: str | None = None,
    token: str | None = ADMIN,
) -> tuple[int, Any]:
    """Status and body of the one request of a connection."""
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        text = response.read()
        is_json = response.headers["Content-Type"].startswith("application/json")
        return response.status, json.loads(text) if is_json else text
    finally:
        connection.close()


def listener_at(place: Place) -> Listener:
    return Listener(plain_app(), {}, [place])


# Which.


def test_a_unix_socket_stands_in_for_an_address_that_nobody_asked_for() -> None:
    def kinds(**given: Any) -> list[type]:
        return [type(place) for place in main_places(Settings(**given))]

    assert kinds() == [TcpPlace]
    assert kinds(port=9000, sources={"port": "--port"}) == [TcpPlace]
    assert kinds(unix_socket="x", sources={"unix_socket": "--unix-socket"}) == [UnixPlace]
    for name in ("host", "port"):
        sources = {"unix_socket": "--unix-socket", name: f"--{name}"}
        assert kinds(unix_socket="x", sources=sources) == [TcpPlace, UnixPlace]


@pytest.mark.parametrize("text", ["127.0.0.1:9000", "localhost:0", "[::1]:65535", "0.0.0.0:80"])
def test_addresses_of_the_administrator(text: str) -> None:
    assert isinstance(admin_place(Settings(admin_bind=text)), TcpPlace)


@pytest.mark.parametrize(
    "text",
    ["9000", ":9000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "a:65536", "a:-1", "::1:9000", "a:٣", "[]:1"],
)
def test_what_is_no_address_of_the_administrator(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^admin_bind: .* is no HOST:PORT .*; write one such as "
    ) as caught:
        Settings(admin_bind=text)
    assert caught.value.setting == "admin_bind"


# Unix sockets.


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o620])
@scenario
async def test_the_mode_is_the_one_asked_for_and_the_mask_stays(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "socket"
    before = os.umask(0o077)
    try:
        listener = listener_at(UnixPlace(str(path), mode))
        await listener.start()
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(0o077) == 0o077
        await listener.close()
    finally:
        os.umask(before)
    assert not path.exists()


@scenario
async def test_the_file_of_a_server_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
        assert path.is_socket()
        listener = listener_at(UnixPlace(str(path)))
        await listener.start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        await listener.close()
        assert not path.exists()


@scenario
async def test_the_socket_of_a_living_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = listener_at(UnixPlace(str(path)))
    await listener.start()
    other = listener_at(UnixPlace(str(path)))
    with pytest.raises(
        SettingsError, match=r"^unix_socket: a running program listens on .*; end it or "
    ) as caught:
        await other.start()
    assert caught.value.setting == "unix_socket"
    await other.close()
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()
    await listener.close()
    # One that does not accept, and whose queue is full, lives as well.
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = []
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            if waiting[-1].connect_ex(str(path)) == errno.EAGAIN:
                break
        with pytest.raises(SettingsError, match="a running program listens on"):
            await listener_at(UnixPlace(str(path))).start()
        for sock in waiting:
            sock.close()
    assert path.exists()


@scenario
async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file, link, directory = tmp_path / "file", tmp_path / "link", tmp_path / "directory"
    file.write_text("precious")
    link.symlink_to(file)
    directory.mkdir()
    for path in (file, link, directory):
        with pytest.raises(SettingsError, match=r"^unix_socket: .* exists and is no socket; "):
            await listener_at(UnixPlace(str(path))).start()
    assert file.read_text() == "precious"
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere/socket", "there is no directory"), ("x" * 200, "under 108 bytes"), ("a\0b", "malformed")],
)
@scenario
async def test_paths_that_cannot_be_used(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await listener_at(UnixPlace(str(tmp_path / path))).start()
    assert str(caught.value).startswith("unix_socket: ")
    assert words in str(caught.value)


@scenario
async def test_a_socket_that_has_taken_its_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = listener_at(UnixPlace(str(path)))
    await listener.start()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        await listener.close()
        assert path.is_socket()


@scenario
async def test_one_place_that_cannot_be_had_frees_the_others(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with listening() as server:
        taken = TcpPlace("127.0.0.1", server.listener.port)
        listener = Listener(plain_app(), {}, [UnixPlace(str(path)), taken])
        with pytest.raises(SettingsError, match=r"^port: "):
            await listener.start()
        assert not path.exists()
        admin = TcpPlace(
            "127.0.0.1", server.listener.port, host_setting="admin_bind", port_setting="admin_bind"
        )
        with pytest.raises(SettingsError, match=r"^admin_bind: \d+ on 127\.0\.0\.1 is in use; ") as caught:
            await listener_at(admin).start()
        assert caught.value.setting == "admin_bind"


async def test_a_server_on_both(server: StartServer, tmp_path: Path) -> None:
    path = str(tmp_path / "fastws.sock")
    target = server(
        "--feed", "sim", "--simulator-rate", "3000", "--unix-socket", path, certfile=files().certfile
    )
    assert f"  socket     {path}" in target.log
    # TLS is for those who come from elsewhere.
    assert ask(UnixHttp(path), "GET", "/health")[1]["status"] == "ok"
    async with unix_connect(path, "ws://localhost/v1/ws") as connection, client(target.url) as other:
        assert json.loads(await connection.recv())["type"] == "connection"
        local = Client(connection)
        for each in (local, other):
            await each.subscribe("stock", "005930", "000660")
            await each.until_snapshot()
            for _ in range(10):
                await each.receive()
    target.signal(signal.SIGTERM)
    assert target.wait() == 0
    assert not (tmp_path / "fastws.sock").exists()


async def test_a_client_of_a_unix_socket_that_does_not_read(server: StartServer, tmp_path: Path) -> None:
    path = str(tmp_path / "fastws.sock")
    symbols = tmp_path / "symbols.txt"
    symbols.write_text("A\nB\nC\n")
    target = server(
        "--feed", "sim", "--simulator-rate", "5000", "--symbols-file", str(symbols),
        unix_socket=path, stall_timeout=1.0, outbox_soft_bytes=65536,
    )  # fmt: skip
    async with unix_connect(path, "ws://localhost/v1/ws", max_queue=1, compression=None) as connection:
        await connection.recv()
        await Client(connection).subscribe("stock", "A", "B", "C")
        connection.transport.pause_reading()
        await asyncio.to_thread(
            serving.until, lambda: target.stats()["closes"].get("4408") == 1, "4408 for who does not read"
        )
        connection.transport.abort()
    updates = target.stats()["updates"]
    assert updates["lost"] > 1000
    assert updates["waiting"] == 0


def test_only_a_unix_socket(tmp_path: Path) -> None:
    """Without host and port; the harness always gives a port, so this one does without it."""
    path = tmp_path / "fastws.sock"
    with (tmp_path / "log").open("wb") as log_file:
        process = subprocess.Popen(
            serving.command("serve", "--feed", "none", "--unix-socket", str(path)),
            cwd=tmp_path,
            env=serving.environment({"unix_socket_mode": "660"}),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
        )
    try:
        serving.until(path.is_socket, "the socket")
        serving.until(lambda: can_ask(str(path)), "an answer")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        log = (tmp_path / "log").read_text()
        assert "127.0.0.1" not in log
        assert f"socket     {path}" in log
        # Another one finds it in use, and says so before it does any harm.
        done = serving.run(tmp_path, "serve", "--unix-socket", str(path))
        assert done.returncode == 2
        assert "error: unix_socket: a running program listens on" in done.stderr
        assert can_ask(str(path))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert not path.exists()


def can_ask(path: str) -> bool:
    try:
        return ask(UnixHttp(path), "GET", "/ready")[0] == 200
    except ConnectionError:
        return False


# The administrator's own address.


def connection_to(port: int, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if tls is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=tls)


def test_without_an_address_of_its_own_all_is_on_the_main_port(server: StartServer) -> None:
    target = server("--feed", "none", admin_token=ADMIN)
    for method, path in MOVED:
        status, _ = ask(target.http_connection(), method, path, "{}" if method == "POST" else None)
        assert status in (200, 400), (path, status)
    for token, is_shown in ((ADMIN, True), ("another", False), (None, False)):
        _, text = ask(target.http_connection(), "GET", "/metrics", token=token)
        assert (b"fastws_portfolio_positions" in text) == is_shown
    listed = {endpoint["path"] for endpoint in target.get_json("/")["endpoints"]}
    assert listed.issuperset(path for _, path in MOVED)


async def test_what_has_moved_is_nowhere_else(
    server: StartServer, over: dict[str, str], tmp_path: Path
) -> None:
    port = serving.free_port()
    target = server("--feed", "none", "--admin-bind", f"127.0.0.1:{port}", admin_token=ADMIN, **over)
    scheme = "http" if target.tls is None else "https"
    assert f"  admin      {scheme}://127.0.0.1:{port}/" in target.log

    def admin() -> http.client.HTTPConnection:
        return connection_to(port, target.tls)

    for method, path in MOVED:
        for variant in (path, path + "/"):
            body = "{}" if method == "POST" else None
            status, answer = ask(target.http_connection(), method, variant, body)
            error = answer["error"]
            assert (status, error["code"], "admin_bind" in error["message"]) == (404, "NOT_FOUND", True)
            assert ask(admin(), method, variant, body)[0] in (200, 400), variant
    listed = {endpoint["path"] for endpoint in ask(admin(), "GET", "/")[1]["endpoints"]}
    assert listed == {"/health", "/ready", *(path for _, path in MOVED)}
    assert not listed & {endpoint["path"] for endpoint in target.get_json("/")["endpoints"]} - {
        "/health",
        "/ready",
    }
    for path in ("/health", "/ready"):
        assert ask(admin(), "GET", path)[0] == target.get(path)[0] == 200
    for path in (
        "/v1/stocks",
        "/v1/ws/stats",
        "/v1/ws",
        "/v1/alerts",
        "/api/v1/users/me",
        "/v1/asyncapi.json",
    ):
        assert ask(admin(), "GET", path)[0] == 404, path
    # It still wants the token, and what is done there is seen on the main port.
    assert ask(admin(), "GET", "/v1/ws/connections", token=None)[0] == 401
    assert b"fastws_portfolio_positions" in ask(admin(), "GET", "/metrics", token=None)[1]
    async with client(target.url) as connection:
        _, connections = await asyncio.to_thread(ask, admin(), "GET", "/v1/ws/connections")
        assert [each["connection_id"] for each in connections] == [connection.greeting["connection_id"]]
        body = json.dumps({"connection_id": connection.greeting["connection_id"]})
        assert await asyncio.to_thread(ask, admin(), "POST", "/v1/admin/kick", body) == (200, {"closed": 1})


async def test_probes_and_metrics_are_there_to_the_end_of_a_stop(server: StartServer) -> None:
    port = serving.free_port()
    target = server(
        "--feed", "none", "--admin-bind", f"127.0.0.1:{port}", admin_token=ADMIN, shutdown_delay=0.5
    )
    async with client(target.url) as connection:
        target.signal(signal.SIGTERM)
        connected_at = time.monotonic()
        statuses = set()
        while time.monotonic() - connected_at < 5:
            try:
                status, _ = await asyncio.to_thread(ask, connection_to(port, target.tls), "GET", "/ready")
            except ConnectionError:
                break
            statuses.add(status)
        assert 503 in statuses
        await connection.until_type("server_shutdown")
    assert target.wait() == 0


def test_an_address_of_the_administrator_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serving.run(tmp_path, "serve", "--port", "0", "--admin-bind", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert f"error: admin_bind: {port} on 127.0.0.1 is in use; " in done.stderr
