"""The Python client's WebSocket as an echo client of the suite's fuzzing server.

``python -m tests.conformance.echo_client URL AGENT``

It is the class that `fastws.client` connects with, with its default of compression; what it gets it sends back.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from fastws import logs
from fastws._frames import OP_TEXT
from fastws.opening import OpenError
from fastws.websocket import WebSocket

MESSAGE_SIZE = 64 << 20
# The suite is in Python 2.7, and takes minutes for some cases of section 12 on a busy machine.
START_SECONDS = 120.0
CASE_SECONDS = 1200.0


class Echo(WebSocket):
    """Sends back what it gets, text as text and binary as binary."""

    def __init__(self) -> None:
        super().__init__(max_message_size=MESSAGE_SIZE, peer="the suite", takes_binary=True)
        self._opcode = OP_TEXT

    def _take_message(self, opcode: int, is_compressed: bool, message: bytes) -> None:
        # Whoever uses the class has either texts or binary messages, and so it does not tell which one came.
        self._opcode = opcode
        super()._take_message(opcode, is_compressed, message)

    def on_message(self, message: bytes) -> None:
        self._send(self._opcode, message)


class Count(WebSocket):
    """Takes the number of cases, which the suite sends as a text."""

    def __init__(self) -> None:
        super().__init__(max_message_size=MESSAGE_SIZE, peer="the suite")
        self.n_cases = 0

    def on_message(self, message: bytes) -> None:
        self.n_cases = int(message)


async def count(url: str) -> int:
    """The number of cases, asked for until the suite listens."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            socket = Count()
            try:
                await socket.connect(f"{url}/getCaseCount", time_limit=10.0)
            except OpenError:
                await asyncio.sleep(0.1)
                continue
            await socket.ended
            return socket.n_cases


async def main(url: str, agent: str) -> None:
    n_cases = await count(url)
    for number in range(1, n_cases + 1):
        echo = Echo()
        await echo.connect(
            f"{url}/runCase?case={number}&agent={agent}", time_limit=CASE_SECONDS, deflate=True
        )
        await asyncio.wait_for(echo.ended, CASE_SECONDS)
    report = Count()
    await report.connect(f"{url}/updateReports?agent={agent}", time_limit=10.0)
    await asyncio.wait_for(report.ended, CASE_SECONDS)


if __name__ == "__main__":
    logs.configure("warning")
    uvloop.run(main(*sys.argv[1:3]))
