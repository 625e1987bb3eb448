"""The commands `sweeper report` and `sweeper status`: pictures of studies, in files and in the terminal."""

from __future__ import annotations

import json
import sys
import time
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from storage.engine import DEFAULT_URL
from sweeper.storage_commands import PLAIN, Storage

SECONDS_BETWEEN_PAGES = 10.0
DEFAULT_RUNS = Path("runs")

out, err = Console(), Console(stderr=True)

Studies = Annotated[list[str], typer.Argument(metavar="STUDY…", help="The names of one or more studies, or their TOML files.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name, or its TOML file.")]


def report(
    studies: Studies,
    storage: Storage = DEFAULT_URL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where the files go; runs/STUDY if left out.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", metavar="LIST", help="Of html, png, svg, csv, parquet.")] = "html",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Write the page again and again until the studies are finished.")] = False,
) -> None:
    """Write the report of a study, or of several beside each other, at any time: a page, figures, tables."""
    from sweeper.api import open_results
    from sweeper.report.files import write_files
    from sweeper.report.snapshot import Snapshot, take

    names = list(dict.fromkeys(_name(study) for study in studies))
    folder = output or DEFAULT_RUNS / (names[0] if len(names) == 1 else "compared")
    kinds = [kind.strip() for kind in formats.split(",") if kind.strip()]
    if (watch or open_page) and "html" not in kinds:
        kinds.insert(0, "html")

    def write(kinds: list[str], refresh: float | None = None) -> list[Snapshot]:
        found = [take(open_results(name, storage)) for name in names]
        written = write_files(found, folder, kinds, refresh)
        if not refresh:
            for path in written:
                out.print(str(path), **PLAIN)
        return found

    found = write(["html"], SECONDS_BETWEEN_PAGES) if watch else write(kinds)
    if open_page:
        webbrowser.open((folder / "report.html").resolve().as_uri())
    if not watch:
        return
    try:
        while not all(study.is_finished for study in found):
            err.print(", ".join(f"{study.spec.name}: {study.ended} of {study.spec.trials} trials" for study in found), **PLAIN)
            time.sleep(SECONDS_BETWEEN_PAGES)
            found = write(["html"], SECONDS_BETWEEN_PAGES)
    finally:
        write(kinds)  # a page that nobody writes any more need not be read again


def status(
    study: Study,
    storage: Storage = DEFAULT_URL,
    against: Annotated[
        str | None, typer.Option("--against", metavar="NAME", help="One searched number, for instance l2; all if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Say where a study stands, and draw accuracy against its regularizers here in the terminal."""
    from sweeper.api import open_results
    from sweeper.errors import UsageError
    from sweeper.report.accuracy import accuracy_data
    from sweeper.report.lead import lead
    from sweeper.report.snapshot import take
    from sweeper.report.terminal import accuracy_plot

    found = take(open_results(_name(study), storage))
    if against is not None and against not in found.searched:
        raise UsageError(f"--against: {against} is not searched; searched are {', '.join(found.searched) or 'no numbers'}")
    said, counts = lead(found), found.counts()
    if as_json:
        best = found.answer.best
        facts = {
            "study": found.spec.name,
            "trials": found.spec.trials,
            **counts,
            "epochs": int(found.trials["epochs"].sum()),
            "best": {"trial": best.trial, "value": best.value, "configuration": asdict(best.configuration)} if best else None,
            "gain": found.answer.gain,
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    out.print(f"[bold]{said.configuration}[/] {said.headline}".strip(), highlight=False)
    for line in said.cautions:
        out.print(line, highlight=False)
    out.print(", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "no trial yet", highlight=False)
    for name in [against] if against else found.searched:
        out.print()
        out.print(accuracy_plot(accuracy_data(found, name), out.width), soft_wrap=True, end="")


def _name(study: str) -> str:
    from sweeper.api import load_study

    return load_study(study).name if study.endswith(".toml") else study
