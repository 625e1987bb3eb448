"""Means over seeds and images with confidence intervals, and the correction of several comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Bounds = tuple[float, float]
SHARES: Bounds = (-1.0, 1.0)
MANY = 1e9
"""Degrees of freedom of what is as good as normal."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and images, its confidence interval, and the standard deviation over seeds (0 for one seed).

    They are NaN where training diverged with a seed: there is no mean. `freedom`: the degrees of freedom of Student's t in the
    interval, which ends at the bounds of what is measured; `standard_error`: of the mean, whatever those are.
    """

    mean: float
    low: float
    high: float
    seeds: int
    std: float = 0.0
    freedom: float = MANY
    standard_error: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether there is a mean."""
        return math.isfinite(self.mean)

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def interval(scores: np.ndarray, bounds: Bounds = SHARES, level: float = 0.95) -> Interval:
    """Return the mean of scores with an interval that covers the mean over all seeds and all images there could be.

    Seeds and images are drawn with replacement, independently of each other (the pigeonhole bootstrap: Owen 2007, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1, which shows that it errs on the side of too much variance). Percentiles
    of such draws are far too narrow for a handful of seeds, so the bootstrap gives the standard error alone, with the variance
    between n seeds corrected by n / (n − 1), and Student's t gives the quantile (Hesterberg 2015, "What teachers should know
    about the bootstrap", section 5), its degrees of freedom after Satterthwaite (1946). The variance of a mean over all draws
    that there could be has a closed form; nothing is drawn.

    Args:
        scores: `[seeds, images]`: 1 where an image is right and 0 where it is wrong, or how it adds to another metric
            (`measures.image_scores`), or the difference of two such.
        bounds: which the interval does not exceed.
        level: how often it covers.
    """
    if not np.isfinite(scores).all():
        return _unknown(len(scores))
    sample = _Sample(scores)
    return _interval(float(scores.mean()), sample.variance, [sample.of_seeds], [sample.of_images], level, sample.std, bounds)


def difference(
    first: np.ndarray, second: np.ndarray, bounds: Bounds = SHARES, *, same_images: bool, level: float = 0.95
) -> Interval:
    """Return the mean of the first scores less that of the second, which other seeds have brought about.

    Args:
        first: `[seeds, images]`, as for `interval`.
        second: the same of another configuration; the number of seeds may differ.
        bounds: as for `interval`.
        same_images: whether the images are the same ones, in the same order; the difference is then paired by image.
        level: how often the interval covers.
    """
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return _unknown(min(len(first), len(second)))
    samples = _Sample(first), _Sample(second)
    variance = samples[0].variance + samples[1].variance
    of_images = [sample.of_images for sample in samples]
    if same_images:
        variance -= 2 * float(samples[0].by_image @ samples[1].by_image) / samples[0].images ** 2
        gaps = samples[0].by_image - samples[1].by_image
        of_images = [(float(gaps.var(ddof=1)) / len(gaps) if len(gaps) > 1 else 0.0, len(gaps))]
    mean = float(first.mean() - second.mean())
    std = math.hypot(samples[0].std, samples[1].std)
    return _interval(mean, max(variance, 0.0), [sample.of_seeds for sample in samples], of_images, level, std, bounds)


class _Sample:
    """Scores `[seeds, images]`: how they vary around their mean, by seed and by image.

    `of_seeds` and `of_images` are variances of the mean as (variance, number of what it is between); `by_image` are the means of
    the images less that of all.
    """

    def __init__(self, scores: np.ndarray) -> None:
        self.seeds, self.images = scores.shape
        centred = scores - scores.mean()
        by_seed, self.by_image = centred.mean(axis=1), centred.mean(axis=0)
        self.std = float(by_seed.std(ddof=1)) if self.seeds > 1 else 0.0
        self.of_seeds = self.std**2 / self.seeds, self.seeds
        self.of_images = float(self.by_image.var(ddof=1)) / self.images if self.images > 1 else 0.0, self.images
        # The weights W of n things drawn n times have E[W_i W_k] = 1 − 1/n + [i = k]; multiplied out over seeds and images:
        self.variance = (
            (1 - 1 / self.images) * float(by_seed @ by_seed) / self.seeds**2
            + (1 - 1 / self.seeds) * float(self.by_image @ self.by_image) / self.images**2
            + float((centred**2).sum()) / (self.seeds * self.images) ** 2
        )


def _interval(
    mean: float,
    variance: float,
    of_seeds: Sequence[tuple[float, int]],
    of_images: Sequence[tuple[float, int]],
    level: float,
    std: float,
    bounds: Bounds,
) -> Interval:
    """Return the interval around a mean by the variance of its draws, and its degrees of freedom."""
    variance += sum(part / count for part, count in of_seeds)
    parts = sum(part**2 / (count - 1) for part, count in (*of_seeds, *of_images) if count > 1)
    fewest = min(count for _, count in of_seeds) - 1
    freedom = max(variance**2 / parts, fewest) if parts else MANY
    error = math.sqrt(variance)
    half = _t_quantile((1 + level) / 2, freedom) * error
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), fewest + 1, std, freedom, error)


def _unknown(seeds: int) -> Interval:
    return Interval(math.nan, math.nan, math.nan, seeds, math.nan)


def p_value(estimate: Interval) -> float:
    """Return the two-sided p-value of a mean of 0 by the t distribution of its interval; 1 where there is no mean."""
    if not estimate.is_known:
        return 1.0
    from scipy import stats  # type: ignore[import-untyped]

    if not estimate.standard_error:
        return float(estimate.mean == 0)
    return float(2 * stats.t.sf(abs(estimate.mean) / estimate.standard_error, estimate.freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _t_quantile(share: float, freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(share, freedom))
