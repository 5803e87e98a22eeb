"""CSV files brought into the database: in memory, in a file and on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fastws.market import bulk
from fastws.market.import_kinds import KINDS
from fastws.market.importer import MAX_PROBLEMS, Imported, ImportRefused, read_table, write_table
from fastws.market.instrument_store import merge, read_instruments
from fastws.market.instruments import Instruments
from fastws.market.portfolio_store import Changes, PortfolioStore
from fastws.market.store import Store, StoreError

Write = Callable[[str, "str | bytes"], str]
Rows = list[tuple[Any, ...]]

INSTRUMENTS = """\
symbol,name,market,sector,previous_close,currency
AAPL,Apple,NASDAQ,IT,149.90,USD
005930,삼성전자,KOSPI,IT,72000,
"""
PORTFOLIOS = """\
id,owner,name,currency
123,kim,"Growth, mostly",USD
7,김 철수,성장,KRW
"""
POSITIONS = """\
portfolio_id,symbol,quantity,cost
123,AAPL,100.50,15000.10
123,MSFT,0.00000001,
7,005930,+010,720000
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / f"{name}.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


async def bring(store: Store, write: Write, kind: str, content: str | bytes, **options: bool) -> Imported:
    return await write_table(store, read_table(kind, write(kind, content)), **options)


async def rows(store: Store, table: str) -> Rows:
    statement = sa.select(KINDS[table].table).order_by(*KINDS[table].table.primary_key)
    return await store.run(lambda connection: [tuple(row) for row in connection.execute(statement)])


def counts(imported: Imported) -> tuple[int, ...]:
    return tuple(imported[:5])


def problems_of(write: Write, kind: str, content: str | bytes) -> list[str]:
    path = write(kind, content)
    with pytest.raises(ImportRefused) as caught:
        read_table(kind, path)
    assert caught.value.n_problems == len(caught.value.problems)
    return [problem.removeprefix(path) for problem in caught.value.problems]


async def test_everything_comes_in_as_it_was_written(store: Store, write: Write) -> None:
    assert counts(await bring(store, write, "instruments", INSTRUMENTS)) == (2, 2, 0, 0, 0)
    assert counts(await bring(store, write, "portfolios", b"\xef\xbb\xbf" + PORTFOLIOS.encode())) == (
        2,
        2,
        0,
        0,
        0,
    )
    imported = await bring(store, write, "positions", POSITIONS.replace("\n", "\r\n"))
    assert counts(imported) == (3, 3, 0, 0, 0)
    assert imported.notes == ["not in the instruments of the database: 1 symbol (MSFT)"]
    assert await rows(store, "instruments") == [
        ("005930", "삼성전자", "KOSPI", "IT", "72000", "KRW"),
        ("AAPL", "Apple", "NASDAQ", "IT", "149.90", "USD"),
    ]
    assert await rows(store, "portfolios") == [
        (7, "김 철수", "성장", "KRW"),
        (123, "kim", "Growth, mostly", "USD"),
    ]
    assert await rows(store, "positions") == [
        (7, "005930", "10", "720000"),
        (123, "AAPL", "100.50", "15000.10"),
        (123, "MSFT", "0.00000001", None),
    ]
    loaded = await PortfolioStore(store).load()
    assert loaded.quantities.tolist() == [10**9, 10_050_000_000, 1]


async def test_numbers_are_stored_without_what_means_nothing(store: Store, write: Write) -> None:
    written = {
        "007": "7", "+2": "2", "1.50": "1.50", "-0.25": "-0.25", "00.5": "0.5", "12345678901": "12345678901",
        "-0.00000001": "-0.00000001", "0.10000000": "0.10000000", "9999999999.99999999": "9999999999.99999999",
    }  # fmt: skip
    await bring(store, write, "portfolios", PORTFOLIOS)
    lines = [f"7,S{i},{text},{text}" for i, text in enumerate(written)]
    await bring(store, write, "positions", "\n".join(["portfolio_id,symbol,quantity,cost", *lines]))
    assert await rows(store, "positions") == [
        (7, f"S{i}", text, text) for i, text in enumerate(written.values())
    ]
    again = [f"7,S{i},{text},{text}" for i, text in enumerate(written.values())]
    content = "\n".join(["portfolio_id,symbol,quantity,cost", *again])
    assert counts(await bring(store, write, "positions", content)) == (9, 0, 0, 9, 0)


