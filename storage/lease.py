"""One orchestrator leads a study at a time: a row that says who, taken and given back in one transaction."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import IntegrityError

from storage.errors import StudyHeld

METADATA = sqlalchemy.MetaData()
LEASES = sqlalchemy.Table(
    "sweeper_leases",
    METADATA,
    sqlalchemy.Column("study_id", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("host", sqlalchemy.String(255), nullable=False),
    sqlalchemy.Column("pid", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("process_start", sqlalchemy.String(64), nullable=False),
    sqlalchemy.Column("since", sqlalchemy.DateTime, nullable=False),
)


@contextmanager
def lease(backend: RDBStorage, study_id: int, *, take_over: bool = False) -> Iterator[None]:
    """Hold a study for the time of a block.

    A holder that was a process of this machine and no longer lives is replaced at once; any other only with `take_over`.

    Raises:
        StudyHeld: another process leads the study; the message says which, and since when.
    """
    _acquire(backend.engine, study_id, take_over)
    try:
        yield
    finally:
        mine = (LEASES.c.study_id == study_id) & (LEASES.c.pid == os.getpid()) & (LEASES.c.host == socket.gethostname())
        with backend.engine.begin() as connection:
            connection.execute(LEASES.delete().where(mine))


def _acquire(engine: sqlalchemy.Engine, study_id: int, take_over: bool) -> None:
    METADATA.create_all(engine)
    me = {
        "study_id": study_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": datetime.now(UTC).replace(tzinfo=None),
    }
    try:
        with engine.begin() as connection:
            holder = connection.execute(LEASES.select().where(LEASES.c.study_id == study_id)).one_or_none()
            if holder is not None:
                if not take_over and _alive(holder):
                    raise StudyHeld(_held_by(holder))
                same = (LEASES.c.study_id == study_id) & (LEASES.c.pid == holder.pid) & (LEASES.c.since == holder.since)
                connection.execute(LEASES.delete().where(same))
            connection.execute(LEASES.insert().values(me))
    except IntegrityError:
        with engine.connect() as connection:
            holder = connection.execute(LEASES.select().where(LEASES.c.study_id == study_id)).one()
        raise StudyHeld(_held_by(holder)) from None


def _alive(holder: sqlalchemy.Row[tuple[object, ...]]) -> bool:
    """Whether the holder may still live: on another machine nobody can tell, so yes."""
    return bool(holder.host != socket.gethostname() or _process_start(holder.pid) == holder.process_start != "")


def _held_by(holder: sqlalchemy.Row[tuple[object, ...]]) -> str:
    return (
        f"the study is led by process {holder.pid} on {holder.host} since {holder.since:%Y-%m-%d %H:%M} UTC; "
        "wait for it, stop it, or use --take-over if it is gone"
    )


def _process_start(pid: int) -> str:
    """Return when a process of this machine started, so that a reused number is not taken for it; '' if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        return stat.read_text().rsplit(")", 1)[1].split()[19]
    if Path("/proc").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
