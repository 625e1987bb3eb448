"""The commands that run studies, here and now: `run`, `resume`, `confirm`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from storage.engine import DEFAULT_URL, shown
from studies.spec import StudySpec
from sweeper.commands.options import (
    PLAIN,
    Address,
    DataName,
    DataRoot,
    Devices,
    Durable,
    ExecutorName,
    Json,
    Known,
    OnEnd,
    Patience,
    Runs,
    Seed,
    Settings,
    Storage,
    Study,
    TakeOver,
    Timeout,
    Trials,
    WarmStart,
    Webhook,
    Where,
    Width,
    Workers,
    chosen_study,
    err,
    out,
    parsed_devices,
    stored_study,
)  # fmt: skip
from sweeper.commands.signals import stopped_by_signals
from sweeper.commands.told import told
from sweeper.events import logged_to
from sweeper.notify import Hooks

INTERRUPTED = 130

app = typer.Typer()


@app.command(epilog="Example: sweeper run digits --trials 200 --set training.epochs=20")
def run(
    context: typer.Context,
    study: Study,
    storage: Storage = DEFAULT_URL,
    settings: Settings = None,
    trials: Trials = None,
    timeout: Timeout = None,
    seed: Seed = None,
    workers: Workers = None,
    devices: Devices = None,
    executor: ExecutorName = Where.local,
    address: Address = "auto",
    width: Width = None,
    data: DataName = None,
    warm_start: WarmStart = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    patience: Patience = 60.0,
    durable: Durable = False,
    take_over: TakeOver = False,
    on_end: OnEnd = None,
    webhook: Webhook = None,
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it, until all its trials are finished; then confirm its answer over fresh seeds.

    Ctrl-C ends it soon and puts running trials back into the queue; the same command goes on. Twice: at once.
    """
    spec = chosen_study(
        study, settings, trials=trials, timeout=timeout, seed=seed, data=data, warm_start=warm_start, storage=storage
    )
    _work(
        _with_array(spec, width, workers),
        ["run", study],
        [word for setting in settings or () for word in ("--set", setting)]
        + _options({"--storage": (shown(storage), DEFAULT_URL), "--runs": (str(runs), "runs"), "--seed": (seed, None)})
        + _options({"--timeout": (timeout, None)})
        + _options({"--data": (data, None), "--data-root": (data_root, None), "--warm-start": (warm_start, None)})
        + _placement(executor, address, devices, workers, width),
        Hooks(on_end, webhook),
        quiet=context.find_root().params["quiet"], as_json=as_json, trials=trials, storage=storage, runs=runs,
        devices=parsed_devices(devices, workers), cluster=address if executor is Where.ray else None,
        take_over=take_over, data_root=data_root, patience=patience, durable=durable,
    )  # fmt: skip


@app.command(epilog="Example: sweeper resume digits --trials 240")
def resume(
    context: typer.Context,
    study: Known,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    timeout: Timeout = None,
    workers: Workers = None,
    devices: Devices = None,
    executor: ExecutorName = Where.local,
    address: Address = "auto",
    width: Width = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    patience: Patience = 60.0,
    durable: Durable = False,
    take_over: TakeOver = False,
    on_end: OnEnd = None,
    webhook: Webhook = None,
    as_json: Json = False,
) -> None:
    """Go on with a study as it is stored: no study file is needed."""
    _work(
        _with_array(stored_study(study, storage, trials=trials, timeout=timeout), width, workers),
        ["resume", study],
        _options({"--storage": (shown(storage), DEFAULT_URL), "--runs": (str(runs), "runs"), "--data-root": (data_root, None)})
        + _placement(executor, address, devices, workers, width),
        Hooks(on_end, webhook),
        quiet=context.find_root().params["quiet"], as_json=as_json, trials=trials, storage=storage, runs=runs,
        devices=parsed_devices(devices, workers), cluster=address if executor is Where.ray else None,
        take_over=take_over, data_root=data_root, patience=patience, durable=durable,
    )  # fmt: skip


