"""The database on real files and, where it is installed, on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from fastws.market import store as store_module
from fastws.market.store import MAX_JOBS, Firing, Rule, Store, StoreError, number_text
from tests.serving import ROOT, missing

MS = 1_762_853_400_000


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
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self._directory}"
        self._run("pg_ctl", "start", "-w", "-D", f"{self._directory}/data", "-l", "log", "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", f"{self._directory}/data")

    def new_database(self) -> str:
        name = f"test{next(self._numbers)}"
        with psycopg.connect(f"host={self._directory} user=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._directory}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    programs = next((Path(path).parent for path in reversed(found) if path), None)
    if programs is None:
        missing("PostgreSQL is not installed; `make system` installs it")
    # Not below pytest's own directory, into which the server's user may not look.
    with tempfile.TemporaryDirectory(prefix="fastws-postgres-") as directory:
        server = PostgresServer(programs, Path(directory))
        yield server
        server.stop()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "memory":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fastws.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def lasting_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fastws.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def store(url: str | None) -> AsyncIterator[Store]:
    store = Store(url)
    await store.open()
    yield store
    await store.close()


async def add(
    store: Store, user_id: str = "kim", threshold: int | Decimal = 75000, *, limit: int = 1000
) -> Rule:
    rule = await store.add_rule(user_id, "005930", "price_above", threshold, MS, limit=limit)
    assert rule is not None
    return rule


# Alert rules.


async def test_rules_come_back_as_they_were_stored(store: Store) -> None:
    rules = [
        await add(store, "kim", 75000),
        await add(store, "김 철수", Decimal("1.90")),
        await add(store, "kim", Decimal("-0.000000000000000001")),
        await add(store, "kim", 2**63 - 1),
    ]
    assert rules[1] == Rule(rules[1].id, "김 철수", "005930", "price_above", Decimal("1.90"), MS)
    assert await store.waiting_rules() == rules
    assert [number_text(rule.threshold) for rule in await store.waiting_rules()] == [
        "75000",
        "1.90",
        "-0.000000000000000001",
        "9223372036854775807",
    ]
    assert await store.rules_of("kim") == [rules[0], rules[2], rules[3]]
    assert await store.rules_of("KIM") == await store.rules_of("") == []


async def test_the_limit_counts_the_rules_of_one_user(store: Store) -> None:
    for _ in range(3):
        await add(store, "kim", limit=3)
    assert await store.add_rule("kim", "005930", "price_above", 1, MS, limit=3) is None
    assert len(await store.rules_of("kim")) == 3
    await add(store, "lee", limit=3)
    first, *_ = await store.rules_of("kim")
    await store.fire_rules([Firing(first.id, MS, 75100)], "me")
    assert await store.add_rule("kim", "005930", "price_above", 1, MS, limit=3) is None
    assert await store.delete_rule("kim", first.id)
    await add(store, "kim", limit=3)


async def test_a_rule_is_deleted_by_its_owner_only(store: Store) -> None:
    rule = await add(store, "kim")
    for user_id, rule_id in (
        ("lee", rule.id),
        ("KIM", rule.id),
        ("kim", rule.id + 1),
        ("kim", 0),
        ("kim", -1),
    ):
        assert not await store.delete_rule(user_id, rule_id)
    assert not await store.delete_rule("kim", 2**63)
    assert not await store.delete_rule("kim", 10**30)
    assert await store.rules_of("kim") == [rule]
    assert await store.delete_rule("kim", rule.id)
    assert not await store.delete_rule("kim", rule.id)
    assert await store.rules_of("kim") == []
    # Its id is not given to another one.
    assert (await add(store, "kim")).id > rule.id


async def test_firing(store: Store) -> None:
    rules = [await add(store) for _ in range(5)]
    ids = [rule.id for rule in rules]
    assert await store.delete_rule("kim", ids[4])
    assert await store.fire_rules(
        [Firing(ids[0], MS, 75100), Firing(ids[1], MS, Decimal("75100.50"))], "me"
    ) == {
        ids[0],
        ids[1],
    }
    # Fired by another one, asked for again, not fired yet, deleted.
    assert await store.fire_rules([Firing(ids[0], MS + 1, 1), Firing(ids[2], MS + 2, 2)], "other") == {ids[2]}
    firings = [Firing(rule_id, MS + 3, 3) for rule_id in ids]
    assert await store.fire_rules(firings, "me") == {ids[0], ids[1], ids[3]}
    assert await store.fire_rules([], "me") == set()
    fired = await store.rules_of("kim")
    assert [(rule.fired_ms, rule.fired_price) for rule in fired] == [
        (MS, 75100),
        (MS, Decimal("75100.50")),
        (MS + 2, 2),
        (MS + 3, 3),
    ]
    assert fired[1].threshold == 75000
    assert await store.waiting_rules() == []


async def test_thousands_fire_in_one_call(store: Store) -> None:
    def job(connection: sa.Connection) -> None:
        row = {"user_id": "kim", "code": "A", "alert_type": "price_above", "threshold": "1", "created_at": MS}
        connection.execute(sa.insert(store_module._RULES), [row] * 2500)

    await store.run(job)
    ids = [rule.id for rule in await store.waiting_rules()]
    assert len(ids) == 2500
    assert await store.fire_rules([Firing(rule_id, MS, 2) for rule_id in ids], "me") == set(ids)
    assert await store.waiting_rules() == []


async def test_a_row_that_makes_no_rule_is_named(store: Store) -> None:
    rule = await add(store)
    await store.run(
        lambda connection: connection.execute(sa.text("UPDATE alert_rules SET threshold = '1e5'"))
    )
    with pytest.raises(StoreError, match=rf"row {rule.id} of alert_rules .* correct or delete it$"):
        await store.waiting_rules()


# Jobs.


async def test_what_a_job_raises_comes_out_and_undoes_it(store: Store) -> None:
    def job(connection: sa.Connection) -> None:
        connection.execute(sa.delete(store_module._RULES))
        connection.execute(sa.text("CREATE TABLE other (id INTEGER)"))
        raise LookupError("mine")

    rule = await add(store)
    with pytest.raises(LookupError, match="mine"):
        await store.run(job)
    assert await store.waiting_rules() == [rule]
    tables = await store.run(lambda connection: sa.inspect(connection).get_table_names())
    assert sorted(tables) == ["alert_rules", "schema_version"]


async def test_an_error_of_the_database_is_one_line_without_data(store: Store) -> None:
    query = sa.text("SELECT :secret FROM nowhere").bindparams(secret="s3cret")
    with pytest.raises(StoreError) as caught:
        await store.run(lambda connection: connection.execute(query))
    assert str(caught.value).startswith(f"database {store.shown_url}: ")
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
    await add(store)


async def test_jobs_run_one_after_the_other_on_a_thread_of_their_own(store: Store) -> None:
    threads = []
    order: list[int] = []

    def job(i: int) -> Callable[[sa.Connection], int]:
        def run(connection: sa.Connection) -> int:
            threads.append(threading.current_thread())
            order.append(i)
            return i

        return run

    assert await asyncio.gather(*(store.run(job(i)) for i in range(50))) == order == list(range(50))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


async def test_too_many_jobs_are_refused() -> None:
    store = Store()
    await store.open()
    go = threading.Event()
    started = threading.Event()

    def block(connection: sa.Connection) -> None:
        started.set()
        go.wait(30)

    blocked = asyncio.ensure_future(store.run(block))
    await asyncio.sleep(0)
    assert started.wait(10)
    waiting = [asyncio.ensure_future(store.run(lambda connection: 1)) for _ in range(MAX_JOBS)]
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match=rf"{MAX_JOBS} requests wait for it; try again later$"):
        await store.run(lambda connection: 1)
    go.set()
    await blocked
    assert await asyncio.gather(*waiting) == [1] * MAX_JOBS
    await store.close()


async def test_a_job_is_not_begun_for_an_asker_who_is_gone(store: Store) -> None:
    go = threading.Event()
    blocked = asyncio.ensure_future(store.run(lambda connection: go.wait(30)))
    given_up = asyncio.ensure_future(store.run(lambda connection: done.append("given up")))
    kept = asyncio.ensure_future(store.run(lambda connection: done.append("kept")))
    done: list[str] = []
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(blocked, kept)
    assert done == ["kept"]


async def test_closing_finishes_what_was_asked_for(lasting_url: str) -> None:
    store = Store(lasting_url)
    await store.open()
    adding = [asyncio.ensure_future(add(store, f"user{i}")) for i in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert [(await task).user_id for task in adding] == [f"user{i}" for i in range(20)]
    await store.close()
    with pytest.raises(StoreError, match=r"is not open$"):
        await store.waiting_rules()
    again = Store(lasting_url)
    await again.open()
    assert len(await again.waiting_rules()) == 20
    await again.close()


async def test_closing_gives_up_on_a_database_that_does_not_answer() -> None:
    store = Store()
    await store.open()
    go = threading.Event()
    blocked = asyncio.ensure_future(store.run(lambda connection: go.wait(30)))
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match=r"still busy 0\.05 s after the last request"):
        await store.close(0.05)
    go.set()
    await blocked


async def test_the_loop_runs_on_while_the_database_is_slow(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/fastws.db?timeout=1")
    await store.open()
    other = sqlite3.connect(tmp_path / "fastws.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    asking = asyncio.ensure_future(add(store))
    gaps = []
    before = time.monotonic()
    while not asking.done():
        await asyncio.sleep(0.005)
        gaps.append(time.monotonic() - before)
        before = time.monotonic()
    assert sum(gaps) > 0.9
    assert max(gaps) < 0.5
    with pytest.raises(StoreError, match=r"database is locked$"):
        await asking
    other.execute("ROLLBACK")
    other.close()
    assert await store.waiting_rules() == []
    await add(store)
    await store.close()


async def test_a_server_that_went_away_and_came_back(postgres: PostgresServer) -> None:
    store = Store(postgres.new_database())
    await store.open()
    rule = await add(store)
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"^database postgresql"):
                await store.waiting_rules()
    finally:
        postgres.start()
    assert await store.waiting_rules() == [rule]
    await store.close()


# Durability.


async def test_a_commit_in_sqlite_reaches_the_disk(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/fastws.db")
    await store.open()

    def pragmas(connection: sa.Connection) -> tuple[object, object]:
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        return journal, connection.exec_driver_sql("PRAGMA synchronous").scalar()

    assert await store.run(pragmas) == ("wal", 2)  # 2 is FULL
    await store.close()


WRITER = """
import asyncio, sys
from fastws.market.store import Store

