"""The report as files: one page, its figures as PNG and SVG, its tables as CSV and Parquet."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sweeper.errors import OutputError, UsageError
from sweeper.export import write_atomically
from sweeper.report.compare import compare
from sweeper.report.figures import pictures
from sweeper.report.page import report_page
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot

PAGE, IMAGES, TABLES = ("html",), ("png", "svg"), ("csv", "parquet")
FORMATS = (*PAGE, *IMAGES, *TABLES)
WIDE, HALF = 960, 620
"""Pixels across an image of a whole, and of a half, figure."""


def write_files(studies: Sequence[Snapshot], folder: Path, formats: Sequence[str], refresh: float | None = None) -> list[Path]:
    """Write the report of some studies into a folder, and return what was written.

    Raises:
        UsageError: a format is unknown, or needs what is not installed.
        OutputError: a file cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"--format: found {', '.join(unknown) or 'nothing'} (allowed: {', '.join(FORMATS)})")
    written = []
    for name in formats:
        if name in PAGE:
            write_atomically(folder / "report.html", report_page(studies, refresh))
            written.append(folder / "report.html")
        elif name in IMAGES:
            written += write_images(dict(_named(studies)), folder / "figures", name)
        else:
            written += write_tables(studies, folder, name)
    return written


def write_images(named: dict[str, Picture], folder: Path, kind: str) -> list[Path]:
    """Write figures as image files, in Chrome by way of kaleido, without any network.

    Raises:
        UsageError: kaleido or a Chrome is missing.
    """
    kaleido = _optional("kaleido", f"--format {kind}", "images")
    _make(folder)
    paths = {name: folder / f"{name}.{kind}" for name in named}
    wanted = [
        {
            "fig": picture.figure, "path": paths[name],
            "opts": {"format": kind, "width": HALF if picture.half else WIDE, "scale": 2 if kind == "png" else 1},
        }
        for name, picture in named.items()
    ]  # fmt: skip
    errors = importlib.import_module("choreographer.errors")
    try:
        kaleido.write_fig_from_object_sync(wanted, kopts={"mathjax": False})
    except (errors.ChromeNotFoundError, errors.BrowserFailedError, errors.BrowserDepsError) as error:
        raise UsageError(
            f"--format {kind} draws with Chrome or Chromium, and none was found that starts; install one (Debian: apt install "
            "chromium; anywhere: kaleido_get_chrome), or name it in BROWSER_PATH. The page needs none: --format html"
        ) from error
    return list(paths.values())


def write_tables(studies: Sequence[Snapshot], folder: Path, kind: str) -> list[Path]:
    """Write `trials` and `epochs` of all studies, the name of each in the column `study`.

    Raises:
        UsageError: Parquet needs pyarrow.
        OutputError: a file cannot be written.
    """
    if kind == "parquet":
        _optional("pyarrow", "--format parquet", "parquet")
    _make(folder)
    tables = {
        "trials": pd.concat([study.trials.reset_index(names="trial").assign(study=study.spec.name) for study in studies]),
        "epochs": pd.concat(
            [study.curves.reset_index(names=["trial", "epoch"]).assign(study=study.spec.name) for study in studies]
        ),
    }
    written = []
    for name, table in tables.items():
        first = table.set_index("study").reset_index()
        if kind == "csv":
            write_atomically(folder / f"{name}.csv", first.to_csv(index=False))
        else:
            try:
                first.to_parquet(folder / f"{name}.parquet", index=False)
            except OSError as error:
                raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
        written.append(folder / f"{name}.{kind}")
    return written


def _named(studies: Sequence[Snapshot]) -> Iterator[tuple[str, Picture]]:
    """Yield all figures by the names of their files."""
    alone = len(studies) == 1
    if not alone:
        yield from ((picture.name, picture) for picture in compare(studies).pictures)
    for study in studies:
        for picture in pictures(study):
            yield (picture.name if alone else f"{study.spec.name}-{picture.name}"), picture


def _optional(package: str, what: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{what} needs the package {package}: pip install {package}, or sweeper with its extra [{extra}]"
        ) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
