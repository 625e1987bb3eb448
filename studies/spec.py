"""What a study is: the data, the network, how it is trained, and what is searched. Frozen, and strict about its keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

LossName = Literal["cross_entropy", "mse", "hinge"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A table of a study file: frozen, no unknown keys, no numbers from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ImageSet(NamedTuple):
    """What a data set holds."""

    images: int
    height: int
    width: int


IMAGE_SETS = {"digits": ImageSet(1797, 8, 8)}


class DataSpec(Section):
    """Which images, and how they are split. The test part is not looked at during a search."""

    name: Literal["digits"] = Field(description="data set: scikit-learn's handwritten digits")
    train_size: int = Field(gt=0, description="training images")
    validation_size: int = Field(gt=0, description="images on which trials are compared")
    test_size: int = Field(ge=0, description="images kept for after the search")
    label_noise: Share = Field(0.0, description="share of the training labels that are redrawn at random")
    split_seed: int = Field(0, ge=0, description="seed of the split and of the label noise")

    @model_validator(mode="after")
    def _enough_images(self) -> DataSpec:
        wanted, there_are = self.train_size + self.validation_size + self.test_size, IMAGE_SETS[self.name].images
        if wanted > there_are:
            raise ValueError(f"the parts ask for {wanted} images; {self.name} has {there_are}")
        return self


class LayerSpec(Section):
    """One layer, written `conv 32`, `conv 32 5x5`, `conv 32 same`, `pool`, `pool 3`, `dense 64` or `dropout`."""

    kind: Literal["conv", "pool", "dense", "dropout"]
    units: int = 0
    kernel: int = 0
    padding: int = 0

    PATTERN: ClassVar[re.Pattern[str]] = re.compile(
        r"(?P<conv>conv) (?P<channels>[1-9]\d*)(?: (?P<size>[13579])x(?P=size))?(?P<same> same)?"
        r"|(?P<pool>pool)(?: (?P<window>[2-9]))?|(?P<dense>dense) (?P<units>[1-9]\d*)|(?P<dropout>dropout)"
    )

    @classmethod
    def parse(cls, text: str) -> LayerSpec:
        """Read a layer as study files write it.

        Raises:
            ValueError: it is none of the forms above.
        """
        match = cls.PATTERN.fullmatch(" ".join(text.split()))
        if not match:
            raise ValueError("a layer is 'conv 32', 'conv 32 5x5', 'conv 32 same', 'pool', 'pool 3', 'dense 64' or 'dropout'")
        if match["conv"]:
            kernel = int(match["size"] or 3)
            return cls(kind="conv", units=int(match["channels"]), kernel=kernel, padding=kernel // 2 if match["same"] else 0)
        if match["pool"]:
            return cls(kind="pool", kernel=int(match["window"] or 2))
        if match["dense"]:
            return cls(kind="dense", units=int(match["units"]))
        return cls(kind="dropout")


LayerText = Annotated[str, BeforeValidator(lambda text: (LayerSpec.parse(text), text)[1] if isinstance(text, str) else text)]


class ModelSpec(Section):
    """The network, as a list of layers. Convolutions are unpadded unless they say `same`; a last layer to the classes is added."""

    layers: list[LayerText] = Field(
        min_length=1,
        description="'conv 32', 'conv 32 5x5 same', 'pool', 'dense 64', 'dropout'; conv and dense are followed by ReLU",
    )

    @model_validator(mode="after")
    def _images_before_features(self) -> ModelSpec:
        kinds = [layer.kind for layer in self.parsed]
        if "dense" in kinds and any(kind in ("conv", "pool") for kind in kinds[kinds.index("dense") :]):
            raise ValueError("conv and pool come before the first dense layer")
        return self

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the last feature maps for images of this size; not positive where the images are too small."""
        for layer in self.parsed:
            if layer.kind == "conv":
                height, width = (size + 2 * layer.padding - layer.kernel + 1 for size in (height, width))
            elif layer.kind == "pool":
                height, width = height // layer.kernel, width // layer.kernel
        return height, width

    @property
    def parsed(self) -> list[LayerSpec]:
        """The layers, read."""
        return [LayerSpec.parse(text) for text in self.layers]


class TrainingSpec(Section):
    """How every trial is trained."""

    epochs: int = Field(gt=0, description="most epochs of a trial")
    batch_size: int = Field(gt=0)
    optimizer: Literal["adam"] = "adam"
    learning_rate: float = Field(gt=0)


class RangeSpec(Section):
    """A range of numbers. `zero_below`: a sampled value under it trains with exactly 0, which a log range cannot hold."""

    low: float = Field(ge=0)
    high: float
    log: bool = False
    zero_below: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and self.low == 0:
            raise ValueError("a log range cannot begin at 0; give low > 0, and zero_below for 'none at all'")
        if self.zero_below is not None and not self.low < self.zero_below < self.high:
            raise ValueError(f"zero_below ({self.zero_below:g}) must lie between low ({self.low:g}) and high ({self.high:g})")
        return self

    @property
    def holds_zero(self) -> bool:
        """Whether some value of the range trains with exactly 0."""
        return self.low == 0 or self.zero_below is not None

    def effective(self, sampled: float) -> float:
        """Return the value that a sampled one trains with."""
        return 0.0 if self.zero_below is not None and sampled < self.zero_below else sampled


