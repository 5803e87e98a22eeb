"""TLS: certificates and their mistakes, handshakes right and wrong, both ends of a connection, another certificate."""

from __future__ import annotations

import _ssl
import asyncio
import contextlib
import ctypes
import io
import itertools
import logging
import os
import random
import shutil
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from listening import KEY, Client, Harness, listening, scenario_over, until, upgrade

from fastws import logs
from fastws.errors import SettingsError
from fastws.server.tls import make_tls
from fastws.settings import Settings
from tests import serving
from tests.certificates import Authority, files
from tests.clients import client
from tests.conftest import StartServer
from tests.rawclient import RawClient

GET_HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"

over_tls = scenario_over("tls")


def settings(certfile: Path, keyfile: Path | None = None) -> Settings:
    return Settings(
        certfile=str(certfile),
        keyfile=None if keyfile is None else str(keyfile),
        sources={"certfile": "--certfile", "keyfile": "--keyfile"},
    )


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged by this process, from the level debug on."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("debug", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# Certificates.


def test_without_a_certificate_there_is_no_tls() -> None:
    assert make_tls(Settings()) is None


def mistakes(directory: Path) -> Iterator[tuple[str, str, Settings]]:
    """What may be wrong: the setting to blame, words of the fix, and the settings."""
    authority = Authority()
    both, chain, key = directory / "both.pem", directory / "chain.pem", directory / "key.pem"
    authority.issue(both)
    authority.issue(chain, key)
    other, other_key, locked = directory / "other.pem", directory / "other-key.pem", directory / "locked.pem"
    authority.issue(other, other_key)
    authority.issue(directory / "locked-chain.pem", locked, password=b"secret")
    garbage = directory / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + key.read_bytes())
    der = directory / "chain.der"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(chain.read_text()))
    missing = directory / "missing.pem"
    yield "certfile", "check the path", settings(missing)
    yield "certfile", "check the path", settings(directory)
    yield "keyfile", "check the path", settings(chain, missing)
    yield "certfile", "name the file of the chain", settings(der, key)
    yield "certfile", "name the file of the chain", settings(key, chain)
    yield "certfile", "in keyfile", settings(chain)
    yield "keyfile", "name the file of the key", settings(chain, chain)
    yield "keyfile", "does not belong to the first certificate", settings(chain, other_key)
    yield "keyfile", "decrypt it", settings(directory / "locked-chain.pem", locked)
    yield "certfile", "look at them", settings(garbage)
    yield "keyfile", "set certfile", Settings(keyfile=str(key), sources={"keyfile": "--keyfile"})


