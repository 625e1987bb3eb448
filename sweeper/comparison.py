"""Differences between studies, losses or penalties, over seeds, in percentage points and with what chance may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from studies.objectives import ACCURACY, Objective
from sweeper.answer import ANSWER, Confirmation, scores
from sweeper.errors import NoSuchResult, UsageError
from sweeper.intervals import Interval, difference, holm, interval, p_value
from sweeper.notation import hyperparameter_name, loss_name
from sweeper.results import Best, Results

KINDS = ("loss", "penalty")
PENALTIES = ("l1", "l2", "weight_decay", "max_norm", "dropout", "dropout_input", "dropout_conv", "dropout_dense")


@dataclass(frozen=True, slots=True)
class Difference:
    """What the first reaches over seeds less what the second does.

    `images`: of which part. `p`: two-sided, corrected for the number of comparisons after Holm. `metric`: of what.
    """

    first: str
    second: str
    gap: Interval
    images: str
    p: float
    metric: Objective = ACCURACY

    @property
    def is_better(self) -> bool:
        """Whether the first is the better one, chance aside."""
        return self.metric.rank(self.gap.mean) > 0


def compare_studies(studies: Sequence[Results]) -> list[Difference]:
    """Return the differences between the confirmed winners of studies, each less each after it.

    Test images are compared where all have read theirs, validation images otherwise; images pair where the data are the same.

    Raises:
        NoSuchResult: the answer of one is not confirmed.
        UsageError: they are after different metrics.
    """
    metric = studies[0].spec.objective
    for results in studies[1:]:
        if results.spec.objective is not metric:
            said = f"study {studies[0].spec.name!r} is after the {metric.label}, {results.spec.name!r} after the"
            raise UsageError(f"compare: {said} {results.spec.objective.label}")
        if metric.name == "loss" and results.spec.search.loss_values != studies[0].spec.search.loss_values:
            raise UsageError("compare: these studies differ in their loss, so its values do not compare")
    found: list[Confirmation] = []
    for results in studies:
        finished = [each for each in results.confirmations if each.finished and each.purpose == ANSWER]
        if not finished:
            name = results.spec.name
            raise NoSuchResult(f"the answer of study {name!r} is not confirmed yet; sweeper confirm {name}")
        found.append(finished[-1])
    part = "test" if all(confirmation.looked for confirmation in found) else "validation"
    measured = [
        scores(results.outcomes, int(confirmation.winner or 0), confirmation.reporting_runs, part, metric)
        for results, confirmation in zip(studies, found, strict=True)
    ]
    names = [results.spec.name for results in studies]
    gaps = {
        (names[i], names[j]): difference(
            measured[i],
            measured[j],
            metric.bounds,
            same_images=studies[i].spec.data == studies[j].spec.data and measured[i].shape[1] == measured[j].shape[1],
        )
        for i, j in combinations(range(len(studies)), 2)
    }
    return _corrected(gaps, part, metric)


def compare_kinds(results: Results, by: str) -> list[Difference] | None:
    """Return the differences between the best trials of each loss or penalty of a study; None if they are not trained yet."""
    done = [each for each in results.confirmations if each.finished and each.purpose == by]
    kinds = best_of_kinds(results, by)
    if not done or set(done[-1].candidates) != set(kinds.values()):
        return None
    last, outcomes = done[-1], results.outcomes
    metric = results.spec.objective
    found = {kind: scores(outcomes, trial, last.choosing_runs, "validation", metric) for kind, trial in kinds.items()}
    gaps = {(one, two): interval(found[one] - found[two], metric.bounds) for one, two in combinations(found, 2)}
    return _corrected(gaps, "validation", metric)


def best_of_kinds(results: Results, by: str) -> dict[str, int]:
    """Return the best complete trial of each loss, or of each set of penalties that are applied, the best kind first.

    Raises:
        NoSuchResult: there are not two kinds.
    """
    chosen: dict[str, int] = {}
    for number in results.ranked.index:
        trial = results.trial(int(number))
        chosen.setdefault(_loss(trial) if by == "loss" else _penalty(trial), trial.trial)
    if len(chosen) < 2:
        raise NoSuchResult(f"study {results.spec.name!r} has complete trials of one {by} only: {', '.join(chosen) or 'none'}")
    return chosen


def _loss(trial: Best) -> str:
    return loss_name(trial.configuration.loss)


def _penalty(trial: Best) -> str:
    applied = [hyperparameter_name(name) for name in PENALTIES if getattr(trial.configuration, name)]
    return " + ".join(applied) or "no regularization"


def _corrected(gaps: Mapping[tuple[str, str], Interval], images: str, metric: Objective) -> list[Difference]:
    adjusted = holm([p_value(gap) for gap in gaps.values()])
    return [Difference(one, two, gap, images, p, metric) for ((one, two), gap), p in zip(gaps.items(), adjusted, strict=True)]
