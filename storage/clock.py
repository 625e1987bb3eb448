"""The database's own clock: the only one that all who share a database agree on."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import ColumnElement, Connection, Float, literal_column


def now(connection: Connection) -> ColumnElement[float]:
    """Return SQL for the seconds since 1970, to a millisecond."""
    if connection.dialect.name == "sqlite":
        return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float(53))
    return literal_column("extract(epoch from clock_timestamp())::double precision", Float(53))


def read(connection: Connection) -> float:
    """Return the seconds since 1970."""
    return float(connection.execute(sqlalchemy.select(now(connection))).scalar_one())
