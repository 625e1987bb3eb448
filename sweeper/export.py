"""The best configuration as JSON: a versioned format that says all that is needed to train it again.

Its JSON Schema is docs/best.schema.json. Nothing in it tells where it was made: no host names, no secrets, no paths but those that
the study file itself names.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeper.errors import OutputError
from sweeper.results import Best, Results
from sweeper.trial import Configuration, derive_seed


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


class MetricPart(Part):
    """What the trial reached. Validation data chose it: on new data expect a little less."""

    validation_accuracy: float = Field(description="in the last epoch, or in the one whose weights patience restored")
    validation_loss: float | None
    train_accuracy: float | None
    train_loss: float | None
    epochs: int
    best_epoch: int | None = Field(None, description="the epoch that patience restored")
    baseline_validation_accuracy: dict[str, float] = Field(description="the same without regularization, by loss")


class ParetoPart(Part):
    """A trial that no other exceeds in one objective without falling behind in the other."""

    trial: int = Field(ge=0)
    hyperparameters: HyperparameterPart
    validation_accuracy: float
    zero_weights: float = Field(ge=0, le=1, description="share of the weights in L1's scope that are exactly 0")


class BestFile(Part):
    """The file."""

    format: Literal["sweeper.best"] = "sweeper.best"
    version: Literal[1] = 1
    study: StudyPart
    hyperparameters: HyperparameterPart
    model: dict[str, Any] = Field(description="the network, as in the study file")
    data: dict[str, Any] = Field(description="the data, as in the study file")
    training: dict[str, Any] = Field(description="the training settings, as in the study file")
    penalties: dict[str, Any] = Field({}, description="where and when each penalty acts, as in the study file")
    seeds: SeedPart
    metrics: MetricPart
    pareto: list[ParetoPart] = Field([], description="with two objectives, the most accurate trial first")
    versions: dict[str, str] = Field(description="of python and the packages that matter")


def best_file(results: Results) -> BestFile:
    """Return the file for the best trial of a study.

    Raises:
        NoSuchResult: no trial is complete yet.
    """
    best, spec = results.best, results.spec
    return BestFile(
        study=StudyPart(name=spec.name, trial=best.trial, trials={k: v for k, v in results.counts().items() if v}),
        hyperparameters=_hyperparameters(best.configuration),
        model=spec.model.model_dump(mode="json"),
        data=spec.data.model_dump(mode="json"),
        training=spec.training.model_dump(mode="json"),
        penalties=spec.penalties.model_dump(mode="json"),
        seeds=SeedPart(
            study=spec.seed,
            run=int(best.facts["run_seed"]),
            split=spec.data.split_seed,
            stream=derive_seed(spec.seed, "stream"),
            stream_start=int(best.facts["stream_start"]),
        ),
        metrics=_metrics(best, results),
        pareto=[
            ParetoPart(
                trial=one.trial,
                hyperparameters=_hyperparameters(one.configuration),
                validation_accuracy=one.value,
                zero_weights=float(one.facts["zero_weights"]),
            )
            for one in results.pareto
        ],
        versions=dict(results.versions),
    )


def write_best(results: Results, path: Path) -> BestFile:
    """Write the file for the best trial, whole or not at all, and return what it holds."""
    file = best_file(results)
    write_atomically(path, file.model_dump_json(indent=2) + "\n")
    return file


def write_atomically(path: Path, text: str) -> None:
    """Write a file such that a reader sees the old one or the new one, never a part.

    Raises:
        OutputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _hyperparameters(configuration: Configuration) -> HyperparameterPart:
    return HyperparameterPart(**asdict(configuration) | {"loss_weights": dict(configuration.loss_weights)})


def _metrics(best: Best, results: Results) -> MetricPart:
    def fact(name: str) -> float | None:
        return float(best.facts[name]) if name in best.facts else None

    return MetricPart(
        validation_accuracy=best.value,
        validation_loss=fact("validation_loss"),
        train_accuracy=fact("train_accuracy"),
        train_loss=fact("train_loss"),
        epochs=int(best.facts["epochs"]),
        best_epoch=best.facts.get("best_epoch"),
        baseline_validation_accuracy={b.configuration.loss: b.value for b in results.baselines},
    )
