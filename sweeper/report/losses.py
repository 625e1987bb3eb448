"""Losses compared: the best-tuned trial of each, beside its baseline and all its other trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from studies.objectives import ACCURACY, Objective
from sweeper.intervals import Interval
from sweeper.notation import baseline_name, loss_name, metric_amount, metric_value
from sweeper.report import style
from sweeper.report.picture import Picture, error_bars
from sweeper.report.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class LossData:
    """What is drawn of each loss.

    `losses` has a row per loss, the worst first: `best` and `baseline` value (NaN where there is none), the number of its
    `best_trial`, and `of`, how many of its trials are complete. `points` has the `value` and `loss` of complete trials.
    `confirmed` maps a loss to the interval of its best-tuned trial over seeds; it is empty unless all losses have one.
    """

    losses: pd.DataFrame
    points: pd.DataFrame
    confirmed: dict[str, Interval]
    colours: dict[str, str]
    baseline_name: str
    objective: Objective = ACCURACY


def loss_data(study: Snapshot) -> LossData:
    """Compute the comparison of losses."""
    trials = study.trials[study.trials["loss"].notna()]
    complete = trials[trials["state"] == "complete"]
    rows, confirmed, rank = {}, {}, study.objective.rank
    for loss in study.spec.search.losses:
        mine = complete[complete["loss"] == loss]
        if over_seeds := [number for number in mine.index if number in study.answer.confirmed]:
            confirmed[loss] = max(over_seeds, key=lambda number: rank(study.answer.confirmed[number].mean))
        ranks, baselines = rank(mine["value"]), rank(mine[mine["role"] == "baseline"]["value"])
        best = ranks.idxmax() if len(mine) else None
        rows[loss] = {
            "best": rank(ranks.max()),
            "best_trial": best,
            "baseline": rank(baselines.max()),
            "of": f"{len(mine)} of {(trials['loss'] == loss).sum()} complete",
        }
    if set(confirmed) != {loss for loss, row in rows.items() if row["best_trial"] is not None}:
        confirmed = {}  # a mean over seeds beside the luckiest of many single ones would be no comparison
    intervals = {loss: study.answer.confirmed[trial] for loss, trial in confirmed.items()}
    for loss, trial in confirmed.items():
        rows[loss] |= {"best_trial": trial, "best": intervals[loss].mean}
    losses = pd.DataFrame.from_dict(rows, orient="index")
    losses = losses.sort_values("best", ascending=not study.objective.minimized, na_position="first", kind="stable")
    colours = style.series(study.spec.search.losses)
    return LossData(losses, complete[["value", "loss"]], intervals, colours, baseline_name(study.spec), study.objective)


def loss_figure(data: LossData) -> go.Figure:
    """Draw a line a loss: from its baseline (diamond) to its best trial (star), the other complete trials beside it."""
    figure = style.new_figure(height=150 + 52 * len(data.losses))
    places = {loss: place for place, loss in enumerate(data.losses.index)}
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, len(data.points))
    figure.add_trace(
        go.Scatter(
            x=data.points["value"], y=data.points["loss"].map(places).astype(float) + spread, mode="markers", showlegend=False,
            marker={"size": 6, "color": data.points["loss"].map(data.colours), "opacity": 0.45},
            customdata=[[number, metric_value(data.objective, value)] for number, value in data.points["value"].items()],
            hovertemplate="trial %{customdata[0]}: %{customdata[1]}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_trace(style.legend_entry("complete trials", style.SOFT, style.STATES["complete"]))
    for loss, row in data.losses.iterrows():
        ends = [row["baseline"], row["best"]]
        line = {"color": data.colours[str(loss)], "width": 3}
        figure.add_trace(go.Scatter(x=ends, y=[places[loss]] * 2, mode="lines", line=line, showlegend=False, hoverinfo="skip"))
    for column, name, symbol, size in (
        ("baseline", data.baseline_name, "diamond", 12),
        ("best", "best-tuned", style.BEST_SYMBOL, 17),
    ):
        figure.add_trace(_ends(data, places, column, name, symbol, size))
        figure.add_trace(style.legend_entry(name, style.INK, symbol))
    names = [f"<b>{loss_name(str(loss))}</b><br>{row['of']}" for loss, row in data.losses.iterrows()]
    figure.update_yaxes(tickvals=list(places.values()), ticktext=names, range=[-0.6, len(places) - 0.4], showgrid=False)
    figure.update_xaxes(title=data.objective.label, tickformat=style.ticks(data.objective), nticks=7)
    low, high = _range(data)
    if np.isfinite(low):
        figure.update_xaxes(range=[low, high])
    return figure


def loss_picture(study: Snapshot) -> Picture:
    """Return the figure with its words."""
    data = loss_data(study)
    ranked = data.losses[data.losses["best"].notna()][::-1]
    if len(ranked) < 2:
        reading = "Fewer than two losses have a complete trial yet."
    else:
        first, second = (loss_name(str(loss)) for loss in ranked.index[:2])
        lead = metric_amount(data.objective, ranked["best"].iloc[0] - ranked["best"].iloc[1])
        reading = f"{first[0].upper()}{first[1:]} leads {second} by {lead}, each with the regularization that suits it best."
    if data.confirmed:
        seeds = min(interval.seeds for interval in data.confirmed.values())
        note = f"Stars: each loss's best-tuned trial, trained anew with {seeds} seeds; its interval beside it."
    else:
        note = (
            "Each loss is shown with its own best trial, one seed: a loss that was tried more often had more luck to draw from, "
            f"so small leads mean nothing until `sweeper compare {study.spec.name} --by loss` has trained them over seeds."
        )
    return Picture("losses", "losses", "Which loss?", reading, note, loss_figure(data))


def _ends(data: LossData, places: dict[object, int], column: str, name: str, symbol: str, size: int) -> go.Scatter:
    known = data.losses[data.losses[column].notna()]
    intervals = [data.confirmed.get(str(loss)) if column == "best" else None for loss in known.index]
    return go.Scatter(
        x=known[column], y=[places[loss] for loss in known.index], mode="markers", name=name, showlegend=False,
        error_x=error_bars(intervals),
        marker={
            "symbol": symbol, "size": size, "color": [data.colours[str(loss)] for loss in known.index],
            "line": {"width": 1.5, "color": style.INK},
        },
        customdata=[[loss_name(str(loss)), metric_value(data.objective, value)] for loss, value in known[column].items()],
        hovertemplate=f"%{{customdata[0]}}, {name}: %{{customdata[1]}}<extra></extra>",
    )  # fmt: skip


def _range(data: LossData) -> tuple[float, float]:
    """Return an axis that holds the best half of the complete trials and every loss's best."""
    rank = data.objective.rank
    ends = [*data.losses["best"].dropna(), *data.losses["baseline"].dropna()]
    values = rank(pd.concat([pd.Series(ends, dtype=float), data.points["value"].dropna()]))
    if values.empty:
        return float("nan"), float("nan")
    high = max([float(values.max()), *(rank(end) for i in data.confirmed.values() for end in (i.low, i.high))])
    low = min([float(rank(data.points["value"]).quantile(0.25)), *(rank(end) for end in ends)])
    air = max(0.08 * (high - low), 0.002 if data.objective.is_share else 0.0)
    worst, best = sorted((rank(low - air), rank(high + air)))
    return worst, best
