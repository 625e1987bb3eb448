"""Two searched numbers at once: what a study is after as a contour, with the trials on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from studies.objectives import ACCURACY, Objective
from sweeper.notation import loss_name, metric_value, strength
from sweeper.report import style
from sweeper.report.axis import Axis, make_axis
from sweeper.report.picture import Picture
from sweeper.report.smoothing import local_median
from sweeper.report.snapshot import Snapshot

CELLS = 41
WIDTH = 0.08
"""The reach of a trial: the standard deviation of its weight, as a share of each axis."""
FEWEST = 12
MOST_PAIRS = 3
MOST_TRIALS = 600
"""So many trials are drawn on a surface, the latest ones; all of them count for it."""


@dataclass(frozen=True, slots=True)
class SurfaceData:
    """The median value `surface` `[CELLS, CELLS]` at `x_grid` and `y_grid` (NaN where few trials are), and the trials.

    `points` has `x`, `y`, `value`, `state`, `loss`, `x_strength`, `y_strength`, `epochs` by trial number. Colours run
    from `low`, the worst value that is told apart, to `high`, the best.
    """

    x: Axis
    y: Axis
    x_grid: NDArray[np.float64]
    y_grid: NDArray[np.float64]
    surface: NDArray[np.float64]
    points: pd.DataFrame
    low: float
    high: float
    best: int | None
    objective: Objective = ACCURACY


def pairs(study: Snapshot) -> list[tuple[str, str]]:
    """Return the pairs of searched numbers that are worth a surface: regularizers first."""
    names = sorted(study.searched, key=lambda name: name not in study.spec.search.REGULARIZERS)
    return list(combinations(names[:MOST_PAIRS], 2)) if len(study.finished) >= FEWEST else []


def surface_data(study: Snapshot, x_name: str, y_name: str) -> SurfaceData:
    """Compute the surface over two searched numbers."""
    x, y = (make_axis(name, study.spec.search) for name in (x_name, y_name))
    trials = study.finished
    trials = trials[trials[x_name].notna() & trials[y_name].notna()]
    points = trials[["value", "state", "loss", "epochs"]].assign(
        x=x.place(trials[x_name]),
        y=y.place(trials[y_name]),
        x_strength=trials[x_name].astype(float),
        y_strength=trials[y_name].astype(float),
    )
    x_grid, y_grid = x.grid(CELLS), y.grid(CELLS)
    across, up = np.meshgrid(x.unit(x_grid), y.unit(y_grid))
    places = x.unit(points["x"]), y.unit(points["y"])
    medians = local_median((across.ravel(), up.ravel()), places, points["value"].to_numpy(float), WIDTH)
    objective = study.objective
    ranks = objective.rank(points["value"].astype(float))
    high = float(ranks.max())
    low = max(float(ranks.min()), high - 2.5 * max(high - float(ranks.quantile(0.4)), style.close(objective, high)))
    best, rank = study.answer.best.trial if study.answer.best else None, objective.rank
    return SurfaceData(x, y, x_grid, y_grid, medians.reshape(across.shape), points, rank(low), rank(high), best, objective)


def surface_figure(data: SurfaceData) -> go.Figure:
    """Draw it: what is worse than the worst colour is not told apart, so that the better region is."""
    figure, objective = style.new_figure(height=400), data.objective
    low, high = sorted((data.low, data.high))
    colours = style.colour_scale(style.LOW_TO_HIGH[::-1] if objective.minimized else style.LOW_TO_HIGH)
    scale = {"colorscale": colours, "zmin": low, "zmax": high}
    figure.add_trace(
        go.Contour(
            x=data.x_grid, y=data.y_grid, z=np.clip(data.surface, low, high).round(6), **scale, hoverinfo="skip", opacity=0.9,
            contours={"start": low, "end": high, "size": (high - low) / 12 or style.close(objective, high), "showlines": False},
            connectgaps=False,
            colorbar={
                "title": {"text": objective.metric, "side": "right"}, "tickformat": style.ticks(objective, ".0%"),
                "thickness": 10, "outlinewidth": 0,
            },
        )
    )  # fmt: skip
    shown = data.points.tail(MOST_TRIALS)
    for state in ("pruned", "complete"):
        group = shown[shown["state"] == state]
        figure.add_trace(
            go.Scatter(
                x=group["x"], y=group["y"], mode="markers", name=style.STATE_NAMES[state],
                marker={
                    "symbol": style.STATES[state], "size": 8 if state == "complete" else 5,
                    "line": {"width": 1, "color": style.INK},
                    "color": style.INK if state == "pruned" else group["value"].round(6), "cmin": low, "cmax": high,
                    "colorscale": colours, "opacity": 1 if state == "complete" else 0.55,
                },
                customdata=[
                    [number, metric_value(objective, row["value"]), *(strength(row[name]) for name in ("x_strength", "y_strength")),
                     loss_name(row["loss"]), row["epochs"]]
                    for number, row in zip(group.index, group.to_dict("records"), strict=True)
                ],
                hovertemplate="<b>trial %{customdata[0]}: %{customdata[1]}</b>"
                f"<br>{style.axis_name(data.x.name)} %{{customdata[2]}}, {style.axis_name(data.y.name)} %{{customdata[3]}}"
                f"<br>%{{customdata[4]}}, {style.STATE_NAMES[state]}, %{{customdata[5]}} epochs<extra></extra>",
            )
        )  # fmt: skip
    winner = data.points[data.points.index == data.best]
    figure.add_trace(
        go.Scatter(
            x=winner["x"], y=winner["y"], mode="markers", name="best", hoverinfo="skip",
            marker={"symbol": style.BEST_SYMBOL, "size": 17, "color": style.BACKGROUND, "line": {"width": 1.5, "color": style.INK}},
        )
    )  # fmt: skip
    figure.update_xaxes(data.x.layout() | {"title": style.axis_name(data.x.name), "showgrid": False})
    figure.update_yaxes(data.y.layout() | {"title": style.axis_name(data.y.name), "showgrid": False})
    return figure


def surface_picture(study: Snapshot, x_name: str, y_name: str) -> Picture:
    """Return the figure with its words."""
    data = surface_data(study, x_name, y_name)
    x, y = style.axis_name(x_name), style.axis_name(y_name)
    if np.isnan(data.surface).all():
        reading = "Too few trials lie near each other to say."
    else:
        row, column = np.unravel_index(int(np.nanargmax(data.objective.rank(data.surface))), data.surface.shape)
        near = [_near(data.x, data.x_grid[column]), _near(data.y, data.y_grid[row])]
        reading = (
            f"The typical trial does best around {x} {near[0]} and {y} {near[1]}: "
            f"{metric_value(data.objective, float(data.surface[row, column]))}."
        )
    note = (
        f"Colour: the median {data.objective.metric} of the trials nearby (a Gaussian of {WIDTH:.0%} of each axis), blank where "
        f"fewer than three are. Darkest: {metric_value(data.objective, data.low, 0)} and worse."
    )
    return Picture(
        f"surface-{x_name}-{y_name}", f"{x} × {y}", f"Do {x} and {y} interact?", reading, note, surface_figure(data), half=True
    )


def _near(axis: Axis, place: float) -> str:
    if axis.none_at is not None and abs(axis.unit([place])[0] - axis.unit([axis.none_at])[0]) < 1 / CELLS:
        return "none"
    return strength(place)
