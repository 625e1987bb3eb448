"""The answer of a study: which trial is best, confirmed over seeds that took no part in choosing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

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
class Accuracy:
    """The accuracy of a trial over seeds that took no part in any choice; `test` None: there are no test images."""

    trial: int
    validation: Interval
    test: Interval | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a confirmation found.

    `gain_validation` and `gain_test` are the winner's accuracies less the baseline's, paired by seed and image; None where there
    is no baseline, or it is the winner. `chosen_among` has the mean and the standard deviation of each candidate's validation
    accuracy over the seeds that chose. `looks`: how often this study has read its test images.
    """

    winner: Accuracy
    baseline: Accuracy | None
    gain_validation: Interval | None
    gain_test: Interval | None
    chosen_among: Mapping[int, tuple[float, float]]
    seeds: int
    looks: int
    epochs: int
    seconds: float

    @property
    def confirmed(self) -> dict[int, Interval]:
        """The validation accuracy of the winner and the baseline over seeds, by trial."""
        return {found.trial: found.validation for found in (self.winner, self.baseline) if found}


def stored(attrs: Mapping[str, Any]) -> list[Confirmation]:
    """Return the confirmations of a study from its attributes, in their order."""
    return [Confirmation(**table | {"candidates": tuple(table["candidates"])}) for table in attrs.get(CONFIRMATIONS_ATTR, [])]


def to_store(confirmations: Iterable[Confirmation]) -> list[dict[str, Any]]:
    """Return the study's attribute that `stored` reads."""
    return [asdict(confirmation) | {"candidates": list(confirmation.candidates)} for confirmation in confirmations]


def candidates(values: Mapping[int, float], top: int, same: Mapping[int, object]) -> tuple[int, ...]:
    """Return the trials with the highest values, best first, the earlier of equals, and no configuration twice.

    Args:
        values: of each complete trial.
        top: how many.
        same: what tells each trial's configuration.
    """
    chosen: dict[object, int] = {}
    for trial in sorted(values, key=lambda number: (-values[number], number)):
        chosen.setdefault(same[trial], trial)
    return tuple(chosen.values())[:top]


def winner(accuracies: Mapping[int, Sequence[float]]) -> int:
    """Return the trial with the highest mean accuracy over seeds, the first of equals."""
    return max(accuracies, key=lambda trial: float(np.mean(accuracies[trial])))


def strongest_within_one_standard_error(accuracies: Mapping[int, Sequence[float]], fits: Mapping[int, float]) -> int:
    """Return the trial that fits its training images least of those within one standard error of the best mean accuracy.

    The rule is Breiman et al.'s (1984, "Classification and regression trees", section 3.4.3). Penalties, dropout and losses have no
    common scale, so what tells how strongly a trial is regularized is what regularization does: it keeps it from fitting.

    Args:
        accuracies: on validation images, of each trial over seeds.
        fits: the mean accuracy of each trial on its training images.
    """
    best = accuracies[winner(accuracies)]
    least = np.mean(best) - np.std(best, ddof=1) / np.sqrt(len(best))
    return min((trial for trial, seeds in accuracies.items() if np.mean(seeds) >= least), key=lambda trial: fits[trial])


def choose(confirmation: Confirmation, outcomes: Outcomes) -> Confirmation:
    """Return the confirmation with its winner, all runs that choose being finished."""
    accuracies = _choosing(confirmation, outcomes)
    if confirmation.rule == "best":
        return replace(confirmation, winner=winner(accuracies))
    runs = confirmation.choosing_runs
    fits = {trial: float(np.mean([outcomes[trial, run]["train_accuracy"] for run in runs])) for trial in accuracies}
    return replace(confirmation, winner=strongest_within_one_standard_error(accuracies, fits))


def answer_of(confirmations: Sequence[Confirmation], outcomes: Outcomes) -> Answer | None:
    """Return what the last finished confirmation found; None if there is none."""
    finished = [each for each in confirmations if each.finished and each.purpose == ANSWER]
    if not finished:
        return None
    last = finished[-1]
    parts = ("validation", "test") if last.looked else ("validation",)
    bits = {(trial, part): right(outcomes, trial, last.reporting_runs, part) for trial in last.reported for part in parts}

    def accuracy(trial: int) -> Accuracy:
        test = interval(bits[trial, "test"]) if last.looked else None
        return Accuracy(trial, interval(bits[trial, "validation"]), test)

    def gain(part: str) -> Interval | None:
        if last.baseline in (None, last.winner) or part not in parts:
            return None
        return interval(bits[last.winner, part] - bits[last.baseline, part])  # type: ignore[index]

    assert last.winner is not None
    accuracies = _choosing(last, outcomes)
    return Answer(
        winner=accuracy(last.winner),
        baseline=None if last.baseline is None else accuracy(last.baseline),
        gain_validation=gain("validation"),
        gain_test=gain("test"),
        chosen_among={trial: (float(np.mean(seeds)), float(np.std(seeds, ddof=1))) for trial, seeds in accuracies.items()},
        seeds=last.seeds,
        looks=sum(each.looked for each in confirmations),
        epochs=last.epochs,
        seconds=last.seconds,
    )


def over_seeds(confirmations: Sequence[Confirmation], outcomes: Outcomes) -> dict[int, Interval]:
    """Return the validation accuracy of each trial that was measured over seeds which chose nothing: the latest measurement."""
    found: dict[int, Interval] = {}
    for each in confirmations:
        if each.finished:
            measured = (each.reported, each.reporting_runs) if each.purpose == ANSWER else (each.candidates, each.choosing_runs)
            found |= {trial: interval(right(outcomes, trial, measured[1], "validation")) for trial in measured[0]}
    return found


def _choosing(confirmation: Confirmation, outcomes: Outcomes) -> dict[int, list[float]]:
    return {
        trial: [float(outcomes[trial, run]["validation_accuracy"]) for run in confirmation.choosing_runs]
        for trial in confirmation.candidates
    }


def right(outcomes: Outcomes, trial: int, runs: Iterable[int], part: str) -> np.ndarray:
    """Return which images of a part the runs of a trial get right, float `[runs, images]`."""
    rows = [outcomes[trial, run] for run in runs]
    packed = [(np.frombuffer(row[f"{part}_right"], np.uint8), int(row[f"{part}_images"])) for row in rows]
    return np.stack([np.unpackbits(bits, count=count) for bits, count in packed]).astype(np.float64)
