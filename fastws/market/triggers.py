"""Triggers that note which portfolios and closes have changed, whoever changes them.

1. Every statement that changes `portfolios`, `positions`, `instruments` or `daily_prices` raises the number in
   `portfolio_version`, and gives it to the rows of `portfolio_changes` that name what has changed.
2. Whoever has raised it keeps the next one waiting until its transaction ends. So a change with a lower number is
   never committed after one with a higher number, and a reader that knows the state of one number misses nothing by
   looking for higher ones.
3. Only SQLite and PostgreSQL have them. In another database nobody notes changes.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

ALL: Final = "*"
"""Stands for everything of its kind, where it would be too much to name."""

# Table, kind of what changes, the column that names it.
_WATCHED: Final = (
    ("portfolios", "portfolio", "id"),
    ("positions", "portfolio", "portfolio_id"),
    ("instruments", "symbol", "symbol"),
    ("daily_prices", "symbol", "symbol"),
)


def has_triggers(connection: sa.Connection) -> bool:
    """Whether changes are noted in the database of `connection`."""
    return connection.dialect.name in _STATEMENTS


def create_triggers(connection: sa.Connection) -> None:
    """Part of a migration that was released: what it does stays as it is."""
    for statement in _STATEMENTS.get(connection.dialect.name, ()):
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _sqlite_statements() -> list[str]:
    return [
        _sqlite_trigger(table, kind, column, event, rows)
        for table, kind, column in _WATCHED
        for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",)))
    ]


def _sqlite_trigger(table: str, kind: str, column: str, event: str, rows: tuple[str, ...]) -> str:
    # Deleted and inserted, because an INSERT OR IGNORE that sets it off would make an upsert do nothing.
    notes = [
        f"DELETE FROM portfolio_changes WHERE kind = '{kind}' AND item = CAST({row}.{column} AS TEXT); "  # noqa: S608 - from above
        "INSERT INTO portfolio_changes (kind, item, version) "
        f"SELECT '{kind}', {row}.{column}, version FROM portfolio_version;"
        for row in rows
    ]
    return (
        f"CREATE TRIGGER {table}_after_{event.lower()} AFTER {event} ON {table} FOR EACH ROW BEGIN "  # noqa: S608
        f"UPDATE portfolio_version SET version = version + 1; {' '.join(notes)} END"
    )


# With the rights of their owner: who may change positions need not have any on the tables that are kept here. The
# number is raised before rows are locked, so that transactions of several statements do not block each other.
_POSTGRESQL_FUNCTIONS: Final = (
    """
CREATE FUNCTION fastws_raise_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE portfolio_version SET version = version + 1;
  RETURN NULL;
END $$
""",
    """
CREATE FUNCTION fastws_note_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
  EXECUTE format(
    'INSERT INTO portfolio_changes (kind, item, version) '
    'SELECT DISTINCT %L, changed.%I::text, portfolio_version.version FROM changed, portfolio_version '
    'ON CONFLICT (kind, item) DO UPDATE SET version = excluded.version',
    TG_ARGV[0], TG_ARGV[1]);
  RETURN NULL;
END $$
""",
    """
CREATE FUNCTION fastws_note_all() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO portfolio_changes (kind, item, version)
  SELECT TG_ARGV[0], '*', version FROM portfolio_version
  ON CONFLICT (kind, item) DO UPDATE SET version = excluded.version;
  RETURN NULL;
END $$
""",
)
# The last word names the trigger; one of an update has either the rows before or those after it.
_POSTGRESQL_EVENTS: Final = (
    ("INSERT", "NEW", "insert"),
    ("UPDATE", "OLD", "update_of"),
    ("UPDATE", "NEW", "update_to"),
    ("DELETE", "OLD", "delete"),
)


def _postgresql_statements() -> list[str]:
    statements = list(_POSTGRESQL_FUNCTIONS)
    for table, kind, column in _WATCHED:
        statements.append(
            f"CREATE TRIGGER fastws_before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION fastws_raise_version()"
        )
        statements += [
            f"CREATE TRIGGER fastws_{name} AFTER {event} ON {table} REFERENCING {rows} TABLE AS changed "
            f"FOR EACH STATEMENT EXECUTE FUNCTION fastws_note_changes('{kind}', '{column}')"
            for event, rows, name in _POSTGRESQL_EVENTS
        ]
        statements.append(
            f"CREATE TRIGGER fastws_truncate AFTER TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION fastws_note_all('{kind}')"
        )
    return statements


_STATEMENTS: Final = {"sqlite": _sqlite_statements(), "postgresql": _postgresql_statements()}
