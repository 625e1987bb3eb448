"""What a study is: the data, the network, how it is trained, and what is searched. Frozen, and strict about its keys."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from studies.data import IMAGE_SETS, DataSpec, NormalizeSpec
from studies.model import ModelSpec
from studies.search import SearchSpec, canonical_loss, loss_terms
from studies.section import Section
from studies.training import PenaltiesSpec, TrainingSpec


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
    strategy: Literal["packed", "looped"] | None = Field(
        None, description="packed: several trials as one network; looped: one network after the other"
    )
    workers: int | None = Field(None, gt=0, description="worker processes; one a core if left out")

    @model_validator(mode="after")
    def _whole_packs(self) -> ArraySpec:
        if self.pack and not self.width:
            raise ValueError("pack needs width")
        if self.pack and self.width and self.width % self.pack:
            raise ValueError(f"width ({self.width}) must be a multiple of pack ({self.pack})")
        if self.strategy and self.pack and (self.pack == 1) != (self.strategy == "looped"):
            raise ValueError(f"pack ({self.pack}) contradicts the strategy {self.strategy}; leave one of them out")
        return self


EnqueuedValue = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[float, Tag("<number>")],
    Discriminator(lambda value: "<name>" if isinstance(value, str) else "<number>"),
]


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
    penalties: PenaltiesSpec = PenaltiesSpec()
    enqueue: list[dict[str, EnqueuedValue]] = Field(
        [], description="configurations to try first, beside the baselines: values of what is searched, the rest as in the baseline"
    )

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> StudySpec:
        for check in (self._check_images, self._check_dropout, self._check_losses, self._check_references, self._check_scopes):
            check()
        for values in self.enqueue:
            self.enqueued_params(values)
        return self

    def _check_images(self) -> None:
        images = IMAGE_SETS.get(self.data.name)
        if images is None:
            return
        if min(self.model.output_size(images.height, images.width)) < 1:
            raise ValueError(f"model.layers: images of {images.height}×{images.width} pixels are too small for these layers")
        weights, normalize = self.training.class_weights, self.data.normalize
        if isinstance(weights, list) and len(weights) != images.classes:
            raise ValueError(f"training.class_weights: {len(weights)} weights for the {images.classes} classes of {self.data.name}")
        if isinstance(normalize, NormalizeSpec) and not {len(normalize.means), len(normalize.stds)} <= {1, images.channels}:
            raise ValueError(f"data.normalize: images of {self.data.name} have {images.channels} channels")

    def _check_dropout(self) -> None:
        """Refuse to search rates of layers that are not there."""
        if not self.model.layers:
            return
        there = self.model.dropout_kinds
        for name in ("dropout", "dropout_input", "dropout_conv", "dropout_dense"):
            kinds = there if name == "dropout" else there & {name.removeprefix("dropout_")}
            if getattr(self.search, name) not in (None, 0.0) and not kinds:
                raise ValueError(f"search.{name}: model.layers has no such dropout layer")

    def _check_losses(self) -> None:
        """Refuse to search what none of the losses has."""
        used = {term.loss for text in self.search.losses for term in loss_terms(text)}
        owners = {"label_smoothing": "cross_entropy", "focal_gamma": "focal", "square_k": "square", "square_m": "square"}
        for name, owner in owners.items():
            setting = getattr(self.search, name)
            if owner not in used and setting != type(self.search).model_fields[name].default:
                raise ValueError(f"search.{name}: none of the losses is {owner}")

    def _check_references(self) -> None:
        if self.training.nesterov and not self.training.momentum and self.search.momentum is None:
            raise ValueError("training.nesterov needs momentum")
        if self.search.momentum is not None and self.training.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(f"search.momentum: {self.training.optimizer} has no momentum")
        for name in ("learning_rate", "momentum"):
            searched, reference = getattr(self.search, name), getattr(self.training, name)
            if searched is not None and searched.sampled(reference) is None:
                raise ValueError(f"search.{name} must contain training.{name} ({reference:g}), with which the baselines train")

    def _check_scopes(self) -> None:
        for name in ("l1", "l2", "weight_decay", "max_norm"):
            if (start := getattr(self.penalties, name).start_epoch) > self.training.epochs:
                raise ValueError(f"penalties.{name}.start_epoch: {start} is after the last epoch ({self.training.epochs})")
        if not self.model.layers:
            return
        for name in ("l1", "l2", "weight_decay", "max_norm"):
            scope = getattr(self.penalties, name).scope
            for pattern in scope if isinstance(scope, list) else []:
                if not fnmatch.filter(self.model.layer_names, pattern):
                    raise ValueError(
                        f"penalties.{name}.scope: no layer {pattern!r}; the network has {', '.join(self.model.layer_names)}"
                    )

    @property
    def baseline_is_bare(self) -> bool:
        """Whether the baselines have no regularization at all: nothing of it is fixed, nor, as far as is known, built in."""
        fixed = [value for name in self.search.REGULARIZERS if isinstance(value := getattr(self.search, name), float)]
        return not any(fixed) and (bool(self.model.layers) or self.search.dropout is not None)

    @property
    def baseline_params(self) -> dict[str, float]:
        """What the baselines give Optuna for each searched number."""
        params = {}
        for name, searched in self.search.ranges.items():
            if name in self.search.REGULARIZERS:
                assert searched.sampled_zero is not None
                params[name] = searched.sampled_zero
            elif name in ("learning_rate", "momentum"):
                params[name] = getattr(self.training, name)
            else:
                params[name] = min(max(self.search.OTHERS.get(name, 0.5), searched.low), searched.high)
        return params

    def enqueued_params(self, values: Mapping[str, float | str]) -> dict[str, float | str]:
        """Return what an enqueued configuration gives Optuna: the baseline's parameters but for the values it names.

        Raises:
            ValueError: it names something that is not searched, or a value that is not in its range.
        """
        ranges, params = self.search.ranges, dict[str, float | str](self.baseline_params)
        if isinstance(self.search.loss, list):
            params["loss"] = self.search.losses[0]
        for name, value in values.items():
            if name not in params:
                raise ValueError(f"enqueue: {name} is not searched; searched are {', '.join(params) or 'no values at all'}")
            sampled: float | str | None
            if name == "loss":
                text = _canonical(str(value))
                sampled = text if text in self.search.losses else None
            else:
                sampled = None if isinstance(value, str) else ranges[name].sampled(value)
            if sampled is None:
                raise ValueError(f"enqueue: search.{name} does not contain {value!r}")
            params[name] = sampled
        return params

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({"description", "trials", "array", "enqueue"})
    """Keys that an existing study may be continued with anew: its trials stay comparable."""

    def differences(self, other: StudySpec) -> list[str]:
        """Return a line for every value of another spec that makes its trials incomparable to this one's."""
        ours, theirs = (_flat(s.model_dump(mode="json", exclude=set(self.MAY_CHANGE))) for s in (self, other))
        return [
            f"{key}: {ours.get(key, 'absent')} in the study, {theirs.get(key, 'absent')} now"
            for key in sorted({*ours, *theirs})
            if ours.get(key) != theirs.get(key)
        ]


def _canonical(loss: str) -> str:
    try:
        return canonical_loss(loss)
    except ValueError:  # no loss at all, which its user is told where it is looked up
        return loss


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
