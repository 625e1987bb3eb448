"""What other processes ask of the one that leads a study: they append, it takes."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy
from sqlalchemy import Engine

from storage.clock import now
from storage.tables import REQUESTS

STOP = "stop"
TRIALS = "trials"


class Request(NamedTuple):
    """`stop`: end soon. `trials`: a new number of trials, `value`."""

    kind: str
    value: int | None = None


def ask(engine: Engine, study_id: int, request: Request) -> None:
    """Leave a request for whoever leads a study."""
    with engine.begin() as connection:
        connection.execute(REQUESTS.insert().values(study_id=study_id, **request._asdict(), at=now(connection)))


def take(engine: Engine, study_id: int) -> list[Request]:
    """Return the requests for a study in the order they came, and take them away."""
    mine = REQUESTS.c.study_id == study_id
    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.select(REQUESTS).where(mine).order_by(REQUESTS.c.id)).all()
    if rows:
        with engine.begin() as connection:
            connection.execute(REQUESTS.delete().where(REQUESTS.c.id.in_([row.id for row in rows])))
    return [Request(row.kind, row.value) for row in rows]
