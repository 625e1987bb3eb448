"""Cross-validation fold after fold: a trial is in one slot, and its next fold begins when one has ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from studies.spec import StudySpec
from sweeper.folds import Folds, mean_over_runs
from sweeper.messages import EpochReport, Orders
from sweeper.trial import EpochResult, Run


@dataclass(slots=True)
class _Sequence:
    """A trial's runs, the last results of those that have ended, and where each began in its stream."""

    runs: list[Run]
    past: list[EpochResult] = field(default_factory=list)
    stream: tuple[tuple[int, int], ...] = ()
    now: int = 0


class FoldSequence(Folds):
    """As `Folds`, but for runs that follow one another in one slot.

    The epochs of a trial count through all its runs; pruning is told what each run reached, the first one as step 1.

    Args:
        runs: of a trial.
        seed: the study's, of which the runs' seeds derive.
        epochs: of a run.
        objective: the name of what the study is after.
    """

    def __init__(self, runs: int, seed: int, epochs: int, objective: str = "accuracy") -> None:
        super().__init__(runs, seed, objective)
        self._epochs = epochs
        self._trials: dict[int, _Sequence] = {}

    def orders(self, orders: Orders, staying: Iterable[int]) -> Orders:
        """Return what a worker is told: a trial's next run takes the slot of the one that has ended."""
        stop, start = list(self.stops(orders.stop)), []
        for trial in staying:
            sequence = self._trials[trial]
            if len(sequence.past) > sequence.now:
                stop.append(sequence.runs[sequence.now].trial)
                sequence.now += 1
                start.append(sequence.runs[sequence.now])
        for run in orders.start:
            runs = [replace(part, epochs=self._epochs) for part in self._parts(run)]
            self._trials[run.trial] = _Sequence(runs)
            start.append(runs[0])
        return replace(orders, stop=tuple(stop), start=tuple(start))

    def stops(self, trials: Iterable[int]) -> tuple[int, ...]:
        """Return the runs of trials that are still in their slots."""
        return tuple(sequence.runs[sequence.now].trial for trial in trials if (sequence := self._trials.pop(trial, None)))

    def merge(self, report: EpochReport) -> EpochReport:
        """Return the results of trials: means over the runs that have ended and the one that goes on."""
        return replace(report, results=tuple(map(self._merged, report.results)), checkpoints={})

    def reported(self, result: EpochResult) -> tuple[int, float] | None:
        """Return the number of a run that has ended, from 1 on, and its value."""
        (part,) = result.folds
        return (part.trial + 1, part.best.value(self._objective)) if self._has_ended(part) else None

    def forget(self, trials: Iterable[int]) -> None:
        """Note that trials are in no array any more, and will begin again."""
        for trial in trials:
            self._trials.pop(trial, None)

    def _has_ended(self, part: EpochResult) -> bool:
        return part.stopped or part.epoch >= self._epochs

    def _merged(self, result: EpochResult) -> EpochResult:
        trial, number = divmod(result.trial, self.runs)
        part, sequence = replace(result, trial=number), self._trials[trial]
        before = sum(past.epoch for past in sequence.past)
        if part.epoch == 1:
            sequence.stream += ((before, part.stream[0][1]),)
        mean = mean_over_runs(trial, [*sequence.past, part], [part])
        if self._has_ended(part):
            sequence.past.append(part)
        return replace(mean, epoch=before + part.epoch, stream=sequence.stream, stopped=len(sequence.past) == self.runs)


def make_folds(spec: StudySpec) -> Folds:
    """Return how a study's trials are made of runs."""
    if spec.data.sequential:
        return FoldSequence(spec.data.runs, spec.seed, spec.training.epochs, spec.objective.name)
    return Folds(spec.data.runs, spec.seed, spec.objective.name)
