"""Splits are stratified, disjoint and seeded; inputs are the official images; every way in says what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import fake_folder, fake_mnist
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import functional as reference

from sweeper.job import DataSettings
from sweeper.training.datasets import DataError, load_data, stratified_split, with_label_noise


def test_digits_are_the_real_images() -> None:
    data = load_data(DataSettings("digits", 600, 597, 600))
    assert data.input_shape == (1, 8, 8)
    assert data.example.shape == (1, 1, 8, 8)
    assert data.classes == 10
    real = {(image.tobytes(), label) for image, label in zip(load_digits().images.astype("f"), load_digits().target, strict=True)}
    for part in (data.train, data.validation, data.test):
        inputs = data.inputs(part, slice(None))
        assert inputs.dtype == data.dtype == torch.float32
        mine = {(image.tobytes(), int(label)) for image, label in zip((inputs * 16).numpy(), part.labels, strict=True)}
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


def test_digits_keep_the_split_that_earlier_studies_were_made_with() -> None:
    parts = stratified_split(load_digits().target, (600, 597, 600), 0)
    assert [part[:4].tolist() for part in parts] == [[2, 7, 8, 11], [0, 3, 4, 5], [1, 9, 12, 13]]


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
    ("sizes", "expected"),
    [
        ({}, (1617, 180, 0)),
        ({"test_size": 297}, (1350, 150, 297)),
        ({"test_size": 297, "validation_size": 0.2}, (1200, 300, 297)),
        ({"train_size": 100, "validation_size": 50}, (100, 50, 0)),
    ],
)
def test_what_is_not_asked_for_goes_into_training(sizes: dict[str, float], expected: tuple[int, int, int]) -> None:
    data = load_data(DataSettings("digits", **sizes))
    assert (len(data.train), len(data.validation), len(data.test)) == expected
    assert data.inputs(data.test, slice(None)).shape == (expected[2], 1, 8, 8)


def test_standardized_training_inputs_have_mean_zero_and_deviation_one(tmp_path: Path) -> None:
    data = load_data(
        DataSettings(f"folder:{fake_folder(tmp_path / 'a')}", standardize=True, root=str(tmp_path)), dtype=torch.float64
    )
    inputs = data.inputs(data.train, torch.arange(len(data.train)))
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))
    assert data.mean.shape == data.std.shape == (3, 1, 1)
    assert data.inputs(data.validation, slice(None)).mean().abs() > 1e-4  # normalized by the training part's values


def test_given_mean_and_std_are_those_of_torchvision(tmp_path: Path) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    data = load_data(DataSettings(f"folder:{fake_folder(tmp_path / 'a')}", mean=mean, std=std, root=str(tmp_path)))
    for image, mine in zip(data.train.images, data.inputs(data.train, slice(None)), strict=True):
        theirs = reference.normalize(reference.to_tensor(Image.fromarray(image.permute(1, 2, 0).numpy())), mean, std)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            DataSettings("nonsense", 1, 1, 1),
            "unknown data set 'nonsense'; there is: cifar10, .*digits, .*mnist.*folder:PATH, npz:PATH",
        ),
        (DataSettings("folder:"), "unknown data set 'folder:'"),
        (
            DataSettings("digits", 1000, 500, 500),
            "has 1797 images; train_size 1000, validation_size 500 and test_size 500 need 2000",
        ),
        (DataSettings("digits", None, 1000, 797), "need 1798 or more"),
        (DataSettings("digits", 100, 0), "training and validation need an image"),
        (DataSettings("digits", 0, 10), "need"),
        (DataSettings("digits", mean=(0.1, 0.2)), "mean has 2 values; images of digits have 1 channels"),
        (DataSettings("digits", std=(0.0,)), "must be > 0"),
    ],
)
def test_what_cannot_be_had_is_said(settings: DataSettings, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(settings)


def test_a_smaller_test_part_is_a_seeded_share_of_the_official_one(tmp_path: Path) -> None:
    fake_mnist(tmp_path, name="FashionMNIST")
    settings = DataSettings("fashion_mnist", validation_size=0.5, test_size=10, root=str(tmp_path))
    one, again = load_data(settings), load_data(settings)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [30, 30, 10]
    assert sorted(one.test.labels.tolist()) == list(range(10))
    assert torch.equal(one.test.images, again.test.images)
    with pytest.raises(DataError, match="has 20 test images; test_size asks for 21"):
        load_data(DataSettings("fashion_mnist", test_size=21, root=str(tmp_path)))
    with pytest.raises(DataError, match="has 60 images beside its 20 test images"):
        load_data(DataSettings("fashion_mnist", train_size=60, root=str(tmp_path)))
