"""Clients of ``clients/js`` in a Node process, and the bad network between them and their server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.certificates import files
from tests.serving import ROOT, missing, require_program

Event = dict[str, Any]

SCRIPTS = Path(__file__).parent
MODULES = SCRIPTS.parent / "node_modules"
PACKAGE = ROOT / "clients" / "js"
WAIT_SECONDS = 30.0
# Those of the tests come back at once.
BACKOFF = {"min": 5, "max": 40}
_LINE_LIMIT = 64 << 20
# Closed with this, a socket is reset.
_RESET = struct.pack("ii", 1, 0)


def require_package(name: str) -> None:
    if not (MODULES / name / "package.json").exists():
        missing(f"the npm package {name} is not installed; `make tests/node_modules/.ready` installs it")


class JsClient:
    """One client of the process; `events` are all that its handlers were told, in order."""

    def __init__(self, process: NodeProcess, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self._process = process

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method, or read a property; returns what it returns, awaited."""
        return await self._process.ask(client=self.name, call=method, arguments=arguments)

    async def report(self) -> dict[str, list[list[Any]]]:
        """What a recording client got: `live` and `snapshots` by its handlers, `wire` before it saw it."""
        report: dict[str, list[list[Any]]] = await self._process.ask(client=self.name, report=True)
        return report

    def give_token(self, token: object) -> None:
        self._process.tell(client=self.name, token=token)

    def of_type(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    def prices(self) -> list[tuple[int, bool]]:
        """Price and whether it was a snapshot's, of every price that it was told."""
        found = [told["event"] for told in self.of_type("price_update")]
        return [(update["price"], "snapshot" in update) for update in found]

    async def until(self, kind: str, since: int = 0, **members: object) -> Any:
        """The first event of a type that has `members`, of those from the one numbered `since` on."""

        def find() -> Event | None:
            for event in self.events[since:]:
                told = event.get("event") or {}
                if event["type"] == kind and members.items() <= told.items():
                    return event
            return None

        found = await self._process.until(find, f"{self.name}: {kind} {members}")
        return found.get("event")


class NodeProcess:
    """Runs remote.mjs, which says what can be asked of it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._clients: dict[str, JsClient] = {}
        self._numbers = itertools.count(1)
        self._answers: dict[int, Any] = {}
        self._changed = asyncio.Condition()

    def make(
        self, name: str, url: str, *, options: dict[str, object] | None = None, **order: object
    ) -> JsClient:
        """A new client; `order` is what else remote.mjs takes."""
        self._clients[name] = JsClient(self, name)
        self.tell(make=name, url=url, options={"backoff": BACKOFF, **(options or {})}, **order)
        return self._clients[name]

    def tell(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def ask(self, **order: object) -> Any:
        n = next(self._numbers)
        self.tell(**order, n=n)
        await self.until(lambda: n in self._answers, f"an answer to {order}")
        return self._answers.pop(n)

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._changed:
                while not (value := condition()):
                    await self._changed.wait()
                return value
        except TimeoutError:
            told = {name: client.events[-8:] for name, client in self._clients.items()}
            raise AssertionError(f"{what} did not come within {WAIT_SECONDS:g} s; last: {told}") from None

    async def read(self) -> None:
        """Take what the process tells until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            async with self._changed:
                if "n" in told:
                    self._answers[told["n"]] = told["value"]
                else:
                    self._clients[told["client"]].events.append(told)
                self._changed.notify_all()


async def start_node(directory: Path, script: str, *arguments: str) -> asyncio.subprocess.Process:
    """Run a script from here, with pipes, and with trust in the certificates of the tests."""
    node = require_program("node")
    require_package("ws")
    authority = files().authority.write(directory / "authority.pem")
    return await asyncio.create_subprocess_exec(
        node,
        # The package of the client is a link to it, and finds there what it depends on.
        "--preserve-symlinks",
        str(SCRIPTS / script),
        *arguments,
        env=os.environ | {"NODE_EXTRA_CA_CERTS": str(authority)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """End its input: it must end by itself then, with nothing to complain of."""
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.close()
    async with asyncio.timeout(WAIT_SECONDS):
        errors = await process.stderr.read()
        assert (await process.wait(), errors.decode()) == (0, "")


@asynccontextmanager
async def node_process(directory: Path) -> AsyncIterator[NodeProcess]:
    """Start Node; at the end all clients are closed, and the process must end by itself with nothing to complain of."""
    process = await start_node(directory, "remote.mjs")
    clients = NodeProcess(process)
    reading = asyncio.create_task(clients.read())
    try:
        yield clients
        await end(process)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
            process.kill()
        await process.wait()
        await reading


class Proxy:
    """A TCP proxy whose connections can be cut off: both sides are reset, with what is on its way."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self.port = 0
        self.n_cut = 0
        self._may_pass = asyncio.Event()
        self._may_pass.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            while self._pairs:
                await asyncio.sleep(0.01)
            await server.wait_closed()

    def cut(self) -> None:
        """Reset every connection that there is."""
        for pair in self._pairs:
            if any(writer.transport.is_closing() for writer in pair):
                continue
            self.n_cut += 1
            for writer in pair:
                peer = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    @property
    def n_open(self) -> int:
        """How many connections there are."""
        return len(self._pairs)

    def stall(self) -> None:
        """Let nothing pass any more on the connections that there are, as when a cable is pulled."""
        self._may_pass.clear()
        self._may_pass = asyncio.Event()
        self._may_pass.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
        pair = (writer, onward)
        self._pairs.add(pair)
        try:
            may_pass = self._may_pass
            await asyncio.gather(_copy(reader, onward, may_pass), _copy(onward_reader, writer, may_pass))
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: asyncio.Event) -> None:
    # A connection that was cut ends both ways.
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if may_pass.is_set():
                writer.write(data)
                await writer.drain()
    writer.close()
