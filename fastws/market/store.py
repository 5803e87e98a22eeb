"""The SQL database behind any SQLAlchemy URL: its connections, its threads, and what runs there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa

from fastws.errors import FastwsError
from fastws.market import schema, sqlite
from fastws.market.jobs import MAX_JOBS, Job, Result, Worker

ANSWER_SECONDS: Final = 10.0
"""How long who cannot wait for ever waits for a database that does nothing."""

_MIGRATION_SECONDS: Final = 60.0  # that a server may take to bring the tables to this version
_PROBE_SECONDS: Final = 5

_HAVE_TIMEOUT: Final = ("postgresql", "mysql", "mariadb")


class StoreError(FastwsError):
    """The database cannot be used, or did not do what it was asked for; the text is one line without secrets.

    What failed has not happened, with one exception: when the connection broke during the commit, nobody
    knows.
    """


class Store:
    """The database of a server, used from its event loop and never blocking it.

    1. One thread of the store's own talks to the database; it does one job after the other, in the order in
       which they were asked for, each in a transaction of its own. What only reads, and much, has a second thread and
       connection, so that it delays nobody; it sees the database as it was when it began.
    2. What a method reports as done is committed, in SQLite also written through to the disk.
    3. A job whose asker is gone before it begins is not done; one that has begun is finished.
    4. A lost connection is replaced at the next job. The store repeats nothing by itself.
    5. At most `MAX_JOBS` jobs wait for a thread; what comes on top fails at once.
    6. While the file of an SQLite database is not at its path, every job fails: what went to a file that was moved
       or deleted would be lost, and in a new one, what there was. Once the same file is back, it goes on. In another
       file are other alerts than this process knows, so that needs a restart.

    7. A database may hang without an error. Whoever names a `silence` waits while it does something, and gives up when
       it has done nothing for so many seconds; a job that has begun goes on.

    `url` is a SQLAlchemy URL of a synchronous driver (``sqlite:///fastws.db``,
    ``postgresql+psycopg://user:password@host/name``); None keeps everything in memory. `shown_url` is the
    URL without its password, `path` that of a SQLite file. `open` comes first; every method raises StoreError
    where the database does not do its part.

    Raises:
        StoreError: `url` is none, or its driver is not installed.
    """

    def __init__(self, url: str | None = None) -> None:
        parsed = _parse(url or "sqlite://")
        self._is_sqlite = is_sqlite = parsed.get_backend_name() == "sqlite"
        self.is_in_memory = is_sqlite and parsed.database in (None, "", ":memory:")
        self.path = file_of(url)
        self.shown_url = _shown(parsed)
        self._file = None if self.path is None else sqlite.File(self.path)
        # With hidden parameters, a logged error shows no user's data.
        self._engine = sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        if is_sqlite:
            sa.event.listen(self._engine, "connect", sqlite.set_up)
            if self._file is not None:
                sa.event.listen(self._engine, "connect", self._file.on_connected)
            sa.event.listen(self._engine, "begin", sqlite.begin)
        snapshots = self._engine.execution_options(**_SNAPSHOTS.get(parsed.get_backend_name(), {}))
        self._writer = Worker("fastws-store", partial(self._do, self._engine), self._engine.dispose)
        self._reader = Worker("fastws-store-reader", partial(self._do, snapshots))
        self._is_open = False
        # When it was last seen that each of them gets on, of the clock that is monotonic.
        self._got_on = dict.fromkeys((self._writer, self._reader), 0.0)

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed. Any thread may ask; a long job ends early when it no longer is."""
        return self._is_open

    async def open(self) -> None:
        """Connect and bring the tables to the version of this program.

        Raises:
            StoreError: also when the database was written by a newer version, or has not answered within
                `ANSWER_SECONDS`. The store is closed then.
        """
        self._make_file()
        await self._begin()
        silence = None if self._is_sqlite else _MIGRATION_SECONDS
        try:
            try:
                await self.run(_migrate, silence=silence)
            except StoreError as error:
                # Another instance creates the same tables at this moment; what it made is there by now.
                if not isinstance(error.__cause__, (sa.exc.IntegrityError, sa.exc.ProgrammingError)):
                    raise
                await self.run(_migrate, silence=silence)
        except BaseException:
            self._leave()
            raise

    async def rehearse(self, job: Callable[[sa.Connection], Result]) -> Result:
        """Run `job` on tables of this program's version and undo all of it. Nothing is made, changed or left open.

        Called instead of `open`, and once.

        Raises:
            StoreError: as of `open`.
        """
        if self.path is not None and not os.path.exists(self.path):  # noqa: ASYNC240 - nothing runs beside it yet
            return await Store().rehearse(job)
        results: list[Result] = []

        def trial(connection: sa.Connection) -> None:
            _migrate(connection)
            results.append(job(connection))
            raise _Undone

        await self._begin()
        try:
            with contextlib.suppress(_Undone):  # that is how it ends when nothing is wrong
                await self.run(trial)
        finally:
            await self.close()
        return results[0]

    async def _begin(self) -> None:
        """Start the thread and connect. What listens and never answers is not waited for: it hangs, or is no database.

        SQLite has no need of that, and a limit of its own for a file that another program has locked.
        """
        self._is_open = True
        self._writer.start()
        if self._is_sqlite:
            return
        try:
            await self.run(lambda connection: None, silence=ANSWER_SECONDS)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Close without waiting for a thread that may never end."""
        self._is_open = False
        self._writer.end()

    def _make_file(self) -> None:
        """Make a new SQLite file readable to its owner only; its log and its index get the permissions that it has."""
        if self.path is not None:
            # Whatever is wrong with the path, SQLite says it.
            with contextlib.suppress(OSError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def claim(self) -> bool:
        """Return whether this is the only server with its SQLite file, until it closes; of others nothing is known."""
        return self._file is None or self._file.claim()

    async def close(self, seconds: float = 5.0) -> None:
        """Finish the jobs that wait and disconnect. Closing again, or what was never opened, does nothing.

        Raises:
            StoreError: the database did not get it done within `seconds`; its thread is left behind.
        """
        if not self._is_open:
            return
        self._is_open = False
        if self._file is not None:
            self._file.release()
        self._reader.end()
        try:
            async with asyncio.timeout(seconds):
                # The other one disconnects both.
                await asyncio.wrap_future(self._reader.ended)
                self._writer.end()
                await asyncio.wrap_future(self._writer.ended)
        except TimeoutError:
            self._writer.end()  # if it is the reader that is busy, nobody has said so yet
            raise StoreError(
                f"database {self.shown_url}: still busy {seconds:g} s after the last request; "
                "what it has not committed is lost"
            ) from None

    async def run(self, job: Callable[[sa.Connection], Result], *, silence: float | None = None) -> Result:
        """Run `job` in a transaction on the store's thread and return what it returns, once it is committed.

        Whatever `job` raises undoes it, and comes out here; errors of the database as StoreError.
        """
        return await self._ask(self._writer, job, silence)

    async def read(self, job: Callable[[sa.Connection], Result], *, silence: float | None = None) -> Result:
        """Like `run`, beside it: for what takes long and changes nothing; what it tries to change is refused.

        It sees the database as it was when it began. What was asked of `run` before may come later. A text in SQLite
        that is no UTF-8 comes as bytes; `job` may be done a second time for that. One that takes long calls `get_on`.
        """
        if self._is_sqlite:
            job = sqlite.tolerant(job)
        if self.is_in_memory:  # another connection would see another database
            return await self.run(sqlite.read_only(job), silence=silence)
        if self._is_open and not self._reader.is_started:
            self._reader.start()
        return await self._ask(self._reader, job, silence)

    def get_on(self) -> None:
        """Note that the database does what a job asks of it, as when rows came. Jobs of `read` call it."""
        self._got_on[self._writer if self.is_in_memory else self._reader] = time.monotonic()

    async def _ask(
        self, worker: Worker[sa.Connection], job: Callable[[sa.Connection], Result], silence: float | None
    ) -> Result:
        if not self._is_open:
            raise StoreError(f"database {self.shown_url}: is not open")
        if worker.is_full:
            raise StoreError(f"database {self.shown_url}: {MAX_JOBS} requests wait for it; try again later")
        began = time.monotonic()
        answer = asyncio.wrap_future(worker.add(job))
        if silence is None:
            return await answer
        try:
            while not answer.done():
                left = max(began, self._got_on[worker]) + silence - time.monotonic()
                if left <= 0:
                    raise StoreError(
                        f"database {self.shown_url}: has not answered within {silence:g} s; see whether it hangs"
                    )
                await asyncio.wait({answer}, timeout=left)
            return answer.result()
        finally:
            answer.cancel()  # what nobody waits for is not begun

    def _do(self, engine: sa.Engine, job: Job[sa.Connection, Any]) -> None:
        worker = self._writer if engine is self._engine else self._reader
        self._got_on[worker] = time.monotonic()
        try:
            if self._file is not None and (problem := self._file.check()):
                if engine is self._engine:
                    self._leave_file(self._file)
                raise StoreError(f"database {self.shown_url}: {problem}")
            with engine.begin() as connection:
                result = job.function(connection)
        except sa.exc.SQLAlchemyError as error:
            failure = StoreError(f"database {self.shown_url}: {_reason(error)}")
            failure.__cause__ = error
            job.future.set_exception(failure)
        except BaseException as error:  # whatever it is, it belongs to the asker, and the thread goes on
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
        self._got_on[worker] = time.monotonic()

    def _leave_file(self, file: sqlite.File) -> None:
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


def probe(url: str, look: Callable[[sa.Connection], None] = lambda connection: None) -> None:
    """See that a server could open the database of `url`, without making or changing anything, and `look` into it.

    Blocks; a server that does not answer is given up after `_PROBE_SECONDS` where its driver can do that. A SQLite file
    that is not there yet is fine, and empty.

    Raises:
        StoreError: it could not. What `look` raises comes out.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        _probe_file(file_of(url), look)
        return
    arguments = {"connect_timeout": _PROBE_SECONDS} if parsed.get_backend_name() in _HAVE_TIMEOUT else {}
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args=arguments, hide_parameters=True)
    reads = _SNAPSHOTS.get(parsed.get_backend_name(), {})
    try:
        with engine.connect().execution_options(**reads) as connection:
            _check_version(schema.existing_version_of(connection))
            look(connection)
    except sa.exc.SQLAlchemyError as error:
        shown_url = _shown(parsed)
        raise StoreError(f"database {shown_url}: {_reason(error)}") from None


