"""The last prices and order books in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fastws.market.schema import LAST_VALUES
from fastws.market.store import ANSWER_SECONDS

if TYPE_CHECKING:
    from fastws.market.store import Store


class SavedValue(NamedTuple):
    """The last message of one kind (its type) about `code`, as JSON in UTF-8; `published_ms` since the Unix epoch."""

    code: str
    kind: str
    published_ms: int
    body: bytes


class ValueStore:
    """The last values in `store`, one a code and kind. Every method raises StoreError; see :class:`Store`.

    A database that hangs fails after `ANSWER_SECONDS`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> list[SavedValue]:
        """Return all of them, in the order in which they were published."""

        def job(connection: sa.Connection) -> list[SavedValue]:
            columns = LAST_VALUES.c
            rows = connection.execute(
                sa.select(columns.code, columns.kind, columns.published_at, columns.body).order_by(
                    columns.published_at, columns.code, columns.kind
                )
            )
            return [SavedValue(code, kind, at, body.encode()) for code, kind, at, body in rows]

        return await self._store.run(job, silence=ANSWER_SECONDS)

    async def save(self, values: Sequence[SavedValue]) -> None:
        """Put `values`, of which no two have the same code and kind, in the place of older ones."""
        if not values:
            return
        # In one order, so that instances that share a database wait for each other and do not block each other.
        rows = [
            {
                "code": value.code,
                "kind": value.kind,
                "published_at": value.published_ms,
                "body": value.body.decode(),
            }
            for value in sorted(values)
        ]

        def job(connection: sa.Connection) -> None:
            insert_or_replace = _INSERTS.get(connection.dialect.name)
            if insert_or_replace is None:
                keys = [{"of": row["code"], "type": row["kind"]} for row in rows]
                connection.execute(_DELETE, keys)
                connection.execute(sa.insert(LAST_VALUES), rows)
            else:
                connection.execute(_replacing(insert_or_replace(LAST_VALUES)), rows)

        await self._store.run(job, silence=ANSWER_SECONDS)


# How a database inserts or replaces is not part of standard SQL; in others than these, a row is deleted first.
_INSERTS: Mapping[str, Callable[[sa.Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_DELETE: Final = sa.delete(LAST_VALUES).where(
    LAST_VALUES.c.code == sa.bindparam("of"), LAST_VALUES.c.kind == sa.bindparam("type")
)


def _replacing(insert: Any) -> Any:
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[LAST_VALUES.c.code, LAST_VALUES.c.kind],
        set_={"published_at": new.published_at, "body": new.body},
        where=new.published_at >= LAST_VALUES.c.published_at,
    )
