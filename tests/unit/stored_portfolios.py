"""A few portfolios in a database, and what was read of them."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from fastws.market.portfolio_store import Changes, Loaded, PortfolioStore
from fastws.market.store import Store

DAY = date(2025, 11, 11)
UNIT = 10**8
Holdings = dict[int, dict[str, int]]


async def execute(store: Store, *statements: str) -> None:
    def job(connection: sa.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    await store.run(job)


async def fill(store: Store) -> None:
    await execute(
        store,
        "INSERT INTO portfolios (id, owner, name, currency) VALUES"
        " (123, 'kim', 'Growth Portfolio', 'USD'), (7, '김 철수', '성장', 'KRW'), (50, 'kim', 'Empty', NULL)",
        "INSERT INTO positions (portfolio_id, symbol, quantity, cost) VALUES"
        " (123, 'MSFT', '0.00000001', NULL), (123, 'AAPL', '100.50', '15000.10'),"
        " (7, '005930', '10', NULL), (7, 'AAPL', '-2', NULL), (7, 'ZERO', '0.00', NULL), (99, 'LOST', '5', NULL)",
    )


def holdings(loaded: Loaded) -> Holdings:
    found: Holdings = {int(number): {} for number in loaded.ids}
    for portfolio, symbol, quantity in zip(
        loaded.position_portfolios, loaded.position_symbols, loaded.quantities, strict=True
    ):
        of = found[int(loaded.ids[portfolio])]
        assert loaded.symbols[symbol] not in of
        of[loaded.symbols[symbol]] = int(quantity)
    return found


async def version_of(reader: PortfolioStore) -> int:
    return (await reader.changes(0)).version


def sorted_changes(changes: Changes) -> tuple[list[int] | None, list[str] | None]:
    portfolios, symbols = changes.portfolios, changes.symbols
    return None if portfolios is None else sorted(portfolios), None if symbols is None else sorted(symbols)
