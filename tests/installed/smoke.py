"""Whether an installed fastws serves: ``python tests/installed/smoke.py``, with what its wheel brings and nothing else.

Runs a server in this process on asyncio's own loop, and one as a process on uvloop, and a client against both.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fastws
from fastws.client import Client, PriceUpdate

PACKAGE = Path(fastws.__file__).parent
_SECONDS = 60.0
_URL = re.compile(r"wss?://127\.0\.0\.1:(\d+)/v1/ws")


def check(condition: object, what: str) -> None:
    # Not assert, which python -O would leave out.
    if not condition:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}")


def check_package() -> None:
    tree = Path(__file__).parents[2] / "fastws"
    check(PACKAGE.resolve() != tree.resolve(), f"it is the installed one, {PACKAGE}")
    extensions = sorted(
        str(path.relative_to(PACKAGE.parent)).split(".")[0].replace("/", ".")
        for path in PACKAGE.rglob("*.so")
    )
    for name in extensions:
        importlib.import_module(name)
    check(len(extensions) >= 10, f"{len(extensions)} compiled parts can be imported")
    check((Path(fastws.get_include()) / "fastws.h").is_file(), "extensions find the header")


async def first_price(url: str, code: str) -> int:
    async with Client(url) as client:
        await client.subscribe("stock", [code])
        async for message in client:
            if isinstance(message, PriceUpdate):
                return int(message.price)
    raise AssertionError("the stream of messages has ended")


async def embed() -> None:
    async with fastws.Server(port=0) as server, asyncio.timeout(_SECONDS):
        waiting = asyncio.create_task(first_price(server.url, "005930"))
        while not server.hub.subscriber_count("stock", "005930"):
            await asyncio.sleep(0.01)
        server.hub.publish_price("005930", 71500)
        check(
            await waiting == 71500,
            f"a price reaches a client, on {type(asyncio.get_running_loop()).__name__}",
        )


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def serving(
    command: list[str], environment: dict[str, str], cwd: Path | None = None
) -> Iterator[tuple[int, str, int]]:
    """Run a server; gives its port, what it says at its start, and the number of its process. It has to stop, too."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=cwd
        )
        try:
            deadline = time.monotonic() + _SECONDS
            found = None
            while found is None:
                log.seek(0)
                said = log.read()
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"failed: the server starts\n{said}")
                found = _URL.search(said) if said.endswith("\n") else None
                time.sleep(0.02)
            yield int(found[1]), said, process.pid
            process.send_signal(signal.SIGTERM)
            status = process.wait(_SECONDS)
            if status:
                log.seek(0)
                print(log.read(), file=sys.stderr)
            check(status == 0, "it stops when it is told")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def without_settings() -> dict[str, str]:
    """The variables of this process, but those that set up a server."""
    return {name: text for name, text in os.environ.items() if not name.startswith("FASTWS_")}


def check_serve(command: list[str], environment: dict[str, str]) -> None:
    serve = [*command, "serve", "--port", "0", "--feed", "sim"]
    with serving(serve, environment) as (port, said, _):
        status, body = get(port, "/health")
        check(status == 200 and json.loads(body)["status"] == "ok", "fastws serve is healthy")
        code = re.search(r"/v1/stocks/(\w+)", said)
        check(code, "it has instruments")
        assert code is not None
        price = asyncio.run(asyncio.wait_for(first_price(f"ws://127.0.0.1:{port}/v1/ws", code[1]), _SECONDS))
        check(price > 0, "its simulator's prices reach a client")
        page = re.search(r"dashboard +http://127\.0\.0\.1:\d+(\S+)", said)
        check(page and get(port, page[1])[0] == 200, "the dashboard is there")
        check(get(port, "/static/fastws.js")[0] == 200, "the library of browsers is there")
        check(get(port, "/metrics")[0] == 200, "the metrics are there")


if __name__ == "__main__":
    check_package()
    asyncio.run(embed())
    check_serve([sys.executable, "-m", "fastws"], without_settings())
