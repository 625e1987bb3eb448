"""Leads a study: ask, dispatch, record, prune, tell. The only writer of the study's trials."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from storage.trials import TrialStorage
from studies.spec import StudySpec
from sweeper.errors import WorkerError
from sweeper.executors.base import Died, Executor, Message
from sweeper.progress import Leader, Progress, Summary
from sweeper.pruning import Standing, make_pruner
from sweeper.search import baselines, configuration_of, make_job, make_run, make_sampler, suggest
from sweeper.trial import ArrayPlan, EpochReport, EpochResult, Failure, Orders, Ready, Run

DEATHS_IN_A_ROW = 3
"""So many deaths of workers without a report in between stop the study: something is wrong that replacing does not mend."""
GENERATIONS = 4
"""A planned array holds about a fourth of the trials that its worker will see, at most: the sampler learns only from trials that
were reported before it is asked, so an array as wide as the study would be a random search."""
POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Active:
    """A trial that is being trained."""

    id: int
    run: Run
    worker: int
    baseline: bool


class Orchestrator:
    """One call of a study, from its present state to its budget or a stop.

    Args:
        spec: the study; `spec.trials` is the budget, over all calls.
        study: the Optuna study, on `storage`.
        devices: one worker is started for each.
        plans: the plans of an earlier call, by worker, which are kept.
        on_progress: called after every epoch of every worker.
    """

    def __init__(
        self,
        spec: StudySpec,
        study: optuna.Study,
        storage: TrialStorage,
        executor: Executor,
        devices: Sequence[str],
        plans: dict[int, ArrayPlan] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._spec, self._study, self._storage, self._executor = spec, study, storage, executor
        self._devices = list(devices)
        self._plans = dict(plans or {})
        self._on_progress = on_progress or (lambda progress: None)
        self._pruner = make_pruner(spec.pruner, spec.training.epochs)
        self._active: dict[int, Active] = {}
        self._idle: set[int] = set()
        self._device_names: dict[int, str] = {}
        self._counts: Counter[TrialState] = Counter()
        self._leader: Leader | None = None
        self._stopping = False
        self._deaths = 0
        self._epochs = self._finished_here = 0
        self._slot_epochs = self._slots_offered = 0
        self._sampler_seconds = self._recording_seconds = 0.0
        self._begun = time.perf_counter()

    def request_stop(self) -> None:
        """End soon: running trials go back into the queue. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> Summary:
        """Work until every trial of the budget has a final state, or until a stop is requested.

        Raises:
            WorkerError: a worker cannot work, or workers died `DEATHS_IN_A_ROW` times; running trials are back in the queue.
        """
        try:
            self._restore()
            if self._has_work():
                for worker in range(len(self._devices)):
                    self._start_worker(worker)
            while self._has_work() and not self._stopping:
                received = self._executor.receive(POLL_SECONDS)
                if received:
                    self._handle(*received)
                    self._on_progress(self.progress())
        finally:
            self._executor.close()
            self._requeue(list(self._active))
            self._storage.flush()
        return Summary(
            interrupted=self._has_work(),
            progress=self.progress(),
            occupancy=self._slot_epochs / self._slots_offered if self._slots_offered else 0.0,
            sampler_seconds=self._sampler_seconds,
            recording_seconds=self._recording_seconds,
            plans=dict(self._plans),
            devices=tuple(self._device_names[w] for w in sorted(self._device_names)),
        )

    def progress(self) -> Progress:
        """Return where the study stands."""
        slots = sum(plan.width for worker, plan in self._plans.items() if worker in self._device_names)
        return Progress(
            total=max(self._spec.trials, sum(self._counts.values())),
            complete=self._counts[TrialState.COMPLETE],
            pruned=self._counts[TrialState.PRUNED],
            failed=self._counts[TrialState.FAIL],
            running=len(self._active),
            leader=self._leader,
            epochs=self._epochs,
            seconds=time.perf_counter() - self._begun,
            busy=len(self._active) / slots if slots else 0.0,
            finished_here=self._finished_here,
        )

    # Begin

    def _restore(self) -> None:
        """Take up the study where its database leaves it: re-queue what was running, rank again, enqueue the baselines."""
        trials = self._study.get_trials(deepcopy=False)
        self._study.sampler = make_sampler(self._spec, len(trials))
        for trial in trials:
            self._counts[trial.state] += 1
            if trial.state == TrialState.RUNNING:
                self._storage.truncate(trial._trial_id, after=0)
                self._count(TrialState.RUNNING, TrialState.WAITING)
            elif trial.state.is_finished():
                self._pruner.decide(Standing(trial.number, step, value) for step, value in trial.intermediate_values.items())
                if trial.state == TrialState.COMPLETE and trial.value is not None:
                    self._consider(trial.number, trial.value, make_run(
                        trial.number, configuration_of(trial.params, self._spec), self._spec
                    ))  # fmt: skip
        if not trials:
            for params in baselines(self._spec)[: self._spec.trials]:
                self._study.enqueue_trial(params, user_attrs={"baseline": True})
                self._counts[TrialState.WAITING] += 1

    def _start_worker(self, worker: int) -> None:
        share = (self._spec.trials - self._finished()) / len(self._devices)
        most_slots = 2 ** max(0, round(math.log2(share / GENERATIONS)))
        job = make_job(self._spec, self._devices[worker], most_slots, self._plans.get(worker))
        self._executor.start(worker, job)

    # Each message

    def _handle(self, worker: int, message: Message) -> None:
        begun, asked = time.perf_counter(), self._sampler_seconds
        match message:
            case Ready():
                self._plans[worker] = message.plan
                self._device_names[worker] = message.device
                log.info("worker %d on %s: width %d, packs of %d: %s", worker, message.device, message.plan.width,
                         message.plan.pack, message.plan.reason)  # fmt: skip
                with self._storage.deferred():
                    self._dispatch(worker, stop=())
            case EpochReport():
                self._deaths = 0
                with self._storage.deferred():
                    self._dispatch(worker, stop=self._record(worker, message))
            case Died():
                self._replace(worker, message)
            case Failure():
                log.debug("worker %d: %s", worker, message.traceback)
                raise WorkerError(f"worker {worker} on {self._devices[worker]}: {message.message}")
        self._recording_seconds += time.perf_counter() - begun - (self._sampler_seconds - asked)

    def _record(self, worker: int, report: EpochReport) -> tuple[int, ...]:
        """Write down an epoch, decide about its trials as one cohort, and return those that leave their slots."""
        self._epochs += len(report.results)
        self._count_occupancy(worker, len(report.results))
        standings = []
        leaving: dict[int, tuple[TrialState, EpochResult]] = {}
        for result in report.results:
            active = self._active[result.trial]
            if not math.isfinite(result.train_loss):
                leaving[result.trial] = TrialState.FAIL, result
                continue
            self._storage.set_trial_intermediate_value(active.id, result.epoch, result.validation_accuracy)
            standings.append(Standing(result.trial, result.epoch, result.validation_accuracy, active.baseline))
            if result.epoch >= active.run.epochs:
                leaving[result.trial] = TrialState.COMPLETE, result
        pruned = self._pruner.decide(standings)
        leaving |= {r.trial: (TrialState.PRUNED, r) for r in report.results if r.trial in pruned and r.trial not in leaving}
        for state, result in leaving.values():
            self._finish(state, result)
        return tuple(leaving)

    def _finish(self, state: TrialState, result: EpochResult) -> None:
        active = self._active.pop(result.trial)
        facts: dict[str, int | float | str] = {
            "epochs": result.epoch,
            "validation_loss": result.validation_loss,
            "train_loss": result.train_loss,
            "train_accuracy": result.train_accuracy,
            "run_seed": active.run.seed,
            "stream_start": result.stream_start,
        }
        if state == TrialState.FAIL:
            facts["reason"] = f"the training loss was {result.train_loss} in epoch {result.epoch}"
            log.warning("trial %d failed: %s", result.trial, facts["reason"])
        for key, fact in facts.items():
            if not isinstance(fact, float) or math.isfinite(fact):
                self._storage.set_trial_user_attr(active.id, key, fact)
        value = result.validation_accuracy if state == TrialState.COMPLETE else None
        self._study.tell(result.trial, value, state=state)
        self._count(TrialState.RUNNING, state)
        self._finished_here += 1
        if value is not None:
            self._consider(result.trial, value, active.run)

    def _dispatch(self, worker: int, stop: tuple[int, ...]) -> None:
        """Fill the worker's free slots and send it its orders; a worker without trials gets none and waits."""
        mine = sum(active.worker == worker for active in self._active.values())
        runs: list[Run] = []
        while mine + len(runs) < self._plans[worker].width and (run := self._next_run(worker)):
            runs.append(run)
        if mine or runs:
            self._executor.send(worker, Orders(stop, tuple(runs)))
        else:
            self._idle.add(worker)

    def _next_run(self, worker: int) -> Run | None:
        """Return a trial that waits, or else a new one while the budget lasts."""
        waiting = self._counts[TrialState.WAITING]
        if not waiting and sum(self._counts.values()) >= self._spec.trials:
            return None
        begun = time.perf_counter()
        trial = self._study.ask()
        try:
            run = make_run(trial.number, suggest(trial, self._spec), self._spec)
        except Exception:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        self._sampler_seconds += time.perf_counter() - begun
        if waiting:
            self._count(TrialState.WAITING, TrialState.RUNNING)
        else:
            self._counts[TrialState.RUNNING] += 1
        self._active[run.trial] = Active(trial._trial_id, run, worker, bool(trial.user_attrs.get("baseline")))
        return run

    def _replace(self, worker: int, death: Died) -> None:
        """Start a worker anew after its death; its trials go back into the queue."""
        self._deaths += 1
        if self._deaths >= DEATHS_IN_A_ROW:
            raise WorkerError(f"workers died {self._deaths} times in a row, the last one {death.reason}")
        log.warning("worker %d died (%s) and is replaced", worker, death.reason)
        self._requeue([number for number, active in self._active.items() if active.worker == worker])
        self._start_worker(worker)
        for idle in sorted(self._idle):
            self._idle.discard(idle)
            self._dispatch(idle, stop=())

    # Counting

    def _requeue(self, numbers: list[int]) -> None:
        """Put trials back into the queue, under their numbers, to begin again."""
        with self._storage.deferred():
            for number in numbers:
                self._storage.truncate(self._active.pop(number).id, after=0)
                self._pruner.forget(number)
                self._count(TrialState.RUNNING, TrialState.WAITING)

    def _count(self, before: TrialState, after: TrialState) -> None:
        self._counts[before] -= 1
        self._counts[after] += 1

    def _finished(self) -> int:
        return sum(count for state, count in self._counts.items() if state.is_finished())

    def _has_work(self) -> bool:
        return self._finished() < max(self._spec.trials, sum(self._counts.values()))

    def _count_occupancy(self, worker: int, occupied: int) -> None:
        if self._counts[TrialState.WAITING] or sum(self._counts.values()) < self._spec.trials:
            self._slot_epochs += occupied
            self._slots_offered += self._plans[worker].width

    def _consider(self, trial: int, value: float, run: Run) -> None:
        if self._leader is None or value > self._leader.value:
            self._leader = Leader(trial, value, run.configuration)
