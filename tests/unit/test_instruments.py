"""The instrument table and the files it is read from."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from fastws._market import Instrument
from fastws.errors import InstrumentError
from fastws.market.instruments import CURRENCIES, Instruments, TableChange

Write = Callable[[str | bytes], Path]

HEADER = "symbol,name,market,sector,previous_close,currency\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "symbols.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="module")
def default() -> Instruments:
    return Instruments.load_default()


def test_lookups() -> None:
    apple = Instrument("AAPL", "Apple", "NASDAQ", "IT")
    samsung = Instrument("005930", "Samsung Electronics", "KOSPI", "IT")
    bare = Instrument("0074K0")
    table = Instruments([apple, samsung])
    assert len(table) == 2
    assert list(table) == [apple, samsung]
    assert "AAPL" in table
    assert "MSFT" not in table
    assert table.get("005930") is samsung
    assert table.get("999999") is None
    assert list(table.markets) == ["NASDAQ", "KOSPI"]
    assert list(table.sectors) == ["IT"]
    assert table.members_of_market("KOSPI") == (samsung,)
    assert table.members_of_sector("IT") == (apple, samsung)
    assert table.members_of_market("NYSE") == table.members_of_sector("BIO") == ()
    markets = table.markets
    table.add(bare)
    table.add(Instrument("KO", "Coca-Cola", "NYSE", "CONSUMER"))
    assert list(table)[2] is bare
    assert "NYSE" in markets
    assert list(table.sectors) == ["IT", "CONSUMER"]


def test_a_code_is_taken_once() -> None:
    apple = Instrument("AAPL", "Apple", "NASDAQ", "IT")
    table = Instruments([apple])
    for other in (apple, Instrument("AAPL", "Another", "NYSE")):
        with pytest.raises(InstrumentError, match="AAPL is already in the instrument table"):
            table.add(other)
    assert table.get("AAPL") is apple
    assert list(table.markets) == ["NASDAQ"]


@pytest.mark.parametrize("codes", [["A", "B", "AAPL"], ["A", "B", "A"]])
def test_extend_adds_all_or_none(codes: list[str]) -> None:
    table = Instruments([Instrument("AAPL")])
    with pytest.raises(InstrumentError, match=f"^{codes[-1]} is already in the instrument table"):
        table.extend(Instrument(code, code, "M", "S") for code in codes)
    assert [instrument.code for instrument in table] == ["AAPL"]
    assert not table.markets
    assert not table.sectors


def test_load_csv(write: Write) -> None:
    table = Instruments.load_csv(
        write(
            "\ufeff# made, by hand\r\n\r\n"
            "name,symbol,currency,market,sector,previous_close\r\n"
            ' Samsung Electronics , 005930 ,,KOSPI,IT,"72000"\r\n'
            '"Coca-Cola, ""Co""",KO,,NYSE,,70.50\r\n'
            "\r\n# a comment\r\n"
            "삼성,0074K0,EUR,,,\r\n"
            "Toyota,7203,,TSE,AUTO,3100\r\n"
        )
    )
    described = [
        (item.code, item.name, item.market, item.sector, item.previous_close, item.currency) for item in table
    ]
    assert described == [
        ("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW"),
        ("KO", 'Coca-Cola, "Co"', "NYSE", None, Decimal("70.50"), "USD"),
        ("0074K0", "삼성", None, None, None, "EUR"),
        ("7203", "Toyota", "TSE", "AUTO", 3100, None),
    ]
    assert str(described[1][4]) == "70.50"


