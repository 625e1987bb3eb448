"""The answer of a study: which trial is best, confirmed over seeds that took no part in choosing it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from studies.objectives import ACCURACY, Objective
from sweeper.intervals import Interval, interval

CONFIRMATIONS_ATTR = "confirmations"
ANSWER = "answer"

Outcomes = Mapping[tuple[int, int], Mapping[str, Any]]
"""What `storage.queries.outcomes` returns: the columns of a run, by trial and run."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One confirmation, as the study's attribute holds it.

    The candidates, `baseline` among them if there is one, are trained with `seeds` seeds in their runs `first_run` and following;
    the `winner` of these and the baseline then with as many further ones. `trials`: finished trials of the study when it began.
    `looked`: the test part was or is being read for it. `epochs` and `seconds` are what it cost so far. `purpose`: the answer, or
    what is compared (`loss`, `penalty`): then nothing is chosen, and the candidates are the best of each kind. `rule`: how the
    winner is chosen, as in the study.
    """

    candidates: tuple[int, ...]
    baseline: int | None
    seeds: int
    first_run: int
    trials: int
    winner: int | None = None
    looked: bool = False
    finished: bool = False
    epochs: int = 0
    seconds: float = 0.0
    purpose: str = ANSWER
    rule: str = "best"

    @property
    def choosing_runs(self) -> range:
        """The numbers of the runs that choose the winner."""
        return range(self.first_run, self.first_run + self.seeds)

    @property
    def reporting_runs(self) -> range:
        """The numbers of the runs that say what the winner and the baseline reach."""
        return range(self.first_run + self.seeds, self.first_run + 2 * self.seeds)

    @property
    def reported(self) -> tuple[int, ...]:
        """The trials that the reporting runs are of: the winner, and the baseline if it is another one."""
        return tuple(dict.fromkeys(trial for trial in (self.winner, self.baseline) if trial is not None))


@dataclass(frozen=True, slots=True)
class Reached:
    """What a trial reaches over seeds that took no part in any choice; `test` None: there are no test images."""

    trial: int
    validation: Interval
    test: Interval | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a confirmation found, by one metric: the study's objective, or accuracy beside it.

    `gain_validation` and `gain_test` are what the winner reaches less what the baseline does, paired by seed and image; None where
    there is no baseline, or it is the winner. `chosen_among` has the mean and the standard deviation of what each candidate
    reaches on validation images over the seeds that chose. `looks`: how often this study has read its test images.
    """

    metric: Objective
    winner: Reached
    baseline: Reached | None
    gain_validation: Interval | None
    gain_test: Interval | None
    chosen_among: Mapping[int, tuple[float, float]]
    seeds: int
    looks: int
    epochs: int
    seconds: float

    @property
    def confirmed(self) -> dict[int, Interval]:
        """What the winner and the baseline reach on validation images over seeds, by trial."""
        return {found.trial: found.validation for found in (self.winner, self.baseline) if found}


def stored(attrs: Mapping[str, Any]) -> list[Confirmation]:
    """Return the confirmations of a study from its attributes, in their order."""
    return [Confirmation(**table | {"candidates": tuple(table["candidates"])}) for table in attrs.get(CONFIRMATIONS_ATTR, [])]


def to_store(confirmations: Iterable[Confirmation]) -> list[dict[str, Any]]:
    """Return the study's attribute that `stored` reads."""
    return [asdict(confirmation) | {"candidates": list(confirmation.candidates)} for confirmation in confirmations]


def candidates(ranks: Mapping[int, float], top: int, same: Mapping[int, object]) -> tuple[int, ...]:
    """Return the trials that rank highest, best first, the earlier of equals, and no configuration twice.

    Args:
        ranks: of each complete trial, the higher the better (`Objective.rank`).
        top: how many.
        same: what tells each trial's configuration.
    """
    chosen: dict[object, int] = {}
    for trial in sorted(ranks, key=lambda number: (-ranks[number], number)):
        chosen.setdefault(same[trial], trial)
    return tuple(chosen.values())[:top]


def winner(ranks: Mapping[int, Sequence[float]]) -> int:
    """Return the trial that ranks highest on average over seeds, −∞ where it diverged with one; the first of equals."""
    return max(ranks, key=lambda trial: float(np.mean(ranks[trial])))


def strongest_within_one_standard_error(ranks: Mapping[int, Sequence[float]], fits: Mapping[int, float]) -> int:
    """Return the trial that fits its training images least of those within one standard error of the best mean.

    The rule is Breiman et al.'s (1984, "Classification and regression trees", section 3.4.3). Penalties, dropout and losses have no
    common scale, so what tells how strongly a trial is regularized is what regularization does: it keeps it from fitting.

    Args:
        ranks: on validation images, of each trial over seeds, the higher the better (`Objective.rank`).
        fits: the mean accuracy of each trial on its training images.
    """
    leader = winner(ranks)
    best = ranks[leader]
    if -math.inf in best:  # so do all
        return leader
    least = np.mean(best) - np.std(best, ddof=1) / np.sqrt(len(best))
    return min((trial for trial, seeds in ranks.items() if np.mean(seeds) >= least), key=lambda trial: fits[trial])


