"""A confirmed answer in plain words, for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from studies.objectives import ACCURACY, OBJECTIVES, Objective
from sweeper.best_file import BestFile
from sweeper.comparison import Difference
from sweeper.intervals import Interval
from sweeper.notation import baseline_name, describe_configuration, describe_seconds, metric_amount, metric_change, metric_value
from sweeper.replay import Replay, configuration
from sweeper.results import Results

SIGNIFICANT = 0.05
DIVERGED = "none, as training diverged with a seed"


def confirmed(results: Results) -> Iterator[str]:
    """Say, line by line, what a confirmation found: the winner and the baseline over fresh seeds, and the cost; else nothing."""
    answer = results.answer
    if answer is None:
        return
    metric = answer.metric
    named = "" if metric is ACCURACY else f"{metric.metric}, "
    for word, found in (("confirmed", answer.winner), ("baseline", answer.baseline)):
        if found and (word == "confirmed" or found.trial != answer.winner.trial):
            test = f"test {describe_interval(found.test, metric)}, " if found.test else ""
            configuration = describe_configuration(results.trial(found.trial).configuration)
            validation = describe_interval(found.validation, metric)
            yield f"{word:<9} {named}{test}validation {validation}: trial {found.trial}, {configuration}"
    if metric is not ACCURACY and (beside := results.answer_by(ACCURACY)):
        test = f"test {describe_interval(beside.winner.test)}, " if beside.winner.test else ""
        yield f"          its accuracy: {test}validation {describe_interval(beside.winner.validation)}"
    gain, images = (answer.gain_test, "test") if answer.gain_test else (answer.gain_validation, "validation")
    if gain:
        yield f"gain      {describe_gain(gain, metric)} on {images} images, paired by seed and image"
    elif answer.baseline:
        yield f"gain      none: over {answer.seeds} seeds no trial did better than {baseline_name(results.spec)}"
    runs = answer.seeds * (len(answer.chosen_among) + len({answer.winner.trial, *answer.confirmed}))
    looks = "" if answer.winner.test is None else f"; the test images were read {_times(answer.looks)}"
    yield (
        f"          chosen among {len(answer.chosen_among)} over {answer.seeds} seeds, measured over {answer.seeds} others (95 % "
        f"intervals): {runs} trainings, {answer.epochs:,} epochs, {describe_seconds(answer.seconds)}{looks}"
    )


def unconfirmed(name: str) -> str:
    """Say what an answer that is not confirmed is worth, and how to confirm it."""
    return f"confirmed not yet: the best of many trials is also the luckiest; {shlex.join(['sweeper', 'confirm', name])}"


def replayed(file: BestFile, replay: Replay, *, final: bool, comparable: bool) -> Iterator[str]:
    """Say, line by line, what training a configuration again came to.

    Args:
        file: the configuration.
        replay: what came of it.
        final: whether the validation images were trained on too, so that they tell nothing.
        comparable: whether it was trained on the same data for as many epochs.
    """
    metric = OBJECTIVES[file.objective.name]
    yield f"trained   trial {file.study.trial} of {file.study.name}: {describe_configuration(configuration(file))}"
    if final:
        first = replay.results[0]
        yield (
            f"          {first.epoch} epochs on the training and the validation images; nothing is left to measure it on but the "
            "test images"
        )
        return
    if replay.over_seeds:
        found = describe_interval(replay.over_seeds, metric)
        yield f"seeds     {metric.label} {found} over {replay.over_seeds.seeds} seeds (95 % interval)"
        return
    if metric is not ACCURACY and file.objective.value is not None:
        yield _landed(metric, replay.value, file.objective.value if comparable else None, replay.images)
    recorded = file.metrics.validation_accuracy if comparable else None
    yield _landed(ACCURACY, replay.validation_accuracy, recorded, replay.images)


def _landed(metric: Objective, found: float, recorded: float | None, images: int) -> str:
    """Say what a single run reached, and how far that is from what was recorded, if it compares."""
    said = f"reached   {metric.label} {metric_value(metric, found)}"
    if recorded is None:
        return said
    if found == recorded:
        return f"{said}, exactly as recorded"
    apart = metric_amount(metric, found - recorded)
    if metric is ACCURACY:
        apart = f"{round(abs(found - recorded) * images)} of {images} images"
    return f"{said}, recorded {metric_value(metric, recorded)}: {apart} apart"


def describe_interval(interval: Interval, metric: Objective = ACCURACY) -> str:
    """Return a mean over seeds with its interval and standard deviation."""
    if not interval.is_known:
        return DIVERGED
    low, high, std = (_bare(metric, number) for number in (interval.low, interval.high, interval.std))
    return f"{metric_value(metric, interval.mean)} ({low} … {high}; seeds vary by {std})"


def describe_gain(gain: Interval, metric: Objective = ACCURACY) -> str:
    """Return a difference with its interval, whether it may be chance, and which way is better where that is not plain."""
    if not gain.is_known:
        return DIVERGED
    low, high = (metric_change(metric, end).removesuffix(" points") for end in (gain.low, gain.high))
    way = " (the lower, the better)" if metric.minimized else ""
    doubt = ", which may be chance" if gain.low <= 0 <= gain.high else ""
    return f"{metric_change(metric, gain.mean)} ({low} … {high}){way}{doubt}"


def _bare(metric: Objective, number: float) -> str:
    """Return a number in the metric's units, the unit left out."""
    return metric_value(metric, number).removesuffix(" %")


def describe_difference(difference: Difference, comparisons: int) -> str:
    """Return a difference in one sentence: which is better, by how much, and what chance may do.

    Of a metric that is not accuracy it says which way it differs: "a is better than b: its loss is lower by 0.05 ± 0.02".
    """
    gap, metric = difference.gap, difference.metric
    if not gap.is_known:
        return f"{difference.first} and {difference.second} do not compare: training diverged with a seed"
    unit = " points" if metric.is_share else ""
    spread = f"{metric_amount(metric, gap.mean).removesuffix(unit)} ± {metric_amount(metric, gap.half_width)}"
    correction = f", corrected for {comparisons} comparisons" if comparisons > 1 else ""
    chance = f"({difference.images} images, {gap.seeds} seeds; p = {difference.p:.2g}{correction})"
    if difference.p >= SIGNIFICANT:
        sign = "+" if gap.mean >= 0 else "−"
        named = "" if metric is ACCURACY else f" in {metric.metric}"
        return f"{difference.first} and {difference.second} are not shown to differ{named}: {sign}{spread} {chance}"
    verdict = f"{difference.first} is {'better' if difference.is_better else 'worse'} than {difference.second}"
    if metric is ACCURACY:
        return f"{verdict} by {spread} {chance}"
    return f"{verdict}: its {metric.metric} is {'higher' if gap.mean > 0 else 'lower'} by {spread} {chance}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
