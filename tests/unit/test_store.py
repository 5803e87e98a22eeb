"""The database on real files and, where it is installed, on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from fastws.market import schema, sqlite
from fastws.market.jobs import MAX_JOBS
from fastws.market.schema import ALERT_RULES
from fastws.market.store import Store, StoreError
from tests.postgres import PostgresServer
from tests.rules import add, waiting
from tests.serving import ROOT

# Jobs.


async def test_what_a_job_raises_comes_out_and_undoes_it(store: Store) -> None:
    def job(connection: sa.Connection) -> None:
        connection.execute(sa.delete(ALERT_RULES))
        connection.execute(sa.text("CREATE TABLE other (id INTEGER)"))
        raise LookupError("mine")

    rule = await add(store)
    with pytest.raises(LookupError, match="mine"):
        await store.run(job)
    assert await waiting(store) == [rule]
    tables = await store.run(lambda connection: sa.inspect(connection).get_table_names())
    assert sorted(tables) == sorted(schema.METADATA.tables)


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
        await waiting(store)
    again = Store(lasting_url)
    await again.open()
    assert len(await waiting(again)) == 20
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
    assert await waiting(store) == []
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
                await waiting(store)
    finally:
        postgres.start()
    assert await waiting(store) == [rule]
    await store.close()


# Durability.


async def test_only_its_owner_reads_a_new_sqlite_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        store = Store(f"sqlite:///{tmp_path}/x.db")
        await store.open()
        modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
        await store.close()
    finally:
        os.umask(mask)
    assert modes == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


async def test_the_permissions_of_a_file_that_is_there_stay(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    file.touch(0o640)
    file.chmod(0o640)
    store = Store(f"sqlite:///{file}")
    await store.open()
    await store.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


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
from fastws.market.alert_store import AlertStore
from fastws.market.store import Store

async def main():
    store = Store(sys.argv[1])
    await store.open()
    rules = AlertStore(store)
    number = 0
    while True:
        number += 1
        rule = await rules.add_rule("kim", "005930", "price_above", number, 1, limit=10**9)
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
    stored = [(rule.id, rule.threshold) for rule in await waiting(store)]
    # At most the one that was being stored was not reported.
    assert stored[: len(reported)] == reported
    assert len(stored) <= len(reported) + 1
    if store.shown_url.startswith("sqlite"):
        assert await store.run(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
    await store.close()


# Opening.


async def test_two_instances_may_start_on_a_new_database(lasting_url: str) -> None:
    stores = [Store(lasting_url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    rules = [await add(store) for store in stores]
    for store in stores:
        assert await waiting(store) == rules
        await store.close()


async def test_one_server_at_a_time_has_claimed_a_file(tmp_path: Path) -> None:
    first, second = (Store(f"sqlite:///{tmp_path}/fastws.db") for _ in range(2))
    for store in (first, second):
        await store.open()
    assert (first.claim(), second.claim()) == (True, False)
    await first.close()
    assert second.claim()
    await second.close()
    memory = Store()
    assert memory.claim()
    nowhere = sqlite.File(f"{tmp_path}/nowhere/fastws.db")
    assert nowhere.claim()
    nowhere.release()


async def test_what_only_reads_cannot_write_in_memory_either() -> None:
    store = Store()
    await store.open()
    for _ in range(2):
        with pytest.raises(StoreError, match="readonly"):
            await store.read(lambda connection: connection.exec_driver_sql("DELETE FROM alert_rules"))
        await add(store)
    assert len(await store.read(lambda connection: connection.execute(sa.select(ALERT_RULES)).all())) == 2
    await store.close()


async def test_a_database_in_memory_ends_with_its_store() -> None:
    for url in (None, "sqlite://", "sqlite:///:memory:"):
        store = Store(url)
        assert store.is_in_memory
        await store.open()
        await add(store)
        assert len(await waiting(store)) == 1
        await store.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("fastws.db", "this is no database URL; write sqlite:///fastws.db or another SQLAlchemy URL"),
        ("user:s3cret@host/name", "this is no database URL"),
        ("nosuch://user:s3cret@host/name", "SQLAlchemy knows no nosuch; write"),
        ("postgres://user:s3cret@host/name", "knows no postgres://; write postgresql+psycopg://"),
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
    with pytest.raises(StoreError, match=r"there is no directory .*/missing; make it or name another file$"):
        Store(f"sqlite:///{tmp_path}/missing/fastws.db")
    store = Store(f"sqlite:///{tmp_path}")
    assert not store.is_in_memory
    with pytest.raises(StoreError, match=r"unable to open database file$"):
        await store.open()
    await store.close()
    directory = tmp_path / "nothing"
    store = Store(f"postgresql+psycopg://kim:s3cret@/name?host={directory}")
    assert "s3cret" not in store.shown_url
    with pytest.raises(StoreError) as caught:
        await store.open()
    assert "No such file or directory" in str(caught.value)
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_file_that_was_moved_away_takes_nothing_until_it_is_back(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "alerts.db", tmp_path / "elsewhere.db"
    store = Store(f"sqlite:///{path}")
    await store.open()
    try:
        first = await add(store)
        path.rename(elsewhere)
        for _ in range(2):
            with pytest.raises(StoreError, match=r"alerts\.db was moved or deleted; put it back"):
                await add(store)
        with pytest.raises(StoreError, match="moved or deleted"):
            await waiting(store)
        # None was made in its place, and all that was stored is in the one file, nothing in a log beside it.
        assert not path.exists()
        log = path.with_name(f"{path.name}-wal")
        assert log.read_bytes() == b""
        with sqlite3.connect(elsewhere) as connection:
            assert connection.execute("SELECT count(*) FROM alert_rules").fetchone() == (1,)
        connection.close()
        elsewhere.rename(path)
        second = await add(store)
        assert await waiting(store) == [first, second]
        # Another file has other rules, or the same with other numbers.
        path.rename(elsewhere)
        path.write_bytes(elsewhere.read_bytes())
        with pytest.raises(StoreError, match=r"another file was put at .*alerts\.db; restart the server"):
            await add(store)
    finally:
        await store.close()


async def test_a_file_that_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "alerts.db"
    store = Store(f"sqlite:///{path}")
    await store.open()
    try:
        await add(store)
        path.unlink()
        with pytest.raises(StoreError, match="moved or deleted"):
            await add(store)
        assert not path.exists()
    finally:
        await store.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "fastws.db"
    path.write_bytes(b"this is not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=r"file is not a database$"):
        await Store(f"sqlite:///{path}").open()
