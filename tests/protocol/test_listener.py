"""The one port, over TCP, TLS and Unix sockets: heads in every shape, upgrades early and late, deadlines, limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from listening import (
    ACCEPT,
    KEY,
    everywhere,
    listening,
    plain_app,
    scenario,
    scenario_over,
    until,
    upgrade,
)

from fastws.errors import SettingsError
from fastws.server.listener import Listener
from fastws.server.places import TcpPlace

GET_HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"

FIREFOX = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost:8000\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0\r\n"
    b"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: http://localhost:8000\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\n"
    b"Sec-Fetch-Site: same-origin\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
    b"Upgrade: websocket\r\n\r\n"
)


# Upgrades.


@scenario_over("tcp", "unix")
async def test_firefox_is_upgraded() -> None:
    async with listening() as server:
        client = await server.connect(FIREFOX)
        response = await client.response()
        assert response.status == 101
        assert response.headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
            "sec-websocket-extensions": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        }
        client.send(b"frame")
        assert await client.reader.readexactly(5) == b"frame"
        (echo,) = server.opened
        assert echo.request.path == "/v1/ws"
        assert echo.request.headers["origin"] == "http://localhost:8000"
        assert (server.listener.upgrades.n_opened, server.listener.n_pending) == (1, 0)


@everywhere
async def test_path_with_trailing_slash_and_query() -> None:
    async with listening() as server:
        client = await server.connect(upgrade("/v1/ws/?token=undefined&x=1"))
        assert (await client.response()).status == 101
        request = server.opened[0].request
        assert (request.path, request.query) == ("/v1/ws/", "token=undefined&x=1")


@everywhere
async def test_subprotocol_fastws_is_confirmed_and_the_token_is_not_echoed() -> None:
    async with listening() as server:
        client = await server.connect(upgrade(sec_websocket_protocol="bearer.abc, fastws"))
        assert (await client.response()).headers["sec-websocket-protocol"] == "fastws"


@everywhere
async def test_bytes_behind_the_head_are_handed_on() -> None:
    async with listening() as server:
        client = await server.connect(upgrade() + b"\x81\x85early")
        assert (await client.response()).status == 101
        assert await client.reader.readexactly(7) == b"\x81\x85early"
        assert server.opened[0].leftover == b"\x81\x85early"
        client.send(b"later")
        assert await client.reader.readexactly(5) == b"later"


@everywhere
async def test_head_byte_by_byte_and_bytes_behind_its_last_byte() -> None:
    async with listening() as server:
        client = await server.connect()
        head = upgrade()
        for index in range(len(head) - 1):
            client.send(head[index : index + 1])
            await asyncio.sleep(0)
        client.send(head[-1:] + b"more")
        assert (await client.response()).status == 101
        assert await client.reader.readexactly(4) == b"more"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (upgrade("/v2/ws"), 404, "NOT_FOUND"),
        (upgrade().replace(b"GET", b"POST", 1), 405, "METHOD_NOT_ALLOWED"),
        (upgrade(sec_websocket_version="8"), 426, "UPGRADE_REQUIRED"),
        (upgrade(sec_websocket_version=None), 426, "UPGRADE_REQUIRED"),
        (upgrade(sec_websocket_key=None), 400, "BAD_REQUEST"),
        (upgrade(sec_websocket_key="c2hvcnQ="), 400, "BAD_REQUEST"),
        (upgrade(content_length="5") + b"12345", 400, "BAD_REQUEST"),
        (upgrade(transfer_encoding="chunked") + b"0\r\n\r\n", 400, "BAD_REQUEST"),
        (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0", 1), 505, "HTTP_VERSION_NOT_SUPPORTED"),
        (upgrade(origin="https://evil.example"), 403, "ORIGIN_NOT_ALLOWED"),
        (upgrade(origin="null"), 403, "ORIGIN_NOT_ALLOWED"),
    ],
)
@everywhere
async def test_refused_upgrades_answer_json_and_close(request_: bytes, status: int, code: str) -> None:
    for first in (b"", GET_HELLO):  # as the first request of a connection, and as a later one
        async with listening() as server:
            client = await server.connect(first)
            if first:
                assert (await client.response()).status == 200
            client.send(request_)
            response = await client.response()
            assert response.status == status
            assert response.headers.get("connection", "close") == "close"
            assert response.headers["content-type"] == "application/json; charset=utf-8"
            assert json.loads(response.body)["error"]["code"] == code
            if status == 426:
                assert response.headers["sec-websocket-version"] == "13"
            assert await client.rest() == b""
            assert server.opened == []


@everywhere
async def test_allowed_origins() -> None:
    async with listening(allowed_origins=("https://app.example",)) as server:
        client = await server.connect(upgrade(origin="https://app.example"))
        assert (await client.response()).status == 101
        client = await server.connect(upgrade(origin="https://other.example"))
        assert (await client.response()).status == 403


@scenario
async def test_a_failing_handler_costs_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("handler is broken")

    listener = Listener(plain_app(), {"/v1/ws": fail}, [TcpPlace("127.0.0.1", 0)])
    await listener.start()
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(upgrade())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1)
        writer.close()
    await listener.close()


# HTTP beside it.


@everywhere
async def test_two_requests_on_one_connection() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        assert (await client.response()).body == b"hello"
        assert server.listener.n_http == 1
        client.send(GET_HELLO)
        assert (await client.response()).body == b"hello"


@everywhere
async def test_pipelined_requests() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO + GET_HELLO + GET_HELLO)
        for _ in range(3):
            assert (await client.response()).body == b"hello"


@everywhere
async def test_head_has_no_body_and_keeps_the_connection_in_step() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO.replace(b"GET", b"HEAD", 1))
        response = await client.response(has_body=False)
        assert (response.status, response.headers["content-length"]) == (200, "5")
        client.send(GET_HELLO)
        assert (await client.response()).body == b"hello"


@pytest.mark.parametrize(("path", "status", "body"), [("/size", 200, b"500000"), ("/hello", 405, None)])
@everywhere
async def test_post_of_500_kb_keeps_the_connection_in_step(
    path: str, status: int, body: bytes | None
) -> None:
    async with listening() as server:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n".encode()
        client = await server.connect(head + b"x" * 500_000)
        response = await client.response()
        assert response.status == status
        assert body is None or response.body == body
        client.send(GET_HELLO)
        assert (await client.response()).body == b"hello"


@everywhere
async def test_body_in_pieces_behind_a_head_in_pieces() -> None:
    async with listening() as server:
        client = await server.connect(b"POST /size HTTP/1.1\r\nHost: local")
        await until(lambda: server.listener.n_pending == 1)
        client.send(b"host\r\nContent-Length: 6\r\n\r\n12")
        await until(lambda: server.listener.n_http == 1)
        client.send(b"3456")
        assert (await client.response()).body == b"6"


@everywhere
async def test_http_1_0_is_answered_and_closed() -> None:
    async with listening() as server:
        client = await server.connect(b"GET /hello HTTP/1.0\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\nhello")


@everywhere
async def test_a_half_closed_client_gets_its_answer() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        await client.half_close()
        assert (await client.rest()).endswith(b"\r\n\r\nhello")


@everywhere
async def test_a_half_closed_client_gets_its_answer_on_a_kept_alive_connection() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        await client.response()
        client.send(GET_HELLO)
        await client.half_close()
        assert (await client.rest()).endswith(b"\r\n\r\nhello")


@everywhere
async def test_half_closing_an_idle_connection_ends_it() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        await client.response()
        await client.half_close()
        assert await client.rest() == b""
        await until(lambda: server.listener.n_http == 0)


@everywhere
async def test_a_websocket_path_without_upgrade_says_what_is_missing() -> None:
    async with listening() as server:
        client = await server.connect(b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["upgrade"]) == (426, "websocket")
        client.send(GET_HELLO)
        assert (await client.response()).status == 200


# Upgrades on a connection that has spoken HTTP.


@everywhere
async def test_upgrade_after_http_on_the_same_connection() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        assert (await client.response()).status == 200
        client.send(upgrade("/v1/ws/?a=b", x_name="Ünïcode"))
        response = await client.response()
        assert (response.status, response.headers["sec-websocket-accept"]) == (101, ACCEPT)
        await until(lambda: server.listener.n_http == 0)
        await until(lambda: len(asyncio.all_tasks()) == 1)  # none of aiohttp's is left
        for index in range(20):
            client.send(b"frame %02d" % index)
            assert await client.reader.readexactly(8) == b"frame %02d" % index
        (echo,) = server.opened
        assert (echo.request.path, echo.request.query) == ("/v1/ws/", "a=b")
        assert echo.request.headers["x-name"] == "Ünïcode"
        assert echo.request.headers["sec-websocket-key"] == KEY
        await client.close()
        await until(lambda: echo.is_lost)


@everywhere
async def test_upgrade_pipelined_behind_http_with_bytes_behind_it() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO + GET_HELLO + upgrade() + b"early")
        for _ in range(2):
            assert (await client.response()).body == b"hello"
        assert (await client.response()).status == 101
        assert await client.reader.readexactly(5) == b"early"
        client.send(b"later")
        assert await client.reader.readexactly(5) == b"later"


@everywhere
async def test_no_byte_is_lost_behind_a_late_upgrade() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        assert (await client.response()).status == 200
        data = bytes(range(256)) * 2000  # beyond what aiohttp holds before it stops reading
        client.send(upgrade() + data)
        assert (await client.response()).status == 101
        assert await client.reader.readexactly(len(data)) == data


@everywhere
async def test_a_client_that_leaves_at_a_late_upgrade() -> None:
    async with listening() as server:
        for _ in range(20):
            client = await server.connect(GET_HELLO)
            assert (await client.response()).status == 200
            client.send(upgrade())
            client.writer.transport.abort()
        await until(lambda: server.listener.n_http == 0)
        await until(lambda: all(echo.is_lost for echo in server.opened))


@everywhere
async def test_a_client_that_half_closes_behind_a_late_upgrade() -> None:
    async with listening() as server:
        for first in (GET_HELLO, b""):
            client = await server.connect(first)
            if first:
                assert (await client.response()).status == 200
            client.send(GET_HELLO + upgrade())
            await client.half_close()
            assert (await client.response()).body == b"hello"
            await client.rest()
        await until(lambda: server.listener.n_http == 0)
        await until(lambda: all(echo.is_lost for echo in server.opened))


@everywhere
async def test_a_list_in_the_upgrade_header_of_a_later_request_is_not_followed() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        assert (await client.response()).status == 200
        client.send(upgrade(upgrade="websocket, h2c"))
        assert (await client.response()).status == 426


# Heads that are refused.


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 17000, 431),
    ],
)
@everywhere
async def test_refused_heads(head: bytes, status: int) -> None:
    async with listening() as server:
        client = await server.connect(head)
        response = await client.response()
        assert response.status == status
        assert json.loads(response.body)["error"]["message"]
        assert await client.rest() == b""
        assert sum(server.listener.upgrades.refusals.values()) == 1


@everywhere
async def test_a_malformed_later_request_is_refused_as_json() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        await client.response()
        client.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        response = await client.response()
        assert response.status == 400
        assert json.loads(response.body)["error"]["code"] == "BAD_REQUEST"
        assert "aiohttp" not in response.headers["server"]
        assert await client.rest() == b""


@everywhere
async def test_ten_megabytes_of_headers_are_refused_at_once_and_not_kept() -> None:
    async with listening() as server:
        client = await server.connect(b"GET / HTTP/1.1\r\nHost: a\r\n")
        started = time.monotonic()
        answer = asyncio.create_task(client.response())
        n_sent = 0
        try:
            for index in range(10_000):
                client.send(b"x-%06d: %s\r\n" % (index, b"y" * 1000))
                n_sent += 1000
                await client.writer.drain()
        except ConnectionError:
            pass  # the server takes about a megabyte after its refusal and then resets
        response = await answer
        assert response.status == 431
        assert time.monotonic() - started < 5
        assert n_sent < 9_000_000
        await until(lambda: server.listener.n_pending == 0 and len(server.listener._lingering) == 0)


# Deadlines.


@everywhere
async def test_half_a_head_is_cut_at_the_deadline() -> None:
    async with listening(handshake_timeout=0.3) as server:
        started = time.monotonic()
        client = await server.connect(upgrade()[:60])
        silent = await server.connect()
        response = await client.response()
        assert response.status == 408
        assert 0.25 <= time.monotonic() - started < 2
        assert await client.rest() == b""
        assert await silent.rest() == b""  # nothing was asked, nothing is answered
        assert (server.listener.n_timed_out, server.listener.n_pending) == (2, 0)


@everywhere
async def test_a_trickling_client_does_not_move_its_deadline() -> None:
    async with listening(handshake_timeout=0.5) as server:
        client = await server.connect()
        started = time.monotonic()

        async def trickle() -> None:
            for index in range(100_000):
                client.send(upgrade()[index % 20 : index % 20 + 1] if index < 20 else b"a")
                await asyncio.sleep(0.01)

        task = asyncio.create_task(trickle())
        response = await client.response()
        assert response.status == 408
        assert 0.4 <= time.monotonic() - started < 2
        task.cancel()
        await asyncio.wait((task,))


@scenario_over("tcp", "unix")
async def test_many_half_open_connections_share_one_timer_and_all_end() -> None:
    async with listening(handshake_timeout=0.5) as server:
        clients = [await server.connect(b"G") for _ in range(300)]
        late = await server.connect(upgrade())
        assert (await late.response()).status == 101
        await until(lambda: server.listener.n_pending + server.listener.n_timed_out == 300)
        for client in clients:
            assert (await client.response()).status == 408
        assert server.listener.n_timed_out == 300
        late.send(b"alive")
        assert await late.reader.readexactly(5) == b"alive"


# Listening.


@scenario
async def test_accepted_sockets_have_nodelay() -> None:
    async with listening() as server:
        await (await server.connect(upgrade())).response()
        with socket.socket(fileno=server.opened[0].transport.get_extra_info("socket").fileno()) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            sock.detach()


@scenario_over("tcp", "tls")
async def test_after_stop_accepting_open_connections_get_http_and_no_upgrade() -> None:
    async with listening() as server:
        client = await server.connect(GET_HELLO)
        await client.response()
        pending = await server.connect(upgrade()[:20])
        await until(lambda: server.listener.n_pending == 1)
        port = server.listener.port
        server.listener.stop_accepting()
        with pytest.raises(OSError, match=r"Connect call failed|refused"):
            await asyncio.open_connection("127.0.0.1", port)
        client.send(GET_HELLO)
        assert (await client.response()).status == 200
        for upgrading, data in ((client, upgrade()), (pending, upgrade()[20:])):
            upgrading.send(data)
            response = await upgrading.response()
            assert (response.status, response.headers["retry-after"]) == (503, "5")
        await server.listener.close()
        assert await client.rest() == b""


@everywhere
async def test_close_ends_half_open_and_idle_connections() -> None:
    async with listening(handshake_timeout=100) as server:
        half = await server.connect(b"GET / HT")
        idle = await server.connect(GET_HELLO)
        await idle.response()
        await until(lambda: server.listener.n_pending == 1)
        await server.listener.close()
        assert await half.rest() == b""
        assert await idle.rest() == b""


# With 2 it is asyncio's own loop that leaves it open, until it is collected: its server, when closed, takes nobody that
# it has accepted in that turn.
@pytest.mark.parametrize("n_turns", [0, 1, 3, 4])
@scenario
async def test_who_is_accepted_while_it_closes_is_not_left_open(n_turns: int) -> None:
    """A loop tells of an accepted connection some turns later, when the listener may be closed."""
    async with listening(handshake_timeout=50.0) as server:
        with socket.create_connection(("127.0.0.1", server.listener.port), timeout=20) as client:
            client.setblocking(False)
            for _ in range(n_turns):
                await asyncio.sleep(0)
            await server.listener.close()
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        assert server.listener.n_pending == 0


@scenario
async def test_every_address_of_a_name_has_the_same_port() -> None:
    listener = Listener(plain_app(), {}, [TcpPlace("localhost", 0)])
    await listener.start()
    addresses = listener.addresses
    assert {port for _, port in addresses} == {listener.port}
    assert "127.0.0.1" in {host for host, _ in addresses}
    await listener.close()


@scenario
async def test_an_address_in_use_is_an_error_of_the_setting() -> None:
    async with listening() as server:
        other = Listener(plain_app(), {}, [TcpPlace("127.0.0.1", server.listener.port)])
        with pytest.raises(SettingsError, match=r"port: \d+ on 127\.0\.0\.1 is in use; ") as caught:
            await other.start()
        assert caught.value.setting == "port"
        assert "\n" not in str(caught.value)


@scenario
async def test_where_one_place_cannot_be_listened_on_whoever_came_to_another_is_let_go() -> None:
    may_bind = asyncio.Event()

    class Late(TcpPlace):
        async def bind(self) -> list[socket.socket]:
            await may_bind.wait()
            return await super().bind()

    async with listening() as server:
        places = [TcpPlace("127.0.0.1", 0), Late("127.0.0.1", server.listener.port)]
        other = Listener(plain_app(), {}, places, handshake_timeout=50.0)
        starting = asyncio.create_task(other.start())
        await until(lambda: bool(other.addresses))
        with socket.create_connection(("127.0.0.1", other.port), timeout=20) as client:
            client.setblocking(False)
            await until(lambda: other.n_pending == 1)
            may_bind.set()
            with pytest.raises(SettingsError, match="is in use"):
                await starting
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
@scenario
async def test_a_foreign_address_is_an_error_of_the_setting(host: str) -> None:
    with pytest.raises(SettingsError, match="host: ") as caught:
        await Listener(plain_app(), {}, [TcpPlace(host, 0)]).start()
    assert caught.value.setting == "host"


PAUSING_SERVER = """
import asyncio, resource, sys
import uvloop
from listening import Echo, plain_app
from fastws import logs
from fastws.server.listener import Listener
from fastws.server.places import TcpPlace

