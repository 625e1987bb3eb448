"""The queue of launched studies: servers take from it by priority, then age; the lease says which is being run."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select

from storage.clock import now
from storage.lease import holder_of
from storage.schema import version
from storage.tables import QUEUE, STUDIES


@dataclass(frozen=True, slots=True)
class Queued:
    """A study in the queue. `since` is in seconds since 1970; `error`: why a server gave it up; `led_by`: who runs it now."""

    study_id: int
    name: str
    priority: int
    since: float
    error: str | None
    led_by: str | None


def put(connection: Connection, study_id: int, priority: int) -> None:
    """Put a study into the queue, or give the one that is there another priority and another chance."""
    mine = QUEUE.c.study_id == study_id
    if connection.execute(QUEUE.update().where(mine).values(priority=priority, error=None)).rowcount == 0:
        row = {"study_id": study_id, "priority": priority, "since": now(connection), "error": None}
        connection.execute(QUEUE.insert().values(row))


def remove(engine: Engine, study_id: int) -> bool:
    """Take a study out of the queue; return whether it was there."""
    with engine.begin() as connection:
        return connection.execute(QUEUE.delete().where(QUEUE.c.study_id == study_id)).rowcount > 0


def holds(engine: Engine, study_id: int) -> bool:
    """Return whether a study is in the queue."""
    with engine.connect() as connection:
        return connection.execute(select(QUEUE.c.study_id).where(QUEUE.c.study_id == study_id)).first() is not None


def give_up(engine: Engine, study_id: int, error: str) -> None:
    """Leave a study in the queue, to be seen there, with the reason why no server is to try it again."""
    with engine.begin() as connection:
        connection.execute(QUEUE.update().where(QUEUE.c.study_id == study_id).values(error=error))


def listed(engine: Engine) -> list[Queued]:
    """Return the queue in the order in which it is run; those that were given up come last."""
    query = (
        select(QUEUE, STUDIES.c.study_name)
        .join(STUDIES, STUDIES.c.study_id == QUEUE.c.study_id)
        .order_by(QUEUE.c.error.is_not(None), QUEUE.c.priority.desc(), QUEUE.c.since, QUEUE.c.study_id)
    )
    with engine.connect() as connection:
        if not version(connection):
            return []
        return [
            Queued(row.study_id, row.study_name, row.priority, row.since, row.error, holder_of(connection, row.study_id))
            for row in connection.execute(query).all()
        ]


def next_free(engine: Engine) -> Queued | None:
    """Return the first study of the queue that nobody runs and that was not given up."""
    return next((queued for queued in listed(engine) if queued.error is None and queued.led_by is None), None)
