"""The format of the best configuration: all that is needed to train it again. Its JSON Schema is docs/best.schema.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from studies.objectives import ObjectiveName
from sweeper.errors import BestFileError

VERSION = 2


class Part(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyPart(Part):
    """Where the configuration comes from."""

    name: str
    trial: int = Field(ge=0, description="number of the trial in the study")
    trials: dict[str, int] = Field(description="trials of the study, by final state")


class HyperparameterPart(Part):
    """What the search chose. The objective is mean loss + l1·Σ|w| + (l2/2)·Σw² over weights, not biases."""

    l1: float = Field(0.0, ge=0)
    l2: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.0, ge=0, description="decoupled, as AdamW's")
    max_norm: float = Field(0.0, ge=0, description="largest norm of a unit's incoming weights; 0: no limit")
    dropout: float | None = Field(None, ge=0, lt=1, description="null: as the network is built")
    dropout_input: float | None = Field(None, ge=0, lt=1, description="null: as dropout")
    dropout_conv: float | None = Field(None, ge=0, lt=1, description="null: as dropout")
    dropout_dense: float | None = Field(None, ge=0, lt=1, description="null: as dropout")
    loss: str
    loss_weights: dict[str, float] = Field({}, description="the terms of a mixture of losses")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    focal_gamma: float = Field(2.0, ge=0)
    square_k: float = Field(1.0, ge=0)
    square_m: float = Field(1.0, ge=0)
    learning_rate: float = Field(gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)


class SeedPart(Part):
    """All that was random."""

    study: int = Field(description="the study's seed, from which the others derive")
    run: int = Field(description="initial weights and dropout of the trial")
    split: int = Field(description="split of the data, and label noise")
    stream: int = Field(description="order of the training images")
    stream_start: int = Field(description="epoch of that stream at which the trial began")
    stream_resumed: list[tuple[int, int]] = Field(
        [], description="where it went on after interruptions, or with its next fold: finished epochs, epoch of the stream"
    )


class MetricPart(Part):
    """What the trial reached in the search. Validation data chose it: on new data expect a little less."""

    validation_accuracy: float = Field(description="in the last epoch, or in the one whose weights patience restored")
    validation_loss: float | None
    train_accuracy: float | None
    train_loss: float | None
    epochs: int
    best_epoch: int | None = Field(None, description="the epoch that patience restored")
    baseline_validation_accuracy: dict[str, float] = Field(description="the same without regularization, by loss")


class ObjectivePart(Part):
    """What the search was after, on the validation part: this trial's value, and the same without regularization, by loss."""

    name: ObjectiveName = "accuracy"
    minimized: bool = Field(False, description="the lower, the better")
    value: float | None = Field(None, description="null: the file is older, and the objective was the accuracy in `metrics`")
    baseline: dict[str, float] = {}


class IntervalPart(Part):
    """A mean over fresh seeds and images with its 95 % interval; `std` is the standard deviation over seeds."""

    mean: float
    low: float
    high: float
    std: float = Field(ge=0)


class ConfirmedObjectivePart(Part):
    """What the configuration reaches by the search's objective. Gains are its values less the baseline's, paired by seed."""

    validation: IntervalPart | None = Field(None, description="null: training diverged with a seed")
    test: IntervalPart | None = None
    baseline_validation: IntervalPart | None = None
    baseline_test: IntervalPart | None = None
    validation_gain: IntervalPart | None = None
    test_gain: IntervalPart | None = None


class ConfirmedPart(Part):
    """What the configuration reaches over seeds that took no part in choosing it. Gains are over the baseline, paired by seed."""

    seeds: int = Field(gt=0, description="that chose, and as many others that measured")
    candidates: int = Field(gt=0, description="among which it was chosen, the baseline included")
    test_looks: int = Field(ge=0, description="how often the study has read its test images so far")
    validation_accuracy: IntervalPart
    test_accuracy: IntervalPart | None = None
    baseline_validation_accuracy: IntervalPart | None = None
    baseline_test_accuracy: IntervalPart | None = None
    validation_gain: IntervalPart | None = Field(None, description="null: there is no baseline, or it is the winner")
    test_gain: IntervalPart | None = None
    objective: ConfirmedObjectivePart | None = Field(None, description="null: the search was after the accuracy")


class ParetoPart(Part):
    """A trial that no other exceeds in one objective without falling behind in the other."""

    trial: int = Field(ge=0)
    hyperparameters: HyperparameterPart
    validation_accuracy: float
    zero_weights: float | None = Field(None, ge=0, le=1, description="share of the weights in L1's scope that are exactly 0")
    values: dict[str, float] = Field({}, description="by both objectives, the first first")


class BestFile(Part):
    """The file."""

    format: Literal["sweeper.best"] = "sweeper.best"
    version: Literal[2] = 2
    study: StudyPart
    hyperparameters: HyperparameterPart
    model: dict[str, Any] = Field(description="the network, as in the study file; of a path the last part")
    data: dict[str, Any] = Field(description="the data, as in the study file; of a path the last part")
    training: dict[str, Any] = Field(description="the training settings, as in the study file")
    penalties: dict[str, Any] = Field({}, description="where and when each penalty acts, as in the study file")
    seeds: SeedPart
    pack: int = Field(1, ge=1, description="how many trials were trained as one network, which decides how sums are rounded")
    objective: ObjectivePart = ObjectivePart()
    metrics: MetricPart
    confirmed: ConfirmedPart | None = Field(None, description="null: this trial is not the winner of a confirmation")
    pareto: list[ParetoPart] = Field([], description="with two objectives, the best by the first one first")
    versions: dict[str, str] = Field(description="of python and the packages that matter")


def read_best(path: Path, number: int | None = None) -> BestFile:
    """Read a file of this version or an older one.

    Args:
        path: of the file.
        number: which one of a file that holds several, the first being 1; None: it holds one.

    Raises:
        BestFileError: it cannot be read, is none, is of a newer version, or does not hold so many.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BestFileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BestFileError(f"{path}: no JSON: {error}") from error
    if isinstance(content, list) and content:
        if number is None and len(content) > 1:
            raise BestFileError(f"{path}: holds {len(content)} configurations; choose one with --number, the best is 1")
        if (number or 1) > len(content):
            raise BestFileError(f"{path}: holds {len(content)} configurations, there is no number {number}")
        content = content[(number or 1) - 1]
    elif number not in (None, 1):
        raise BestFileError(f"{path}: holds one configuration, there is no number {number}")
    if not isinstance(content, dict) or content.get("format") != "sweeper.best":
        raise BestFileError(f"{path}: not a best configuration, as `sweeper export STUDY -o {path.name}` writes it")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BestFileError(f"{path}: of version {version}, this sweeper reads up to {VERSION}; use a newer one")
    if version == 1:  # had neither `confirmed` nor `pack` nor `seeds.stream_resumed`, which may be left out
        content["version"] = VERSION
    try:
        return BestFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BestFileError(f"{path}: {where}: {first['msg']}") from error
