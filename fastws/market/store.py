"""The SQL database behind any SQLAlchemy URL: its connection, its thread, and what runs there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import sqlalchemy as sa

from fastws.errors import FastwsError
from fastws.market import schema

Result = TypeVar("Result")

MAX_JOBS: Final = 1000
"""How many jobs may wait for the database."""
_WAL_SECONDS: Final = 10.0
_HAVE_TIMEOUT: Final = ("postgresql", "mysql", "mariadb")


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
    6. While the file of an SQLite database is not at its path, every job fails: what went to a file that was moved
       or deleted would be lost, and in a new one, what there was. Once the same file is back, it goes on. In another
       file are other alerts than this process knows, so that needs a restart.

    `url` is a SQLAlchemy URL of a synchronous driver (``sqlite:///fastws.db``,
    ``postgresql+psycopg://user:password@host/name``); None keeps everything in memory. `shown_url` is the
    URL without its password, `path` that of a SQLite file. `open` comes first; every method raises StoreError
    where the database does not do its part.

    Raises:
        StoreError: `url` is none, or its driver is not installed.
    """

    def __init__(self, url: str | None = None) -> None:
        parsed = _parse(url or "sqlite://")
        is_sqlite = parsed.get_backend_name() == "sqlite"
        self.is_in_memory = is_sqlite and parsed.database in (None, "", ":memory:")
        self.path = file_of(url)
        self.shown_url = _shown(parsed)
        self._file = None if self.path is None else _File(self.path)
        # With hidden parameters, a logged error shows no user's data.
        self._engine = sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        if is_sqlite:
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
            if self._file is not None:
                sa.event.listen(self._engine, "connect", self._file.on_connected)
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
        self._make_file()
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

    def _make_file(self) -> None:
        """Make a new SQLite file readable to its owner only; its log and its index get the permissions that it has."""
        if self.path is not None:
            # Whatever is wrong with the path, SQLite says it.
            with contextlib.suppress(OSError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

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
            if self._file is not None and (problem := self._file.check()):
                self._leave_file(self._file)
                raise StoreError(f"database {self.shown_url}: {problem}")
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

    def _leave_file(self, file: _File) -> None:
        """Bring what is in the write-ahead log into `file`, wherever that is by now, and close both."""
        if not file.is_open:
            return
        file.is_open = False
        # If that cannot be done, what matters to the asker is still that the file is not in its place.
        with contextlib.suppress(sa.exc.SQLAlchemyError, sqlite3.Error):
            connection = self._engine.raw_connection()
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        self._engine.dispose()


def file_of(url: str | None) -> str | None:
    """The absolute path of the SQLite file that `url` names; None for another database, or one in memory.

    Raises:
        StoreError: as of `Store`.
    """
    if url is None:
        return None
    parsed = _parse(url)
    path = parsed.database
    if parsed.get_backend_name() != "sqlite" or not path or path == ":memory:" or path.startswith("file:"):
        return None
    return os.path.abspath(path)


def probe(url: str, seconds: int = 5) -> None:
    """See that a server could open the database of `url`, without making or changing anything.

    Blocks; a server that does not answer is given up after `seconds` where its driver can do that. A SQLite file
    that is not there yet is fine.

    Raises:
        StoreError: it could not.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        if (path := file_of(url)) is not None:
            _probe_file(path)
        return
    arguments = {"connect_timeout": seconds} if parsed.get_backend_name() in _HAVE_TIMEOUT else {}
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args=arguments, hide_parameters=True)
    try:
        with engine.connect() as connection:
            _check_version(schema.existing_version_of(connection))
    except sa.exc.SQLAlchemyError as error:
        shown_url = _shown(parsed)
        raise StoreError(f"database {shown_url}: {_reason(error)}") from None


def _probe_file(path: str) -> None:
    shown_url = f"sqlite:///{path}"
    directory = os.path.dirname(path)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(
            f"database {shown_url}: no permission to make files in {directory}; let this user do it"
        )
    if not os.path.exists(path):
        return
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(f"database {shown_url}: no permission to read and write it; let this user do it")
    # A file without a log beside it is open nowhere; opened as usual it would get one.
    mode = "ro" if os.path.exists(f"{path}-wal") else "ro&immutable=1"
    file = f"file:{quote(path)}?mode={mode}&uri=true"
    engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            _check_version(schema.existing_version_of(connection))
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"database {shown_url}: {_reason(error)}") from None


class _Job(NamedTuple, Generic[Result]):
    function: Callable[[sa.Connection], Result]
    future: Future[Result]


class _File:
    """The file of an SQLite database, as the system tells files apart."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
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

    def _find(self) -> tuple[int, int]:
        status = os.stat(self._path)
        return status.st_dev, status.st_ino


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
        is_ours = parsed.drivername == "postgresql+psycopg"
        how = 'pip install "fastws[postgres]"' if is_ours else "install it with pip"
        if parsed.get_backend_name() == "postgresql" and not is_ours:
            how += ', or write postgresql+psycopg:// and pip install "fastws[postgres]"'
        raise StoreError(
            f"database: the driver of {parsed.drivername} is not installed ({error}); {how}"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        _check_directory(parsed.database)
    return parsed


def _shown(url: sa.URL) -> str:
    """The URL without its password, which may stand in two places."""
    return url.difference_update_query(("password", "passwd", "pwd")).render_as_string(hide_password=True)


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
    _check_version(version)
    schema.migrate(connection, version)


def _check_version(version: int) -> None:
    if version > schema.latest():
        raise StoreError(
            f"database: was written by a newer fastws (schema {version}, this one knows {schema.latest()}); "
            "update fastws or name another database"
        )