def choose(confirmation: Confirmation, outcomes: Outcomes, objective: Objective) -> Confirmation:
    """Return the confirmation with its winner, all runs that choose being finished; one that diverges ranks below all others."""
    ranks = {
        trial: [objective.rank(value) if math.isfinite(value) else -math.inf for value in values]
        for trial, values in _choosing(confirmation, outcomes, objective).items()
    }
    if confirmation.rule == "best":
        return replace(confirmation, winner=winner(ranks))
    runs = confirmation.choosing_runs
    fits = {trial: float(np.mean([outcomes[trial, run]["train_accuracy"] for run in runs])) for trial in ranks}
    return replace(confirmation, winner=strongest_within_one_standard_error(ranks, fits))


def answer_of(confirmations: Sequence[Confirmation], outcomes: Outcomes, metric: Objective) -> Answer | None:
    """Return what the last finished confirmation found, by the study's objective or by accuracy; None if there is none."""
    finished = [each for each in confirmations if each.finished and each.purpose == ANSWER]
    if not finished:
        return None
    last = finished[-1]
    parts = ("validation", "test") if last.looked else ("validation",)
    found = {(trial, part): scores(outcomes, trial, last.reporting_runs, part, metric) for trial in last.reported for part in parts}

    def reached(trial: int) -> Reached:
        test = interval(found[trial, "test"], metric.levels) if last.looked else None
        return Reached(trial, interval(found[trial, "validation"], metric.levels), test)

    def gain(part: str) -> Interval | None:
        if last.baseline in (None, last.winner) or part not in parts:
            return None
        return interval(found[last.winner, part] - found[last.baseline, part], metric.bounds)  # type: ignore[index]

    assert last.winner is not None
    chosen = _choosing(last, outcomes, metric)
    return Answer(
        metric=metric,
        winner=reached(last.winner),
        baseline=None if last.baseline is None else reached(last.baseline),
        gain_validation=gain("validation"),
        gain_test=gain("test"),
        chosen_among={trial: (float(np.mean(seeds)), float(np.std(seeds, ddof=1))) for trial, seeds in chosen.items()},
        seeds=last.seeds,
        looks=sum(each.looked for each in confirmations),
        epochs=last.epochs,
        seconds=last.seconds,
    )


def over_seeds(confirmations: Sequence[Confirmation], outcomes: Outcomes, objective: Objective) -> dict[int, Interval]:
    """Return what each trial reaches on validation images over seeds which chose nothing: the latest measurement.

    A trial that diverged with one of them is left out.
    """
    found: dict[int, Interval] = {}
    for each in confirmations:
        if each.finished:
            measured = (each.reported, each.reporting_runs) if each.purpose == ANSWER else (each.candidates, each.choosing_runs)
            for trial in measured[0]:
                found[trial] = interval(scores(outcomes, trial, measured[1], "validation", objective), objective.levels)
    return {trial: reached for trial, reached in found.items() if reached.is_known}


def _choosing(confirmation: Confirmation, outcomes: Outcomes, metric: Objective) -> dict[int, list[float]]:
    """Return what the candidates reached in the runs that choose; NaN of one that diverged."""
    column = "validation_accuracy" if metric is ACCURACY else "value"

    def reached(trial: int, run: int) -> float:
        value = outcomes[trial, run][column]
        return math.nan if value is None else float(value)

    return {trial: [reached(trial, run) for run in confirmation.choosing_runs] for trial in confirmation.candidates}


def scores(outcomes: Outcomes, trial: int, runs: Iterable[int], part: str, metric: Objective) -> np.ndarray:
    """Return how the images of a part add to what the runs of a trial reach, float `[runs, images]`; the means are the values.

    Args:
        outcomes: of the study.
        trial: its number.
        runs: theirs.
        part: `validation` or `test`.
        metric: accuracy, of which an image has 1 or 0, or the study's objective.
    """
    if metric is not ACCURACY:
        return np.stack([np.frombuffer(outcomes[trial, run][f"{part}_scores"], np.float32) for run in runs]).astype(np.float64)
    rows = [outcomes[trial, run] for run in runs]
    packed = [(np.frombuffer(row[f"{part}_right"], np.uint8), int(row[f"{part}_images"])) for row in rows]
    return np.stack([np.unpackbits(bits, count=count) for bits, count in packed]).astype(np.float64)
