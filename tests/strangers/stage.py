"""Where strangers' programs are run: in a Node process, or in a page of Chromium. Both take the orders of drive.js."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.browser.test_chromium import Site, browse
from tests.clients_js.node import end, start_node
from tests.serving import require_program

Event = dict[str, Any]

DIRECTORY = Path(__file__).parent
WAIT_SECONDS = 30.0
# Those of the tests do not wait for seconds.
SOON = {
    "screener": {"firstDelay": 50, "maxDelay": 400, "pingInterval": 200},
    "realtime": {"reconnectInterval": 50, "pingInterval": 200},
}


class Stranger:
    """One program; `events` are what it has told its application, in order."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self._stage = stage

    def call(self, method: str, *arguments: object) -> None:
        self._stage.tell(name=self.name, call=method, arguments=arguments)

    async def read(self, member: str) -> Any:
        return await self._stage.ask(name=self.name, read=member)

    def values(self, kind: str, since: int = 0) -> list[Any]:
        return [event["value"] for event in self.events[since:] if event["type"] == kind]

    async def until(self, kind: str, since: int = 0, **members: object) -> Any:
        """The first event of a type that has `members`, of those from the one numbered `since` on."""

        def find() -> list[Any]:
            values = self.values(kind, since)
            return [value for value in values if not members or members.items() <= value.items()]

        return (await self._stage.until(find, f"{self.name}: {kind} {members}"))[0]


class Stage:
    def __init__(self) -> None:
        self.strangers: dict[str, Stranger] = {}
        self.unheard: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        """Orders that are still to be taken to the programs."""
        self._numbers = itertools.count(1)
        self._answers: dict[int, Any] = {}
        self._changed = asyncio.Condition()

    def make(
        self, name: str, program: str, url: str, token: str | None = None, **options: object
    ) -> Stranger:
        stranger = self.strangers[name] = Stranger(self, name)
        self.tell(make=name, program=program, url=url, token=token, options=SOON[program] | options)
        stranger.call("connect")
        return stranger

    def tell(self, **order: object) -> None:
        self.unheard.put_nowait(order)

    async def ask(self, **order: object) -> Any:
        n = next(self._numbers)
        self.tell(**order, n=n)
        await self.until(lambda: n in self._answers, f"an answer to {order}")
        return self._answers.pop(n)

    async def hear(self, line: str) -> None:
        """Take what was told."""
        told = json.loads(line)
        async with self._changed:
            if "n" in told:
                self._answers[told["n"]] = told["value"]
            else:
                assert told["type"] != "crash", told
                self.strangers[told["name"]].events.append(told)
            self._changed.notify_all()

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._changed:
                while not (value := condition()):
                    await self._changed.wait()
                return value
        except TimeoutError:
            told = {name: stranger.events[-8:] for name, stranger in self.strangers.items()}
            raise AssertionError(f"{what} did not come within {WAIT_SECONDS:g} s; last: {told}") from None


@asynccontextmanager
async def in_node(directory: Path) -> AsyncIterator[Stage]:
    """All programs are closed at the end, and the process must end by itself with nothing to complain of."""
    process = await start_node(directory, str(DIRECTORY / "drive.js"))
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    stage = Stage()

    async def order() -> None:
        while True:
            stdin.write(json.dumps(await stage.unheard.get()).encode() + b"\n")

    async def listen() -> None:
        async for line in stdout:
            await stage.hear(line.decode())

    ordering, listening = asyncio.create_task(order()), asyncio.create_task(listen())
    try:
        yield stage
        for stranger in stage.strangers.values():
            stranger.call(_ending(stranger))
        while not stage.unheard.empty():
            await asyncio.sleep(0.001)
        await end(process)
    finally:
        ordering.cancel()
        with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
            process.kill()
        await process.wait()
        await listening


def _ending(stranger: Stranger) -> str:
    kinds = {event["type"] for event in stranger.events}
    return "disconnect" if "status" in kinds else "close"


class _Page(Stage, Site):
    def __init__(self) -> None:
        Stage.__init__(self)
        Site.__init__(self)

    async def next(self, request: web.Request) -> web.Response:
        return web.json_response(await self.unheard.get())

    async def told(self, request: web.Request) -> web.Response:
        await self.hear(await request.text())
        return web.Response(status=204)


@asynccontextmanager
async def in_chromium(directory: Path) -> AsyncIterator[Stage]:
    program = require_program("chromium")
    stage = _Page()
    app = web.Application(client_max_size=16 << 20)
    app.router.add_get("/next", stage.next)
    app.router.add_post("/told", stage.told)
    app.router.add_post("/result", stage.take_result)
    app.router.add_static("/", DIRECTORY)
    async with stage.running(app):
        browsing = asyncio.create_task(browse(program, stage, directory / "profile"))
        try:
            yield stage
            stage.tell(end=True)
            assert await browsing == {}
        finally:
            browsing.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # it was another failure that is told
                await browsing
