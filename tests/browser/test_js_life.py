"""The JavaScript client on a bad morning: what happens to pages, laptops, tokens and programs while it is connected."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.browser.publishing import ADMIN, SETTINGS, price, publish
from tests.clients_js.node import PACKAGE, NodeProcess, Proxy
from tests.clients_js.scripted import accept, greeting, refuse_restoration, scripted, stamped, update
from tests.conftest import StartServer
from tests.serving import free_port, require_program

# So long that nothing comes of it.
NEVER = {"min": 600_000, "max": 600_000}


async def test_a_server_is_restarted_behind_a_hidden_tab(server: StartServer, node: NodeProcess) -> None:
    port = str(free_port())
    first = server("--feed", "none", "--port", port, **SETTINGS)
    client = node.make("it", first.url)
    await client.call("subscribe", "stock", ["005930"])
    node.tell(page="hidden")
    await client.until("paused")
    await asyncio.to_thread(first.end)
    second = server("--feed", "none", "--port", port, **SETTINGS)
    since = len(client.events)
    await client.until("state", since, state="open")
    # Before anything else, so that nothing of what is subscribed to again comes.
    await client.until("subscribed", since)
    publish(second, price("005930", 74000))
    await client.call("send", {"type": "ping", "id": 1})
    await client.until("pong", since, id=1)
    kinds = [told["type"] for told in client.events[since:] if told["type"] in ("paused", "subscribed")]
    assert kinds == ["paused", "subscribed"]
    assert client.prices() == []
    node.tell(page="visible")
    await client.until("price_update", price=74000, snapshot=True)
    publish(second, price("005930", 74100))
    await client.until("price_update", price=74100)
    assert client.prices() == [(74000, True), (74100, False)]


async def test_a_tab_that_is_shown_and_a_network_that_is_back_are_not_waited_for(
    shared_server: StartServer, node: NodeProcess
) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    async with Proxy(target.port).serving() as proxy:
        url = target.url.replace(str(target.port), str(proxy.port))
        client = node.make("it", url, options={"backoff": NEVER, "heartbeatMs": 3_000, "pauseHidden": False})
        await client.call("subscribe", "stock", ["005930"])
        for reason in ("online", "visible"):
            since = len(client.events)
            proxy.cut()
            await client.until("state", since, state="waiting")
            node.tell(page=reason)
            await client.until("state", since, state="open", recovered=True)
        # What has gone in silence is noticed soon, and not after the two or three seconds of the heartbeat.
        since = len(client.events)
        proxy.stall()
        began = time.monotonic()
        node.tell(page="visible")
        await client.until("state", since, state="waiting", reason="no sign of life")
        assert time.monotonic() - began < 2.9
        # Nor is it held any longer.
        async with asyncio.timeout(30):
            while proxy.n_open:
                await asyncio.sleep(0.01)


async def test_the_age_of_values_is_right_when_the_clock_was_not(
    shared_server: StartServer, node: NodeProcess
) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    client = node.make("it", target.url, options={"heartbeatMs": 100})
    await client.call("subscribe", "stock", ["005930"])
    publish(target, price("005930", 73000))
    await client.until("price_update", price=73000)
    for step in (8 * 3_600_000, -8 * 3_600_000):
        node.tell(clock=step)
        async with asyncio.timeout(30):
            while not 0 < await client.call("age", "005930") < 3_600_000:
                await asyncio.sleep(0.02)


async def test_what_is_given_up_during_an_outage_is_not_asked_for_again(node: NodeProcess) -> None:
    asked: list[dict[str, Any]] = []
    may_end = asyncio.Event()
    is_given_up = asyncio.Event()
    n_connections = 0

    async def act(connection: ServerConnection) -> None:
        nonlocal n_connections
        n_connections += 1
        if n_connections > 1:
            await is_given_up.wait()
        await connection.send(greeting(f"session {n_connections}"))
        if n_connections == 1:
            await accept(connection, [update(1), update(2, "000660")])
            await may_end.wait()
            connection.transport.abort()
            return
        await refuse_restoration(connection)
        for kind in ("subscribed", "unsubscribed"):
            request = json.loads(await connection.recv())
            asked.append(request)
            answer = {key: request[key] for key in ("subscription_type", "targets", "id")}
            await connection.send(stamped(type=kind, **answer))

    async with scripted(act) as url:
        client = node.make("it", url)
        await client.call("subscribe", "stock", ["005930", "000660"])
        await client.until("batch")
        may_end.set()
        await client.until("state", state="waiting")
        pending = asyncio.create_task(client.call("unsubscribe", "stock", ["000660"]))
        await asyncio.sleep(0)
        # Orders are carried out one after the other.
        assert await client.call("subscriptions") == {"stock": ["005930", "000660"]}
        is_given_up.set()
        assert await pending == {"targets": ["000660"], "rejected": []}
        assert [(request["type"], request["targets"]) for request in asked] == [
            ("subscribe", ["005930"]),
            ("unsubscribe", ["000660"]),
        ]
        assert await client.call("subscriptions") == {"stock": ["005930"]}


async def test_it_is_begun_and_ended_as_often_as_anybody_likes(
    shared_server: StartServer, node: NodeProcess
) -> None:
    target = shared_server("--feed", "none", **SETTINGS)
    # An empty token is none, as of somebody who is not logged in.
    client = node.make("it", target.url, options={"token": ""})
    for _ in range(3):
        await client.call("connect")
    assert (await client.until("connection"))["user_id"] is None
    node.tell(client="it", throws="price_update")
    await client.call("subscribe", "stock", ["005930"])
    publish(target, price("005930", 73000))
    await client.until("price_update", price=73000)
    await client.until("reported")
    await client.call("connect")
    # In the middle of connecting, and again.
    for _ in range(20):
        await client.call("close")
        await client.call("connect")
    await client.call("close")
    await client.call("close")
    assert (await client.call("subscribe", "stock", ["000660"]))["rejected"] == [
        {"target": "000660", "reason": "closed"}
    ]
    since = len(client.events)
    await client.call("connect")
    await client.until("price_update", since, price=73000, snapshot=True)
    assert await client.call("subscriptions") == {"stock": ["005930"]}
    assert [told["event"]["state"] for told in client.events[since:] if told["type"] == "state"] == [
        "connecting",
        "open",
    ]


PROGRAM = """
import { Fastws } from "./fastws.js";

