"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil
import psycopg


class PostgresServer:
    """A server of the test's own, reached through a socket in its directory."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        self._numbers = count()
        self._run("initdb", "-D", f"{directory}/data", "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # What is preloaded, such as a sanitizer, is not for its programs, which wait for ever then.
            env={name: text for name, text in os.environ.items() if name != "LD_PRELOAD"},
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self._directory}"
        self._run("pg_ctl", "start", "-w", "-D", f"{self._directory}/data", "-l", "log", "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", f"{self._directory}/data")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Stop all its processes: connections stay open, new ones are taken, and none hears a word."""
        server = psutil.Process(int((self._directory / "data" / "postmaster.pid").read_text().split()[0]))
        server.suspend()  # first, so that it starts no others
        others = server.children(recursive=True)
        for process in others:
            with suppress(psutil.NoSuchProcess):  # it was about to end
                process.suspend()
        try:
            yield
        finally:
            for process in (*others, server):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def new_database(self) -> str:
        name = f"test{next(self._numbers)}"
        with psycopg.connect(f"host={self._directory} user=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._directory}"
