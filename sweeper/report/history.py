"""How the search went: the best accuracy so far against epochs and time, and what pruning saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.notation import describe_seconds, percent
from sweeper.report import style
from sweeper.report.curves import rungs_of
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot

MANY = 1000
"""With more trials, only the complete ones are points of the history."""
CLOCK = 1e-3
"""Seconds by which two moments may differ and be the same."""
PAUSE = 60.0
"""Seconds without any trial that are a pause between two calls, and no part of the time a study took."""


@dataclass(frozen=True, slots=True)
class HistoryData:
    """`trials` has a row per finished trial, in the order in which they finished: `accuracy`, `state`, `epochs_spent` by all
    trials until then, `hours` worked until then, `best` complete accuracy so far.
    """

    trials: pd.DataFrame


def worked_seconds(study: Snapshot) -> pd.DataFrame:
    """Return `begin` and `end` of each started trial in seconds of work since the study began, pauses left out, and its `worker`.

    A running trial ends where the last thing happened.
    """
    started = study.trials[study.trials["started"].notna() & (study.trials["state"] != "waiting")]
    if started.empty:
        return pd.DataFrame({"begin": [], "end": [], "worker": []}, dtype=float)
    last = (
        max(started["started"].max(), started["finished"].max()) if started["finished"].notna().any() else started["started"].max()
    )
    ends = started["finished"].fillna(last)
    zero = started["started"].min()
    begin, end = (started["started"] - zero).dt.total_seconds(), (ends - zero).dt.total_seconds()
    order = np.argsort(begin.to_numpy())
    begins, reached = begin.to_numpy()[order], np.maximum.accumulate(end.to_numpy()[order])
    breaks = [(r, b) for r, b in zip(reached[:-1], begins[1:], strict=True) if b - r > PAUSE]

    def worked(moments: pd.Series[float]) -> pd.Series[float]:
        return moments - sum(((moments >= until) * (until - since) for since, until in breaks), start=0 * moments)

    return pd.DataFrame({"begin": worked(begin), "end": worked(end), "worker": started["worker"]})


def history_data(study: Snapshot) -> HistoryData:
    """Compute the history."""
    finished = study.finished
    ends = worked_seconds(study)["end"].reindex(finished.index)
    trials = finished[["accuracy", "state", "epochs"]].assign(seconds=ends).sort_values("seconds", kind="stable")
    trials["epochs_spent"] = trials["epochs"].cumsum()
    trials["best"] = trials["accuracy"].where(trials["state"] == "complete").cummax().ffill()
    return HistoryData(trials)


def history_figure(data: HistoryData, against: str) -> go.Figure:
    """Draw it against `epochs_spent` or `seconds`."""
    figure = style.new_figure(height=340)
    trials = data.trials
    scale, title = 1.0, "epochs trained so far, all trials"
    if against == "seconds":
        scale, title = _time_axis(float(trials["seconds"].max()) if len(trials) else 0.0)
    for state in ("pruned", "complete") if len(trials) <= MANY else ("complete",):
        group = trials[trials["state"] == state]
        figure.add_trace(
            go.Scatter(
                x=group[against] / scale, y=group["accuracy"], mode="markers", name=style.STATE_NAMES[state],
                marker={
                    "symbol": style.STATES[state], "size": 6 if len(trials) < 500 else 4, "opacity": 0.7,
                    "color": style.SERIES[4] if state == "complete" else style.FAINT, "line": {"width": 1.2},
                },
                customdata=[[n, percent(a)] for n, a in group["accuracy"].items()],
                hovertemplate="trial %{customdata[0]}: %{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
    known = trials[trials["best"].notna()]
    figure.add_trace(
        go.Scatter(
            x=known[against] / scale, y=known["best"], mode="lines", name="best so far",
            line={"shape": "hv", "color": style.SERIES[1], "width": 2.5},
            hovertemplate=f"best so far: %{{y:{style.SHARE}}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title="validation accuracy", tickformat=style.SHARE_TICKS)
    if len(known):
        drawn = trials["accuracy"] if len(trials) <= MANY else trials["accuracy"][trials["state"] == "complete"]
        top, low = float(drawn.max()), float(min(drawn.quantile(0.3), known["best"].min()))
        air = max(top - low, 0.01)
        figure.update_yaxes(range=[max(low - 0.3 * air, float(drawn.min()) - 0.05 * air), top + 0.08 * air])
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
        near = known[known["best"] >= best - 0.01].iloc[0]
        times = describe_seconds(near["seconds"]), describe_seconds(first["seconds"])
        timed = f"Within one point of the best after {times[0]}; the best after {times[1]}."
    note = "Lower accuracies may lie below the frame: double-click to see them."
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
    epochs = study.spec.training.epochs
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


@dataclass(frozen=True, slots=True)
class TimelineData:
    """`bars` has a row per started trial: `begin`, `end` (seconds of work), `worker`, `lane` (0, 1, … over all workers), `state`.

    `lanes` maps a worker to its lanes; `full` is the share of all lanes' time in which they held a trial.
    """

    bars: pd.DataFrame
    lanes: dict[int, range]
    seconds: float
    full: float


def timeline_data(study: Snapshot) -> TimelineData:
    """Compute which slot held which trial when; a trial takes the first slot of its worker that is free.

    Of a running trial it is not recorded which worker has it: it takes the slot that became free last before it began.
    """
    bars = worked_seconds(study).sort_values(["begin", "end"], kind="stable")
    bars["state"] = study.trials["state"]
    slots: list[tuple[int, float]] = []  # of which worker, and when it becomes free
    chosen: dict[Any, int] = {}
    for number, bar in [
        (n, bar) for running in (False, True) for n, bar in bars.iterrows() if (bar["state"] == "running") == running
    ]:
        free = [slot for slot, (_, end) in enumerate(slots) if end <= bar["begin"] + CLOCK]
        if bar["state"] == "running":
            slot = max(free, key=lambda slot: slots[slot][1], default=len(slots))
        else:
            slot = next((slot for slot in free if slots[slot][0] == bar["worker"]), len(slots))
        worker = slots[slot][0] if slot < len(slots) else int(bar["worker"])
        slots[slot : slot + 1] = [(worker, bar["end"])]
        chosen[number] = slot
    order = sorted(range(len(slots)), key=lambda slot: slots[slot][0])
    bars["lane"] = pd.Series({number: order.index(slot) for number, slot in chosen.items()}, dtype=int)
    bars["worker"] = pd.Series({number: slots[slot][0] for number, slot in chosen.items()}, dtype=int)
    workers = [slots[slot][0] for slot in order]
    lanes = {
        worker: range(workers.index(worker), workers.index(worker) + workers.count(worker)) for worker in dict.fromkeys(workers)
    }
    seconds = float(bars["end"].max()) if len(bars) else 0.0
    full = float((bars["end"] - bars["begin"]).sum() / (seconds * len(slots))) if seconds and slots else 0.0
    return TimelineData(bars, lanes, seconds, full)


def timeline_figure(data: TimelineData) -> go.Figure:
    """Draw a bar a trial in the lane of its slot; what stays blank was idle."""
    slots = sum(len(lanes) for lanes in data.lanes.values())
    height = min(520, max(240, 120 + 14 * slots))
    figure = style.new_figure(height=height)
    scale, title = _time_axis(data.seconds)
    colours = {"complete": style.SERIES[0], "pruned": style.SERIES[4], "fail": style.SERIES[1], "running": style.SERIES[5]}
    for state, colour in colours.items():
        group = data.bars[data.bars["state"] == state]
        if group.empty:
            continue
        x: list[float | None] = []
        y: list[int | None] = []
        text: list[str | None] = []
        for number, row in zip(group.index, group.to_dict("records"), strict=True):
            length = row["end"] - row["begin"]
            end = row["end"] - min(0.2 * length, 0.003 * data.seconds)  # a trial and its successor are told apart
            x += [round(row["begin"] / scale, 4), round(end / scale, 4), None]
            y += [row["lane"], row["lane"], None]
            text += [f"trial {number}, {style.STATE_NAMES[state]}: {describe_seconds(length)}"] * 2 + [None]
        figure.add_trace(
            go.Scatter(
                x=x, y=y, text=text, mode="lines", name=style.STATE_NAMES[state], hovertemplate="%{text}<extra></extra>",
                line={"color": colour, "width": max(1.0, 0.8 * (height - 100) / max(slots, 1))},
            )
        )  # fmt: skip
    for lanes in list(data.lanes.values())[1:]:
        figure.add_hline(lanes.start - 0.5, line={"color": style.INK, "width": 1})
    names = {(lanes.start + lanes.stop - 1) / 2: f"worker {worker}" for worker, lanes in data.lanes.items()}
    figure.update_yaxes(
        tickvals=list(names), ticktext=list(names.values()), showgrid=False, range=[slots - 0.4, -0.6], tickangle=-90
    )
    figure.update_xaxes(title=title, rangemode="tozero")
    return figure


def timeline_picture(study: Snapshot) -> Picture:
    """Return the figure with its words."""
    data = timeline_data(study)
    slots = sum(len(lanes) for lanes in data.lanes.values())
    workers = "one worker" if len(data.lanes) == 1 else f"{len(data.lanes)} workers"
    reading = f"The {slots} slots of {workers} held a trial for {percent(data.full, 0)} of {describe_seconds(data.seconds)}."
    note = "A bar is a trial in a slot of its worker's array; a stopped trial makes room for the next. Blank is idle."
    return Picture("timeline", "slots", "Was the array full?", reading, note, timeline_figure(data), half=True)


def _time_axis(seconds: float) -> tuple[float, str]:
    """Return the seconds of one unit of a time axis, and its title."""
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * unit:
            return unit, f"{name} of work"
    return 1.0, "seconds of work"
