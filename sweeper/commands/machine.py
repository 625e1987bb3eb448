"""The commands about this machine: `doctor` looks at it, `dashboard` serves a storage on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from storage.engine import DEFAULT_URL
from sweeper.commands.options import PLAIN, DataRoot, Json, Runs, Storage, err, out, print_json

MARKS = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}

app = typer.Typer()


@app.command(epilog="Example: sweeper doctor --json")
def doctor(storage: Storage = DEFAULT_URL, data_root: DataRoot = None, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Look at versions, devices, memory, data, storage and folders: what works here, and what would not.

    Exit code 1 if anything fails.
    """
    from sweeper.api import default_data_root
    from sweeper.doctor import examine

    checks = []
    for check in examine(storage, data_root or default_data_root(), runs):
        checks.append(check)
        if not as_json:
            out.print(MARKS[check.state], end="  ")
            out.print(f"{check.name:<9} {check.text}", **PLAIN)
    if as_json:
        print_json([asdict(check) for check in checks])
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


@app.command(epilog="Example: sweeper dashboard --port 8081")
def dashboard(
    storage: Storage = DEFAULT_URL,
    host: Annotated[str, typer.Option(help="Address to serve on; any but loopback lets in whoever can reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8080,
    write: Annotated[bool, typer.Option("--write", help="Allow edits: notes, names, and deleting studies.")] = False,
) -> None:
    """Serve optuna-dashboard over a storage, read-only, also while studies run. Ctrl-C ends it."""
    from sweeper.dashboard import is_loopback, serving

    with serving(storage, host, port, write=write) as (address, serve_forever):
        out.print(f"{address} {'allows edits' if write else 'is read-only'}; Ctrl-C ends it", **PLAIN)
        if not is_loopback(host):
            harm = ", and delete them" if write else ""
            err.print(f"warning: whoever can reach this address can look at all studies{harm}", **PLAIN)
        serve_forever()
