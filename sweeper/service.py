"""The queue: takes launched studies and runs them here, one after another, until told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine

from storage import queue, requests
from storage.engine import open_database
from storage.engine import translated as storage_errors
from storage.errors import StudyHeld
from storage.lease import lease
from storage.queue import Queued
from storage.retry import patiently
from sweeper.api import StudyResult, open_results, run_study
from sweeper.errors import DatabaseError, NoSuchResult, StudyInUse, SweeperError, translated
from sweeper.events import event, logged_to

if TYPE_CHECKING:
    from sweeper.progress import Stoppable

POLL_SECONDS = 2.0
"""So often an idle server looks into the queue."""
DATABASE_SECONDS = 15.0
"""So long it waits for a database that is gone."""

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Server:
    """Runs queued studies on this machine's devices, by priority, then age.

    The lease of a study says who runs it: servers that share a database never run the same one. A study stays in the queue until
    it has ended, so that one whose server was killed is taken up by the next. One that cannot be run stays too, with the
    reason, and is not tried again before it is launched anew.

    Args:
        storage: the database's URL.
        runs: folder of the studies' files.
        run: runs a study, as `run_study` does, which it is by default.
        where: what else `run_study` takes: devices, workers, a cluster, the folder of data sets.
    """

    def __init__(self, storage: str, runs: Path, run: Callable[..., StudyResult] = run_study, **where: Any) -> None:
        self._storage, self._runs, self._run, self._where = storage, runs, run, where
        self._engine: Engine | None = None
        self._stopping = False
        self._leading: Stoppable | None = None

    def request_stop(self) -> None:
        """End soon: the study that is run stays in the queue. Safe to call from a signal handler."""
        self._stopping = True
        if self._leading:
            self._leading.request_stop()

    def serve(self, *, once: bool = False) -> None:
        """Work until a stop is requested; with `once`, until there is nothing left that this server could run."""
        while not self._stopping:
            try:
                queued = self._next()
                if queued is not None:
                    self._work(queued)
                elif once:
                    return
            except DatabaseError as error:
                if once:
                    raise
                event(log, "database_gone", f"{error}; looking again", level=logging.WARNING)
                self._sleep(DATABASE_SECONDS)
            else:
                if queued is None:
                    self._sleep(POLL_SECONDS)

    def _next(self) -> Queued | None:
        return self._ask(queue.next_free)

    def _work(self, queued: Queued) -> None:
        event(log, "taken", f"study {queued.name} is taken from the queue", study=queued.name, priority=queued.priority)
        try:
            spec = open_results(queued.name, self._storage).spec

            def lead(working: Stoppable) -> None:
                self._lead(working, queued)

            with logged_to(self._runs / queued.name / "log.jsonl"):
                result = self._run(spec, storage=self._storage, runs=self._runs, on_start=lead, **self._where)
        except StudyInUse as error:  # another server was faster
            log.info("%s", error)
        except DatabaseError:
            raise
        except SweeperError as error:
            said, reason = f"study {queued.name} is given up: {error}", str(error)
            event(log, "given_up", said, level=logging.ERROR, study=queued.name, reason=reason)
            self._ask(lambda engine: queue.give_up(engine, queued.study_id, reason))
        else:
            if not result.interrupted:
                self._ask(lambda engine: self._remove(engine, queued, result))
        finally:
            self._leading = None

    def _lead(self, working: Stoppable, queued: Queued) -> None:
        """Note who works, and stop it at once if that was asked for before anybody led the study."""
        self._leading = working
        if self._stopping or not self._is_wanted(queued):
            working.request_stop()

    def _is_wanted(self, queued: Queued) -> bool:
        """Return whether a study is in the queue; one of which the database does not say is."""
        try:
            return self._ask(lambda engine: patiently(lambda: queue.holds(engine, queued.study_id)))
        except DatabaseError:
            return True

    def _remove(self, engine: Engine, queued: Queued, result: StudyResult) -> None:
        """Take a study that has ended out of the queue, unless more has been asked of it since: then its turn comes again.

        Whoever asks for more writes it as the study's leader, or leaves a request; so does this one look, as its leader.
        """
        try:
            with lease(engine, queued.study_id):
                late = [request for request in requests.pending(engine, queued.study_id) if request.kind != requests.STOP]
                if not late and open_results(queued.name, self._storage).spec == result.results.spec:
                    queue.remove(engine, queued.study_id)
        except (StudyHeld, NoSuchResult):  # by whoever asks for more at this moment; it was renamed or deleted
            pass

    def _ask(self, action: Callable[[Engine], Answer]) -> Answer:
        with translated(), storage_errors(self._storage):
            if self._engine is None:
                self._engine = open_database(self._storage).engine
            return action(self._engine)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(min(0.2, seconds))