def _probe_file(path: str | None, look: Callable[[sa.Connection], None]) -> None:
    if path is None or not os.path.exists(path):
        if path is not None:
            _check_writable(path)
        with sa.create_engine("sqlite://", poolclass=sa.NullPool).connect() as connection:
            look(connection)
        return
    _check_writable(path)
    shown_url = f"sqlite:///{path}"
    # A file without a log beside it is open nowhere; opened as usual it would get one.
    mode = "ro" if os.path.exists(f"{path}-wal") else "ro&immutable=1"
    file = f"file:{quote(path)}?mode={mode}&uri=true"
    engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            _check_version(schema.existing_version_of(connection))
            look(connection)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"database {shown_url}: {_reason(error)}") from None


def _check_writable(path: str) -> None:
    shown_url = f"sqlite:///{path}"
    directory = os.path.dirname(path)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(
            f"database {shown_url}: no permission to make files in {directory}; let this user do it"
        )
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(f"database {shown_url}: no permission to read and write it; let this user do it")


class _Undone(Exception):  # noqa: N818 - what it reports is no error
    """Undoes a rehearsal that has come to its end."""


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
        if parsed.drivername.partition("+")[0] == "postgres":
            raise StoreError(
                "database: SQLAlchemy knows no postgres://; write postgresql+psycopg:// for it"
            ) from None
        raise StoreError(
            f"database: SQLAlchemy knows no {parsed.drivername}; write sqlite:///fastws.db or another URL"
        ) from None
    except sa.exc.ArgumentError:
        raise StoreError(
            "database: this is no database URL; write sqlite:///fastws.db or another SQLAlchemy URL"
        ) from None
    except ImportError as error:
        is_ours = parsed.drivername == "postgresql+psycopg"
        how = 'pip install "psycopg[binary]"' if is_ours else "install it with pip"
        if parsed.get_backend_name() == "postgresql" and not is_ours:
            how += ', or write postgresql+psycopg:// and pip install "psycopg[binary]"'
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


# What makes the transactions of a database show one moment and hold nobody up.
_SNAPSHOTS: Final[dict[str, dict[str, Any]]] = {
    "sqlite": sqlite.READS,
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    text = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error)
    if sqlite.is_about_text(error):
        return "a text in it is not UTF-8; correct or delete it"
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
