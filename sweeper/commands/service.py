"""The commands of the queue: `launch` puts studies into it, `serve` runs them, `queue` shows it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from storage.engine import DEFAULT_URL, parse_url, shown
from studies.spec import StudySpec
from sweeper.commands.options import (
    PLAIN,
    Address,
    DataName,
    DataRoot,
    Devices,
    ExecutorName,
    Json,
    OnEnd,
    Patience,
    Runs,
    Seed,
    Settings,
    Storage,
    Study,
    Timeout,
    Trials,
    WarmStart,
    Webhook,
    Where,
    Workers,
    chosen_study,
    out,
    parsed_devices,
    print_json,
)  # fmt: skip
from sweeper.commands.signals import stopped_by_signals
from sweeper.commands.told import told
from sweeper.errors import DatabaseError, StudyInUse, translated
from sweeper.notify import Hooks

app = typer.Typer()


@app.command(epilog="Example: sweeper launch digits --trials 200 --priority 5")
def launch(
    study: Study,
    storage: Storage = DEFAULT_URL,
    priority: Annotated[int, typer.Option(help="Studies of a higher priority are run first, of equals the oldest.")] = 0,
    settings: Settings = None,
    trials: Trials = None,
    timeout: Timeout = None,
    seed: Seed = None,
    data: DataName = None,
    warm_start: WarmStart = None,
    as_json: Json = False,
) -> None:
    """Put a study into the queue and return; `sweeper serve`, here or elsewhere, runs it."""
    from sweeper.queueing import launch_study

    spec = chosen_study(
        study, settings, trials=trials, timeout=timeout, seed=seed, data=data, warm_start=warm_start, storage=storage
    )
    queue = launch_study(spec, storage, priority)
    place = [queued.name for queued in queue].index(spec.name) + 1
    if as_json:
        print_json({"study": spec.name, "place": place, "queued": len(queue)})
        return
    out.print(f"{spec.name} is number {place} of {len(queue)} in the queue of {shown(storage)}", **PLAIN)


@app.command(epilog="Example: sweeper queue --json")
def queue(storage: Storage = DEFAULT_URL, as_json: Json = False) -> None:
    """Show the queue in the order in which it is run; `sweeper stop STUDY` takes a study out of it."""
    from sweeper.queueing import list_queue

    found = list_queue(storage)
    if as_json:
        print_json([asdict(queued) for queued in found])
        return
    table = Table("study", "priority", "since", "state", box=None)
    for queued in found:
        state = f"run by {queued.led_by}" if queued.led_by else f"given up: {queued.error}" if queued.error else "waits"
        since = datetime.fromtimestamp(queued.since, UTC)
        table.add_row(escape(queued.name), str(queued.priority), f"{since:%Y-%m-%d %H:%M} UTC", escape(state))
    out.print(table if found else "the queue is empty", markup=False)


@app.command(epilog="Example: sweeper serve --storage postgresql://me@host/sweeps --devices cuda:0,cuda:1")
def serve(
    storage: Storage = DEFAULT_URL,
    workers: Workers = None,
    devices: Devices = None,
    executor: ExecutorName = Where.local,
    address: Address = "auto",
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    patience: Patience = 60.0,
    on_end: OnEnd = None,
    webhook: Webhook = None,
    once: Annotated[bool, typer.Option("--once", help="End when nothing in the queue is left to run.")] = False,
) -> None:
    """Run the studies in the queue on this machine's devices, or a Ray cluster's, one after another, until told to stop.

    SIGTERM or Ctrl-C ends it within seconds; the study that it runs stays in the queue, for this server or another one.
    """
    from sweeper.api import StudyResult, run_study
    from sweeper.service import Server

    hooks = Hooks(on_end, webhook)
    with translated():
        parse_url(storage)  # what is no address at all never will be; a database that is away is waited for

    def run(spec: StudySpec, **options: Any) -> StudyResult:
        with told(spec, hooks, (StudyInUse, DatabaseError)) as tell:  # which is waited for
            result = run_study(spec, **options)
            tell(result)
        return result

    server = Server(
        storage, runs, run, workers=workers, devices=parsed_devices(devices, workers),
        cluster=address if executor is Where.ray else None, data_root=data_root, patience=patience,
    )  # fmt: skip
    out.print(f"serving the queue of {shown(storage)}; Ctrl-C ends it", **PLAIN)
    with stopped_by_signals() as on_start:
        on_start(server)
        server.serve(once=once)
