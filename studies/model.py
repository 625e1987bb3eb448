"""The table `[model]`: the network, as a list of layers or by the name of a function that builds it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from studies.section import Section

READY_MODELS = ("mlp", "resnet18")


def _plain(value: Any) -> Any:
    plain = (bool, int, float, str)
    if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(item, plain) for item in value)):
        return value
    raise ValueError("an option is a number, a text, true or false, or a list of them")


Option = Annotated[Any, AfterValidator(_plain)]


class LayerSpec(Section):
    """One layer, written `conv 32`, `conv 32 5x5`, `conv 32 same`, `pool`, `pool 3`, `dense 64`, `batch_norm` or `dropout`."""

    kind: Literal["conv", "pool", "dense", "dropout", "batch_norm"]
    units: int = 0
    kernel: int = 0
    padding: int = 0

    PATTERN: ClassVar[re.Pattern[str]] = re.compile(
        r"(?P<conv>conv) (?P<channels>[1-9]\d*)(?: (?P<size>[13579])x(?P=size))?(?P<same> same)?"
        r"|(?P<pool>pool)(?: (?P<window>[2-9]))?|(?P<dense>dense) (?P<units>[1-9]\d*)|(?P<plain>dropout|batch_norm)"
    )

    @classmethod
    def parse(cls, text: str) -> LayerSpec:
        """Read a layer as study files write it.

        Raises:
            ValueError: it is none of the forms above.
        """
        match = cls.PATTERN.fullmatch(" ".join(text.split()))
        if not match:
            forms = "'conv 32', 'conv 32 5x5', 'conv 32 same', 'pool', 'pool 3', 'dense 64', 'batch_norm' or 'dropout'"
            raise ValueError(f"a layer is {forms}")
        if match["conv"]:
            kernel = int(match["size"] or 3)
            return cls(kind="conv", units=int(match["channels"]), kernel=kernel, padding=kernel // 2 if match["same"] else 0)
        if match["pool"]:
            return cls(kind="pool", kernel=int(match["window"] or 2))
        if match["dense"]:
            return cls(kind="dense", units=int(match["units"]))
        return cls(kind="dropout" if match["plain"] == "dropout" else "batch_norm")


LayerText = Annotated[str, BeforeValidator(lambda text: (LayerSpec.parse(text), text)[1] if isinstance(text, str) else text)]


class ModelSpec(Section):
    """The network: `layers`, or a `name` with `options`. `model = "NAME"` and `model = [LAYERS]` are short for it.

    In a list of layers convolutions are unpadded unless they say `same`, and a last layer to the classes is added.
    """

    layers: list[LayerText] = Field(
        [],
        description="'conv 32', 'conv 32 5x5 same', 'pool', 'dense 64', 'batch_norm', 'dropout'; ReLU follows conv and dense",
    )
    name: str = Field("", description="mlp, resnet18, or a function of yours: 'package.module:function' or 'FILE.py:function'")
    options: dict[str, Option] = Field({}, description="keyword arguments of the function")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"layers": value}
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_network(self) -> ModelSpec:
        if bool(self.layers) == bool(self.name):
            raise ValueError("give either layers or name")
        if self.name and self.name not in READY_MODELS and not re.fullmatch(r"[^:]+(:[^:]+)?:[A-Za-z_]\w*", self.name):
            raise ValueError(f"name {self.name!r} is neither {' nor '.join(READY_MODELS)} nor 'package.module:function'")
        if self.layers and self.options:
            raise ValueError("options go with name")
        kinds = [layer.kind for layer in self.parsed]
        if "dense" in kinds and any(kind in ("conv", "pool") for kind in kinds[kinds.index("dense") :]):
            raise ValueError("conv and pool come before the first dense layer")
        for before, kind in zip(["nothing", *kinds], kinds, strict=False):
            if kind == "batch_norm" and before not in ("conv", "dense"):
                raise ValueError("batch_norm comes right after conv or dense (and before its ReLU)")
        return self

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers that have weights to penalize: `conv1`, `conv2`, `dense1`, …, `output`."""
        counts = Counter[str]()
        names = []
        for layer in self.parsed:
            if layer.kind in ("conv", "dense"):
                counts[layer.kind] += 1
                names.append(f"{layer.kind}{counts[layer.kind]}")
        return [*names, "output"]

    @property
    def dropout_kinds(self) -> set[str]:
        """The kinds of the dropout layers: by what stands before them, input, conv or dense."""
        kinds, at = set(), "input"
        for layer in self.parsed:
            at = layer.kind if layer.kind in ("conv", "dense") else at
            if layer.kind == "dropout":
                kinds.add(at)
        return kinds

    @property
    def title(self) -> str:
        """The network in one line."""
        if self.layers:
            return ", ".join(self.layers)
        options = ", ".join(f"{key} = {value}" for key, value in self.options.items())
        return f"{self.name} ({options})" if options else self.name

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
