"""A new process takes over from a running one: its port, its clients with their sessions, its feed, and its alerts."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("a process takes over from another one on Linux only", allow_module_level=True)

from fastws.auth.tokens import sign
from fastws.server import predecessor as predecessors
from fastws.server import server as servers
from fastws.server import spawning
from fastws.server.upgrade_socket import MAIN, Hello, UpgradeError, hear_hello
from fastws.settings import Settings
from tests import serving
from tests.clients import Client, client, updates
from tests.joined import metric
from tests.redis_server import RedisServer
from tests.serving import Server, command, environment, run, until

ADMIN = "an admin token"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "upgrade_socket": tmp_path / "upgrade.sock",
        "unix_socket": tmp_path / "proxies.sock",
        "host": "127.0.0.1",
        "admin_bind": "127.0.0.1:0",
        "admin_token": ADMIN,
        "jwt_secret": SECRET,
        "allow_anonymous": True,
        "database": f"sqlite:///{tmp_path}/fastws.db",
        "unknown_symbols": "accept",
        "shutdown_spread": 0.2,
    }


@pytest.fixture
def left_over() -> Iterator[list[int]]:
    """Processes that are nobody's children here."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def ended(server: Server) -> Iterator[Server]:
    """Like `Server.end`, for one whose log is to have errors."""
    try:
        yield server
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def ask(
    port: int, path: str, method: str = "GET", body: object = None, headers: dict[str, str] = AS_ADMIN
) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        assert response.status < 300, (response.status, data)
        return json.loads(data)
    finally:
        connection.close()


def publish(port: int, number: int) -> None:
    ask(port, "/v1/publish", "POST", {"type": "price_update", "code": "SESSION", "price": number})


def prices(message: dict[str, Any]) -> list[int]:
    return [int(update["price"]) for update in updates(message) if update["type"] == "price_update"]


async def go_on(stack: AsyncExitStack, url: str, before: Client, numbers: list[int]) -> Client:
    """Take what comes until the server lets go of a client, and come back with its session; returns the new one.

    `numbers` are the prices that have come.
    """
    seen: list[Any] = []
    before.on_message = seen.append
    assert await before.closed(60) == 1012
    assert "server_shutdown" in [message["type"] for message in seen]
    numbers += [number for message in seen for number in prices(message)]
    sequence = max(message.get("sequence") or 0 for message in (before.greeting, *seen))
    greeting = before.greeting
    query = f"session_id={greeting['connection_id']}&last_sequence={sequence}&epoch={greeting['epoch']}"
    connection = await stack.enter_async_context(client(f"{url}?{query}"))
    answer = await connection.until_type("reconnected")
    assert answer["recovered"] is True, (answer, sequence, greeting, seen)
    assert answer["restored_subscriptions"]["stock"] == ["SESSION"]
    connection.greeting |= answer
    return connection


async def a_successor_that_is_killed(tmp_path: Path, settings: dict[str, Any], old: Server) -> None:
    """Start one, and kill it once the old one lets it take over."""
    new = Server(tmp_path, **settings)
    try:
        await asyncio.to_thread(until, lambda: "another process takes over" in old.log, "the new one")
    finally:
        new.process.kill()
        new.process.wait()


