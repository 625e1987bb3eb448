"""Which trials to stop.

Successive halving and Hyperband decide for a whole cohort: all values of an epoch are recorded before any is ranked. The others are
Optuna's own, asked in the order of the trials.
"""

from __future__ import annotations

import binascii
import bisect
import itertools
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, PatientPruner, PercentilePruner, WilcoxonPruner
from optuna.study import Study
from optuna.trial import TrialState

from studies.strategy import PrunerSpec


@dataclass(frozen=True, slots=True)
class Standing:
    """How a trial ranks after an epoch, or after a fold where these follow one another: the higher its `value`, the better.

    A protected trial (a baseline) competes but is never stopped.
    """

    trial: int
    epoch: int
    value: float
    protected: bool = False


class Pruner(Protocol):
    """Sees every value once, in cohorts, and names the trials to stop."""

    def decide(self, cohort: Iterable[Standing]) -> set[int]:
        """Record a cohort's values and return the numbers of its trials that should stop now."""
        ...

    def forget(self, trial: int, after: int = 0) -> None:
        """Drop a trial's values after an epoch from which it goes on anew."""
        ...


class NoPruning:
    """Lets every trial finish."""

    def decide(self, cohort: Iterable[Standing]) -> set[int]:
        """Return nothing."""
        return set()

    def forget(self, trial: int, after: int = 0) -> None:
        """Do nothing."""


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2020, https://arxiv.org/abs/1810.05934), decided by cohort.

    At the rungs `min_epochs · reduction_factor^k` a trial goes on if it is among the best `1 / reduction_factor` of all trials
    that have reached the rung so far, its own cohort included; the best one always goes on. Of equals the earlier trial is the
    better: where most of a study is at chance level, a rule that let all equals pass would prune nothing.
    """

    def __init__(self, min_epochs: int, reduction_factor: int, epochs: int) -> None:
        self.rungs = rungs(min_epochs, reduction_factor, epochs)
        self._reduction_factor = reduction_factor
        self._values: dict[int, dict[int, float]] = {rung: {} for rung in self.rungs}

    def decide(self, cohort: Iterable[Standing]) -> set[int]:
        """Record a cohort's values, then rank it; see the class."""
        reached = [standing for standing in cohort if standing.epoch in self._values]
        for standing in reached:
            self._values[standing.epoch][standing.trial] = standing.value
        survivors = {rung: self._survivors(rung) for rung in {standing.epoch for standing in reached}}
        return {s.trial for s in reached if not s.protected and s.trial not in survivors[s.epoch]}

    def forget(self, trial: int, after: int = 0) -> None:
        """Drop a trial's values after an epoch from which it goes on anew."""
        for rung, values in self._values.items():
            if rung > after:
                values.pop(trial, None)

    def _survivors(self, rung: int) -> set[int]:
        values = self._values[rung]
        ranked = sorted(values, key=lambda trial: (-values[trial], trial))
        return set(ranked[: max(1, len(values) // self._reduction_factor)])


class Hyperband:
    """Hyperband (Li et al. 2018, https://jmlr.org/papers/v18/16-558.html) as Optuna has it, each bracket decided by cohort.

    Bracket b is a successive halving whose first rung is `min_epochs · reduction_factor^b`. A trial's bracket is drawn by a hash
    of the study's name and the trial's number, such that each bracket gets its share of the epochs.
    """

    def __init__(self, min_epochs: int, reduction_factor: int, epochs: int, study_name: str) -> None:
        starts = [min_epochs]
        while starts[-1] * reduction_factor <= epochs:
            starts.append(starts[-1] * reduction_factor)
        self.brackets = [SuccessiveHalving(start, reduction_factor, epochs) for start in starts]
        left = range(len(starts), 0, -1)  # brackets from this one on: s + 1 in the paper
        self._shares = [math.ceil(len(starts) * reduction_factor ** (n - 1) / n) for n in left]
        self._study_name = study_name

    def bracket_of(self, trial: int) -> int:
        """Return the number of a trial's bracket."""
        place = binascii.crc32(f"{self._study_name}_{trial}".encode()) % sum(self._shares)
        return bisect.bisect_right(list(itertools.accumulate(self._shares)), place)

    def decide(self, cohort: Iterable[Standing]) -> set[int]:
        """Let each bracket decide about its trials."""
        by_bracket: dict[int, list[Standing]] = {}
        for standing in cohort:
            by_bracket.setdefault(self.bracket_of(standing.trial), []).append(standing)
        return {trial for bracket, standings in by_bracket.items() for trial in self.brackets[bracket].decide(standings)}

    def forget(self, trial: int, after: int = 0) -> None:
        """Drop a trial's values after an epoch from which it goes on anew."""
        self.brackets[self.bracket_of(trial)].forget(trial, after)


class OfOptuna:
    """A pruner of Optuna's, asked in the order of the trials about those that run. What they reported is in the study."""

    def __init__(self, pruner: BasePruner, study: Study) -> None:
        self._pruner, self._study = pruner, study

    def decide(self, cohort: Iterable[Standing]) -> set[int]:
        """Ask about every trial of the cohort that runs, once; see the class."""
        asked = sorted({standing.trial for standing in cohort if not standing.protected})
        trials = self._study.get_trials(deepcopy=False) if asked else []
        running = [trials[number] for number in asked if trials[number].state == TrialState.RUNNING]
        return {trial.number for trial in running if self._pruner.prune(self._study, trial)}

    def forget(self, trial: int, after: int = 0) -> None:
        """Do nothing: the study forgets."""


class Patient:
    """Stops those that another pruner would stop and that have not become better for some epochs (Optuna's `PatientPruner`)."""

    def __init__(self, pruner: Pruner | None, patience: OfOptuna) -> None:
        self._pruner, self._patience = pruner, patience

    def decide(self, cohort: Iterable[Standing]) -> set[int]:
        """Let both decide about the cohort."""
        cohort = list(cohort)
        candidates = self._pruner.decide(cohort) if self._pruner else {standing.trial for standing in cohort}
        return self._patience.decide(standing for standing in cohort if standing.trial in candidates)

    def forget(self, trial: int, after: int = 0) -> None:
        """Drop a trial's values after an epoch from which it goes on anew."""
        if self._pruner:
            self._pruner.forget(trial, after)


def rungs(min_epochs: int, reduction_factor: int, epochs: int) -> list[int]:
    """Return the epochs at which successive halving decides: `min_epochs · reduction_factor^k`, the last epoch left out."""
    found = []
    rung = min_epochs
    while rung < epochs:
        found.append(rung)
        rung *= reduction_factor
    return found


def make_pruner(spec: PrunerSpec, epochs: int, study: Study) -> Pruner:
    """Return the pruner that a study asks for; `study` holds what its trials report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        pruner = _deciding(spec, epochs, study)
        if spec.patience is None:
            return pruner or NoPruning()
        return Patient(pruner, OfOptuna(PatientPruner(None, spec.patience, spec.min_delta), study))


def _deciding(spec: PrunerSpec, epochs: int, study: Study) -> Pruner | None:
    match spec.name:
        case "none":
            return None
        case "successive_halving":
            return SuccessiveHalving(spec.min_epochs, spec.reduction_factor, epochs)
        case "hyperband":
            return Hyperband(spec.min_epochs, spec.reduction_factor, epochs, study.study_name)
        case "wilcoxon":
            return OfOptuna(WilcoxonPruner(p_threshold=spec.p_threshold), study)
        case _:
            best = 50.0 if spec.name == "median" else spec.percentile
            return OfOptuna(PercentilePruner(best, spec.startup_trials, spec.min_epochs, spec.interval_epochs), study)
