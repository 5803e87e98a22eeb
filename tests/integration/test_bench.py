"""``fastws bench`` as it is run by hand, on a real server, and what it refuses."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from tests import benching, serving
from tests.benching import ONE_STOCK, RATE, TIMEOUT_S, Here, bench
from tests.certificates import files

pytestmark = pytest.mark.plain("the load client speaks no TLS")

QUICK = ("--duration", "2", "--ramp-up", "0.2", "--batch-size", "20")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    yield from benching.serve(tmp_path_factory.mktemp("bench"))


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


def test_a_server_that_speaks_tls(tmp_path: Path, here: Here) -> None:
    server = serving.Server(tmp_path, "--feed", "sim", certfile=str(files().certfile))
    url = server.url.replace("wss://", "ws://")
    assert "does it speak TLS?" in here.fails("--url", url)
    assert "does it speak TLS?" in here.fails("--url", url, *ONE_STOCK)
    server.end()


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


def test_the_report_comes_before_a_file_that_cannot_be_written(server: serving.Server, here: Here) -> None:
    printed, error = here(
        "--url", server.url, "--connections", "5", "--duration", "0.5", "--ramp-up", "0", "--json", "/dev/full",
        status=1,
    )  # fmt: skip
    assert "ok: no message lost" in printed
    assert "--json: /dev/full cannot be written: No space left on device" in error