async def test_it_takes_over_all_there_is_and_is_taken_over_itself(
    tmp_path: Path, settings: dict[str, Any], left_over: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        # Processes are named by the file that they were started from.
        program = tmp_path / "prices-b"
        program.write_text(
            f"#!{sys.executable} -Werror\nfrom fastws.cli import main\nraise SystemExit(main())\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(serving, "command", lambda *arguments: [str(program), *arguments])
        old = Server(tmp_path, "--feed", "sim", **settings)
        monkeypatch.delenv("NOTIFY_SOCKET")
        assert manager.recv(4096).startswith(b"READY=1")
        assert stat.S_IMODE(os.stat(settings["upgrade_socket"]).st_mode) == 0o600
        admin = int(re.findall(r"admin +http://127.0.0.1:(\d+)", old.log)[0])
        old.until_feed_is("live")
        publish(admin, 1)
        bearer = {"Authorization": f"Bearer {sign({'sub': 'kim'}, SECRET.encode(), 'HS256')}"}
        rule = {"code": "SESSION", "alert_type": "price_above", "threshold": 1000}
        ask(old.port, "/v1/alerts", "POST", rule, bearer)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client(old.url)) for _ in range(8)]
            for each in clients:
                await each.subscribe("stock", "SESSION", mode="all", snapshot=False)
                await each.until_type("subscribed")
            numbers: list[list[int]] = [[] for _ in clients]
            going = [
                asyncio.create_task(go_on(stack, old.url, each, got))
                for each, got in zip(clients, numbers, strict=True)
            ]
            old.signal(signal.SIGUSR2)
            for number in range(2, 6):
                await asyncio.to_thread(publish, admin, number)
            pid = int(
                until(lambda: re.search(r"is started to take over .*pid=(\d+)", old.log), "its start")[1]
            )
            left_over.append(pid)
            # As long as a start may take, and a stop.
            await asyncio.to_thread(until, lambda: old.process.poll() is not None, "the old one's end", 60)
            assert old.process.returncode == 0
            assert pid == int(re.findall(r"another process takes over .*pid=(\d+)", old.log)[0])
            assert psutil.Process(pid).name() == "prices-b"
            assert len(re.findall(rf"\] stopped +\[.*pid={old.process.pid}\b", old.log)) == 1
            again = await asyncio.gather(*going)
            away = again[0].greeting["session_id"]
            await asyncio.to_thread(publish, admin, 6)
            for each, got in zip(again, numbers, strict=True):
                while not got or got[-1] < 6:
                    got += prices(await each.receive())
                assert got == [2, 3, 4, 5, 6]
        told = [manager.recv(4096)]
        while not told[-1].startswith(b"READY=1"):
            told.append(manager.recv(4096))
        assert told[0] == f"MAINPID={pid}".encode()
        assert len(told) == 2
        # The feed, the alerts and the places are the new one's.
        until(lambda: ask(old.port, "/v1/ws/stats")["feeds"] == {"simulator": "live"}, "the feed")
        assert [rule["threshold"] for rule in ask(old.port, "/v1/alerts", headers=bearer)] == [1000]
        with socket.socket(socket.AF_UNIX) as proxy:
            proxy.connect(str(settings["unix_socket"]))
        # Whoever is started with the same settings takes over from that one.
        is_alone = re.compile(rf"the process before has ended +\[.*pid={pid}\b")
        until(lambda: is_alone.search(old.log), "that it waits for the next", 30)
        new = Server(tmp_path, "--feed", "sim", **settings)
        try:
            assert new.port == old.port
            until(
                lambda: re.search(r"another process takes over[^$]*another[^$]*stopped  ", old.log),
                "its end",
                30,
            )
            # Sessions of those who were away have been left to it.
            async with client(f"{new.url}?session_id={away}") as late:
                assert (await late.until_type("reconnected"))["recovered"] is True
            until(lambda: new.stats()["feeds"] == {"simulator": "live"}, "the feed")
        finally:
            new.end()
    assert "Traceback" not in old.log
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".sock")]


_HANGS = """
import asyncio, os, pathlib

async def setup(hub):
    while os.path.exists("hang"):
        pathlib.Path("hanging").touch()
        await asyncio.sleep(0.05)
"""


