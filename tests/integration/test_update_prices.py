"""`fastws update-prices` as a process, with a real database."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from fastws.kis.testing import FakeKIS
from tests.serving import require_module, run
from tests.yahoo import FakeYahoo, chart

TODAY = datetime.datetime.now(datetime.UTC).date()


def rows_of(database: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT symbol, date, open, high, low, close, volume FROM daily_prices ORDER BY symbol, date"
        ).fetchall()


def weekdays(n: int) -> list[str]:
    """The dates of the weekdays of the last `n` days that are over."""
    days = [TODAY - datetime.timedelta(days=i) for i in range(n, 0, -1)]
    return [str(day) for day in days if day.weekday() < 5]


@pytest.fixture
def update(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    def call(*arguments: str, name: str = "update-prices", **settings: object) -> CompletedProcess[str]:
        return run(tmp_path, name, *arguments, **settings)

    return call


def test_the_last_day_of_every_symbol(update: Callable[..., Any], tmp_path: Path) -> None:
    database = tmp_path / "fastws.db"
    (tmp_path / "symbols.csv").write_text(
        "symbol,name,market,sector,previous_close\nAAPL,Apple,NASDAQ,,150\nMSFT,Microsoft,NASDAQ,,410\n"
    )
    flags = ("--source", "simulator", "--database", f"sqlite:///{database}", "--symbols-file", "symbols.csv")
    done = update(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 rows new or changed, 2 daily prices from simulator\n"
    rows = rows_of(database)
    assert [(row[0], row[1]) for row in rows] == [("AAPL", weekdays(14)[-1]), ("MSFT", weekdays(14)[-1])]
    assert update(*flags).stdout == "0 rows new or changed, 2 daily prices from simulator\n"
    assert rows_of(database) == rows


def test_history_of_some_symbols_by_the_other_name(update: Callable[..., Any], tmp_path: Path) -> None:
    database = tmp_path / "fastws.db"
    done = update(
        "--symbols", "AAPL", "MSFT", "--historical", "--days", "30",
        name="update_asset_prices", source="simulator", database=f"sqlite:///{database}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = rows_of(database)
    assert {row[0] for row in rows} == {"AAPL", "MSFT"}
    assert [row[1] for row in rows if row[0] == "AAPL"] == weekdays(29)


def test_a_dry_run_writes_nothing(update: Callable[..., Any], tmp_path: Path) -> None:
    database = tmp_path / "fastws.db"
    flags = ("--source", "simulator", "--database", f"sqlite:///{database}", "--historical", "--days", "7")
    done = update(*flags, "--symbols", "AAPL", "--dry-run")
    assert done.returncode == 0, done.stderr
    days = weekdays(6)
    *lines, last = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"would write AAPL {day}" for day in days]
    assert " close " in lines[0]
    assert last == f"would write {len(days)} rows, {len(days)} daily prices from simulator"
    assert not database.exists()
    # Also not to a database that is there, whose symbols it takes.
    (tmp_path / "instruments.csv").write_text("symbol,name,market,sector,previous_close\nXYZ,X,,,12\n")
    imported = run(
        tmp_path, "import", "instruments", "instruments.csv", "--database", f"sqlite:///{database}"
    )
    assert imported.returncode == 0, imported.stderr
    before = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("fastws.db*")
    }
    done = update(*flags, "--dry-run")
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:-1]] == [
        f"would write XYZ {day}" for day in days
    ]
    assert before == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("fastws.db*")
    }


def test_what_cannot_be_had_is_named_and_the_rest_is_written(
    update: Callable[..., Any], tmp_path: Path
) -> None:
    day = str(TODAY - datetime.timedelta(days=2))
    (tmp_path / "prices.csv").write_text(
        f"symbol,date,close\nAAPL,{day},150.20\nAAPL,{TODAY - datetime.timedelta(days=1)},0\nMSFT,2001-01-01,5\n"
    )
    database = tmp_path / "fastws.db"
    flags = ("--source", "csv", "--database", f"sqlite:///{database}")
    done = update(*flags, "--symbols", "AAPL", "MSFT")
    assert done.returncode == 1
    assert "no daily prices of MSFT: the source has none that can be used" in done.stderr
    assert "not positive: close: 0" in done.stderr
    assert [(row[0], row[1], row[5]) for row in rows_of(database)] == [("AAPL", day, "150.20")]
    (tmp_path / "prices.csv").write_text("no prices")
    done = update(*flags, "--symbols", "AAPL", "MSFT")
    assert done.returncode == 1
    assert "no daily prices of MSFT: source away: " in done.stderr
    assert len(rows_of(database)) == 1


def test_without_a_database_it_says_what_to_do(update: Callable[..., Any]) -> None:
    done = update("--source", "simulator")
    assert done.returncode == 2
    assert "database: there is none to write to" in done.stderr.splitlines()[-1]
    assert "or add --dry-run" in done.stderr


async def test_kis_and_yahoo(
    update: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_module("yfinance")
    database = tmp_path / "fastws.db"
    url = f"sqlite:///{database}"
    async with FakeKIS(token_interval=0) as kis:
        for name, value in kis.variables().items():
            monkeypatch.setenv(name, value)
        flags = ("--source", "kis", "--database", url, "--symbols", "005930")
        done = await asyncio.to_thread(update, *flags, "--historical", "--days", "10")
        assert done.returncode == 0, done.stderr
    prices = rows_of(database)
    assert len(prices) >= 5
    assert all(row[5].isdigit() for row in prices)
    day = TODAY - datetime.timedelta(days=3)
    at = int(datetime.datetime.combine(day, datetime.time(14, 30), datetime.UTC).timestamp())
    async with FakeYahoo() as yahoo:
        for name, value in yahoo.variables.items():
            monkeypatch.setenv(name, value)
        yahoo.charts = {"AAPL": chart("AAPL", [(at, 150.25999450683594)])}
        done = await asyncio.to_thread(
            update, "--source", "yahoo", "--database", url, "--symbols", "AAPL", "GONE"
        )
        assert done.returncode == 1
        assert "no daily prices of GONE: it says: No data found, symbol may be delisted" in done.stderr
    assert [(row[1], row[5]) for row in rows_of(database) if row[0] == "AAPL"] == [(str(day), "150.26")]
