"""The command `sweeper report`: pictures of studies in files."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from storage.engine import DEFAULT_URL
from sweeper.commands.options import PLAIN, Storage, err, out

SECONDS_BETWEEN_PAGES = 10.0
DEFAULT_RUNS = Path("runs")

app = typer.Typer()

Studies = Annotated[list[str], typer.Argument(metavar="STUDY…", help="The names of one or more studies, or their TOML files.")]


@app.command(epilog="Example: sweeper report digits --format html,svg --open")
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


def _name(study: str) -> str:
    from sweeper.api import load_study

    return load_study(study).name if study.endswith(".toml") else study