@app.command(epilog="Example: sweeper confirm digits --seeds 10")
def confirm(
    context: typer.Context,
    study: Known,
    storage: Storage = DEFAULT_URL,
    top: Annotated[int | None, typer.Option(min=1, help="So many of the best trials; as the study says if left out.")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, help="Seeds that choose, and as many that report.")] = None,
    workers: Workers = None,
    devices: Devices = None,
    executor: ExecutorName = Where.local,
    address: Address = "auto",
    width: Width = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    patience: Patience = 60.0,
    durable: Durable = False,
    take_over: TakeOver = False,
    as_json: Json = False,
) -> None:
    """Confirm a study's answer, or confirm it again with other seeds: its best trials and its baseline are trained anew.

    The test images are read once more, for the winner and the baseline; how often a study did so is said with its answer.
    """
    from sweeper.api import change_study, open_results

    spec = open_results(study, storage).spec
    asked = {name: value for name, value in (("top", top), ("seeds", seeds)) if value is not None}
    spec = change_study(spec, confirm=spec.confirm.model_dump() | {"top": max(1, spec.confirm.top)} | asked)
    _work(
        _with_array(spec, width, workers),
        ["confirm", study, *_options({"--top": (top, None), "--seeds": (seeds, None)})],
        _options({"--storage": (shown(storage), DEFAULT_URL), "--runs": (str(runs), "runs"), "--data-root": (data_root, None)})
        + _placement(executor, address, devices, workers, width),
        Hooks(),
        quiet=context.find_root().params["quiet"], as_json=as_json, trials=None, storage=storage, runs=runs,
        devices=parsed_devices(devices, workers), cluster=address if executor is Where.ray else None,
        take_over=take_over, data_root=data_root, patience=patience, durable=durable, search=False, confirm=True,
    )  # fmt: skip


def _work(
    spec: StudySpec,
    command: list[str],
    options: list[str],
    hooks: Hooks,
    *,
    quiet: bool,
    trials: int | None,
    storage: str,
    runs: Path,
    as_json: bool,
    **where: Any,
) -> None:
    """Run a study with a display, signals, a file of events and hooks; say what came of it, and what to call next.

    Args:
        spec: the study.
        command: the words by which it was called.
        options: what the same call needs besides them.
        hooks: who is told of its end.
        quiet: show no progress, and no answer but JSON.
        trials: as asked for on the command line.
        storage: the database's URL.
        runs: folder of all studies' files.
        as_json: print the best configuration as JSON, and all else on standard error.
        where: what else `run_study` takes.
    """
    from sweeper.api import run_study
    from sweeper.commands.display import Display
    from sweeper.words import answer, describe_progress, next_commands

    messages = err if as_json else out
    with logged_to(runs / spec.name / "log.jsonl"), told(spec, hooks) as tell:
        with Display(Console(quiet=True) if quiet else messages, spec.name) as display, stopped_by_signals() as on_start:
            result = run_study(spec, storage=storage, runs=runs, on_start=on_start, on_progress=display.update, **where)
        tell(result)
    summary = result.summary
    if result.interrupted:
        again = shlex.join(["sweeper", *command, *(["--trials", str(trials)] if trials else []), *options])
        if summary and summary.interrupted:
            messages.print(f"stopped: {describe_progress(summary.progress)}", **PLAIN)
            messages.print(f"running trials are back in the queue; go on with: {again}", **PLAIN)
        else:
            messages.print(f"stopped while the answer was being confirmed; go on with: {again}", **PLAIN)
        raise typer.Exit(INTERRUPTED)
    if as_json:
        sys.stdout.write(result.best.model_dump_json(indent=2) + "\n")
        return
    if quiet:
        return
    for line in answer(result.results, summary, result.folder):
        out.print(line, **PLAIN)
    for line in next_commands(command, result.results.spec, shown(storage), options):
        out.print(line, **PLAIN)


def _with_array(spec: StudySpec, width: int | None, workers: int | None) -> StudySpec:
    """Return the study with what the command line says of its array; a width of its own drops the file's pack."""
    from sweeper.api import change_study

    array = spec.array.model_dump()
    if width is not None:
        array |= {"width": width, "pack": None}
    if workers is not None:
        array["workers"] = workers
    return change_study(spec, array=array)


def _placement(executor: Where, address: str, devices: str | None, workers: int | None, width: int | None) -> list[str]:
    """Return the options that say where a study is trained, which the same call needs again."""
    on_ray = executor is Where.ray
    return _options(
        {
            "--executor": (executor.value, Where.local.value),
            "--address": (address if on_ray else "auto", "auto"),
            "--devices": (devices, None),
            "--workers": (workers, None),
            "--width": (width, None),
        }
    )


def _options(values: dict[str, tuple[object, object]]) -> list[str]:
    """Return the options that were given another value than their default, as words of a command."""
    return [word for name, (value, default) in values.items() if value != default for word in (name, str(value))]