logs.configure()
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))

async def main():
    def open_connection(transport, request, leftover, window_bits):
        Echo(transport, request, leftover)

    listener = Listener(plain_app(), {"/v1/ws": open_connection}, [TcpPlace("127.0.0.1", 0)])
    await listener.start()
    print(listener.port, resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(listener.upgrades.n_opened, listener.accept_pauses, listener.is_paused, flush=True)
    await listener.close()

uvloop.run(main())
"""


@pytest.mark.parametrize(("hard", "n", "least"), [(256, 250, 100), (100, 80, 10)])
def test_accepting_pauses_when_descriptors_run_out_and_resumes(hard: int, n: int, least: int) -> None:
    """No client is reset: those beyond the limit wait in the backlog until others have left, also where the limit
    leaves room for a few dozen only."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PAUSING_SERVER), "90", str(hard)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(path for path in sys.path if path)},
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        port, limit = map(int, server.stdout.readline().split())
        assert limit == hard  # raised to the hard limit

        def state() -> list[str]:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("\n")
            server.stdin.flush()
            return server.stdout.readline().split()

        def wait_for(n_upgraded: int) -> list[str]:
            deadline = time.monotonic() + 60
            while int((now := state())[0]) != n_upgraded:
                assert time.monotonic() < deadline, now
                time.sleep(0.02)
            return now

        clients = []
        for _ in range(n):
            client = socket.create_connection(("127.0.0.1", port), timeout=20)
            client.sendall(upgrade())
            clients.append(client)
        deadline = time.monotonic() + 60
        while (now := state())[2] != "True":
            assert now[0] != str(n), "all were accepted, so those before them did not stay"
            assert time.monotonic() < deadline, now
            time.sleep(0.02)
        n_first = int(state()[0])
        assert least <= n_first < hard - least
        for client in clients[:n_first]:
            assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        for client in clients[:n_first]:
            client.close()
        # All the others are served now, in one or more rounds, and none was reset.
        served = 0
        for client in clients[n_first:]:
            assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
            client.close()
            served += 1
        assert served == n - n_first
        _, pauses, _ = wait_for(n)
        assert int(pauses) >= 1
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(GET_HELLO)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        server.stdin.close()
        errors = server.stderr.read()
        assert server.wait(20) == 0
        assert "Traceback" not in errors
        # Said at the first of them, and not again within seconds.
        assert errors.count("file descriptors are running out") == 1
