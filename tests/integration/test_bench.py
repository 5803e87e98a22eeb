"""``fastws bench`` as it is run by hand: on a real server, on faulty ones, on a terminal, interrupted."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.server import ServerConnection, serve

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.cli import main
from tests import serving

pytestmark = pytest.mark.plain("the load client speaks no TLS")

TIMEOUT_S = 60.0
RATE = 500
QUICK = ("--duration", "2", "--ramp-up", "0.2", "--batch-size", "20")
ONE_STOCK = ("--subscribe", "stock:005930,channels=price")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    directory = tmp_path_factory.mktemp("bench")
    rows = "".join(f"{code:06d},Company {code},KOSPI,IT,72000\n" for code in (5930, 660, 35720, 373220))
    (directory / "symbols.csv").write_text("symbol,name,market,sector,previous_close\n" + rows)
    server = serving.Server(
        directory, "--feed", "sim", "--symbols-file", str(directory / "symbols.csv"),
        simulator_rate=RATE, simulator_seed=1, simulator_opening_burst=1, jwt_secret="s" * 32,
    )  # fmt: skip
    yield server
    server.end()


def bench(*arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        serving.command("bench", *arguments),
        env=serving.environment({}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


class Here:
    """The command in this process, which spares the time that another one takes to start."""

    def __init__(self, capsys: pytest.CaptureFixture[str], path: Path) -> None:
        self._capsys = capsys
        self._path = path / "out.json"

    def __call__(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What it prints and what it complains of."""
        self._capsys.readouterr()
        try:
            ended_with: object = main(["bench", *arguments])
        except SystemExit as ended:
            ended_with = ended.code
        printed, error = self._capsys.readouterr()
        assert ended_with == status, printed + error
        return printed, error

    def fails(self, *arguments: str) -> str:
        return self(*arguments, status=1)[1]

    def measured(self, *arguments: str) -> tuple[dict[str, Any], str]:
        printed, _ = self(*arguments, "--json", str(self._path))
        document: dict[str, Any] = json.loads(self._path.read_text())
        return document, printed


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Here:
    return Here(capsys, tmp_path)


def test_a_load_on_a_real_server(server: serving.Server, here: Here) -> None:
    document, printed = here.measured(
        "--url", server.url, "--connections", "50", *QUICK, "--random", "2", "--ping", "5",
        "--pid", str(server.process.pid),
    )  # fmt: skip
    load = document["run"]["load"]
    assert document["plan"]["check"] == "full"
    assert load["open"] == 50
    # Each has two of four stocks: half of what is published.
    assert load["messages"] == pytest.approx(50 * RATE / 2 * 2, rel=0.3)
    assert load["latency"]["count"] == load["messages"]
    assert load["ping"]["count"] > 20
    assert load["lost"] == load["duplicates"] == 0
    assert document["run"]["server"]["cpu_cores"] > 0
    assert document["run"]["server"]["rss_most"] > 10 << 20
    assert document["faults"] == []
    assert document["interrupted"] is None
    assert sum(n for _, n in document["latency_histogram"]) == pytest.approx(load["messages"])
    assert "ok: no message lost, none twice" in printed
    assert "50 opened in" in printed
    for word in ("p50", "p90", "p99", "p99.9", "max", "MB/s", "server", "generator", "share"):
        assert word in printed
    assert all(len(line) < 80 for line in printed.splitlines())


def test_every_kind_of_subscription_from_flags_and_file(
    server: serving.Server, here: Here, tmp_path: Path
) -> None:
    path = tmp_path / "subscriptions.txt"
    path.write_text("# all of it\nmarket:KOSPI\nsector:IT,max_rate=100\n")
    document, printed = here.measured(
        "--url", server.url, "--connections", "20", *QUICK, "--file", str(path),
        "--subscribe", "stock:005930,mode=latest",
    )  # fmt: skip
    assert document["run"]["load"]["messages"] > 0
    assert document["run"]["load"]["conflated"] > 0
    assert "gave way to newer ones" in printed
    assert "ok: no message twice" in printed


