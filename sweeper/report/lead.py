"""The answer of a study in words and three numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studies.data import IMAGE_SETS
from studies.objectives import ACCURACY
from studies.spec import StudySpec
from sweeper.notation import (
    baseline_name,
    hyperparameter_name,
    loss_name,
    metric_amount,
    metric_change,
    metric_value,
    percent,
    strength,
)
from sweeper.report.snapshot import Snapshot
from sweeper.results import Best


@dataclass(frozen=True, slots=True)
class Number:
    """A number, and what it is."""

    value: str
    name: str


@dataclass(frozen=True, slots=True)
class Lead:
    """What a page begins with: the best configuration, what it reaches, how sure that is, three numbers."""

    configuration: str
    headline: str
    cautions: list[str]
    numbers: list[Number]


def lead(study: Snapshot) -> Lead:
    """Say what a study found, as far as it has come, and how sure that is."""
    counts, answer = study.counts(), study.answer
    cautions = []
    if not study.is_finished:
        cautions.append(
            f"Not finished: {study.ended:,} of {study.spec.trials:,} trials have ended, {counts['running']} are running."
        )
    best = answer.best
    if best is None:
        return Lead("", "No trial is complete yet.", cautions, [])
    return Lead(configuration_text(study, best), _headline(study, best), [*cautions, _caution(study, best)], _numbers(study, best))


def configuration_text(study: Snapshot, best: Best) -> str:
    """Return what was searched and found; what no trial had is not worth a word."""
    values = [
        f"{hyperparameter_name(name)} {strength(getattr(best.configuration, name, None))}"
        for name in study.searched
        if hasattr(best.configuration, name)
    ]
    return ", ".join([*values, loss_name(best.configuration.loss)])


def _headline(study: Snapshot, best: Best) -> str:
    answer, without, objective = study.answer, baseline_name(study.spec), study.objective
    named = "" if objective is ACCURACY else f"a {objective.metric} of "
    reached = f"{named}{metric_value(objective, answer.value(best))} on the validation images"
    if not answer.baseline:
        return f"reaches {reached}."
    against = f"{metric_value(objective, answer.value(answer.baseline))}, {loss_name(answer.baseline.configuration.loss)}"
    if best.trial == answer.baseline.trial:
        return f"reaches {reached}: no trial did better than {without}."
    gain = answer.gain or 0.0
    more = f"{metric_amount(objective, gain)} {'more' if gain >= 0 else 'less'} than with {without} ({against})"
    return f"reaches {reached}: {more}."


def _caution(study: Snapshot, best: Best) -> str:
    """Say how far the numbers can be believed."""
    interval, test, gain = study.answer.confirmed.get(best.trial), study.answer.test, study.answer.test_gain
    objective = study.objective
    worse = "more" if objective.minimized else "less"
    if interval:
        between = f"between {metric_value(objective, interval.low)} and {metric_value(objective, interval.high)}"
        said = f"Confirmed: trained anew with {interval.seeds} seeds it reaches {between}"
        if test is None:
            return f"{said}. It was chosen on these validation images: expect a little {worse} on new ones."
        more = ""
        if gain:
            ends = f"{metric_change(objective, gain.low)} to {metric_change(objective, gain.high)}"
            more = f", {metric_change(objective, gain.mean)} over {baseline_name(study.spec)} ({ends})"
        mean, low, high = (metric_value(objective, number) for number in (test.mean, test.low, test.high))
        return f"{said}; on test images, which took no part in any choice, {mean} ({low} to {high}){more}."
    return (
        f"Not confirmed: this is the best of {study.ended:,} trials, each trained with one seed, and chosen on the very images "
        f"it is measured on. Expect a little {worse} on new images."
    )


def _numbers(study: Snapshot, best: Best) -> list[Number]:
    answer, objective = study.answer, study.objective
    numbers = [Number(metric_value(objective, answer.value(best)), f"{objective.label} of the best trial")]
    if answer.gain is not None and answer.baseline != best:
        numbers.append(Number(metric_change(objective, answer.gain), f"over {baseline_name(study.spec)}"))
    if interval := answer.confirmed.get(best.trial):
        half = (interval.high - interval.low) / 2
        shown = f"{100 * half:.1f} points" if objective.is_share else metric_amount(objective, half)
        numbers.append(Number(f"±{shown}", f"uncertainty of the mean over {interval.seeds} seeds"))
    elif objective is not ACCURACY:
        numbers.append(Number(percent(best.accuracy), "its validation accuracy"))
    elif images := validation_images(study.spec):
        half = 1.96 * math.sqrt(best.value * (1 - best.value) / images)
        numbers.append(
            Number(f"±{100 * half:.1f} points", f"uncertainty (95 %) by the number of validation images alone, {images:,}")
        )
    return numbers


def validation_images(spec: StudySpec) -> int | None:
    """Return how many images the validation part has; None if only the data set knows."""
    size, known = spec.data.validation_size, IMAGE_SETS.get(spec.data.name)
    if isinstance(size, int):
        return size
    if known is None:
        return None
    return round(size * (known.images - (spec.data.test_size or 0 if not known.test_images else 0)))