def test_whatever_becomes_of_the_new_one_the_old_one_goes_on(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "hangs.py").write_text(_HANGS)
    (tmp_path / "symbols.csv").write_text("symbol,name,market,sector,previous_close\n,,,,\n")
    server = Server(tmp_path, **settings)
    try:
        others = settings | {"port": 0}
        done = run(tmp_path, "serve", **others | {"symbols_file": tmp_path / "symbols.csv"})
        assert done.returncode == 2
        until(lambda: "the process that was to take over cannot serve" in server.log, "its failure", 30)
        (tmp_path / "hang").touch()
        hanging = subprocess.Popen(
            command("serve", "--load", "hangs:setup"),
            cwd=tmp_path,
            env=environment(others),
            stderr=subprocess.DEVNULL,
        )
        try:
            until((tmp_path / "hanging").exists, "one that does not come to serve", 60)
            done = run(tmp_path, "serve", **others)
            assert done.returncode == 1
            assert "refuses to be taken over: another process is taking over already" in done.stderr
        finally:
            hanging.kill()
            hanging.wait()
        until(
            lambda: server.log.count("the process that was to take over is gone, and this one goes on") == 2,
            "that it is missed",
        )
        publish(int(re.findall(r"admin +http://127.0.0.1:(\d+)", server.log)[0]), 7)
        assert server.get_json("/v1/stocks/SESSION")["price"] == 7
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_whoever_comes_to_disturb(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = str(settings["upgrade_socket"])
    with ended(Server(tmp_path, **settings)) as server:
        for n, junk in enumerate((b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 6)):
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.settimeout(10)
                visitor.connect(path)
                for sock in hear_hello(visitor)[1]:
                    sock.close()
                visitor.sendall(junk)
                until(
                    lambda n=n: server.log.count("is gone, and this one goes on") > n, "that it is let go of"
                )
        assert server.log.count("makes no sense") == 3
        # Without descriptors nobody comes in, and nothing spins.
        pid = server.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(10)
            visitor.connect(path)
            until(lambda: "is let in when there are descriptors" in server.log, "that it is left waiting")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            hello, handed = hear_hello(visitor)
            for sock in handed:
                sock.close()
            assert len(hello.sockets) == len(handed)


_COUNTS = """
import os

def note(what):
    with open(f"counted-{os.getpid()}", "a") as file:
        file.write(what + " ")

def setup(hub):
    note("begun")
    return lambda: note("ended")
"""


_ENDS_LATE = """
import asyncio, pathlib

async def setup(hub):
    async def end():
        pathlib.Path("ending").touch()
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                if not pathlib.Path("stubborn").exists():
                    raise
    return end
"""


@pytest.mark.parametrize("is_stubborn", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_signal_while_it_hands_over(tmp_path: Path, settings: dict[str, Any], is_stubborn: bool) -> None:
    (tmp_path / "late.py").write_text(_ENDS_LATE)
    if is_stubborn:
        (tmp_path / "stubborn").touch()
    # What was loaded may take an eighth of it, where nobody is in a hurry.
    own = settings | {"shutdown_timeout": 1 if is_stubborn else 600}
    server = Server(tmp_path, "--load", "late:setup", **own)
    new = None
    try:
        new = Server(tmp_path, **settings)
        until((tmp_path / "ending").exists, "what takes long")
        server.signal(signal.SIGTERM)
        assert server.wait() == (1 if is_stubborn else 0)
        assert ("the stop took longer than shutdown_timeout" in server.log) is is_stubborn
    finally:
        server.process.kill()
        server.process.wait()
        if new is not None:
            new.end()


@pytest.mark.long
def test_a_service_that_is_stopped_meanwhile_ends_as_a_whole(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["shutdown_spread"] = 60
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        old = Server(tmp_path, **settings)
        try:
            with old.raw_client():
                assert manager.recv(4096).startswith(b"READY=1")
                new = Server(tmp_path, **settings)
                try:
                    until(lambda: "another process takes over" in old.log, "the new one")
                    # As a manager does, which knows of the old one.
                    old.signal(signal.SIGTERM)
                    assert new.wait() == 0
                finally:
                    new.end()
        finally:
            old.end()
        # And that the other one was to be the main one it was not told.
        assert manager.recv(4096).startswith(b"STOPPING=1")
        assert manager.recv(4096).startswith(b"STOPPING=1")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".sock")]


@pytest.mark.long
def test_who_is_started_to_take_over_ends_with_who_has_started_it(
    tmp_path: Path, settings: dict[str, Any], left_over: list[int]
) -> None:
    (tmp_path / "hangs.py").write_text(_HANGS)
    settings["load"] = "hangs:setup"
    with ended(Server(tmp_path, **settings)) as server:
        (tmp_path / "hang").touch()
        (tmp_path / "hanging").unlink(missing_ok=True)
        server.signal(signal.SIGUSR2)
        pid = int(
            until(lambda: re.search(r"is started to take over .*pid=(\d+)", server.log), "its start")[1]
        )
        left_over.append(pid)
        until((tmp_path / "hanging").exists, "that it begins", 30)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    # One that comes too late.
    done = subprocess.run(
        command("serve"),
        cwd=tmp_path,
        env=environment(settings) | {spawning.SPAWNED: "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "is not there any more" in done.stderr


async def test_it_takes_all_back_where_the_new_one_dies(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "loaded.py").write_text(_COUNTS)
    settings |= {"shutdown_spread": 60, "load": "loaded:setup", "feed": "sim"}
    with ended(Server(tmp_path, **settings)) as old:
        old.until_feed_is("live")
        admin = int(re.findall(r"admin +http://127.0.0.1:(\d+)", old.log)[0])
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client(old.url)) for _ in range(4)]
            await a_successor_that_is_killed(tmp_path, settings, old)
            await asyncio.to_thread(until, lambda: "this server serves on" in old.log, "that it serves on")
            assert "[error    ] the process that has taken over is gone" in old.log
            # At both places, with the feed and what is loaded.
            async with client(old.url) as another:
                await another.subscribe("stock", "SESSION", mode="all", snapshot=False)
                await another.until_type("subscribed")
                await asyncio.to_thread(publish, admin, 3)
                message = await another.until(lambda message: bool(prices(message)))
                assert prices(message) == [3]
        # Most of them had not been told to go.
        assert int(re.findall(r"serves on .*connections=(\d)", old.log)[0]) in range(1, len(clients) + 1)
        assert old.get("/ready")[0] == 200
        await asyncio.to_thread(old.until_feed_is, "live")
        counted = tmp_path / f"counted-{old.process.pid}"
        until(lambda: counted.read_text() == "begun ended begun ", "what is loaded", 30)
        with socket.socket(socket.AF_UNIX) as proxy:
            proxy.connect(str(settings["unix_socket"]))
        # And it can be taken over by the next one.
        settings["shutdown_spread"] = 0.1
        third = Server(tmp_path, **settings)
        try:
            assert third.port == old.port
            until(lambda: old.log.count("another process takes over") == 2, "that it is known there")
            old.signal(signal.SIGTERM)
            await asyncio.to_thread(until, lambda: old.process.poll() is not None, "the old one's end", 60)
            assert old.process.returncode == 0
        finally:
            third.end()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".sock")]


