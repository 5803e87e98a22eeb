"""Alert rules as the tests of the database store them."""

from __future__ import annotations

from decimal import Decimal

from fastws.market.alert_store import AlertStore, Rule
from fastws.market.store import Store

MS = 1_762_853_400_000


async def add(
    store: Store, user_id: str = "kim", threshold: int | Decimal = 75000, *, limit: int = 1000
) -> Rule:
    """Store a rule; fail if the user may have no more."""
    rule = await AlertStore(store).add_rule(user_id, "005930", "price_above", threshold, MS, limit=limit)
    assert rule is not None
    return rule


async def waiting(store: Store) -> list[Rule]:
    return await AlertStore(store).waiting_rules()