def test_sessions_come_back_from_a_storm_with_everything(server: serving.Server, here: Here) -> None:
    document, printed = here.measured(
        "--url", server.url, "--connections", "50", "--duration", "1", "--ramp-up", "0", *ONE_STOCK,
        "--reconnect-storm",
    )  # fmt: skip
    assert document["plan"]["check"] == "edges"
    storm = document["storm"]
    assert 0 < storm["seconds"] < 10
    assert storm["load"]["restored"]["sessions"] == storm["load"]["restored"]["recovered"] == 50
    assert storm["load"]["messages"] > 0
    assert storm["load"]["lost"] == storm["load"]["duplicates"] == 0
    assert "all 50 connections were cut at once" in printed
    assert "50 sessions with all they missed" in printed


def test_slow_readers_are_told_apart(server: serving.Server, here: Here) -> None:
    document, printed = here.measured(
        "--url", server.url, "--connections", "20", "--duration", "1", "--ramp-up", "0",
        "--slow-readers", "3",
    )  # fmt: skip
    load = document["run"]["load"]
    assert load["connections"] == 17
    assert load["slow"]["connections"] == 3
    assert load["slow"]["messages"] == 0
    assert "slow readers" in printed


def test_compressed_messages_are_counted(server: serving.Server, here: Here) -> None:
    document, printed = here.measured(
        "--url", server.url, "--connections", "20", "--duration", "1", "--ramp-up", "0",
        "--random", "4", "--deflate",
    )  # fmt: skip
    assert document["run"]["load"]["compressed_messages"] > 0
    assert "counted and not read" in printed


def test_two_results_are_compared(server: serving.Server, here: Here, tmp_path: Path) -> None:
    paths = [tmp_path / "few.json", tmp_path / "many.json"]
    for path, n in zip(paths, ("5", "10"), strict=True):
        here(
            "--url", server.url, "--connections", n, "--duration", "1", "--ramp-up", "0", "--json", str(path)
        )
    printed = here("--compare", *map(str, paths))[0]
    assert "messages/s" in printed
    assert "differs: connections 5 and 10" in printed


def test_the_script_is_the_command(server: serving.Server) -> None:
    script = serving.ROOT / "benchmarks" / "websocket_load_test.py"
    done = subprocess.run(
        [sys.executable, str(script), "--url", server.url, "--connections", "5", "--duration", "0.5",
         "--ramp-up", "0", "--batch-size", "2"],
        env=serving.environment({}), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 opened in" in done.stdout


# What goes wrong.


def test_what_the_server_refuses(server: serving.Server, here: Here) -> None:
    url, few = ("--url", server.url), ("--connections", "3", "--ramp-up", "0")
    assert "unknown symbol" in here.fails(*url, *few, "--subscribe", "stock:XX")
    assert "was rejected" in here.fails(*url, *few, "--subscribe", "stock:005930,XX")
    assert "lists 4 stocks" in here.fails(*url, *few, "--random", "5")
    wrong = here.fails(*url, *few, *ONE_STOCK, "--token", "not.a.token")
    assert "INVALID_TOKEN" in wrong
    assert "not.a.token" not in wrong
    health = server.url.replace("/v1/ws", "/health")
    assert "no WebSocket at this path" in here.fails("--url", health, *few, *ONE_STOCK)


def test_connections_of_one_user_are_limited(server: serving.Server, here: Here, tmp_path: Path) -> None:
    token = serving.run(tmp_path, "token", "--sub", "u", "--jwt-secret", "s" * 32).stdout.strip()
    error = here.fails(
        "--url", server.url, "--connections", "9", "--ramp-up", "0", *ONE_STOCK, "--token", token
    )
    assert "LIMIT_EXCEEDED" in error
    assert token not in error
    # As many as a user may have are served, and their token is kept to nobody's eyes.
    document, _ = here.measured(
        "--url", server.url, "--connections", "3", "--duration", "0.5", "--ramp-up", "0",
        *ONE_STOCK, "--token", token,
    )  # fmt: skip
    assert document["plan"]["has_token"] is True
    assert token not in (tmp_path / "out.json").read_text()


def test_no_server_there(here: Here) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/v1/ws"
    assert "is the server running there?" in here.fails("--url", url)
    assert "is the server running there?" in here.fails("--url", url, *ONE_STOCK)


def test_too_few_files_may_be_open() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    done = bench("--connections", "200", *ONE_STOCK, status=1, preexec_fn=limit)
    assert "230 open files are needed and 100 allowed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--connections", "0"], "--connections: expected a whole number from 1 on"),
        (["--duration", "0"], "more than 0 seconds"),
        (["--ramp-up", "-1"], "expected seconds, not '-1'"),
        (["--url", "wss://127.0.0.1/v1/ws"], "is no ws:// URL; TLS is not spoken"),
        (["--url", "ws://127.0.0.1:99999/v1/ws"], "no usable host or port"),
        (["--url", "ws://127.0.0.1:0/v1/ws"], "no usable host or port"),
        (["--url", "ws://[::1/v1/ws"], "no usable host or port"),
        (["--url", "ws:///v1/ws"], "no usable host or port"),
        (["--subscribe", "005930"], "write KIND:TARGET"),
        (["--subscribe", "stock:A", "--subscribe", "market:M"], "some of mode latest"),
        (["--random", "5", "--subscribe", "market:M"], "add mode=all or mode=latest"),
        (["--random", "none"], "is no number of stocks"),
        (["--check", "edges"], "edges is for one stock on one channel"),
        (["--connections", "5", "--ping", "4", "--slow-readers", "2"], "5 are fewer than"),
        (["--reconnect-storm", "--deflate"], "not with --deflate"),
        (["--reconnect-storm", "--slow-readers", "1"], "not with --slow-readers"),
        (["--reconnect-storm", "--check", "none"], "not with --check none"),
        (["--json", "/no/such/dir/out.json"], "cannot be written"),
        (["--json", "/tmp"], "/tmp is a directory"),
        (["--file", os.devnull], "holds no subscription"),
        (["--file", "/no/such"], "--file: /no/such: No such file"),
        (["--connections", "5", "--slow-readers", "5"], "all 5 connections would not read"),
        (["--conections", "5"], "did you mean --connections?"),
        (["--config", "x"], "--config: unknown option"),
        (["--port", "5"], "--port is a flag of fastws serve"),
    ],
)
def test_wrong_flags(here: Here, arguments: list[str], part: str) -> None:
    _, error = here(*arguments, status=2)
    assert part in error
    assert error.count("\n") == 1


