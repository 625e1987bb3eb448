"""One orchestrator leads a study at a time: a row that says who, and a token checked inside each of its transactions."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

import sqlalchemy
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from storage.clock import now, read
from storage.errors import StudyHeld
from storage.process import Process, is_alive, this_process
from storage.retry import patiently
from storage.tables import LEASES

EXPIRY = 60.0
"""Seconds without a renewal after which a holder counts as gone."""
RENEWAL = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a study's trials, `since` when, by the database's clock."""

    study_id: int
    token: str
    since: float = 0.0

    def check(self, connection: sqlalchemy.Connection) -> None:
        """Renew the lease as the first statement of a transaction, which so holds the row until it ends.

        Raises:
            StudyHeld: another process has taken the study over; the transaction must not go on.
        """
        mine = (LEASES.c.study_id == self.study_id) & (LEASES.c.token == self.token)
        if connection.execute(LEASES.update().where(mine).values(renewed=now(connection))).rowcount != 1:
            raise StudyHeld("another process has taken this study over, or deleted it; this one writes nothing more")


@contextmanager
def lease(engine: sqlalchemy.Engine, study_id: int, *, take_over: bool = False) -> Iterator[Lease]:
    """Hold a study for the time of a block, renewing it in the background.

    A holder that was a process of this machine and no longer lives is replaced at once, any other when its lease has not been
    renewed for `EXPIRY` seconds by the database's clock, or with `take_over`.

    Raises:
        StudyHeld: another process leads the study; the message says which, and since when.
    """
    wanted = Lease(study_id, secrets.token_hex(16))
    held = replace(wanted, since=patiently(lambda: _acquire(engine, wanted, take_over)))
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(engine, held, done), name="sweeper-lease", daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        done.set()
        renewing.join(RENEWAL)
        try:
            patiently(lambda: _release(engine, held), patience=RENEWAL)
        except SQLAlchemyError:  # it expires by itself
            log.warning("the lease could not be given back; it expires in %.0f s", EXPIRY)


def holder_of(connection: sqlalchemy.Connection, study_id: int) -> str | None:
    """Return who leads a study, in words; None if nobody does."""
    found = connection.execute(LEASES.select().where(LEASES.c.study_id == study_id)).one_or_none()
    return _described(found) if found is not None and _alive(found, connection) else None


def _renew(engine: sqlalchemy.Engine, held: Lease, done: threading.Event) -> None:
    while not done.wait(RENEWAL):
        try:
            with engine.begin() as connection:
                held.check(connection)
        except StudyHeld:
            return  # the next transaction of the orchestrator says so
        except SQLAlchemyError as error:
            log.debug("the lease was not renewed: %s", error)


def _release(engine: sqlalchemy.Engine, held: Lease) -> None:
    with engine.begin() as connection:
        connection.execute(LEASES.delete().where(LEASES.c.token == held.token))


def _acquire(engine: sqlalchemy.Engine, held: Lease, take_over: bool) -> float:
    """Write down who leads, and return since when; done again because the answer was lost, it finds its own row."""
    study_id, token = held.study_id, held.token
    this_study = LEASES.select().where(LEASES.c.study_id == study_id)
    try:
        with engine.begin() as connection:
            holder = connection.execute(this_study).one_or_none()
            if holder is not None and holder.token == token:
                return float(holder.since)
            if holder is not None:
                if not take_over and _alive(holder, connection):
                    raise StudyHeld(_held_by(holder))
                connection.execute(LEASES.delete().where(LEASES.c.token == holder.token))
            at = read(connection)
            connection.execute(LEASES.insert().values(study_id=study_id, token=token, since=at, renewed=at, **this_process()))
            return at
    except IntegrityError:  # somebody was faster, or the study is gone
        with engine.connect() as connection:
            faster = connection.execute(this_study).one_or_none()
        said = _held_by(faster) if faster else "the study was led, or deleted, by another process at this moment; try again"
        raise StudyHeld(said) from None


def _alive(holder: sqlalchemy.Row[tuple[object, ...]], connection: sqlalchemy.Connection) -> bool:
    """Whether the holder may still live: of this machine, if its process does; of another, if it renewed its lease lately."""
    here = is_alive(cast(Process, holder))
    return bool(read(connection) - holder.renewed < EXPIRY) if here is None else here


def _described(holder: sqlalchemy.Row[tuple[object, ...]]) -> str:
    since = datetime.fromtimestamp(holder.since, UTC)
    return f"process {holder.pid} on {holder.host} since {since:%Y-%m-%d %H:%M} UTC"


def _held_by(holder: sqlalchemy.Row[tuple[object, ...]]) -> str:
    return f"the study is led by {_described(holder)}; wait for it, stop it, or use --take-over if it is gone"