async def test_a_reload_that_was_broken_off_is_begun_anew(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings |= {"shutdown_spread": 60}
    config, newer = tmp_path / "fastws.toml", tmp_path / "newer.toml"
    config.write_text("rate_limit = 5\n")
    with ended(Server(tmp_path, "--config", str(config), **settings)) as old:
        async with client(old.url), client(old.url), client(old.url):
            # Whoever reads it waits for somebody who writes.
            config.unlink()
            os.mkfifo(config)
            old.signal(signal.SIGHUP)
            writer = await asyncio.to_thread(until, lambda: _writer_of(config), "that it is read")
            await a_successor_that_is_killed(tmp_path, settings, old)
            newer.write_text("rate_limit = 6\n")
            newer.rename(config)
            os.close(writer)
            await asyncio.to_thread(until, lambda: "this server serves on" in old.log, "that it serves on")
            await asyncio.to_thread(
                until, lambda: "rate_limit='5 messages/s -> 6 messages/s'" in old.log, "the reload"
            )


def _writer_of(fifo: Path) -> int | None:
    """A descriptor that writes, once somebody reads."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.long
def test_other_places_are_told_of(tmp_path: Path, settings: dict[str, Any]) -> None:
    old = Server(tmp_path, **settings)
    others = settings | {"unix_socket": tmp_path / "other.sock", "admin_bind": "127.0.0.1:2", "host": "::1"}
    new = subprocess.Popen(
        command("serve", "--port", "1"),
        cwd=tmp_path,
        env=environment(others),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: old.process.poll() is not None, "the old one's end", 60)
        assert old.process.returncode == 0
        until(lambda: not settings["unix_socket"].exists(), "that nobody listens there any more")
        assert others["unix_socket"].exists()
        assert old.get_json("/health")["status"] == "ok"
    finally:
        new.terminate()
        log = new.communicate(timeout=60)[1]
    assert log.count("these settings need a restart") == 1
    assert "settings=['host', 'port', 'admin_bind']" in log


@pytest.mark.long
def test_one_that_says_nothing_is_let_go_of(tmp_path: Path, settings: dict[str, Any]) -> None:
    with ended(Server(tmp_path, **settings)) as server, socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(settings["upgrade_socket"]))
        until(lambda: "has said nothing, and this one goes on" in server.log, "that it is let go of")
        new = Server(tmp_path, **settings)
        try:
            until(lambda: server.process.poll() is not None, "the old one's end", 60)
        finally:
            new.end()


async def test_redis_is_away(tmp_path: Path, settings: dict[str, Any]) -> None:
    del settings["admin_bind"]
    with (
        RedisServer(tmp_path) as redis,
        ended(Server(tmp_path, "--feed", "sim", **settings | {"relay": redis.url})) as old,
    ):
        until(lambda: metric(old, "fastws_relay_up") == 1, "Redis")
        old.until_feed_is("live")
        done = run(tmp_path, "serve", "--port", "0", **settings)
        assert done.returncode == 2
        assert f"relay: the running server has redis://127.0.0.1:{redis.port}" in done.stderr
        redis.kill()
        until(lambda: metric(old, "fastws_relay_up") == 0, "that it is missed")
        async with AsyncExitStack() as stack:
            before = await stack.enter_async_context(client(old.url))
            await before.subscribe("stock", "SESSION", mode="all", snapshot=False)
            await before.until_type("subscribed")
            await asyncio.to_thread(publish, old.port, 1)
            numbers: list[int] = []
            going = asyncio.create_task(go_on(stack, old.url, before, numbers))
            new = await asyncio.to_thread(
                Server, tmp_path, "--feed", "sim", **settings | {"relay": redis.url}
            )
            stack.callback(new.end)
            again = await going
            await asyncio.to_thread(publish, new.port, 2)
            while 2 not in numbers:
                numbers += prices(await again.receive())
            assert numbers == [1, 2]
            # Without waiting for Redis, and it does not say that this is there.
            await asyncio.to_thread(new.until_feed_is, "live")
            assert metric(new, "fastws_relay_up") == 0
            assert "the relay is there" not in new.log
            redis.start()
            await asyncio.to_thread(until, lambda: metric(new, "fastws_relay_up") == 1, "Redis")
            assert metric(new, "fastws_feed_owner", feed="simulator") == 1


def test_a_wrong_path_is_told_of_where_the_port_is_in_use(tmp_path: Path, settings: dict[str, Any]) -> None:
    with ended(Server(tmp_path, **settings)) as server:
        path = tmp_path / "other.sock"
        others = settings | {"upgrade_socket": path, "port": server.port}
        del others["unix_socket"]
        done = run(tmp_path, "serve", **others)
        assert done.returncode == 2
        assert f"port: {server.port} on 127.0.0.1 is in use" in done.stderr
        assert (
            f"none listens at the upgrade_socket {path}; is that the one it was started with?" in done.stderr
        )
        # The file that was made for it is gone again.
        assert not path.exists()


async def test_another_instance_is_not_the_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessors, "_JOIN_SECONDS", 1.0)
    with RedisServer(tmp_path) as redis:
        common = {"relay": redis.url, "port": 0, "host": "127.0.0.1", "feed": "none"}
        third = servers.Server(Settings(**common))
        await third.start()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            path = str(tmp_path / "upgrade.sock")
            own = Settings(**common, upgrade_socket=path)
            listening = socket.create_server(("127.0.0.1", 0))
            hello = Hello("1.0", own.relay_shards, [MAIN], origin=12345, relay="redis://elsewhere:1")
            predecessor = predecessors.Predecessor(ours, hello, [listening], own)
            server = servers.Server(own, predecessor=predecessor)
            with pytest.raises(UpgradeError, match=r"is not heard over the relay .*redis://elsewhere:1"):
                await server.start()
            assert [peer.origin for peer in server.relay.peers] == [third.relay.origin]
            await predecessor.close()
            listening.close()
        await third.stop()
