"""The report of one or several studies as one self-contained page: it works offline and by mail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from sweeper.export import write_atomically
from sweeper.notation import describe_seconds
from sweeper.report import style
from sweeper.report.compare import compare
from sweeper.report.figures import pictures
from sweeper.report.lead import lead
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot
from sweeper.report.table import trial_table

COLOURS = {"background": style.BACKGROUND, "ink": style.INK, "soft": style.SOFT, "grid": style.GRID, "faint": style.FAINT} | {
    "link": style.SERIES[0], "best": style.SERIES[5]
}  # fmt: skip


def write_report(study: Snapshot, path: Path) -> None:
    """Write the page of a study, finished or not."""
    write_atomically(path, report_page([study]))


def report_page(studies: Sequence[Snapshot], refresh: float | None = None) -> str:
    """Return the page of a study, or of several beside each other; everything users named is escaped.

    Args:
        studies: at least one.
        refresh: seconds after which an open page reads its file again; None: never.
    """
    environment = Environment(loader=PackageLoader("sweeper.report", "."), autoescape=True, trim_blocks=True)
    environment.globals["style"] = style
    alone = len(studies) == 1
    comparison = None if alone else compare(studies)
    return environment.get_template("page.html").render(
        title=studies[0].spec.name if alone else f"{len(studies)} studies compared",
        description=studies[0].spec.description if alone else ", ".join(study.spec.name for study in studies),
        refresh=refresh,
        studies=[_section(study, "" if alone else f"study{place}-") for place, study in enumerate(studies)],
        comparison=comparison and {
            "columns": comparison.columns, "rows": comparison.rows, "pictures": _figures(comparison.pictures, ""),
        },
        css=environment.get_template("page.css").render(),
        js=resources.files("sweeper.report").joinpath("page.js").read_text(encoding="utf-8"),
        plotly_js=get_plotlyjs(),
        light_css=_css(COLOURS),
        dark_css=_css({name: style.DARK.get(colour, colour) for name, colour in COLOURS.items()}),
        theme=_json({"darker": style.DARK, "config": style.CONFIG}),
    )  # fmt: skip


def _section(study: Snapshot, prefix: str) -> dict[str, Any]:
    table, said = trial_table(study), lead(study)
    counts = study.counts()
    names = {state: style.STATE_NAMES[state] for state in counts}
    return {
        "id": prefix,
        "name": study.spec.name,
        "lead": said, "headline": _bound(said.headline),
        "pictures": _figures(pictures(study), prefix),
        "counts": ", ".join(f"{count:,} {names[state]}" for state, count in counts.items() if count) or "None yet",
        "table": table,
        "table_json": _json(
            {
                "columns": [asdict(column) for column in table.columns],
                "rows": [asdict(row) for row in table.rows],
                "file": f"{study.spec.name}-trials.csv",
            }
        ),
        "how": list(_how(study)),
        "spec_text": study.spec.model_dump_json(indent=2, exclude={"description"}),
    }  # fmt: skip


def _figures(made: Iterable[Picture], prefix: str) -> list[dict[str, Any]]:
    return [
        {
            "id": prefix + picture.name,
            "label": picture.label,
            "question": picture.question,
            "reading": _bound(picture.reading),
            "note": _bound(picture.note),
            "half": picture.half,
            "height": picture.figure.layout.height,
            "json": _escaped(picture.figure.to_json()),
        }
        for picture in made
    ]


def _how(study: Snapshot) -> Iterable[tuple[str, str]]:
    """Yield what was run, on what, and from which seeds."""
    spec, summary = study.spec, study.summary
    yield "data", f"{spec.data.name}, split seed {spec.data.split_seed}"
    yield "network", spec.model.title
    training = spec.training
    yield "training", f"up to {training.epochs} epochs, {training.optimizer}, batches of {training.batch_size}"
    yield "search", f"{spec.sampler.name} sampler, {spec.pruner.name.replace('_', ' ')} pruner, seed {spec.seed}"
    for worker, stored in study.plans.items():
        plan = stored["plan"]
        yield f"worker {worker}", f"{plan['width']} trials at once; {plan['reason']}"
    if summary:
        yield "devices", ", ".join(summary["devices"])
        yield (
            "last call",
            f"{summary['epochs']:,} epochs in {describe_seconds(summary['seconds'])}, array {summary['occupancy']:.0%} full",
        )
    if study.versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in sorted(study.versions.items()))


def _bound(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|points|s\b|min\b|h\b)", "\u00a0", text)


def _css(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _json(value: Any) -> str:
    return _escaped(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=lambda number: number.item()))


def _escaped(text: str) -> str:
    """Return JSON as it can stand within a script element."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
