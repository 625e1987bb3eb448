"""Opens a database by its URL: SQLite in a file (default) or Postgres."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from storage.errors import StorageUnavailable

SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON")
"""WAL, so that readers (the dashboard) and the writer never block one another; NORMAL syncs at checkpoints, which is safe
against a killed process."""


def parse_url(url: str) -> URL:
    """Return the URL with its driver settled: `postgresql://` and `postgres://` mean psycopg 3.

    Raises:
        StorageUnavailable: it is no database URL, or of a kind that is not supported.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StorageUnavailable(
            f"storage {url!r} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        return parsed
    raise StorageUnavailable(f"storage {shown(url)}: {parsed.get_backend_name()} is not supported; use sqlite:/// or postgresql://")


def shown(url: str) -> str:
    """Return a URL as it may be printed or logged: without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return repr(url)


def open_database(url: str, *, must_exist: bool = False) -> RDBStorage:
    """Open a database, creating Optuna's schema where there is none.

    Args:
        url: `sqlite:///FILE` or `postgresql://…`.
        must_exist: refuse a SQLite file that is not there, instead of making it.

    Raises:
        StorageUnavailable: the database cannot be reached, or holds a schema of another Optuna.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and must_exist and not Path(parsed.database).exists():
        raise StorageUnavailable(f"storage {shown(url)}: there is no such file; name another with --storage, or run a study first")
    with translated(url):
        probe = sqlalchemy.create_engine(parsed)
        _configure(probe)
        with probe.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        probe.dispose()
        _create_schema(parsed)
        optuna_url = parsed.render_as_string(hide_password=False)
        backend = RDBStorage(optuna_url, skip_table_creation=True)
        backend.engine.dispose()
        _configure(backend.engine)
        return backend


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the errors of drivers and of Optuna into one line that names the database, its password left out."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
        raise StorageUnavailable(f"storage {shown(url)}: {reason}") from error
    except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StorageUnavailable(f"storage {shown(url)}: {reason}") from error


def _create_schema(url: URL) -> None:
    """Create Optuna's tables, one process at a time: several at once fail."""
    engine = sqlalchemy.create_engine(url)
    _configure(engine)
    try:
        with engine.connect() as connection:
            if url.get_backend_name() == "sqlite":
                connection.execute(sqlalchemy.text("BEGIN IMMEDIATE"))
            else:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(7393014)"))
            optuna.storages._rdb.models.BaseModel.metadata.create_all(connection)
            connection.commit()
    finally:
        engine.dispose()


def _configure(engine: sqlalchemy.Engine) -> None:
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


logging.getLogger("alembic").setLevel(logging.WARNING)
