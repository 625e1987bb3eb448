"""The commands that look at studies: ready ones, files, and those in a storage. None of them changes anything."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from storage.engine import DEFAULT_URL
from studies.loader import ready_studies
from studies.objectives import ACCURACY, OBJECTIVES
from sweeper.commands.options import PLAIN, DataRoot, Json, Known, Runs, Settings, Storage, Study, out, print_json
from sweeper.errors import NoSuchResult, UsageError

if TYPE_CHECKING:
    from sweeper.results import Results

FOLLOWING_SECONDS = 0.5

app = typer.Typer()


@app.command("list", epilog="Example: sweeper list --json")
def list_(storage: Storage = DEFAULT_URL, as_json: Json = False) -> None:
    """List the studies in a storage: how far each is, what it reached, and who runs it."""
    from sweeper.api import list_studies
    from sweeper.notation import metric_value

    rows = list_studies(storage)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("study", "state", "trials", "best", "run by", box=None)
    for row in rows:
        finished = sum(row.trials[state] for state in ("complete", "pruned", "fail"))
        objective = OBJECTIVES[row.objective]
        named = "" if objective is ACCURACY or row.best is None else f"{objective.metric} "
        best = named + metric_value(objective, row.best)
        table.add_row(escape(row.name), row.state, f"{finished} of {row.total or '?'}", best, row.led_by or "nobody")
    out.print(table)


@app.command(epilog="Example: sweeper status digits --json")
def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="The study's name; all that run, if left out.")] = None,
    storage: Storage = DEFAULT_URL,
    against: Annotated[
        str | None, typer.Option("--against", metavar="NAME", help="Draw against one searched number, as l2; all, if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say where a study stands, and draw accuracy against its regularizers here in the terminal."""
    from sweeper.api import list_studies, open_results
    from sweeper.overview import status_of
    from sweeper.words import status_lines

    names = [study] if study else [row.name for row in list_studies(storage) if row.state == "running"]
    results = [open_results(name, storage) for name in names]
    found = [status_of(one) for one in results]
    if as_json:
        print_json(found[0].as_json() if study else [one.as_json() for one in found])
        return
    if not found:
        out.print("no study runs; sweeper list shows those there are", **PLAIN)
    for one, its_results in zip(found, results, strict=True):
        for line in status_lines(one, its_results):
            out.print(line, **PLAIN)
    if study:
        _draw(results[0], against)


@app.command(epilog="Example: sweeper logs digits --follow")
def logs(
    study: Known,
    runs: Runs = Path("runs"),
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the last events; 0: all.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the events of a study that was run here: workers, trials, deaths, ends."""
    path = runs / study / "log.jsonl"
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise NoSuchResult(f"{path}: {error.strerror}; a study's events are where it was run, in the folder of --runs") from None
    with file:
        for line in file.readlines()[-lines:]:
            _print_event(line, as_json)
        while follow:
            if line := file.readline():
                _print_event(line, as_json)
            else:
                time.sleep(FOLLOWING_SECONDS)


@app.command(epilog="Example: sweeper studies --json")
def studies(as_json: Json = False) -> None:
    """List the studies that come with sweeper, ready to run by name."""
    ready = ready_studies()
    if as_json:
        print_json([spec.model_dump(mode="json") for spec in ready.values()])
        return
    table = Table("study", "data", "network", "trials", "what it asks", box=None)
    for spec in ready.values():
        table.add_row(spec.name, spec.data.name, spec.model.title, str(spec.trials), spec.description.strip())
    out.print(table)


@app.command(epilog="Example: sweeper validate my-study.toml --set training.epochs=20")
def validate(
    study: Study,
    settings: Settings = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Load the data too, and measure how many trials are best trained at once here.")
    ] = False,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Check a study file and say what it would run; nothing is created."""
    from sweeper.api import load_study, plan_study
    from sweeper.sampler import check_sampler
    from sweeper.words import what_it_plans, what_it_runs

    spec = load_study(study, settings or ())
    check_sampler(spec)
    ready = plan_study(spec, data_root=data_root) if plan else None
    if as_json:
        measured = {"plan": asdict(ready.plan) | {"strategy": ready.plan.strategy, "device": ready.device}} if ready else {}
        print_json(spec.model_dump(mode="json") | measured)
        return
    out.print(f"{study} is valid. It would run:", **PLAIN)
    for line in (*what_it_runs(spec), *(what_it_plans(ready.plan, ready.device) if ready else ())):
        out.print(f"  {line}", **PLAIN)


def _draw(results: Results, against: str | None) -> None:
    """Draw accuracy against one searched number, or all of them."""
    from sweeper.report.accuracy import accuracy_data
    from sweeper.report.snapshot import take
    from sweeper.report.terminal import accuracy_plot

    found = take(results)
    if against is not None and against not in found.searched:
        raise UsageError(f"--against: {against} is not searched; searched are {', '.join(found.searched) or 'no numbers'}")
    for name in [against] if against else found.searched:
        out.print()
        out.print(accuracy_plot(accuracy_data(found, name), out.width), soft_wrap=True, end="")


def _print_event(line: str, as_json: bool) -> None:
    """Print a line of a file of events, as it is or for people; one that is only partly written comes as it is."""
    if as_json:
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    for text in _described(line):
        out.print(text, **PLAIN)


def _described(line: str) -> Iterator[str]:
    try:
        record: dict[str, Any] = json.loads(line)
        at, level = f"{record['time'][:19].replace('T', ' ')} UTC", record["level"]
        yield f"{at}  {record['message']}" if level == "info" else f"{at}  {level}: {record['message']}"
    except (ValueError, KeyError, TypeError):
        yield line.rstrip("\n")
