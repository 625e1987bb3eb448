"""Confirms an answer: trains the best trials of a study again over fresh seeds, chooses among them, and measures the winner.

Seeds that choose and seeds that report are disjoint, and the test part is read for the winner and the baseline only, after the
choice. Runs of one seed have the same initial weights, minibatches and images, whatever their trial: differences between trials
are paired.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna

from storage import queries, requests
from storage.tables import EPOCHS, OUTCOMES, RUNS
from storage.trials import TrialStorage
from studies.spec import StudySpec
from studies.strategy import ConfirmSpec
from sweeper.answer import ANSWER, CONFIRMATIONS_ATTR, Confirmation, Outcomes, candidates, choose, to_store
from sweeper.comparison import best_of_kinds
from sweeper.errors import NoSuchResult
from sweeper.executors.base import Died, Message
from sweeper.keeper import CHECKPOINT_SECONDS, Keeper, Key
from sweeper.ledger import measured
from sweeper.messages import EpochReport, Failure, Lane, Orders, Ready
from sweeper.pool import WorkerPool, failed
from sweeper.progress import Progress
from sweeper.results import Results
from sweeper.trial import Configuration, EpochResult, Run, derive_seed

REQUEST_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Planned:
    """A run of a confirmation: which run of which trial, what it trains with, and the parts it is examined on."""

    trial: int
    run: int
    configuration: Configuration
    examine: tuple[str, ...] = ()


class Confirmer:
    """One call of a confirmation: it goes on with an unfinished one, or begins a new one.

    Args:
        spec: the study.
        study: the Optuna study, on `storage`.
        storage: the study's storage, led by this process.
        pool: the workers, ready ones of a search or none started yet; closed at the end.
        checkpoints: folder of the checkpoints of unfinished runs; None: an interrupted run begins again.
        on_progress: called after every epoch of every worker.
        purpose: the answer, or `loss` or `penalty`: train the best trial of each kind over seeds, to compare them.
    """

    def __init__(
        self, spec: StudySpec, study: optuna.Study, storage: TrialStorage, pool: WorkerPool, checkpoints: Path | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None, purpose: str = ANSWER,
    ) -> None:  # fmt: skip
        self._purpose = purpose
        self._spec, self._study, self._storage, self._pool, self._on_progress = spec, study, storage, pool, on_progress
        trials = study.get_trials(deepcopy=False)
        self._ids = {trial.number: trial._trial_id for trial in trials}
        # By these numbers workers tell these runs from each other, and from the search's.
        self._keys = itertools.count(len(trials) * spec.data.runs)
        self._waiting: deque[Planned] = deque()
        self._active: dict[int, tuple[Lane, Planned]] = {}
        self._keeper = Keeper(storage, study._study_id, checkpoints)
        self._saved: dict[Lane, float] = {}  # when a lane's runs had their last checkpoints, by time.monotonic
        self._images: dict[str, int] = {}
        self._share = 1
        self._stopping = False
        self._asked = 0.0
        self._total = self._done = self._epochs = self._epochs_before = 0
        self._begun, self._seconds_before = time.perf_counter(), 0.0

    def request_stop(self) -> None:
        """End soon; what is finished is kept. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> bool:
        """Confirm; return whether it is finished, which it is not if a stop was requested.

        Raises:
            NoSuchResult: no trial is complete.
            JobRefused: the data or the network is not as the study says.
            WorkerError: a worker cannot work, or workers died again and again.
        """
        try:
            results = self._storage.patiently(lambda: Results(self._study, self._storage.backend.engine))
            *others, now = taken_up(results, self._spec.confirm, self._purpose)
            self._epochs_before, self._seconds_before = now.epochs, now.seconds
            later = 0 if self._purpose != ANSWER else 1 if now.baseline is None else 2
            self._total = (len(now.candidates) + later) * now.seeds
            self._done = 0 if now.winner is None else len(now.candidates) * now.seeds
            configurations = {trial: results.trial(trial).configuration for trial in {*now.candidates, *now.reported}}
            self._keep(others, now)
            self._forget_replaced(others)
            if not self._begin():
                return False
            if now.winner is None:
                parts: tuple[str, ...] = () if self._purpose == ANSWER else ("validation",)
                trained = self._train(
                    Planned(trial, run, configurations[trial], parts) for run in now.choosing_runs for trial in now.candidates
                )
                if not trained or self._purpose != ANSWER:
                    self._keep(others, replace(now, finished=trained))
                    return trained
                now = self._keep(others, self._chosen(now))
            self._total = (len(now.candidates) + len(now.reported)) * now.seeds
            parts = ("validation", "test") if now.looked else ("validation",)
            finished = self._train(
                Planned(trial, run, configurations[trial], parts) for run in now.reporting_runs for trial in now.reported
            )
            self._keep(others, replace(now, finished=finished))
            return finished
        finally:
            self._pool.close()
            self._keeper.close()

    def progress(self) -> Progress:
        """Return how far it is; its trials are the runs of the confirmation."""
        slots = self._pool.slots
        return Progress(
            total=max(self._total, self._done),
            complete=self._done,
            running=len(self._active),
            epochs=self._epochs,
            seconds=time.perf_counter() - self._begun,
            busy=len(self._active) / slots if slots else 0.0,
            finished_here=self._done,
            what="confirming runs",
        )

    def _keep(self, others: Sequence[Confirmation], now: Confirmation) -> Confirmation:
        """Write down where the confirmation stands, and what it has cost; return it."""
        seconds = self._seconds_before + time.perf_counter() - self._begun
        now = replace(now, epochs=self._epochs_before + self._epochs, seconds=seconds)
        self._study.set_user_attr(CONFIRMATIONS_ATTR, to_store((*others, now)))
        return now

    def _forget_replaced(self, others: Sequence[Confirmation]) -> None:
        """Drop the checkpoints of confirmations that another one has taken the place of: nobody will go on from them."""
        for old in others:
            if old.purpose == self._purpose and not old.finished:
                runs = (*old.choosing_runs, *old.reporting_runs)
                for trial, run in itertools.product(old.candidates, runs):
                    self._keeper.forget((self._ids[trial], run))

    def _chosen(self, now: Confirmation) -> Confirmation:
        """Return the confirmation with its winner, and whether its test images are about to be read."""
        return replace(choose(now, self._outcomes(), self._spec.objective), looked=self._images["test"] > 0)

    def _outcomes(self) -> Outcomes:
        engine, study_id = self._storage.backend.engine, self._study._study_id
        return self._storage.patiently(lambda: queries.outcomes(engine, study_id))

    def _begin(self) -> bool:
        """Wait until a worker is ready; return whether one is."""
        if not self._pool.ready:
            for worker in range(len(self._pool)):
                self._start_worker(worker)
        while not self._pool.ready and not self._stopping:
            self._hear()
        self._images = next(iter(self._pool.ready.values())).images if self._pool.ready else {}
        return bool(self._images)

    def _start_worker(self, worker: int) -> None:
        self._pool.start(worker, self._total, 0)

    def _train(self, planned: Iterable[Planned]) -> bool:
        """Train runs that have no outcome yet; return whether all have one."""
        known = self._outcomes()
        runs = list(planned)
        self._waiting = deque(run for run in runs if (run.trial, run.run) not in known)
        for ended in (run for run in runs if (run.trial, run.run) in known):
            self._keeper.forget(self._key(ended))
        self._done += len(runs) - len(self._waiting)
        ready = [lane for worker in self._pool.ready for lane in self._pool.lanes(worker)]
        most = max((len(self._pool.lanes(worker)) for worker in self._pool.ready), default=1)  # of workers still to come, too
        self._share = math.ceil(len(self._waiting) / (most * len(self._pool)))
        for lane in ready:
            self._dispatch(lane)
        while (self._waiting or self._active) and not self._stopping:
            self._hear()
        if self._active:  # a stop: what was handed over before it is kept
            self._keeper.wait()
            with self._storage.deferred():
                self._keeper.settle()
            self._keeper.sweep()
        return not (self._waiting or self._active)

    def _hear(self) -> None:
        received = self._pool.receive()
        if received:
            self._handle(*received)
            self._on_progress(self.progress())
        if time.monotonic() - self._asked >= REQUEST_SECONDS:
            self._asked = time.monotonic()
            self._hear_requests()

    def _hear_requests(self) -> None:
        engine, study_id = self._storage.backend.engine, self._study._study_id
        stops = [r for r in self._storage.patiently(lambda: requests.pending(engine, study_id)) if r.kind == requests.STOP]
        if stops:
            led_since = self._storage.led_since  # an older one was an earlier leader's
            self._stopping |= any(request.at >= led_since for request in stops)
            self._storage.transact(lambda connection: requests.remove(connection, stops))

    def _handle(self, worker: int, message: Message) -> None:
        match message:
            case Ready():
                self._pool.welcome(worker, message)
                for lane in self._pool.lanes(worker):
                    self._dispatch(lane)
            case EpochReport():
                self._pool.heard()
                if message.plan is not None:
                    self._pool.replan(worker, message.plan)
                with self._storage.deferred():
                    ended = [result.trial for result in message.results if self._record(result, message.seconds)]
                    self._keep_checkpoints(message)
                    self._keeper.settle()
                self._keeper.sweep()
                self._dispatch(Lane(worker, message.lane), stop=tuple(ended))
            case Died():
                self._pool.bury(worker, message)
                orphans = [key for key, (whose, _) in self._active.items() if whose.worker == worker]
                self._waiting.extendleft(self._active.pop(key)[1] for key in reversed(orphans))
                self._start_worker(worker)
            case Failure():
                raise failed(worker, self._pool.device(worker), message)

    def _dispatch(self, lane: Lane, stop: tuple[int, ...] = ()) -> None:
        """Let a lane go on; one without runs gets its share of those that wait, in the order of seeds, which share packs."""
        mine = [key for key, (whose, _) in self._active.items() if whose == lane]
        runs = []
        if not mine:
            for _ in range(min(len(self._waiting), self._share, self._pool.width(lane))):
                planned, key = self._waiting.popleft(), next(self._keys)
                self._active[key] = lane, planned
                runs.append(self._run(key, planned))
        if mine or runs:
            if not mine:
                self._saved[lane] = time.monotonic()
            self._pool.send(lane, Orders(stop, tuple(runs), self._due_for_checkpoint(lane)))
        else:
            self._pool.let_wait(lane, stop)

    def _due_for_checkpoint(self, lane: Lane) -> tuple[int, ...]:
        """Return all runs of a lane if their last checkpoints will be too long ago after the coming epoch."""
        now = time.monotonic() + self._pool.epoch_seconds(lane.worker)
        if not self._keeper.keeps or now - self._saved[lane] < CHECKPOINT_SECONDS:
            return ()
        self._saved[lane] = now
        return tuple(key for key, (whose, _) in self._active.items() if whose == lane)

    def _keep_checkpoints(self, report: EpochReport) -> None:
        """Begin to write the checkpoints that a worker handed over, but for those of runs that have ended."""
        epochs = {result.trial: result.epoch for result in report.results}
        for key, content in report.checkpoints.items():
            if key in self._active:
                self._keeper.save(self._key(self._active[key][1]), epochs[key], content)

    def _key(self, planned: Planned) -> Key:
        return self._ids[planned.trial], planned.run

    def _run(self, key: int, planned: Planned) -> Run:
        """Return what a worker trains: the seed and the stream are those of the run's number, whatever its trial."""
        checkpoint = self._keeper.read(self._key(planned))
        return Run(
            key, planned.configuration, derive_seed(self._spec.seed, "confirmation", planned.run), self._spec.training.epochs,
            checkpoint, stream=planned.run, places=((0, 0),), examine=planned.examine,
        )  # fmt: skip

    def _record(self, result: EpochResult, seconds: float) -> bool:
        """Write down an epoch of a run; return whether it was its last."""
        _, planned = self._active[result.trial]
        trial_id, run = self._ids[planned.trial], planned.run
        self._epochs += 1
        self._storage.record(trial_id, EPOCHS, run=run, epoch=result.epoch, **measured(result, seconds))
        if result.epoch < self._spec.training.epochs and not result.stopped:
            return False
        del self._active[result.trial]
        self._done += 1
        stream = json.dumps([list(pair) for pair in result.stream])
        seed = derive_seed(self._spec.seed, "confirmation", run)
        self._storage.record(trial_id, RUNS, run=run, seed=seed, fold=None, stream=stream, attempts=0)
        right = {f"{part}_right": result.examined.get(part) for part in ("validation", "test")}
        images = {f"{part}_images": self._images[part] if part in result.examined else None for part in ("validation", "test")}
        scores = {f"{part}_scores": result.scores.get(part) for part in ("validation", "test")}
        reached = {name: getattr(result.best, name) for name in ("validation_accuracy", "train_accuracy")}
        reached["value"] = result.best.value(self._spec.objective.name)
        finite = {name: value if math.isfinite(value) else None for name, value in reached.items()}
        self._storage.record(trial_id, OUTCOMES, run=run, epochs=result.epoch, **finite, **right, **images, **scores)
        self._keeper.forget((trial_id, run))
        return True


