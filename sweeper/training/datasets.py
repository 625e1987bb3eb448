"""Images and labels, split once into training, validation and test parts, as tensors on the device."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sweeper.trial import DataSettings, derive_seed


class DataError(ValueError):
    """The data cannot be had, or cannot be split as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images `[N, C, H, W]` and labels `[N]` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Data:
    """The three parts. A search trains on the first, looks at the second, and never at the third."""

    train: Part
    validation: Part
    test: Part
    classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` of one image."""
        return tuple(self.train.images.shape[1:])


def load_data(settings: DataSettings, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Data:
    """Load and split a data set.

    The parts are stratified: each class has its share in each part. Label noise replaces the labels of a random share of the
    training part by labels drawn uniformly from all classes; validation and test labels are left alone.

    Raises:
        DataError: the data set is unknown, its package is missing, or it is too small for the parts asked for.
    """
    if settings.name not in SOURCES:
        raise DataError(f"unknown data set {settings.name!r}; there is: {', '.join(sorted(SOURCES))}")
    images, labels = SOURCES[settings.name]()
    sizes = (settings.train_size, settings.validation_size, settings.test_size)
    if sum(sizes) > len(labels):
        raise DataError(f"data set {settings.name} has {len(labels)} images; the parts {sizes} ask for {sum(sizes)}")
    train, validation, test = stratified_split(labels, sizes, settings.split_seed)
    classes = int(labels.max()) + 1
    noisy = with_label_noise(labels[train], settings.label_noise, classes, settings.split_seed)

    def part(indices: np.ndarray, targets: np.ndarray) -> Part:
        pixels = torch.from_numpy(images[indices]).to(device, dtype)
        return Part(pixels, torch.from_numpy(targets).to(device))

    return Data(part(train, noisy), part(validation, labels[validation]), part(test, labels[test]), classes)


def stratified_split(labels: np.ndarray, sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Return disjoint index arrays of the given sizes, each with the classes in the proportions of `labels`.

    Every class is shuffled and its images are spread evenly over [0, 1); cutting that order anywhere cuts each class in the
    same proportion, to within one image.
    """
    generator = np.random.default_rng(derive_seed("split", seed))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    order = np.argsort(position, kind="stable")
    ends = np.cumsum(sizes)
    return [np.sort(order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def with_label_noise(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Return the labels with a random share of them redrawn uniformly from all classes (some by chance to what they were)."""
    generator = np.random.default_rng(derive_seed("label noise", seed))
    noisy = labels.copy()
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    noisy[chosen] = generator.integers(classes, size=len(chosen))
    return noisy


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Read scikit-learn's handwritten digits out of its wheel; importing scikit-learn for it would take a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data set digits needs scikit-learn: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    except OSError as error:
        raise DataError(f"data set digits: this scikit-learn does not bring the file {path.name}: {error}") from error
    return table[:, :64].reshape(-1, 1, 8, 8) / 16.0, table[:, 64].astype(np.int64)


SOURCES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {"digits": _digits}
"""Data sets by name: each returns images `[N, C, H, W]` float32 in [0, 1] and labels `[N]` int64."""
