"""Opens a database by its URL: SQLite in a file (default) or Postgres."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from storage.errors import SchemaUnknown, StorageError, StorageUnavailable
from storage.postgres import CONNECT_OPTIONS, WRITER_LIMITS, watch
from storage.retry import is_race, patiently, reason_of
from storage.schema import prepare, refuse_newer, version
from storage.tables import SCHEMA_VERSION

DEFAULT_URL = "sqlite:///sweeper.db"
WRITER_PRAGMAS = ("journal_mode=WAL", "busy_timeout=5000", "foreign_keys=ON")
"""WAL, so that readers (the dashboard) and the writer never block one another. synchronous=NORMAL syncs at checkpoints of the log,
which is safe against a killed process; FULL at every commit, which is safe against a loss of power."""
READER_PRAGMAS = ("busy_timeout=30000", "query_only=ON")
OPENING_PATIENCE = 10.0
SCHEMA_LOCK = 7393014
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "glusterfs", "ceph"}
log = logging.getLogger(__name__)
SECRET_KEYS = ("password", "passfile", "sslpassword")


def parse_url(url: str) -> URL:
    """Return the URL with its driver settled: `postgresql://` and `postgres://` mean psycopg 3.

    Raises:
        StorageUnavailable: it is no database URL, or of a kind that is not supported.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StorageUnavailable(  # and not what it is: it may hold a password, who knows where
            "what --storage says is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
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


def same_database(one: str, other: str) -> bool:
    """Return whether two URLs name the same database, as far as they tell."""
    first, second = parse_url(one), parse_url(other)
    if first.get_backend_name() == second.get_backend_name() == "sqlite":
        return Path(first.database or "").resolve() == Path(second.database or "").resolve()
    return (first.host, first.port, first.database, first.query) == (second.host, second.port, second.database, second.query)


def shown(url: str) -> str:
    """Return a URL as it may be printed or logged, whatever it is: without any password."""
    place, question, query = url.partition("?")
    if "@" in url and "@" not in place:  # a password with a question mark
        place, question, query = url, "", ""
    if "@" in place:
        before, _, after = place.rpartition("@")
        scheme, slashes, account = before.partition("://") if "://" in before else before.partition(":/")
        user, colon, password = account.partition(":")
        place = f"{scheme}{slashes}{user}{colon}{'***' if password else ''}@{after}"
    parts = [f"{part.partition('=')[0]}=***" if _is_secret(part) else part for part in re.split("[&;]", query)]
    return place + question + "&".join(parts)


def _is_secret(part: str) -> bool:
    return unquote_plus(part.partition("=")[0]).strip().lower() in SECRET_KEYS


def open_database(url: str, *, patience: float = OPENING_PATIENCE, durable: bool = False) -> RDBStorage:
    """Open a database to write to it, creating Optuna's schema and ours where there is none.

    Args:
        url: of the database.
        patience: seconds for which it is tried again where it is busy or restarting.
        durable: let SQLite sync every transaction to the disk (`synchronous=FULL`): safe against a loss of power too.

    Raises:
        StorageUnavailable: the database cannot be reached, or holds a schema of another Optuna.
    """
    parsed = parse_url(url)
    _warn_of_network(parsed)
    with translated(url):
        return patiently(lambda: _open_once(parsed, durable), patience, is_race)


def open_to_read(url: str, *, old: bool = False) -> RDBStorage:
    """Open a database that exists, and change nothing in it.

    Args:
        url: of the database.
        old: let tables of an older version pass.

    Raises:
        StorageUnavailable: there is none, or it holds no studies, or is of an older version.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        if not _file(parsed).exists():
            raise StorageUnavailable(
                f"storage {shown(url)}: there is no such file; name another with --storage, or run a study first"
            )
        parsed = _unwritable(parsed)
    with translated(url):
        engine = _engine(parsed)
        if "studies" not in sqlalchemy.inspect(engine).get_table_names():
            raise StorageUnavailable(f"storage {shown(url)}: there are no studies in this database")
        with engine.connect() as connection:
            refuse_newer(found := version(connection))
            if found is not None and found < SCHEMA_VERSION and not old:
                raise StorageUnavailable(f"storage {shown(url)}: its tables are of version {found}; run: sweeper storage upgrade")
        engine.dispose()
        return _backend(parsed, READER_PRAGMAS, read_only=True)


DATABASE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError, StorageError)
"""What a database that fails, or that somebody else writes to, makes the storage raise."""


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the errors of drivers and of Optuna into one line that names the database, its password left out."""
    try:
        yield
    except SchemaUnknown as error:
        raise SchemaUnknown(f"storage {shown(url)}: {error}") from None
    except DBAPIError as error:
        if isinstance(error, IntegrityError) and "foreign key" in reason_of(error).lower():
            raise StorageUnavailable(f"storage {shown(url)}: the study was deleted meanwhile") from error
        raise StorageUnavailable(f"storage {shown(url)}: {_told(url, error)}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageUnavailable(f"storage {shown(url)}: {_told(url, error.__cause__ or error)}") from error


def _told(url: str, error: BaseException) -> str:
    """Return what a driver says, or what it means: of SQLite, the same words for a file as for its folder."""
    reason, path = reason_of(error), file_of(url)
    if path is None or not any(words in reason for words in ("readonly", "unable to open")):
        return reason
    file, folder = path.absolute(), path.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder}; make it, or name another file with --storage"
    for place in (folder, file):
        if place.exists() and not os.access(place, os.W_OK):
            return f"{place} may not be written to; name another file with --storage"
    return reason


def _open_once(url: URL, durable: bool) -> RDBStorage:
    """Create what is missing and open: on Postgres one process at a time; on SQLite the slower one fails, and tries again."""
    engine = _engine(url)
    pragmas = (*WRITER_PRAGMAS, f"synchronous={'FULL' if durable else 'NORMAL'}")
    _configure(engine, pragmas)
    try:
        with engine.connect() as lock:
            if url.get_backend_name() != "sqlite":
                lock.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({SCHEMA_LOCK})"))
            lock.commit()
            prepare(engine)
            return _backend(url, pragmas)  # stamps the version of Optuna's schema; closing the connection frees the lock
    finally:
        engine.dispose()


def _unwritable(url: URL) -> URL:
    """Let a file in a folder that may not be written to be read as it is: reading would begin with a log beside it.

    A log that is there already is read, and must be: somebody else may write to it.
    """
    path = _file(url)
    if os.access(path.absolute().parent, os.W_OK) or path.with_name(f"{path.name}-wal").exists():
        return url
    return url.set(database=f"file:{quote(str(path))}", query={**url.query, "immutable": "1", "uri": "true"})


def _backend(url: URL, pragmas: tuple[str, ...], *, read_only: bool = False) -> RDBStorage:
    try:
        options = {} if url.get_backend_name() == "sqlite" else {"pool_pre_ping": True, "connect_args": _postgres_options(url)}
        backend = RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options, skip_table_creation=True)
    except (RuntimeError, ImportError) as error:  # a schema of another Optuna; a driver that is not there
        raise StorageUnavailable(f"storage {url.render_as_string()}: {str(error).strip().splitlines()[0]}") from error
    backend.engine.dispose()
    if options:
        watch(backend.engine)
    _configure(backend.engine, pragmas)
    if read_only and url.get_backend_name() != "sqlite":
        event.listen(backend.engine, "connect", lambda connection, record: setattr(connection, "read_only", True))  # psycopg's own
    return backend


