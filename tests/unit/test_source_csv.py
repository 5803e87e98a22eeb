"""The sources csv and simulator: files that others write, and prices that are made up."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from fastws._market import Instrument
from fastws.feeds.asker import Asker, Polled, SourceAwayError
from fastws.feeds.sources import SourceSetupError, open_source
from fastws.settings import Settings

APPLE = Instrument("AAPL", "Apple", "NASDAQ", previous_close="147.75", currency="USD")
MICROSOFT = Instrument("MSFT", currency="USD")
SAMSUNG = Instrument("005930", currency="KRW")


async def no_pause(seconds: float) -> None:
    pass


def asker_of(path: Path) -> Asker:
    return Asker(open_source(f"csv:{path}", Settings()), max_age=300.0, sleep=no_pause)


async def ask(asker: Asker, *instruments: Instrument) -> Polled:
    return await asker.quotes(instruments or [APPLE, MICROSOFT, SAMSUNG], 0.0)


def prices(polled: Polled) -> dict[str, str]:
    return {update.instrument.code: str(update.price) for update in polled.updates}


def replace(path: Path, text: str, age: float = 0.0) -> None:
    """Write a file as its writer should: beside it, and renamed."""
    new = path.with_suffix(".new")
    new.write_text(text)
    at = time.time() - age
    os.utime(new, (at, at))
    new.rename(path)


async def test_prices_with_their_digits_and_read_again_when_changed(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    replace(
        file,
        "# from the bank\nsymbol,price,previous_close,volume,high,low,note\n"
        "AAPL,150.25,147.75,50000000,151.00,148.50,x\n005930,73000,72000,,,,\n",
    )
    asker = asker_of(file)
    polled = await ask(asker)
    assert prices(polled) == {"AAPL": "150.25", "005930": "73000"}
    assert polled.failed == {"MSFT": "missing: not in the answer"}
    apple = polled.updates[0]
    assert (str(apple.change), str(apple.change_percent), apple.volume, str(apple.high)) == (
        "2.50",
        "1.69",
        50_000_000,
        "151.00",
    )
    replace(file, "symbol,price\nAAPL,150.30\nMSFT,410\n")
    assert prices(await ask(asker)) == {"AAPL": "150.30", "MSFT": "410"}


async def test_the_age_of_a_file_is_the_age_of_its_prices(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    replace(file, "symbol,price\nAAPL,150.25\n", age=1000.0)
    asker = asker_of(file)
    assert (await ask(asker, APPLE)).failed["AAPL"].startswith("stale: it is 100")
    replace(file, "symbol,price\nAAPL,150.25\n")
    assert prices(await ask(asker, APPLE)) == {"AAPL": "150.25"}
    # A writer that puts an old file back.
    replace(file, "symbol,price\nAAPL,140\n", age=60.0)
    assert (await ask(asker, APPLE)).failed["AAPL"].startswith("stale: it is 60 s older than the last one")


async def test_times_and_dates_of_rows(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    old = now - datetime.timedelta(seconds=400)
    file = tmp_path / "prices.csv"
    file.write_text(
        "symbol,price,time\n"
        f"AAPL,2,{now.isoformat()}\nAAPL,1,{old.isoformat()}\n"
        f"MSFT,3,{int(old.timestamp())}\n005930,4,yesterday\n"
    )
    polled = await ask(asker_of(file))
    assert prices(polled) == {"AAPL": "2"}
    assert polled.failed["MSFT"].startswith("stale: it is 40")
    assert "row 5" in polled.failed["005930"]
    file.write_text("symbol,close,date\nAAPL,5,2026-99-01\n")
    assert "row 2" in (await ask(asker_of(file), APPLE)).failed["AAPL"]


async def test_a_directory_of_daily_prices(tmp_path: Path) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    yesterday = today - datetime.timedelta(days=1)
    (tmp_path / "AAPL.csv").write_text(
        f"Date,Open,High,Low,Close,Volume\n{yesterday},149.5,151.0,148.5,150.25,100\n2020-01-02,70,71,69,70.5,90\n"
    )
    (tmp_path / "MSFT.csv").write_text("Date,Close\n2020-01-02,160\n")
    (tmp_path / "readme.txt").write_text("no prices")
    asker = asker_of(tmp_path)
    polled = await ask(asker, APPLE, MICROSOFT)
    assert prices(polled) == {"AAPL": "150.25"}
    assert polled.failed["MSFT"].startswith("stale: ")
    rows, refused = await asker.days(APPLE, today - datetime.timedelta(days=30), today, 0.0)
    assert [(row.date, str(row.open), str(row.close), row.volume) for row in rows] == [
        (yesterday, "149.5", "150.25", 100)
    ]
    assert refused == {}
    assert await asker.days(SAMSUNG, today, today, 0.0) == ([], {})


async def test_daily_prices_of_days_that_are_over_in_the_currency_of_the_instrument(tmp_path: Path) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    first = today - datetime.timedelta(days=5)
    rows = ["symbol,date,close,currency"]
    rows += [f"AAPL,{today + datetime.timedelta(days=n)},{150 + n},USD" for n in (-2, 0, 1)]
    rows += [f"AAPL,{today - datetime.timedelta(days=3)},14900,USc"]
    file = tmp_path / "days.csv"
    file.write_text("\n".join(rows) + "\n")
    taken, refused = await asker_of(file).days(APPLE, first, today + datetime.timedelta(days=1), 0.0)
    assert [(row.date, row.close) for row in taken] == [(today - datetime.timedelta(days=2), 148)]
    assert refused == {
        today - datetime.timedelta(days=3): "currency: the price is in USc, the instrument in USD"
    }


async def test_a_time_of_zero_is_stale(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("symbol,price,time\nAAPL,1.11,0\nMSFT,2.22,1970-01-01T00:00:00+00:00\n")
    polled = await ask(asker_of(file), APPLE, MICROSOFT)
    assert polled.updates == []
    assert all(reason.startswith("stale: ") for reason in polled.failed.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("symbol,last\nAAPL,1\n", "neither the column price nor close; expected symbol,price"),
        ("symbol,price\nAAPL,150.25\nMSFT,41", ""),
        (
            "symbol;price\nAAPL;1\n",
            "separated by ';'; separate the columns by commas; expected the header",
        ),
        ('symbol,price\n"AAPL,1\n', "a quote begins a cell and none ends it"),
        ("symbol,price\nAAPL,\xff\n", "not UTF-8"),
        ("symbol,price\nAAPL,1\n#MSFT,2\n", "row 3: begins with '#' and has 2 cells"),
    ],
)
async def test_a_file_that_is_not_whole_is_not_used(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "prices.csv"
    file.write_bytes(text.encode("latin-1"))
    if not reason:
        # A last line without its end may be cut off within a number.
        polled = await ask(asker_of(file), APPLE, MICROSOFT)
        assert prices(polled) == {"AAPL": "150.25"}
        assert "cut off" in polled.failed["MSFT"]
        return
    with pytest.raises(SourceAwayError, match=reason):
        await ask(asker_of(file))


async def test_a_row_that_is_too_short_costs_its_symbol_alone(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("volume,symbol,price\n1,AAPL,150.25\n1,MSFT\n1\n1,005930,72000,5\n2,NVDA\n2,NVDA,9\n")
    nvidia = Instrument("NVDA", currency="USD")
    polled = await ask(asker_of(file), APPLE, MICROSOFT, SAMSUNG, nvidia)
    assert prices(polled) == {"AAPL": "150.25", "NVDA": "9"}
    assert polled.failed == {
        "MSFT": f"malformed: {file}, row 3: has 2 cells, the header has 3",
        "005930": f"malformed: {file}, row 5: has 4 cells, the header has 3",
    }


async def test_a_file_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("symbol,price\nAAPL,150.25\n")
    asker = asker_of(file)
    await ask(asker, APPLE)
    file.unlink()
    with pytest.raises(SourceAwayError, match=r"prices\.csv cannot be read: No such file"):
        await ask(asker, APPLE)
    file.write_text("symbol,price\nAAPL,150.26\n")
    assert prices(await asker.quotes([APPLE], 100.0)) == {"AAPL": "150.26"}


def test_without_a_file_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceSetupError, match=r"has no file prices\.csv; write it, or name another"):
        open_source("csv", Settings())
    with pytest.raises(SourceSetupError, match=r"has no file /no/such\.csv"):
        open_source("csv:/no/such.csv", Settings())
    (tmp_path / "prices.csv").write_text("symbol,price\n")
    assert open_source("csv", Settings()).name == "csv"


async def test_the_simulator_walks_on_and_is_repeatable() -> None:
    def asker() -> Asker:
        return Asker(open_source("simulator", Settings(simulator_seed=5)), max_age=300.0)

    one, other = asker(), asker()
    walked = [prices(await ask(one, APPLE, SAMSUNG)) for _ in range(20)]
    assert walked == [prices(await ask(other, APPLE, SAMSUNG)) for _ in range(20)]
    assert len({walk["AAPL"] for walk in walked}) > 1
    (update,) = (await ask(one, APPLE)).updates
    assert update.quality == "simulated"
    last = datetime.date(2026, 11, 20)
    rows, refused = await one.days(APPLE, last - datetime.timedelta(days=30), last, 0.0)
    again, _ = await other.days(APPLE, last - datetime.timedelta(days=30), last, 0.0)
    assert rows == again
    assert refused == {}
    assert len(rows) == 23
    assert all(row.low <= row.close <= row.high for row in rows if row.low and row.high)
