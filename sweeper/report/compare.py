"""Several studies beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from studies.objectives import ACCURACY, Objective
from studies.section import RangeSpec
from sweeper.intervals import Interval
from sweeper.notation import baseline_name, metric_change, metric_value
from sweeper.report import style
from sweeper.report.accuracy import local_band, quantiles_of
from sweeper.report.axis import Axis, axis_of, make_axis
from sweeper.report.history import history_data
from sweeper.report.lead import configuration_text
from sweeper.report.picture import Picture, error_bars
from sweeper.report.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table, a row a study, and the figures that hold all of them."""

    columns: list[str]
    rows: list[list[str]]
    pictures: list[Picture]


def compare(studies: Sequence[Snapshot]) -> Comparison:
    """Compute the comparison; studies that are after different metrics have no figure in common."""
    columns = ["study", "best", "without", "gain", "trials", "epochs", "best configuration"]
    shared = [n for n in studies[0].searched if all(n in study.searched for study in studies)]
    made: list[Picture] = []
    if all(study.objective is studies[0].objective for study in studies):
        made = [gain_picture(studies), *(strength_picture(studies, name) for name in shared), progress_picture(studies)]
    return Comparison(columns, [_row(study) for study in studies], made)


def _row(study: Snapshot) -> list[str]:
    answer = study.answer
    objective = study.objective
    named = "" if objective is ACCURACY else f"{objective.metric} "
    best = named + metric_value(objective, answer.value(answer.best)) if answer.best else "–"
    baseline = metric_value(objective, answer.value(answer.baseline)) if answer.baseline else "–"
    configuration = configuration_text(study, answer.best) if answer.best else "no trial is complete yet"
    counted = [f"{len(study.trials):,}", f"{int(study.trials['epochs'].sum()):,}"]
    return [study.spec.name, best, baseline, metric_change(objective, answer.gain), *counted, configuration]


