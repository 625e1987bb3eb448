"""The commands that ask something of a study, wherever it runs: `stop`, `extend`."""

from __future__ import annotations

import shlex

import typer

from storage.engine import DEFAULT_URL, shown
from sweeper.commands.options import PLAIN, Json, Known, Storage, Timeout, Trials, out, print_json

app = typer.Typer()


@app.command(epilog="Example: sweeper stop digits")
def stop(study: Known, storage: Storage = DEFAULT_URL, as_json: Json = False) -> None:
    """Take a study out of the queue, and ask the process that runs it, wherever it is, to stop soon; `run` or `launch` goes on."""
    from sweeper.queueing import request_stop

    found = request_stop(study, storage)
    if as_json:
        print_json({"study": study, "asked": found.led_by, "queued": found.queued})
        return
    out.print(f"asked {found.led_by} to stop" if found.led_by else f"nobody runs {study}", **PLAIN)
    if found.queued:
        out.print("it is out of the queue", **PLAIN)


@app.command(epilog="Example: sweeper extend digits --trials 240")
def extend(
    study: Known, storage: Storage = DEFAULT_URL, trials: Trials = None, timeout: Timeout = None, as_json: Json = False
) -> None:
    """Give a study more trials or more time, also while it runs: whoever runs it, wherever it is, goes on with them.

    Of a study that nobody runs, the new numbers are stored: a server that has it queued, or `sweeper resume`, goes on with them.
    """
    from sweeper.queueing import extend_study
    from sweeper.words import describe_budget

    found = extend_study(study, storage, trials=trials, time=timeout)
    spec = found.spec
    if as_json:
        numbers = {"trials": spec.trials, "seconds": spec.budget.time}
        print_json({"study": study, "asked": found.led_by, "queued": found.queued} | numbers)
        return
    budget = ", ".join([f"{spec.trials} trials", *describe_budget(spec)])
    resume = shlex.join(["sweeper", "resume", study, *(["--storage", shown(storage)] if storage != DEFAULT_URL else [])])
    if found.led_by:
        out.print(f"asked {found.led_by} to go on with {study} up to: {budget}", **PLAIN)
        out.print(f"if its search has ended meanwhile, {resume} does", **PLAIN)
    else:
        later = "it is in the queue, for a server to go on with" if found.queued else f"nobody runs it; go on with: {resume}"
        out.print(f"{study} may go on up to: {budget}", **PLAIN)
        out.print(later, **PLAIN)
