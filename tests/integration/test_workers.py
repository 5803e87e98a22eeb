"""Several processes behind one port, as their users and operators see them: whoever is asked answers for all."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text
from websockets.exceptions import ConnectionClosed

from fastws.auth.tokens import sign
from fastws.server.supervisor import STUCK_SECONDS
from tests import serving
from tests.clients import Client, client, updates
from tests.serving import Server, command, environment, run, until

ADMIN = "an admin token"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
SECRET = "a secret of at least thirty-two bytes"
# Of so many connections, all on one of two workers are one run in 32,768.
N = 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    target = Server(
        tmp_path_factory.mktemp("workers"),
        *("--workers", "2", "--admin-token", ADMIN, "--jwt-secret", SECRET),
        unknown_symbols="accept",
        connections_per_user=100,
    )
    yield target
    target.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Server] = []

    def begin(*flags: str, **settings: object) -> Server:
        started.append(Server(tmp_path, "--workers", "2", *flags, **settings))
        return started[-1]

    yield begin
    for target in started:
        if target.process.poll() is None:
            target.process.kill()
            target.process.wait()


def publish(server: Server, body: object) -> dict[str, Any]:
    """On a connection of its own, so at any worker."""
    status, answer = server.get("/v1/publish", "POST", json.dumps(body).encode(), AS_ADMIN)
    assert status == 202, answer
    accepted: dict[str, Any] = json.loads(answer)
    return accepted


def price(code: str, number: int) -> dict[str, object]:
    return {"type": "price_update", "code": code, "price": number}


def token(user: str) -> str:
    return sign({"sub": user}, SECRET.encode(), "HS256")


async def joined(stack: AsyncExitStack, server: Server, n: int = N, **options: Any) -> list[Client]:
    """Clients at both workers."""
    clients = [await stack.enter_async_context(client(server.url, **options)) for _ in range(n)]
    counts = [worker["active_connections"] for worker in server.stats()["by_worker"]]
    assert len(counts) == 2
    assert min(counts) > 0
    return clients


def figures(server: Server, name: str) -> dict[str, float]:
    """A family of figures by worker, added up over its other labels."""
    found: dict[str, float] = {}
    for family in read_text(server.get("/metrics", headers=AS_ADMIN)[1].decode()):
        for sample in family.samples:
            if sample.name == name:
                worker = sample.labels["worker"]
                found[worker] = found.get(worker, 0.0) + sample.value
    return found


def workers_of(server: Server) -> list[psutil.Process]:
    """By their numbers, which are in their names; pids begin anew at some time."""
    return sorted(psutil.Process(server.process.pid).children(), key=psutil.Process.name)


async def test_everybody_gets_everything_once_and_in_order(server: Server) -> None:
    async with AsyncExitStack() as stack:
        clients = await joined(stack, server)
        for each in clients:
            await each.subscribe("stock", "ORDER", mode="all")
            await each.until_type("subscribed")
        first = []
        for number in range(1, 41):
            accepted = publish(server, [price("ORDER", number), price("ORDER", number + 100)])
            first.append(accepted["first_sequence"])
        # One of them publishes for all, so these are of one count, whoever was asked.
        assert first == sorted(first)
        wanted = [n for number in range(1, 41) for n in (number, number + 100)]
        for each in clients:
            got: list[int] = []
            while len(got) < len(wanted):
                message = await each.receive()
                assert message["type"] != "overflow"
                got += [int(update["price"]) for update in updates(message)]
            assert got == wanted


async def test_whoever_is_asked_answers_for_all(server: Server) -> None:
    async with AsyncExitStack() as stack:
        clients = await joined(stack, server, additional_headers={"Authorization": f"Bearer {token('u1')}"})
        for each in clients:
            await each.subscribe("stock", "ANSWER")
            await each.until_type("subscribed")
        for _ in range(6):
            stats = server.stats()
            assert (stats["active_connections"], stats["total_subscriptions"]) == (N, N)
            assert stats["workers"] == 2
            health = server.get_json("/health")
            assert (health["active_connections"], health["workers"]) == (N, 2)
            status, body = server.get("/v1/ws/connections?subscriptions=false", headers=AS_ADMIN)
            assert status == 200
            assert len({row["connection_id"] for row in json.loads(body)}) == N
            status, body = server.get("/v1/ws/ledger?topics=false", headers=AS_ADMIN)
            ledger = json.loads(body)
            assert (status, ledger["balanced"], ledger["faults"]) == (200, True, [])
            assert {line["worker"] for line in ledger["by_connection"]} == {1, 2}
            assert len({line["connection_id"] for line in ledger["by_connection"]}) == N
            assert "by_topic" not in ledger
            status, body = server.get("/realtime/status", headers={"Authorization": f"Bearer {token('u1')}"})
            told = json.loads(body)
            assert told["global_stats"]["total_connections"] == N
            assert told["user_stats"] == {
                "connection_count": N,
                "subscriptions": {"portfolios": [], "assets": ["ANSWER"]},
            }
        cluster = until(
            lambda: (
                body
                if (body := server.get_json("/v1/ws/stats?scope=cluster"))["active_connections"] == N
                else None
            ),
            "the figures of all",
        )
        assert [instance["name"].split()[1:] for instance in cluster["instances"]] in (
            [["worker", "1"], ["worker", "2"]],
            [["worker", "2"], ["worker", "1"]],
        )
        status, body = server.get("/v1/ws/connections", headers=AS_ADMIN)
        one = json.loads(body)[0]["connection_id"]
        for wanted, n, left in (({"connection_id": one}, 1, N - 1), ({"user_id": "u1"}, N - 1, 0)):
            status, body = server.get("/v1/admin/kick", "POST", json.dumps(wanted).encode(), AS_ADMIN)
            assert (status, json.loads(body)) == (200, {"closed": n})
            # Those that have not answered the close yet count as well.
            async with asyncio.timeout(30):
                while server.stats()["active_connections"] > left:
                    await asyncio.sleep(0.01)
        for each in clients:
            await asyncio.wait_for(each.connection.wait_closed(), 10)
            assert each.connection.close_code == 4401


async def test_figures_for_prometheus_are_of_all(server: Server) -> None:
    async with AsyncExitStack() as stack:
        await joined(stack, server)
        until(lambda: sum(figures(server, "fastws_connections").values()) == N, "all connections")
        for _ in range(4):
            assert figures(server, "fastws_worker_up") == {"1": 1.0, "2": 1.0}
            assert figures(server, "process_resident_memory_bytes").keys() == {"1", "2", "parent"}
        opened = figures(server, "fastws_connections_opened_total")
        assert opened["1"] + opened["2"] >= N
    status, body = server.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert (status, body.count(b"# EOF")) == (200, 1)


async def test_sessions_go_on_whichever_worker_they_come_to(server: Server) -> None:
    known = server.stats()["sessions_elsewhere"]
    async with AsyncExitStack() as stack:
        clients = await joined(stack, server)
        for each in clients:
            await each.subscribe("stock", "SESSION", mode="all")
            await each.until_type("subscribed")
        publish(server, price("SESSION", 1))
        last = []
        for each in clients:
            (update,) = updates(await each.until(updates))
            last.append(update["sequence"])
        # Each of them knows those of the other.
        until(lambda: server.stats()["sessions_elsewhere"] >= known + N, "that they are known")
        for each in clients:
            each.connection.transport.abort()
        for number in range(2, 8):
            publish(server, price("SESSION", number))
        for each, sequence in zip(clients, last, strict=True):
            greeting = each.greeting
            url = (
                f"{server.url}?session_id={greeting['connection_id']}&last_sequence={sequence}"
                f"&epoch={greeting['epoch']}"
            )
            again = await stack.enter_async_context(client(url))
            answer = await again.until_type("reconnected")
            assert answer["recovered"] is True
            got: list[int] = []
            while len(got) < 6:
                got += [int(update["price"]) for update in updates(await again.receive())]
            assert got == [2, 3, 4, 5, 6, 7]


def test_who_is_nobody_is_refused(server: Server) -> None:
    body = json.dumps(price("ORDER", 1)).encode()
    for _ in range(6):
        assert server.get("/v1/publish", "POST", body)[0] == 401
        assert server.get("/v1/publish", "POST", b"[]", AS_ADMIN)[0] == 400
        assert server.get("/v1/ws/connections")[0] == 401
        assert server.get("/v1/admin/kick", "POST", b"{}", AS_ADMIN)[0] == 400


async def test_an_alert_is_known_to_all_and_fires_once(server: Server) -> None:
    as_user = {"Authorization": f"Bearer {token('u2')}"}
    publish(server, price("ALARM", 100))
    async with AsyncExitStack() as stack:
        clients = await joined(stack, server, additional_headers=as_user)
        body = {"code": "ALARM", "alert_type": "price_above", "threshold": 200}

        def made() -> bytes | None:
            # Whoever is asked has to have heard of the symbol.
            status, answer = server.get("/v1/alerts", "POST", json.dumps(body).encode(), as_user)
            return answer if status == 201 else None

        rule = json.loads(until(made, "an alert"))
        for _ in range(6):
            assert [each["id"] for each in json.loads(server.get("/v1/alerts", headers=as_user)[1])] == [
                rule["id"]
            ]
        publish(server, price("ALARM", 300))
        for each in clients:
            alert = await each.until_type("alert")
            assert alert["current_price"] == 300
        publish(server, price("ALARM", 100))
        publish(server, price("ALARM", 301))
        for each in clients:
            await each.send(type="ping", id="once")
            await each.until(lambda message: message["type"] == "pong")

        def n_fired() -> set[float]:
            # Each of them may give an answer of a second ago.
            return {sum(figures(server, "fastws_alerts_fired_total").values()) for _ in range(6)}

        until(lambda: n_fired() == {1.0}, "the figures of now")
        assert server.get(f"/v1/alerts/{rule['id']}", "DELETE", headers=as_user)[0] == 204
        assert json.loads(server.get("/v1/alerts", headers=as_user)[1]) == []


def test_every_line_says_which_process_has_written_it(server: Server) -> None:
    lines = [line for line in server.log.splitlines() if " [fastws." in line]
    workers = {str(worker.pid) for worker in workers_of(server)}
    pids: dict[str, set[str]] = {}
    for line in lines:
        fields = dict(re.findall(r"\b(pid|worker)=(\d+)", line))
        pids.setdefault(fields.get("worker", ""), set()).add(fields["pid"])
    # Those of the parent have no number.
    assert pids.pop("", {str(server.process.pid)}) == {str(server.process.pid)}
    assert set(pids) == {"1", "2"}
    assert set().union(*pids.values()) == workers


async def test_those_that_end_are_started_anew_and_the_feed_goes_on(start: Any, tmp_path: Path) -> None:
    file = tmp_path / "fastws.toml"
    file.write_text("rate_limit = 100\n")
    server = start("--feed", "sim", "--config", str(file), simulator_rate=500)
    server.until_feed_is("live")
    file.write_text("rate_limit = 50\n")
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("rate_limit='100 messages/s -> 50 messages/s'") == 2, "both reloads")
    file.write_text("rate_limit = nonsense\n")
    server.signal(signal.SIGHUP)
    until(lambda: "the settings cannot be reloaded, and all stay as they were" in server.log, "a refusal")
    async with AsyncExitStack() as stack:
        clients = await joined(stack, server)
        for each in clients:
            await each.subscribe("market", "KOSPI")
            await each.until_type("subscribed")
        until(lambda: server.stats()["sessions_elsewhere"] >= N, "that each knows the sessions of the other")
        owner, other = workers_of(server)
        owner.kill()
        until(lambda: server.log.count("a worker serves again") == 1, "a new one", 30)
        assert figures(server, "fastws_worker_restarts_total") == {"1": 1.0, "2": 0.0}
        assert figures(server, "fastws_worker_up") == {"1": 1.0, "2": 1.0}
        assert other in workers_of(server)
        # The others know at once that it is gone.
        assert server.log.count("reason='its process has ended'") == 1
        alive = []
        for each in clients:
            try:
                await each.sync()
                alive.append(each)
            except ConnectionClosed:
                assert each.connection.close_code == 1006
        assert 0 < len(alive) < N
        for each in alive:
            await each.until(updates)
        # Whichever it comes to, also the new one, who was at the one that ended has its session.
        for each in clients:
            if each not in alive:
                url = f"{server.url}?session_id={each.greeting['connection_id']}"
                again = await stack.enter_async_context(client(url))
                answer = await again.until(lambda message: message["type"] in ("reconnected", "error"))
                assert answer.get("restored_subscriptions") == {"market": ["KOSPI"]}, answer
        server.until_feed_is("live")
        # It has the settings of the reload.
        assert [server.stats()["rate_limit"] for _ in range(6)] == [50] * 6
        # One that is asked to end by itself ends in order, and another comes.
        other.terminate()
        for each in alive:
            await asyncio.wait_for(each.connection.wait_closed(), 10)
            assert each.connection.close_code == 1012
        until(lambda: server.log.count("a worker serves again") == 2, "another one", 30)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log


async def test_limits_are_of_all_and_none_outlives_the_parent(start: Any) -> None:
    server = start(connections_per_ip=10, connection_limit=12)
    assert server.stats()["room_for_connections"] == 12
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(client(server.url))
        for _ in range(4):
            async with client(server.url, greeted=False) as refused:
                assert (await refused.receive())["code"] == "LIMIT_EXCEEDED"
        workers = workers_of(server)
        (database,) = {
            file.path
            for worker in workers
            for file in worker.open_files()
            if file.path.endswith("private.db")
        }
        server.process.kill()
        server.process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert not Path(database).parent.exists()


def test_what_keeps_them_from_starting_is_told_once(tmp_path: Path, server: Server) -> None:
    wrong = tmp_path / "symbols.csv"
    wrong.write_text("symbol,name,market,sector,previous_close\n,,,,\n")
    cases = (
        (("--port", str(server.port)), f"port: {server.port} on 127.0.0.1 is in use"),
        (("--port", "0", "--symbols-file", str(wrong)), "symbols_file: "),
    )
    for flags, text in cases:
        done = run(tmp_path, "serve", "--workers", "2", *flags)
        assert done.returncode == 2, done.stderr
        (error,) = (line for line in done.stderr.splitlines() if "fastws: error:" in line)
        assert error.startswith(f"fastws: error: {text}")


def test_a_service_manager_is_told_by_the_parent_and_a_second_signal_ends_all(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        process = subprocess.Popen(
            command("serve", "--workers", "3", "--port", "0"),
            cwd=tmp_path,
            env=environment({"shutdown_delay": 60}) | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=3 workers, ")
            workers = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1")
            assert manager.recv(4096).startswith(b"READY=1")
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).startswith(b"STOPPING=1")
            assert len([worker for worker in workers if worker.is_running()]) == 3
            process.send_signal(signal.SIGINT)
            assert process.wait(15) == 128 + signal.SIGINT
            assert not [worker for worker in workers if worker.is_running()]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


def test_one_that_cannot_be_started_is_tried_again(start: Any) -> None:
    server = start()
    owner, other = workers_of(server)
    parent = server.process.pid
    before = resource.prlimit(parent, resource.RLIMIT_NOFILE)
    # From now on it gets no descriptor, and so no pair of sockets for a worker.
    resource.prlimit(parent, resource.RLIMIT_NOFILE, (3, before[1]))
    owner.kill()
    until(lambda: "a worker cannot be started and is tried again" in server.log, "the first attempt")
    assert "Too many open files" in server.log
    assert other.is_running()
    assert server.get_json("/health")["workers"] == 1
    resource.prlimit(parent, resource.RLIMIT_NOFILE, before)
    until(lambda: "a worker serves again" in server.log, "another one", 30)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log


_HANGS = """
import asyncio, os, pathlib

