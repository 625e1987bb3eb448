"""The time a study worked, and what its slots held when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.notation import describe_seconds, percent
from sweeper.report import style
from sweeper.report.picture import Picture
from sweeper.report.snapshot import Snapshot

CLOCK = 1e-3
"""Seconds by which two moments may differ and be the same."""
PAUSE = 60.0
"""Seconds without any trial that are a pause between two calls, and no part of the time a study took."""


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
        begin = float(bar["begin"]) + CLOCK
        free = [slot for slot, (_, end) in enumerate(slots) if end <= begin]
        if bar["state"] == "running":
            slot = max(free, key=lambda slot: slots[slot][1], default=len(slots))
        else:
            slot = next((slot for slot in free if slots[slot][0] == bar["worker"]), len(slots))
        worker = slots[slot][0] if slot < len(slots) else int(bar["worker"])
        slots[slot : slot + 1] = [(worker, float(bar["end"]))]
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
    scale, title = time_axis(data.seconds)
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


def time_axis(seconds: float) -> tuple[float, str]:
    """Return the seconds of one unit of a time axis, and its title."""
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * unit:
            return unit, f"{name} of work"
    return 1.0, "seconds of work"
