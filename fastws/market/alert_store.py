"""Alert rules in the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from fastws.market.schema import ALERT_RULES
from fastws.market.store import StoreError

if TYPE_CHECKING:
    from fastws.market.store import Store

_MAX_IDS: Final = 500  # in one statement; SQLite before 3.32 takes 999 values, MSSQL 2100
_MAX_ID: Final = 2**63 - 1


class Rule(msgspec.Struct, frozen=True, gc=False):
    """An alert rule as stored. `fired_ms` and `fired_price` are None while it waits.

    Times are milliseconds since the Unix epoch; numbers have the digits in which they were given.
    """

    id: int
    user_id: str
    code: str
    alert_type: str
    threshold: int | Decimal
    created_ms: int
    fired_ms: int | None = None
    fired_price: int | Decimal | None = None


class Firing(NamedTuple):
    """A rule that a price has crossed, and the price."""

    rule_id: int
    fired_ms: int
    price: int | Decimal


def number_text(number: int | Decimal) -> str:
    """Return the digits of `number` without an exponent, as JSON and the database have them."""
    return format(number, "f") if isinstance(number, Decimal) else str(number)


def _number(text: str) -> int | Decimal:
    return Decimal(text) if "." in text else int(text)


class AlertStore:
    """The alert rules of all users in `store`. Every method raises StoreError; see :class:`Store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add_rule(
        self,
        user_id: str,
        code: str,
        alert_type: str,
        threshold: int | Decimal,
        created_ms: int,
        *,
        limit: int,
    ) -> Rule | None:
        """Store a rule and return it; None, and nothing stored, when the user has `limit` rules already.

        Fired rules count. Instances of a cluster that add at the same moment may each take the last place.
        """

        def job(connection: sa.Connection) -> Rule | None:
            rules_of_user = (
                sa.select(sa.func.count()).select_from(ALERT_RULES).where(ALERT_RULES.c.user_id == user_id)
            )
            if connection.execute(rules_of_user).scalar_one() >= limit:
                return None
            result = connection.execute(
                sa.insert(ALERT_RULES).values(
                    user_id=user_id,
                    code=code,
                    alert_type=alert_type,
                    threshold=number_text(threshold),
                    created_at=created_ms,
                )
            )
            rule_id = result.inserted_primary_key[0]  # type: ignore[index]  # never None for one row
            return Rule(rule_id, user_id, code, alert_type, threshold, created_ms)

        return await self._store.run(job)

    async def waiting_rules(self) -> list[Rule]:
        """Return every rule that has not fired, oldest first."""
        return await self._store.run(
            lambda connection: _read_rules(connection, ALERT_RULES.c.fired_at.is_(None))
        )

    async def rules_with(self, ids: Sequence[int]) -> list[Rule]:
        """Return the rules with these ids, as far as there are any, oldest first."""

        def job(connection: sa.Connection) -> list[Rule]:
            return [
                rule for part in _chunks(ids) for rule in _read_rules(connection, ALERT_RULES.c.id.in_(part))
            ]

        return await self._store.run(job)

    async def rules_of(self, user_id: str) -> list[Rule]:
        """Return the rules of a user, fired ones too, oldest first."""
        rules = await self._store.run(
            lambda connection: _read_rules(connection, ALERT_RULES.c.user_id == user_id)
        )
        # Some databases take "Kim" and "kim" for equal.
        return [rule for rule in rules if rule.user_id == user_id]

    async def delete_rule(self, user_id: str, rule_id: int) -> bool:
        """Delete a rule of a user, waiting or fired; return whether there was one."""
        if not 0 < rule_id <= _MAX_ID:
            return False

        def job(connection: sa.Connection) -> bool:
            owner = connection.scalar(sa.select(ALERT_RULES.c.user_id).where(ALERT_RULES.c.id == rule_id))
            if owner != user_id:  # in Python: see rules_of
                return False
            return connection.execute(sa.delete(ALERT_RULES).where(ALERT_RULES.c.id == rule_id)).rowcount > 0

        return await self._store.run(job)

    async def untold_rules(self, since_ms: int) -> list[Rule]:
        """Return the rules that have fired at `since_ms` or later and told nobody yet, oldest first."""
        condition = ALERT_RULES.c.told_at.is_(None) & (ALERT_RULES.c.fired_at >= since_ms)
        return await self._store.run(lambda connection: _read_rules(connection, condition))

    async def fire_rules(
        self, firings: Sequence[Firing], fired_by: str, *, told: Sequence[int] = (), told_ms: int = 0
    ) -> set[int]:
        """Mark rules as fired and return the ids of those that `fired_by` fired, now or in an earlier call.

        `told` are the ids of fired rules whose users have been told since, at `told_ms`; that is noted along.

        The others were fired by another process, or deleted. So after an error the same call may be
        repeated until it succeeds, whatever had become of the first one. `fired_by` names a process: at most
        32 characters, never used again by another one.
        """

        def job(connection: sa.Connection) -> set[int]:
            ours: set[int] = set()
            for ids in _chunks(told):
                connection.execute(
                    sa.update(ALERT_RULES).where(ALERT_RULES.c.id.in_(ids)).values(told_at=told_ms)
                )
            for (fired_ms, price), group in groupby(firings, _time_and_price):
                for ids in _chunks([firing.rule_id for firing in group]):
                    is_meant = ALERT_RULES.c.id.in_(ids)
                    connection.execute(
                        sa.update(ALERT_RULES)
                        .where(is_meant, ALERT_RULES.c.fired_at.is_(None))
                        .values(fired_at=fired_ms, fired_price=price, fired_by=fired_by)
                    )
                    ours.update(
                        connection.scalars(
                            sa.select(ALERT_RULES.c.id).where(is_meant, ALERT_RULES.c.fired_by == fired_by)
                        )
                    )
            return ours

        return await self._store.run(job)


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for i in range(0, len(ids), _MAX_IDS):
        yield ids[i : i + _MAX_IDS]


def _time_and_price(firing: Firing) -> tuple[int, str]:
    return firing.fired_ms, number_text(firing.price)


def _read_rules(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Rule]:
    rows = connection.execute(sa.select(ALERT_RULES).where(condition).order_by(ALERT_RULES.c.id))
    return [_rule(row) for row in rows]


def _rule(row: sa.Row[Any]) -> Rule:
    try:
        return Rule(
            row.id,
            row.user_id,
            row.code,
            row.alert_type,
            _number(row.threshold),
            row.created_at,
            row.fired_at,
            None if row.fired_price is None else _number(row.fired_price),
        )
    except (ValueError, InvalidOperation):
        raise StoreError(
            f"database: row {row.id} of alert_rules holds what is no number; correct or delete it"
        ) from None
