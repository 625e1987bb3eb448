"""Intervals cover the truth as often as they say, and p-values are corrected as published."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from studies.objectives import OBJECTIVES
from sweeper.intervals import Interval, difference, holm, interval, p_value

STUDIES = 300
REALISTIC = {
    "digits": (5, 600, 0.3, 3.0, 5.0),
    "many images": (5, 10_000, 0.15, 3.0, 6.0),
    "ten seeds": (10, 1000, 0.2, 2.0, 4.0),
    "seeds do not matter": (5, 600, 0.0, 3.0, 5.0),
}
"""Seeds, images, the spread of seeds and of images on the scale of logits, and where that is centred."""


def _right(
    generator: np.random.Generator, seeds: int, images: int, seed_spread: float, image_spread: float, at: float
) -> np.ndarray:
    """Draw which images are right: some images are harder, some seeds are worse, the rest is chance."""
    logits = at + generator.normal(0, seed_spread, seeds)[:, None] + generator.normal(0, image_spread, images)
    return (generator.random((seeds, images)) < expit(logits)).astype(float)


def _truth(seed_spread: float, image_spread: float, at: float) -> float:
    """Return the accuracy over all seeds and images: the sum of the two spreads is normal."""
    nodes = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    return float(expit(at + np.hypot(seed_spread, image_spread) * nodes).mean())


@pytest.mark.parametrize("name", REALISTIC)
def test_an_interval_covers_the_truth_at_its_rate(name: str) -> None:
    seeds, images, *how = REALISTIC[name]
    generator, truth = np.random.default_rng(7), _truth(*how)
    found = [interval(_right(generator, seeds, images, *how)) for _ in range(STUDIES)]
    covered = sum(one.low <= truth <= one.high for one in found)
    # 95 % of 300 studies is 285; 273 and 298 are the 0.2 % and 99.99 % points of that binomial.
    assert 273 <= covered <= 298


def test_a_difference_is_paired_by_image_and_covers_the_truth() -> None:
    generator = np.random.default_rng(11)
    truth = _truth(0.2, 3.0, 5.4) - _truth(0.2, 3.0, 5.0)
    covered, paired, unpaired = 0, 0.0, 0.0
    for _ in range(STUDIES):
        images = generator.normal(0, 3.0, 1000)
        better, worse = (
            (generator.random((5, 1000)) < expit(at + generator.normal(0, 0.2, 5)[:, None] + images)).astype(float)
            for at in (5.4, 5.0)
        )
        gain = interval(better - worse)
        covered += gain.low <= truth <= gain.high
        paired += gain.half_width
        unpaired += np.hypot(interval(better).half_width, interval(worse).half_width)
    assert 273 <= covered <= 299
    assert paired < 0.85 * unpaired


def test_seeds_that_agree_leave_the_images_uncertainty() -> None:
    right = np.tile(np.arange(400) < 300, (5, 1)).astype(float)
    found = interval(right)
    standard_error = np.sqrt(0.75 * 0.25 / 400)
    assert (found.mean, found.std, found.seeds) == (0.75, 0.0, 5)
    assert found.half_width == pytest.approx(1.96 * standard_error, rel=0.1)
    assert interval(np.ones((3, 50))) == Interval(1.0, 1.0, 1.0, 3)


def test_holm_is_as_published() -> None:
    # Holm (1979) rejects the smallest of m at α/m, the next at α/(m − 1), …
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_an_interval_that_ends_at_zero_has_a_p_value_of_five_percent() -> None:
    error = 0.01 / 1.959964
    assert p_value(Interval(0.01, 0.0, 0.02, 5, standard_error=error)) == pytest.approx(0.05)
    assert p_value(Interval(0.0, -0.01, 0.01, 5, standard_error=error)) == pytest.approx(1.0)


def test_bounds_cut_an_interval_and_not_its_p_value() -> None:
    """One seed of three collapsed: the difference is large, and as uncertain as its uncut interval says."""
    gaps = np.repeat([[0.88], [0.88], [0.25]], 500, axis=1)
    cut, whole = interval(gaps), interval(gaps, (-9.0, 9.0))
    assert (cut.low < 0, cut.high) == (True, 1.0)
    assert whole.high > 1
    assert p_value(cut) == p_value(whole) > 0.05


@pytest.mark.parametrize("same_images", [True, False])
def test_a_difference_over_other_seeds_covers_the_truth(same_images: bool) -> None:
    generator = np.random.default_rng(13)
    truth = _truth(0.2, 3.0, 5.4) - _truth(0.2, 3.0, 5.0)
    covered = 0
    for _ in range(STUDIES):
        images = generator.normal(0, 3.0, (2, 800))
        images[1] = images[0] if same_images else images[1]
        one, two = (
            (generator.random((seeds, 800)) < expit(at + generator.normal(0, 0.2, seeds)[:, None] + hard)).astype(float)
            for at, seeds, hard in ((5.4, 5, images[0]), (5.0, 4, images[1]))
        )
        gap = difference(one, two, same_images=same_images)
        covered += gap.low <= truth <= gap.high
    assert 273 <= covered <= 299


def test_an_accuracy_is_no_less_than_nothing_and_a_loss_may_be_anything() -> None:
    """One seed of three collapsed upwards: the level's interval ends at 0, a difference's at -1."""
    level = np.repeat([[0.11], [0.11], [0.98]], 500, axis=1)
    assert interval(level, OBJECTIVES["accuracy"].levels).low == 0.0
    assert interval(level, OBJECTIVES["accuracy"].bounds).low < 0.0
    assert OBJECTIVES["gap"].levels == (-1.0, 1.0)
    assert OBJECTIVES["loss"].levels == OBJECTIVES["loss"].bounds == (-np.inf, np.inf)