async def test_more_rows_than_the_driver_gets_at_a_time(
    store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_CHUNK", 3)
    await bring(store, write, "portfolios", PORTFOLIOS)
    for quantity, expected in ((1, (7, 7, 0, 0, 0)), (2, (7, 0, 7, 0, 0))):
        lines = [f"7,S{i},{quantity}" for i in range(7)]
        content = "\n".join(["portfolio_id,symbol,quantity", *lines])
        assert counts(await bring(store, write, "positions", content)) == expected
        assert await rows(store, "positions") == [(7, f"S{i}", str(quantity), None) for i in range(7)]


def test_lines_end_as_they_do_in_files(write: Write) -> None:
    """Of old Macs, of Windows, within quotes; and not where Unicode has other ends of lines."""
    content = (
        'id,owner,name,currency\r1,kim,A\x0bB,USD\r2,kim,"C\nD",USD\r\n3,kim,E\u2028F,USD\n\r\nx,kim,G,USD'
    )
    assert problems_of(write, "portfolios", content) == [
        ", line 2, column name: holds what cannot be printed: 'A\\x0bB'",
        ", line 4, column name: holds what cannot be printed: 'C\\nD'",
        ", line 5, column name: holds what cannot be printed: 'E\\u2028F'",
        ", line 7, column id: expected a whole number, got 'x'",
    ]


async def test_the_same_again_changes_nothing(store: Store, write: Write) -> None:
    for kind, content in (("portfolios", PORTFOLIOS), ("positions", POSITIONS)):
        await bring(store, write, kind, content)
    reader = PortfolioStore(store)
    version = (await reader.load()).version
    assert counts(await bring(store, write, "portfolios", PORTFOLIOS)) == (2, 0, 0, 2, 0)
    assert counts(await bring(store, write, "positions", POSITIONS)) == (3, 0, 0, 3, 0)
    assert await reader.changes(version) == Changes(version, [], [])


async def test_positions_of_a_portfolio_are_replaced_as_a_whole(store: Store, write: Write) -> None:
    await bring(store, write, "portfolios", PORTFOLIOS)
    await bring(store, write, "positions", POSITIONS)
    reader = PortfolioStore(store)
    version = (await reader.load()).version
    newer = "quantity,symbol,portfolio_id\n5,AAPL,123\n-1.5,NVDA,123\n"
    assert counts(await bring(store, write, "positions", newer)) == (2, 1, 1, 0, 1)
    assert await rows(store, "positions") == [
        (7, "005930", "10", "720000"),
        (123, "AAPL", "5", None),
        (123, "NVDA", "-1.5", None),
    ]
    assert (await reader.changes(version)).portfolios == [123]
    sold = "portfolio_id,symbol,quantity\n123,AAPL,0\n"
    assert counts(await bring(store, write, "positions", sold)) == (1, 0, 0, 0, 2)
    assert await rows(store, "positions") == [(7, "005930", "10", "720000")]


async def test_other_rows_stay_unless_they_are_to_go(store: Store, write: Write) -> None:
    await bring(store, write, "instruments", INSTRUMENTS)
    await bring(store, write, "portfolios", PORTFOLIOS)
    await bring(store, write, "positions", POSITIONS)
    portfolios = "id,owner,name,currency\n123,lee,Growth,USD\n9,lee,New,USD\n"
    assert counts(await bring(store, write, "portfolios", portfolios)) == (2, 1, 1, 0, 0)
    assert [row[:2] for row in await rows(store, "portfolios")] == [(7, "김 철수"), (9, "lee"), (123, "lee")]
    pruned = await bring(store, write, "portfolios", portfolios, prune=True)
    assert counts(pruned) == (2, 0, 0, 2, 1)
    assert pruned.notes == ["1 position of a removed portfolio was removed, too"]
    assert [row[0] for row in await rows(store, "positions")] == [123, 123]
    positions = "portfolio_id,symbol,quantity\n9,AAPL,1\n"
    assert counts(await bring(store, write, "positions", positions, prune=True)) == (1, 1, 0, 0, 2)
    header = INSTRUMENTS.partition("\n")[0]
    assert counts(await bring(store, write, "instruments", f"{header}\nAAPL,Apple,,,1.5,\n", prune=True)) == (
        1,
        0,
        1,
        0,
        1,
    )
    assert await rows(store, "instruments") == [("AAPL", "Apple", None, None, "1.5", None)]


async def test_positions_of_portfolios_that_are_not_there(store: Store, write: Write) -> None:
    await bring(store, write, "portfolios", PORTFOLIOS)
    path = write("positions", POSITIONS + "8,AAPL,1,\n8,MSFT,1,\n9,AAPL,1,\n")
    with pytest.raises(ImportRefused) as caught:
        await write_table(store, read_table("positions", path))
    assert caught.value.problems == [
        f"{path}, line {line}, column portfolio_id: there is no portfolio {number} in the database; "
        "import portfolios first"
        for line, number in ((5, 8), (7, 9))
    ]
    assert await rows(store, "positions") == []


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        (
            "positions",
            "portfolio_id,symbol,quantity\nx,AAPL,1\n1,,1\n1,A B,1\n1,AAPL,ten\n\n# no row\n1,AAPL,1.123456789\n"
            '1,AAPL,"1,000"\n1,AAPL,1e3\n-1,AAPL,1\n1,AAPL,92233720369\n\u0661,AAPL,1\n99999999999999999999,AAPL,1\n',
            [
                ", line 2, column portfolio_id: expected a whole number, got 'x'",
                ", line 3, column symbol: must not be empty",
                ", line 4, column symbol: expected up to 64 printable characters without blanks, got 'A B'",
                ", line 5, column quantity: expected a plain number such as 100 or 0.25, got 'ten'",
                ", line 8, column quantity: expected at most 8 digits after the point, got 1.123456789",
                ", line 9, column quantity: expected a plain number such as 100 or 0.25, got '1,000'",
                ", line 10, column quantity: expected a plain number such as 100 or 0.25, got '1e3'",
                ", line 11, column portfolio_id: expected a whole number, got '-1'",
                ", line 12, column quantity: expected a number up to 92233720368, got 92233720369",
                ", line 13, column portfolio_id: expected a whole number, got '\u0661'",
                ", line 14, column portfolio_id: expected a whole number, got '99999999999999999999'",
            ],
        ),
        (
            "positions",
            "portfolio_id,symbol,quantity,cost\n1,A,1,much\n01,B,2,\n1,A,2,1\n1,B,0,\n1,C,1\n#1,D,1,\n1,E,x,\n",
            [
                ", line 2, column cost: expected a plain number such as 1250.50 or nothing, got 'much'",
                ", line 5: B of portfolio 1 stands in line 3 already",
                ", line 6: has 3 cells, the header has 4; put a cell that holds a comma in quotes",
                ", line 7: begins with '#' and has 4 cells",
                ", line 8, column quantity: expected a plain number such as 100 or 0.25, got 'x'",
            ],
        ),
        (
            "portfolios",
            f"id,owner,name,currency\n1,,A,USD\n2,kim,,USD\n3,kim,A,\n4,kim,{'x' * 256},USD\n5,kim,A\u200b,USD\n"
            "6,k\u0007m,A,USD\n7,kim,A,USD\n7,lee,A,USD\n8,kim,A,EURO\n9,kim,A,Usd\n10,kim,A,usd\n11,kim,A,GBp\n",
            [
                ", line 2, column owner: expected 1 to 255 printable characters, got ''",
                ", line 3, column name: must not be empty",
                ", line 4, column currency: must not be empty",
                ", line 5, column name: has 256 characters, at most 255 fit",
                ", line 6, column name: holds what cannot be printed: 'A\\u200b'",
                ", line 7, column owner: expected 1 to 255 printable characters, got 'k\\x07m'",
                ", line 9: 7 stands in line 8 already",
                ", line 10, column currency: expected the three letters of a currency such as USD, got 'EURO'",
                ", line 11, column currency: expected the three letters of a currency such as USD, got 'Usd'",
            ],
        ),
        (
            "instruments",
            "symbol,name,market,sector,previous_close\nAAPL,Apple,,,0\nMSFT,,,,\nMSFT,Microsoft,,,many\n",
            [
                ", line 2, column previous_close: expected a price above 0, got 0; leave it empty when there is none",
                ", line 3, column name: must not be empty",
                ", line 4, column previous_close: expected a plain decimal number under 2**63",
            ],
        ),
        ("portfolios", "", [": is empty; the first line must be id,owner,name,currency"]),
        ("positions", "portfolio_id,symbol,quantity\n", [": has a header and no positions"]),
        (
            "positions",
            "portfolio_id;symbol;quantity\n1;A;1\n",
            [", line 1: looks like CSV separated by ';'; separate the columns by commas"],
        ),
        (
            "positions",
            "portfolio_id,symbol,qty\n",
            [
                ", line 1: the column quantity is missing; "
                "expected the header portfolio_id,symbol,quantity[,cost]"
            ],
        ),
        ("positions", b"portfolio_id,symbol,quantity\n1,\xff,1\n", [", line 2: is not UTF-8; save the file as UTF-8"]),
        ("portfolios", 'id,owner,name,currency\n1,"kim,A,USD\n', [", line 2: a quote begins a cell and none ends it"]),
    ],
)  # fmt: skip
def test_every_row_that_is_wrong_is_named(
    write: Write, kind: str, content: str | bytes, expected: list[str]
) -> None:
    problems = problems_of(write, kind, content)
    assert len(problems) == len(expected)
    for problem, begin in zip(problems, expected, strict=True):
        assert problem.startswith(begin)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="cannot be read: No such file or directory; check the path"):
        read_table("positions", f"{tmp_path}/positions.csv")