def test_the_currency_column_is_optional(write: Write) -> None:
    table = Instruments.load_csv(write("symbol,name,market,sector,previous_close\nA,B,KOSDAQ,IT,1\n"))
    assert [item.currency for item in table] == ["KRW"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (HEADER, ": has a header and no instruments"),
        ("symbol,name\nA,B\n", ", line 1: the column market is missing; expected the header symbol,"),
        ("A,Apple,NASDAQ,IT,1,USD\n", ", line 1: the column symbol is missing; expected the header symbol,"),
        (
            "symbol;name;market;sector;previous close, Won\n",
            ", line 1: looks like CSV separated by ';'; separate the columns by commas",
        ),
        ("Short name,symbol\n", ", line 1: the column name is missing; expected the header symbol,"),
        (HEADER.strip() + ",isin\n", ", line 1: unknown column 'isin'; expected the header"),
        (HEADER.strip() + ",name\n", ", line 1: the column name comes twice"),
        (HEADER + "A,Apple,NASDAQ\n", ", line 2: has 3 cells, the header has 6"),
        (
            HEADER + "A,B,C,D,1,USD\nA,Apple, Inc.,NASDAQ,IT,1,USD\n",
            ", line 3: has 7 cells, the header has 6",
        ),
        (HEADER + ",Apple,NASDAQ,IT,1,USD\n", ", line 2, column symbol: must not be empty"),
        (HEADER + "A,,NASDAQ,IT,1,USD\n", ", line 2, column name: must not be empty"),
        (HEADER + "A B,Apple,NASDAQ,IT,1,USD\n", ", line 2, column symbol: expected up to 64 printable"),
        (HEADER + "A,Apple,NASDAQ,IT,1e5,USD\n", ", line 2, column previous_close: expected a plain decimal"),
        (HEADER + "A,Apple,NASDAQ,IT,nan,USD\n", ", line 2, column previous_close: expected a plain decimal"),
        (
            HEADER + "A,Apple,NASDAQ,IT,0,USD\n",
            ", line 2, column previous_close: expected a price above 0, got 0",
        ),
        (
            HEADER + "A,Apple,NASDAQ,IT,-0.5,USD\n",
            ", line 2, column previous_close: expected a price above 0",
        ),
        (HEADER + "A,B,C,D,1,\n\n#\nB,B,C,D,1,\nA,x,y,z,2,\n", ", line 6: A stands in line 2 already"),
        (HEADER + 'A,"Apple,NASDAQ,IT,1,USD\n', ", line 2: a quote begins a cell and none ends it"),
        (HEADER + 'A,"App"le,NASDAQ,IT,1,USD\n', ", line 2: ',' expected after '\"'"),
        (HEADER.encode() + "A,삼성,KOSPI,IT,1,KRW\n".encode("cp949"), ", line 2: is not UTF-8"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_place(write: Write, content: str | bytes, problem: str) -> None:
    path = write(content)
    for load in (Instruments.load_csv, Instruments.load_symbols_file):
        with pytest.raises(InstrumentError, match="^" + re.escape(str(path) + problem)):
            load(path)


@pytest.mark.parametrize("content", ["", "\n\n# only\n", "\ufeff"])
def test_an_empty_csv_is_refused(write: Write, content: str) -> None:
    path = write(content)
    problem = f"{path}: is empty; the first line must be symbol,name,market,sector,previous_close[,currency]"
    with pytest.raises(InstrumentError, match=re.escape(problem)):
        Instruments.load_csv(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for load in (Instruments.load_csv, Instruments.load_symbols_file):
        for path in (tmp_path / "missing.csv", tmp_path):
            with pytest.raises(
                InstrumentError, match=rf"^{re.escape(str(path))}: cannot be read: .*; check the path"
            ):
                load(path)


def test_a_plain_list(write: Write, default: Instruments) -> None:
    table = Instruments.load_symbols_file(
        write("\ufeff# my symbols\n\n005930\r\n  AAPL  # Apple, the phone\n0074K0\n#000660\nBRK.B")
    )
    assert [item.code for item in table] == ["005930", "AAPL", "0074K0", "BRK.B"]
    samsung = table.get("005930")
    assert samsung is not None
    assert (samsung.name, samsung.market, samsung.currency) == ("Samsung Electronics", "KOSPI", "KRW")
    new = table.get("0074K0")
    assert new is not None
    assert (new.name, new.market, new.previous_close) == ("0074K0", None, None)
    assert "0074K0" not in default


def test_a_csv_is_told_from_a_list(write: Write) -> None:
    table = Instruments.load_symbols_file(
        write("# mine, all mine\n" + HEADER + "005930,Other name,KOSPI,IT,1,\n")
    )
    assert [item.name for item in table] == ["Other name"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", ": names no symbols; write one code per line"),
        ("# nothing\n\n", ": names no symbols"),
        ("AAPL\nGOOGL\nAAPL\n", ", line 3: AAPL stands in line 1 already"),
        ("AAPL\n" + "A" * 65, ", line 2: code: expected up to 64 printable characters without blanks"),
        (
            "AAPL\nGOOGL MSFT\n",
            ", line 2: looks like CSV separated by spaces; separate the columns by commas",
        ),
        ("A;Apple;NASDAQ\n", ", line 1: looks like CSV separated by ';'; separate the columns by commas"),
        (
            HEADER.replace(",", ";") + "A;Apple;NASDAQ;IT;1;USD\n",
            ", line 1: looks like CSV separated by ';'; separate the columns by commas",
        ),
        ("# mine\nA\tApple\tNASDAQ\n", ", line 2: looks like CSV separated by tabs; separate the columns"),
        ("A|Apple\n", ", line 1: looks like CSV separated by '|'; separate the columns by commas"),
        (b"AAPL\n\nM\xff\n", ", line 3: is not UTF-8"),
    ],
)
def test_a_wrong_list_is_refused_with_its_place(write: Write, content: str | bytes, problem: str) -> None:
    path = write(content)
    with pytest.raises(InstrumentError, match="^" + re.escape(str(path) + problem)):
        Instruments.load_symbols_file(path)


def test_the_default_table(default: Instruments) -> None:
    assert len(default) >= 150
    assert set(default.markets) == {"KOSPI", "KOSDAQ", "NASDAQ", "NYSE"}
    for sector in ("IT", "FINANCE"):
        currencies = {item.currency for item in default.members_of_sector(sector)}
        assert currencies == {"KRW", "USD"}
    assert all(sector.isupper() for sector in default.sectors)
    # The codes of the wire contract's examples; 999999 is its unknown symbol.
    for code in ("005930", "000660", "035720", "AAPL", "GOOGL", "MSFT"):
        assert code in default
    assert "999999" not in default


def tick(price: int) -> int:
    """The KRX price step since 2023."""
    steps = ((2_000, 1), (5_000, 5), (20_000, 10), (50_000, 50), (200_000, 100), (500_000, 500))
    return next((step for limit, step in steps if price < limit), 1_000)


def test_the_default_table_is_plausible(default: Instruments) -> None:
    for item in default:
        assert item.market is not None
        assert item.sector is not None
        assert item.currency == CURRENCIES[item.market]
        close = item.previous_close
        assert close is not None
        if item.currency == "KRW":
            assert re.fullmatch(r"[0-9]{6}", item.code)
            assert isinstance(close, int)
            assert close % tick(close) == 0
        else:
            assert re.fullmatch(r"[A-Z]{1,5}(\.[A-Z])?", item.code)
            assert isinstance(close, Decimal)
            assert close.as_tuple().exponent == -2


# A newer table.


def facts(instrument: Instrument) -> tuple[object, ...]:
    return tuple(
        getattr(instrument, name)
        for name in ("code", "name", "market", "sector", "previous_close", "currency")
    )


def update(table: Instruments, newer: Instruments) -> TableChange:
    change = table.compare(newer)
    assert list(table.update(newer, change)) == [*change.changed, *change.added]
    return change


def test_a_code_that_others_add_meanwhile_becomes_that_of_the_table() -> None:
    table = Instruments([Instrument("A")])
    newer = Instruments([Instrument("B", "Bee", "NYSE"), Instrument("C")])
    change = table.compare(newer)
    used = Instrument("B")
    table.add(used)
    assert list(table.update(newer, change)) == ["B", "C"]
    assert table.get("B") is used
    assert facts(used) == ("B", "Bee", "NYSE", None, None, None)
    assert table.members_of_market("NYSE") == (used,)


def test_a_large_market_is_renamed_fast() -> None:
    def table(market: str) -> Instruments:
        return Instruments(Instrument(f"S{i}", "Name", market) for i in range(20_000))

    old, newer = table("OLD"), table("NEW")
    change = old.compare(newer)
    began = time.process_time()
    # From the back: a search from the front took half a minute.
    for _ in old.update(newer, change._replace(changed=change.changed[::-1])):
        pass
    assert time.process_time() - began < 2.0
    assert list(old.markets) == ["NEW"]


def test_a_newer_table_is_taken_over() -> None:
    table = Instruments(
        [
            Instrument("A", "Old", "KOSPI", "IT", 100, "KRW"),
            Instrument("B", "Bee", "NYSE", "IT"),
            Instrument("C"),
        ]
    )
    held = {code: table.get(code) for code in "ABC"}
    newer = Instruments(
        [
            Instrument("D", "Dee", "KOSPI"),
            Instrument("C"),
            Instrument("A", "New", "KOSDAQ", "BIO", "101.50", "USD"),
        ]
    )
    change = update(table, newer)
    assert change == (("D",), ("A",), ("B",))
    # Whoever holds an instrument holds the new one.
    assert [table.get(code) for code in "ABC"] == [held[code] for code in "ABC"]
    assert facts(held["A"]) == ("A", "New", "KOSDAQ", "BIO", Decimal("101.50"), "USD")  # type: ignore[arg-type]
    assert held["A"].price_head == b'{"type":"price_update","code":"A","name":"New","price":'  # type: ignore[union-attr]
    assert [instrument.code for instrument in table] == ["A", "B", "C", "D"]
    assert list(table.markets) == ["NYSE", "KOSDAQ", "KOSPI"]
    assert list(table.sectors) == ["IT", "BIO"]
    assert [instrument.code for instrument in table.members_of_market("KOSPI")] == ["D"]
    assert [instrument.code for instrument in table.members_of_sector("IT")] == ["B"]
    assert update(table, newer) == ((), (), ("B",))


@pytest.mark.parametrize(
    "other",
    [
        Instrument("A", "Name", "KOSPI", "IT", "1.9", "KRW"),
        Instrument("A", "Name", "KOSPI", "IT", None, "KRW"),
        Instrument("A", "Name", "KOSPI", "IT", "1.90", None),
        Instrument("A", "Name", "KOSPI", None, "1.90", "KRW"),
        Instrument("A", "Name", None, "IT", "1.90", "KRW"),
        Instrument("A", None, "KOSPI", "IT", "1.90", "KRW"),
    ],
)
def test_every_fact_counts(other: Instrument) -> None:
    table = Instruments([Instrument("A", "Name", "KOSPI", "IT", "1.90", "KRW")])
    assert update(table, Instruments([other])).changed == ("A",)
    assert facts(table.get("A")) == facts(other)  # type: ignore[arg-type]
    assert len(table.members_of_market("KOSPI")) == (other.market is not None)
    assert len(table.members_of_sector("IT")) == (other.sector is not None)


def test_an_instrument_keeps_its_code() -> None:
    instrument = Instrument("A", "Name")
    with pytest.raises(ValueError, match=r"^code: A cannot become B"):
        instrument.become(Instrument("B"))
    with pytest.raises(TypeError):
        instrument.become(None)  # type: ignore[arg-type]
    assert instrument.name == "Name"