def test_mistakes_with_certificates_name_the_setting_and_the_fix(tmp_path: Path) -> None:
    for setting, words, wrong in mistakes(tmp_path):
        with pytest.raises(SettingsError) as caught:
            make_tls(wrong)
        text = str(caught.value)
        assert caught.value.setting == setting, text
        assert text.startswith(f"{setting}: ")
        assert f"(from --{setting}); " in text
        assert words in text
        assert "\n" not in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_key_that_may_not_be_read(tmp_path: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    Authority().issue(chain, key)
    key.chmod(0)
    with pytest.raises(SettingsError, match=r"^keyfile: cannot read .*Permission denied"):
        make_tls(settings(chain, key))


def test_an_expired_certificate_is_used_and_told(tmp_path: Path, log: io.StringIO) -> None:
    expired = tmp_path / "expired.pem"
    Authority().issue(expired, days=-0.5)
    assert make_tls(settings(expired)) is not None
    assert "the certificate has expired" in log.getvalue()


# Handshakes.


def versions(maximum: ssl.TLSVersion) -> ssl.SSLContext:
    context = files().authority.client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = maximum
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@over_tls
async def test_versions_ciphers_and_alpn() -> None:
    async with listening() as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = versions(version)
            context.set_alpn_protocols(["h2", "http/1.1"])
            reader, writer = await asyncio.open_connection("127.0.0.1", server.listener.port, ssl=context)
            peer = writer.get_extra_info("ssl_object")
            assert peer.version() == version.name.replace("_", ".")
            name = peer.cipher()[0]
            assert "GCM" in name or "CHACHA20" in name
            assert peer.selected_alpn_protocol() == "http/1.1"
            await Client(reader, writer).close()
        for context in (versions(ssl.TLSVersion.TLSv1_1), versions(ssl.TLSVersion.TLSv1_2)):
            if context.maximum_version is ssl.TLSVersion.TLSv1_2:
                context.set_ciphers("AES256-GCM-SHA384")  # without forward secrecy
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection("127.0.0.1", server.listener.port, ssl=context)
        tls = server.listener._tls
        assert tls is not None
        await until(lambda: tls.n_failed == 2 and server.listener.n_pending == 0)
        # A client that knows no protocol that we speak gets on without.
        context = files().authority.client_context()
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", server.listener.port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
        await Client(reader, writer).close()


@contextlib.asynccontextmanager
async def plain_client(server: Harness) -> AsyncIterator[Client]:
    """A TCP connection to a port that speaks TLS."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)  # so that who does not read is soon seen
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.listener.port))
    connection = Client(*await asyncio.open_connection(sock=sock))
    try:
        yield connection
    finally:
        await connection.close()


@over_tls
async def test_plain_http_is_told_what_is_wrong() -> None:
    async with listening() as server:
        for data in (
            GET_HELLO,
            upgrade(),
            b"POST /size HTTP/1.1\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90000,
        ):
            async with plain_client(server) as connection:
                connection.send(data)
                response = await connection.response()
                assert response.status == 400
                assert b'"TLS_REQUIRED"' in response.body
                assert b"https://" in response.body
                assert await connection.rest() == b""
        await until(lambda: server.listener.n_pending == 0)
        assert server.opened == []


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = files().authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


@over_tls
async def test_what_is_no_handshake_costs_nothing_but_a_line_now_and_then(log: io.StringIO) -> None:
    hello = client_hello()
    rng = random.Random(7)
    junk = [
        b"\x16",
        b"\x16\x03\x01",
        b"\x16\x03\x01\x40\x00" + bytes(0x4000),
        b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        b"\x80\x2e\x01\x03\x01" + bytes(60),
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x00" * 100,
        hello[:40],
        hello,
        hello + b"\x17\x03\x03\x00\x05hello",
        hello[:-7] + bytes(7),
        *(rng.randbytes(rng.randint(1, 3000)) for _ in range(30)),
        *(b"\x16\x03\x01" + rng.randbytes(rng.randint(1, 600)) for _ in range(30)),
    ]
    async with listening() as server:
        for number, data in enumerate(junk):
            async with plain_client(server) as connection:
                connection.send(data)
                if number % 3 == 0:
                    connection.writer.transport.abort()
                elif number % 3 == 1:
                    connection.writer.write_eof()
                    await connection.rest()
        await until(lambda: server.listener.n_pending == 0)
        assert server.listener.n_accepted == len(junk)
        assert server.opened == []
        ok = await server.connect(GET_HELLO)
        assert (await ok.response()).status == 200
    assert "Traceback" not in log.getvalue()
    lines = [line for line in log.getvalue().splitlines() if "listening" not in line]
    assert len(lines) <= 2, lines


@over_tls
async def test_a_handshake_counts_towards_the_deadline_of_the_head() -> None:
    hello = client_hello()
    async with listening(handshake_timeout=0.4) as server:
        began = time.monotonic()
        silent = await server.connect()  # no more than its handshake
        async with (
            plain_client(server) as nothing,
            plain_client(server) as half,
            plain_client(server) as slow,
        ):
            half.send(hello[:-1])
            task = asyncio.create_task(drip(slow, hello))
            for connection in (silent, nothing, half, slow):
                await connection.rest()
            assert 0.3 < time.monotonic() - began < 2
            task.cancel()
        assert (server.listener.n_timed_out, server.listener.n_pending) == (4, 0)


async def drip(connection: Client, data: bytes) -> None:
    for index in range(len(data)):
        connection.send(data[index : index + 1])
        await asyncio.sleep(0.02)


# Open connections.


class ManualTls:
    """A TLS client on plain streams, so that a test says when what is sent."""

    def __init__(self, connection: Client) -> None:
        self.connection = connection
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = files().authority.client_context()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(self.outgoing.read())
                await self.receive()
            else:
                self.send(self.outgoing.read())
                return

    def send(self, data: bytes) -> None:
        self.connection.send(data)

    async def receive(self) -> bool:
        data = await self.connection.reader.read(65536)
        self.incoming.write(data) if data else self.incoming.write_eof()
        return bool(data)

    def encrypted(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def closure_alert(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()

    async def read(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            try:
                piece = self.tls.read(n - len(data))
            except ssl.SSLWantReadError:
                await self.receive()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break
            if not piece:
                break
            data += piece
        return bytes(data)


@over_tls
async def test_bytes_and_records_cut_anywhere() -> None:
    async with listening() as server, plain_client(server) as connection:
        manual = ManualTls(connection)
        await manual.shake_hands()
        head = upgrade()
        records = b"".join(manual.encrypted(head[index : index + 1]) for index in range(len(head)))
        for data in (records, manual.encrypted(b"frame")):
            for index in range(0, len(data), 7):
                manual.send(data[index : index + 7])
                if index % 350 == 0:
                    await asyncio.sleep(0)
        answer = await manual.read(len(b"HTTP/1.1 101 "))
        assert answer == b"HTTP/1.1 101 "
        rest = await manual.read(2000) if not server.opened else b""
        assert rest == b""
        await until(lambda: server.opened[0].received == b"frame")


@pytest.mark.parametrize("first", [b"", GET_HELLO])
@over_tls
async def test_who_has_sent_the_closure_alert_still_gets_the_answer(first: bytes) -> None:
    async with listening() as server, plain_client(server) as connection:
        manual = ManualTls(connection)
        await manual.shake_hands()
        n_answers = 1
        if first:
            manual.send(manual.encrypted(first))
            await until(lambda: server.listener.n_http == 1)
            n_answers = 2
        manual.send(manual.encrypted(GET_HELLO) + manual.closure_alert())
        # OpenSSL reads no more on a connection whose closure it has begun, so the sizes of records tell.
        data = await connection.rest()
        records = []
        while data:
            size = int.from_bytes(data[3:5], "big")
            records.append((data[0], size))
            data = data[5 + size :]
        answers = [size for kind, size in records if kind == 23 and size > 100]
        assert len(answers) >= n_answers
        assert not server.opened


@over_tls
async def test_an_alert_and_the_end_of_the_stream_are_one_end() -> None:
    async with listening() as server:
        for has_alert, has_end in itertools.product((True, False), repeat=2):
            if not has_alert and not has_end:
                continue
            n = len(server.opened)
            async with plain_client(server) as connection:
                manual = ManualTls(connection)
                await manual.shake_hands()
                manual.send(
                    manual.encrypted(upgrade() + b"last") + (manual.closure_alert() if has_alert else b"")
                )
                if has_end:
                    connection.writer.write_eof()
                await connection.rest()
                await until(lambda n=n: len(server.opened) == n + 1 and server.opened[n].is_lost)
                assert server.opened[n].received == b"last"


@over_tls
async def test_megabytes_both_ways_through_a_slow_reader() -> None:
    data = random.Random(1).randbytes(6_000_000)
    async with listening() as server:
        connection = await server.connect(upgrade())
        assert (await connection.response()).status == 101
        echo = server.opened[0]
        most = 0
        connection.send(data)
        received = bytearray()
        while len(received) < len(data):
            received += await connection.reader.read(65536)
            most = max(most, echo.transport.get_write_buffer_size())
        assert received == data
        assert echo.received == data
        assert echo.transport.get_extra_info("sslcontext") is not None
        # Echo writes whatever it gets; the size tells all of it that has not left.
        assert most <= len(data) * 1.02


@over_tls
async def test_pauses_of_reading_are_kept() -> None:
    async with listening() as server:
        connection = await server.connect(upgrade())
        assert (await connection.response()).status == 101
        echo = server.opened[0]
        for number in range(20):
            echo.transport.pause_reading()
            assert not echo.transport.is_reading()
            connection.send(b"%08d" % number + bytes(50_000))
            before = len(echo.received)
            await asyncio.sleep(0.005)
            assert len(echo.received) == before
            echo.transport.resume_reading()
            await until(lambda before=before: len(echo.received) == before + 50_008)
        assert len(await connection.reader.readexactly(20 * 50_008)) == 20 * 50_008


@over_tls
async def test_writing_is_paused_by_what_has_not_left_and_resumed() -> None:
    async with listening() as server, plain_client(server) as connection:
        manual = ManualTls(connection)
        await manual.shake_hands()
        manual.send(manual.encrypted(upgrade()))
        await until(lambda: len(server.opened) == 1)
        transport = server.opened[0].transport
        events: list[str] = []

        class Watch(asyncio.Protocol):
            def pause_writing(self) -> None:
                events.append("pause")

            def resume_writing(self) -> None:
                events.append("resume")

            def connection_lost(self, exc: Exception | None) -> None:
                events.append("lost")

        transport.set_protocol(Watch())
        transport.set_write_buffer_limits(high=0)
        n_written = 0
        while "pause" not in events:
            transport.write(bytes(20_000))
            n_written += 20_000
        assert transport.get_write_buffer_size() > 0
        assert n_written < 20_000_000
        n = 0
        while "resume" not in events:
            await manual.receive()
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    n += len(manual.tls.read(65536))
        assert transport.get_write_buffer_size() == 0
        transport.write_eof()
        transport.write(b"too late")
        assert (transport.can_write_eof(), transport.is_closing()) == (True, False)
        while len(await manual.read(65536)) == 65536:
            pass
        transport.close()
        await until(lambda: events[-1] == "lost")


def key_update(tls: ssl.SSLObject) -> None:
    """Ask the peer for new keys (RFC 8446 §4.6.3), which Python offers no way to do."""
    library = ctypes.CDLL(_ssl.__file__)
    # The SSL* stands behind the object's head and one reference.
    place = id(tls._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # type: ignore[attr-defined]
    assert library.SSL_key_update(ctypes.c_void_p.from_address(place), 1) == 1
    tls.do_handshake()


@over_tls
async def test_who_asks_for_new_keys_without_end_and_reads_nothing_is_cut_off() -> None:
    """OpenSSL answers each request by itself, past every limit on what is written."""
    async with listening() as server, plain_client(server) as connection:
        manual = ManualTls(connection)
        await manual.shake_hands()
        manual.send(manual.encrypted(upgrade()))
        await until(lambda: len(server.opened) == 1)
        echo = server.opened[0]
        # A few are in order.
        for _ in range(10):
            key_update(manual.tls)
        manual.send(manual.outgoing.read() + manual.encrypted(b"frame"))
        await until(lambda: echo.received == b"frame")
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        n = 0
        while not echo.is_lost:
            for _ in range(500):
                key_update(manual.tls)
            n += 500
            assert n < 200_000
            assert echo.transport.get_write_buffer_size() < 1 << 20
            manual.send(manual.outgoing.read())
            with contextlib.suppress(ConnectionError):
                await connection.writer.drain()
            await asyncio.sleep(0)  # the server's turn


# A server.


async def test_another_certificate_while_it_runs(tmp_path: Path) -> None:
    certfile = tmp_path / "server.pem"
    shutil.copy(files().certfile, certfile)
    target = serving.Server(tmp_path, "--feed", "sim", certfile=certfile)

    def serial() -> str:
        assert target.tls is not None
        with (
            socket.create_connection(("127.0.0.1", target.port), timeout=10) as tcp,
            target.tls.wrap_socket(tcp, server_hostname="localhost") as tls,
        ):
            certificate = tls.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])

    async def reload(words: str) -> str:
        n = len(target.log)
        target.process.send_signal(signal.SIGHUP)
        return await asyncio.to_thread(serving.until, lambda: words in target.log[n:], words)

    try:
        first = await asyncio.to_thread(serial)
        async with client(target.url) as connection:
            files().authority.issue(certfile)
            assert await asyncio.to_thread(serial) == first
            await reload("certificate='valid until ")
            second = await asyncio.to_thread(serial)
            assert second != first
            # One that cannot be used changes nothing.
            certfile.write_text("no certificate")
            await reload("server.pem holds no certificate in PEM")
            assert await asyncio.to_thread(serial) == second
            files().authority.issue(certfile)
            await reload("certificate='valid until ")
            assert await asyncio.to_thread(serial) not in (first, second)
            await reload("nothing has changed")
            # The connection of the first one goes on.
            await connection.send(type="ping")
            await connection.until_type("pong")
    finally:
        target.signal(signal.SIGTERM)
        assert target.wait() == 0


def test_a_certificate_that_cannot_be_used_keeps_the_server_from_starting(tmp_path: Path) -> None:
    done = serving.run(tmp_path, "serve", "--port", "0", "--certfile", "missing.pem")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "fastws: error: certfile: cannot read missing.pem (No such file or directory) (from --certfile); "
    )
    assert done.stderr.count("\n") == 1


async def test_a_server_with_tls_says_so_and_serves_deflate(server: StartServer) -> None:
    target = server("--feed", "sim", "--simulator-rate", "2000", certfile=files().certfile)
    log = target.log
    assert f"wss://127.0.0.1:{target.port}/v1/ws" in log
    assert f"https://127.0.0.1:{target.port}/health" in log
    assert "ws://" not in log.replace("wss://", "")
    async with client(target.url, compression="deflate") as connection:
        assert "permessage-deflate" in connection.connection.response.headers["Sec-WebSocket-Extensions"]
        await connection.subscribe("market", "KOSPI")
        assert (await connection.until_snapshot())["snapshot"] is True
        for _ in range(5):
            await connection.receive()


def test_metrics_tell_of_the_certificate_and_of_failures(server: StartServer) -> None:
    target = server("--feed", "none", certfile=files().certfile)

    def figure(name: str) -> float:
        text = target.get("/metrics")[1].decode()
        (line,) = (line for line in text.splitlines() if line.startswith(f"fastws_{name} "))
        return float(line.split()[1])

    assert 0 < figure("certificate_expires_seconds") - time.time() < 2 * 86_400
    assert figure("tls_failures_total") == 0
    with RawClient(target.port, handshake=False) as raw:
        raw.send(GET_HELLO)
        assert raw.read_response()[0] == 400
    deadline = time.monotonic() + 10
    while figure("tls_failures_total") != 1:  # the answer before is given again for a while
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_who_breaks_off_is_no_news(server: StartServer) -> None:
    target = server("--feed", "sim", certfile=files().certfile)
    for _ in range(20):
        raw = RawClient(target.port, tls=target.tls)
        raw.send_message(type="subscribe", subscription_type="market", targets=["KOSPI"])
        raw.read_message()
        raw.reset()
    serving.until(lambda: target.stats()["active_connections"] == 0, "the end of those that broke off")
    assert KEY not in target.log
    assert len(target.log.splitlines()) < 15
