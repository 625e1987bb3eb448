"""Studies, progress and answers in plain words, for the terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from studies.data import IMAGE_SETS
from studies.objectives import ACCURACY, OBJECTIVES
from studies.section import ChoicesSpec, Number
from studies.spec import StudySpec
from sweeper.answer_words import confirmed, unconfirmed
from sweeper.budget import duration
from sweeper.errors import NoSuchResult
from sweeper.job import ArrayPlan
from sweeper.notation import baseline_name, describe_configuration, describe_seconds, loss_name, metric_value
from sweeper.overview import Status
from sweeper.progress import Leader, Progress, Summary
from sweeper.pruning import rungs
from sweeper.results import Results
from sweeper.search import first_trials

STATE_NAMES = {"complete": "complete", "pruned": "pruned", "fail": "failed", "running": "running", "waiting": "waiting"}


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
    precision = "" if training.precision == "float32" else f", in {training.precision}"
    batches = f"batches of {training.batch_size}{precision}"
    yield f"training: {training.optimizer}, learning rate {training.learning_rate:g}{schedule}, {batches}"
    conditional = search.conditional
    for name, searched in search.ranges.items():
        yield f"{name}: {_describe_number(searched)}{', where a trial has it' if name in conditional else ''}"
    if search.penalty is not None:
        yield f"penalty: {', '.join(search.penalty)}"
    for name in search.REGULARIZERS:
        if isinstance(value := getattr(search, name), float) and value:
            yield f"{name}: {value:g}, fixed"
    yield f"loss: {', '.join(search.losses)}"
    yield f"sampler: {spec.sampler.name.replace('_', ' ')}"
    yield f"pruning: {_describe_pruning(spec)}"
    if data.folds:
        repeats = f", {data.fold_repeats} times" if data.fold_repeats > 1 else ""
        order = ", one after another" if data.sequential else ""
        yield f"cross-validation: {data.folds} folds{repeats}, so that a trial is {data.runs} runs{order}, and its value their mean"
    if spec.confirm.top:
        yield _describe_confirmation(spec)
    yield from (f"budget: {line}" for line in describe_budget(spec))
    if spec.objectives != [ACCURACY.name]:
        named = (OBJECTIVES[name] for name in spec.objectives)
        after = [f"{each.label}, the {'lower' if each.minimized else 'higher'} the better" for each in named]
        yield f"objective{'s' * spec.has_two_objectives}: {'; and the '.join(after)}"


def _describe_number(searched: Number) -> str:
    if isinstance(searched, ChoicesSpec):
        return f"one of {', '.join(f'{value:g}' for value in searched.root)}"
    scale = "log" if searched.log else f"in steps of {searched.step:g}" if searched.step else "linear"
    zero = f", below {searched.zero_below:g} none" if searched.zero_below else ""
    none = f", above {searched.none_above:g} none" if searched.none_above else ""
    return f"{searched.low:g} … {searched.high:g}, {scale}{zero}{none}"


def describe_budget(spec: StudySpec) -> Iterator[str]:
    """Say, limit by limit, when a study ends before all its trials are finished."""
    budget = spec.budget
    if budget.time is not None:
        yield f"{duration(budget.time)}"
    target = budget.accuracy if budget.target is None else budget.target
    if target is not None:
        yield f"until {spec.objective.label} reaches {metric_value(spec.objective, target)}"
    if budget.failures is not None:
        yield f"at most {budget.failures} failed trials"
    if budget.no_improvement is not None:
        yield f"until {budget.no_improvement} trials in a row bring nothing better"


def _describe_confirmation(spec: StudySpec) -> str:
    top, seeds = spec.confirm.top, spec.confirm.seeds
    return (
        f"confirmation: the best {top} and the best baseline over {seeds} seeds, then the winner and the baseline over {seeds} "
        f"others: {(top + 3) * seeds} trainings of up to {spec.training.epochs} epochs"
    )


def _describe_pruning(spec: StudySpec) -> str:
    pruner, epochs = spec.pruner, spec.training.epochs
    patient = f", but not before {pruner.patience} epochs without a better value" if pruner.patience is not None else ""
    match pruner.name:
        case "none":
            return f"after {pruner.patience} epochs without a better value" if patient else "none"
        case "successive_halving":
            at = rungs(pruner.min_epochs, pruner.reduction_factor, epochs)
            kept = f"1 in {pruner.reduction_factor} goes on at epochs {', '.join(map(str, at))}"
            return kept + patient if at else "no rung below the last epoch"
        case "hyperband":
            at = rungs(pruner.min_epochs, pruner.reduction_factor, epochs)
            return f"hyperband, 1 in {pruner.reduction_factor} goes on, from epoch {' or '.join(map(str, at))} on{patient}"
        case "wilcoxon":
            return f"after each fold, what is worse than the best trial there (signed-rank test, p < {pruner.p_threshold:g})"
        case _:
            best = "the better half" if pruner.name == "median" else f"the best {pruner.percentile:g} %"
            return f"from epoch {pruner.min_epochs} on, what is not as good as {best} of the complete trials were{patient}"


def what_it_plans(plan: ArrayPlan, device: str) -> Iterator[str]:
    """Say, line by line, how a worker would train it, what it measured, and how to ask for the same without measuring."""
    yield f"array: {describe_plan(plan)} ({device})"
    if plan.measured:
        yield f"measured, a step of one trial in packs of {describe_measurements(plan)}"
    fixed = f"width = {plan.width}" + (f", pack = {plan.pack}" if plan.pack != plan.width else "")
    yield f"the same again without measuring: [array] {fixed}"


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
            f"{describe_seconds(progress.seconds)}: {describe_speed(progress)}, "
            f"the array {summary.occupancy:.0%} full until the last trial began"
        )
        if summary.ended:
            yield f"ended: {summary.ended}"
        for worker, plan in summary.plans.items():
            yield f"worker {worker}: {describe_plan(plan)}"
    else:
        yield f"study {spec.name} is complete: {len(results.trials)} of {spec.trials} trials; --trials N goes on"
    yield ""
    yield from findings(results)
    if results.answer is None and results.counts()["complete"]:
        yield unconfirmed(spec.name)
    yield ""
    if results.counts()["complete"]:
        yield f"files     {folder / 'report.html'}  {folder / 'best.json'}"


def findings(results: Results) -> Iterator[str]:
    """Say, line by line, what a study found so far: the best, the baselines, the Pareto set of two objectives."""
    spec = results.spec
    try:
        best = results.best
    except NoSuchResult as error:
        yield f"no answer: {error}"
        return
    objective, second = spec.objective, spec.second_objective
    yield f"best      {describe_leader(Leader(best.trial, best.value, best.configuration, objective))}"
    for baseline in results.baselines:
        name = f"{baseline_name(spec)}, {loss_name(baseline.configuration.loss)}"
        yield f"baseline  {metric_value(objective, baseline.value)} by trial {baseline.trial}: {name}"
    for one in results.pareto:
        assert second is not None
        other = metric_value(second, results.second_value(one))
        yield f"pareto    {second.label} {other}, {describe_leader(Leader(one.trial, one.value, one.configuration, objective))}"
    yield from confirmed(results)


def status_lines(status: Status, results: Results) -> Iterator[str]:
    """Say, line by line, where a study stands, and what it found so far."""
    study, states = status.study, status.study.trials
    finished = states["complete"] + states["pruned"] + states["fail"]
    more = f"; go on with: sweeper resume {study.name}" if study.state == "unfinished" else ""
    why = f" by {study.led_by}" if study.led_by else f", {study.ended}" if study.ended else more
    yield f"{study.name}: {study.state}{why}"
    said = ", ".join(f"{count} {STATE_NAMES[state]}" for state, count in states.items() if count)
    yield f"trials    {finished} of {study.total}{': ' if said else ''}{said}; {status.epochs:,} epochs"
    yield from findings(results)
    for one in status.running:
        value = metric_value(results.spec.objective, one.value)
        reached = "no epoch yet" if one.value is None else f"epoch {one.epoch}, {value}"
        yield f"{one.state:<9} trial {one.trial}: {reached}: {describe_configuration(one.configuration)}"


def next_commands(command: list[str], spec: StudySpec, storage: str, options: list[str]) -> Iterator[str]:
    """Say, line by line, what to try after a study.

    Args:
        command: the words by which the study was called, its name or file among them.
        spec: the study as it was run.
        storage: the database's URL as it may be shown.
        options: what the same call needs besides them.
    """
    at = ["--storage", storage] if "--storage" in options else []
    command = ["resume", spec.name] if command[0] == "confirm" else command  # which has no trials to add
    yield "next      open the report in a browser, or:"
    yield f"          {shlex.join(['sweeper', 'dashboard', *at])}"
    yield f"          {shlex.join(['sweeper', *command, '--trials', str(2 * spec.trials), *options])}"
    yield f"          {shlex.join(['sweeper', 'export', spec.name, '-o', 'best.json', *at])}"


def describe_plan(plan: ArrayPlan) -> str:
    """Return one line: how many trials are trained at once, in what packs, and why."""
    packs = f" in packs of {plan.pack}" if 1 < plan.pack < plan.width else " as one network" if plan.pack > 1 else ""
    precision = "" if plan.precision == "float32" else f" in {plan.precision}"
    lanes = f", {len(plan.lanes)} lanes" if plan.lanes else ""
    return f"{plan.width} trial{'s' * (plan.width > 1)} at once{packs}{precision}{lanes}; {plan.reason}"


def describe_measurements(plan: ArrayPlan) -> str:
    """Return what was measured: milliseconds that a training step of one trial takes in packs of each width."""
    return ", ".join(f"{pack}: {1e3 * seconds:.3g} ms" for pack, seconds in plan.measured.items())


def describe_progress(progress: Progress) -> str:
    """Return one line: how many trials, in which states, how fast, how long."""
    return (
        f"{progress.finished}/{progress.total} {progress.what} ({describe_states(progress)}), "
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
    """Return a trial with its value, named unless it is the accuracy, and its configuration."""
    objective = leader.objective
    named = "" if objective is ACCURACY else f"{objective.label} "
    return f"{named}{metric_value(objective, leader.value)} by trial {leader.trial}: {describe_configuration(leader.configuration)}"


def describe_time_left(progress: Progress) -> str:
    """Return an estimate of the time left."""
    return f"about {describe_seconds(progress.seconds_left)} left" if progress.seconds_left is not None else "time left unknown yet"
