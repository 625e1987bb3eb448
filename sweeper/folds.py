"""Cross-validation: a trial is several runs of one array, a fold each, and what it reached is their mean."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from sweeper.messages import EpochReport, Orders
from sweeper.search import run_seed
from sweeper.trial import EpochResult, Metrics, Run

log = logging.getLogger(__name__)


class Folds:
    """Turns orders for trials into orders for their runs, and results of runs into results of trials.

    Workers know run r of trial t by the number `t · runs + r`. With a single run a trial there is nothing to do.

    Args:
        runs: of a trial.
        seed: the study's, of which the runs' seeds derive.
        objective: the name of what the study is after.
    """

    def __init__(self, runs: int, seed: int, objective: str = "accuracy") -> None:
        self.runs, self._seed, self._objective = runs, seed, objective
        self._latest: dict[int, dict[int, EpochResult]] = {}
        self._ended: dict[int, set[int]] = {}

    def orders(self, orders: Orders, staying: Iterable[int]) -> Orders:
        """Return what a worker is told: trials begin and stop with all their runs. `staying`: its trials that go on."""
        if self.runs == 1:
            return orders
        stop = (*self.stops(orders.stop), *self._early(staying))
        start = tuple(part for run in orders.start for part in self._parts(run))
        kept = (trial * self.runs + run for trial in orders.checkpoint for run in self._going(trial))
        return replace(orders, stop=stop, start=start, checkpoint=tuple(kept))

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
        return replace(report, results=tuple(merged), checkpoints=self._bundles(report.checkpoints))

    def reported(self, result: EpochResult) -> tuple[int, float] | None:
        """Return what pruning is told of a trial's result: a step and the value there; None if nothing this time."""
        return result.epoch, result.metrics.value(self._objective)

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

    def _going(self, trial: int) -> list[int]:
        """Return the runs of a trial that have not ended."""
        ended = self._ended.get(trial, set())
        return [run for run in range(self.runs) if run not in ended]

    def _bundles(self, checkpoints: Mapping[int, bytes]) -> dict[int, bytes]:
        """Return a checkpoint for each trial of which there are some of its runs: those, and the results of the ended ones."""
        of_trials: dict[int, dict[int, bytes]] = {}
        for key, content in checkpoints.items():
            trial, run = divmod(key, self.runs)
            of_trials.setdefault(trial, {})[run] = content
        bundles = {}
        for trial, going in of_trials.items():
            ended = {run: result for run, result in self._latest.get(trial, {}).items() if result.stopped}
            if len(ended) < self.runs:
                bundles[trial] = bundle({run: content for run, content in going.items() if run not in ended}, ended)
        return bundles

    def _parts(self, run: Run) -> list[Run]:
        """Return the runs of a trial that are to be trained, all but those that had ended when it was interrupted.

        Each has a seed of its own, and a fold and an index stream that all trials' have.
        """
        going, ended = unbundle(run.checkpoint) if run.checkpoint else ({}, {})
        if ended:
            self._latest[run.trial], self._ended[run.trial] = dict(ended), set(ended)
        return [
            replace(
                run, trial=run.trial * self.runs + i, seed=run_seed(self._seed, run.trial, i), stream=i, fold=i,
                checkpoint=going.get(i),
            )
            for i in range(self.runs) if i not in ended
        ]  # fmt: skip


def bundle(going: Mapping[int, bytes], ended: Mapping[int, EpochResult]) -> bytes:
    """Return one checkpoint of several runs, by their numbers: of those that go on theirs, of those that ended the last result."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ended.json", json.dumps({run: _plain(result) for run, result in ended.items()}))
        for run, content in going.items():
            archive.writestr(f"{run}.pt", content)
    return buffer.getvalue()


def unbundle(content: bytes) -> tuple[dict[int, bytes], dict[int, EpochResult]]:
    """Return what `bundle` was given; nothing if it is something else, and the trial begins again."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            ended = {int(run): _result(table) for run, table in json.loads(archive.read("ended.json")).items()}
            names = [name for name in archive.namelist() if name.endswith(".pt")]
            return {int(name.removesuffix(".pt")): archive.read(name) for name in names}, ended
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        log.warning("a trial begins again: the checkpoint of its folds cannot be read (%s)", type(error).__name__)
        return {}, {}


def _plain(result: EpochResult) -> dict[str, Any]:
    """Return the last result of a run as JSON can hold it; a run of a search has no images examined."""
    table = asdict(result)
    return {name: value for name, value in table.items() if name not in ("examined", "scores", "folds", "fold_bests")}


def _result(table: dict[str, Any]) -> EpochResult:
    metrics, best = Metrics(**table["metrics"]), Metrics(**table["best"])
    stream = tuple((epoch, at) for epoch, at in table["stream"])
    return EpochResult(**table | {"metrics": metrics, "best": best, "stream": stream})


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
        fold_bests=tuple(result.best for result in latest),
    )


def _mean_metrics(parts: Sequence[Metrics]) -> Metrics:
    numbers = [field.name for field in fields(Metrics) if field.name != "others"]
    means = {name: sum(getattr(part, name) for part in parts) / len(parts) for name in numbers}
    others = {name: sum(part.others[name] for part in parts) / len(parts) for name in parts[0].others}
    return Metrics(**means, others=others)


def _mean_measured(parts: Sequence[Mapping[str, float | list[float]]]) -> dict[str, float | list[float]]:
    """Return the means of what was measured in every run; nothing as long as one goes on."""
    if not all(parts):
        return {}
    means: dict[str, float | list[float]] = {}
    for name in parts[0]:
        mean = np.mean([part[name] for part in parts], axis=0)
        means[name] = mean.tolist()
    return means
