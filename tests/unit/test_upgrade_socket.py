"""What a running server and the process that takes over from it say first."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("a process takes over from another one on Linux only", allow_module_level=True)

from fastws.errors import SettingsError
from fastws.server.predecessor import find_predecessor
from fastws.server.upgrade_socket import Hello, UpgradeError, connect, hear_hello, pid_of_peer, say_hello
from fastws.settings import Settings


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        other.settimeout(10)
        yield one, other


def test_sockets_are_handed_over(pair: tuple[socket.socket, socket.socket]) -> None:
    old, new = pair
    with socket.create_server(("127.0.0.1", 0)) as listening:
        say_hello(old, Hello("1.0", 4, ["main"]), [listening])
        # What comes after it is not its own.
        old.send(b"next")
        hello, (handed,) = hear_hello(new)
        with handed:
            assert hello == Hello("1.0", 4, ["main"])
            assert handed.getsockname() == listening.getsockname()
            assert not handed.get_inheritable()
            assert not handed.getblocking()
        assert new.recv(10) == b"next"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "no server that can be taken over"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no server that can be taken over"),
        (b"\x05\0\0\0\x81", "has ended meanwhile"),
        (b"\x02\0\0\0\x81\xa1", "has not answered"),
    ],
)
def test_what_is_no_such_server(pair: tuple[socket.socket, socket.socket], data: bytes, error: str) -> None:
    old, new = pair
    old.send(data)
    old.close()
    with pytest.raises(UpgradeError, match=error):
        hear_hello(new)


def test_one_that_refuses_or_hands_over_something_else(pair: tuple[socket.socket, socket.socket]) -> None:
    old, new = pair
    say_hello(old, Hello("1.0", 4, [], "not now"))
    with pytest.raises(UpgradeError, match="refuses to be taken over: not now"):
        hear_hello(new)
    n_fds = len(os.listdir("/proc/self/fd"))
    say_hello(old, Hello("1.0", 4, ["main", "admin"]), [old])
    with pytest.raises(UpgradeError, match="something else than it has said"):
        hear_hello(new)
    assert len(os.listdir("/proc/self/fd")) == n_fds


def test_another_user_may_not(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pid_of_peer(pair[0]) == os.getpid()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(UpgradeError, match=f"is of user {uid}, and only user {uid + 1} may"):
        pid_of_peer(pair[0])


def test_nobody_is_there(tmp_path: Path) -> None:
    assert connect(str(tmp_path / "none")) is None
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "gone"))
    assert connect(str(tmp_path / "gone")) is None
    assert find_predecessor(Settings(upgrade_socket=str(tmp_path / "gone"))) is None
    assert find_predecessor(Settings()) is None
    with pytest.raises(UpgradeError, match="cannot be reached"):
        connect(str(tmp_path / ("long" * 40)))


def test_another_number_of_shards_cannot_be_joined(tmp_path: Path) -> None:
    path = str(tmp_path / "upgrade.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(10)

        def answer() -> None:
            sock, _ = listening.accept()
            with sock:
                say_hello(sock, Hello("1.0", 3, ["main"]), [listening])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SettingsError, match="relay_shards: the running server has 3"):
            find_predecessor(Settings(upgrade_socket=path))
        thread.join()