const [url, publishUrl, admin] = process.argv.slice(1);
const client = new Fastws(url);
client.on("price_update", ({ price }) => {
  console.log(price);
  client.close();
});
await client.subscribe("stock", "005930", { snapshot: false });
const body = JSON.stringify([{ type: "price_update", code: "005930", price: 7 }]);
await fetch(publishUrl, { method: "POST", body, headers: { Authorization: `Bearer ${admin}` } });
"""


@pytest.mark.plain("fetch would have to trust a certificate of the tests")
def test_node_with_and_without_a_websocket_of_its_own(shared_server: StartServer) -> None:
    """From Node 22 on it is there, and can be left out; in 20 it is the other way round."""
    node = require_program("node")
    target = shared_server("--feed", "none", **SETTINGS)

    def run(*options: str) -> tuple[str, str]:
        arguments = (target.url, target.http_url + "/v1/publish", ADMIN)
        command = [node, *options, "--no-warnings", "--input-type=module", "--eval", PROGRAM, *arguments]
        result = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=30, check=False)
        return result.stdout, result.stderr

    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    is_old = version.startswith("v20.")
    assert run(*(["--experimental-websocket"] if is_old else [])) == ("7\n", "")
    told, complaint = run(*([] if is_old else ["--no-experimental-websocket"]))
    assert told == ""
    assert (
        "TypeError: there is no WebSocket here: pass one, e.g. { WebSocket } of the package ws" in complaint
    )
