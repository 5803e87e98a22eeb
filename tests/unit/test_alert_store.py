"""Alert rules on real files and, where it is installed, on a real PostgreSQL server."""

from __future__ import annotations

from decimal import Decimal

import pytest
import sqlalchemy as sa

from fastws.market.alert_store import AlertStore, Firing, Rule, number_text
from fastws.market.schema import ALERT_RULES
from fastws.market.store import Store, StoreError
from tests.rules import MS, add


async def test_rules_come_back_as_they_were_stored(store: Store) -> None:
    rules_in = AlertStore(store)
    rules = [
        await add(store, "kim", 75000),
        await add(store, "김 철수", Decimal("1.90")),
        await add(store, "kim", Decimal("-0.000000000000000001")),
        await add(store, "kim", 2**63 - 1),
    ]
    assert rules[1] == Rule(rules[1].id, "김 철수", "005930", "price_above", Decimal("1.90"), MS)
    assert await rules_in.waiting_rules() == rules
    assert [number_text(rule.threshold) for rule in await rules_in.waiting_rules()] == [
        "75000",
        "1.90",
        "-0.000000000000000001",
        "9223372036854775807",
    ]
    assert await rules_in.rules_of("kim") == [rules[0], rules[2], rules[3]]
    assert await rules_in.rules_of("KIM") == await rules_in.rules_of("") == []


async def test_the_limit_counts_the_rules_of_one_user(store: Store) -> None:
    rules_in = AlertStore(store)
    for _ in range(3):
        await add(store, "kim", limit=3)
    assert await rules_in.add_rule("kim", "005930", "price_above", 1, MS, limit=3) is None
    assert len(await rules_in.rules_of("kim")) == 3
    await add(store, "lee", limit=3)
    first, *_ = await rules_in.rules_of("kim")
    await rules_in.fire_rules([Firing(first.id, MS, 75100)], "me")
    assert await rules_in.add_rule("kim", "005930", "price_above", 1, MS, limit=3) is None
    assert await rules_in.delete_rule("kim", first.id)
    await add(store, "kim", limit=3)


async def test_a_rule_is_deleted_by_its_owner_only(store: Store) -> None:
    rules_in = AlertStore(store)
    rule = await add(store, "kim")
    for user_id, rule_id in (
        ("lee", rule.id),
        ("KIM", rule.id),
        ("kim", rule.id + 1),
        ("kim", 0),
        ("kim", -1),
    ):
        assert not await rules_in.delete_rule(user_id, rule_id)
    assert not await rules_in.delete_rule("kim", 2**63)
    assert not await rules_in.delete_rule("kim", 10**30)
    assert await rules_in.rules_of("kim") == [rule]
    assert await rules_in.delete_rule("kim", rule.id)
    assert not await rules_in.delete_rule("kim", rule.id)
    assert await rules_in.rules_of("kim") == []
    # Its id is not given to another one.
    assert (await add(store, "kim")).id > rule.id


async def test_firing(store: Store) -> None:
    rules_in = AlertStore(store)
    rules = [await add(store) for _ in range(5)]
    ids = [rule.id for rule in rules]
    assert await rules_in.delete_rule("kim", ids[4])
    assert await rules_in.fire_rules(
        [Firing(ids[0], MS, 75100), Firing(ids[1], MS, Decimal("75100.50"))], "me"
    ) == {
        ids[0],
        ids[1],
    }
    # Fired by another one, asked for again, not fired yet, deleted.
    assert await rules_in.fire_rules([Firing(ids[0], MS + 1, 1), Firing(ids[2], MS + 2, 2)], "other") == {
        ids[2]
    }
    firings = [Firing(rule_id, MS + 3, 3) for rule_id in ids]
    assert await rules_in.fire_rules(firings, "me") == {ids[0], ids[1], ids[3]}
    assert await rules_in.fire_rules([], "me") == set()
    fired = await rules_in.rules_of("kim")
    assert [(rule.fired_ms, rule.fired_price) for rule in fired] == [
        (MS, 75100),
        (MS, Decimal("75100.50")),
        (MS + 2, 2),
        (MS + 3, 3),
    ]
    assert fired[1].threshold == 75000
    assert await rules_in.waiting_rules() == []


async def test_thousands_fire_in_one_call(store: Store) -> None:
    rules_in = AlertStore(store)

    def job(connection: sa.Connection) -> None:
        row = {"user_id": "kim", "code": "A", "alert_type": "price_above", "threshold": "1", "created_at": MS}
        connection.execute(sa.insert(ALERT_RULES), [row] * 2500)

    await store.run(job)
    ids = [rule.id for rule in await rules_in.waiting_rules()]
    assert len(ids) == 2500
    assert await rules_in.fire_rules([Firing(rule_id, MS, 2) for rule_id in ids], "me") == set(ids)
    assert await rules_in.waiting_rules() == []


async def test_a_row_that_makes_no_rule_is_named(store: Store) -> None:
    rules_in = AlertStore(store)
    rule = await add(store)
    await store.run(
        lambda connection: connection.execute(sa.text("UPDATE alert_rules SET threshold = '1e5'"))
    )
    with pytest.raises(StoreError, match=rf"row {rule.id} of alert_rules .* correct or delete it$"):
        await rules_in.waiting_rules()


async def test_rules_that_have_fired_and_told_nobody(store: Store) -> None:
    rules_in = AlertStore(store)
    rules = [await add(store) for _ in range(4)]
    ids = [rule.id for rule in rules]
    assert await rules_in.untold_rules(0) == []
    await rules_in.fire_rules([Firing(ids[i], MS + i, 75100) for i in range(3)], "me")
    assert [rule.id for rule in await rules_in.untold_rules(MS)] == ids[:3]
    assert [rule.id for rule in await rules_in.untold_rules(MS + 1)] == ids[1:3]
    assert (await rules_in.untold_rules(MS + 2))[0].fired_price == 75100
    # Along with other firings, and alone; again, and of a rule that is gone, is no matter.
    assert await rules_in.fire_rules(
        [Firing(ids[3], MS + 3, 75200)], "me", told=[ids[0], ids[2]], told_ms=MS + 5
    ) == {ids[3]}
    assert [rule.id for rule in await rules_in.untold_rules(0)] == [ids[1], ids[3]]
    assert await rules_in.delete_rule("kim", ids[3])
    assert await rules_in.fire_rules([], "me", told=[*ids, ids[0]], told_ms=MS + 6) == set()
    assert await rules_in.untold_rules(0) == []
