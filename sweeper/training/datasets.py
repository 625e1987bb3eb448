"""Images and labels on the device, split once into training, validation and test parts, and made into inputs batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sweeper.job import Augmentation, DataSettings
from sweeper.training.augment import augment
from sweeper.training.image_source import DataError, Images, Source
from sweeper.training.sources import load_source
from sweeper.trial import derive_seed

__all__ = ["Data", "DataError", "Part", "load_data", "stratified_split", "with_label_noise"]


@dataclass(frozen=True, slots=True)
class Part:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, on the device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Data:
    """The three parts, and what makes inputs of their pixels. A search trains on the first, looks at the second, never at the last.

    `mean` and `std` are `[C, 1, 1]`, in units of `brightest`, the value of the brightest pixel; inputs have their dtype.
    Pixels stay bytes until they are used: a quarter of the memory, and of what a batch reads.
    """

    train: Part
    validation: Part
    test: Part
    classes: int
    mean: Tensor
    std: Tensor
    brightest: float = 255.0
    augmentation: Augmentation = field(default_factory=Augmentation)
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
        return self._normalized(self._scaled(part, rows))

    def training_inputs(self, rows: Tensor, seed: int) -> Tensor:
        """Return training images, float `[B, C, H, W]`, with the random changes that were asked for.

        Args:
            rows: int64 `[B]`, numbers of training images.
            seed: decides, with an image's number, how it is changed, in whatever batch it is; another one for each epoch.
        """
        images = self._scaled(self.train, rows)
        if self.augmentation:
            images = augment(images, rows, seed, self.augmentation)
        return self._normalized(images)

    def _scaled(self, part: Part, rows: Tensor | slice) -> Tensor:
        return part.images[rows].to(self.dtype).div_(self.brightest)

    def _normalized(self, images: Tensor) -> Tensor:
        return images.sub_(self.mean).div_(self.std) if self._normalize else images


def load_data(settings: DataSettings, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Data:
    """Load and split a data set; inputs will have the given type.

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
    noisy = with_label_noise(labels[train], settings.label_noise, source.classes, settings.split_seed)
    test = (images[rest], labels[rest]) if source.test is None else _official_test(settings, source.test)
    pixels = images[train]
    mean, std = _mean_and_std(settings, pixels, source.brightest)

    def part(pixels: np.ndarray, targets: np.ndarray) -> Part:
        return Part(torch.from_numpy(pixels).to(device), torch.from_numpy(targets).to(device))

    return Data(
        part(pixels, noisy),
        part(images[validation], labels[validation]),
        part(*test),
        source.classes,
        mean=torch.from_numpy(mean).to(device, dtype),
        std=torch.from_numpy(std).to(device, dtype),
        brightest=source.brightest,
        augmentation=settings.augmentation,
    )


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


def _official_test(settings: DataSettings, official: Images) -> Images:
    images, labels = official
    size = len(labels) if settings.test_size is None else settings.test_size
    if not 0 <= size <= len(labels):
        raise DataError(f"data set {settings.name} has {len(labels)} test images; test_size asks for {size}")
    (chosen,) = stratified_split(labels, (size,), settings.split_seed)
    return images[chosen], labels[chosen]


def _mean_and_std(settings: DataSettings, images: np.ndarray, brightest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation to normalize by, float64 `[C, 1, 1]` each, in units of the brightest pixel."""
    channels = images.shape[1]
    if settings.standardize:
        counts = np.stack([_histogram(images[:, channel]) for channel in range(channels)])
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


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Count the values of bytes, some images at a time, for `bincount` makes eight bytes of one."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(pixels), 4096):
        counts += np.bincount(pixels[start : start + 4096].ravel(), minlength=256)
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
