"""A confirmed answer in plain words, for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sweeper.best_file import BestFile
from sweeper.comparison import Difference
from sweeper.intervals import Interval
from sweeper.notation import baseline_name, describe_configuration, describe_seconds, percent
from sweeper.replay import Replay, configuration
from sweeper.results import Results

SIGNIFICANT = 0.05


def confirmed(results: Results) -> Iterator[str]:
    """Say, line by line, what a confirmation found: the winner and the baseline over fresh seeds, and the cost; else nothing."""
    answer = results.answer
    if answer is None:
        return
    for word, found in (("confirmed", answer.winner), ("baseline", answer.baseline)):
        if found and (word == "confirmed" or found.trial != answer.winner.trial):
            test = f"test {describe_interval(found.test)}, " if found.test else ""
            configuration = describe_configuration(results.trial(found.trial).configuration)
            yield f"{word:<9} {test}validation {describe_interval(found.validation)}: trial {found.trial}, {configuration}"
    gain, images = (answer.gain_test, "test") if answer.gain_test else (answer.gain_validation, "validation")
    if gain:
        yield f"gain      {describe_gain(gain)} on {images} images, paired by seed and image"
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
    yield f"trained   trial {file.study.trial} of {file.study.name}: {describe_configuration(configuration(file))}"
    if final:
        first = replay.results[0]
        yield (
            f"          {first.epoch} epochs on the training and the validation images; nothing is left to measure it on but the "
            "test images"
        )
        return
    if replay.over_seeds:
        yield f"seeds     validation {describe_interval(replay.over_seeds)} over {replay.over_seeds.seeds} seeds (95 % interval)"
        return
    found, recorded = replay.validation_accuracy, file.metrics.validation_accuracy
    if not comparable:
        yield f"reached   validation {percent(found)}"
    elif found == recorded:
        yield f"reached   validation {percent(found)}, exactly as recorded"
    else:
        apart = round(abs(found - recorded) * replay.images)
        yield f"reached   validation {percent(found)}, recorded {percent(recorded)}: {apart} of {replay.images} images apart"


def describe_interval(interval: Interval) -> str:
    """Return an accuracy over seeds with its interval and standard deviation."""
    span = f"{100 * interval.low:.2f} … {100 * interval.high:.2f}"
    return f"{percent(interval.mean)} ({span}; seeds vary by {100 * interval.std:.2f})"


def describe_gain(gain: Interval) -> str:
    """Return a difference of accuracies in percentage points with its interval, and whether it may be chance."""
    doubt = ", which may be chance" if gain.low <= 0 <= gain.high else ""
    return f"{100 * gain.mean:+.2f} points ({100 * gain.low:+.2f} … {100 * gain.high:+.2f}){doubt}"


def describe_difference(difference: Difference, comparisons: int) -> str:
    """Return a difference in one sentence: which is better, by how many points, and what chance may do."""
    gap, points = difference.gap, 100 * difference.gap.mean
    spread = f"{abs(points):.2f} ± {100 * gap.half_width:.2f} points"
    correction = f", corrected for {comparisons} comparisons" if comparisons > 1 else ""
    chance = f"({difference.images} images, {gap.seeds} seeds; p = {difference.p:.2g}{correction})"
    if difference.p >= SIGNIFICANT:
        sign = "+" if points >= 0 else "−"
        return f"{difference.first} and {difference.second} are not shown to differ: {sign}{spread} {chance}"
    return f"{difference.first} is {'better' if points > 0 else 'worse'} than {difference.second} by {spread} {chance}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
