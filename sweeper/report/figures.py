"""Validation accuracy against regularization: the data of each figure in one function, its drawing in another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go

from studies.section import Number
from sweeper.notation import baseline_name, hyperparameter_name, loss_name, percent, strength
from sweeper.report import style
from sweeper.results import Results

NONE_GAP = 0.35
"""Decades left of a log axis's low end at which trials without any of it stand."""


@dataclass(frozen=True, slots=True)
class AccuracyData:
    """The points of one figure.

    `points` has a row per finished trial: `number`, `loss`, `state`, `strength`, `x` (where it is drawn), `accuracy`, `epochs`.
    `extent` is the left and right end of the axis, `ticks` maps places on it to labels (none where plotly's will do),
    `baselines` a loss to the accuracy without regularization; `best` is the number of the best trial, or None; `colours` maps
    a loss to its colour; `baseline_name` says what those trials are without.
    """

    name: str
    points: pd.DataFrame
    log: bool
    extent: tuple[float, float]
    ticks: dict[float, str]
    baselines: dict[str, float]
    best: int | None
    colours: dict[str, str]
    baseline_name: str


def accuracy_data(results: Results, name: str) -> AccuracyData:
    """Compute the figure of validation accuracy against one searched number."""
    spec_range: Number = results.spec.search.ranges[name]
    trials = results.trials
    finished = trials[trials["state"].isin(["complete", "pruned"]) & trials["last_value"].notna() & trials[name].notna()]
    none_at = _none_at(spec_range)
    applied = finished[name].astype(float)
    points = pd.DataFrame(
        {
            "number": finished.index,
            "loss": finished["loss"],
            "state": finished["state"],
            "strength": applied,
            "x": applied.where(applied > 0, none_at),
            "accuracy": finished["value"].where(finished["state"] == "complete", finished["last_value"]),
            "epochs": finished["epochs"],
        }
    ).reset_index(drop=True)
    complete = (trials["state"] == "complete").any()
    return AccuracyData(
        name=name,
        points=points,
        log=spec_range.log,
        extent=_extent(spec_range),
        ticks=_ticks(spec_range),
        baselines={b.configuration.loss: b.value for b in results.baselines},
        best=results.best.trial if complete else None,
        colours=dict(zip(results.spec.search.losses, cycle(style.COLOURS), strict=False)),
        baseline_name=baseline_name(results.spec),
    )


def accuracy_figure(data: AccuracyData) -> go.Figure:
    """Draw validation accuracy against one regularizer: colour by loss, shape by state, the baselines as lines."""
    figure = go.Figure()
    for loss, points in data.points.groupby("loss", sort=False):
        for state, group in points.groupby("state"):
            figure.add_trace(_trials(group, str(loss), str(state), data.colours[str(loss)]))
    for loss, accuracy in data.baselines.items():
        name = f"{data.baseline_name}, {loss_name(loss)}: {percent(accuracy)}"
        line = {"color": data.colours[loss], "dash": "dot", "width": 1.5}
        figure.add_trace(go.Scatter(x=data.extent, y=[accuracy, accuracy], mode="lines", name=name, line=line, hoverinfo="name"))
    winner = data.points[data.points["number"] == data.best]
    if not winner.empty:
        figure.add_trace(
            go.Scatter(
                x=winner["x"], y=winner["accuracy"], mode="markers", name="best", hoverinfo="skip",
                marker={"symbol": "star-open", "size": 20, "color": "#000000", "line": {"width": 2}},
            )
        )  # fmt: skip
    _lay_out(figure, data)
    return figure


def accuracy_figures(results: Results) -> dict[str, go.Figure]:
    """Return a figure for each number that was searched."""
    return {name: accuracy_figure(accuracy_data(results, name)) for name in results.spec.search.ranges}


def _trials(group: pd.DataFrame, loss: str, state: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=group["x"],
        y=group["accuracy"],
        mode="markers",
        name=f"{loss_name(loss)}, {state}",
        legendgroup=loss,
        marker={
            "color": colour,
            "symbol": style.STATE_SYMBOLS[state],
            "size": 9 if state == "complete" else 7,
            "opacity": 0.9 if state == "complete" else 0.6,
            "line": {"width": 1.5 if state == "pruned" else 0.5, "color": colour},
        },
        customdata=[
            [number, strength(applied), epochs]
            for number, applied, epochs in zip(group["number"], group["strength"], group["epochs"], strict=True)
        ],
        hovertemplate=f"trial %{{customdata[0]}}: %{{y:.2%}}<br>%{{customdata[1]}}, {loss_name(loss)}"
        f"<br>{state} after %{{customdata[2]}} epochs<extra></extra>",
    )


def axis_name(name: str) -> str:
    """Return a hyperparameter as axes and headings say it."""
    return style.AXIS_NAMES.get(name, hyperparameter_name(name))


def _lay_out(figure: go.Figure, data: AccuracyData) -> None:
    figure.update_layout(
        template="plotly_white",
        font={"family": style.FONT, "size": 13},
        height=450,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": -0.2, "font": {"size": 11}},
        modebar={"orientation": "v"},
    )
    figure.update_yaxes(title="validation accuracy", tickformat=".0%")
    figure.update_xaxes(title=axis_name(data.name))
    if data.log:
        low, high = (math.log10(end) for end in data.extent)
        figure.update_xaxes(type="log", tickvals=list(data.ticks), ticktext=list(data.ticks.values()), range=[low, high])
    else:
        figure.update_xaxes(range=list(data.extent))


def _none_at(searched: Number) -> float:
    """Return where trials without any of it stand: at 0, left of a log axis's low end, or right of the loosest limit."""
    if searched.none_above is not None:
        return searched.high * 10**NONE_GAP if searched.log else searched.high + 0.1 * (searched.high - searched.low)
    return float(searched.low / 10**NONE_GAP) if searched.log else 0.0


def _extent(searched: Number) -> tuple[float, float]:
    """Return the ends of the axis: the range searched, the place of 'none' included, and a little air."""
    places = [searched.low, searched.high, *([_none_at(searched)] if searched.sampled_zero is not None else [])]
    if searched.log:
        return min(places) / 10**0.2, max(places) * 10**0.1
    air = 0.03 * (searched.high - searched.low)
    return min(places) - air, max(places) + air


def _ticks(searched: Number) -> dict[float, str]:
    if not searched.log:
        return {}
    decades = range(math.ceil(math.log10(searched.low) - 1e-9), math.floor(math.log10(searched.high) + 1e-9) + 1)
    none = {_none_at(searched): "none"} if searched.sampled_zero is not None else {}
    return none | {10.0**d: f"10<sup>{d}</sup>" for d in decades}
