"""What is asked, and what is said where there is no answer or another's; on real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from top_readings import FIRST, metrics_text

from fastws.top.asking import Address, Asker, AskError, Reader, parse_address
from fastws.top.readings import Listing
from tests.certificates import files

Answer = tuple[int, bytes] | None

STATS = json.dumps(FIRST).encode()
HEALTH = b'{"status":"ok","price_feed_running":true}'
ROW = {"connection_id": "c1", "connected_at": "t", "last_activity": "t", "message_count": 1, "user_id": 7}
ROWS = json.dumps([ROW]).encode()


class Site:
    """A small HTTP server: `answers` by path; None ends the connection instead. `asked` is what came."""

    def __init__(
        self, answers: dict[str, Answer], *, tls: ssl.SSLContext | None = None, keeps: bool = True
    ) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str | None]] = []
        self.n_connections = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                site.n_connections += 1
                super().setup()

            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers["Authorization"]))
                answer = site.answers.get(self.path.partition("?")[0], (404, b"{}"))
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])
                self.close_connection = not keeps

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.address = Address(tls is not None, "127.0.0.1", self._server.server_address[1], "")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as open_sites:

        def start(answers: dict[str, Answer], **options: Any) -> Site:
            made = Site(answers, **options)
            open_sites.callback(made.close)
            return made

        yield start


WHOLE: dict[str, Answer] = {
    "/v1/ws/stats": (200, STATS),
    "/health": (200, HEALTH),
    "/metrics": (200, metrics_text(1.0).encode()),
    "/v1/ws/connections": (200, ROWS),
}


@pytest.fixture
def reader_of() -> Iterator[Callable[..., Reader]]:
    with contextlib.ExitStack() as open_readers:

        def make(main: Site, token: str | None = None, admin: Site | None = None) -> Reader:
            asker = Asker(main.address)
            reader = Reader(
                asker, asker if admin is None else Asker(admin.address, flag="--admin-url"), token
            )
            open_readers.callback(reader.close)
            return reader

        yield make


# Addresses.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://ws.example.com", "https://ws.example.com:443"),
        ("http://[::1]:9/fast/ws/", "http://[::1]:9/fast/ws"),
        ("HTTP://Host", "http://host:80"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert str(parse_address(url)) == shown


@pytest.mark.parametrize(
    ("url", "part"),
    [
        (
            "ws://127.0.0.1:8000/v1/ws",
            "ws://127.0.0.1:8000/v1/ws is no address of a server; write it as http://",
        ),
        ("127.0.0.1:8000", "is no address"),
        ("http://", "is no address"),
        ("http://x:0", "is no address"),
        ("http://x:99999", "is no address"),
        ("http://x/?a=1", "is no address"),
        ("http://me:secret@x", "takes no name and password"),
        ("http://x/ä", "must be written as %XX"),
    ],
)
def test_what_is_no_address(url: str, part: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        parse_address(url)
    assert part in str(caught.value)
    assert "secret" not in str(caught.value)


# Answers.


def test_all_is_read_over_one_connection(site: Any, reader_of: Any) -> None:
    main = site(WHOLE)
    reader = reader_of(main, "s€cret")
    for _ in range(2):
        reading = reader.read()
        assert reading.stats.version == "1.2.3"
        assert reading.health.price_feed_running
        assert reading.metrics.uptime == 1.0
        assert isinstance(reading.listing, Listing)
        assert reading.listing.rows[0].user_id == 7
    assert main.n_connections == 1
    token = "s€cret".encode().decode("latin-1")
    assert main.asked[:4] == [
        ("/v1/ws/stats", None),
        ("/health", None),
        ("/metrics", None),
        ("/v1/ws/connections?subscriptions=false", f"Bearer {token}"),
    ]


def test_the_list_is_not_asked_for_all_the_time(site: Any, reader_of: Any) -> None:
    main = site(WHOLE)
    reader = reader_of(main, "secret")
    first = reader.read().listing
    assert isinstance(first, Listing)
    n = 0
    # It took less than a second: after twenty times that it is asked for again.
    while reader.read().listing is first:
        n += 1
        assert n < 100_000
    assert n >= 2
    assert sum(path.startswith("/v1/ws/connections") for path, _ in main.asked) == 2


def test_the_token_goes_to_the_administrators_port_only(site: Any, reader_of: Any) -> None:
    main = site({path: WHOLE[path] for path in ("/v1/ws/stats", "/health")})
    admin = site({path: WHOLE[path] for path in ("/metrics", "/v1/ws/connections")})
    reading = reader_of(main, "secret", admin).read()
    assert isinstance(reading.listing, Listing)
    assert reading.metrics.uptime == 1.0
    assert {token for _, token in main.asked} == {None}
    # Not there: a sentence says where it may be, and the rest is shown.
    reading = reader_of(main, "secret").read()
    where = (
        f"{main.address} has no /metrics; with admin_bind it is on a port of its own, which --admin-url names"
    )
    assert reading.metrics == where
    assert reading.listing == where.replace("/metrics", "/v1/ws/connections")


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((401, b""), "this is not its admin token; correct --token"),
        ((403, b""), "the server has no admin token; set admin_token there, or leave --token"),
        ((500, b""), "/v1/ws/connections is answered with 500"),
        ((200, b"{}"), "/v1/ws/connections is answered and cannot be read"),
        (None, "no answer in HTTP"),
    ],
)
def test_connections_that_cannot_be_had(answer: Answer, part: str, site: Any, reader_of: Any) -> None:
    main = site(WHOLE | {"/v1/ws/connections": answer})
    reading = reader_of(main, "secret").read()
    assert isinstance(reading.listing, str)
    assert reading.listing.startswith(f"{main.address}: ")
    assert part in reading.listing
    assert reading.stats.active_connections == 200


@pytest.mark.parametrize("answer", [(500, b""), (200, b"fastws_uptime_seconds soon"), (200, b"\xff")])
def test_metrics_that_cannot_be_read(answer: Answer, site: Any, reader_of: Any) -> None:
    reading = reader_of(site(WHOLE | {"/metrics": answer})).read()
    assert "/metrics is answered" in reading.metrics


@pytest.mark.parametrize("answer", [(200, b"<html>"), (200, b"{}"), (200, b"[1]"), (404, b""), (301, b"")])
def test_who_is_no_fastws_server(answer: Answer, site: Any, reader_of: Any) -> None:
    main = site({"/v1/ws/stats": answer})
    status = (
        "is something else" if answer and answer[0] == 200 else f"is answered with {answer and answer[0]}"
    )
    with pytest.raises(AskError) as caught:
        reader_of(main).read()
    assert str(caught.value) == f"{main.address} is no fastws server: /v1/ws/stats there {status}"


def test_a_kept_connection_that_has_ended_is_made_anew(site: Any) -> None:
    main = site(WHOLE, keeps=False)
    asker = Asker(main.address)
    with contextlib.closing(asker):
        for _ in range(3):
            assert asker.get("/health") == (200, HEALTH)
    assert main.n_connections == 3


def asked(address: Address, **options: Any) -> str:
    with contextlib.closing(Asker(address, **options)) as asker, pytest.raises(AskError) as caught:
        asker.get("/health")
    text = str(caught.value)
    assert text.startswith(f"{address}: ")
    return text


def test_nobody_is_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = Address(False, "127.0.0.1", free.getsockname()[1], "")
        assert "connection refused; is the server running? --url names another" in asked(address)
    assert "there is no host of this name" in asked(Address(False, "nowhere.invalid", 80, ""))


def test_somebody_who_speaks_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.top.asking.TIME_LIMIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "no answer within 0.2 s" in asked(Address(False, "127.0.0.1", port, ""))


def test_certificates(site: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files().certfile)
    main = site(WHOLE, tls=context)
    assert "its certificate is not trusted (" in asked(main.address)
    assert "--cafile" in asked(main.address)
    trusted = Asker(main.address, tls=files().authority.client_context())
    with contextlib.closing(trusted):
        assert trusted.get("/health") == (200, HEALTH)
    assert "no answer in HTTP" in asked(main.address._replace(is_tls=False))
    plain = site(WHOLE)
    assert "it does not speak TLS there" in asked(plain.address._replace(is_tls=True))