def test_more_problems_than_are_shown(write: Write) -> None:
    path = write("positions", "portfolio_id,symbol,quantity\n" + "1,A,ten\n" * 500)
    with pytest.raises(ImportRefused) as caught:
        read_table("positions", path)
    assert (len(caught.value.problems), caught.value.n_problems) == (MAX_PROBLEMS, 500)


async def test_an_import_that_fails_leaves_all_as_it_was(store: Store, write: Write) -> None:
    await bring(store, write, "portfolios", PORTFOLIOS)
    before = await rows(store, "portfolios")
    table = read_table("portfolios", write("newer", "id,owner,name,currency\n7,kim,A,USD\n8,kim,B,USD\n"))
    # As the database would refuse it, once a part is written.
    table.rows[8,] = ("kim", None, "USD")
    with pytest.raises(StoreError):
        await write_table(store, table)
    assert await rows(store, "portfolios") == before


async def test_thousands_of_rows(store: Store, write: Write) -> None:
    portfolios = "".join(f"{i},user-{i % 50},Portfolio {i},USD\n" for i in range(300))
    positions = "".join(f"{i},S{n},{n + 1}.{i:03}\n" for i in range(300) for n in range(10))
    began = time.monotonic()
    await bring(store, write, "portfolios", "id,owner,name,currency\n" + portfolios)
    imported = await bring(store, write, "positions", "portfolio_id,symbol,quantity\n" + positions)
    assert counts(imported) == (3000, 3000, 0, 0, 0)
    assert time.monotonic() - began < 20
    loaded = await PortfolioStore(store).load()
    assert int(loaded.quantities.sum()) == sum(
        (n + 1) * 10**8 + i * 10**5 for i in range(300) for n in range(10)
    )


