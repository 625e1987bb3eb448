"""Validation accuracy against one searched number, with the generalization gap and the share of zero weights: the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sweeper.notation import baseline_name
from sweeper.report import style
from sweeper.report.axis import Axis, make_axis
from sweeper.report.smoothing import local_quantiles
from sweeper.report.snapshot import Answer, Snapshot

LOW, CENTRE, HIGH = 0.1, 0.5, 0.9
"""The quantiles of the trials nearby that are drawn. Where pruning leaves few trials complete, the highest one is as high as the
better half of these, if there are trials enough, lest it told how far the pruned ones had come."""
WIDTH = 0.05
"""The reach of a trial along the axis: the standard deviation of its weight."""
FEW = 8
"""With fewer finished trials there is no line and no band."""


@dataclass(frozen=True, slots=True)
class AccuracyData:
    """What is drawn against one searched number.

    `points` has a row per trial that was started: `loss`, `state`, `role`, `strength`, `x` (where it is drawn), `accuracy`,
    `gap`, `zero_weights`, `epochs`. `panels` are the measures that are shown, of `accuracy`, `gap` and `zero_weights`; `bands`
    has their `quantiles` (`low`, `centre`, `high`) among the trials near each `x`, `none` those of the accuracies at the place of
    'none', where that stands apart. `floor` is the accuracy from which the axis shows, `hidden` how many trials lie below it.
    """

    axis: Axis
    points: pd.DataFrame
    bands: dict[str, pd.DataFrame]
    none: pd.Series[float]
    floor: float | None
    hidden: int
    quantiles: dict[str, float]
    panels: tuple[str, ...]
    answer: Answer
    colours: dict[str, str]
    baseline_name: str


def accuracy_data(study: Snapshot, name: str) -> AccuracyData:
    """Compute the figure of validation accuracy against one searched number."""
    search = study.spec.search
    axis = make_axis(name, search)
    started = study.trials[(study.trials["state"] != "waiting") & study.trials[name].notna()]
    columns = ["loss", "state", "role", "accuracy", "gap", "zero_weights", "epochs"]
    trials = started[columns].assign(strength=started[name].astype(float), x=axis.place(started[name]))
    finished = trials[trials["state"].isin(["complete", "pruned"]) & trials["accuracy"].notna()]
    panels = ["accuracy"]
    if finished["gap"].notna().any():
        panels.append("gap")
    if name in ("l1", "elastic_net") and (finished["zero_weights"] > 0).any():
        panels.append("zero_weights")
    quantiles = quantiles_of(finished)
    floor = _floor(finished["accuracy"], [b.value for b in (study.answer.baseline, study.answer.best) if b])
    return AccuracyData(
        axis=axis,
        points=trials,
        bands={panel: local_band(axis, finished, panel, quantiles) for panel in panels},
        none=_none(axis, finished, quantiles),
        quantiles=quantiles,
        floor=floor,
        hidden=int((trials["accuracy"] < floor).sum()) if floor is not None else 0,
        panels=tuple(panels),
        answer=study.answer,
        colours=style.series(search.losses),
        baseline_name=baseline_name(study.spec),
    )


def _floor(accuracies: pd.Series[float], always: list[float]) -> float | None:
    """Return the accuracy from which the axis shows, such that the better trials fill it; None: it shows all."""
    if len(accuracies) < FEW:
        return None
    low = min([float(accuracies.quantile(0.35)), *always])
    span = max(float(accuracies.max()) - low, 0.01)
    floor = low - 0.35 * span
    return floor if float(accuracies.min()) < floor - 0.6 * span else None


def quantiles_of(finished: pd.DataFrame) -> dict[str, float]:
    """Return the quantiles that are drawn of these trials."""
    if finished.empty:
        return {"low": LOW, "centre": CENTRE, "high": HIGH}
    half_of_complete = 1 - float((finished["state"] == "complete").mean()) / 2
    one_nearby = 1 - 1 / (2.5 * WIDTH * len(finished))
    return {"low": LOW, "centre": CENTRE, "high": round(max(HIGH, min(half_of_complete, one_nearby)), 3)}


def local_band(axis: Axis, trials: pd.DataFrame, measure: str, quantiles: dict[str, float]) -> pd.DataFrame:
    """Return quantiles of a measure along the axis, between the outermost trials; those of 'none' on a log axis stand apart."""
    known = trials[trials[measure].notna()]
    if axis.log:
        known = known[known["x"] != axis.none_at]
    if len(known) < FEW:
        return pd.DataFrame(columns=["x", *quantiles], dtype=float)
    x = known["x"].to_numpy(float)
    between = np.geomspace if axis.log else np.linspace
    grid = between(x.min(), x.max(), 81)
    found = local_quantiles(axis.unit(grid), axis.unit(x), known[measure].to_numpy(float), tuple(quantiles.values()), WIDTH)
    return pd.DataFrame(found, columns=list(quantiles)).assign(x=grid)


def _none(axis: Axis, finished: pd.DataFrame, quantiles: dict[str, float]) -> pd.Series[float]:
    """Return the quantiles of the accuracies at the place of 'none' of a log axis; empty where there are too few."""
    there = finished[finished["x"] == axis.none_at]["accuracy"]
    if not axis.log or len(there) < FEW:
        return pd.Series(dtype=float)
    return pd.Series({name: float(there.quantile(quantile)) for name, quantile in quantiles.items()})
