"""Leads a study: ask, dispatch, record, prune, tell. The only writer of the study's trials."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import optuna
from optuna.trial import TrialState

from storage import requests
from storage.engine import DATABASE_ERRORS
from storage.trials import TrialStorage
from studies.spec import StudySpec
from sweeper.budget import Budget, describe_request, extended
from sweeper.errors import OutputError
from sweeper.events import event
from sweeper.executors.base import Died, Executor, Message
from sweeper.fold_sequence import make_folds
from sweeper.keeper import CHECKPOINT_SECONDS
from sweeper.ledger import Active, Ledger
from sweeper.messages import EpochReport, Failure, Lane, Orders, Ready
from sweeper.pool import WorkerPool, failed
from sweeper.progress import Leader, Progress, Summary, Tally
from sweeper.pruning import Standing, make_pruner
from sweeper.results import PLANS_ATTR, SPEC_ATTR, VERSIONS_ATTR
from sweeper.trial import EpochResult, Run
from sweeper.trial_source import TrialSource

STOP_SECONDS = 5.0
"""So long a stop waits for epochs to end, so that they are not lost."""
MESSAGES_AT_ONCE = 32
"""What so many reports bring, if they come faster than they can be written, is written as one transaction."""
REQUEST_SECONDS = 1.0
"""So often the requests of other processes are looked for."""
NOTED_SECONDS = 30.0
"""So often the time spent is written down, where it is limited: so much of it a kill may forget."""
SECONDS_ATTR = "seconds"

log = logging.getLogger(__name__)


class Orchestrator:
    """One call of a study, from its present state to its budget or a stop.

    Args:
        spec: the study; `spec.trials` is the budget, over all calls.
        study: the Optuna study, on `storage`.
        storage: the study's storage, which nobody else writes meanwhile (`storage.lease`).
        executor: runs the workers; closed at the end.
        devices: one worker is started for each.
        data_root: folder of downloaded data sets and caches.
        checkpoints: folder of the checkpoints of running trials; None: an interrupted trial begins again.
        on_progress: called when what workers reported is written down: after every epoch, once for those that end together.
        keep_workers: leave the workers to whoever takes `pool` after a study that is finished.
    """

    def __init__(
        self,
        spec: StudySpec,
        study: optuna.Study,
        storage: TrialStorage,
        executor: Executor,
        devices: Sequence[str],
        data_root: str = ".",
        checkpoints: Path | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        *,
        keep_workers: bool = False,
    ) -> None:
        self._keep_workers = keep_workers
        self._spec, self._study, self._storage = spec, study, storage
        self._on_progress = on_progress
        self._pool = WorkerPool(spec, executor, devices, data_root, study.user_attrs.get(PLANS_ATTR, {}))
        self._ledger = Ledger(study, storage, spec, None if spec.data.sequential else checkpoints)
        self._pruner = make_pruner(spec.pruner, spec.training.epochs, study)
        self._tally = Tally(spec.objective)
        self._source = TrialSource(spec, study, storage, self._ledger, self._tally, self._pruner)
        self._active: dict[int, Active] = {}
        self._folds = make_folds(spec)
        self._budget = Budget(spec.budget, spec.objective, study.user_attrs.get(SECONDS_ATTR, 0.0))
        self._ended: str | None = None
        self._begun = self._stopping = self._database_lost = False
        self._asked, self._noted = 0.0, time.monotonic()
        self._recording_seconds = 0.0

    def request_stop(self) -> None:
        """End soon: running trials go back into the queue. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> Summary:
        """Work until every trial has a final state, the budget is spent, or a stop is requested.

        Raises:
            WorkerError: a worker cannot work, or workers died `DEATHS_IN_A_ROW` times; running trials are back in the queue.
        """
        try:
            self._source.restore()
            self._ended = self._budget.spent(self._tally)
            if self._has_work() and not self._ended:
                for worker in range(len(self._pool)):
                    self._start_worker(worker)
            while self._has_work() and not self._stopping and not self._ended:
                received = self._pool.receive()
                if received:
                    self._handle_what_waits(received)
                elif self._ledger.has_news:
                    self._settle()
                self._ended = self._ended or self._budget.spent(self._tally)
                self._hear_requests()
            if self._active and self._ledger.keeps_checkpoints:
                self._wind_down()
        except DATABASE_ERRORS:  # what is in memory cannot be written: the next call takes up what the database has
            self._database_lost = True
            raise
        finally:
            if not self._keep_workers or self._has_work():
                self._pool.close()
            if not self._database_lost:
                self._put_back()
            self._ledger.close()
        return Summary(
            interrupted=self._has_work() and not self._ended,
            progress=self.progress(),
            occupancy=self._tally.occupancy,
            sampler_seconds=self._source.seconds,
            recording_seconds=self._recording_seconds,
            plans={worker: ready.plan for worker, ready in self._pool.ready.items()},
            devices=tuple(ready.device for ready in self._pool.ready.values()),
            ended=self._ended,
        )

    @property
    def pool(self) -> WorkerPool:
        """The workers."""
        return self._pool

    def progress(self) -> Progress:
        """Return where the study stands."""
        plan = next((ready.plan for ready in self._pool.ready.values()), None)
        return replace(
            self._tally.progress(self._source.budget, len(self._active), self._pool.slots // self._spec.data.together), plan=plan
        )

    # Begin

    def _start_worker(self, worker: int) -> None:
        self._pool.start(worker, self._source.total - self._tally.finished, self._ledger.stream_epoch)

    # Each message

    def _handle_what_waits(self, received: tuple[int, Message]) -> None:
        """Handle a message and those that came meanwhile; what they bring is written as one transaction, once orders are sent."""
        begun, asked = time.perf_counter(), self._source.seconds
        with self._storage.deferred():
            for left in reversed(range(MESSAGES_AT_ONCE)):
                self._handle(*received)
                self._ended = self._budget.spent(self._tally)
                another = self._pool.receive(timeout=0) if left and not (self._stopping or self._ended) else None
                if another is None:
                    break
                received = another
            self._ledger.settle()
        self._ledger.sweep()
        self._recording_seconds += time.perf_counter() - begun - (self._source.seconds - asked)
        self._on_progress(self.progress())

    def _handle(self, worker: int, message: Message) -> None:
        match message:
            case Ready():
                self._welcome(worker, message)
            case EpochReport():
                self._pool.heard()
                if message.plan is not None:
                    self._pool.replan(worker, message.plan)
                    self._study.set_user_attr(PLANS_ATTR, self._pool.plans_to_store())
                lane = Lane(worker, message.lane)
                self._dispatch(lane, stop=self._record(lane, message))
                self._dispatch_idle()
            case Died():
                self._replace(worker, message)
            case Failure():
                raise failed(worker, self._pool.device(worker), message)

    def _welcome(self, worker: int, ready: Ready) -> None:
        if not self._begun:
            self._begun = True
            self._source.enqueue_first()
        self._pool.welcome(worker, ready)
        self._study.set_user_attr(PLANS_ATTR, self._pool.plans_to_store())
        packages = {name: metadata.version(name) for name in ("sweeper", "optuna", "scikit-learn")}
        self._study.set_user_attr(VERSIONS_ATTR, packages | ready.versions)
        for lane in self._pool.lanes(worker):
            self._dispatch(lane, stop=())

    def _record(self, lane: Lane, report: EpochReport) -> tuple[int, ...]:
        """Write down an epoch, decide about its trials as one cohort, and return those that leave their slots."""
        self._tally.epoch(len(report.results), self._pool.width(lane), more_to_start=self._source.has_more)
        report = self._folds.merge(report)
        standings = []
        leaving: dict[int, tuple[TrialState, EpochResult]] = {}
        for result in report.results:
            active = self._active[result.trial]
            reported = self._folds.reported(result)
            self._ledger.epoch(active, result, report.seconds, reported)
            if not (math.isfinite(result.metrics.train_loss) and math.isfinite(result.metrics.validation_loss)):
                leaving[result.trial] = TrialState.FAIL, result
                continue
            if reported:
                step, value = reported
                standings.append(Standing(result.trial, step, self._spec.objective.rank(value), active.protected))
            if result.epoch >= active.run.epochs or result.stopped:
                leaving[result.trial] = TrialState.COMPLETE, result
        pruned = self._pruner.decide(standings)
        leaving |= {r.trial: (TrialState.PRUNED, r) for r in report.results if r.trial in pruned and r.trial not in leaving}
        for state, result in leaving.values():
            self._finish(state, result)
        for trial, content in report.checkpoints.items():
            if trial in self._active:
                self._ledger.save(self._active[trial], self._active[trial].epoch, content)
        return tuple(leaving)

    def _finish(self, state: TrialState, result: EpochResult) -> None:
        active = self._active.pop(result.trial)
        value = self._ledger.finish(active, state, result)
        self._tally.change(TrialState.RUNNING, state)
        objective, configuration = self._spec.objective, active.run.configuration
        self._tally.rank(Leader(result.trial, value, configuration, objective) if value is not None else None)

    def _due_for_checkpoint(self, lane: Lane) -> tuple[int, ...]:
        """Return the lane's trials whose last checkpoint will be too long ago after the coming epoch."""
        now = time.monotonic() + self._pool.epoch_seconds(lane.worker)
        due = [a for a in self._active.values() if a.lane == lane and now - a.saved >= CHECKPOINT_SECONDS]
        if not self._ledger.keeps_checkpoints:
            return ()
        for active in due:
            active.saved = now
        return tuple(active.run.trial for active in due)

    def _dispatch(self, lane: Lane, stop: tuple[int, ...]) -> None:
        """Fill the lane's free slots and send it its orders; a lane without trials gets none and waits.

        When the last trials of a worker fit into one pack, the first lane waits for the other one, which then takes them over;
        not with runs that begin, which nobody could take over.
        """
        neighbours = [active for active in self._active.values() if active.lane.worker == lane.worker]
        mine = [active for active in neighbours if active.lane == lane]
        runs = self._begin(lane, self._pool.width(lane) // self._spec.data.together - len(mine), neighbours)
        elsewhere = [active for active in neighbours if active.lane != lane]
        few = not self._source.has_more and len(neighbours) + len(runs) <= self._pool.pack(lane.worker)
        others_work = any(self._pool.works(active.lane) for active in elsewhere)
        join = bool(elsewhere) and few and not others_work
        if join:
            mine = neighbours
            for active in elsewhere:
                active.lane = lane
        if not runs and (not mine or (few and others_work and lane.number == 0)):
            self._pool.let_wait(lane, self._folds.stops(stop))
        else:
            orders = Orders(stop, tuple(runs), self._due_for_checkpoint(lane), join=join)
            self._pool.send(lane, self._folds.orders(orders, [active.run.trial for active in mine]))

    def _begin(self, lane: Lane, free: int, neighbours: Sequence[Active]) -> list[Run]:
        """Return the runs of trials that begin in so many free slots; a suspect has its worker for itself."""
        self._source.reserve(free)
        runs: list[Run] = []
        alone = any(self._ledger.is_suspect(active.id) for active in neighbours)
        while not alone and len(runs) < free and (found := self._source.next(lane)):
            active, run = found
            alone = self._ledger.is_suspect(active.id)
            if alone and (neighbours or runs):  # its turn comes when this worker is empty
                self._source.put_back(active)
            else:
                self._active[run.trial] = active
                runs.append(run)
        return runs

    def _replace(self, worker: int, death: Died) -> None:
        """Start a worker anew after its death; its trials go back into the queue, where workers without any find them."""
        orphans = [active for active in self._active.values() if active.lane.worker == worker]
        given_up = self._ledger.count_death(orphans)
        self._pool.bury(worker, death)
        self._ledger.wait()
        with self._storage.deferred():
            self._ledger.settle()
            for active in given_up:
                self._ledger.fail(active, f"its worker died of it again and again, {death.reason}")
                del self._active[active.run.trial]
                self._tally.change(TrialState.RUNNING, TrialState.FAIL)
                self._tally.rank(None)
            self._requeue([active.run.trial for active in orphans if active.run.trial in self._active])
        self._start_worker(worker)
        self._dispatch_idle()

    def _settle(self) -> None:
        """Let the database follow the checkpoints that have reached the disk."""
        with self._storage.deferred():
            self._ledger.settle()
        self._ledger.sweep()

    def _dispatch_idle(self) -> None:
        with self._storage.deferred():
            for lane in self._pool.idle:
                self._dispatch(lane, stop=())

    def _wind_down(self) -> None:
        """At a stop, let workers that are soon done with their epoch finish it, and hand over all that they train."""
        until = time.monotonic() + STOP_SECONDS
        awaited = {active.lane for active in self._active.values() if self._pool.epoch_seconds(active.lane.worker) < STOP_SECONDS}
        for lane in awaited & set(self._pool.idle):
            self._collect(lane, stop=())
        while awaited and time.monotonic() < until:
            worker, message = self._pool.receive() or (None, None)
            if worker is None:
                continue
            if not isinstance(message, EpochReport):
                awaited = {lane for lane in awaited if lane.worker != worker}
                continue
            lane = Lane(worker, message.lane)
            awaited.discard(lane)
            with self._storage.deferred():
                leaving = self._record(lane, message)
                if message.results and self._collect(lane, leaving):
                    awaited.add(lane)

    def _collect(self, lane: Lane, stop: tuple[int, ...]) -> bool:
        """Ask for checkpoints of all that a lane has in its slots; return whether there is anything."""
        left = tuple(trial for trial, active in self._active.items() if active.lane == lane)
        if left:
            self._pool.send(lane, self._folds.orders(Orders(stop, (), left, train=False), left))
        return bool(left)

    def _put_back(self) -> None:
        """At the end, write down the checkpoints that reached the disk, and put whatever runs back into the queue."""
        self._ledger.wait()
        with self._storage.deferred():
            try:
                self._ledger.settle()
            except OutputError as error:
                log.warning("%s", error)
            self._requeue(list(self._active))
            self._source.close()
        self._ledger.sweep()
        self._study.set_user_attr(SECONDS_ATTR, self._budget.seconds(self._tally))

    def _requeue(self, numbers: list[int]) -> None:
        """Put trials back into the queue, under their numbers, to go on later; write whatever is not written yet."""
        with self._storage.deferred():
            self._folds.forget(numbers)
            for number in numbers:
                self._source.put_back(self._active.pop(number))

    def _hear_requests(self) -> None:
        """Do what other processes ask: stop, or work for more trials or longer. An old request to stop was an earlier leader's."""
        if time.monotonic() - self._asked < REQUEST_SECONDS:
            return
        self._asked = time.monotonic()
        if self._asked - self._noted > NOTED_SECONDS and self._spec.budget.time:
            self._noted = self._asked
            self._study.set_user_attr(SECONDS_ATTR, self._budget.seconds(self._tally))
        engine, study_id = self._storage.backend.engine, self._study._study_id
        found = self._storage.patiently(lambda: requests.pending(engine, study_id))
        if not found:
            return
        for request in found:
            stale = request.at < self._storage.led_since
            event(log, "request", f"asked to {describe_request(request)}", request=request.kind, value=request.value, stale=stale)
            self._stopping |= request.kind == requests.STOP and not stale
        spec = extended(self._spec, found)
        spec = spec.model_copy(update={"trials": max(spec.trials, self._tally.trials)})
        if spec != self._spec:
            self._spec, self._source.budget = spec, spec.trials
            self._budget.change(spec.budget)
            self._study.set_user_attr(SPEC_ATTR, spec.model_dump_json())
        self._storage.transact(lambda connection: requests.remove(connection, found))
        self._dispatch_idle()

    def _has_work(self) -> bool:
        return self._tally.finished < self._source.total
