"""How the search went: the best value so far against epochs and time, and what pruning saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studies.objectives import ACCURACY, Objective
from sweeper.notation import describe_seconds, metric_amount, metric_value, percent
from sweeper.report import style
from sweeper.report.curves import rungs_of
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot
from sweeper.report.timeline import time_axis, worked_seconds

MANY = 1000
"""With more trials, only the complete ones are points of the history."""


@dataclass(frozen=True, slots=True)
class HistoryData:
    """`trials` has a row per finished trial, in the order in which they finished: `value`, `state`, `epochs_spent` by all
    trials until then, `hours` worked until then, `best` complete value so far.
    """

    trials: pd.DataFrame
    objective: Objective = ACCURACY


def history_data(study: Snapshot) -> HistoryData:
    """Compute the history."""
    finished, objective = study.finished, study.objective
    ends = worked_seconds(study)["end"].reindex(finished.index)
    trials = finished[["value", "state", "epochs"]].assign(seconds=ends).sort_values("seconds", kind="stable")
    trials["epochs_spent"] = trials["epochs"].cumsum()
    trials["best"] = objective.rank(objective.rank(trials["value"]).where(trials["state"] == "complete").cummax().ffill())
    return HistoryData(trials, objective)


def history_figure(data: HistoryData, against: str) -> go.Figure:
    """Draw it against `epochs_spent` or `seconds`."""
    figure = style.new_figure(height=340)
    trials, objective = data.trials, data.objective
    scale, title = 1.0, "epochs trained so far, all trials"
    if against == "seconds":
        scale, title = time_axis(float(trials["seconds"].max()) if len(trials) else 0.0)
    for state in ("pruned", "complete") if len(trials) <= MANY else ("complete",):
        group = trials[trials["state"] == state]
        figure.add_trace(
            go.Scatter(
                x=group[against] / scale, y=group["value"], mode="markers", name=style.STATE_NAMES[state],
                marker={
                    "symbol": style.STATES[state], "size": 6 if len(trials) < 500 else 4, "opacity": 0.7,
                    "color": style.SERIES[4] if state == "complete" else style.FAINT, "line": {"width": 1.2},
                },
                customdata=[[n, metric_value(objective, value)] for n, value in group["value"].items()],
                hovertemplate="trial %{customdata[0]}: %{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
    known = trials[trials["best"].notna()]
    figure.add_trace(
        go.Scatter(
            x=known[against] / scale, y=known["best"], mode="lines", name="best so far",
            line={"shape": "hv", "color": style.SERIES[1], "width": 2.5},
            hovertemplate=f"best so far: %{{y:{style.hover(objective)}}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title=objective.label, tickformat=style.ticks(objective))
    if len(known):
        shown = trials["value"] if len(trials) <= MANY else trials["value"][trials["state"] == "complete"]
        drawn = objective.rank(shown)
        top, low = float(drawn.max()), float(min(drawn.quantile(0.3), objective.rank(known["best"]).min()))
        air = max(top - low, style.close(objective, top))
        ends = max(low - 0.3 * air, float(drawn.min()) - 0.05 * air), top + 0.08 * air
        figure.update_yaxes(range=sorted(objective.rank(end) for end in ends))
    return figure


def history_pictures(study: Snapshot) -> list[Picture]:
    """Return the figures with their words: against epochs, and against time."""
    data = history_data(study)
    known = data.trials[data.trials["best"].notna()]
    if known.empty:
        spent = timed = "No trial is complete yet."
    else:
        best = known["best"].iloc[-1]
        first = known[known["best"] == best].iloc[0]
        total = int(data.trials["epochs_spent"].iloc[-1])
        spent = f"The best trial was found after {percent(first['epochs_spent'] / total, 0)} of the {total:,} epochs."
        close, rank = style.close(study.objective, best), study.objective.rank
        near = known[rank(known["best"]) >= rank(best) - close].iloc[0]
        times = describe_seconds(near["seconds"]), describe_seconds(first["seconds"])
        within = "one point" if study.objective.is_share else metric_amount(study.objective, close)
        timed = f"Within {within} of the best after {times[0]}; the best after {times[1]}."
    note = "Worse values may lie outside the frame: double-click to see them."
    if len(data.trials) > MANY:
        note += " Pruned trials are not drawn."
    by_epochs, by_time = history_figure(data, "epochs_spent"), history_figure(data, "seconds")
    return [
        Picture("history-epochs", "history", "Would more trials help?", spent, note, by_epochs, half=True),
        Picture("history-time", "time", "How soon was it found?", timed, f"{note} Pauses are left out.", by_time, half=True),
    ]


@dataclass(frozen=True, slots=True)
class PruningData:
    """`alive` is how many of the started trials trained each epoch, from epoch 1; `possible` how many would have without pruning,
    `trained` and `unpruned` the sums of both.
    """

    alive: pd.Series[Any]
    possible: int
    trained: int
    unpruned: int
    rungs: list[int]

    @property
    def saved(self) -> float:
        """The share of the epochs that pruning saved."""
        return 1 - self.trained / self.unpruned if self.unpruned else 0.0


def pruning_data(study: Snapshot) -> PruningData:
    """Compute what pruning saved: complete trials would have been as long as they were, pruned ones as long as allowed."""
    ended = study.trials[study.trials["state"].isin(["complete", "pruned"])]
    epochs = study.spec.trial_epochs
    alive = pd.Series({epoch: int((ended["epochs"] >= epoch).sum()) for epoch in range(1, epochs + 1)}, dtype=int)
    unpruned = int(ended["epochs"].where(ended["state"] == "complete", epochs).sum())
    return PruningData(alive, len(ended), int(ended["epochs"].sum()), unpruned, rungs_of(study))


def pruning_figure(data: PruningData) -> go.Figure:
    """Draw the trials that trained each epoch as an area, within the area that no pruning would have filled."""
    figure = style.new_figure(height=340)
    edges = [0, *data.alive.index]
    for name, heights, colour, opacity in (
        ("saved", [data.possible] * len(edges), style.FAINT, 0.35),
        ("trained", [*data.alive, data.alive.iloc[-1]] if len(data.alive) else [], style.SERIES[0], 0.85),
    ):
        figure.add_trace(
            go.Scatter(
                x=edges, y=heights, mode="lines", name=name, fill="tozeroy", fillcolor=colour, opacity=opacity,
                line={"shape": "hv", "width": 0, "color": colour}, customdata=[min(e + 1, edges[-1]) for e in edges],
                hovertemplate="%{y} trials trained epoch %{customdata}<extra></extra>" if name == "trained" else None,
                hoverinfo="skip" if name == "saved" else None,
            )
        )  # fmt: skip
    for rung in data.rungs:
        figure.add_vline(rung, line={"color": style.SOFT, "width": 1, "dash": "dash"})
    figure.update_xaxes(title="epoch of a trial", range=[0, edges[-1]])
    figure.update_yaxes(title="trials", rangemode="tozero")
    return figure


def pruning_picture(study: Snapshot) -> Picture:
    """Return the figure with its words."""
    data = pruning_data(study)
    reading = (
        f"{data.trained:,} epochs were trained; without pruning it had been {data.unpruned:,}: {percent(data.saved, 0)} saved."
    )
    note = "Blue: trials that trained an epoch. Grey: what the pruned ones would have trained besides."
    return Picture("pruning", "pruning", "What did pruning save?", reading, note, pruning_figure(data), half=True)
