"""Studies, progress and answers in plain words, for the terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from studies.data import IMAGE_SETS
from studies.spec import StudySpec
from sweeper.errors import NoSuchResult
from sweeper.notation import baseline_name, describe_configuration, duration, loss_name, percent
from sweeper.progress import Leader, Progress, Summary
from sweeper.pruning import SuccessiveHalving, make_pruner
from sweeper.results import Results
from sweeper.search import first_trials


def what_it_runs(spec: StudySpec) -> Iterator[str]:
    """Say, line by line, what a study would run."""
    data, training, search = spec.data, spec.training, spec.search
    roles = Counter(role for _, role in list(first_trials(spec))[: spec.trials])
    enqueued = f", then {roles['enqueued']} enqueued" if roles["enqueued"] else ""
    first = f"the first {roles['baseline']} of them without {baseline_name(spec).removeprefix('no ')}{enqueued}"
    yield f"{spec.trials} trials of up to {training.epochs} epochs, {first}"
    noise = f" ({data.label_noise:.0%} of their labels drawn at random)" if data.label_noise else ""
    validation = f"{data.validation_size:.0%}" if isinstance(data.validation_size, float) else f"{data.validation_size} images"
    training_part = "the rest" if data.train_size is None else f"{data.train_size} images"
    own_test = "none" if data.name in IMAGE_SETS and not IMAGE_SETS[data.name].test_images else "its own test part"
    later = own_test if data.test_size is None else f"{data.test_size} images"
    yield f"data: {data.name}, {training_part} for training{noise}, {validation} for validation, {later} for later"
    yield f"network: {spec.model.title}"
    schedule = "" if training.schedule.name == "constant" else f" ({training.schedule.name.replace('_', ' ')})"
    yield f"training: {training.optimizer}, learning rate {training.learning_rate:g}{schedule}, batches of {training.batch_size}"
    for name, searched in search.ranges.items():
        scale = "log" if searched.log else "linear"
        zero = f", below {searched.zero_below:g} none" if searched.zero_below else ""
        none = f", above {searched.none_above:g} none" if searched.none_above else ""
        yield f"{name}: {searched.low:g} … {searched.high:g}, {scale}{zero}{none}"
    for name in search.REGULARIZERS:
        if isinstance(value := getattr(search, name), float) and value:
            yield f"{name}: {value:g}, fixed"
    yield f"loss: {', '.join(search.losses)}"
    pruner = make_pruner(spec.pruner, training.epochs)
    if isinstance(pruner, SuccessiveHalving):
        kept = f"1 in {spec.pruner.reduction_factor} goes on at epochs {', '.join(map(str, pruner.rungs))}"
        yield f"pruning: {kept}" if pruner.rungs else "pruning: no rung below the last epoch"
    else:
        yield "pruning: none"


def answer(results: Results, summary: Summary | None, folder: Path) -> Iterator[str]:
    """Say, line by line, what a finished study found and where its files are.

    Args:
        results: the study as stored.
        summary: what this call did; None if there was nothing to do.
        folder: where the study's files are.
    """
    spec = results.spec
    if summary:
        progress = summary.progress
        yield (
            f"{progress.finished} trials ({describe_states(progress)}), {progress.epochs:,} epochs in "
            f"{duration(progress.seconds)}: {describe_speed(progress)}, "
            f"the array {summary.occupancy:.0%} full until the last trial began"
        )
        for worker, plan in summary.plans.items():
            yield f"worker {worker}: {plan.width} trials at once; {plan.reason}"
    else:
        yield f"study {spec.name} is complete: {len(results.trials)} of {spec.trials} trials; --trials N goes on"
    yield ""
    try:
        best = results.best
    except NoSuchResult as error:
        yield f"no answer: {error}"
        return
    yield f"best      {describe_leader(Leader(best.trial, best.value, best.configuration))}"
    for baseline in results.baselines:
        name = f"{baseline_name(spec)}, {loss_name(baseline.configuration.loss)}"
        yield f"baseline  {percent(baseline.value)} by trial {baseline.trial}: {name}"
    yield ""
    yield f"files     {folder / 'report.html'}  {folder / 'best.json'}"


def next_commands(study: str, spec: StudySpec, storage: str, options: list[str]) -> Iterator[str]:
    """Say, line by line, what to try after a study.

    Args:
        study: the study as it was named on the command line.
        spec: the study as it was run.
        storage: the database's URL as it may be shown.
        options: what a `run` of the same study needs besides its name.
    """
    at = options[:2] if options[:1] == ["--storage"] else []
    yield "next      open the report in a browser, or:"
    yield f"          {shlex.join(['optuna-dashboard', storage])}"
    yield f"          {shlex.join(['sweeper', 'run', study, '--trials', str(2 * spec.trials), *options])}"
    yield f"          {shlex.join(['sweeper', 'export', spec.name, '-o', 'best.json', *at])}"


def describe_progress(progress: Progress) -> str:
    """Return one line: how many trials, in which states, how fast, how long."""
    return (
        f"{progress.finished}/{progress.total} trials ({describe_states(progress)}), "
        f"{describe_speed(progress)}, {describe_time_left(progress)}"
    )


def describe_speed(progress: Progress) -> str:
    """Return how many epochs are trained in a second, or in a minute if they are few."""
    speed = progress.epochs_per_second
    return f"{speed:.0f} epochs/s" if speed >= 10 else f"{60 * speed:.0f} epochs/min"


def describe_states(progress: Progress) -> str:
    """Return the number of trials in each state."""
    return f"{progress.complete} complete, {progress.pruned} pruned, {progress.failed} failed, {progress.running} running"


def describe_leader(leader: Leader) -> str:
    """Return a trial with its accuracy and configuration."""
    return f"{percent(leader.value)} by trial {leader.trial}: {describe_configuration(leader.configuration)}"


def describe_time_left(progress: Progress) -> str:
    """Return an estimate of the time left."""
    return f"about {duration(progress.seconds_left)} left" if progress.seconds_left is not None else "time left unknown yet"
