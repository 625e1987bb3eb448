"""Writes the best configuration: the confirmed winner, or the raw best, or several, in four notations, whole or not at all.

Nothing in it tells where it was made: no host names, no secrets, and of paths only the last part.
"""

from __future__ import annotations

import json
import os
import pprint
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from studies.objectives import ACCURACY
from sweeper.answer import Answer
from sweeper.best_file import (
    BestFile,
    ConfirmedObjectivePart,
    ConfirmedPart,
    HyperparameterPart,
    IntervalPart,
    MetricPart,
    ObjectivePart,
    ParetoPart,
    SeedPart,
    StudyPart,
)
from sweeper.errors import OutputError
from sweeper.intervals import Interval
from sweeper.results import Best, Results
from sweeper.trial import Configuration, derive_seed

Notation = Literal["json", "toml", "yaml", "python"]


def best_file(results: Results, trial: Best | None = None) -> BestFile:
    """Return the file for a trial of a study; by default for the confirmed winner, or for the best if there is none.

    Raises:
        NoSuchResult: no trial is complete yet.
    """
    best, spec, answer = trial or results.chosen, results.spec, results.answer
    model, data = spec.model.model_dump(mode="json"), spec.data.model_dump(mode="json")
    return BestFile(
        study=StudyPart(name=spec.name, trial=best.trial, trials={k: v for k, v in results.counts().items() if v}),
        hyperparameters=_hyperparameters(best.configuration),
        model=model | {"name": _last_part(model["name"]), "options": _without_places(model["options"])},
        data=data | {"name": _last_part(data["name"])},
        training=spec.training.model_dump(mode="json"),
        penalties=spec.penalties.model_dump(mode="json"),
        seeds=SeedPart(
            study=spec.seed,
            run=int(best.facts["run_seed"]),
            split=spec.data.split_seed,
            stream=derive_seed(spec.seed, "stream"),
            stream_start=int(best.facts["stream_start"]),
            stream_resumed=[(epoch, at) for epoch, at in best.facts.get("stream_resumed", [])],
        ),
        pack=results.pack,
        objective=ObjectivePart(
            name=spec.objective.name,
            minimized=spec.objective.minimized,
            value=best.value,
            baseline={b.configuration.loss: b.value for b in results.baselines},
        ),
        metrics=_metrics(best, results),
        confirmed=_confirmed(results, answer) if answer and answer.winner.trial == best.trial else None,
        pareto=[
            ParetoPart(
                trial=one.trial,
                hyperparameters=_hyperparameters(one.configuration),
                validation_accuracy=one.accuracy,
                zero_weights=one.facts.get("zero_weights"),
                values=dict(zip(spec.objectives, (one.value, results.second_value(one)), strict=True)),
            )
            for one in results.pareto
        ],
        versions=dict(results.versions),
    )


def as_text(files: Sequence[BestFile], notation: Notation = "json", *, several: bool = False) -> str:
    """Return a file as text, or a list of several.

    TOML has no null, so what is null is left out of it, and several files are the tables `[[best]]`.
    """
    tables = [file.model_dump(mode="json") for file in files]
    content: Any = tables if several else tables[0]
    match notation:
        case "json":
            return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        case "yaml":
            import yaml

            return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        case "toml":
            import tomli_w

            return tomli_w.dumps(_without_nulls({"best": content} if several else content))
        case "python":
            return f"best = {pprint.pformat(content, sort_dicts=False, width=100)}\n"


def write_best(results: Results, path: Path) -> BestFile:
    """Write the file for the chosen trial as JSON, whole or not at all, and return what it holds."""
    file = best_file(results)
    write_atomically(path, as_text([file]))
    return file


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file such that a reader sees the old one or the new one, never a part.

    Raises:
        OutputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
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


def _last_part(name: str) -> str:
    """Return the name of data or a network without the folders of a path: `folder:images`, `nets.py:build`."""
    kind, colon, rest = name.partition(":")
    if kind in ("folder", "npz"):
        return f"{kind}{colon}{Path(rest).name}"
    return f"{Path(kind).name}{colon}{rest}"


def _without_places(value: Any) -> Any:
    """Return options of a network with the absolute paths in them cut to their last parts: they lead nowhere else."""
    if isinstance(value, dict):
        return {key: _without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    is_place = isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())
    return PureWindowsPath(value).name or value if is_place else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _hyperparameters(configuration: Configuration) -> HyperparameterPart:
    return HyperparameterPart(**asdict(configuration) | {"loss_weights": dict(configuration.loss_weights)})


def _confirmed(results: Results, answer: Answer) -> ConfirmedPart:
    """Return the accuracy over seeds, and beside it the objective, if that is another metric."""
    other = answer.metric is not ACCURACY
    accuracy = results.answer_by(ACCURACY) if other else answer
    assert accuracy is not None
    return ConfirmedPart(
        seeds=answer.seeds,
        candidates=len(answer.chosen_among),
        test_looks=answer.looks,
        validation_accuracy=_part(accuracy.winner.validation),
        test_accuracy=_part_if(accuracy.winner.test),
        baseline_validation_accuracy=_part_if(accuracy.baseline.validation) if accuracy.baseline else None,
        baseline_test_accuracy=_part_if(accuracy.baseline.test) if accuracy.baseline else None,
        validation_gain=_part_if(accuracy.gain_validation),
        test_gain=_part_if(accuracy.gain_test),
        objective=ConfirmedObjectivePart(
            validation=_part_if(answer.winner.validation),
            test=_part_if(answer.winner.test),
            baseline_validation=_part_if(answer.baseline.validation) if answer.baseline else None,
            baseline_test=_part_if(answer.baseline.test) if answer.baseline else None,
            validation_gain=_part_if(answer.gain_validation),
            test_gain=_part_if(answer.gain_test),
        )
        if other
        else None,
    )


def _part(interval: Interval) -> IntervalPart:
    return IntervalPart(mean=interval.mean, low=interval.low, high=interval.high, std=interval.std)


def _part_if(interval: Interval | None) -> IntervalPart | None:
    return _part(interval) if interval and interval.is_known else None


def _metrics(best: Best, results: Results) -> MetricPart:
    def fact(name: str) -> float | None:
        return float(best.facts[name]) if name in best.facts else None

    return MetricPart(
        validation_accuracy=best.accuracy,
        validation_loss=fact("validation_loss"),
        train_accuracy=fact("train_accuracy"),
        train_loss=fact("train_loss"),
        epochs=int(best.facts["epochs"]),
        best_epoch=best.facts.get("best_epoch"),
        baseline_validation_accuracy={b.configuration.loss: b.accuracy for b in results.baselines},
    )
