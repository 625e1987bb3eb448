"""A searched number as an axis: linear or logarithmic, with a place of its own for 'none'."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from studies.search import SearchSpec
from studies.section import Number

NONE_GAP = 0.12
"""How far the place of trials without any of it is from the end of a log axis, as a share of its decades."""
FEW_DECADES = 2.5
"""A log axis shorter than this has ticks at 1, 2 and 5 of each decade."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Axis:
    """The axis of one hyperparameter.

    `none_at` is where trials without any of it stand, None if there can be none; `extent` is from end to end, that place
    and a little air included; `ticks` maps places to labels, none where plotly's own will do. `weaker` is -1 if its left end
    regularizes less, 1 if its right end does (a limit), 0 if it does not regularize.
    """

    name: str
    log: bool
    low: float
    high: float
    none_at: float | None
    extent: tuple[float, float]
    ticks: dict[float, str]
    weaker: int = 0

    def place(self, strengths: pd.Series[Any]) -> pd.Series[Any]:
        """Return where trials of these strengths are drawn."""
        numbers = strengths.astype(float)
        return numbers if self.none_at is None else numbers.where(numbers > 0, self.none_at)

    def unit(self, places: Any) -> Any:
        """Return places as shares of the axis, 0 at its left end."""
        left, right = self.scaled(np.asarray(self.extent))
        return (self.scaled(np.asarray(places, dtype=float)) - left) / (right - left)

    def scaled(self, places: Any) -> Any:
        """Return places as distances: their logarithms on a log axis."""
        return np.log10(places) if self.log else places

    def grid(self, number: int) -> Any:
        """Return evenly spaced places from end to end of the range, the place of 'none' included."""
        ends = [self.low, self.high, *([self.none_at] if self.none_at is not None else [])]
        return np.geomspace(min(ends), max(ends), number) if self.log else np.linspace(min(ends), max(ends), number)

    def layout(self) -> dict[str, Any]:
        """Return what plotly is told of it."""
        told: dict[str, Any] = {"range": [float(end) for end in self.scaled(np.asarray(self.extent))]}
        if self.log:
            told |= {"type": "log", "tickvals": list(self.ticks), "ticktext": list(self.ticks.values()), "tickangle": 0}
        return told


def make_axis(name: str, search: SearchSpec) -> Axis:
    """Return the axis of a searched number; one that only some trials have has a place for the others."""
    searched = search.ranges[name]
    may_be_none = searched.sampled_zero is not None or name in search.conditional
    return axis_of(name, searched, regularizes=name in search.REGULARIZERS, may_be_none=may_be_none)


def axis_of(name: str, searched: Number, *, regularizes: bool, may_be_none: bool) -> Axis:
    """Return the axis of a range or a list of numbers."""
    none_at = _none_at(searched) if may_be_none else None
    return Axis(
        name=name,
        log=searched.log,
        low=searched.low,
        high=searched.high,
        none_at=none_at,
        extent=_extent(searched, none_at),
        ticks=_ticks(searched, none_at),
        weaker=(1 if searched.none_above is not None else -1) if regularizes else 0,
    )


def _none_at(searched: Number) -> float:
    """Return where 'none' is: at 0, left of a log axis's low end, or right of the loosest limit."""
    gap = (searched.high / searched.low) ** NONE_GAP if searched.log else 0.0
    if searched.none_above is not None:
        return searched.high * gap if searched.log else searched.high + 0.1 * (searched.high - searched.low)
    return float(searched.low / gap) if searched.log else 0.0


def _extent(searched: Number, none_at: float | None) -> tuple[float, float]:
    places = [searched.low, searched.high, *([none_at] if none_at is not None else [])]
    if searched.log:
        air = 10 ** (0.03 * math.log10(max(places) / min(places)))
        return min(places) / air, max(places) * air
    air = 0.03 * (max(places) - min(places)) or 0.03 * max(places) or 1.0
    return min(places) - air, max(places) + air


def _ticks(searched: Number, none_at: float | None) -> dict[float, str]:
    if not searched.log:
        return {}
    none = {none_at: "none"} if none_at is not None else {}
    low, high = math.log10(searched.low), math.log10(searched.high)
    if high - low >= FEW_DECADES:
        decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        return none | {10.0**d: f"10{str(d).translate(SUPERSCRIPTS)}" for d in decades}
    places = [m * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    return none | {p: f"{p:g}" for p in places if searched.low * 0.999 <= p <= searched.high * 1.001}
