"""Opens a database by its URL: SQLite in a file (default) or Postgres."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from storage.errors import StorageUnavailable
from storage.tables import METADATA

DEFAULT_URL = "sqlite:///sweeper.db"
WRITER_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON")
"""WAL, so that readers (the dashboard) and the writer never block one another; NORMAL syncs at checkpoints, which is safe
against a killed process."""
READER_PRAGMAS = ("busy_timeout=30000", "query_only=ON")
SCHEMA_LOCK = 7393014
SCHEMA_ATTEMPTS = 6
SECRET_KEYS = ("password", "passfile", "sslpassword")


def parse_url(url: str) -> URL:
    """Return the URL with its driver settled: `postgresql://` and `postgres://` mean psycopg 3.

    Raises:
        StorageUnavailable: it is no database URL, or of a kind that is not supported.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StorageUnavailable(
            f"storage {shown(url)!r} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    if "@" in (parsed.host or ""):
        raise StorageUnavailable(f"storage {shown(url)}: an @ in a user name or password is written %40")
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        kind = parsed.get_backend_name()
        raise StorageUnavailable(f"storage {shown(url)}: {kind} is not supported; use sqlite:///FILE or postgresql://…")
    if parsed.database in (None, "", ":memory:"):
        raise StorageUnavailable(f"storage {shown(url)}: a database in memory would be lost; name a file, as in {DEFAULT_URL}")
    return parsed


def shown(url: str) -> str:
    """Return a URL as it may be printed or logged, whatever it is: without any password."""
    masked = re.sub(r"(?<=:)[^/:][^:]*(?=@)|(?<=:)[^:]+(?=@)", "***", url) if "@" in url else url
    return re.sub(rf"(?i)\b({'|'.join(SECRET_KEYS)})=[^&\s]*", r"\1=***", masked)


def open_database(url: str) -> RDBStorage:
    """Open a database to write to it, creating Optuna's schema and ours where there is none.

    Raises:
        StorageUnavailable: the database cannot be reached, or holds a schema of another Optuna.
    """
    parsed = parse_url(url)
    with translated(url):
        for attempt in range(SCHEMA_ATTEMPTS):
            try:
                return _open_once(parsed)
            except DBAPIError:
                if parsed.get_backend_name() != "sqlite" or attempt == SCHEMA_ATTEMPTS - 1 or not _has_file(parsed):
                    raise
                time.sleep(0.1 * 2**attempt)  # another process is creating the schema at this very moment
        raise AssertionError("unreachable")


def open_to_read(url: str) -> RDBStorage:
    """Open a database that exists, and change nothing in it.

    Raises:
        StorageUnavailable: there is none, or it holds no studies.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not _has_file(parsed):
        raise StorageUnavailable(f"storage {shown(url)}: there is no such file; name another with --storage, or run a study first")
    with translated(url):
        engine = sqlalchemy.create_engine(parsed)
        tables = sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
        if "studies" not in tables:
            raise StorageUnavailable(f"storage {shown(url)}: there are no studies in this database")
        return _backend(parsed, READER_PRAGMAS)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the errors of drivers and of Optuna into one line that names the database, its password left out."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
        raise StorageUnavailable(f"storage {shown(url)}: {reason}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        raise StorageUnavailable(f"storage {shown(url)}: {reason}") from error


def _open_once(url: URL) -> RDBStorage:
    """Create what is missing and open: one process at a time on Postgres, by a lock; on SQLite the loser tries again."""
    engine = sqlalchemy.create_engine(url)
    _configure(engine, WRITER_PRAGMAS)
    try:
        with engine.connect() as lock:
            if url.get_backend_name() != "sqlite":
                lock.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({SCHEMA_LOCK})"))
                lock.commit()
            models.BaseModel.metadata.create_all(engine)
            METADATA.create_all(engine)
            return _backend(url, WRITER_PRAGMAS)  # stamps the schema's version; closing the connection frees the lock
    finally:
        engine.dispose()


def _backend(url: URL, pragmas: tuple[str, ...]) -> RDBStorage:
    try:
        backend = RDBStorage(url.render_as_string(hide_password=False), skip_table_creation=True)
    except (RuntimeError, ImportError) as error:  # a schema of another Optuna; a driver that is not there
        raise StorageUnavailable(f"storage {url.render_as_string()}: {str(error).strip().splitlines()[0]}") from error
    backend.engine.dispose()
    _configure(backend.engine, pragmas)
    return backend


def _configure(engine: sqlalchemy.Engine, pragmas: tuple[str, ...]) -> None:
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _has_file(url: URL) -> bool:
    return Path(str(url.database).removeprefix("file:").split("?")[0]).exists()


logging.getLogger("alembic").setLevel(logging.WARNING)
