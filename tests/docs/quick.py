"""Runs commands of fastws without the second that their imports take: in forks of one process that has imported them.

    python -m tests.docs.quick SOCKET

`COMMAND` is a program that stands for ``fastws``: it hands its arguments, its directory, its variables and its standard
streams over, passes signals on, and ends as the command does.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
from contextlib import closing
from pathlib import Path
from typing import Final, NoReturn

from fastws import cli

COMMAND: Final = """\
#!{python} -IS
import json, os, signal, socket, struct, sys
with socket.socket(socket.AF_UNIX) as place:
    place.connect({socket!r})
    order = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(place, [struct.pack("I", len(order))], [0, 1, 2])
    place.sendall(order)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: place.sendall(bytes([number])))
    answer = place.recv(1)
sys.exit(answer[0] if answer else 1)
"""


def serve(path: Path) -> None:
    """Take orders at a Unix socket for ever; each has a process of its own that looks after its command."""
    for package in (cli, importlib.import_module("fastws.feeds"), importlib.import_module("fastws.server")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith((".yahoo", ".__main__")):
                importlib.import_module(module.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        # It is there once somebody listens.
        beginning = path.with_suffix(".new")
        listener.bind(str(beginning))
        listener.listen()
        beginning.rename(path)
        while True:
            place, _ = listener.accept()
            with closing(place):
                if os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    look_after(place)
                    os._exit(0)


def look_after(place: socket.socket) -> None:
    """Run one command: pass on the signals that are asked for, end it when nobody waits for it, tell how it ended."""
    head, descriptors, _, _ = socket.recv_fds(place, 4, 3)
    [size] = struct.unpack("I", head)
    order = b""
    while len(order) < size:
        order += place.recv(size - len(order))
    ending, alive = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ending)
        place.close()
        run(descriptors, *json.loads(order))
    os.close(alive)
    for descriptor in descriptors:
        os.close(descriptor)
    while ending not in select.select([place.fileno(), ending], [], [])[0]:
        asked = place.recv(1)
        os.kill(child, asked[0] if asked else signal.SIGKILL)
        if not asked:
            break
    _, status = os.waitpid(child, 0)
    place.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))


def run(descriptors: list[int], arguments: list[str], directory: str, variables: dict[str, str]) -> NoReturn:
    """Be the command, in this process."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    status = 1
    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
