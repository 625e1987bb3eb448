"""Which choices mattered: importances of hyperparameters, and all of them side by side."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from studies.objectives import Objective
from sweeper.notation import loss_name, metric_value, percent, strength
from sweeper.report import style
from sweeper.report.axis import make_axis
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot

FEWEST = 12
CLASSES = 5
"""The values of parallel coordinates are drawn in so many classes of equal size."""
MOST_LINES = 300
"""So many trials are drawn, evenly from worst to best."""


@dataclass(frozen=True, slots=True)
class ImportanceData:
    """`importances` of each searched value for being among the best tenth, as shares of their sum, the least first."""

    importances: pd.Series[float]
    trials: int


def importance_data(study: Snapshot) -> ImportanceData:
    """Compute importances by PED-ANOVA (Watanabe, Bansal & Hutter 2023), as Optuna has it, over complete and pruned trials."""
    trials, search = study.finished, study.spec.search
    places = {name: make_axis(name, search) for name in study.searched if trials[name].notna().all()}
    values = pd.DataFrame({name: axis.unit(axis.place(trials[name])) for name, axis in places.items()}, index=trials.index)
    distributions: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in places}
    if len(search.losses) > 1:
        values["loss"] = trials["loss"]
        distributions["loss"] = CategoricalDistribution(search.losses)
    if len(trials) < FEWEST or not distributions:
        return ImportanceData(pd.Series(dtype=float), len(trials))
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # it loads scikit-learn: 0.7 s of every start

    rerun = _study_in_memory()
    for params, rank in zip(values.to_dict("records"), study.objective.rank(trials["value"]), strict=True):
        named = {str(name): value for name, value in params.items()}
        rerun.add_trial(optuna.create_trial(params=named, distributions=distributions, value=rank))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(rerun, evaluator=PedAnovaImportanceEvaluator())
    return ImportanceData(pd.Series(found, dtype=float).sort_values(), len(trials))


def _study_in_memory() -> optuna.Study:
    """Return an empty study, without Optuna's telling everybody about it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(before)


