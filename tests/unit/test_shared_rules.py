"""Rules of other instances: read in order, one reading at a time, and again where the database does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fastws.market.store import StoreError
from fastws.relay.control import RulesChanged
from fastws.server import shared_rules
from fastws.server.shared_rules import SharedRules


class Readings:
    """An alert book whose database answers when it is let, or fails."""

    def __init__(self) -> None:
        self.on_added: list[Callable[..., object]] = []
        self.on_deleted: list[Callable[..., object]] = []
        self.read: list[Sequence[int] | None] = []
        self.n_at_once = 0
        self.may_go_on = asyncio.Event()
        self.error: StoreError | None = None

    async def refresh(self, ids: Sequence[int] | None) -> None:
        self.n_at_once += 1
        assert self.n_at_once == 1
        self.read.append(ids)
        try:
            await self.may_go_on.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.n_at_once -= 1


@pytest.fixture
async def alerts() -> Readings:
    return Readings()


@pytest.fixture
async def relay(alerts: Readings) -> AsyncIterator[Any]:
    said: list[RulesChanged] = []
    relay = SimpleNamespace(
        on_rules=None, origin=7, said=said, say=said.append, missing=lambda kind, names: None
    )
    shared: Any = SharedRules(relay, alerts)  # type: ignore[arg-type]
    shared.start()
    yield relay
    await shared.stop()
    assert alerts.n_at_once == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_one_reading_at_a_time_and_each_id_once(relay: Any, alerts: Readings) -> None:
    relay.on_rules(RulesChanged(1, [1]))
    await until(lambda: alerts.read == [[1]])
    for ids in ([2, 3], [3], [1]):
        relay.on_rules(RulesChanged(2, ids))
    alerts.may_go_on.set()
    await until(lambda: alerts.read == [[1], [2, 3, 1]])
    relay.on_rules(None)
    await until(lambda: alerts.read[-1] is None)


async def test_what_the_database_does_not_answer_is_asked_again(
    relay: Any, alerts: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rules, "_AGAIN_SECONDS", 0.001)
    alerts.may_go_on.set()
    alerts.error = StoreError("away")
    relay.on_rules(None)
    relay.on_rules(RulesChanged(1, [5]))
    await until(lambda: len(alerts.read) >= 3)
    assert set(alerts.read) == {None}
    alerts.error = None
    await until(lambda: alerts.read[-2:] == [None, [5]])


async def test_it_stops_amid_a_reading(relay: Any, alerts: Readings) -> None:
    relay.on_rules(RulesChanged(1, [1]))
    await until(lambda: alerts.n_at_once == 1)


async def test_what_is_changed_here_is_said(relay: Any, alerts: Readings) -> None:
    alerts.on_added[0](SimpleNamespace(id=3, code="005930"))
    alerts.on_deleted[0](4)
    assert relay.said == [RulesChanged(7, [3]), RulesChanged(7, [4])]
