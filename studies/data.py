"""The table `[data]`: which images, how they are split, and what is done to them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from studies.section import Section, Share


class ImageSet(NamedTuple):
    """What a data set holds: images to train and validate on, images of its own test part, and their size."""

    images: int
    test_images: int
    channels: int
    height: int
    width: int
    classes: int


IMAGE_SETS = {
    "digits": ImageSet(1797, 0, 1, 8, 8, 10),
    "mnist": ImageSet(60_000, 10_000, 1, 28, 28, 10),
    "fashion_mnist": ImageSet(60_000, 10_000, 1, 28, 28, 10),
    "cifar10": ImageSet(50_000, 10_000, 3, 32, 32, 10),
    "cifar100": ImageSet(50_000, 10_000, 3, 32, 32, 100),
    "svhn": ImageSet(73_257, 26_032, 3, 32, 32, 10),
}
PATHS = ("folder:", "npz:")


class UnknownName(ValueError):
    """A name that is none of the known ones; the nearest of them is told to the user."""

    def __init__(self, known: tuple[str, ...]) -> None:
        super().__init__(f"allowed: {', '.join(known)}")
        self.known = known


def _known(name: str) -> str:
    if name not in IMAGE_SETS and not (name.startswith(PATHS) and re.sub(r"^\w+:", "", name).strip()):
        raise UnknownName((*IMAGE_SETS, *(f"{prefix}PATH" for prefix in PATHS)))
    return name


def _one_or_many(tag: str) -> Discriminator:
    return Discriminator(lambda value: "<list>" if isinstance(value, list | tuple) else tag)


PerChannel = Annotated[
    Annotated[list[float], Field(min_length=1), Tag("<list>")] | Annotated[float, Tag("<number>")], _one_or_many("<number>")
]


class NormalizeSpec(Section):
    """Inputs become `(pixel − mean) / std`, pixels from 0 to 1; one value for all channels, or one for each."""

    mean: PerChannel = 0.0
    std: PerChannel = 1.0

    @model_validator(mode="after")
    def _positive(self) -> NormalizeSpec:
        if any(value <= 0 for value in self.stds):
            raise ValueError("std must be greater than 0")
        return self

    @property
    def means(self) -> tuple[float, ...]:
        """One mean for all channels, or one for each."""
        return tuple(self.mean) if isinstance(self.mean, list) else (self.mean,)

    @property
    def stds(self) -> tuple[float, ...]:
        """One standard deviation for all channels, or one for each."""
        return tuple(self.std) if isinstance(self.std, list) else (self.std,)


class AugmentSpec(Section):
    """Random changes of the training images, drawn anew each epoch and the same for all trials of that epoch."""

    flip: bool = Field(False, description="left to right, every second image")
    shift: int = Field(0, ge=0, description="pixels up, down, left and right, at most")
    rotation: float = Field(0.0, ge=0, le=180, description="degrees to either side, at most")


class DataSpec(Section):
    """Which images, and how they are split. The test part is not looked at during a search."""

    name: Annotated[str, AfterValidator(_known)] = Field(
        description="digits, mnist, fashion_mnist, cifar10, cifar100, svhn, folder:PATH or npz:PATH"
    )
    train_size: int | None = Field(None, gt=0, description="training images; all that is left if left out")
    validation_size: Annotated[
        Annotated[int, Field(gt=0), Tag("<whole number>")] | Annotated[float, Field(gt=0, lt=1), Tag("<share>")],
        Discriminator(lambda value: "<share>" if isinstance(value, float) else "<whole number>"),
    ] = Field(0.1, description="images on which trials are compared: how many, or which share of those that are not test images")
    test_size: int | None = Field(
        None, ge=0, description="images kept for after the search; the set's own test part if left out, none if it has none"
    )
    label_noise: Share = Field(0.0, description="share of the training labels that are redrawn at random")
    split_seed: int = Field(0, ge=0, description="seed of the split and of the label noise")
    normalize: Annotated[
        Annotated[Literal["none", "standard"], Tag("<name>")] | Annotated[NormalizeSpec, Tag("<table>")],
        Discriminator(lambda value: "<name>" if isinstance(value, str) else "<table>"),
    ] = Field("none", description="'standard': by the training part's mean and standard deviation; or { mean, std }")
    augment: AugmentSpec = AugmentSpec()
    folds: int | None = Field(
        None, ge=2, le=100, description="cross-validation: a trial is so many runs of one array, and its value their mean"
    )
    fold_repeats: int = Field(1, ge=1, le=100, description="how often, each time with another division into folds")
    fold_mode: Literal["parallel", "sequential"] = Field(
        "parallel",
        description="of a trial: all in the array at once, or one after another in one slot, which pruning may cut short",
    )
    image_size: int | None = Field(None, gt=0, description="height and width that images of a folder are brought to")

    @model_validator(mode="after")
    def _enough_images(self) -> DataSpec:
        if self.fold_repeats > 1 and not self.folds:
            raise ValueError("fold_repeats is for folds; write folds = 5, for instance")
        if self.sequential and not self.folds:
            raise ValueError("fold_mode is for folds; write folds = 5, for instance")
        if self.image_size is not None and self.name.startswith("npz:"):
            raise ValueError("image_size is for folders; the images of an .npz file have one size")
        known = IMAGE_SETS.get(self.name)
        if known is None:
            return self
        if self.image_size is not None:
            raise ValueError(f"image_size is for folders; images of {self.name} have {known.height}×{known.width} pixels")
        pool, test = known.images, self.test_size or 0
        if known.test_images and test > known.test_images:
            raise ValueError(f"test_size asks for {test} images; the test part of {self.name} has {known.test_images}")
        if not known.test_images:
            pool -= test
        if not self.validation_images(pool):
            raise ValueError(f"validation_size ({self.validation_size:g}) leaves no image of {self.name} to validate on")
        wanted = (self.train_size or 1) + self.validation_images(pool)
        if wanted > pool:
            raise ValueError(f"the parts ask for {wanted + known.images - pool} images; {self.name} has {known.images}")
        return self

    @property
    def runs(self) -> int:
        """The number of runs of a trial in the search."""
        return (self.folds or 1) * self.fold_repeats

    @property
    def sequential(self) -> bool:
        """Whether a trial's runs follow one another."""
        return self.fold_mode == "sequential"

    @property
    def together(self) -> int:
        """The number of runs of a trial that are trained at once: the slots that it takes."""
        return 1 if self.sequential else self.runs

    def validation_images(self, pool: int) -> int:
        """Return how many of the images that are not test images are for validation."""
        return self.validation_size if isinstance(self.validation_size, int) else round(self.validation_size * pool)
