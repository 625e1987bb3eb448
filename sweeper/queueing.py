"""What is asked of studies that run elsewhere: put one into the queue, look at the queue, stop one."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from storage import admin, queue
from storage.engine import DEFAULT_URL, open_database, open_to_read
from storage.engine import translated as storage_errors
from storage.lease import holder_of, lease
from storage.queue import Queued
from storage.requests import STOP, Request, ask
from storage.trials import TrialStorage
from studies.spec import StudySpec
from sweeper.errors import translated
from sweeper.opening import begun_warm, open_study, settle_spec, write_note
from sweeper.sampler import check_sampler


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a request to stop met: who leads the study, None if nobody does, and whether it was in the queue."""

    led_by: str | None
    queued: bool


def launch_study(spec: StudySpec, storage: str = DEFAULT_URL, priority: int = 0) -> list[Queued]:
    """Put a study into the queue, for servers to run it (`sweeper.service`), and return the queue.

    Args:
        spec: the study.
        storage: a database URL.
        priority: studies of a higher one are run first, of equals the oldest.

    Raises:
        StudyChanged: a study of this name exists, with another search.
        StudyInUse: it is being run already.
        DatabaseError: the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with translated(), storage_errors(storage):
        check_sampler(spec)
        database = TrialStorage(open_database(storage))
        study, engine = open_study(begun_warm(spec, database), database), database.backend.engine
        with lease(engine, study._study_id) as held, database.guarded(held.check, held.since):
            database.reload(study._study_id)
            study = open_study(spec, database)
            write_note(study, settle_spec(spec, study))
            database.transact(lambda connection: queue.put(connection, study._study_id, priority))
        return queue.listed(engine)


def list_queue(storage: str = DEFAULT_URL) -> list[Queued]:
    """Return the studies in the queue, in the order in which they are run.

    Raises:
        DatabaseError: there is no such database.
    """
    with translated(), storage_errors(storage):
        return queue.listed(open_to_read(storage).engine)


def request_stop(name: str, storage: str = DEFAULT_URL) -> Stopped:
    """Take a study out of the queue, and ask whoever leads it to stop soon.

    Raises:
        DatabaseError: there is no such database.
        NoSuchResult: it holds no study of this name.
    """
    with translated(), storage_errors(storage):
        engine = open_to_read(storage).engine
        study_id = admin.study_id(engine, name)
        with engine.connect() as connection:
            holder = holder_of(connection, study_id)
        writing = open_database(storage).engine
        queued = queue.remove(writing, study_id)  # first, so that no server takes it up again
        if holder:
            ask(writing, study_id, Request(STOP))
        return Stopped(holder, queued)
