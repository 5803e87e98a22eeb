"""Wrong arguments of the client are named, with what to write instead; and what importing it brings along."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from fastws.client import Client, ClosedError, UsageError
from fastws.client.held import Held, Wish, check_wish
from fastws.client.sync import SyncClient


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("stocks", ["A"], None, None, None), r'subscription_type: expected "stock".*not \'stocks\''),
        (("stock", "005930", None, None, None), r"targets: expected a list; write \['005930'\]"),
        (("stock", [], None, None, None), "targets: it is empty"),
        (("stock", [5930], None, None, None), "targets: expected texts .* not 5930"),
        (("stock", ["A"], "last", None, None), "mode: expected"),
        (("stock", ["A"], None, 0, None), "max_rate: expected values per second"),
        (("stock", ["A"], "all", 5, None), "max_rate: it implies"),
        (("stock", ["A"], None, None, "price"), "channels: expected a list"),
        (("stock", ["A"], None, None, ["price", "book"]), "channels: .*not 'book'"),
    ],
)
def test_subscriptions(arguments: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        check_wish(*arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "http://localhost:8000"}, "url: .* write ws://HOST:PORT"),
        ({"url": "localhost:8000"}, "url: .* write ws://HOST:PORT"),
        ({"url": "ws://[::1"}, "url: .* write ws://HOST:PORT"),
        ({"url": "ws://localhost:99999"}, "url: .* write ws://HOST:PORT"),
        ({"url": "ws://me:secret@localhost"}, "url: it has a user name"),
        ({"token": "abc\n"}, "token: .*line break"),
        ({"queue_size": 0}, "queue_size: expected"),
        ({"connect_timeout": -1}, "connect_timeout: expected"),
        ({"connect_attempts": -1}, "connect_attempts: expected"),
        ({"proxy": "me:secret@localhost:8080"}, "proxy: .* write http://HOST:PORT"),
        ({"proxy": "ftp://me:secret@localhost:8080"}, "proxy: .* write http://HOST:PORT"),
        ({"proxy": "http://me:secret@localhost"}, "proxy: .* write http://HOST:PORT"),
        ({"headers": {"X-Key": "secret\r\nHost: x"}}, "headers: 'X-Key'"),
        ({"headers": {"connection": "secret"}}, "headers: 'connection' .*; leave it out"),
    ],
)
def test_clients(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        Client(**{"url": "ws://localhost", **options})
    assert "secret" not in str(caught.value)


async def test_a_client_that_is_not_open() -> None:
    client = Client("ws://localhost")
    with pytest.raises(ClosedError, match="async with"):
        await client.ping()
    with pytest.raises(ClosedError, match="async with"):
        await anext(client)
    await client.close()
    with pytest.raises(ClosedError):
        await client.open()


def test_a_synchronous_client_that_is_not_open() -> None:
    with pytest.raises(ClosedError, match="with SyncClient"):
        SyncClient("ws://localhost").ping()
    SyncClient("ws://localhost").close()


def test_wishes_are_kept_as_the_server_keeps_them() -> None:
    held = Held()
    held.accept("stock", ["A", "B"], Wish())
    held.accept("market", ["KOSPI"], Wish())
    held.accept("stock", ["B"], Wish(max_rate=2))
    held.accept("stock", ["B"], Wish())
    modes = held.modes(set())
    assert (modes.is_all("A"), modes.is_all("B"), modes.is_all("C")) == (True, False, False)
    held.accept("market", ["KOSPI"], Wish(mode="all"))
    assert held.modes(set()).is_all("C")
    assert not held.modes({("market", "KOSPI")}).is_all("C")
    requests = [(request.subscription_type, request.targets) for request in held.requests(held.wishes)]
    assert requests == [("stock", ["A"]), ("stock", ["B"]), ("market", ["KOSPI"])]
    held.accept("stock", [str(n) for n in range(450)], Wish())
    assert [len(request.targets) for request in held.requests(held.wishes)] == [200, 200, 51, 1, 1]


def test_importing_the_client_imports_no_server() -> None:
    script = (
        "import fastws.client.sync, sys; print(*(m for m in sys.modules if 'fastws' in m or m == 'aiohttp'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    outside = [
        name
        for name in done.stdout.split()
        if not name.startswith(("fastws.client", "fastws.messages"))
        and name not in ("fastws", "fastws._version", "fastws.websocket")
    ]
    assert {name for name in outside if not name.startswith("aiofastnet")} == {
        "fastws._frames",
        "fastws.connecting",
        "fastws.deflate",
        "fastws.errors",
        "fastws.opening",
        "fastws.upgrading",
    }


def test_a_loop_is_not_needed_to_make_one() -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert Client("ws://localhost?token=null").subscriptions == {}
