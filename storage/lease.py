"""One orchestrator leads a study at a time: a row that says who, and a token checked inside each of its transactions."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import IntegrityError

from storage.errors import StudyHeld
from storage.tables import LEASES


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a study's trials."""

    study_id: int
    token: str

    def check(self, connection: sqlalchemy.Connection) -> None:
        """Renew the lease as the first statement of a transaction, which so holds the row until it ends.

        Raises:
            StudyHeld: another process has taken the study over; the transaction must not go on.
        """
        mine = (LEASES.c.study_id == self.study_id) & (LEASES.c.token == self.token)
        if connection.execute(LEASES.update().where(mine).values(renewed=_now())).rowcount != 1:
            raise StudyHeld("another process has taken this study over; this one writes nothing more")


@contextmanager
def lease(engine: sqlalchemy.Engine, study_id: int, *, take_over: bool = False) -> Iterator[Lease]:
    """Hold a study for the time of a block.

    A holder that was a process of this machine and no longer lives is replaced at once; any other only with `take_over`.

    Raises:
        StudyHeld: another process leads the study; the message says which, and since when.
    """
    held = _acquire(engine, study_id, take_over)
    try:
        yield held
    finally:
        with engine.begin() as connection:
            connection.execute(LEASES.delete().where(LEASES.c.token == held.token))


def _acquire(engine: sqlalchemy.Engine, study_id: int, take_over: bool) -> Lease:
    me = {
        "study_id": study_id,
        "token": secrets.token_hex(16),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": _now(),
        "renewed": _now(),
    }
    this_study = LEASES.select().where(LEASES.c.study_id == study_id)
    try:
        with engine.begin() as connection:
            holder = connection.execute(this_study).one_or_none()
            if holder is not None:
                if not take_over and _alive(holder):
                    raise StudyHeld(_held_by(holder))
                connection.execute(LEASES.delete().where(LEASES.c.token == holder.token))
            connection.execute(LEASES.insert().values(me))
    except IntegrityError:  # somebody was faster
        with engine.connect() as connection:
            holder = connection.execute(this_study).one()
        raise StudyHeld(_held_by(holder)) from None
    return Lease(study_id, str(me["token"]))


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


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
