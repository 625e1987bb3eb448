"""A figure with the words around it, and the intervals in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sweeper.intervals import Interval
from sweeper.report import style


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of a report.

    `name` is for files and anchors, `label` for lists of figures; `question` is what a reader asks and `reading` what the figure
    answers, in words; `note` says how it is made. A `half` one takes half of a wide page.
    """

    name: str
    label: str
    question: str
    reading: str
    note: str
    figure: go.Figure
    half: bool = False


def error_bars(intervals: Sequence[Interval | None]) -> dict[str, Any] | None:
    """Return plotly's error bars of points drawn at the means of these intervals; None if nothing was confirmed."""
    if not any(intervals):
        return None
    above = [i.high - i.mean if i else 0.0 for i in intervals]
    below = [i.mean - i.low if i else 0.0 for i in intervals]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": style.INK, "width": 6}
