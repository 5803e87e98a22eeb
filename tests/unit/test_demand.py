"""What is wanted: here, and with it elsewhere."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fastws._core import Hub
from fastws.market.instruments import Instruments
from fastws.market.interest import Interest
from fastws.market.market import Market
from fastws.server import demand
from fastws.server.demand import Demand


async def test_what_others_want_is_added_to_what_is_wanted_here() -> None:
    hub = Hub(asyncio.get_running_loop(), epoch="e")
    wanted = Demand(hub, Market(hub, Instruments(())), lambda: {"AAPL"})
    assert wanted.whole() == wanted.own() == {"AAPL": Interest(0, 1)}
    relay: Any = SimpleNamespace(
        sharing=SimpleNamespace(wanted_elsewhere=lambda: {"AAPL": (2, 3), "MSFT": (1, 0)})
    )
    wanted.join(relay)
    # Others are told of their own interest by themselves.
    assert relay.sharing.interest() == {"AAPL": Interest(0, 1)}
    assert wanted.whole() == {"AAPL": Interest(2, 4), "MSFT": Interest(1, 0)}
    hub.stop()


async def test_what_is_awaited_is_gone_through_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, awaited = 100.0, ["AAPL"]
    monkeypatch.setattr(demand, "time", SimpleNamespace(monotonic=lambda: now))
    hub = Hub(asyncio.get_running_loop(), epoch="e")
    wanted = Demand(hub, Market(hub, Instruments(())), lambda: list(awaited))
    assert set(wanted.own()) == {"AAPL"}
    awaited.append("MSFT")
    now += 2.9
    assert set(wanted.own()) == {"AAPL"}
    now += 0.2
    assert set(wanted.own()) == {"AAPL", "MSFT"}
    hub.stop()
