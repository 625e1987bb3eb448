"""The tables `[training]` and `[penalties]`: how every trial is trained, and where and when penalties act."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from studies.objectives import MonitorName
from studies.section import Section

Positive = Annotated[float, Field(gt=0)]


class ScheduleSpec(Section):
    """How the learning rate changes over a trial's own epochs; `schedule = "cosine"` is short for `{ name = "cosine" }`.

    step: times `factor` after `every` epochs. cosine: down to `minimum` over all epochs. one_cycle: from `learning_rate /
    initial_divisor` up to it in the first `warmup_share` of all steps, then down to the start's `final_divisor`-th part.
    """

    name: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    every: int = Field(1, gt=0, description="epochs between two steps")
    factor: float = Field(0.1, gt=0, description="of each step")
    minimum: float = Field(0.0, ge=0, description="last learning rate of cosine")
    warmup_share: float = Field(0.3, gt=0, lt=1)
    initial_divisor: float = Field(25.0, ge=1)
    final_divisor: float = Field(1e4, ge=1)

    OWN: ClassVar[dict[str, set[str]]] = {
        "step": {"every", "factor"},
        "cosine": {"minimum"},
        "one_cycle": {"warmup_share", "initial_divisor", "final_divisor"},
    }

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_this_schedule(self) -> ScheduleSpec:
        for name, field in type(self).model_fields.items():
            if name != "name" and name not in self.OWN.get(self.name, set()) and getattr(self, name) != field.default:
                raise ValueError(f"{name} is not for the schedule {self.name}")
        return self


class TrainingSpec(Section):
    """How every trial is trained."""

    epochs: int = Field(gt=0, description="most epochs of a trial")
    batch_size: int = Field(gt=0)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the layers; weights, optimizer and losses are float32 in either"
    )
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adam"
    learning_rate: float = Field(gt=0)
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd and rmsprop")
    nesterov: bool = Field(False, description="of sgd")
    beta1: float = Field(0.9, ge=0, lt=1, description="of adam and adamw")
    beta2: float = Field(0.999, ge=0, lt=1, description="of adam and adamw")
    alpha: float = Field(0.99, ge=0, lt=1, description="smoothing of rmsprop")
    eps: float = Field(1e-8, gt=0, description="of adam, adamw and rmsprop")
    schedule: ScheduleSpec = ScheduleSpec()
    patience: int | None = Field(None, gt=0, description="epochs without a better validation part after which a trial stops")
    monitor: MonitorName = Field("accuracy", description="what patience looks at, on the validation part; the study's objective")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a trial's whole gradient")
    class_weights: Annotated[
        Annotated[Literal["none", "balanced"], Tag("<name>")] | Annotated[list[Positive], Field(min_length=2), Tag("<list>")],
        Discriminator(lambda value: "<name>" if isinstance(value, str) else "<list>"),
    ] = Field("none", description="of the training loss: 'balanced', or one number a class")

    @model_validator(mode="after")
    def _fits_the_optimizer(self) -> TrainingSpec:
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(f"momentum is for sgd and rmsprop; {self.optimizer} has beta1")
        for name, owners in (("beta1", "adam"), ("beta2", "adam"), ("alpha", "rmsprop"), ("eps", "adam rmsprop")):
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and self.optimizer.removesuffix("w") not in owners.split():
                raise ValueError(f"{name} is for {' and '.join(owners.split())}, not for {self.optimizer}")
        if self.schedule.minimum > self.learning_rate:
            raise ValueError(f"schedule.minimum ({self.schedule.minimum:g}) is above learning_rate ({self.learning_rate:g})")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError("nesterov is for sgd")
        return self


class PenaltySpec(Section):
    """Where and when a penalty acts; how strong it is stands in `[search]`."""

    scope: Annotated[
        Annotated[Literal["weights", "all"], Tag("<name>")] | Annotated[list[str], Field(min_length=1), Tag("<list>")],
        Discriminator(lambda value: "<name>" if isinstance(value, str) else "<list>"),
    ] = Field("weights", description="'weights' (no biases, no norms), 'all' parameters, or layers: [\"dense1\", \"layer4.*\"]")
    start_epoch: int = Field(1, gt=0, description="a trial's first epoch in which it acts")
    warmup_epochs: int = Field(0, ge=0, description="epochs over which it grows to its full strength")


class ScaledPenaltySpec(PenaltySpec):
    """A penalty that is part of the objective, so that its scale is a matter of convention."""

    scale: Literal["sum", "mean"] = Field("sum", description="'mean': divided by the number of training images")


class L1Spec(ScaledPenaltySpec):
    """L1: `l1·Σ|w|`."""

    method: Literal["subgradient", "proximal"] = Field(
        "subgradient", description="'proximal': soft thresholding after each step, which leaves exact zeros"
    )


class PenaltiesSpec(Section):
    """Where and when each penalty acts."""

    l1: L1Spec = L1Spec()
    l2: ScaledPenaltySpec = ScaledPenaltySpec()
    weight_decay: PenaltySpec = PenaltySpec()
    max_norm: PenaltySpec = PenaltySpec()

    @model_validator(mode="after")
    def _limits(self) -> PenaltiesSpec:
        if self.max_norm.warmup_epochs:
            raise ValueError("max_norm: a limit has no warm-up, only a start_epoch")
        return self
