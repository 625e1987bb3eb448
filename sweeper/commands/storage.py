"""The commands `sweeper storage …`: look at a database, upgrade it, copy and delete studies, remove checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Engine

from storage import admin, queries
from storage.checkpoints import CheckpointFiles, checkpoint_folder, take_along
from storage.engine import DEFAULT_URL, open_database, open_to_read, same_database, shown
from storage.engine import translated as storage_errors
from sweeper.commands.options import PLAIN, Json, Known, Runs, Storage, err, out, print_json
from sweeper.errors import OutputError, UsageError, translated

app = typer.Typer(help="Look at a database, upgrade it, copy and delete studies.", no_args_is_help=True)


@app.command(epilog="Example: sweeper storage info --json")
def info(storage: Storage = DEFAULT_URL, as_json: Json = False) -> None:
    """Say which studies a database holds, how large they are, and who leads them."""
    with translated(), storage_errors(storage):
        found = admin.info(open_to_read(storage).engine)
    if as_json:
        print_json(asdict(found))
        return
    known = f"version {found.version}" if found.version is not None else "without sweeper's own tables"
    out.print(f"{shown(storage)}, {known}", **PLAIN)
    table = Table("study", "complete", "pruned", "failed", "running", "waiting", "epochs", "checkpoints", "led by", box=None)
    for study in found.studies:
        states = [str(study.trials[state]) for state in ("complete", "pruned", "fail", "running", "waiting")]
        size = f"{study.checkpoint_bytes / 1e6:.1f} MB" if study.checkpoint_bytes else "none"
        table.add_row(escape(study.name), *states, str(study.epochs), size, study.led_by or "nobody")
    out.print(table)


@app.command(epilog="Example: sweeper storage upgrade --storage sqlite:///old.db")
def upgrade(storage: Storage = DEFAULT_URL) -> None:
    """Create what tables are missing in a database, and bring old ones up to date. `run` does so by itself."""
    with translated(), storage_errors(storage):
        open_to_read(storage, old=True).engine.dispose()
        found = admin.info(open_database(storage).engine)
    out.print(f"{shown(storage)} is of version {found.version}", **PLAIN)


@app.command(epilog="Example: sweeper storage copy sqlite:///sweeper.db postgresql://me@host/sweeps digits")
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="URL of the database to copy from.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="URL of the database to copy to.")],
    study: Known,
    runs: Runs = Path("runs"),
) -> None:
    """Copy a study whole from one database into another, SQLite or Postgres, with the checkpoints of its unfinished trials."""
    with translated(), storage_errors(source):
        reading = open_to_read(source).engine
        needed = {checkpoint.file for checkpoint in queries.checkpoints(reading, admin.study_id(reading, study))}
        here = _checkpoints(runs, reading, study)
    if same_database(source, destination):
        raise UsageError(f"{shown(source)} and {shown(destination)} are the same database; name another one to copy to")
    carried: list[Path] = []

    def carry(uid: str) -> None:
        if here:
            carried.append(checkpoint_folder(runs, study, uid))
            if (found := take_along(here, carried[0], needed)) < len(needed):
                err.print(
                    f"{len(needed) - found} of {len(needed)} checkpoints are not in {here}; their trials will begin again", **PLAIN
                )

    progress = Progress(console=err, transient=True, disable=not err.is_terminal)
    with translated(), storage_errors(destination), progress:
        bar = progress.add_task(f"copying {study}", total=None)
        try:
            count = admin.copy_study(
                reading, open_database(destination).engine, study, carry,
                copied=lambda rows, of: progress.update(bar, completed=rows, total=of),
            )  # fmt: skip
        except OSError as error:
            for folder in carried:
                shutil.rmtree(folder, ignore_errors=True)
            raise OutputError(f"{error.filename}: checkpoints cannot be copied: {error.strerror}; nothing was copied") from error
    out.print(f"copied {study}, {count} trials, to {shown(destination)}", **PLAIN)


@app.command(epilog="Example: sweeper storage delete digits --yes")
def delete(
    study: Known, storage: Storage = DEFAULT_URL, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Delete a study and all its trials from a database. Files in its folder stay."""
    with translated(), storage_errors(storage):
        engine = open_to_read(storage).engine
        admin.study_id(engine, study)
        if not yes:
            typer.confirm(f"delete study {study} and all its trials from {shown(storage)}?", abort=True)
        admin.delete_study(open_database(storage).engine, study)
    out.print(f"deleted {study}", **PLAIN)


@app.command("prune-checkpoints", epilog="Example: sweeper storage prune-checkpoints digits")
def prune_checkpoints(
    study: Known,
    storage: Storage = DEFAULT_URL,
    runs: Runs = Path("runs"),
) -> None:
    """Remove checkpoint files that no unfinished trial of a study can go on from."""
    with translated(), storage_errors(storage):
        engine = open_to_read(storage).engine
        admin.refuse_led(engine, study)
        needed = {checkpoint.file for checkpoint in queries.checkpoints(engine, admin.study_id(engine, study))}
    folder = _checkpoints(runs, engine, study)
    removed = CheckpointFiles(folder).tidy(needed) if folder else 0
    out.print(f"removed {removed} files, kept {len(needed)}", **PLAIN)


def _checkpoints(runs: Path, engine: Engine, study: str) -> Path | None:
    uid = admin.uid_of(engine, admin.study_id(engine, study))
    return checkpoint_folder(runs, study, uid) if uid else None