def test_other_mistakes(here: Here) -> None:
    assert "no process 4194304" in here.fails(*ONE_STOCK, "--pid", "4194304")
    assert "is no JSON" in here.fails("--compare", __file__, __file__)


async def test_losses_and_repetitions_are_found() -> None:
    async def on_connection(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"subscribed","targets":["005930"]}')
        seq = 0
        while True:
            seq += 1
            for _ in range(0 if seq % 10 == 0 else 2 if seq % 10 == 5 else 1):
                await connection.send(
                    f'{{"type":"price_update","code":"005930","price":1,"timestamp":"2025-11-11T00:00:00.000Z",'
                    f'"sequence":{seq},"seq":{seq}}}'
                )
            await asyncio.sleep(0)  # a send that does not block lets nothing else run

    async with serve(on_connection, "127.0.0.1", 0, compression=None, close_timeout=0.1) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        done = await asyncio.to_thread(
            bench, "--url", f"ws://127.0.0.1:{port}/", "--connections", "2", "--duration", "0.5", "--ramp-up", "0",
            *ONE_STOCK, status=1,
        )  # fmt: skip
    assert "messages were lost without being declared" in done.stdout
    assert "messages came twice" in done.stdout
    assert "ok:" not in done.stdout


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGTERM, "1012 server restart"), (signal.SIGKILL, "1006 without a close frame")],
)
def test_a_server_that_goes_away(tmp_path: Path, number: signal.Signals, said: str) -> None:
    server = serving.Server(tmp_path, "--feed", "sim", shutdown_timeout=1)
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "30", "--ramp-up", "0",
        "--pid", str(server.process.pid),
    )  # fmt: skip
    try:
        until_measuring(process)
        server.signal(number)
        server.wait()
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        for each in (process, server.process):
            each.kill()
            each.wait()
    assert process.returncode == 1, error
    assert f"20 connections were closed by the server: {said}" in out
    assert "Traceback" not in error


