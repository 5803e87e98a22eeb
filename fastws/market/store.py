"""The SQL database behind any SQLAlchemy URL: its connection, its thread, and what runs there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar

import sqlalchemy as sa

from fastws.errors import FastwsError
from fastws.market import schema

Result = TypeVar("Result")

MAX_JOBS: Final = 1000
"""How many jobs may wait for the database."""
_WAL_SECONDS: Final = 10.0


class StoreError(FastwsError):
    """The database cannot be used, or did not do what it was asked for; the text is one line without secrets.

    What failed has not happened, with one exception: when the connection broke during the commit, nobody
    knows.
    """


class Store:
    """The database of a server, used from its event loop and never blocking it.

    1. One thread of the store's own talks to the database; it does one job after the other, in the order in
       which they were asked for, each in a transaction of its own.
    2. What a method reports as done is committed, in SQLite also written through to the disk.
    3. A job whose asker is gone before it begins is not done; one that has begun is finished.
    4. A lost connection is replaced at the next job. The store repeats nothing by itself.
    5. At most `MAX_JOBS` jobs wait; what comes on top fails at once.

    `url` is a SQLAlchemy URL of a synchronous driver (``sqlite:///fastws.db``,
    ``postgresql+psycopg://user:password@host/name``); None keeps everything in memory. `shown_url` is the
    URL without its password. `open` comes first; every method raises StoreError where the database does
    not do its part.

    Raises:
        StoreError: `url` is none, or its driver is not installed.
    """

    def __init__(self, url: str | None = None) -> None:
        parsed = _parse(url or "sqlite://")
        is_sqlite = parsed.get_backend_name() == "sqlite"
        self.is_in_memory = is_sqlite and parsed.database in (None, "", ":memory:")
        self.shown_url = parsed.render_as_string(hide_password=True)
        # With hidden parameters, a logged error shows no user's data.
        self._engine = sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        if is_sqlite:
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._ended: Future[None] = Future()
        # A daemon, so that a database that never answers does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="fastws-store", daemon=True)
        self._is_open = False

    async def open(self) -> None:
        """Connect and bring the tables to the version of this program.

        Raises:
            StoreError: also when the database was written by a newer version. The store is closed then.
        """
        self._is_open = True
        self._thread.start()
        try:
            try:
                await self.run(_migrate)
            except StoreError as error:
                # Another instance creates the same tables at this moment; what it made is there by now.
                if not isinstance(error.__cause__, (sa.exc.IntegrityError, sa.exc.ProgrammingError)):
                    raise
                await self.run(_migrate)
        except BaseException:
            self._is_open = False
            self._jobs.put(None)
            raise

    async def close(self, seconds: float = 5.0) -> None:
        """Finish the jobs that wait and disconnect. Closing again, or what was never opened, does nothing.

        Raises:
            StoreError: the database did not get it done within `seconds`; its thread is left behind.
        """
        if not self._is_open:
            return
        self._is_open = False
        self._jobs.put(None)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(self._ended)
        except TimeoutError:
            raise StoreError(
                f"database {self.shown_url}: still busy {seconds:g} s after the last request; "
                "what it has not committed is lost"
            ) from None

    async def run(self, job: Callable[[sa.Connection], Result]) -> Result:
        """Run `job` in a transaction on the store's thread and return what it returns, once it is committed.

        Whatever `job` raises undoes it, and comes out here; errors of the database as StoreError.
        """
        if not self._is_open:
            raise StoreError(f"database {self.shown_url}: is not open")
        if self._jobs.qsize() >= MAX_JOBS:
            raise StoreError(f"database {self.shown_url}: {MAX_JOBS} requests wait for it; try again later")
        future: Future[Result] = Future()
        self._jobs.put(_Job(job, future))
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        self._ended.set_running_or_notify_cancel()  # so that a close that gives up does not cancel it
        while (job := self._jobs.get()) is not None:
            self._do(job)
            del job  # nothing of it is to live until the next one comes
        self._engine.dispose()
        self._ended.set_result(None)

    def _do(self, job: _Job[Any]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            with self._engine.begin() as connection:
                result = job.function(connection)
        except sa.exc.SQLAlchemyError as error:
            failure = StoreError(f"database {self.shown_url}: {_reason(error)}")
            failure.__cause__ = error
            job.future.set_exception(failure)
        except BaseException as error:  # whatever it is, it belongs to the asker, and the thread goes on
            job.future.set_exception(error)
        else:
            job.future.set_result(result)


class _Job(NamedTuple, Generic[Result]):
    function: Callable[[sa.Connection], Result]
    future: Future[Result]


def _parse(url: str) -> sa.URL:
    # No text below repeats what was given, which may hold a password.
    try:
        parsed = sa.make_url(url)
        dialect = parsed.get_dialect()
        if dialect.is_async:
            raise StoreError(
                f"database: {parsed.drivername} is an asynchronous driver; name a synchronous one"
            )
        dialect.import_dbapi()
    except sa.exc.NoSuchModuleError:
        raise StoreError(
            f"database: SQLAlchemy knows no {parsed.drivername}; write sqlite:///fastws.db or another URL"
        ) from None
    except sa.exc.ArgumentError:
        raise StoreError(
            "database: this is no database URL; write sqlite:///fastws.db or another SQLAlchemy URL"
        ) from None
    except ImportError as error:
        raise StoreError(
            f"database: the driver of {parsed.drivername} is not installed ({error}); install it with pip"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        _check_directory(parsed.database)
    return parsed


def _check_directory(path: str | None) -> None:
    # SQLite itself would only say that it cannot open the file. One of its own URIs is not looked into.
    if path and path != ":memory:" and not path.startswith("file:"):
        directory = os.path.dirname(path) or "."
        if not os.path.isdir(directory):
            raise StoreError(f"database: there is no directory {directory}; make it or name another file")


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


def _set_up_sqlite(connection: Any, record: object) -> None:
    # The driver would begin transactions late and leave tables out of them; _begin_sqlite does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Readers do not wait for a writer then, and a commit is one write to the disk.
    _switch_to_wal(cursor)
    # Each commit reaches the disk before it is reported: a rule survives a power failure, too.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # At once for writing: a transaction that has read first cannot wait for its turn to write any more.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    text = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def _migrate(connection: sa.Connection) -> None:
    version = schema.version_of(connection)
    if version > schema.latest():
        raise StoreError(
            f"database: was written by a newer fastws (schema {version}, this one knows {schema.latest()}); "
            "update fastws or name another database"
        )
    schema.migrate(connection, version)