async def test_two_imports_at_once(lasting_url: str, write: Write) -> None:
    stores = [Store(lasting_url) for _ in range(2)]
    for store in stores:
        await store.open()
    header = "id,owner,name,currency\n"
    tables = [
        read_table("portfolios", write(name, header + "".join(f"{i},{name},A,USD\n" for i in range(500))))
        for name in ("kim", "lee")
    ]
    done = await asyncio.gather(*map(write_table, stores, tables))
    assert sorted(map(counts, done)) == [(500, 0, 500, 0, 0), (500, 500, 0, 0, 0)]
    assert len({owner for _, owner, *_ in await rows(stores[0], "portfolios")}) == 1
    for store in stores:
        await store.close()


# Trying it.


async def test_a_dry_run_tells_what_would_be_done(lasting_url: str, write: Write) -> None:
    store = Store(lasting_url)
    await store.open()
    await bring(store, write, "portfolios", PORTFOLIOS)
    newer = "id,owner,name,currency\n7,lee,A,USD\n8,lee,B,USD\n"
    imported = await bring(Store(lasting_url), write, "portfolios", newer, prune=True, dry_run=True)
    assert counts(imported) == (2, 1, 1, 0, 1)
    with pytest.raises(ImportRefused, match="there is no portfolio 8"):
        await bring(
            Store(lasting_url), write, "positions", "portfolio_id,symbol,quantity\n8,A,1\n", dry_run=True
        )
    assert [row[0] for row in await rows(store, "portfolios")] == [7, 123]
    await store.close()


