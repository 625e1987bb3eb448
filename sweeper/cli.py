"""The command line. The only place that configures logging and reads settings from the environment."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from storage.engine import DEFAULT_URL, shown
from studies.loader import ready_studies
from studies.spec import StudySpec
from sweeper.errors import SweeperError, UsageError
from sweeper.report_commands import report, status
from sweeper.storage_commands import PLAIN, Storage
from sweeper.storage_commands import app as storage_app

if TYPE_CHECKING:
    from sweeper.orchestrator import Orchestrator

USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Find out how strongly an image classifier should be regularized, with what, and under which loss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(storage_app, name="storage")
app.command(epilog="Example: sweeper report digits --format html,svg --open")(report)
app.command(epilog="Example: sweeper status digits --against l2")(status)
out, err = Console(), Console(stderr=True)

Study = Annotated[str, typer.Argument(metavar="STUDY", help="A ready study's name (see `sweeper studies`) or a TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main() -> None:
    """Run the command line; a user's mistake is one clear line and exit code 2, never a traceback."""
    try:
        app(standalone_mode=True)
    except UsageError as error:
        _complain(error, USAGE)
    except SweeperError as error:
        _complain(error, 1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.callback()
def _settings(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what happens.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(metadata.version("sweeper"), highlight=False)
        raise typer.Exit
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "optuna", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@app.command(epilog="Example: sweeper run digits --trials 200")
def run(
    study: Study,
    storage: Storage = DEFAULT_URL,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in the study, over all calls; instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the file's.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; every GPU, or else one a core, if left out.")
    ] = None,
    devices: Annotated[str | None, typer.Option(metavar="LIST", help="cpu, or cuda:0,cuda:1; found out if left out.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Trials a worker holds at once; measured if left out.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set instead of the file's, for instance folder:PATH.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="SWEEPER_DATA", metavar="DIR", help="Where data sets are downloaded to; a cache folder if left out."),
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where the files of studies go.")] = Path("runs"),
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long a database that is busy or restarting is tried again.")
    ] = 60.0,
    durable: Annotated[bool, typer.Option("--durable", help="Sync SQLite at every transaction, against a loss of power.")] = False,
    take_over: Annotated[bool, typer.Option("--take-over", help="Lead the study even if another process seems to.")] = False,
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it, until all its trials are finished.

    Ctrl-C ends it soon and puts running trials back into the queue; the same command goes on. Twice: at once.
    """
    from sweeper.api import change_study, load_study, run_study
    from sweeper.devices import parse_devices
    from sweeper.display import Display
    from sweeper.words import answer, describe_progress, next_commands

    spec = change_study(load_study(study), trials=trials, seed=seed)
    spec = change_study(spec, array=_array(spec, width, workers))
    if data is not None:
        spec = change_study(spec, data=spec.data.model_dump() | {"name": data})
    chosen = parse_devices(devices, workers) if devices else None
    messages = err if as_json else out
    with Display(messages, spec.name) as display, _stopped_by_signals() as on_start:
        result = run_study(
            spec, storage=storage, runs=runs, devices=chosen, take_over=take_over, data_root=data_root,
            patience=patience, durable=durable,
            on_start=on_start, on_progress=display.update,
        )  # fmt: skip
    summary = result.summary
    options = _options(
        {"--storage": (shown(storage), DEFAULT_URL), "--runs": (str(runs), "runs"), "--seed": (seed, None)}
        | {"--data": (data, None), "--data-root": (data_root, None)}
    )
    if summary and summary.interrupted:
        again = shlex.join(["sweeper", "run", study, *(["--trials", str(trials)] if trials else []), *options])
        messages.print(f"stopped: {describe_progress(summary.progress)}", **PLAIN)
        messages.print(f"running trials are back in the queue; go on with: {again}", **PLAIN)
        raise typer.Exit(INTERRUPTED)
    if as_json:
        sys.stdout.write(result.best.model_dump_json(indent=2) + "\n")
        return
    for line in answer(result.results, summary, result.folder):
        out.print(line, **PLAIN)
    for line in next_commands(study, result.results.spec, shown(storage), options):
        out.print(line, **PLAIN)


@app.command(epilog="Example: sweeper export digits -o best.json")
def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's name, or its TOML file.")],
    storage: Storage = DEFAULT_URL,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Standard output if left out.")] = None,
) -> None:
    """Write the best configuration as JSON (docs/best.schema.json), at any time."""
    from sweeper.api import load_study, open_results
    from sweeper.export import best_file, write_best

    results = open_results(load_study(study).name if study.endswith(".toml") else study, storage)
    if output is None:
        sys.stdout.write(best_file(results).model_dump_json(indent=2) + "\n")
    else:
        write_best(results, output)
        err.print(f"wrote {output}", **PLAIN)


@app.command(epilog="Example: sweeper stop digits")
def stop(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")],
    storage: Storage = DEFAULT_URL,
) -> None:
    """Ask the process that runs a study, wherever it is, to stop soon; `run` goes on later."""
    from sweeper.api import request_stop

    holder = request_stop(study, storage)
    out.print(f"asked {holder} to stop" if holder else f"nobody runs {study}", **PLAIN)


@app.command(epilog="Example: sweeper studies --json")
def studies(as_json: Json = False) -> None:
    """List the studies that come with sweeper, ready to run by name."""
    ready = ready_studies()
    if as_json:
        sys.stdout.write(json.dumps([spec.model_dump(mode="json") for spec in ready.values()], indent=2) + "\n")
        return
    table = Table("study", "data", "network", "trials", "what it asks", box=None)
    for spec in ready.values():
        table.add_row(spec.name, spec.data.name, spec.model.title, str(spec.trials), spec.description.strip())
    out.print(table)


@app.command(epilog="Example: sweeper validate my-study.toml")
def validate(study: Study, as_json: Json = False) -> None:
    """Check a study file and say what it would run; nothing is created."""
    from sweeper.api import load_study
    from sweeper.words import what_it_runs

    spec = load_study(study)
    if as_json:
        sys.stdout.write(spec.model_dump_json(indent=2) + "\n")
        return
    out.print(f"{study} is valid. It would run:", **PLAIN)
    for line in what_it_runs(spec):
        out.print(f"  {line}", **PLAIN)


def _array(spec: StudySpec, width: int | None, workers: int | None) -> dict[str, Any]:
    """Return the array settings with what the command line says instead; a width of its own drops the file's pack."""
    array = spec.array.model_dump()
    if width is not None:
        array |= {"width": width, "pack": None}
    if workers is not None:
        array["workers"] = workers
    return array


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[Orchestrator], None]]:
    """Let SIGINT and SIGTERM stop the orchestrator that is handed over: once soon, twice at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_start(orchestrator: Orchestrator) -> None:
        asked = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if asked:
                raise KeyboardInterrupt
            asked = True
            orchestrator.request_stop()

        for number in before:
            signal.signal(number, stop)

    try:
        yield on_start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _options(values: dict[str, tuple[object, object]]) -> list[str]:
    """Return the options that were given another value than their default, as words of a command."""
    return [word for name, (value, default) in values.items() if value != default for word in (name, str(value))]


def _complain(error: SweeperError, code: int) -> None:
    err.print("[bold red]error:[/]", end=" ")
    err.print(str(error), **PLAIN)
    sys.exit(code)
