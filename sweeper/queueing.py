"""What is asked of studies that run elsewhere: put one into the queue, look at the queue, stop one, give one more to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import optuna

from storage import admin, queue
from storage.engine import DEFAULT_URL, open_database, open_to_read
from storage.engine import translated as storage_errors
from storage.errors import StudyHeld
from storage.lease import holder_of, lease
from storage.queue import Queued
from storage.requests import STOP, TIME, TRIALS, Request, ask
from storage.trials import TrialStorage
from studies.loader import with_changes
from studies.spec import StudySpec
from sweeper.budget import duration
from sweeper.errors import UsageError, translated
from sweeper.opening import begun_warm, open_study, settle_spec, write_note
from sweeper.results import Results
from sweeper.sampler import check_sampler


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a request to stop met: who leads the study, None if nobody does, and whether it was in the queue."""

    led_by: str | None
    queued: bool


@dataclass(frozen=True, slots=True)
class Extended:
    """What a request for more met: who leads the study, None if nobody does, whether it is queued, and its spec from now on."""

    led_by: str | None
    queued: bool
    spec: StudySpec


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


def extend_study(name: str, storage: str = DEFAULT_URL, *, trials: int | None = None, time: str | float | None = None) -> Extended:
    """Give a study a larger budget: whoever leads it is asked to go on so far, else it is stored, for the next call.

    Args:
        name: of the study.
        storage: a database URL.
        trials: in the study, over all calls.
        time: for which its workers may work, over all calls: seconds, or as in `2h`.

    Raises:
        DatabaseError: there is no such database.
        NoSuchResult: it holds no study of this name.
        UsageError: neither is given, or one is no more than the study has.
        StudyFileError: a grid has no more points.
    """
    with translated(), storage_errors(storage):
        before = Results.load(name, open_to_read(storage)).spec
        limit = before.budget.time
        wanted = with_changes(before, trials=trials, budget=before.budget.model_dump() | ({"time": time} if time else {}))
        if trials is None and time is None:
            raise UsageError("say how far: --trials N, --timeout TIME, or both")
        if trials is not None and trials <= before.trials:
            raise UsageError(f"--trials {trials}: {name} has {before.trials} trials already; say how many it should have in all")
        if time is not None and limit is None:
            raise UsageError(f"--timeout {time}: {name} has no time limit")
        if wanted.budget.time and limit and time is not None and wanted.budget.time <= limit:
            raise UsageError(f"--timeout {time}: {name} has {duration(limit)} already; say how long it may work in all")
        check_sampler(wanted)
        database = TrialStorage(open_database(storage))
        engine = database.backend.engine
        study_id = admin.study_id(engine, name)
        found = next((study for study in queue.listed(engine) if study.study_id == study_id), None)
        queued = found is not None
        try:
            with lease(engine, study_id) as held, database.guarded(held.check, held.since):
                settle_spec(wanted, optuna.load_study(study_name=name, storage=database))
                return Extended(None, queued, wanted)
        except StudyHeld:
            with engine.connect() as connection:
                holder = holder_of(connection, study_id)
        if trials is not None:
            ask(engine, study_id, Request(TRIALS, trials))
        if time is not None:
            ask(engine, study_id, Request(TIME, math.ceil(wanted.budget.time or 0)))
        with engine.begin() as connection:  # its server may have ended with it before it could hear
            if found and holder_of(connection, study_id) is None:
                queue.put(connection, study_id, found.priority)
        return Extended(holder or "its leader", queued, wanted)


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
        writing = open_database(storage).engine
        queued = queue.remove(writing, study_id)  # first: a server that takes it at this moment looks whether it is still there
        with engine.connect() as connection:
            holder = holder_of(connection, study_id)
        if holder:
            ask(writing, study_id, Request(STOP))
        return Stopped(holder, queued)