# Interrupted, and on a terminal.


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        serving.command("bench", *arguments),
        env=serving.environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_measuring(process: subprocess.Popen[str]) -> None:
    """Wait for the first figures."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("measuring"):
            return
    raise AssertionError(f"ended with {process.wait()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports(server: serving.Server, number: signal.Signals) -> None:
    process = begin("--url", server.url, "--connections", "20", "--duration", "60", "--ramp-up", "0")
    until_measuring(process)
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    out, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, error
    assert "interrupted after" in out
    assert "ok: no message lost" in out
    assert "Traceback" not in error
    assert children
    assert not psutil.wait_procs(children, TIMEOUT_S)[1]


def test_a_terminal_gets_a_bar_and_a_report_that_fits(server: serving.Server) -> None:
    main_end, side_end = pty.openpty()
    fcntl.ioctl(side_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = serving.environment({}) | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        serving.command("bench", "--url", server.url, "--connections", "20", *QUICK),
        env=environment, stdin=side_end, stdout=side_end, stderr=side_end,
    )  # fmt: skip
    os.close(side_end)
    written = b""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            part = os.read(main_end, 65536)
        except OSError:  # the other end was closed
            break
        written += part
    os.close(main_end)
    assert process.wait(TIMEOUT_S) == 0
    text = written.decode()
    progress, report = text.rsplit("\r\x1b[K", 1)
    assert "connecting [" in progress
    assert "measuring  [" in progress
    assert "\n" not in progress
    assert "█" in report
    assert all(len(line) < 80 for line in report.splitlines())
    assert all(len(line.removesuffix("\x1b[K")) < 80 for line in progress.split("\r"))


# What stands still, and what cannot be written.


def test_a_server_that_stands_still_is_told(tmp_path: Path) -> None:
    server = serving.Server(tmp_path, "--feed", "sim", simulator_rate=RATE, simulator_opening_burst=1)
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "4", "--ramp-up", "0", "--ping", "5",
        "--json", str(tmp_path / "out.json"),
    )  # fmt: skip
    try:
        until_measuring(process)
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(1.5)  # what is measured is how long it stands still
        os.kill(server.process.pid, signal.SIGCONT)
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        process.kill()
        process.wait()
        server.end()
    assert process.returncode == 0, out + error
    load = json.loads((tmp_path / "out.json").read_text())["run"]["load"]
    assert 1300 < load["silence_max_ms"] < 3000
    assert "s on any connection" in out
    # Those that were due meanwhile are counted as well: a third of all have waited.
    assert load["ping"]["skipped"] > 20
    assert load["ping"]["p90_ms"] > 500
    assert "itself stood still" not in out


def test_a_generator_that_stands_still_says_so(server: serving.Server, tmp_path: Path) -> None:
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "3", "--ramp-up", "0",
        "--json", str(tmp_path / "out.json"),
    )  # fmt: skip
    try:
        until_measuring(process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # what is measured is how long it stands still
        process.send_signal(signal.SIGCONT)
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out + error
    load = json.loads((tmp_path / "out.json").read_text())["run"]["load"]
    assert 900 < load["client"]["stall_max_ms"] < 3000
    assert load["silence_max_ms"] < 700
    assert "the generator itself stood still for" in out


def test_a_run_interrupted_while_connecting_says_so(server: serving.Server) -> None:
    process = begin("--url", server.url, "--connections", "20", "--ramp-up", "60")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("connecting")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    assert error.splitlines()[-1] == "interrupted while connecting: there is nothing to report"


def test_the_report_comes_before_a_file_that_cannot_be_written(server: serving.Server, here: Here) -> None:
    printed, error = here(
        "--url", server.url, "--connections", "5", "--duration", "0.5", "--ramp-up", "0", "--json", "/dev/full",
        status=1,
    )  # fmt: skip
    assert "ok: no message lost" in printed
    assert "--json: /dev/full cannot be written: No space left on device" in error


async def test_a_server_that_says_nothing_is_not_good() -> None:
    async def on_connection(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"subscribed","targets":["005930"]}')
        await connection.wait_closed()

    async with serve(on_connection, "127.0.0.1", 0, compression=None, close_timeout=0.1) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        done = await asyncio.to_thread(
            bench, "--url", f"ws://127.0.0.1:{port}/", "--connections", "2", "--duration", "0.5", "--ramp-up", "0",
            *ONE_STOCK, status=1,
        )  # fmt: skip
    assert "FAULT: no message came" in done.stdout
    assert "ok:" not in done.stdout
