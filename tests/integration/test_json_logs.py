"""``--log-format json`` over whole runs: one object per line, whoever writes it, and few lines for many clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.clients import client
from tests.serving import ROOT, Server, command, environment, run, until

KEYS = {"timestamp", "level", "logger", "event"}


def parsed(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line.keys() >= KEYS, line
    return lines


async def test_a_run_with_everything_that_clients_can_do(tmp_path: Path) -> None:
    target = Server(tmp_path, "--log-format", "json", "--feed", "sim", rate_limit=5)
    try:
        for i in range(200):
            # Handshakes refused, heads that are none, frames that are wrong, connections that are reset.
            with target.raw_client(handshake=False) as raw:
                raw.send(
                    b"GET /v1/ws HTTP/1.1\r\nOrigin: https://evil.example\r\nUpgrade: websocket\r\n\r\n"[
                        : 20 + i
                    ]
                )
            with target.raw_client() as raw:
                raw.send(bytes([0x81, 0xFF]) + os.urandom(20) if i % 2 else b"\x00" * 30)
            raw = target.raw_client()
            raw.send_message(type="subscribe", subscription_type="market", targets=["KOSPI"], mode="all")
            raw.reset()
        async with client(f"{target.url}?token=not.a.token", greeted=False) as connection:
            assert await connection.closed() == 4401
        target.get("/v1/ws/connections")
        target.get("/nowhere")
        os.kill(target.process.pid, signal.SIGHUP)
        await asyncio.to_thread(until, lambda: "nothing has changed" in target.log, "the reload")
        target.signal(signal.SIGTERM)
        assert await asyncio.to_thread(target.wait) == 0
    finally:
        target.process.kill()
        target.process.wait()
    lines = parsed(target.log)
    assert lines[-1]["event"] == "stopped"
    # Ten seconds pass before a kind is written again, with the number of those that were left out.
    kinds = Counter((line["logger"], line["event"], line.get("code")) for line in lines)
    assert kinds.most_common(1)[0][1] <= 10, kinds
    assert any(line.get("suppressed", 0) > 50 for line in lines)
    assert not any(line["level"] in ("error", "critical") for line in lines)


def test_errors_of_the_start(tmp_path: Path) -> None:
    result = run(tmp_path, "serve", "--port", "0", "--log-format", "json", "--host", "203.0.113.1")
    assert result.returncode == 2
    last = parsed(result.stderr)[-1]
    assert (last["level"], last["setting"]) == ("error", "host")
    assert "is no address of this machine" in last["event"]
    # A setting that cannot be read is told before there is a form.
    result = run(tmp_path, "serve", "--log-format", "jsonl")
    assert result.stderr.startswith("fastws: error: log_format: ")


FAILURES = """
import asyncio, logging, sys, threading, warnings
from fastws import logs

logs.configure("info", sys.argv[1])
logs.capture()
warnings.warn("a warning\\nof two lines", stacklevel=1)

class Broken:
    def __repr__(self):
        raise RuntimeError("no text")
    def __del__(self):
        raise ValueError("in a destructor")

logging.getLogger("aiohttp.server").error("Error handling request", exc_info=ValueError("bad"))
logging.getLogger("any").error("%d things", "no number")
logging.getLogger("any").error("with a field", extra={"field": Broken()})
Broken()

async def main():
    async def fail():
        raise ValueError("in a task")
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
    del task
    asyncio.get_running_loop().call_exception_handler({"message": "a callback failed"})

def fail():
    raise ValueError("in a thread")

asyncio.run(main())
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
raise ValueError("of the program")
"""


@pytest.mark.parametrize("style", ["json", "console"])
def test_whatever_python_says_is_a_log_line(tmp_path: Path, style: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FAILURES, style],
        cwd=tmp_path,
        env=environment({}) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    found = (
        ("py.warnings", "a warning"),
        ("aiohttp.server", "Error handling request"),
        ("any", "a log line cannot be written"),
        ("python", "in a destructor"),
        ("asyncio", "in a task"),
        ("asyncio", "a callback failed"),
        ("python", "in a thread"),
        ("python", "of the program"),
    )
    if style == "json":
        lines = parsed(result.stderr)
        for logger, text in found:
            assert any(line["logger"] == logger and text in json.dumps(line) for line in lines), (
                logger,
                lines,
            )
        # Two lines cannot be written, and two objects fail in their destructors.
        assert len(lines) == len(found) + 2
        assert sum("Traceback" in line.get("exception", "") for line in lines) >= 5
    else:
        for logger, text in found:
            assert logger in result.stderr
            assert text in result.stderr
        assert "--- Logging error ---" not in result.stderr


def test_a_failure_of_the_program_is_one_object(tmp_path: Path) -> None:
    """A mistake of ours while the server is put together, as a module that is not there any more would be."""
    (tmp_path / "sitecustomize.py").write_text(
        "import fastws.server.server as m\n"
        "def fail(*_):\n    raise RuntimeError('a mistake')\n"
        "m.make_store = fail\n"
    )
    variables = environment({})
    variables["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{variables['PYTHONPATH']}"
    result = subprocess.run(
        command("serve", "--port", "0", "--log-format", "json"),
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    last = parsed(result.stderr)[-1]
    assert last["level"] == "critical"
    assert "RuntimeError: a mistake" in last["exception"]
