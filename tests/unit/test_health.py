"""``fastws health`` against what answers, what answers something else, and what does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastws.cli import main
from tests.certificates import files
from tests.conftest import StartServer


@contextmanager
def answering(answer: bytes, heads: list[bytes] | None = None) -> Iterator[int]:
    """The port of something that gives one answer; `heads` gets what it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                head = connection.recv(4096)
                if heads is not None:
                    heads.append(head)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def asked(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    status = main(["health", *flags])
    said = capsys.readouterr()
    return status, said.out.strip(), said.err.strip()


def test_a_server_with_tls_and_a_unix_socket(
    server: StartServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    certificate = ["--certfile", str(files().certfile)]
    target = server("--host", "0.0.0.0", "--unix-socket", path, certfile=certificate[1])
    port = ["--host", "0.0.0.0", "--port", str(target.port)]
    assert asked(capsys, *port, *certificate) == (0, "ok", "")
    assert asked(capsys, "--ready", *port, *certificate) == (0, "ready", "")
    assert asked(capsys, "--unix-socket", path) == (0, "ok", "")
    # It speaks TLS, and is asked without.
    status, out, error = asked(capsys, *port)
    assert (status, out) == (1, "")
    assert f"http://127.0.0.1:{target.port}/health answers 400: this port speaks TLS" in error


def test_a_server_that_is_named_by_its_url(
    server: StartServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = server(certfile=str(files().certfile))
    # Where a server of this machine listens does not matter.
    monkeypatch.setenv("FASTWS_PORT", "1")
    url = f"https://127.0.0.1:{secure.port}"
    trusting = ("--cafile", str(files().authority_file))
    assert asked(capsys, "--url", url, *trusting) == (0, "ok", "")
    assert asked(capsys, "--url", f"{url}/", "--ready", "--insecure") == (0, "ready", "")
    status, out, error = asked(capsys, "--url", url)
    assert (status, out) == (1, "")
    assert f"{url}/health does not answer: its certificate is not trusted" in error


def test_a_url_behind_a_proxy_has_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    heads: list[bytes] = []
    with answering(b'HTTP/1.1 200 OK\r\n\r\n{"status":"ok"}', heads) as port:
        assert asked(capsys, "--url", f"http://127.0.0.1:{port}/feed/") == (0, "ok", "")
    assert heads[0].startswith(b"GET /feed/health HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--url", "127.0.0.1:8000"), "--url: 127.0.0.1:8000 is no address of a server"),
        (("--url", "http://x", "--port", "8000"), "--port: not with --url"),
        (("--url", "http://x", "--config", "fastws.toml"), "--config: not with --url"),
        (("--url", "https://x", "--cafile", "/no/such.pem"), "--cafile: /no/such.pem cannot be used"),
        (("--insecure",), "--insecure: it is for --url only"),
        (("--cafile", "x"), "--cafile: it is for --url only"),
    ],
)
def test_flags_that_contradict_each_other(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], what: str
) -> None:
    status, out, error = asked(capsys, *flags)
    assert (status, out) == (2, "")
    assert what in error


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status":"draining"}', "answers 503: draining"),
        (b"HTTP/1.1 404 Not Found\r\n\r\nnothing", "answers 404: Not Found"),
        (b"HTTP/1.1 503 Busy\r\n\r\n[]", "answers 503: Busy"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_answers_that_are_none(capsys: pytest.CaptureFixture[str], answer: bytes, what: str) -> None:
    with answering(answer) as port:
        status, out, error = asked(capsys, "--ready", "--port", str(port))
    assert (status, out) == (1, "")
    assert what in error
    assert len(error.splitlines()) == 1


def test_nobody_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as bound:
        # It is bound, so nobody else is there, and does not listen.
        bound.bind(("127.0.0.1", 0))
        status, _, error = asked(capsys, "--port", str(bound.getsockname()[1]))
    assert (status, "Connection refused" in error) == (1, True)
    path = str(tmp_path / "no-socket")
    status, _, error = asked(capsys, "--unix-socket", path)
    assert (status, f"unix:{path}:/health" in error) == (1, True)


def test_one_that_hangs_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        status, _, error = asked(capsys, "--timeout", "0.1", "--port", port)
    assert (status, "timed out" in error) == (1, True)


def test_a_port_that_nobody_knows_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, "--port", "0")[0] == 2