def _engine(url: URL) -> sqlalchemy.Engine:
    """Return an engine for a short look, or for creating what is missing."""
    if url.get_backend_name() == "sqlite":
        return sqlalchemy.create_engine(url)
    engine = sqlalchemy.create_engine(url, connect_args=_postgres_options(url))
    watch(engine)
    return engine


def _postgres_options(url: URL) -> dict[str, int]:
    return {name: value for name, value in CONNECT_OPTIONS.items() if name not in url.query}


def _configure(engine: sqlalchemy.Engine, pragmas: tuple[str, ...]) -> None:
    """Let every connection begin with settings of ours."""
    if engine.dialect.name == "sqlite":
        settings = [f"PRAGMA {pragma}" for pragma in pragmas]
    else:
        settings = [f"SET {name} = '{value}'" for name, value in WRITER_LIMITS.items()]

    @event.listens_for(engine, "connect")
    def _set(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(setting)
        cursor.close()
        if engine.dialect.name != "sqlite":
            connection.commit()


def file_of(url: str) -> Path | None:
    """Return the file of an SQLite database; None for any other.

    Raises:
        StorageUnavailable: it is no database URL.
    """
    parsed = parse_url(url)
    return _file(parsed) if parsed.get_backend_name() == "sqlite" else None


def network_file_system(path: Path) -> str:
    """Return the kind of network file system that a file lies on; "" if it is none, or cannot be told."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    kinds = {Path(fields[1]): fields[2] for fields in map(str.split, mounts.read_text().splitlines()) if len(fields) > 2}
    kind = next((kinds[parent] for parent in path.absolute().parents if parent in kinds), "")
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def _warn_of_network(url: URL) -> None:
    """Warn of SQLite on a network file system, where its locks and its log do not work."""
    if url.get_backend_name() == "sqlite" and (kind := network_file_system(_file(url))):
        place = _file(url).absolute()
        log.warning("%s lies on a network file system (%s), where SQLite may lose data; use a local disk, or Postgres", place, kind)


def _file(url: URL) -> Path:
    return Path(str(url.database).removeprefix("file:").split("?")[0])


logging.getLogger("alembic").setLevel(logging.WARNING)
