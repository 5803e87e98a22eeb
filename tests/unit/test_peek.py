"""Looking into a database changes nothing, and finds what its store would."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from fastws.cli.symbols import choose_instruments
from fastws.errors import SettingsError
from fastws.market.instruments import Instruments
from fastws.market.peek import NOTHING, look
from fastws.market.schema import INSTRUMENTS, PORTFOLIOS, POSITIONS
from fastws.market.store import Store, StoreError
from fastws.settings import Settings


async def test_symbols_are_those_of_the_store(lasting_url: str) -> None:
    assert await asyncio.to_thread(look, lasting_url) == NOTHING
    store = Store(lasting_url)
    await store.open()
    rows = [{"symbol": symbol, "name": symbol, "market": "NASDAQ"} for symbol in ("MSFT", "AAPL")]
    await store.run(lambda connection: connection.execute(sa.insert(INSTRUMENTS), rows).rowcount)
    held = {"portfolio_id": 1, "symbol": "TSLA", "quantity": "1"}
    portfolio = {"id": 1, "owner": "1", "name": "x"}
    await store.run(lambda connection: connection.execute(sa.insert(PORTFOLIOS), [portfolio]).rowcount)
    await store.run(lambda connection: connection.execute(sa.insert(POSITIONS), [held]).rowcount)
    # While it is open, and when it is not.
    known = await asyncio.to_thread(look, lasting_url)
    assert known.symbols == ["AAPL", "MSFT", "TSLA"]
    assert [(each.code, each.currency) for each in known.instruments] == [("AAPL", "USD"), ("MSFT", "USD")]
    await store.close()
    assert (await asyncio.to_thread(look, lasting_url)).symbols == known.symbols
    settings = Settings(database=lasting_url)
    chosen = await asyncio.to_thread(choose_instruments, settings, None)
    assert [each.code for each in chosen] == known.symbols
    assert [each.code for each in choose_instruments(settings, ["X", "AAPL", "X"])] == ["X", "AAPL"]
    with pytest.raises(SettingsError, match="symbols: code"):
        choose_instruments(settings, ["A B"])
    assert len(choose_instruments(Settings(), None)) == len(Instruments.load_default())


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert look(None) == look(f"sqlite:///{tmp_path}/none.db") == NOTHING
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "other.db").write_text("no database, but a text that is long enough to be read as one" * 50)
    with pytest.raises(StoreError):
        look(f"sqlite:///{tmp_path}/other.db")
