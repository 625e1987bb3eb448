"""What the commands share: their consoles, arguments and options."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from storage.engine import DEFAULT_URL
from studies.errors import StudyUnknown
from studies.spec import StudySpec
from sweeper.errors import DatabaseError, NoSuchResult, StudyFileError, UsageError


class Where(StrEnum):
    """Where workers run."""

    local = "local"
    ray = "ray"


out, err = Console(), Console(stderr=True)
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
"""How text that holds names and paths of the user's is printed."""

Study = Annotated[str, typer.Argument(metavar="STUDY", help="A ready study's name (see `sweeper studies`) or a TOML file.")]
Known = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name in the storage.")]
Storage = Annotated[
    str,
    typer.Option("--storage", envvar="SWEEPER_STORAGE", metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/DATABASE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where the files of studies go.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", envvar="SWEEPER_DATA", metavar="DIR", help="Where data sets are downloaded to; a cache folder if left out."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A value instead of the file's, as training.epochs=20; may be repeated."),
]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Trials in the study, over all calls; instead of the file's.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Worker processes; every GPU, or else one a core, if left out.")
]
Devices = Annotated[str | None, typer.Option("--devices", metavar="LIST", help="cpu, or cuda:0,cuda:1; found out if left out.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed, instead of the file's.")]
DataName = Annotated[
    str | None, typer.Option("--data", metavar="NAME", help="Data set instead of the file's, for instance folder:PATH.")
]
WarmStart = Annotated[
    str | None,
    typer.Option("--warm-start", metavar="STUDY", help="Begin with the best configurations of another study in the storage."),
]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="TIME", help="As 90s, 15min or 2h: how long its search may take, over all calls."),
]
ExecutorName = Annotated[Where, typer.Option("--executor", help="Where workers run: processes of this machine, or a Ray cluster.")]
Address = Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="Of the Ray cluster; auto: that of this machine.")]
Width = Annotated[int | None, typer.Option("--width", min=1, help="Trials a worker holds at once; measured if left out.")]
Patience = Annotated[
    float,
    typer.Option("--patience", min=0, metavar="SECONDS", help="How long a database that is busy or restarting is tried again."),
]
Durable = Annotated[bool, typer.Option("--durable", help="Sync SQLite at every transaction, against a loss of power.")]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Lead the study even if another process seems to.")]
OnEnd = Annotated[
    str | None,
    typer.Option("--on-end", metavar="COMMAND", help="Run this when the study ends or fails, with what came of it as JSON."),
]
Webhook = Annotated[
    str | None,
    typer.Option(
        "--webhook", envvar="SWEEPER_WEBHOOK", metavar="URL", help="Post there when the study ends or fails.", hidden=False
    ),
]


def chosen_study(
    study: str,
    settings: list[str] | None,
    *,
    trials: int | None = None,
    timeout: str | None = None,
    seed: int | None = None,
    data: str | None = None,
    warm_start: str | None = None,
    storage: str | None = None,
) -> StudySpec:
    """Return the study that a command line asks for, with what it says instead of the file.

    A name that is neither a ready study's nor a file's may be that of a study in `storage`, which only its budget changes.
    """
    from sweeper.api import change_study, load_study

    try:
        spec = load_study(study, settings or ())
    except StudyFileError as error:
        if not isinstance(error.__cause__, StudyUnknown) or storage is None:
            raise
        try:
            stored = stored_study(study, storage, trials=trials, timeout=timeout)
        except NoSuchResult:
            raise error from None
        except DatabaseError as gone:
            if storage == DEFAULT_URL:
                raise error from None
            raise StudyFileError(f"{error}; {gone}") from None
        if settings or seed is not None or data or warm_start:
            raise UsageError(f"{study} is in the storage already: only --trials and --timeout can be changed") from None
        return stored
    spec = change_study(_with_budget(spec, trials, timeout), seed=seed)
    if data is not None:
        spec = change_study(spec, data=spec.data.model_dump() | {"name": data})
    if warm_start is not None:
        known = spec.warm_start.model_dump() if spec.warm_start else {}
        spec = change_study(spec, warm_start=known | {"study": warm_start})
    return spec


def stored_study(study: str, storage: str, *, trials: int | None = None, timeout: str | None = None) -> StudySpec:
    """Return a study as it is stored, with what the command line says of its budget."""
    from sweeper.api import open_results

    return _with_budget(open_results(study, storage).spec, trials, timeout)


def _with_budget(spec: StudySpec, trials: int | None, timeout: str | None) -> StudySpec:
    from sweeper.api import change_study

    return change_study(spec, trials=trials, budget=spec.budget.model_dump() | ({"time": timeout} if timeout else {}))


def parsed_devices(devices: str | None, workers: int | None) -> list[str] | None:
    """Return the devices that a command line asks for, None if it leaves them to the software."""
    from sweeper.devices import parse_devices

    return parse_devices(devices, workers) if devices else None


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output; a number that is not finite is null."""
    value = json.loads(json.dumps(value), parse_constant=lambda name: None)
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
