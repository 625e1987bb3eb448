"""The commands that take an answer along: `export`, `train`, `compare`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from storage.engine import DEFAULT_URL
from sweeper.commands.options import (
    PLAIN,
    DataRoot,
    Devices,
    Json,
    Runs,
    Storage,
    Workers,
    err,
    out,
    parsed_devices,
    print_json,
)
from sweeper.commands.signals import stopped_by_signals
from sweeper.errors import NoSuchResult, UsageError

app = typer.Typer()


class Kind(StrEnum):
    """What of a study can be compared."""

    loss = "loss"
    penalty = "penalty"


class Format(StrEnum):
    """Notations of a best configuration."""

    json = "json"
    toml = "toml"
    yaml = "yaml"
    python = "python"


@app.command(epilog="Example: sweeper export digits -o best.json")
def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's name, or its TOML file.")],
    storage: Storage = DEFAULT_URL,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Standard output if left out.")] = None,
    notation: Annotated[Format, typer.Option("--format", help="Its notation; only JSON can be trained again.")] = Format.json,
    raw: Annotated[bool, typer.Option("--raw", help="The best trial of the search, even if another one was confirmed.")] = False,
    top: Annotated[int | None, typer.Option(min=1, metavar="N", help="A list of the N best trials of the search.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="A list of the Pareto set of two objectives.")] = False,
) -> None:
    """Write the best configuration (docs/best.schema.json), at any time: the confirmed winner, or the best so far."""
    from sweeper.api import load_study, open_results
    from sweeper.export import as_text, best_file, write_atomically

    if raw + pareto + (top is not None) > 1:
        raise UsageError("--raw, --top and --pareto exclude each other")
    results = open_results(load_study(study).name if study.endswith(".toml") else study, storage)
    if pareto and not results.spec.has_two_objectives:
        raise UsageError(f"--pareto: study {results.spec.name} has one objective")
    if top is not None:
        trials = [results.trial(int(number)) for number in results.ranked.index[:top]]
    else:
        trials = results.pareto if pareto else [results.best if raw else results.chosen]
    if not trials:
        raise NoSuchResult(f"study {results.spec.name!r} has no complete trial yet")
    several = pareto or top is not None
    text = as_text([best_file(results, trial) for trial in trials], notation.value, several=several)
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(output, text)
        err.print(f"wrote {output}", **PLAIN)


@app.command(epilog="Example: sweeper train best.json --final -o model.pt")
def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A configuration as `sweeper export` writes it.")],
    number: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a file that holds several (export --top): which, the best is 1.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="With N other seeds, for the mean and its 95 % interval.")
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="For good: train on the validation images too.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Save the network there; model.pt with --final.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set instead of the file's, for instance folder:PATH.")
    ] = None,
    data_root: DataRoot = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu or cuda:0; a GPU if there is one, if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Train an exported configuration again: as it was, with other seeds, or for good.

    The saved network is loaded with sweeper.load_model, or with torch.load: its `state_dict` is that of the ordinary network.
    """
    from sweeper.answer_words import replayed
    from sweeper.api import train_best
    from sweeper.best_file import read_best

    if seeds and (final or output):
        raise UsageError("--seeds trains many networks, of which none is saved; leave out --final and --output")
    best = read_best(file, number)
    target = output or (Path("model.pt") if final else None)
    replay = train_best(
        best, seeds=seeds, final=final, epochs=epochs, data=data, data_root=data_root, device=device, save=target,
        on_epoch=lambda epoch, last: err.print(f"epoch {epoch} of {last}", end="\r") if err.is_terminal else None,
    )  # fmt: skip
    if as_json:
        print_json(replay.as_json(best) | {"saved": str(target) if target else None})
        return
    comparable = epochs is None and data is None
    for line in replayed(best, replay, final=final, comparable=comparable):
        out.print(line, **PLAIN)
    if target:
        out.print(f"saved     {target}", **PLAIN)


@app.command(epilog="Example: sweeper compare digits --by loss")
def compare(
    context: typer.Context,
    studies: Annotated[list[str], typer.Argument(metavar="STUDY…", help="Names of studies in the storage.")],
    by: Annotated[Kind | None, typer.Option("--by", help="Compare the best trials of each loss, or penalty, of one study.")] = None,
    storage: Storage = DEFAULT_URL,
    seeds: Annotated[int | None, typer.Option(min=2, help="With --by: seeds, instead of the study's.")] = None,
    workers: Workers = None,
    devices: Devices = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say how much better one is than the other, over seeds: confirmed studies, or the losses or penalties of one study.

    With --by, the best trial of each kind is trained over fresh seeds, once. The test images of the study are left alone.
    """
    from sweeper.answer_words import describe_difference
    from sweeper.api import change_study, open_results, run_study
    from sweeper.commands.display import Display
    from sweeper.comparison import compare_kinds, compare_studies

    found = [open_results(name, storage) for name in studies]
    if by is None:
        if len(found) < 2:
            raise UsageError("compare: name two studies or more, or one with --by loss or --by penalty")
        differences = compare_studies(found)
    else:
        if len(found) > 1:
            raise UsageError("compare: --by is for one study")
        known = compare_kinds(found[0], by) if seeds is None else None
        if known is None:
            spec = found[0].spec
            spec = change_study(spec, confirm=spec.confirm.model_dump() | ({"seeds": seeds} if seeds else {}))
            quiet = context.find_root().params["quiet"] or as_json
            with Display(Console(quiet=True) if quiet else out, spec.name) as display, stopped_by_signals() as on_start:
                result = run_study(
                    spec, storage=storage, runs=runs, devices=parsed_devices(devices, workers), workers=workers,
                    data_root=data_root, on_start=on_start, on_progress=display.update,
                    search=False, confirm=True, purpose=by.value,
                )  # fmt: skip
            if result.interrupted:
                err.print("stopped; the same command goes on", **PLAIN)
                raise typer.Exit(130)
            known = compare_kinds(result.results, by)
        differences = known or []
    if as_json:
        print_json([asdict(one) | {"metric": one.metric.name} for one in differences])
        return
    for one in differences:
        out.print(describe_difference(one, len(differences)), **PLAIN)
