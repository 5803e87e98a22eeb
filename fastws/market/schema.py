"""The tables of the database, and how one of an older version gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from fastws.market.triggers import create_triggers

MAX_USER_ID: Final = 255
"""Characters of the longest user id that can be stored."""

# The tables as they are now. How a database gets there stands in MIGRATIONS.

METADATA: Final = sa.MetaData()

VERSIONS: Final = sa.Table(
    "schema_version", METADATA, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False)
)
ALERT_RULES: Final = sa.Table(
    "alert_rules",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("user_id", sa.String(MAX_USER_ID), nullable=False, index=True),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("alert_type", sa.String(32), nullable=False),
    # Numbers are plain decimal text: no database has a numeric type that keeps the digits of 1.90.
    sa.Column("threshold", sa.String(40), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # ms since the Unix epoch, like every time
    sa.Column("fired_at", sa.BigInteger),
    sa.Column("fired_price", sa.String(40)),
    sa.Column("fired_by", sa.String(32)),  # the process that fired it
    sa.Column("told_at", sa.BigInteger),  # null once it has fired: nobody could be told yet
    sqlite_autoincrement=True,  # the id of a deleted rule never names another
)
LAST_VALUES: Final = sa.Table(
    "last_values",
    METADATA,
    sa.Column("code", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), primary_key=True),  # the type of its message
    sa.Column("published_at", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # the message as JSON
)
# No foreign keys between the following: other programs may write them too, in any order. Whoever reads them leaves
# out what refers to nothing.
INSTRUMENTS: Final = sa.Table(
    "instruments",
    METADATA,
    sa.Column("symbol", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("market", sa.String(64)),
    sa.Column("sector", sa.String(64)),
    sa.Column("previous_close", sa.String(40)),
    sa.Column("currency", sa.String(16)),
)
PORTFOLIOS: Final = sa.Table(
    "portfolios",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(MAX_USER_ID), nullable=False),  # a user id
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("currency", sa.String(16)),
)
POSITIONS: Final = sa.Table(
    "positions",
    METADATA,
    sa.Column("portfolio_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("symbol", sa.String(64), primary_key=True),
    sa.Column("quantity", sa.String(40), nullable=False),  # below zero: sold short
    sa.Column("cost", sa.String(40)),  # what was paid for all of it
    # Without it a portfolio's positions would be spread over the file, and reading all would take twice as long.
    sqlite_with_rowid=False,
)
DAILY_PRICES: Final = sa.Table(
    "daily_prices",
    METADATA,
    sa.Column("symbol", sa.String(64), primary_key=True),
    sa.Column("date", sa.Date, primary_key=True),  # of the trading day where the symbol is listed
    sa.Column("open", sa.String(40)),
    sa.Column("high", sa.String(40)),
    sa.Column("low", sa.String(40)),
    sa.Column("close", sa.String(40), nullable=False),
    sa.Column("volume", sa.BigInteger),
    sqlite_with_rowid=False,
)
# Kept by triggers; see `fastws.market.triggers`.
PORTFOLIO_VERSION: Final = sa.Table(
    "portfolio_version",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # 1, the only row
    sa.Column("version", sa.BigInteger, nullable=False),
)
PORTFOLIO_CHANGES: Final = sa.Table(
    "portfolio_changes",
    METADATA,
    sa.Column("kind", sa.String(16), primary_key=True),  # portfolio or symbol
    sa.Column("item", sa.String(64), primary_key=True),  # its id or code; * for all of the kind
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)


def _create_alert_rules(connection: sa.Connection) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "alert_rules",
        metadata,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("user_id", sa.String(255), nullable=False, index=True),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("alert_type", sa.String(32), nullable=False),
        sa.Column("threshold", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("fired_at", sa.BigInteger),
        sa.Column("fired_price", sa.String(40)),
        sa.Column("fired_by", sa.String(32)),
        sqlite_autoincrement=True,
    )
    metadata.create_all(connection, checkfirst=False)


def _note_who_was_told(connection: sa.Connection) -> None:
    connection.execute(sa.text("ALTER TABLE alert_rules ADD COLUMN told_at BIGINT"))
    # Until now nobody knew; users are not to hear of old ones again.
    connection.execute(sa.text("UPDATE alert_rules SET told_at = fired_at WHERE fired_at IS NOT NULL"))


def _create_last_values(connection: sa.Connection) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "last_values",
        metadata,
        sa.Column("code", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    metadata.create_all(connection, checkfirst=False)


def _create_portfolios(connection: sa.Connection) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "instruments",
        metadata,
        sa.Column("symbol", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("market", sa.String(64)),
        sa.Column("sector", sa.String(64)),
        sa.Column("previous_close", sa.String(40)),
        sa.Column("currency", sa.String(16)),
    )
    sa.Table(
        "portfolios",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("currency", sa.String(16)),
    )
    sa.Table(
        "positions",
        metadata,
        sa.Column("portfolio_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("symbol", sa.String(64), primary_key=True),
        sa.Column("quantity", sa.String(40), nullable=False),
        sa.Column("cost", sa.String(40)),
        sqlite_with_rowid=False,
    )
    sa.Table(
        "daily_prices",
        metadata,
        sa.Column("symbol", sa.String(64), primary_key=True),
        sa.Column("date", sa.Date, primary_key=True),
        sa.Column("open", sa.String(40)),
        sa.Column("high", sa.String(40)),
        sa.Column("low", sa.String(40)),
        sa.Column("close", sa.String(40), nullable=False),
        sa.Column("volume", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    version = sa.Table(
        "portfolio_version",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    sa.Table(
        "portfolio_changes",
        metadata,
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("item", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    metadata.create_all(connection, checkfirst=False)
    connection.execute(sa.insert(version).values(id=1, version=1))
    create_triggers(connection)


# The n-th brings a database from version n - 1 to n. One that was released is never changed, so none refers
# to the tables above, which are.
MIGRATIONS: Sequence[Callable[[sa.Connection], None]] = (
    _create_alert_rules,
    _note_who_was_told,
    _create_last_values,
    _create_portfolios,
)


def latest() -> int:
    """Return the version that this program works with."""
    return len(MIGRATIONS)


def version_of(connection: sa.Connection) -> int:
    """Return the version of a database, 0 of an empty one."""
    VERSIONS.create(connection, checkfirst=True)
    return connection.scalar(sa.select(sa.func.max(VERSIONS.c.version))) or 0


def existing_version_of(connection: sa.Connection) -> int:
    """Return the version of a database without making anything in it."""
    return version_of(connection) if sa.inspect(connection).has_table(VERSIONS.name) else 0


def migrate(connection: sa.Connection, version: int) -> None:
    """Bring a database of `version` to the latest, within the transaction of `connection`."""
    for number in range(version + 1, latest() + 1):
        MIGRATIONS[number - 1](connection)
        connection.execute(sa.insert(VERSIONS).values(version=number))
