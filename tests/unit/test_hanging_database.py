"""A PostgreSQL server that hangs with its connections open: noticed, logged, counted, and used again afterwards.

And what takes connections and never says a word: every start and every command gives it up, and names the setting."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from alert_desk import until

from fastws import logs
from fastws._core import Hub
from fastws._market import Instrument, PriceUpdate
from fastws.cli import main
from fastws.market import portfolio_store, value_store
from fastws.market import store as store_module
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.market.portfolio_store import PortfolioStore
from fastws.market.portfolios import Portfolios
from fastws.market.store import Store, StoreError
from fastws.market.value_store import ValueStore
from fastws.server.last_values import LastValues
from fastws.server.server import Server
from fastws.settings import Settings
from tests.postgres import PostgresServer


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "limiter", logs.LogLimiter())
    for module in (portfolio_store, value_store, store_module):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)


async def test_portfolios_and_last_values(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    store = Store(url)
    await store.open()
    hub = Hub(asyncio.get_running_loop(), epoch="test")
    instrument = Instrument("AAPL", "Apple", "NASDAQ", "IT", None, "USD")
    market = Market(hub, Instruments([instrument]))
    portfolios = Portfolios(market, PortfolioStore(store), poll_interval=0.02)
    values = LastValues(market, store, interval=0.02)
    await portfolios.load()
    portfolios.start()
    values.start()
    market.publish_price(PriceUpdate(instrument, 100))
    async with asyncio.timeout(30):
        while not await ValueStore(store).load():
            pass
    with structlog.testing.capture_logs() as logged:
        with postgres.hanging():
            market.publish_price(PriceUpdate(instrument, 101))
            await until(lambda: portfolios.n_failures and values.n_failures, "both have noticed")
            with pytest.raises(StoreError, match=r"has not answered within 0\.3 s"):
                await portfolios.reload()
        said = "portfolios are read again", "last values are saved again"
        await until(lambda: {*said} <= {entry["event"] for entry in logged}, "both work again")
    events = [entry["event"] for entry in logged]
    assert events.count("portfolios cannot be read again; values go on with the positions of before") == 1
    assert events.count("last values are not saved") == 1
    assert all(events.count(text) == 1 for text in said)
    ((value,),) = [await ValueStore(store).load()]
    assert b'"price":101' in value.body
    await portfolios.stop()
    await values.stop(5.0)
    await store.close()
    hub.stop()


async def test_who_gets_on_is_waited_for(store: Store) -> None:
    """What takes longer than the silence and calls `get_on` is no job that hangs."""
    done = []
    never = threading.Event()

    def job(connection: object) -> None:
        for _ in range(40):
            never.wait(0.01)
            store.get_on()
        done.append(True)

    await store.read(job, silence=0.15)
    assert done == [True]


@pytest.fixture
def mute() -> Iterator[str]:
    """The URL of what takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        yield f"postgresql+psycopg://u:s3cret@127.0.0.1:{port}/db?connect_timeout=60"


async def test_a_server_does_not_start_on_what_never_answers(mute: str) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await Server(Settings(database=mute, port=0)).start()
    assert time.monotonic() - began < 5
    shown = mute.replace("s3cret", "***")
    assert str(caught.value) == f"database {shown}: has not answered within 0.3 s; see whether it hangs"


@pytest.mark.parametrize("work", [lambda store: store.open(), lambda store: store.rehearse(lambda _: None)])
async def test_a_store_is_closed_that_never_opened(mute: str, work: Callable[[Store], Any]) -> None:
    store = Store(mute)
    with pytest.raises(StoreError, match=r"has not answered within 0\.3 s"):
        await work(store)
    assert not store.is_open
    with pytest.raises(StoreError, match="is not open"):
        await store.run(lambda connection: None)
    await store.close()


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_an_import_gives_up(
    tmp_path: Path, mute: str, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    (tmp_path / "portfolios.csv").write_text("id,owner,name,currency\n1,kim,Mine,USD\n")
    assert main(["import", "portfolios", str(tmp_path / "portfolios.csv"), "--database", mute, *flags]) == 1
    said = capsys.readouterr().err
    assert "error: database postgresql+psycopg://u:***@" in said
    assert "has not answered within 0.3 s" in said


@pytest.mark.parametrize(
    "command", [["check-config"], ["update-prices", "--source", "simulator", "--symbols", "AAPL"]]
)
def test_commands_that_only_look_give_up(
    mute: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setattr(store_module, "_PROBE_SECONDS", 1)
    began = time.monotonic()
    assert main([*command, "--database", mute]) in (1, 2)
    assert time.monotonic() - began < 8
    assert "database postgresql+psycopg://u:***@" in capsys.readouterr().err
