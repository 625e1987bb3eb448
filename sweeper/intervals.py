"""Means over seeds and images with confidence intervals, and the correction of several comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
MANY = 1e9
"""Degrees of freedom of what is as good as normal."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and images, its confidence interval, and the standard deviation over seeds (0 for one seed).

    `freedom`: the degrees of freedom of Student's t in the interval.
    """

    mean: float
    low: float
    high: float
    seeds: int
    std: float = 0.0
    freedom: float = MANY

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
    sample = _Sample(scores)
    generator = np.random.default_rng(0)
    drawn = sample.drawn(generator, sample.images_drawn(generator, draws))
    return _interval(float(scores.mean()), drawn, [sample.of_seeds], [sample.of_images], level, sample.std)


def difference(first: np.ndarray, second: np.ndarray, *, same_images: bool, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """Return the mean of the first scores less that of the second, which other seeds have brought about.

    Args:
        first: `[seeds, images]`, as for `interval`.
        second: the same of another configuration; the number of seeds may differ.
        same_images: whether the images are the same ones, in the same order; the difference is then paired by image.
        level: how often the interval covers.
        draws: of the bootstrap.
    """
    generator = np.random.default_rng(0)
    samples = _Sample(first), _Sample(second)
    if same_images:
        patterns, counts = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)
        images = generator.multinomial(first.shape[1], counts / counts.sum(), size=draws)
        parts = np.split(patterns, [len(first)])
        one, two = (sample.drawn(generator, (part, images)) for sample, part in zip(samples, parts, strict=True))
        gaps = first.mean(axis=0) - second.mean(axis=0)
        of_images = [(float(gaps.var(ddof=1)) / len(gaps), len(gaps))]
    else:
        one, two = (sample.drawn(generator, sample.images_drawn(generator, draws)) for sample in samples)
        of_images = [sample.of_images for sample in samples]
    mean = float(first.mean() - second.mean())
    std = math.hypot(samples[0].std, samples[1].std)
    return _interval(mean, one - two, [sample.of_seeds for sample in samples], of_images, level, std)


class _Sample:
    """Scores `[seeds, images]`, with the variances of their mean as (variance, number of what it is between)."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores
        self.seeds, self.images = scores.shape
        by_seed, by_image = scores.mean(axis=1), scores.mean(axis=0)
        self.std = float(by_seed.std(ddof=1)) if self.seeds > 1 else 0.0
        self.of_seeds = self.std**2 / self.seeds, self.seeds
        self.of_images = float(by_image.var(ddof=1)) / self.images if self.images > 1 else 0.0, self.images

    def images_drawn(self, generator: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw images; those that every seed gets alike are drawn as one. Return what they are, and how often each came."""
        patterns, counts = np.unique(self._scores, axis=1, return_counts=True)
        return patterns, generator.multinomial(self.images, counts / self.images, size=draws)

    def drawn(self, generator: np.random.Generator, images: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the mean in each draw of seeds and images."""
        patterns, counts = images
        weights = generator.multinomial(self.seeds, np.full(self.seeds, 1 / self.seeds), size=len(counts)) / self.seeds
        means: np.ndarray = ((weights @ patterns) * counts).sum(axis=1) / self.images
        return means


def _interval(
    mean: float,
    drawn: np.ndarray,
    of_seeds: Sequence[tuple[float, int]],
    of_images: Sequence[tuple[float, int]],
    level: float,
    std: float,
) -> Interval:
    """Return the interval around a mean by the spread of its draws, `[draws]`, and its degrees of freedom."""
    variance = float(drawn.var()) + sum(part / count for part, count in of_seeds)
    parts = sum(part**2 / (count - 1) for part, count in (*of_seeds, *of_images) if count > 1)
    fewest = min(count for _, count in of_seeds) - 1
    freedom = max(variance**2 / parts, fewest) if parts else MANY
    half = _t_quantile((1 + level) / 2, freedom) * math.sqrt(variance)
    return Interval(mean, max(mean - half, -1.0), min(mean + half, 1.0), min(count for _, count in of_seeds), std, freedom)


def p_value(estimate: Interval, level: float = 0.95) -> float:
    """Return the two-sided p-value of a mean of 0 by the t distribution of its interval."""
    from scipy import stats  # type: ignore[import-untyped]

    standard_error = estimate.half_width / _t_quantile((1 + level) / 2, estimate.freedom)
    return (
        float(2 * stats.t.sf(abs(estimate.mean) / standard_error, estimate.freedom))
        if standard_error
        else float(estimate.mean == 0)
    )


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