async def setup(hub):
    while os.path.exists("hang"):
        pathlib.Path("hanging").touch()
        await asyncio.sleep(0.05)
"""
# The limit of a start is minutes in earnest.
_IMPATIENT = """
import sys
from fastws.cli import main
from fastws.server import supervisor

supervisor.START_SECONDS = 3.0
sys.exit(main(sys.argv[1:]))
"""


def test_one_that_is_started_during_a_reload_takes_part(start: Any, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(_HANGS)
    file = tmp_path / "fastws.toml"
    file.write_text("rate_limit = 100\n")
    server = start("--load", "hangs:setup", "--config", str(file))
    (tmp_path / "hang").touch()
    workers_of(server)[0].kill()
    until((tmp_path / "hanging").exists, "one that was forked with the settings of before")
    file.write_text("rate_limit = 50\n")
    server.signal(signal.SIGHUP)
    until(lambda: "rate_limit='100 messages/s -> 50 messages/s'" in server.log, "the other's reload")
    (tmp_path / "hang").unlink()
    until(lambda: "a worker serves again" in server.log, "the new one")
    until(lambda: [server.stats()["rate_limit"] for _ in range(6)] == [50] * 6, "the same settings at all")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_one_that_does_not_come_to_serve_is_started_anew(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs.py").write_text(_HANGS)
    (tmp_path / "impatient.py").write_text(_IMPATIENT)
    monkeypatch.setattr(
        serving, "command", lambda *rest: [sys.executable, "-W", "error", "impatient.py", *rest]
    )
    server = start("--load", "hangs:setup")
    (tmp_path / "hang").touch()
    workers_of(server)[0].kill()
    until(lambda: "a worker does not serve so long after its start and is killed" in server.log, "the kill")
    (tmp_path / "hang").unlink()
    until(lambda: "a worker serves again" in server.log, "another one", 30)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.long
def test_a_server_that_was_paused_as_a_whole_goes_on(start: Any) -> None:
    """As a container is, for longer than a worker is let live that says nothing; the parent is the first to run on."""
    server = start()
    parent = psutil.Process(server.process.pid)
    workers = workers_of(server)
    for each in (parent, *workers):
        each.suspend()
    time.sleep(STUCK_SECONDS + 1)
    parent.resume()
    time.sleep(2)
    for each in workers:
        each.resume()
    assert server.get_json("/health")["status"] == "ok"
    time.sleep(2)
    assert workers_of(server) == workers
    assert "is killed" not in server.log


@pytest.mark.long
def test_one_that_is_stuck_is_started_anew(start: Any) -> None:
    server = start()
    stuck, other = workers_of(server)
    stuck.suspend()
    until(lambda: "a worker is stuck and is killed" in server.log, "the kill", 60)
    until(lambda: "a worker serves again" in server.log, "another one", 60)
    assert not stuck.is_running()
    assert other in workers_of(server)
    assert figures(server, "fastws_worker_restarts_total") == {"1": 1.0, "2": 0.0}
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
