"""What a study is after against one searched number, with the generalization gap and the share of zero weights: the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from studies.objectives import Objective
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

    `points` has a row per trial that was started: `loss`, `state`, `role`, `strength`, `x` (where it is drawn), `value`,
    `gap`, `zero_weights`, `epochs`. `panels` are the measures that are shown, of `value`, `gap` and `zero_weights`; `bands`
    has their `quantiles` (`low`, `centre`, `high`, the better end) among the trials near each `x`, `none` those of the values at
    the place of 'none', where that stands apart. `floor` is the worst value that the axis shows, `hidden` how many are worse.
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
    """Compute the figure of what a study is after against one searched number."""
    search = study.spec.search
    axis = make_axis(name, search)
    started = study.trials[(study.trials["state"] != "waiting") & study.trials[name].notna()]
    columns = ["loss", "state", "role", "value", "gap", "zero_weights", "epochs"]
    trials = started[columns].assign(strength=started[name].astype(float), x=axis.place(started[name]))
    finished = trials[trials["state"].isin(["complete", "pruned"]) & trials["value"].notna()]
    panels, objective = ["value"], study.objective
    if finished["gap"].notna().any() and objective.name != "gap":
        panels.append("gap")
    if name in ("l1", "elastic_net") and (finished["zero_weights"] > 0).any() and objective.name != "zero_weights":
        panels.append("zero_weights")
    quantiles = quantiles_of(finished, objective)
    always = [objective.rank(b.value) for b in (study.answer.baseline, study.answer.best) if b]
    floor = _floor(objective.rank(finished["value"]), always, objective)
    return AccuracyData(
        axis=axis,
        points=trials,
        bands={panel: local_band(axis, finished, panel, quantiles) for panel in panels},
        none=_none(axis, finished, quantiles),
        quantiles=quantiles,
        floor=None if floor is None else objective.rank(floor),
        hidden=int((objective.rank(trials["value"]) < floor).sum()) if floor is not None else 0,
        panels=tuple(panels),
        answer=study.answer,
        colours=style.series(search.losses),
        baseline_name=baseline_name(study.spec),
    )


def _floor(ranks: pd.Series[float], always: list[float], objective: Objective) -> float | None:
    """Return the rank from which the axis shows, such that the better trials fill it; None: it shows all."""
    if len(ranks) < FEW:
        return None
    low = min([float(ranks.quantile(0.35)), *always])
    top = float(ranks.max())
    span = max(top - low, style.close(objective, top))
    floor = low - 0.35 * span
    return floor if float(ranks.min()) < floor - 0.6 * span else None


def quantiles_of(finished: pd.DataFrame, objective: Objective) -> dict[str, float]:
    """Return the quantiles that are drawn of these trials; of what is minimized, `high` is a low one."""
    quantiles = {"low": LOW, "centre": CENTRE, "high": _highest(finished)}
    return {name: round(1 - share, 3) if objective.minimized else share for name, share in quantiles.items()}


def _highest(finished: pd.DataFrame) -> float:
    if finished.empty:
        return HIGH
    half_of_complete = 1 - float((finished["state"] == "complete").mean()) / 2
    one_nearby = 1 - 1 / (2.5 * WIDTH * len(finished))
    return round(max(HIGH, min(half_of_complete, one_nearby)), 3)


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
    """Return the quantiles of the values at the place of 'none' of a log axis; empty where there are too few."""
    there = finished[finished["x"] == axis.none_at]["value"]
    if not axis.log or len(there) < FEW:
        return pd.Series(dtype=float)
    return pd.Series({name: float(there.quantile(quantile)) for name, quantile in quantiles.items()})