def taken_up(results: Results, asked: ConfirmSpec, purpose: str = ANSWER) -> list[Confirmation]:
    """Return the confirmations of a study, and last the one to work on: the last one of this purpose if it is unfinished and would
    begin as it did, or else a new one. One that was interrupted before more trials changed its candidates stays unfinished.

    Raises:
        NoSuchResult: as for `begin`.
    """
    confirmations, new = results.confirmations, begin(results, asked, purpose)
    last = next((each for each in reversed(confirmations) if each.purpose == purpose), None)
    beginning = operator.attrgetter("candidates", "baseline", "seeds", "rule")
    if last is None or last.finished or beginning(last) != beginning(new):
        return [*confirmations, new]
    return [*(each for each in confirmations if each is not last), replace(last, trials=new.trials)]


def is_due(results: Results, asked: ConfirmSpec) -> bool:
    """Return whether a study's answer is not confirmed, or was before its last trials were finished."""
    if not asked.top or not results.counts()["complete"]:
        return False
    confirmations = [each for each in results.confirmations if each.purpose == ANSWER]
    return not confirmations or not confirmations[-1].finished or confirmations[-1].trials < results.finished


def begin(results: Results, asked: ConfirmSpec, purpose: str = ANSWER) -> Confirmation:
    """Return a new confirmation of a study, with seeds that none before has seen.

    Raises:
        NoSuchResult: no trial is complete, or there are not two kinds to compare.
    """
    first = max((each.first_run + 2 * each.seeds for each in results.confirmations), default=results.spec.data.runs)
    if purpose != ANSWER:
        kinds = best_of_kinds(results, purpose)
        return Confirmation(tuple(kinds.values()), None, asked.seeds, first, results.finished, purpose=purpose)
    complete = results.trials[results.trials["state"] == "complete"]
    if complete.empty:
        raise NoSuchResult(f"study {results.spec.name!r} has no complete trial yet")
    rank = results.spec.objective.rank
    ranks = {int(number): rank(float(value)) for number, value in complete["value"].items()}  # type: ignore[call-overload]
    baseline = results.best_baseline
    same = {number: results.trial(number).configuration for number in ranks}
    chosen = candidates(ranks, max(asked.top, 1), same)
    if baseline and not any(same[number] == baseline.configuration for number in chosen):
        chosen = (*chosen, baseline.trial)
    number = None if baseline is None else next(n for n in chosen if same[n] == baseline.configuration)
    return Confirmation(chosen, number, asked.seeds, first, results.finished, rule=asked.rule)