UNION_TAGS = frozenset({"<range>", "<number>", "<choices>", "<choice>"})
"""Which member of a union a value is read as, by its TOML type; so a mistake is told once, for the member that was meant."""

Searched = Annotated[
    Annotated[RangeSpec, Tag("<range>")] | Annotated[float, Tag("<number>")],
    Discriminator(lambda value: "<range>" if isinstance(value, dict | RangeSpec) else "<number>"),
]
Chosen = Annotated[
    Annotated[list[LossName], Field(min_length=1), Tag("<choices>")] | Annotated[LossName, Tag("<choice>")],
    Discriminator(lambda value: "<choices>" if isinstance(value, list) else "<choice>"),
]


class SearchSpec(Section):
    """What is searched: a number is fixed, a table is a range, a list is a choice."""

    l1: Searched = 0.0
    l2: Searched = 0.0
    dropout: Searched = 0.0
    loss: Chosen = "cross_entropy"

    @model_validator(mode="after")
    def _in_bounds(self) -> SearchSpec:
        for name in ("l1", "l2", "dropout"):
            value = getattr(self, name)
            if isinstance(value, RangeSpec):
                if not value.holds_zero:
                    raise ValueError(f"{name}: the baseline trains without it, so the range needs zero_below (or low = 0)")
                top = value.high
            else:
                top = value
                if value < 0:
                    raise ValueError(f"{name} = {value:g} must not be negative")
            if name == "dropout" and top >= 1:
                raise ValueError(f"dropout reaches {top:g}; it must stay below 1")
        if isinstance(self.loss, list) and len(set(self.loss)) != len(self.loss):
            raise ValueError("loss names a choice twice")
        return self

    @property
    def ranges(self) -> dict[str, RangeSpec]:
        """The numbers that are searched, by name."""
        return {name: v for name in ("l1", "l2", "dropout") if isinstance(v := getattr(self, name), RangeSpec)}

    @property
    def losses(self) -> list[str]:
        """The losses that are searched, or the one that is fixed."""
        return list(self.loss) if isinstance(self.loss, list) else [self.loss]


class SamplerSpec(Section):
    """Who proposes configurations."""

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(10, ge=0, description="random trials before TPE's model takes over")


class PrunerSpec(Section):
    """Who stops hopeless trials. Successive halving keeps 1 in `reduction_factor` at epochs min_epochs · reduction_factor^k."""

    name: Literal["successive_halving", "none"] = "successive_halving"
    min_epochs: int = Field(3, gt=0)
    reduction_factor: int = Field(3, ge=2)


class ArraySpec(Section):
    """How many trials a worker trains at once; by default it measures what is fastest."""

    width: int | None = Field(None, gt=0, le=1024, description="trials a worker holds at once")
    pack: int | None = Field(None, gt=0, le=1024, description="how many of them run as one network; width if left out")
    workers: int | None = Field(None, gt=0, description="worker processes; one a core if left out")

    @model_validator(mode="after")
    def _whole_packs(self) -> ArraySpec:
        if self.pack and not self.width:
            raise ValueError("pack needs width")
        if self.pack and self.width and self.width % self.pack:
            raise ValueError(f"width ({self.width}) must be a multiple of pack ({self.pack})")
        return self


class StudySpec(Section):
    """A whole study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, '.', '_' and '-'")
    description: str = ""
    seed: int = Field(0, ge=0)
    trials: int = Field(gt=0, description="trials in the study, over all calls")
    data: DataSpec
    model: ModelSpec
    training: TrainingSpec
    search: SearchSpec
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()
    array: ArraySpec = ArraySpec()

    @model_validator(mode="after")
    def _images_fit_the_network(self) -> StudySpec:
        images = IMAGE_SETS[self.data.name]
        if min(self.model.output_size(images.height, images.width)) < 1:
            raise ValueError(f"model.layers: images of {images.height}×{images.width} pixels are too small for these layers")
        return self

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({"description", "trials", "array"})
    """Keys that an existing study may be continued with anew: its trials stay comparable."""

    def differences(self, other: StudySpec) -> list[str]:
        """Return a line for every value of another spec that makes its trials incomparable to this one's."""
        ours, theirs = (_flat(s.model_dump(mode="json", exclude=set(self.MAY_CHANGE))) for s in (self, other))
        return [
            f"{key}: {ours.get(key, 'absent')} in the study, {theirs.get(key, 'absent')} now"
            for key in sorted({*ours, *theirs})
            if ours.get(key) != theirs.get(key)
        ]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
