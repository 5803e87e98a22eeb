"""Drives headless Chromium over its DevTools protocol: pages as their readers see and use them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.browser.test_chromium import chromium
from tests.serving import require_program

_START_SECONDS = 30.0
_CALL_SECONDS = 20.0
_KEYS = {
    "Enter": ("\r", 13),
    "Tab": ("", 9),
    "Escape": ("", 27),
    "Delete": ("", 46),
    "ArrowUp": ("", 38),
    "ArrowDown": ("", 40),
    "Home": ("", 36),
    "End": ("", 35),
}
_MODIFIERS = {"Alt": 1, "Control": 2, "Shift": 8}


class PageError(AssertionError):
    """What a script of the page has thrown."""


class Page:
    """One tab.

    `problems` is what it has logged as an error and thrown, what its Content-Security-Policy has refused, and what it
    could not load.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.problems: list[str] = []
        self._connection = connection
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, deque[Callable[[dict[str, Any]], object]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def start(self) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    # The protocol.

    async def _read(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            else:
                self._take(message["method"], message["params"])

    def _take(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.problems.append(f"{entry['text']} {entry.get('url', '')}".strip())
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(" ".join(str(one.get("value", one)) for one in params["args"]))
        for listener in self._listeners.get(method, ()):
            listener(params)

    def on(self, method: str, listener: Callable[[dict[str, Any]], object]) -> None:
        """Call `listener` with every event of this name."""
        self._listeners.setdefault(method, deque()).append(listener)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(_CALL_SECONDS):
            message = await answer
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result

    # What a reader does.

    async def open(self, url: str) -> None:
        """Load `url`, and wait until its scripts have run."""
        loaded = asyncio.Event()
        self.on("Page.loadEventFired", lambda params: loaded.set())
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(_START_SECONDS):
            await loaded.wait()

    async def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        outcome = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in outcome:
            details = outcome["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return outcome["result"].get("value")

    async def until(self, expression: str, seconds: float = 30.0) -> Any:
        """Wait for an expression to be true, and return its value."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (value := await self.run(expression)):
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{expression}: not within {seconds:g} s; problems: {self.problems}")
            await asyncio.sleep(0.02)
        return value

    async def text(self, selector: str) -> str:
        """The text of the first element that a CSS selector finds, as it is read."""
        found: str = await self.run(f"document.querySelector({json.dumps(selector)}).innerText.trim()")
        return found

    async def click(self, selector: str) -> None:
        """Click into the middle of an element, wherever it is on the page."""
        place = await self.run(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{ block: "center" }});
              const {{ x, y, width, height }} = element.getBoundingClientRect();
              return [x + width / 2, y + height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1
            )

    async def type(self, text: str) -> None:
        """Type into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key, such as ``a``, ``Enter`` or ``Alt+ArrowUp``."""
        *held, name = key.split("+") if len(key) > 1 else [key]
        # A key that is no letter has a number that has nothing to do with its character.
        letter, number = _KEYS.get(name) or (name, ord(name.upper()) if name.isalnum() else 0)
        modifiers = sum(_MODIFIERS[one] for one in held)
        pressed = {"key": name, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        if letter:
            pressed["text"] = letter
        await self.call("Input.dispatchKeyEvent", type="keyDown", **pressed)
        await self.call(
            "Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in pressed.items() if k != "text"}
        )

    async def resize(self, width: int, height: int, *, is_phone: bool = False, ratio: float = 1.0) -> None:
        """Show the page as on a screen of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=ratio,
            mobile=is_phone,
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)

    async def prefer(self, **features: str) -> None:
        """Say what the reader prefers: ``prefers_color_scheme="dark"``."""
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": name.replace("_", "-"), "value": value} for name, value in features.items()],
        )

    async def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        picture = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(picture["data"]))


@asynccontextmanager
async def browsing(profile: Path, *flags: str) -> AsyncIterator[Page]:
    """A tab of a Chromium of its own, whose files are in the directory `profile`."""
    program = require_program("chromium")
    options = ("--remote-debugging-port=0", *flags)
    async with chromium(program, profile, "about:blank", *options) as (browser, log):
        port = await _port(profile / "DevToolsActivePort", browser, log)
        address = f"ws://127.0.0.1:{port}{await asyncio.to_thread(_target, port)}"
        async with connect(address, max_size=None, compression=None) as connection:
            page = Page(connection)
            try:
                await page.start()
                yield page
            finally:
                await page.close()


async def _port(announced: Path, browser: asyncio.subprocess.Process, log: Path) -> int:
    """The port that Chromium says it listens on."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while True:
        lines = _text(announced).splitlines()
        if len(lines) == 2:
            return int(lines[0])
        assert browser.returncode is None, f"the browser has ended by itself:\n{_text(log)[-2000:]}"
        assert asyncio.get_running_loop().time() < deadline, (
            f"the browser does not start:\n{_text(log)[-2000:]}"
        )
        await asyncio.sleep(0.02)


def _text(file: Path) -> str:
    """What is in a file, nothing where it is not there yet."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(errors="replace")
    return ""


def _target(port: int) -> str:
    """The path of the tab that is open."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_CALL_SECONDS)
    try:
        connection.request("GET", "/json/list")
        tabs = [one for one in json.load(connection.getresponse()) if one["type"] == "page"]
    finally:
        connection.close()
    address: str = tabs[0]["webSocketDebuggerUrl"]
    return address[address.index("/devtools") :]
