"""Writes down what becomes of trials, and keeps the checkpoints that interrupted ones go on from."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import optuna
from optuna.trial import TrialState

from storage import queries
from storage.tables import EPOCHS, RUNS
from storage.trials import TrialStorage
from studies.objectives import ACCURACY
from studies.spec import StudySpec
from sweeper.events import event
from sweeper.keeper import Keeper
from sweeper.messages import Lane
from sweeper.notation import metric_value
from sweeper.search import run_seed
from sweeper.trial import EpochResult, Run

MAX_ATTEMPTS = 4
"""So many deaths of its worker, without getting any further, fail a trial: it is what kills them. One in solitude counts twice."""
SUSPECTED = 2
"""So many make it a suspect, which is trained alone until it gets further, so that nobody else is blamed for the next death."""
SEARCH = 0
"""The number of a trial's run in the search."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Active:
    """A trial that is being trained. A protected one, a baseline or an enqueued configuration, is never pruned.

    `saved` is when it last had a checkpoint or began, by `time.monotonic`; `epoch` the last one that it trained in this call.
    """

    id: int
    run: Run
    lane: Lane
    protected: bool
    saved: float
    epoch: int = 0
    resumed: bool = False
    stream: tuple[tuple[int, int], ...] = ()


class Ledger:
    """The records of one study. All but checkpoint files is written by the storage's next flush.

    Args:
        study: on `storage`.
        storage: the study's storage.
        spec: the study.
        folder: for checkpoints; None: there are none, and an interrupted trial begins again.
    """

    def __init__(self, study: optuna.Study, storage: TrialStorage, spec: StudySpec, folder: Path | None) -> None:
        self._study, self._storage, self._spec = study, storage, spec
        engine = storage.backend.engine
        self._keeper = Keeper(storage, study._study_id, folder)
        every = storage.patiently(lambda: queries.runs(engine, study._study_id)).reset_index().to_dict("records")
        runs = [run for run in every if run["run"] == SEARCH]
        ids = {trial.number: trial._trial_id for trial in study.get_trials(deepcopy=False)}
        self._attempts: dict[int, int] = {ids[run["number"]]: run["attempts"] for run in runs}
        steps = {trial._trial_id: trial.intermediate_values for trial in study.get_trials(deepcopy=False)}
        self._furthest = {trial_id: max(steps[trial_id], default=0) for trial_id, count in self._attempts.items() if count}
        self._streams: dict[int, list[list[int]]] = {ids[run["number"]]: run["stream"] for run in runs}
        self.stream_epoch = max((stream[-1][1] for stream in self._streams.values() if stream), default=-1) + 1

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether there is a place for checkpoints."""
        return self._keeper.keeps

    def checkpoint(self, trial_id: int) -> bytes | None:
        """Return what a trial can go on from; None if it must begin anew."""
        known = self._keeper.epoch((trial_id, SEARCH)) > 0
        content = self._keeper.read((trial_id, SEARCH))
        if known and content is None:
            self._storage.truncate(trial_id, 0)
        return content

    def epoch(self, active: Active, result: EpochResult, seconds: float, reported: tuple[int, float] | None) -> None:
        """Record an epoch of a trial, `seconds` long for its array; `reported`: the step and the value that Optuna is told."""
        if active.resumed and not active.stream and len(result.stream) == 1:  # its checkpoint could not be read: it began again
            self._storage.truncate(active.id, result.epoch - 1)
        active.epoch = result.epoch
        finite_losses = math.isfinite(result.metrics.train_loss) and math.isfinite(result.metrics.validation_loss)
        if reported and finite_losses and not self._spec.has_two_objectives:  # of which Optuna has no intermediate values
            self._storage.set_trial_intermediate_value(active.id, *reported)
        for run, part in [(part.trial, part) for part in result.folds] or [(SEARCH, result)]:
            self._storage.record(active.id, EPOCHS, run=run, epoch=part.epoch, **measured(part, seconds))
        self.stream_epoch = max(self.stream_epoch, result.stream[-1][1] + result.epoch - result.stream[-1][0])
        if self._attempts.get(active.id) and result.epoch > self._furthest[active.id]:
            self._attempts[active.id] = 0
            self._record_run(active)
        if result.stream != active.stream:
            active.stream = result.stream
            self._streams[active.id] = [list(pair) for pair in result.stream]
            self._record_run(active)

    def save(self, active: Active, epoch: int, content: bytes) -> None:
        """Begin to write a checkpoint of a trial."""
        self._keeper.save((active.id, SEARCH), epoch, content)

    @property
    def has_news(self) -> bool:
        """Whether checkpoint files have reached the disk since `settle`."""
        return self._keeper.has_news

    def settle(self) -> None:
        """Before a flush: let the rows follow the checkpoint files that have reached the disk.

        Raises:
            OutputError: a checkpoint cannot be written; those that could are recorded.
        """
        self._keeper.settle()

    def sweep(self) -> None:
        """After a flush: remove the files that no row names any more."""
        self._keeper.sweep()

    def finish(self, active: Active, state: TrialState, result: EpochResult) -> float | None:
        """Give a trial its final state, with all that is known of it; return its value, None if it has none."""
        metrics = result.best if state == TrialState.COMPLETE else result.metrics
        objective = self._spec.objective
        facts: dict[str, object] = {
            "epochs": result.epoch,
            "validation_loss": metrics.validation_loss,
            "train_loss": metrics.train_loss,
            "train_accuracy": metrics.train_accuracy,
            "run_seed": active.run.seed,
            "worker": active.lane.worker,
            "stream_start": result.stream[0][1],
        }
        if objective is not ACCURACY:
            facts["validation_accuracy"] = metrics.validation_accuracy
        if state == TrialState.COMPLETE:
            facts |= result.measured
        if len(result.fold_bests) > 1:
            values = [best.value(objective.name) for best in result.fold_bests]
            facts |= {"fold_values": values, "fold_std": statistics.stdev(values)}
        if len(result.stream) > 1:
            facts["stream_resumed"] = [list(pair) for pair in result.stream[1:]]
        if self._spec.training.patience is not None:
            facts["best_epoch"] = result.best_epoch
        if self._spec.penalties.l1.method == "proximal":
            facts["zero_weights"] = result.zero_weights
        if state == TrialState.FAIL:
            losses = f"training loss {metrics.train_loss}, validation loss {metrics.validation_loss}"
            facts["reason"] = f"diverged in epoch {result.epoch}: {losses}"
            self.fail(active, str(facts["reason"]), facts)
            return None
        reached = [metrics.value(name) for name in self._spec.objectives]
        word = "complete" if state == TrialState.COMPLETE else "pruned"
        say = f"trial {result.trial} {word} after epoch {result.epoch}: {objective.label} {metric_value(objective, reached[0])}"
        by_name = {str(name): value for name, value in zip(self._spec.objectives, reached, strict=True)}
        accuracy = metrics.validation_accuracy
        event(log, f"trial_{word}", say, trial=result.trial, epoch=result.epoch, validation_accuracy=accuracy, values=by_name)
        if state == TrialState.PRUNED:
            self._close(active, state, None, facts)
            return None
        self._close(active, state, reached, facts)
        return reached[0]

    def fail(self, active: Active, reason: str, facts: Mapping[str, object] = MappingProxyType({})) -> None:
        """Give a trial up, with what is known of it."""
        number = active.run.trial
        event(log, "trial_failed", f"trial {number} failed: {reason}", level=logging.WARNING, trial=number, reason=reason)
        self._close(active, TrialState.FAIL, None, {"reason": reason, "run_seed": active.run.seed} | dict(facts))

    def is_suspect(self, trial_id: int) -> bool:
        """Return whether a trial may be what kills its workers."""
        return self._attempts.get(trial_id, 0) >= SUSPECTED

    def count_death(self, orphans: Sequence[Active]) -> list[Active]:
        """Count against trials that their worker died, and return those of which that is said too often now."""
        for active in orphans:
            self._attempts[active.id] = self._attempts.get(active.id, 0) + (2 if len(orphans) == 1 else 1)
            self._furthest[active.id] = max([active.epoch, *self._storage.get_trial(active.id).intermediate_values])
            self._record_run(active)
        return [active for active in orphans if self._attempts[active.id] >= MAX_ATTEMPTS]

    def requeue(self, trial_id: int) -> int:
        """Put a trial back into the queue, to go on from its checkpoint; return the epochs that it keeps."""
        self._keeper.expect_none((trial_id, SEARCH))
        keep = self._keeper.epoch((trial_id, SEARCH))
        self._storage.requeue(trial_id, keep)
        return keep

    def wait(self) -> None:
        """Wait until the files that were begun are written."""
        self._keeper.wait()

    def close(self) -> None:
        """Finish writing files, for good."""
        self._keeper.close()

    def _close(self, active: Active, state: TrialState, value: list[float] | None, facts: dict[str, object]) -> None:
        for key, fact in facts.items():
            if not isinstance(fact, float) or math.isfinite(fact):
                self._storage.set_trial_user_attr(active.id, key, fact)
        self._keeper.forget((active.id, SEARCH))
        self._study.tell(active.run.trial, value, state=state)

    def _record_run(self, active: Active) -> None:
        stream = json.dumps(self._streams.get(active.id, []))
        attempts, runs = self._attempts.get(active.id, 0), self._spec.data.runs
        for run in range(runs):
            seed, fold = run_seed(self._spec.seed, active.run.trial, run), run if runs > 1 else None
            self._storage.record(active.id, RUNS, run=run, seed=seed, fold=fold, stream=stream, attempts=attempts)


def measured(result: EpochResult, seconds: float) -> dict[str, float | None]:
    """Return what was measured in an epoch as the columns of `EPOCHS`; `seconds`: how long it took for its array."""
    values = {
        "train_loss": result.metrics.train_loss,
        "train_accuracy": result.metrics.train_accuracy,
        "validation_loss": result.metrics.validation_loss,
        "validation_accuracy": result.metrics.validation_accuracy,
        "weight_norm": result.weight_norm,
        "zero_weights": result.zero_weights,
        "seconds": seconds,
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