async def main():
    store = Store(sys.argv[1])
    await store.open()
    number = 0
    while True:
        number += 1
        rule = await store.add_rule("kim", "005930", "price_above", number, 1, limit=10**9)
        print(rule.id, number, flush=True)

asyncio.run(main())
"""


def killed_after(n_answers: int, url: str) -> list[tuple[int, ...]]:
    """Let a process store rules; kill it after so many answers, and return them and those that came yet."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITER, url], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(n_answers)]
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    assert process.wait(10) == -9
    return [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("n_answers", [1, 2, 60])
async def test_what_was_reported_as_stored_survives_a_kill(lasting_url: str, n_answers: int) -> None:
    reported = killed_after(n_answers, lasting_url)
    assert len(reported) >= n_answers
    store = Store(lasting_url)
    await store.open()
    stored = [(rule.id, rule.threshold) for rule in await store.waiting_rules()]
    # At most the one that was being stored was not reported.
    assert stored[: len(reported)] == reported
    assert len(stored) <= len(reported) + 1
    if store.shown_url.startswith("sqlite"):
        assert await store.run(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
    await store.close()


# Opening.


async def test_the_tables_are_those_that_the_program_uses(store: Store) -> None:
    def shape(connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        columns = [
            (column["name"], column["nullable"], str(column["type"]).upper())
            for column in sa.inspect(connection).get_columns(table.name)
        ]
        indexes = [
            (index["name"], index["column_names"]) for index in sa.inspect(connection).get_indexes(table.name)
        ]
        expected_columns = [
            (column.name, column.nullable, column.type.compile(connection.dialect))
            for column in table.columns
        ]
        expected_indexes = [(index.name, index.columns.keys()) for index in table.indexes]
        assert columns == expected_columns
        assert indexes == expected_indexes
        return tuple(columns)

    for table in store_module._METADATA.sorted_tables:
        assert await store.run(lambda connection, table=table: shape(connection, table))  # type: ignore[misc]


async def test_a_database_is_brought_forward(lasting_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def versions(store: Store) -> list[int]:
        query = sa.text("SELECT version FROM schema_version ORDER BY version")
        return await store.run(lambda connection: list(connection.scalars(query)))

    store = Store(lasting_url)
    await store.open()
    rule = await add(store)
    assert await versions(store) == [1]
    await store.close()

    def second(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE alert_rules ADD COLUMN note VARCHAR(10)"))

    def failing(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE half_done (id INTEGER)"))
        connection.execute(sa.text("SELECT * FROM nowhere"))

    released = store_module._MIGRATIONS
    monkeypatch.setattr(store_module, "_MIGRATIONS", (*released, second, failing))
    store = Store(lasting_url)
    with pytest.raises(StoreError, match="nowhere"):
        await store.open()
    monkeypatch.setattr(store_module, "_MIGRATIONS", (*released, second))
    store = Store(lasting_url)
    await store.open()
    assert await versions(store) == [1, 2]
    assert await store.waiting_rules() == [rule]
    inspected = await store.run(lambda connection: sa.inspect(connection).get_columns("alert_rules"))
    assert inspected[-1]["name"] == "note"
    tables = await store.run(lambda connection: sa.inspect(connection).get_table_names())
    assert "half_done" not in tables
    await store.close()

    monkeypatch.setattr(store_module, "_MIGRATIONS", released)
    store = Store(lasting_url)
    with pytest.raises(StoreError, match=r"newer fastws \(schema 2, this one knows 1\); update fastws"):
        await store.open()
    with pytest.raises(StoreError, match=r"is not open$"):
        await store.waiting_rules()


async def test_two_instances_may_start_on_a_new_database(lasting_url: str) -> None:
    stores = [Store(lasting_url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    rules = [await add(store) for store in stores]
    for store in stores:
        assert await store.waiting_rules() == rules
        await store.close()


async def test_a_database_in_memory_ends_with_its_store() -> None:
    for url in (None, "sqlite://", "sqlite:///:memory:"):
        store = Store(url)
        assert store.is_in_memory
        await store.open()
        await add(store)
        assert len(await store.waiting_rules()) == 1
        await store.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("fastws.db", "this is no database URL; write sqlite:///fastws.db or another SQLAlchemy URL"),
        ("user:s3cret@host/name", "this is no database URL"),
        ("nosuch://user:s3cret@host/name", "SQLAlchemy knows no nosuch; write"),
        ("oracle+cx_oracle://user:s3cret@host/name", "the driver of oracle+cx_oracle is not installed"),
        ("postgresql+asyncpg://user:s3cret@host/name", "is an asynchronous driver; name a synchronous one"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, text: str) -> None:
    with pytest.raises(StoreError, match=r"^database: ") as caught:
        Store(url)
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/missing/fastws.db")
    assert not store.is_in_memory
    with pytest.raises(StoreError, match=r"missing/fastws\.db: unable to open database file$"):
        await store.open()
    await store.close()
    directory = tmp_path / "nothing"
    store = Store(f"postgresql+psycopg://kim:s3cret@/name?host={directory}")
    assert "s3cret" not in store.shown_url
    with pytest.raises(StoreError) as caught:
        await store.open()
    assert "No such file or directory" in str(caught.value)
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "fastws.db"
    path.write_bytes(b"this is not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=r"file is not a database$"):
        await Store(f"sqlite:///{path}").open()
