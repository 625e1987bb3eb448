"""Means over seeds and images with confidence intervals, and the correction of several comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and images, its confidence interval, and the standard deviation over seeds (0 for one seed)."""

    mean: float
    low: float
    high: float
    std: float
    seeds: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def interval(scores: np.ndarray, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """Return the mean of scores with an interval that covers the mean over all seeds and all images there could be.

    Seeds and images are drawn with replacement, independently of each other (the pigeonhole bootstrap: Owen 2007, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1, which shows that it errs on the side of too much variance). Percentiles
    of such draws are far too narrow for a handful of seeds, so the bootstrap gives the standard error alone, with the variance
    between n seeds corrected by n / (n − 1), and Student's t gives the quantile (Hesterberg 2015, "What teachers should know
    about the bootstrap", section 5), its degrees of freedom after Satterthwaite (1946).

    Args:
        scores: `[seeds, images]`: 1 where an image is right and 0 where it is wrong, or the difference of two such.
        level: how often it covers.
        draws: of the bootstrap; they are the same in each call.
    """
    seeds, images = scores.shape
    by_seed, mean = scores.mean(axis=1), float(scores.mean())
    patterns, counts = np.unique(scores, axis=1, return_counts=True)  # images that are alike are drawn as one
    generator = np.random.default_rng(0)
    seed_weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    image_weights = generator.multinomial(images, counts / images, size=draws) / images
    drawn = ((seed_weights @ patterns) * image_weights).sum(axis=1)
    between_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    between_images = float(scores.mean(axis=0).var(ddof=1)) / images if images > 1 else 0.0
    variance = float(drawn.var()) + between_seeds / seeds
    parts = sum(part**2 / (count - 1) for part, count in ((between_seeds, seeds), (between_images, images)) if count > 1)
    freedom = max(variance**2 / parts, seeds - 1) if parts else math.inf
    half = _t_quantile((1 + level) / 2, freedom) * math.sqrt(variance)
    low, high = max(mean - half, -1.0), min(mean + half, 1.0)
    return Interval(mean, low, high, float(by_seed.std(ddof=1)) if seeds > 1 else 0.0, seeds)


def p_value(estimate: Interval, level: float = 0.95) -> float:
    """Return the two-sided p-value of a mean of 0, as far as the interval, taken as a normal one, tells."""
    from scipy import stats  # type: ignore[import-untyped]

    standard_error = estimate.half_width / _t_quantile((1 + level) / 2, math.inf)
    return float(2 * stats.norm.sf(abs(estimate.mean) / standard_error)) if standard_error else float(estimate.mean == 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _t_quantile(share: float, freedom: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf(share) if math.isinf(freedom) else stats.t.ppf(share, freedom))
