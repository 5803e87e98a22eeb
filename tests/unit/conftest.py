"""Databases for the tests of what is stored, and how long an example of hypothesis may take."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fastws.market.store import Store
from tests.postgres import PostgresServer
from tests.serving import missing

# A machine that stands still for a moment fails no test; one that hangs has a limit of its own.
settings.register_profile("fastws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fastws")


@pytest.fixture(scope="session")
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
