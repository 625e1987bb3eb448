"""Where trials come from: an earlier call, the baselines and the user's configurations, those that wait, the sampler."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import fields, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from storage.trials import TrialStorage
from studies.spec import StudySpec
from sweeper.events import event
from sweeper.ledger import Active, Ledger
from sweeper.messages import Lane
from sweeper.notation import describe_configuration
from sweeper.progress import Leader, Tally
from sweeper.pruning import Pruner, Standing
from sweeper.sampler import make_sampler
from sweeper.search import configuration_of, first_trials, make_run, suggest
from sweeper.trial import Configuration, Run

CALLS_ATTR = "calls"
"""How often the study was led: it seeds the sampler, so that a call never repeats the draws of an earlier one."""

log = logging.getLogger(__name__)


class TrialSource:
    """The trials of a study that are yet to be trained, and how Optuna is asked for more of them.

    Args:
        spec: the study; `budget` begins as its `trials`, and may grow.
        study: on `storage`.
        storage: the study's storage.
        ledger: knows the checkpoints that interrupted trials go on from.
        tally: counts the states of the trials.
        pruner: hears again what trials of earlier calls reached.
    """

    def __init__(
        self, spec: StudySpec, study: optuna.Study, storage: TrialStorage, ledger: Ledger, tally: Tally, pruner: Pruner
    ) -> None:
        self._spec, self._study, self._storage = spec, study, storage
        self._ledger, self._tally, self._pruner = ledger, tally, pruner
        self.budget = spec.trials
        self.seconds = 0.0  # what asking took

    @property
    def has_more(self) -> bool:
        """Whether there is a trial to begin."""
        return self._tally.states[TrialState.WAITING] > 0 or self._tally.trials < self.budget

    @property
    def total(self) -> int:
        """How many trials the study will have."""
        return max(self.budget, self._tally.trials)

    def restore(self) -> None:
        """Take up the study where its database leaves it: re-queue what was running, rank again."""
        calls = int(self._study.user_attrs.get(CALLS_ATTR, 0))
        self._study.set_user_attr(CALLS_ATTR, calls + 1)
        self._study.sampler = make_sampler(self._spec, calls)
        with self._storage.deferred():
            for trial in sorted(self._study.get_trials(deepcopy=False), key=_end):
                self._tally.states[trial.state] += 1
                if trial.state == TrialState.RUNNING:
                    self._rank_again(trial, until=self._ledger.requeue(trial._trial_id))
                    self._tally.change(TrialState.RUNNING, TrialState.WAITING)
                else:
                    self._rank_again(trial)

    def enqueue_first(self) -> None:
        """Enqueue the baselines and the user's configurations that the study has not got yet.

        Only when a worker is ready: a study whose data or network turn out wrong is left without trials, and so may be mended.
        """
        trials = self._study.get_trials(deepcopy=False)
        known = [trial.system_attrs.get("fixed_params") for trial in trials if _is_protected(trial)]
        for params, role in first_trials(self._spec):
            if params not in known and self._tally.trials < self.budget:
                self._study.enqueue_trial(params, user_attrs={role: True})
                self._tally.states[TrialState.WAITING] += 1

    def reserve(self, slots: int) -> None:
        """Create at once as many new trials as so many free slots will ask for."""
        new = min(slots - self._tally.states[TrialState.WAITING], self.budget - self._tally.trials)
        if new > 1:
            self._storage.reserve(self._study._study_id, new)

    def next(self, lane: Lane) -> tuple[Active, Run] | None:
        """Return a trial that waits, or else a new one while the budget lasts, to be trained in a lane."""
        if not self.has_more:
            return None
        begun, waiting = time.perf_counter(), self._tally.states[TrialState.WAITING] > 0
        trial = self._study.ask()
        try:
            configuration = suggest(trial, self._spec)
            run = make_run(trial.number, configuration, self._spec, self._ledger.checkpoint(trial._trial_id))
            if run.checkpoint is None:
                self._pruner.forget(trial.number)
        except Exception:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        self.seconds += time.perf_counter() - begun
        self._tally.states[TrialState.WAITING] -= waiting
        self._tally.states[TrialState.RUNNING] += 1
        resumed = run.checkpoint is not None
        verb = "goes on" if resumed else "begins"
        said = f"trial {run.trial} {verb} on worker {lane.worker}: {describe_configuration(configuration)}"
        event(log, "trial_begun", said, trial=run.trial, worker=lane.worker, resumed=resumed, **_values(configuration))
        lean, protected = replace(run, checkpoint=None), _is_protected(trial)
        return Active(trial._trial_id, lean, lane, protected, time.monotonic(), resumed=resumed), run

    def put_back(self, active: Active) -> None:
        """Put a trial back into the queue, under its number, to go on later from its checkpoint."""
        self._pruner.forget(active.run.trial, after=self._ledger.requeue(active.id))
        self._tally.change(TrialState.RUNNING, TrialState.WAITING)

    def close(self) -> None:
        """Put trials that were created ahead, and never asked for, into the queue."""
        self._tally.states[TrialState.WAITING] += self._storage.unreserve(self._study._study_id)

    def _rank_again(self, trial: FrozenTrial, until: int | None = None) -> None:
        """Tell the pruner, and the tally, what a trial reached in an earlier call, of an interrupted one until its checkpoint."""
        steps = trial.intermediate_values.items()
        self._pruner.decide(
            Standing(trial.number, step, self._spec.objective.rank(value))
            for step, value in steps
            if until is None or step <= until
        )
        if trial.state.is_finished():
            if trial.state != TrialState.COMPLETE or not trial.values:
                self._tally.rank(None)
                return
            configuration = configuration_of(trial.params, self._spec)
            self._tally.rank(Leader(trial.number, trial.values[0], configuration, self._spec.objective))


def _end(trial: FrozenTrial) -> tuple[float, int]:
    """Return a key that sorts trials as they finished, unfinished ones last."""
    return trial.datetime_complete.timestamp() if trial.datetime_complete else math.inf, trial.number


def _values(configuration: Configuration) -> dict[str, Any]:
    """Return the values of a configuration by name; `dataclasses.asdict` copies each of them."""
    return {field.name: getattr(configuration, field.name) for field in fields(configuration)}


def _is_protected(trial: FrozenTrial | optuna.Trial) -> bool:
    return any(trial.user_attrs.get(role) for role in ("baseline", "enqueued"))
