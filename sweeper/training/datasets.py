"""Images and labels on the device, split once into training, validation and test parts, and made into inputs batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sweeper.job import Augmentation, DataSettings
from sweeper.training.augment import augment
from sweeper.training.image_source import DataError, Source
from sweeper.training.memory import available
from sweeper.training.sources import load_source
from sweeper.training.streaming import StreamedImages
from sweeper.trial import derive_seed

__all__ = ["Data", "DataError", "Part", "load_data", "stratified_split", "with_label_noise"]

SHARE_OF_MEMORY = 0.5
"""Of a device's free memory, what images may take: the rest is for networks."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, on the device; images that do not fit there are streamed."""

    images: Tensor | StreamedImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Fold:
    """What a run trains and is validated on: the images of `train` with these numbers (int64, on the CPU), and `validation`."""

    train: Part
    rows: Tensor
    validation: Part


@dataclass(frozen=True, slots=True)
class Data:
    """The three parts, and what makes inputs of their pixels. A search trains on the first, looks at the second, never at the last.

    `mean` and `std` are `[C, 1, 1]`, in units of `brightest`, the value of the brightest pixel; inputs have their dtype.
    Pixels stay bytes until they are used: a quarter of the memory, and of what a batch reads. `folds` are those of a
    cross-validation over the images of the first two parts.
    """

    train: Part
    validation: Part
    test: Part
    classes: int
    mean: Tensor
    std: Tensor
    brightest: float = 255.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    folds: tuple[Fold, ...] = ()
    _normalize: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Asked once: on a GPU every look at a tensor's values waits for all that was queued before.
        object.__setattr__(self, "_normalize", bool((self.mean != 0).any() or (self.std != 1).any()))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def dtype(self) -> torch.dtype:
        """The type of inputs."""
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        """Where the images lie and the inputs are made."""
        return self.train.images.device

    @property
    def example(self) -> Tensor:
        """One input, `[1, C, H, W]`, from which a network can learn its shapes."""
        return self.inputs(self.train, slice(0, 1))

    def inputs(self, part: Part, rows: Tensor | slice) -> Tensor:
        """Return images of a part as a network sees them, `(pixels / brightest - mean) / std`, float `[B, C, H, W]`."""
        return self._normalized(self._scaled(part.images[rows]))

    def training_inputs(self, rows: Tensor, seed: int) -> Tensor:
        """Return training images, float `[B, C, H, W]`, with the random changes that were asked for.

        Args:
            rows: int64 `[B]`, numbers of training images.
            seed: decides, with an image's number, how it is changed, in whatever batch it is; another one for each epoch.
        """
        return self._changed(self._scaled(self.train.images[rows]), rows, seed)

    def of_fold(self, fold: int | None) -> Fold:
        """Return what runs of a fold train and are validated on; None: on the two parts."""
        return Fold(self.train, torch.arange(len(self.train)), self.validation) if fold is None else self.folds[fold]

    def training_batches(self, part: Part, order: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `[B, C, H, W]`, changed as by `training_inputs`, and labels `[B]` of one minibatch after the other.

        Args:
            part: whose images they are.
            order: int64 `[N]`, on the CPU: numbers of images of this part.
            size: images of a minibatch; the last one may have fewer.
            seed: as for `training_inputs`.
        """
        batches = _minibatches(order.to(self.device), size)
        for rows, images in zip(batches, _fetched(part, _minibatches(order, size), batches), strict=True):
            yield self._changed(self._scaled(images), rows, seed), part.labels.index_select(0, rows)

    def batches(self, part: Part, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `[B, C, H, W]` and labels `[B]` of a part, in its order."""
        rows = _minibatches(torch.arange(len(part)), size)
        slices = [slice(int(some[0]), int(some[-1]) + 1) for some in rows]
        for some, images in zip(slices, _fetched(part, rows, slices), strict=True):
            yield self._normalized(self._scaled(images)), part.labels[some]

    def _scaled(self, images: Tensor) -> Tensor:
        return images.to(self.dtype).div_(self.brightest)

    def _changed(self, images: Tensor, rows: Tensor, seed: int) -> Tensor:
        return self._normalized(augment(images, rows, seed, self.augmentation) if self.augmentation else images)

    def _normalized(self, images: Tensor) -> Tensor:
        return images.sub_(self.mean).div_(self.std) if self._normalize else images


def _minibatches(order: Tensor, size: int) -> list[Tensor]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _fetched(part: Part, on_cpu: Sequence[Tensor], on_device: Sequence[Tensor | slice]) -> Iterator[Tensor]:
    """Yield the images of each batch, whose rows are given both ways."""
    images = part.images
    if isinstance(images, StreamedImages):
        return images.batches(on_cpu)
    # index_select copies whole images, ten times as fast as the pixels that indexing looks up one by one
    return (images[rows] if isinstance(rows, slice) else images.index_select(0, rows) for rows in on_device)


def load_data(
    settings: DataSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    streamed: bool | None = None,
) -> Data:
    """Load and split a data set; inputs will have the given type.

    Images stay where they were read from, and are streamed, if `streamed` says so or, with None, if they would take more than
    `SHARE_OF_MEMORY` of what the device has left.

    The parts are stratified: each class has its share in each part. Label noise replaces the labels of a random share of the
    training part by labels drawn uniformly from all classes; validation and test labels are left alone.

    Raises:
        DataError: the data set is unknown, cannot be had, or is too small for the parts asked for; or the mean and the standard
            deviation do not suit it.
    """
    source = load_source(settings)
    images, labels = source.pool
    sizes = _sizes(settings, source)
    train, validation, rest = stratified_split(labels, sizes, settings.split_seed)
    if settings.whole:
        train = np.sort(np.concatenate([train, validation]))
    noisy = with_label_noise(labels[train], settings.label_noise, source.classes, settings.split_seed)
    test_images, test_rows = (images, rest) if source.test is None else (source.test[0], _official_test(settings, source.test[1]))
    test_labels = (labels if source.test is None else source.test[1])[test_rows]
    mean, std = _mean_and_std(settings, images, train, source.brightest)
    if streamed is None:
        size = images[0].nbytes * sum(len(targets) for targets in (train, validation, test_labels))
        streamed = size > SHARE_OF_MEMORY * available(torch.device(device))

    pool = np.sort(np.concatenate([train, validation])) if settings.folds else train[:0]

    def part(pixels: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> Part:
        on_device = torch.from_numpy(targets).to(device)
        if streamed:
            return Part(StreamedImages(pixels, rows, device), on_device)
        return Part(torch.from_numpy(pixels[rows]).to(device), on_device)

    return Data(
        part(images, train, noisy),
        part(images, validation, labels[validation]),
        part(test_images, test_rows, test_labels),
        source.classes,
        mean=torch.from_numpy(mean).to(device, dtype),
        std=torch.from_numpy(std).to(device, dtype),
        brightest=source.brightest,
        augmentation=settings.augmentation,
        folds=tuple(_folds(settings, labels[pool], part, images, pool, source.classes)) if settings.folds else (),
    )


def _folds(
    settings: DataSettings,
    labels: np.ndarray,
    part: Callable[[np.ndarray, np.ndarray, np.ndarray], Part],
    images: np.ndarray,
    pool: np.ndarray,
    classes: int,
) -> Iterator[Fold]:
    """Yield the folds of each repetition: stratified, validated on labels as they are, trained on those with noise."""
    if len(pool) < settings.folds:
        raise DataError(f"data set {settings.name}: {len(pool)} images cannot be divided into {settings.folds} folds")
    whole = part(images, pool, with_label_noise(labels, settings.label_noise, classes, settings.split_seed))
    sizes = tuple((len(pool) + i) // settings.folds for i in range(settings.folds))
    for repeat in range(settings.fold_repeats):
        for rows in stratified_split(labels, sizes, derive_seed("folds", settings.split_seed, repeat)):
            others = np.setdiff1d(np.arange(len(pool)), rows)
            yield Fold(whole, torch.from_numpy(others), part(images, pool[rows], labels[rows]))


def _sizes(settings: DataSettings, source: Source) -> tuple[int, int, int]:
    """Return how many images of the pool go into the training, validation and test part."""
    name, there = settings.name, len(source.pool[1])
    test = 0 if source.test is not None else settings.test_size or 0
    share = settings.validation_size
    validation = round(share * (there - test)) if share < 1 else int(share)
    train = there - test - validation if settings.train_size is None else settings.train_size
    asked = f"train_size {settings.train_size}, validation_size {share} and test_size {settings.test_size}"
    if train + validation + test > there or train < 1:
        beside = f" beside its {len(source.test[1])} test images" if source.test is not None else ""
        needed = f"{max(train, 1) + validation + test}" + (" or more" if settings.train_size is None else "")
        raise DataError(f"data set {name} has {there} images{beside}; {asked} need {needed}: ask for less")
    if validation < 1 or test < 0:
        raise DataError(f"data set {name}: {asked} leave a part empty; training and validation need an image at least")
    return train, validation, test


def _official_test(settings: DataSettings, labels: np.ndarray) -> np.ndarray:
    """Return which images of the set's own test part are used."""
    size = len(labels) if settings.test_size is None else settings.test_size
    if not 0 <= size <= len(labels):
        raise DataError(f"data set {settings.name} has {len(labels)} test images; test_size asks for {size}")
    (chosen,) = stratified_split(labels, (size,), settings.split_seed)
    return chosen


def _mean_and_std(settings: DataSettings, images: np.ndarray, rows: np.ndarray, brightest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of some images to normalize all by, float64 `[C, 1, 1]`, in units of the brightest
    pixel.
    """
    channels = images.shape[1]
    if settings.standardize:
        counts = _histogram(images, rows)
        share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / brightest
        mean = share @ value
        std = np.sqrt((share * (value - mean[:, None]) ** 2).sum(1))
    else:
        for key, values in (("mean", settings.mean), ("std", settings.std)):
            if len(values) not in {1, channels}:
                raise DataError(
                    f"{key} has {len(values)} values; images of {settings.name} have {channels} channels: give one or {channels}"
                )
        mean, std = (np.broadcast_to(np.array(values, np.float64), channels).copy() for values in (settings.mean, settings.std))
    if not (std > 0).all():
        why = (
            "a channel of the training images is the same everywhere: leave standardize out"
            if settings.standardize
            else "must be > 0"
        )
        raise DataError(f"std {std.tolist()} of {settings.name}: {why}")
    return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)


def _histogram(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Count the pixels of each value, `[C, 256]`, some images at a time, for `bincount` makes eight bytes of one."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(rows), 4096):
        some = images[rows[start : start + 4096]]
        counts += [np.bincount(some[:, channel].ravel(), minlength=256) for channel in range(len(counts))]
    return counts


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
