"""Cross-validation: a trial is several runs of one array, a fold each, and what it reached is their mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np

from sweeper.messages import EpochReport, Orders
from sweeper.search import run_seed
from sweeper.trial import EpochResult, Metrics, Run


class Folds:
    """Turns orders for trials into orders for their runs, and results of runs into results of trials.

    Workers know run r of trial t by the number `t · runs + r`. With a single run a trial there is nothing to do.

    Args:
        runs: of a trial.
        seed: the study's, of which the runs' seeds derive.
    """

    def __init__(self, runs: int, seed: int) -> None:
        self.runs, self._seed = runs, seed
        self._latest: dict[int, dict[int, EpochResult]] = {}
        self._ended: dict[int, set[int]] = {}

    def orders(self, orders: Orders, staying: Iterable[int]) -> Orders:
        """Return what a worker is told: trials begin and stop with all their runs. `staying`: its trials that go on."""
        if self.runs == 1:
            return orders
        stop = (*self.stops(orders.stop), *self._early(staying))
        return Orders(stop, tuple(part for run in orders.start for part in self._parts(run)))

    def stops(self, trials: Iterable[int]) -> tuple[int, ...]:
        """Return the runs of trials that are still in their slots."""
        if self.runs == 1:
            return tuple(trials)
        gone = {trial: self._ended.get(trial, set()) for trial in trials}
        self.forget(gone)
        return tuple(trial * self.runs + run for trial, ended in gone.items() for run in range(self.runs) if run not in ended)

    def merge(self, report: EpochReport) -> EpochReport:
        """Return the results of trials: means over their runs, of a run that ended early its last result."""
        if self.runs == 1:
            return report
        fresh: dict[int, list[EpochResult]] = {}
        for result in report.results:
            trial, run = divmod(result.trial, self.runs)
            part = replace(result, trial=run)
            self._latest.setdefault(trial, {})[run] = part
            fresh.setdefault(trial, []).append(part)
        latest = {trial: [self._latest[trial][run] for run in range(self.runs)] for trial in fresh}
        merged = (mean_over_runs(trial, latest[trial], parts) for trial, parts in fresh.items())
        return replace(report, results=tuple(merged), checkpoints={})

    def reported(self, result: EpochResult) -> tuple[int, float] | None:
        """Return what pruning is told of a trial's result: a step and the value there; None if nothing this time."""
        return result.epoch, result.metrics.validation_accuracy

    def forget(self, trials: Iterable[int]) -> None:
        """Note that trials are in no array any more, and will begin again."""
        for trial in trials:
            self._latest.pop(trial, None)
            self._ended.pop(trial, None)

    def _early(self, staying: Iterable[int]) -> Iterator[int]:
        """Yield the runs that ended before their trial, once."""
        for trial in staying:
            ended = self._ended.setdefault(trial, set())
            stopped = {run for run, result in self._latest.get(trial, {}).items() if result.stopped} - ended
            yield from (trial * self.runs + run for run in sorted(stopped))
            ended |= stopped

    def _parts(self, run: Run) -> list[Run]:
        """Return the runs of a trial: each has a seed of its own, and a fold and an index stream that all trials' have."""
        return [
            replace(run, trial=run.trial * self.runs + i, seed=run_seed(self._seed, run.trial, i), stream=i, fold=i)
            for i in range(self.runs)
        ]


def mean_over_runs(trial: int, latest: Sequence[EpochResult], fresh: Sequence[EpochResult]) -> EpochResult:
    """Return the result of a trial.

    Args:
        trial: its number.
        latest: of each of its runs.
        fresh: of those that were trained in this epoch.
    """
    last = max(fresh, key=lambda result: result.epoch)
    going = [result for result in fresh if not result.stopped]
    now = [result.best if result.stopped else result.metrics for result in latest]
    return replace(
        last,
        trial=trial,
        metrics=_mean_metrics(now),
        best=_mean_metrics([result.best for result in latest]),
        best_epoch=round(sum(result.best_epoch for result in latest) / len(latest)),
        stopped=not going,
        zero_weights=sum(result.zero_weights for result in latest) / len(latest),
        weight_norm=sum(result.weight_norm for result in latest) / len(latest),
        measured=_mean_measured([result.measured for result in latest]),
        folds=tuple(fresh),
        fold_accuracies=tuple(result.best.validation_accuracy for result in latest),
    )


def _mean_metrics(parts: Sequence[Metrics]) -> Metrics:
    return Metrics(**{field.name: sum(getattr(part, field.name) for part in parts) / len(parts) for field in fields(Metrics)})


def _mean_measured(parts: Sequence[Mapping[str, float | list[float]]]) -> dict[str, float | list[float]]:
    """Return the means of what was measured in every run; nothing as long as one goes on."""
    if not all(parts):
        return {}
    means: dict[str, float | list[float]] = {}
    for name in parts[0]:
        mean = np.mean([part[name] for part in parts], axis=0)
        means[name] = mean.tolist()
    return means
