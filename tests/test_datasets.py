"""The split is stratified, disjoint and seeded; label noise touches the training part only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from sweeper.training.datasets import DataError, load_data, stratified_split, with_label_noise
from sweeper.trial import DataSettings


def test_digits_are_the_real_images() -> None:
    data = load_data(DataSettings("digits", 600, 597, 600))
    assert data.input_shape == (1, 8, 8)
    assert data.classes == 10
    real = {(image.tobytes(), label) for image, label in zip(load_digits().images.astype("f"), load_digits().target, strict=True)}
    for part in (data.train, data.validation, data.test):
        mine = {(image.tobytes(), int(label)) for image, label in zip((part.images * 16).numpy(), part.labels, strict=True)}
        assert mine <= real
        assert len(mine) == len(part)


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    shares=st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.4)),
    seed=st.integers(0, 2**32),
)
def test_each_class_has_its_share_of_each_part(counts: list[int], shares: tuple[float, float], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sizes = tuple(int(share * len(labels)) for share in shares)
    parts = stratified_split(labels, sizes, seed)
    joined = np.concatenate(parts)
    assert len(set(joined.tolist())) == len(joined) == sum(sizes)
    for part, size in zip(parts, sizes, strict=True):
        assert len(part) == size
        for label, count in enumerate(counts):
            assert abs((labels[part] == label).sum() - size * count / len(labels)) <= 2


def test_the_split_has_a_seed_of_its_own() -> None:
    labels = np.arange(100) % 10
    one, again, other = (stratified_split(labels, (50, 20), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_label_noise_redraws_its_share_of_the_training_labels_only() -> None:
    clean = load_data(DataSettings("digits", 600, 597, 600))
    noisy = load_data(DataSettings("digits", 600, 597, 600, label_noise=0.2))
    changed = (clean.train.labels != noisy.train.labels).sum()
    assert 85 <= changed <= 120  # 120 are redrawn, a tenth of them by chance to what they were
    assert torch.equal(clean.train.images, noisy.train.images)
    assert torch.equal(clean.validation.labels, noisy.validation.labels)
    assert torch.equal(clean.test.labels, noisy.test.labels)


def test_no_noise_changes_nothing() -> None:
    labels = np.arange(50) % 5
    assert np.array_equal(with_label_noise(labels, 0.0, 5, 3), labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DataSettings("nonsense", 1, 1, 1), "unknown data set 'nonsense'; there is: digits"),
        (DataSettings("digits", 1000, 500, 500), r"has 1797 images; the parts \(1000, 500, 500\) ask for 2000"),
    ],
)
def test_what_cannot_be_had_is_said(settings: DataSettings, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(settings)
