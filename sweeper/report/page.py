"""The report of a study as one self-contained page: it works offline and by mail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.io
from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from sweeper.export import write_atomically
from sweeper.notation import baseline_name, hyperparameter_name, loss_name, percent, strength
from sweeper.report import style
from sweeper.report.figures import accuracy_figures, axis_name
from sweeper.results import Results


def write_report(results: Results, path: Path) -> None:
    """Write the page of a study, finished or not."""
    write_atomically(path, report_page(results))


def report_page(results: Results) -> str:
    """Return the page; everything users named is escaped."""
    environment = Environment(loader=PackageLoader("sweeper.report", "."), autoescape=True, trim_blocks=True)
    counts = results.counts()
    return environment.get_template("page.html").render(
        spec=results.spec,
        font=style.FONT,
        plotly_js=get_plotlyjs(),
        best=results.best if counts["complete"] else None,
        best_values=results.trials.loc[results.best.trial] if counts["complete"] else None,
        baseline=results.best_baseline,
        finished=counts["complete"] + counts["pruned"] + counts["fail"],
        counts=counts,
        figures={name: _div(figure) for name, figure in accuracy_figures(results).items()},
        rows=_rows(results),
        how=_how(results),
        spec_text=results.spec.model_dump_json(indent=2, exclude={"description"}),
        axis_name=axis_name,
        searched=list(results.spec.search.ranges),
        name_of=hyperparameter_name,
        without=baseline_name(results.spec).removeprefix("no "),
        percent=percent,
        strength=strength,
        loss_name=loss_name,
    )


def _div(figure: Any) -> str:
    config = {"displaylogo": False, "responsive": True}
    html: str = plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, config=config)
    return html


def _rows(results: Results) -> list[dict[str, Any]]:
    trials = results.trials[results.trials["state"].isin(["complete", "pruned", "fail"])].copy()
    trials["accuracy"] = trials["value"].where(trials["state"] == "complete", trials["last_value"])
    trials = trials.assign(order=trials["state"].map({"complete": 0, "pruned": 1, "fail": 2}))
    trials = trials.sort_values(["order", "accuracy"], ascending=[True, False])
    best = results.best.trial if (trials["state"] == "complete").any() else None
    return [
        {
            "number": number,
            "mark": "best" if number == best else "baseline" if row["baseline"] else "",
            "role": baseline_name(results.spec) if row["baseline"] else "enqueued" if row.get("attr_enqueued") is True else "",
            **{str(key): value for key, value in row.items()},
        }
        for number, row in trials.iterrows()
    ]


def _how(results: Results) -> str:
    parts = [f"{key} {value}" for key, value in sorted(results.versions.items())]
    summary = results.summary
    if summary:
        parts.append(
            f"{summary['epochs']:,} epochs in {summary['seconds']:.0f} s on {len(summary['devices'])} workers, "
            f"array {100 * summary['occupancy']:.0f} % full"
        )
    return " · ".join(parts)
