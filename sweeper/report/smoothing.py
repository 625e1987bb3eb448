"""Quantiles of what lies near a place: the smooth lines, bands and surfaces of the report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
FEWEST = 6
"""So many neighbours are within a standard deviation, however far they are."""

FAR = 2.5
"""So many standard deviations away a trial does not count: high quantiles would hear of it however light it is."""


def local_quantiles(at: Numbers, places: Numbers, values: Numbers, quantiles: tuple[float, ...], width: float) -> Numbers:
    """Return smooth quantiles `[M, Q]` of the values of the trials near each of `at` `[M]`.

    A trial counts by a Gaussian of its distance, whose standard deviation is `width`, or so wide that `FEWEST` neighbours count
    where trials are sparse; then the quantiles along `at` are averaged by a Gaussian half as wide. `places` `[N]` and `at` are
    distances on the same axis.
    """
    distance = np.abs(at[:, None] - places[None, :])
    reach = np.sort(distance, axis=1)[:, min(FEWEST, len(places)) - 1]
    found = weighted_quantiles(values, _gaussian(distance, np.maximum(width, 1.1 * reach / FAR)[:, None]), quantiles)
    along = _gaussian(np.abs(at[:, None] - at[None, :]), width / 2)
    smooth: Numbers = along @ found / along.sum(axis=1, keepdims=True)
    return smooth


def local_median(at: tuple[Numbers, Numbers], places: tuple[Numbers, Numbers], values: Numbers, width: float) -> Numbers:
    """Return the median `[M]` of the values near each point of a plane, NaN where fewer than three trials are near.

    Trials count by a Gaussian of their distance, `width` its standard deviation; `at` are `M`, `places` `N` points.
    """
    square: Numbers = np.sum([(a[:, None] - p[None, :]) ** 2 for a, p in zip(at, places, strict=True)], axis=0)
    medians = weighted_quantiles(values, _gaussian(np.sqrt(square), width), (0.5,))[:, 0]
    near = np.sum(square < (2 * width) ** 2, axis=1)
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


def _gaussian(distance: Numbers, width: Numbers | float) -> Numbers:
    far = distance / np.maximum(width, 1e-9)
    weights: Numbers = np.where(far < FAR, np.exp(-0.5 * far**2), 0.0)
    return weights