def importance_figure(data: ImportanceData) -> go.Figure:
    """Draw a bar for each searched value."""
    figure = style.new_figure(height=90 + 40 * max(2, len(data.importances)))
    names = [style.axis_name(str(name)) for name in data.importances.index]
    figure.add_trace(
        go.Bar(
            x=data.importances, y=names, orientation="h", marker={"color": style.SERIES[0]}, width=0.62,
            text=[percent(share, 0) for share in data.importances], textposition="auto", textangle=0, cliponaxis=False,
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(ticklabelstandoff=6)
    figure.update_xaxes(title="share of the importance", tickformat=".0%", rangemode="tozero", nticks=6)
    return figure


def importance_picture(study: Snapshot) -> Picture:
    """Return the figure with its words."""
    data = importance_data(study)
    if data.importances.empty:
        reading = "The finished trials do not tell."
    else:
        name = style.axis_name(str(data.importances.index[-1]))
        reading = (
            f"What tells the best tenth of the trials from the others most is the {name} ({percent(data.importances.iloc[-1], 0)})."
        )
    note = (
        f"PED-ANOVA over {data.trials} complete and pruned trials: how much each value's distribution among the best tenth differs "
        "from that among all."
    )
    return Picture("importances", "importances", "Which choice mattered?", reading, note, importance_figure(data), half=True)


@dataclass(frozen=True, slots=True)
class ParallelData:
    """`lines` has a row per trial: its place from 0 to 1 on each axis, its `value` and its `rank` class (0 the worst).

    `ticks` maps each axis to places and labels; `bounds` are the values between which the classes lie, the worst first.
    """

    lines: pd.DataFrame
    axes: list[str]
    ticks: dict[str, dict[float, str]]
    bounds: list[float]
    objective: Objective


def parallel_data(study: Snapshot) -> ParallelData:
    """Compute parallel coordinates of the finished trials, what the study is after as the last axis."""
    trials, objective = study.finished, study.objective
    lines, ticks = pd.DataFrame(index=trials.index), {}
    for name in study.searched:
        axis = make_axis(name, study.spec.search)
        lines[name] = axis.unit(axis.place(trials[name]))
        known = axis.ticks or {end: strength(end) for end in (axis.low, (axis.low + axis.high) / 2, axis.high)}
        ticks[name] = {float(axis.unit([place])[0]): label for place, label in known.items()}
    losses = study.spec.search.losses
    if len(losses) > 1:
        places = {loss: (rank + 0.5) / len(losses) for rank, loss in enumerate(losses)}
        wobble = np.random.default_rng(0).uniform(-0.3, 0.3, len(lines)) / len(losses)
        lines["loss"] = trials["loss"].map(places).astype(float) + wobble
        ticks["loss"] = {place: loss_name(loss) for loss, place in places.items()}
    bounds: list[float] = []
    if len(lines):
        ranks = objective.rank(trials["value"]).rank(method="first")
        lines["value"] = trials["value"]
        lines["top"] = (ranks - 0.5) / len(ranks)
        lines["rank"] = np.minimum((lines["top"] * CLASSES).astype(int), CLASSES - 1)
        quantiles = np.linspace(0, 1, CLASSES + 1)
        bounds = [float(trials["value"].quantile(1 - q if objective.minimized else q)) for q in quantiles]
        ticks["value"] = {q: metric_value(objective, value, 1) for q, value in zip(quantiles, bounds, strict=True)}
    shown = lines.sort_values("top", kind="stable") if len(lines) else lines
    axes = [axis for axis in ticks if axis != "value"]
    return ParallelData(shown.iloc[:: -(-len(lines) // MOST_LINES) or 1], axes, ticks, bounds, objective)


def parallel_figure(data: ParallelData) -> go.Figure:
    """Draw a line a trial through all axes, the better the brighter and the later."""
    figure = style.new_figure(height=440)
    axes, objective = [*data.axes, "value"], data.objective
    colours = (style.FAINT, style.FAINT, *style.LOW_TO_HIGH[2:4], style.SERIES[1])
    for rank in range(CLASSES if len(data.lines) else 0):
        group = data.lines[data.lines["rank"] == rank]
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for number, row in zip(group.index, group.to_dict("records"), strict=True):
            x += [*range(len(axes)), None]
            y += [*(round(row[name], 4) for name in data.axes), round(row["top"], 4), None]
            text += [f"trial {number}: {metric_value(objective, row['value'])}"] * len(axes) + [None]
        top = rank == CLASSES - 1
        figure.add_trace(
            go.Scatter(
                x=x, y=y, text=text, mode="lines", hovertemplate="%{text}<extra></extra>",
                name=f"{metric_value(objective, data.bounds[rank], 1)} to {metric_value(objective, data.bounds[rank + 1], 1)}",
                line={"color": colours[rank], "width": 1.6 if top else 0.9}, opacity=0.8 if top else 0.5,
            )
        )  # fmt: skip
    for place, name in enumerate(axes):
        figure.add_vline(place, line={"color": style.SOFT, "width": 1})
        title = objective.metric if name == "value" else style.axis_name(name)
        figure.add_annotation(x=place, y=1.03, yanchor="bottom", text=f"<b>{title}</b>", showarrow=False)
        for at, label in data.ticks.get(name, {}).items():
            figure.add_annotation(
                x=place, y=at, text=label, showarrow=False, xanchor="right" if place else "left", xshift=-5 if place else 5,
                font={"size": 11}, bgcolor=style.BACKGROUND, opacity=0.85, borderpad=1,
            )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-0.08, len(axes) - 0.85])
    figure.update_yaxes(visible=False, range=[-0.03, 1.1])
    return figure


def parallel_picture(study: Snapshot) -> Picture:
    """Return the figure with its words."""
    data = parallel_data(study)
    reading = "Each line is a trial. The best fifth is drawn on top: where its lines run together, a choice mattered."
    note = f"Colours by fifths of the trials; the last axis is the rank by {study.objective.metric}, labelled with its values."
    if len(data.lines) < (total := len(study.finished)):
        note += f" {len(data.lines)} of {total:,} trials are drawn, evenly from worst to best."
    return Picture("parallel", "side by side", "What do the best have in common?", reading, note, parallel_figure(data))