async def test_a_dry_run_makes_nothing(tmp_path: Path, write: Write) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    assert counts(await bring(Store(url), write, "portfolios", PORTFOLIOS, dry_run=True)) == (2, 2, 0, 0, 0)
    assert os.listdir(tmp_path) == ["portfolios.csv"]


async def test_a_dry_run_leaves_the_tables_of_an_old_version(lasting_url: str, write: Write) -> None:
    engine = sa.create_engine(lasting_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER)")
    assert counts(await bring(Store(lasting_url), write, "portfolios", PORTFOLIOS, dry_run=True)) == (
        2,
        2,
        0,
        0,
        0,
    )
    with engine.begin() as connection:
        assert sa.inspect(connection).get_table_names() == ["other"]


async def test_a_name_that_begins_with_a_number_sign(store: Store, write: Write) -> None:
    """Taken for a comment, its portfolio would be deleted by pruning."""
    for name in ('"#1 Fund"', "#1 Fund"):
        path = write(
            "portfolios",
            f"# a list, of two\nname,id,owner,currency\n# kim's\nGrowth,5,kim,USD\n{name},6,lee,USD\n",
        )
        with pytest.raises(ImportRefused, match=r", line 5: begins with '#' and has 4 cells; "):
            read_table("portfolios", path)
    path = write("portfolios", "id,name,owner,currency\n5,Growth,kim,USD\n6,#1 Fund,lee,USD\n")
    await write_table(store, read_table("portfolios", path))
    assert [row[2] for row in await rows(store, "portfolios")] == ["Growth", "#1 Fund"]


# Instruments, as a server reads them.


async def test_instruments_of_the_database_win_over_those_of_a_file(store: Store, write: Write) -> None:
    assert await read_instruments(store) == ([], [])
    await bring(store, write, "instruments", INSTRUMENTS)
    await store.run(
        lambda connection: connection.exec_driver_sql(
            "INSERT INTO instruments (symbol, name, market, previous_close) VALUES"
            " ('NVDA', 'Nvidia', 'NASDAQ', '9.50'), ('BAD', 'Bad', NULL, 'much'), ('A B', 'Blank', NULL, NULL)"
        )
    )
    read = await read_instruments(store)
    assert [instrument.code for instrument in read.instruments] == ["005930", "AAPL", "NVDA"]
    assert [problem.partition(":")[0] for problem in read.problems] == ["A B", "BAD"]
    assert str(read.instruments[2].previous_close) == "9.50"
    assert read.instruments[2].currency == "USD"
    table = merge(Instruments.load_default(), read.instruments)
    assert table.get("005930").name == "삼성전자"  # type: ignore[union-attr]
    assert table.get("000660") is not None
