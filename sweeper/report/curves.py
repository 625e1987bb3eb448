"""Learning curves: how trials learn, where they are pruned, and what regularization does to the gap on the way."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from studies.objectives import ACCURACY, Objective
from sweeper.notation import baseline_name, percent, points
from sweeper.pruning import rungs
from sweeper.report import style
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot

MOST_CURVES = 120
"""So many curves are drawn, chosen evenly from the best to the worst trial of each state."""


@dataclass(frozen=True, slots=True)
class CurveData:
    """The learning curves that are drawn.

    `curves` has `epoch`, `validation` and `train`, indexed by trial number: of the loss where the study is after that, otherwise of
    the accuracy (`measure`). `states` is the state of each trial.
    `rungs` are the epochs at which pruning decides. `total` is how many trials have a curve.
    """

    curves: pd.DataFrame
    states: pd.Series[str]
    rungs: list[int]
    total: int
    best: int | None
    baseline: int | None
    baseline_name: str
    measure: Objective = ACCURACY


def rungs_of(study: Snapshot) -> list[int]:
    """Return the epochs at which pruning decides about all trials; none where it has no such epochs."""
    pruner = study.spec.pruner
    return (
        rungs(pruner.min_epochs, pruner.reduction_factor, study.spec.training.epochs) if pruner.name == "successive_halving" else []
    )


def curve_data(study: Snapshot) -> CurveData:
    """Compute the learning curves."""
    measure = study.objective if study.objective.name == "loss" else ACCURACY
    names = {f"{part}_{measure.name}": part for part in ("validation", "train")}
    curves = study.curves.reset_index("epoch")[["epoch", *names]].rename(columns=names)
    known = study.trials.loc[study.trials.index.isin(curves.index), ["state", "value"]]
    best, baseline = (trial.trial if trial else None for trial in (study.answer.best, study.answer.baseline))
    chosen = {number for number in (best, baseline) if number is not None and number in known.index}
    for _, group in known.groupby("state"):
        ranked = group.sort_values("value", ascending=study.objective.minimized).index
        share = max(1, round(MOST_CURVES * len(group) / len(known)))
        chosen |= set(ranked[:: max(1, -(-len(group) // share))])
    shown = curves[curves.index.isin(chosen)]
    states = known["state"][known.index.isin(chosen)]
    return CurveData(shown, states, rungs_of(study), len(known), best, baseline, baseline_name(study.spec), measure)


def curve_figure(data: CurveData) -> go.Figure:
    """Draw them: pruned ones faint, the best and the baseline strong, each with its training accuracy (dotted)."""
    figure, value = style.new_figure(height=440), style.hover(data.measure)
    looks = {
        "pruned": (style.FAINT, 0.9, 0.55),
        "fail": (style.INK, 1.0, 0.8),
        "waiting": (style.FAINT, 0.9, 0.55),
        "running": (style.SERIES[5], 1.3, 0.8),
        "complete": (style.SERIES[4], 1.2, 0.75),
    }
    for state, (colour, width, opacity) in looks.items():
        numbers = data.states.index[data.states == state]
        if numbers.empty:
            continue
        x, y, text = _strung(data.curves[data.curves.index.isin(numbers)])
        figure.add_trace(
            go.Scatter(
                x=x, y=y, text=text, mode="lines", name=style.STATE_NAMES[state], opacity=opacity,
                line={"color": colour, "width": width},
                hovertemplate=f"trial %{{text}}, epoch %{{x}}: %{{y:{value}}}, {style.STATE_NAMES[state]}<extra></extra>",
            )
        )  # fmt: skip
    for number, name, colour in (
        (data.baseline, data.baseline_name, style.SERIES[1]),
        (data.best, "best", style.SERIES[0]),
    ):
        curve = data.curves[data.curves.index == number] if number is not None else data.curves.iloc[:0]
        for column, what, dash in (("train", "training", "dot"), ("validation", "validation", "solid")):
            if len(curve):
                figure.add_trace(
                    go.Scatter(
                        x=curve["epoch"], y=curve[column], mode="lines", name=f"{name}, {what}",
                        line={"color": colour, "width": 2.6, "dash": dash},
                        hovertemplate=f"{name}, {what}, epoch %{{x}}: %{{y:{value}}}<extra></extra>",
                    )
                )  # fmt: skip
    for rung in data.rungs:
        figure.add_vline(rung, line={"color": style.SOFT, "width": 1, "dash": "dash"})
        figure.add_annotation(
            x=rung, y=0, yref="y domain", yanchor="bottom", text=f"rung {rung}", textangle=-90, showarrow=False, xanchor="right",
            font={"size": 11, "color": style.SOFT},
        )  # fmt: skip
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(title=data.measure.metric, tickformat=style.ticks(data.measure))
    return figure


def curve_picture(study: Snapshot) -> Picture:
    """Return the figure with its words."""
    data = curve_data(study)
    gaps = {
        name: study.trials["gap"].get(number)
        for name, number in (("the best trial", data.best), (data.baseline_name, data.baseline))
        if number is not None
    }
    said = [f"{name} {points(gap)}" for name, gap in gaps.items() if gap is not None and pd.notna(gap)]
    reading = f"Training less validation accuracy at the end: {', '.join(said)}." if said else "No trial is complete yet."
    drawn = (
        f"{len(data.states)} of {data.total} trials are drawn, evenly from best to worst. " if len(data.states) < data.total else ""
    )
    what = data.measure.metric
    note = f"{drawn}Solid: validation {what}; dotted: {what} on the training images while training, dropout and all."
    if data.rungs:
        share = f"the best {percent(1 / study.spec.pruner.reduction_factor, 0)}"
        note += f" At each rung {share} of the trials that have reached it go on."
    return Picture("curves", "learning curves", "Does the gap close while they learn?", reading, note, curve_figure(data))


def _strung(curves: pd.DataFrame) -> tuple[list[float | None], list[float | None], list[int | None]]:
    """Return many curves as one line with breaks: one object to draw, not hundreds."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[int | None] = []
    for number, curve in curves.groupby(level=0):
        x += [*curve["epoch"], None]
        y += [*curve["validation"].round(5), None]
        text += [int(str(number))] * len(curve) + [None]
    return x, y, text
