"""Which trials to stop, decided for a whole cohort at once: all values of an epoch are recorded before any is ranked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from studies.spec import PrunerSpec


@dataclass(frozen=True, slots=True)
class Standing:
    """A trial's validation accuracy after an epoch. A protected trial (a baseline) competes but is never stopped."""

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
        self.rungs: list[int] = []
        rung = min_epochs
        while rung < epochs:
            self.rungs.append(rung)
            rung *= reduction_factor
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


def make_pruner(spec: PrunerSpec, epochs: int) -> Pruner:
    """Return the pruner that a study asks for."""
    if spec.name == "none":
        return NoPruning()
    return SuccessiveHalving(spec.min_epochs, spec.reduction_factor, epochs)
