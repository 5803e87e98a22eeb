"""What outlives the process: the SQL database behind any SQLAlchemy URL, and the alert rules in it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from decimal import Decimal, InvalidOperation
from itertools import groupby
from queue import SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from fastws.errors import FastwsError

Result = TypeVar("Result")

MAX_JOBS: Final = 1000
"""How many jobs may wait for the database."""
MAX_USER_ID: Final = 255
"""Characters of the longest user id that can be stored."""

_WAL_SECONDS: Final = 10.0
_MAX_IDS: Final = 500  # in one statement; SQLite before 3.32 takes 999 values, MSSQL 2100
_MAX_ID: Final = 2**63 - 1


class StoreError(FastwsError):
    """The database cannot be used, or did not do what it was asked for; the text is one line without secrets.

    What failed has not happened, with one exception: when the connection broke during the commit, nobody
    knows.
    """


class Rule(msgspec.Struct, frozen=True, gc=False):
    """An alert rule as stored. `fired_ms` and `fired_price` are None while it waits.

    Times are milliseconds since the Unix epoch; numbers have the digits in which they were given.
    """

    id: int
    user_id: str
    code: str
    alert_type: str
    threshold: int | Decimal
    created_ms: int
    fired_ms: int | None = None
    fired_price: int | Decimal | None = None


class Firing(NamedTuple):
    """A rule that a price has crossed, and the price."""

    rule_id: int
    fired_ms: int
    price: int | Decimal


def number_text(number: int | Decimal) -> str:
    """Return the digits of `number` without an exponent, as JSON and the database have them."""
    return format(number, "f") if isinstance(number, Decimal) else str(number)


def _number(text: str) -> int | Decimal:
    return Decimal(text) if "." in text else int(text)


# The tables as they are now. How a database gets there stands in _MIGRATIONS.

_METADATA: Final = sa.MetaData()
_VERSIONS: Final = sa.Table(
    "schema_version", _METADATA, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False)
)
_RULES: Final = sa.Table(
    "alert_rules",
    _METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("user_id", sa.String(MAX_USER_ID), nullable=False, index=True),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("alert_type", sa.String(32), nullable=False),
    # Numbers are plain decimal text: no database has a numeric type that keeps the digits of 1.90.
    sa.Column("threshold", sa.String(40), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # ms since the Unix epoch, like every time
    sa.Column("fired_at", sa.BigInteger),
    sa.Column("fired_price", sa.String(40)),
    sa.Column("fired_by", sa.String(32)),  # the process that fired it
    sqlite_autoincrement=True,  # the id of a deleted rule never names another
)


def _create_alert_rules(connection: sa.Connection) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "alert_rules",
        metadata,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("user_id", sa.String(255), nullable=False, index=True),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("alert_type", sa.String(32), nullable=False),
        sa.Column("threshold", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("fired_at", sa.BigInteger),
        sa.Column("fired_price", sa.String(40)),
        sa.Column("fired_by", sa.String(32)),
        sqlite_autoincrement=True,
    )
    metadata.create_all(connection, checkfirst=False)


# The n-th brings a database from version n - 1 to n. One that was released is never changed, so none refers
# to the tables above, which are.
_MIGRATIONS: Final[Sequence[Callable[[sa.Connection], None]]] = (_create_alert_rules,)


def _migrate(connection: sa.Connection) -> None:
    _VERSIONS.create(connection, checkfirst=True)
    version = connection.scalar(sa.select(sa.func.max(_VERSIONS.c.version))) or 0
    if version > len(_MIGRATIONS):
        raise StoreError(
            f"database: was written by a newer fastws (schema {version}, this one knows {len(_MIGRATIONS)}); "
            "update fastws or name another database"
        )
    for number in range(version + 1, len(_MIGRATIONS) + 1):
        _MIGRATIONS[number - 1](connection)
        connection.execute(sa.insert(_VERSIONS).values(version=number))


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

    # Alert rules.

    async def add_rule(
        self,
        user_id: str,
        code: str,
        alert_type: str,
        threshold: int | Decimal,
        created_ms: int,
        *,
        limit: int,
    ) -> Rule | None:
        """Store a rule and return it; None, and nothing stored, when the user has `limit` rules already.

        Fired rules count. Instances of a cluster that add at the same moment may each take the last place.
        """

        def job(connection: sa.Connection) -> Rule | None:
            rules_of_user = sa.select(sa.func.count()).select_from(_RULES).where(_RULES.c.user_id == user_id)
            if connection.execute(rules_of_user).scalar_one() >= limit:
                return None
            result = connection.execute(
                sa.insert(_RULES).values(
                    user_id=user_id,
                    code=code,
                    alert_type=alert_type,
                    threshold=number_text(threshold),
                    created_at=created_ms,
                )
            )
            rule_id = result.inserted_primary_key[0]  # type: ignore[index]  # never None for one row
            return Rule(rule_id, user_id, code, alert_type, threshold, created_ms)

        return await self.run(job)

    async def waiting_rules(self) -> list[Rule]:
        """Return every rule that has not fired, oldest first."""
        return await self.run(lambda connection: _read_rules(connection, _RULES.c.fired_at.is_(None)))

    async def rules_of(self, user_id: str) -> list[Rule]:
        """Return the rules of a user, fired ones too, oldest first."""
        rules = await self.run(lambda connection: _read_rules(connection, _RULES.c.user_id == user_id))
        # Some databases take "Kim" and "kim" for equal.
        return [rule for rule in rules if rule.user_id == user_id]

    async def delete_rule(self, user_id: str, rule_id: int) -> bool:
        """Delete a rule of a user, waiting or fired; return whether there was one."""
        if not 0 < rule_id <= _MAX_ID:
            return False

        def job(connection: sa.Connection) -> bool:
            owner = connection.scalar(sa.select(_RULES.c.user_id).where(_RULES.c.id == rule_id))
            if owner != user_id:  # in Python: see rules_of
                return False
            return connection.execute(sa.delete(_RULES).where(_RULES.c.id == rule_id)).rowcount > 0

        return await self.run(job)

    async def fire_rules(self, firings: Sequence[Firing], fired_by: str) -> set[int]:
        """Mark rules as fired and return the ids of those that `fired_by` fired, now or in an earlier call.

        The others were fired by another process, or deleted. So after an error the same call may be
        repeated until it succeeds, whatever had become of the first one. `fired_by` names a process: at most
        32 characters, never used again by another one.
        """

        def job(connection: sa.Connection) -> set[int]:
            ours: set[int] = set()
            for (fired_ms, price), group in groupby(firings, _time_and_price):
                ids = [firing.rule_id for firing in group]
                for i in range(0, len(ids), _MAX_IDS):
                    is_meant = _RULES.c.id.in_(ids[i : i + _MAX_IDS])
                    connection.execute(
                        sa.update(_RULES)
                        .where(is_meant, _RULES.c.fired_at.is_(None))
                        .values(fired_at=fired_ms, fired_price=price, fired_by=fired_by)
                    )
                    ours.update(
                        connection.scalars(
                            sa.select(_RULES.c.id).where(is_meant, _RULES.c.fired_by == fired_by)
                        )
                    )
            return ours

        return await self.run(job)


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
    return parsed


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


def _time_and_price(firing: Firing) -> tuple[int, str]:
    return firing.fired_ms, number_text(firing.price)


def _read_rules(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Rule]:
    rows = connection.execute(sa.select(_RULES).where(condition).order_by(_RULES.c.id))
    return [_rule(row) for row in rows]


def _rule(row: sa.Row[Any]) -> Rule:
    try:
        return Rule(
            row.id,
            row.user_id,
            row.code,
            row.alert_type,
            _number(row.threshold),
            row.created_at,
            row.fired_at,
            None if row.fired_price is None else _number(row.fired_price),
        )
    except (ValueError, InvalidOperation):
        raise StoreError(
            f"database: row {row.id} of alert_rules holds what is no number; correct or delete it"
        ) from None