def gain_data(studies: Sequence[Snapshot]) -> pd.DataFrame:
    """Compute a row per study, by name: `best` and `baseline` value (NaN where there is none) and their intervals or None."""
    rows = {}
    for study in studies:
        row: dict[str, float | Interval | None] = {}
        for name, trial in (("best", study.answer.best), ("baseline", study.answer.baseline)):
            row[name] = study.answer.value(trial) if trial else float("nan")
            row[f"{name}_interval"] = study.answer.confirmed.get(trial.trial) if trial else None
        rows[study.spec.name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def gain_figure(data: pd.DataFrame, objective: Objective = ACCURACY) -> go.Figure:
    """Draw a line a study, from its baseline (diamond) to its best trial (star)."""
    figure = style.new_figure(height=130 + 46 * len(data))
    colours = style.series(list(data.index))
    for name, row in data.iterrows():
        line = {"color": colours[str(name)], "width": 3}
        ends = [row["baseline"], row["best"]]
        figure.add_trace(go.Scatter(x=ends, y=[name] * 2, mode="lines", line=line, showlegend=False, hoverinfo="skip"))
    for column, called, symbol, size in (("baseline", "baseline", "diamond", 12), ("best", "best", style.BEST_SYMBOL, 17)):
        intervals = list(data[f"{column}_interval"])
        figure.add_trace(
            go.Scatter(
                x=data[column], y=data.index, mode="markers", name=called, showlegend=False, error_x=error_bars(intervals),
                marker={
                    "symbol": symbol, "size": size, "color": [colours[str(n)] for n in data.index],
                    "line": {"width": 1.5, "color": style.INK},
                },
                hovertemplate=f"%{{y}}, {called}: %{{x:{style.hover(objective)}}}<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(style.legend_entry(called, style.INK, symbol))
    figure.update_xaxes(title=objective.label, tickformat=style.ticks(objective))
    figure.update_yaxes(autorange="reversed")
    return figure


def gain_picture(studies: Sequence[Snapshot]) -> Picture:
    """Return the figure with its words."""
    gains = {study.spec.name: study.answer.gain for study in studies if study.answer.gain is not None}
    objective = studies[0].objective
    most = max(gains, key=lambda name: objective.rank(gains[name]), default=None)
    reading = "No study has an answer yet."
    if most:
        reading = f"Regularization is worth most in {most}: {metric_change(objective, gains[most])}."
    names = " or ".join(sorted({baseline_name(study.spec) for study in studies}))
    note = f"Baseline: {names}. Values of different data or validation parts do not compare; gains do, roughly."
    drawn = gain_figure(gain_data(studies), objective)
    return Picture("gains", "gains", "What is regularization worth?", reading, note, drawn)


@dataclass(frozen=True, slots=True)
class StrengthData:
    """Quantiles of the value (`low`, `centre`, `high`) along an axis that holds all studies' ranges (`x`), by study."""

    axis: Axis
    bands: dict[str, pd.DataFrame]
    objective: Objective = ACCURACY


def strength_data(studies: Sequence[Snapshot], name: str) -> StrengthData:
    """Compute the values of several studies against one searched number."""
    ranges = [study.spec.search.ranges[name] for study in studies]
    widest = RangeSpec.model_construct(
        low=min(r.low for r in ranges), high=max(r.high for r in ranges), log=all(r.log for r in ranges),
        none_above=next((r.none_above for r in ranges if r.none_above is not None), None),
    )  # fmt: skip
    may_be_none = any(make_axis(name, study.spec.search).none_at is not None for study in studies)
    axis = axis_of(name, widest, regularizes=name in studies[0].spec.search.REGULARIZERS, may_be_none=may_be_none)
    bands = {}
    for study in studies:
        trials = study.finished[study.finished[name].notna()]
        placed = trials.assign(x=axis.place(trials[name]))
        bands[study.spec.name] = local_band(axis, placed, "value", quantiles_of(trials, study.objective))
    return StrengthData(axis, bands, studies[0].objective)


def strength_figure(data: StrengthData) -> go.Figure:
    """Draw a line a study: what its better trials nearby reach."""
    figure = style.new_figure(height=420)
    colours, called = style.series(list(data.bands)), style.axis_name(data.axis.name)
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    for rank, (name, band) in enumerate(data.bands.items()):
        line = {"color": colours[name], "width": 2.4, "dash": dashes[rank % len(dashes)]}
        figure.add_trace(
            go.Scatter(
                x=band["x"], y=band["high"], mode="lines", name=name, line=line,
                hovertemplate=f"%{{fullData.name}}, {called} %{{x:.2g}}: %{{y:{style.hover(data.objective)}}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(data.axis.layout() | {"title": style.axis_name(data.axis.name)})
    figure.update_yaxes(title=data.objective.label, tickformat=style.ticks(data.objective))
    return figure


def strength_picture(studies: Sequence[Snapshot], name: str) -> Picture:
    """Return the figure with its words."""
    data, called = strength_data(studies, name), style.axis_name(name)
    rank = data.objective.rank
    tops = {study: float(rank(band["high"]).max()) for study, band in data.bands.items() if not band.empty}
    reading = "Too few trials have finished to say."
    if tops:
        best = max(tops, key=lambda study: tops[study])
        reading = f"The better trials come furthest in {best}, to {metric_value(data.objective, rank(tops[best]), 1)}."
    note = "Lines: what the better trials of each study reach nearby, as in its own figure."
    return Picture(f"compared-{name}", called, f"How much {called}?", reading, note, strength_figure(data), half=True)


def progress_figure(histories: dict[str, pd.DataFrame], objective: Objective = ACCURACY) -> go.Figure:
    """Draw the best value so far against the epochs spent, a line a study."""
    figure = style.new_figure(height=380)
    colours = style.series(list(histories))
    for name, trials in histories.items():
        known = trials[trials["best"].notna()]
        figure.add_trace(
            go.Scatter(
                x=known["epochs_spent"], y=known["best"], mode="lines", name=name,
                line={"shape": "hv", "color": colours[name], "width": 2.4},
                hovertemplate=f"%{{fullData.name}}, %{{x}} epochs: %{{y:{style.hover(objective)}}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title="epochs trained so far, all trials", rangemode="tozero")
    figure.update_yaxes(title=f"best {objective.label} so far", tickformat=style.ticks(objective))
    return figure


def progress_picture(studies: Sequence[Snapshot]) -> Picture:
    """Return the figure with its words."""
    histories = {study.spec.name: history_data(study).trials for study in studies}
    reading = "Each line ends where its study did."
    return Picture(
        "progress",
        "progress",
        "Which study was quicker?",
        reading,
        "The best complete trial so far.",
        progress_figure(histories, studies[0].objective),
        half=True,
    )
