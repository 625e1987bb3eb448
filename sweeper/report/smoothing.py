"""Quantiles of what lies near a place: the smooth lines, bands and surfaces of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def local_quantiles(at: Numbers, places: Numbers, values: Numbers, quantiles: tuple[float, ...], neighbours: int) -> Numbers:
    """Return quantiles `[M, Q]` of the values of the nearest trials around each of `at` `[M]`.

    Neighbours count less the further they are, by the tricube weights of a local regression (Cleveland 1979); `neighbours` of
    them have a weight at all. `places` `[N]` and `at` are distances on the same axis.
    """
    distance = np.abs(at[:, None] - places[None, :])
    reach = np.sort(distance, axis=1)[:, min(neighbours, len(places)) - 1]
    reach = np.maximum(reach * 1.001, 1e-9)[:, None]
    weights = np.clip(1 - (distance / reach) ** 3, 0, 1) ** 3
    return weighted_quantiles(values, weights, quantiles)


def local_median(at: tuple[Numbers, Numbers], places: tuple[Numbers, Numbers], values: Numbers, width: float) -> Numbers:
    """Return the median `[M]` of the values near each point of a plane, NaN where fewer than three trials are near.

    Trials count by a Gaussian of their distance, `width` its standard deviation; `at` are `M`, `places` `N` points.
    """
    square = sum((a[:, None] - p[None, :]) ** 2 for a, p in zip(at, places, strict=True))
    weights = np.exp(-square / (2 * width**2))
    medians = weighted_quantiles(values, weights, (0.5,))[:, 0]
    near: Any = (square < (2 * width) ** 2).sum(axis=1)
    return np.where(near >= 3, medians, np.nan)


def weighted_quantiles(values: Numbers, weights: Numbers, quantiles: tuple[float, ...]) -> Numbers:
    """Return quantiles `[M, Q]` of `values` `[N]` for each row of `weights` `[M, N]`, interpolated between the values' middles."""
    order = np.argsort(values, kind="stable")
    sorted_values, sorted_weights = values[order], weights[:, order]
    middles = np.cumsum(sorted_weights, axis=1) - sorted_weights / 2
    totals = sorted_weights.sum(axis=1)
    rows = [
        np.interp(np.asarray(quantiles) * total, middle[some], sorted_values[some])
        if (some := weight > 0).any()
        else np.full(len(quantiles), np.nan)
        for middle, weight, total in zip(middles, sorted_weights, totals, strict=True)
    ]
    return np.stack(rows)
