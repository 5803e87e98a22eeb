"""What is special about an SQLite database: its file may be moved, and its transactions have to be begun."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from fastws.market.jobs import Result

READS: Final = {"fastws_reads": True}
"""Execution options of connections whose transactions only read."""

_WAL_SECONDS: Final = 10.0
_NO_TEXT: Final = "Could not decode to UTF-8"


class File:
    """The file of an SQLite database, as the system tells files apart."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._claim: int | None = None
        self.is_open = False

    def on_connected(self, connection: object, record: object) -> None:
        self.is_open = True
        if self._identity is None:
            self._identity = self._find()

    def check(self) -> str | None:
        """Return what is wrong with the file; a microsecond's work."""
        if self._identity is None:  # not connected yet
            return None
        try:
            found = self._find()
        except FileNotFoundError:
            return f"{self._path} was moved or deleted; put it back, or restart the server to begin a new one"
        except OSError as error:
            return f"{self._path} cannot be reached: {error.strerror}"
        if found != self._identity:
            return f"another file was put at {self._path}; restart the server to use it"
        return None

    def claim(self) -> bool:
        """Return whether no other process has claimed the file; then it is this one's until `release`, or its end.

        The lock is on a file beside it, because whoever closes the database itself lets go of SQLite's own locks.
        Where there are no locks, nobody can be told from anybody.
        """
        try:
            claim = os.open(f"{self._path}-server", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            return False
        except OSError:
            os.close(claim)
            return True
        self._claim = claim
        return True

    def release(self) -> None:
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def _find(self) -> tuple[int, int]:
        status = os.stat(self._path)
        return status.st_dev, status.st_ino


def _switch_to_wal(cursor: Any) -> None:
    """Let readers not wait for a writer.

    The switch is refused at once while another instance makes it, whatever the busy timeout says; so it is tried again.
    """
    deadline = time.monotonic() + _WAL_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def set_up(connection: Any, record: object) -> None:
    """Prepare a new connection of the driver."""
    # It would begin transactions late and leave tables out of them; `begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Readers do not wait for a writer then, and a commit is one write to the disk.
    _switch_to_wal(cursor)
    # Each commit reaches the disk before it is reported: a rule survives a power failure, too.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def tolerant(job: Callable[[sa.Connection], Result]) -> Callable[[sa.Connection], Result]:
    """Return `job` so that a text in the database which is no UTF-8 does not make it fail: it gets that as bytes.

    `job` only reads, and is done again then; otherwise each text would pay for it.
    """

    def done(connection: sa.Connection) -> Result:
        try:
            return job(connection)
        except sa.exc.OperationalError as error:
            if not is_about_text(error):
                raise
        driver: Any = connection.connection.dbapi_connection
        driver.text_factory = _decoded
        try:
            return job(connection)
        finally:
            driver.text_factory = str

    return done


def read_only(job: Callable[[sa.Connection], Result]) -> Callable[[sa.Connection], Result]:
    """Return `job` so that it cannot write, in a transaction that could."""

    def done(connection: sa.Connection) -> Result:
        connection.exec_driver_sql("PRAGMA query_only = 1")
        try:
            return job(connection)
        finally:
            connection.exec_driver_sql("PRAGMA query_only = 0")

    return done


def is_about_text(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether a text in the database is no UTF-8; the driver's words for that repeat the text."""
    return isinstance(error, sa.exc.OperationalError) and str(error.orig).startswith(_NO_TEXT)


def _decoded(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def begin(connection: sa.Connection) -> None:
    """Begin a transaction: for writing, unless the connection has the options `READS`, which then cannot write."""
    is_reading = connection.get_execution_options().keys() >= READS.keys()
    # Both kinds take their connections from one pool, so each may get one that the other has used.
    if connection.info.get("is_reading", False) != is_reading:
        connection.exec_driver_sql(f"PRAGMA query_only = {int(is_reading)}")
        connection.info["is_reading"] = is_reading
    if is_reading:
        connection.exec_driver_sql("BEGIN")
        return
    # At once for writing: a transaction that has read first cannot wait for its turn to write any more.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
