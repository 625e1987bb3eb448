"""Creates and upgrades the tables; refuses those of a newer version. The caller sees to it that one process does so at a time."""

from __future__ import annotations

import sqlalchemy
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.schema import CreateColumn

from storage.errors import SchemaUnknown
from storage.tables import LEASES, METADATA, OF_TRIALS, OUTCOMES, QUEUE, REQUESTS, SCHEMA, SCHEMA_VERSION, STUDIES, TRIALS


def version(connection: Connection) -> int | None:
    """Return the version of our tables; 0 for those from before there was one, None where there are none."""
    tables = set(sqlalchemy.inspect(connection).get_table_names())
    if SCHEMA.name not in tables:
        return 0 if "sweeper_leases" in tables else None
    return connection.execute(sqlalchemy.select(SCHEMA.c.version)).scalar_one_or_none()


def prepare(engine: Engine) -> None:
    """Create what is missing, upgrade what is old, and sweep out what belongs to trials that are gone.

    Raises:
        SchemaUnknown: the tables are of a newer version.
    """
    with engine.begin() as connection:
        models.BaseModel.metadata.create_all(connection)
        found = version(connection)
        refuse_newer(found)
        if found == 0:  # held nothing but leases, whose holders are gone
            connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS sweeper_leases"))
        columns = {column["name"] for column in sqlalchemy.inspect(connection).get_columns(LEASES.name)} if found == 1 else set()
        if columns and "machine" not in columns:  # those who lead now go on; an empty name is that of no machine
            connection.execute(sqlalchemy.text(f"ALTER TABLE {LEASES.name} ADD COLUMN machine VARCHAR(255) NOT NULL DEFAULT ''"))
        if sqlalchemy.inspect(connection).has_table(OUTCOMES.name):
            _add_columns(connection, OUTCOMES)
        METADATA.create_all(connection)
        if found != SCHEMA_VERSION:
            connection.execute(SCHEMA.delete())
            connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))
        for table in OF_TRIALS:  # left by an Optuna that does not enforce foreign keys; trial ids may come again
            connection.execute(table.delete().where(table.c.trial_id.not_in(sqlalchemy.select(TRIALS.c.trial_id))))
        for of_studies in (REQUESTS, QUEUE):
            connection.execute(of_studies.delete().where(of_studies.c.study_id.not_in(sqlalchemy.select(STUDIES.c.study_id))))


def _add_columns(connection: Connection, table: Table) -> None:
    """Add to a table the columns that it lacks, empty."""
    there = {column["name"] for column in sqlalchemy.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            added = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(sqlalchemy.text(f"ALTER TABLE {table.name} ADD COLUMN {added}"))


def refuse_newer(found: int | None) -> None:
    """Refuse tables of a newer version.

    Raises:
        SchemaUnknown: they are.
    """
    if found is not None and found > SCHEMA_VERSION:
        raise SchemaUnknown(
            f"its tables are of version {found}, this sweeper knows {SCHEMA_VERSION}; use a newer sweeper, or another database"
        )
