"""The command line. The only place that configures logging and reads settings from the environment."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from importlib import metadata
from typing import Annotated

import typer

from sweeper.commands.answer import app as answer_app
from sweeper.commands.machine import app as machine_app
from sweeper.commands.options import PLAIN, err, out
from sweeper.commands.report import app as report_app
from sweeper.commands.requests import app as request_app
from sweeper.commands.run import INTERRUPTED
from sweeper.commands.run import app as run_app
from sweeper.commands.service import app as service_app
from sweeper.commands.storage import app as storage_app
from sweeper.commands.study import app as study_app
from sweeper.errors import SweeperError, UsageError
from sweeper.events import LOGGERS

USAGE = 2

app = typer.Typer(
    help="Find out how strongly an image classifier should be regularized, with what, and under which loss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (run_app, answer_app, request_app, service_app, study_app, report_app, machine_app):
    app.add_typer(commands)
app.add_typer(storage_app, name="storage")


class _Terminal(logging.Handler):
    """Shows records on standard error, above a live display if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        err.print(f"{datetime.fromtimestamp(record.created):%H:%M:%S}  {level}{record.getMessage()}", **PLAIN)


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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what happens, event by event.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and what was asked for.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(metadata.version("sweeper"), highlight=False)
        raise typer.Exit
    shown_here = _Terminal()
    shown_here.addFilter(lambda record: getattr(record, "event", "") != "failed")  # which is an error, and shown as such
    shown_here.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[shown_here])
    for ours in LOGGERS:
        logging.getLogger(ours).setLevel(logging.INFO)  # what files of events take down
    for chatty in ("alembic", "optuna", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _complain(error: SweeperError, code: int) -> None:
    err.print("[bold red]error:[/]", end=" ")
    err.print(str(error), **PLAIN)
    sys.exit(code)
