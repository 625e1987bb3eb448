"""What other processes ask of the one that leads a study: they append, it does and removes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy
from sqlalchemy import Connection, Engine

from storage.clock import now
from storage.tables import REQUESTS

STOP = "stop"
TRIALS = "trials"
TIME = "time"


class Request(NamedTuple):
    """`stop`: end soon. `trials`, `time`: a new number of trials, or of seconds, `value`. `at`: when, by the database's clock."""

    kind: str
    value: int | None = None
    id: int | None = None
    at: float = 0.0


def ask(engine: Engine, study_id: int, request: Request) -> None:
    """Leave a request for whoever leads a study."""
    with engine.begin() as connection:
        row = {"study_id": study_id, "kind": request.kind, "value": request.value, "at": now(connection)}
        connection.execute(REQUESTS.insert().values(row))


def pending(engine: Engine, study_id: int) -> list[Request]:
    """Return the requests for a study in the order they came."""
    mine = sqlalchemy.select(REQUESTS).where(REQUESTS.c.study_id == study_id).order_by(REQUESTS.c.id)
    with engine.connect() as connection:
        return [Request(row.kind, row.value, row.id, row.at) for row in connection.execute(mine)]


def remove(connection: Connection, done: Sequence[Request]) -> None:
    """Take away requests that were done: only now, so that one whose leader was killed meanwhile is done by the next."""
    connection.execute(REQUESTS.delete().where(REQUESTS.c.id.in_([request.id for request in done])))
