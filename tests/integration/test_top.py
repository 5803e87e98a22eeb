"""``fastws top`` on a real server: in a terminal, and for scripts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.certificates import files, forced
from tests.clients import client
from tests.conftest import StartServer
from tests.serving import Server, command, environment, free_port, run, until
from tests.terminal import Terminal

ADMIN = "the admin token"
SECURE = ("--cafile", str(files().authority_file)) if forced else ()


@pytest.fixture(scope="module")
def target(shared_server: StartServer) -> Server:
    return shared_server("--feed", "sim", "--simulator-rate", "500", admin_token=ADMIN, connection_limit=777)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Top]:
    made = Top(tmp_path)
    yield made
    made.close()


class Top:
    """Starts ``fastws top`` in terminals, which are ended with the test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._terminals: list[Terminal] = []

    def __call__(
        self,
        url: str,
        *flags: str,
        columns: int = 80,
        lines: int = 24,
        before: Sequence[str] = (),
        **variables: str,
    ) -> Terminal:
        terminal = Terminal(
            [*before, *command("top", "--url", url, "--interval", "0.2", *SECURE, *flags)],
            directory=self._directory,
            environment=environment({}) | variables,
            columns=columns,
            lines=lines,
        )
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.__exit__(None, None, None)


def figure(text: str, label: str) -> str:
    """The value of a row, "" where there is none."""
    found = re.search(rf"^{label} +(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


# On a terminal.


def test_what_is_shown_moves(target: Server, top: Top) -> None:
    terminal = top(target.http_url, "--token", ADMIN)
    terminal.until(lambda text: figure(text, "published").endswith("/s"), "a rate")
    terminal.until(lambda text: figure(text, "messages sent") == "0/s", "the rate of what nobody gets")
    text = terminal.text
    assert terminal.lines[0].startswith(f"fastws 0.1.0  {target.http_url}  ")
    assert "serving  up " in terminal.lines[0]
    assert terminal.lines[1].startswith("feeds  simulator live")
    assert figure(text, "connections") == "0"
    assert "CONNECTION USER" in text

    async def listen() -> None:
        async with client(target.url) as listener:
            await listener.subscribe("stock", "005930", "000660")
            await asyncio.to_thread(
                terminal.until, lambda text: figure(text, "connections") == "1", "the connection"
            )
            await asyncio.to_thread(
                terminal.until,
                lambda text: figure(text, "messages sent") not in ("", "-", "0/s"),
                "messages",
            )
            short = listener.greeting["connection_id"][:8]
            await asyncio.to_thread(
                terminal.until, lambda text: re.search(rf"^{short} +- +screener +2 ", text, re.M), "its line"
            )

    asyncio.run(listen())
    terminal.until(lambda text: figure(text, "connections") == "0", "the end of the connection")
    assert terminal.colours > {"default", "green"}
    terminal.type(b"q")
    assert terminal.wait() == 0
    assert terminal.attributes == terminal.before
    assert terminal.raw.endswith(b"\x1b[?25h\x1b[?1049l")


def test_keys(target: Server, top: Top) -> None:
    terminal = top(target.http_url, "--token", ADMIN, columns=120)
    terminal.until(lambda text: "by updates a second" in text, "the screen")
    terminal.type(b"s")
    terminal.until(lambda text: "by bytes queued" in text, "the next order")
    terminal.type(b"?")
    terminal.until(lambda text: "from receipt to the last client" in text, "the help")
    terminal.type(b"s")
    terminal.until(lambda text: "by bytes queued" in text and "serving" in text, "the end of the help")
    terminal.type(b"p")
    terminal.until(lambda text: "paused " in text and "go on" in text, "the pause")
    published = re.search(r"up to no\. ([\d,]+)", terminal.text)
    assert published
    before = target.stats()["sequence"]
    until(lambda: target.stats()["sequence"] > before + 200, "updates")
    # Drawn anew, and the same; arrows are no letters.
    terminal.type(b"\x1b[A\x1bOq\x1b[1;5s")
    terminal.resize(100, 30)
    terminal.until(lambda text: "paused " in text and terminal.lines[-1].startswith(" q"), "the new size")
    assert published[0] in terminal.text
    terminal.type(b"p")
    terminal.until(lambda text: "paused " not in text and published[0] not in text, "the end of the pause")
    terminal.resize(30, 5)
    terminal.until(lambda text: "quit" in terminal.lines[4], "a window that is hardly one")
    terminal.type(b"Q")
    assert terminal.wait() == 0


@pytest.mark.parametrize("ending", ["Ctrl-C", "SIGTERM", "SIGINT"])
def test_endings(ending: str, target: Server, top: Top) -> None:
    terminal = top(target.http_url)
    terminal.until(lambda text: "serving" in text, "the screen")
    if ending == "Ctrl-C":
        terminal.type(b"\x03")
    else:
        terminal.signal(signal.Signals[ending])
    assert terminal.wait() == 0
    assert terminal.attributes == terminal.before
    assert terminal.raw.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"Traceback" not in terminal.raw


def test_a_terminal_that_goes_away(target: Server, top: Top) -> None:
    terminal = top(target.http_url)
    terminal.until(lambda text: "serving" in text, "the screen")
    terminal.hang_up()
    assert terminal.wait() == 0


def test_a_terminal_that_takes_nothing(target: Server, top: Top) -> None:
    terminal = top(target.http_url, columns=200, lines=60)
    terminal.until(lambda text: "serving" in text, "the screen")
    # What is not read fills it: the program then waits in a write.
    until(lambda: _waits_in_write(terminal.process.pid), "a full terminal", 30)
    terminal.signal(signal.SIGTERM)
    until(lambda: terminal.process.poll() is not None, "the end")
    assert terminal.process.returncode == 0


def _waits_in_write(pid: int) -> bool:
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        pytest.skip("the kernel does not tell where a program waits")
    return call[0] == "1"


# A shell's part: a program without one that could let it go on cannot be stopped.
_JOB = """
import os, signal, sys
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.setpgid(0, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.tcsetpgrp(0, os.getpid())
signal.signal(signal.SIGTTOU, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_it_is_stopped_and_goes_on(target: Server, top: Top) -> None:
    terminal = top(target.http_url, before=(sys.executable, "-c", _JOB))
    terminal.until(lambda text: "serving" in text, "the screen")
    (job,) = psutil.Process(terminal.process.pid).children()
    terminal.type(b"\x1a")
    terminal.until(lambda text: job.status() == psutil.STATUS_STOPPED, "the stop")
    terminal.drain()
    assert terminal.attributes == terminal.before
    assert terminal.raw.endswith(b"\x1b[?25h\x1b[?1049l")
    n = len(terminal.raw)
    job.send_signal(signal.SIGCONT)
    terminal.until(lambda text: b"published" in terminal.raw[n:], "the screen again")
    assert terminal.attributes != terminal.before
    terminal.type(b"q")
    assert terminal.wait() == 0
    assert terminal.attributes == terminal.before


def test_a_server_that_starts_again(server: StartServer, top: Top) -> None:
    port = free_port()
    first = server("--feed", "sim", "--port", str(port))
    terminal = top(first.http_url)
    terminal.until(lambda text: re.search(r"\d/s +up to no", text), "a rate")
    first.end()
    terminal.until(lambda text: "unreachable since " in text and "connection refused" in text, "the outage")
    second = server("--feed", "sim", "--port", str(port))
    terminal.until(lambda text: "restarted " in text and "unreachable" not in text, "the server again")
    terminal.until(lambda text: re.search(r"\d/s +up to no", text), "a rate again")
    sequence = re.search(r"up to no\. ([\d,]+)", terminal.text)
    assert sequence
    assert int(sequence[1].replace(",", "")) <= second.stats()["sequence"]
    # At no time a rate was negative.
    assert not re.search(rb"-\d[\d.,]*( \w)?/s", re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", bytes(terminal.raw)))
    terminal.type(b"q")
    assert terminal.wait() == 0


def test_no_colour_and_no_rich(target: Server, top: Top, tmp_path: Path) -> None:
    terminal = top(target.http_url, NO_COLOR="1")
    terminal.until(lambda text: "serving" in text and "nothing to be looked after" in text, "the screen")
    assert terminal.colours == {"default"}
    terminal.type(b"q")
    assert terminal.wait() == 0
    # As if it were not installed.
    (tmp_path / "rich.py").write_text("raise ImportError\n")
    path = f"{tmp_path}{os.pathsep}{environment({})['PYTHONPATH']}"
    terminal = top(target.http_url, PYTHONPATH=path)
    assert terminal.wait() == 1
    assert terminal.raw.decode().strip() == (
        "fastws: error: top needs rich, which is not installed: pip install rich; --once does without it"
    )
    terminal = top(target.http_url, "--once", PYTHONPATH=path, columns=120)
    assert terminal.wait() == 0
    assert b"serving at " in terminal.raw


def test_the_administrators_port(server: StartServer, top: Top) -> None:
    port = free_port()
    target = server("--feed", "sim", "--admin-bind", f"127.0.0.1:{port}", admin_token=ADMIN)
    terminal = top(target.http_url, columns=160)
    terminal.until(
        lambda text: "has no /metrics; with admin_bind it is on a port of its own" in text, "why not"
    )
    terminal.until(lambda text: figure(text, "processor") == "-", "no processor")
    terminal.type(b"q")
    assert terminal.wait() == 0
    admin = target.http_url.replace(str(target.port), str(port))
    terminal = top(target.http_url, "--admin-url", admin, FASTWS_ADMIN_TOKEN=ADMIN)
    terminal.until(lambda text: re.search(r"^processor +[\d.]+ % +of one", text, re.M), "the processor")
    assert "CONNECTION USER" in terminal.text


# For scripts.


def test_a_snapshot(target: Server, tmp_path: Path) -> None:
    result = run(tmp_path, "top", "--url", target.http_url, *SECURE)
    assert (result.returncode, result.stderr) == (0, "")
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert lines["server"] == f"{target.http_url}, fastws 0.1.0"
    assert re.fullmatch(r"serving at \d\d:\d\d:\d\d, up .+", lines["state"])
    assert lines["feeds"] == "simulator live"
    assert re.match(r"[\d,.]+/s +up to no\. ", lines["published"])
    assert re.match(r"[\d.]+ % +of one", lines["processor"])
    assert "\x1b" not in result.stdout


def test_json(target: Server, tmp_path: Path) -> None:
    flags = ("--url", target.http_url, "--interval", "1.1", *SECURE)
    result = run(tmp_path, "top", "--json", *flags, admin_token=ADMIN)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["url"] == target.http_url
    assert found["state"] == "serving"
    assert found["rates"]["published"] > 0
    assert 0 <= found["process"]["processors"] < 2
    assert found["process"]["memory"] > 1 << 20
    assert found["times"]["loop_lag"]["p99"] >= found["times"]["loop_lag"]["p50"] > 0
    stats = found["stats"]
    assert stats.items() >= {"active_connections": 0, "version": "0.1.0", "draining": False}.items()
    assert stats["room_for_connections"] == 777
    assert stats["connections_by_dialect"].keys() <= {"screener", "realtime"}
    assert 0 <= stats["last_update_age_ms"] < 5000
    assert stats["uptime_seconds"] > 0
    # The server tells everything that is shown, but for what only joined ones have.
    assert [name for name, value in stats.items() if value is None] == ["relay"]
    assert found["health"] == {"status": "ok", "price_feed_running": True}
    assert found["connections"] == []
    assert json.loads(run(tmp_path, "top", "--json", *flags).stdout)["connections"] is None


def test_letters_that_the_output_has_not(target: Server, tmp_path: Path) -> None:
    result = subprocess.run(
        command("top", "--once", "--interval", "0.1", "--url", target.http_url, *SECURE),
        env=environment({}) | {"PYTHONIOENCODING": "ascii"},
        cwd=tmp_path, capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    assert b"of 30 ms asked ? busy" in result.stdout


# Mistakes: one sentence.


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (
            ("--url", "http://127.0.0.1:1"),
            1,
            "http://127.0.0.1:1: connection refused; is the server running?",
        ),
        (
            ("--url", "ws://127.0.0.1:8000"),
            2,
            "--url: ws://127.0.0.1:8000 is no address of a server; write it as",
        ),
        (("--admin-url", "x"), 2, "--admin-url: x is no address"),
        (("--cafile", "/no/such.pem"), 2, "--cafile: /no/such.pem cannot be used: No such file or directory"),
        (("--cafile", os.devnull), 2, "--cafile: /dev/null cannot be used: no certificates in PEM"),
        (("--cafile", "x", "--insecure"), 2, "--insecure: not with --cafile"),
        (("--token", " x"), 2, "--token: a token has no blanks"),
        (("--interval", "0.01"), 2, "argument --interval: expected 0.1 seconds or more, not '0.01'"),
        (("--prot",), 2, "--prot: unknown option (see fastws top --help)"),
    ],
)
def test_mistakes(flags: tuple[str, ...], status: int, sentence: str, tmp_path: Path) -> None:
    result = run(tmp_path, "top", "--once", *flags)
    assert result.returncode == status
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.match(r"fastws( top)?: error: ", result.stderr)
    assert sentence in result.stderr


def test_tokens_that_are_none(target: Server, server: StartServer, tmp_path: Path) -> None:
    result = run(tmp_path, "top", "--url", target.http_url, "--token", "another", *SECURE)
    assert (result.returncode, result.stderr) == (1, (
        f"fastws: error: {target.http_url}: this is not its admin token; correct --token or FASTWS_ADMIN_TOKEN\n"
    ))  # fmt: skip
    without = server("--feed", "none")
    result = run(tmp_path, "top", "--url", without.http_url, *SECURE, admin_token="another")
    assert result.returncode == 1
    assert "the server has no admin token; set admin_token there, or leave --token" in result.stderr


@pytest.mark.skipif(bool(forced), reason="it is about both")
def test_certificates(server: StartServer, tmp_path: Path) -> None:
    target = server("--feed", "none", certfile=str(files().certfile))
    short = ("top", "--interval", "0.1", "--url", target.http_url)
    result = run(tmp_path, *short)
    assert result.returncode == 1
    assert "its certificate is not trusted (" in result.stderr
    for flags in (("--cafile", str(files().authority_file)), ("--insecure",)):
        result = run(tmp_path, *short, *flags)
        assert (result.returncode, result.stderr) == (0, "")
        assert "serving at " in result.stdout
    result = run(tmp_path, "top", "--url", f"http://127.0.0.1:{target.port}")
    assert result.returncode == 1
    assert "a server with a certificate is at https://" in result.stderr
