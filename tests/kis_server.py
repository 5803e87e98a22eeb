"""The fake KIS server over real sockets, with a client that knows nothing but KIS's protocol."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from fastws.kis.testing import FakeKIS

UNIT = Path(__file__).parent / "unit"
QUOTATIONS = "/uapi/domestic-stock/v1/quotations"
TEXT = aiohttp.WSMsgType.TEXT


async def wait_for(condition: Callable[[], Any], what: str, seconds: float = 5.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.005)
    return value


class Client:
    """A connection: sends registrations, and takes messages apart by their first character."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, approval_key: str) -> None:
        self.socket = socket
        self.approval_key = approval_key

    async def send(self, tr_type: str, tr_id: str, tr_key: str) -> None:
        header = {
            "approval_key": self.approval_key,
            "custtype": "P",
            "tr_type": tr_type,
            "content-type": "utf-8",
        }
        body = {"input": {"tr_id": tr_id, "tr_key": tr_key}}
        await self.socket.send_str(json.dumps({"header": header, "body": body}))

    async def register(self, tr_id: str, tr_key: str = "005930") -> str:
        """Register and return the message code of the answer."""
        await self.send("1", tr_id, tr_key)
        return str((await self.answer())["body"]["msg_cd"])

    async def unregister(self, tr_id: str, tr_key: str = "005930") -> str:
        await self.send("2", tr_id, tr_key)
        return str((await self.answer())["body"]["msg_cd"])

    async def receive(self, seconds: float = 5.0) -> str | None:
        """The next message; None at the end of the connection."""
        async with asyncio.timeout(seconds):
            message = await self.socket.receive()
        return message.data if message.type is TEXT else None

    async def answer(self) -> dict[str, Any]:
        """The next answer to a request; data before it is left out."""
        while True:
            text = await self.receive()
            assert text is not None, "the connection ended before an answer"
            if text.startswith("{") and "PINGPONG" not in text:
                made: dict[str, Any] = json.loads(text)
                return made

    async def data(self) -> str:
        """The next data frame."""
        while True:
            text = await self.receive()
            assert text is not None, "the connection ended before data"
            if text[0] in "01":
                return text

    async def end(self) -> int | None:
        """Read to the end of the connection; returns the close code, None where there was no close frame."""
        while True:
            async with asyncio.timeout(5.0):
                message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.CLOSE:
                return int(message.data)
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return None if self.socket.close_code == 1006 else self.socket.close_code


class World:
    """A fake server and clients of it."""

    def __init__(self, kis: FakeKIS, http: aiohttp.ClientSession) -> None:
        self.kis = kis
        self.http = http

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post(self.kis.rest_url + path, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str, **parameters: str) -> Any:
        async with self.http.get(self.kis.rest_url + path, params=parameters) as response:
            assert response.status == 200
            return await response.json()

    async def approval_key(self, app_key: str = "", secret: str = "") -> str:
        app_key = app_key or self.kis.app_key
        secret = secret or self.kis.settings.app_keys[app_key]
        body = {"grant_type": "client_credentials", "appkey": app_key, "secretkey": secret}
        status, answer = await self.post("/oauth2/Approval", body)
        assert status == 200, answer
        return str(answer["approval_key"])

    @asynccontextmanager
    async def connect(self, approval_key: str = "", path: str = "/tryitout") -> AsyncIterator[Client]:
        key = approval_key or await self.approval_key()
        async with self.http.ws_connect(self.kis.ws_url + path, autoping=False) as socket:
            yield Client(socket, key)


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """A server that does not keep tests waiting, and minds nothing unless `settings` say so."""
    script = settings.pop("script", None)
    usual = {
        "approval_interval": 0.0, "token_interval": 0.0, "min_connect_interval": 0.0, "min_request_interval": 0.0,
        "rate": 400.0, "market": "none",
    }  # fmt: skip
    async with (
        FakeKIS(script=script, **{**usual, **settings}) as kis,
        aiohttp.ClientSession() as http,
    ):
        yield World(kis, http)


def real_frames() -> list[str]:
    """The captured frames among the samples of the tests."""
    frames = []
    for name in ("kis_samples.txt", "kis_testing_messages.txt"):
        lines = (UNIT / name).read_text().splitlines()
        frames += [
            lines[i + 1]
            for i, line in enumerate(lines)
            if line.startswith("# ") and "(real)" in line and lines[i + 1].startswith("0|")
        ]
    return frames
