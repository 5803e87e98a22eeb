"""``fastws import``, and a server that runs on the database meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from fastws.cli import main
from tests.clients import client
from tests.conftest import StartServer
from tests.serving import run, until

ADMIN = "the administrator"
INSTRUMENTS = (
    "symbol,name,market,sector,previous_close\nNEW1,Brandneu,KOSPI,IT,100.50\nAAPL,Apfel,NASDAQ,IT,1\n"
)
PORTFOLIOS = "id,owner,name,currency\n123,kim,Growth Portfolio,USD\n"
POSITIONS = "portfolio_id,symbol,quantity,cost\n123,AAPL,100.50,15000.10\n"


@pytest.fixture
def url(tmp_path: Path) -> str:
    for name, content in (("instruments", INSTRUMENTS), ("portfolios", PORTFOLIOS), ("positions", POSITIONS)):
        (tmp_path / f"{name}.csv").write_text(content)
    return f"sqlite:///{tmp_path}/fastws.db"


def rows_of(directory: Path, table: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(directory / "fastws.db")) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def test_files_are_imported_and_counted(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, n in (("instruments", 2), ("portfolios", 1), ("positions", 1)):
        assert main(["import", kind, f"{kind}.csv", "--database", url]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out == (
            f"imported: {n} {kind[:-1] if n == 1 else kind} of {kind}.csv into {url}:"
            f" {n} new, 0 changed, 0 as before; 0 removed\n"
        )
    assert rows_of(tmp_path, "positions") == [(123, "AAPL", "100.50", "15000.10")]
    (tmp_path / "portfolios.csv").write_text("id,owner,name,currency\n7,lee,A,USD\n")
    tried = run(tmp_path, "import", "portfolios", "portfolios.csv", "--dry-run", "--prune", database=url)
    assert tried.stdout == (
        f"would be imported: 1 portfolio of portfolios.csv into {url}: "
        "1 new, 0 changed, 0 as before; 1 removed\n1 position of a removed portfolio was removed, too\n"
    )
    assert [row[0] for row in rows_of(tmp_path, "portfolios")] == [123]


def test_what_is_wrong_is_said_line_by_line(tmp_path: Path, url: str) -> None:
    (tmp_path / "positions.csv").write_text(
        "portfolio_id,symbol,quantity\n1,AAPL,ten\n1,MSFT,1\n1,MSFT,2\n1,A\n"
    )
    done = run(tmp_path, "import", "positions", "positions.csv", database=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "fastws: error: positions.csv, line 2, column quantity: "
        "expected a plain number such as 100 or 0.25, got 'ten'",
        "fastws: error: positions.csv, line 4: MSFT of portfolio 1 stands in line 3 already",
        "fastws: error: positions.csv, line 5: has 2 cells, the header has 3; put a cell that holds a comma in quotes",
        "fastws: error: positions.csv, line 2, column portfolio_id: there is no portfolio 1 in the database; "
        "import portfolios first",
        "fastws: error: nothing was imported",
    ]
    assert not (tmp_path / "fastws.db").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (
            ("positions", "positions.csv"),
            2,
            "database: there is none to import into; name it, as --database sqlite",
        ),
        (
            ("positions", "x.csv", "--database", "sqlite://"),
            2,
            "database: one in memory ends with this command",
        ),
        (("positions", "x.csv", "--database", "nosuch://"), 2, "database: SQLAlchemy knows no nosuch"),
        (("positions", "x.csv", "--database", "sqlite:///x.db"), 1, "x.csv: cannot be read: No such file"),
        (("people", "x.csv"), 2, "invalid choice: 'people'"),
        (
            ("positions", "positions.csv", "--database", "sqlite:///x.db"),
            1,
            "there is no portfolio 123 in the database",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(
    tmp_path: Path,
    url: str,
    arguments: tuple[str, ...],
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTWS_DATABASE", raising=False)
    try:
        found = main(["import", *arguments])
    except SystemExit as left:
        found = int(left.code or 0)
    out, err = capsys.readouterr()
    assert (found, out) == (status, "")
    assert text in err


async def test_a_server_serves_the_instruments_of_its_database(
    server: StartServer, tmp_path: Path, url: str
) -> None:
    assert run(tmp_path, "import", "instruments", "instruments.csv", database=url).returncode == 0
    target = server(database=url, admin_token=ADMIN)
    publish = {"type": "price_update", "code": "NEW1", "price": 7}
    async with client(target.url, ssl=target.tls) as connection:
        await connection.subscribe("stock", "NEW1")
        await connection.until_snapshot()
        body = str(publish).replace("'", '"').encode()
        headers = {"Authorization": f"Bearer {ADMIN}"}
        assert target.get("/v1/publish", "POST", body, headers)[0] == 202
        until(lambda: target.get_json("/v1/stocks/NEW1")["name"] == "Brandneu", "the name of the database")


def test_a_server_without_its_database_goes_on(server: StartServer, tmp_path: Path, url: str) -> None:
    assert run(tmp_path, "import", "portfolios", "portfolios.csv", database=url).returncode == 0
    target = server("--feed", "sim", database=url, save_interval=0.2, portfolio_poll_interval=0.2)
    (tmp_path / "fastws.db").rename(tmp_path / "elsewhere.db")
    until(lambda: "last values are not saved" in target.log, "the loss, as last values have it")
    until(lambda: "portfolios cannot be read again" in target.log, "the loss, as portfolios have it")
    sent = target.get_json("/v1/stocks/AAPL").get("sequence", 0)
    until(lambda: target.get_json("/v1/stocks/AAPL").get("sequence", 0) > sent, "prices that go on", 30)
    (tmp_path / "elsewhere.db").rename(tmp_path / "fastws.db")


def test_a_query_that_lacks_a_column_keeps_a_server_from_starting(tmp_path: Path, url: str) -> None:
    queries = {
        "portfolios_query": "SELECT 1 AS id, 'kim' AS owner, 'A' AS name",
        "positions_query": "SELECT 1 AS portfolio_id",
    }
    done = run(tmp_path, "serve", "--port", "0", database=url, **queries)
    assert done.returncode == 2
    assert "positions_query: the column symbol is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there_is_no_mistake_of_the_settings(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--port", "0", database="postgresql+psycopg://fastws@127.0.0.1:1/fastws")
    assert done.returncode == 1
    assert "database postgresql+psycopg://fastws@127.0.0.1:1/fastws: " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_simulator_plays_instruments_of_the_database(
    server: StartServer, tmp_path: Path, url: str
) -> None:
    (tmp_path / "instruments.csv").write_text(INSTRUMENTS + "NEW2,Without a close,KOSPI,IT,\n")
    assert run(tmp_path, "import", "instruments", "instruments.csv", database=url).returncode == 0
    target = server("--feed", "sim", database=url, simulator_rate=2000)
    until(lambda: target.get("/v1/stocks/NEW1")[0] == 200, "a price of what only the database has", 30)
    assert "are not simulated: they have no previous_close" in target.log
