"""What a study is: the data, the network, how it is trained, and what is searched. Frozen, and strict about its keys."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from studies.data import IMAGE_SETS, DataSpec, NormalizeSpec
from studies.model import ModelSpec
from studies.objectives import ACCURACY, MONITORS, OBJECTIVES, Objective, ObjectiveName
from studies.search import OWNERS, SearchSpec, canonical_loss, loss_terms
from studies.section import RangeSpec, Section
from studies.strategy import BudgetSpec, ConfirmSpec, PrunerSpec, SamplerSpec, WarmStartSpec
from studies.training import PenaltiesSpec, TrainingSpec


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
    budget: BudgetSpec = BudgetSpec()
    array: ArraySpec = ArraySpec()
    penalties: PenaltiesSpec = PenaltiesSpec()
    objectives: list[ObjectiveName] = Field(
        ["accuracy"], min_length=1, max_length=2, description="what the search is after, on the validation part: one metric, or two"
    )
    metrics: list[Literal["macro_f1", "ece", "class_accuracy", "balanced_accuracy", "worst_class_accuracy", "log_loss"]] = Field(
        [], description="what else is measured on the validation part, at the end of each trial that was not pruned"
    )
    confirm: ConfirmSpec = ConfirmSpec()
    warm_start: WarmStartSpec | None = None
    enqueue: list[dict[str, EnqueuedValue]] = Field(
        [], description="configurations to try first, beside the baselines: values of what is searched, the rest as in the baseline"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_the_objectives_have_it(cls, value: Any) -> Any:
        """Where nothing is said of it, do not prune by two objectives, and let patience look at the first."""
        if not isinstance(value, dict) or not isinstance(of := value.get("objectives"), list):
            return value
        if len(of) > 1 and "pruner" not in value:
            value = value | {"pruner": {"name": "none"}}
        training = value.get("training")
        if isinstance(training, dict) and "monitor" not in training and of and of[0] in MONITORS:
            value = value | {"training": training | {"monitor": of[0]}}
        return value

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> StudySpec:
        for check in (
            self._check_images, self._check_dropout, self._check_losses, self._check_references, self._check_scopes,
            self._check_objectives, self._check_sampler, self._check_folds,
        ):  # fmt: skip
            check()
        for values in self.enqueue:
            self.enqueued_params(values)
        if self.array.width and self.array.width % self.data.together:
            raise ValueError(f"array.width ({self.array.width}) must be a multiple of the {self.data.together} runs of a trial")
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
        for name, owner in OWNERS.items():
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

    def _check_objectives(self) -> None:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives: {self.objectives[0]} stands there twice")
        if "loss" in self.objectives:
            self._check_that_losses_compare()
        if self.budget.accuracy is not None and self.objective is not ACCURACY:
            raise ValueError(f"budget.accuracy: the study is after the {self.objective.metric}; write budget.target")
        if self.has_two_objectives and self.pruner.decides:
            raise ValueError("pruner: with two objectives there is no pruning; write pruner.name = 'none', or nothing")
        if "zero_weights" not in self.objectives:
            return
        if self.penalties.l1.method != "proximal" or (self.search.l1 == 0.0 and self.search.elastic_net == 0.0):
            raise ValueError(
                "objectives: zero_weights needs search.l1 and penalties.l1.method = 'proximal', which leaves exact zeros"
            )
        if self.training.patience is not None:
            raise ValueError("objectives: zero_weights is of the last epoch; training.patience brings back the weights of another")

    def _check_that_losses_compare(self) -> None:
        """Refuse to compare values of different functions: each trial's loss is its own."""
        different = [name for name in OWNERS if name in self.search.ranges]
        mixed = [name for name in self.search.ranges if name.startswith("mix_")]
        if len(self.search.losses) > 1 or different or mixed:
            several = len(self.search.losses) > 1
            what = "trials differ in their loss" if several else f"search.{(different or ['loss'])[0]} changes it"
            raise ValueError(f"objectives: {what}, so its values do not compare; write log_loss, which is the same for all of them")

    def _check_sampler(self) -> None:
        """Refuse a sampler that cannot search this space."""
        name, search = self.sampler.name, self.search
        if name == "grid":
            if open_ranges := [number for number, searched in search.ranges.items() if searched.grid is None]:
                if open_ranges[0].startswith("mix_"):
                    raise ValueError("sampler: grid needs values to count; write the weights of mixtures into search.loss")
                raise ValueError(f"sampler: grid needs values to count; give search.{open_ranges[0]} a step, or a list")
            if search.conditional:
                raise ValueError(f"sampler: grid cannot search {search.conditional[0]}, which not every trial has")
        if name == "cma_es":
            ranges = [number for number, searched in search.ranges.items() if isinstance(searched, RangeSpec)]
            if len(set(ranges) - set(search.conditional)) < 2:
                raise ValueError("sampler: cma_es needs two ranges to search, or more, that every trial has a number of")
            if self.has_two_objectives:
                raise ValueError("sampler: cma_es has one objective; nsga_ii and tpe have two")

    def _check_folds(self) -> None:
        """Refuse pruning that looks at folds where they are trained at once, and at epochs where they are not."""
        name, data = self.pruner.name, self.data
        if name == "wilcoxon":
            if not data.sequential:
                raise ValueError("pruner: wilcoxon compares folds that follow one another; write data.fold_mode = 'sequential'")
            if 0.5 ** (data.runs - 1) >= self.pruner.p_threshold:  # the least that the test gives before the last fold
                raise ValueError(
                    f"pruner: wilcoxon cannot tell trials apart at p < {self.pruner.p_threshold:g} before the last of "
                    f"{data.runs} folds; write more data.folds or data.fold_repeats"
                )
        elif data.sequential and self.pruner.decides:
            what = "patience" if name == "none" else name
            raise ValueError(f"pruner: {what} compares epochs; with data.fold_mode = 'sequential' use wilcoxon, or none")

    @property
    def trial_epochs(self) -> int:
        """The epochs of a trial, one after another: those of a run, or of all its folds where these follow one another."""
        return self.training.epochs * self.data.runs // self.data.together

    @property
    def objective(self) -> Objective:
        """What trials are ranked by; with two objectives, the first."""
        return OBJECTIVES[self.objectives[0]]

    @property
    def second_objective(self) -> Objective | None:
        """The other one of two objectives."""
        return OBJECTIVES[self.objectives[1]] if self.has_two_objectives else None

    @property
    def has_two_objectives(self) -> bool:
        """Whether trials are compared by another metric too."""
        return len(self.objectives) > 1

    @property
    def baseline_is_bare(self) -> bool:
        """Whether the baselines have no regularization at all: nothing of it is fixed, nor, as far as is known, built in."""
        chosen = ("l1", "l2") if self.search.penalty is not None else ()
        strengths = [getattr(self.search, name) for name in self.search.REGULARIZERS if name not in chosen]
        fixed = any(isinstance(value, float) and value for value in strengths)
        return not fixed and (bool(self.model.layers) or self.search.dropout is not None)

    def baseline_params(self, loss: str) -> dict[str, float | str]:
        """Return what the baseline of a loss gives Optuna for all that is searched."""
        choices = self._choices({"loss": loss})
        return {name: self._reference(name) for name in self.search.ranges if self.search.has(name, choices)} | choices

    def _choices(self, values: Mapping[str, float | str]) -> dict[str, str]:
        """Return what is chosen with these values: the first loss if they name none, the penalty that they name strengths of."""
        penalty = " + ".join(name for name in ("l1", "l2") if name in values) or "none"
        chosen = {}
        for name, options in self.search.choices.items():
            value = str(values.get(name, penalty if name == "penalty" else options[0]))
            chosen[name] = _canonical(value) if name == "loss" else value
            if chosen[name] not in options:
                raise ValueError(f"enqueue: search.{name} does not contain {value!r}")
        return chosen

    def _reference(self, name: str) -> float:
        """Return what a baseline gives Optuna for a searched number: none of a regularizer, the usual value of anything else."""
        searched = self.search.ranges[name]
        if name in self.search.REGULARIZERS:
            assert searched.sampled_zero is not None
            return searched.sampled_zero
        if name in ("learning_rate", "momentum"):
            return float(getattr(self.training, name))
        return searched.nearest(self.search.OTHERS.get(name, 0.5))

    def enqueued_params(self, values: Mapping[str, float | str]) -> dict[str, float | str]:
        """Return what an enqueued configuration gives Optuna: the baseline's parameters but for the values it names.

        Raises:
            ValueError: it names something that is not searched, or a value that is not in its range.
        """
        search, params = self.search, dict[str, float | str]()
        known = [*search.ranges, *search.choices]
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"enqueue: {unknown[0]} is not searched; searched are {', '.join(known) or 'no values at all'}")
        choices = self._choices(values)
        for name, searched in search.ranges.items():
            if not search.has(name, choices):
                if name in values:
                    raise ValueError(f"enqueue: {name} does not go with {' and '.join(choices.values())}")
            elif name in values:
                value = values[name]
                sampled = None if isinstance(value, str) else searched.sampled(value)
                if sampled is None:
                    raise ValueError(f"enqueue: search.{name} does not contain {value!r}")
                params[name] = sampled
            elif name in ("l1", "l2") and "penalty" in choices:
                raise ValueError(f"enqueue: the penalty {choices['penalty']} needs a value of {name}")
            else:
                params[name] = self._reference(name)
        return params | choices

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {"description", "trials", "budget", "array", "confirm", "metrics", "enqueue", "warm_start"}
    )
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
