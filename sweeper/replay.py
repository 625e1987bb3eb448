"""Trains an exported configuration again: as it was, with other seeds, or for good on all images but those of the test part."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from pydantic import ValidationError

from studies.objectives import ACCURACY, OBJECTIVES, Objective
from studies.search import loss_terms
from studies.spec import StudySpec
from sweeper.best_file import BestFile
from sweeper.errors import BestFileError, WorkerError
from sweeper.executors.base import Died, Executor, Message
from sweeper.intervals import Interval, interval
from sweeper.job import ModelSettings
from sweeper.messages import EpochReport, Failure, Inputs, Orders, Ready
from sweeper.pool import POLL_SECONDS, failed
from sweeper.search import make_job, run_seed
from sweeper.trial import Configuration, EpochResult, Run, derive_seed

CROWD = 4
"""Slots of a pack from which on sums are rounded as in any wider one, on the machines that were measured."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it: the last result of each run, and what a saved network needs.

    `objective`: what the search was after; `over_seeds`: the same over seeds and images, None for a single run.
    `checkpoint`: a single run's network. `images`: of the validation part. `final`: trained on those, too.
    """

    results: tuple[EpochResult, ...]
    objective: str
    over_seeds: Interval | None
    model: ModelSettings
    inputs: Inputs
    images: int
    checkpoint: bytes
    final: bool = False

    @property
    def validation_accuracy(self) -> float:
        """The mean of all runs: of their last epoch, or of the one whose weights patience restored."""
        return sum(result.best.validation_accuracy for result in self.results) / len(self.results)

    @property
    def value(self) -> float:
        """The same by the search's objective."""
        return sum(result.best.value(self.objective) for result in self.results) / len(self.results)

    def as_json(self, file: BestFile) -> dict[str, object]:
        """Return what was reached as JSON: what was recorded, each run's, and over seeds."""
        return {
            "trial": file.study.trial,
            "recorded_validation_accuracy": file.metrics.validation_accuracy,
            # Trained for good, the network has seen the validation images: they say nothing of it.
            "validation_accuracies": None if self.final else [result.best.validation_accuracy for result in self.results],
            "objective": self.objective,
            "recorded_value": file.metrics.validation_accuracy if file.objective.value is None else file.objective.value,
            "values": None if self.final else [result.best.value(self.objective) for result in self.results],
            "over_seeds": asdict(self.over_seeds) if self.over_seeds else None,
            "epochs": max(result.epoch for result in self.results),
        }


def train_again(
    file: BestFile,
    executor: Executor,
    device: str,
    data_root: str,
    *,
    seeds: int | None = None,
    final: bool = False,
    data: str | None = None,
    epochs: int | None = None,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Replay:
    """Train a configuration.

    By default it is trained as it was, from the same seed and the same place in the index stream: alone where it was trained alone,
    which on the same device lands where it did bit for bit; in a small pack of its likes where it was trained in a pack, which
    differs by rounding where its neighbours had other losses or left it.

    Args:
        file: the configuration.
        executor: runs one worker; closed at the end.
        device: where.
        data_root: folder of downloaded data sets and caches.
        seeds: so many other seeds instead, all in one array.
        final: train on the validation images too, as many epochs as were best.
        data: a data set instead of the file's.
        epochs: instead of the file's.
        on_epoch: called after each epoch with its number and the number of all.

    Raises:
        BestFileError: the file does not go together.
        JobRefused: the data or the network is not as the file says.
        WorkerError: training cannot go on.
    """
    spec = _spec(file, data, epochs, final=final)
    runs = _runs(file, spec, seeds, final=final)
    last = spec.training.epochs if epochs or not final else file.metrics.best_epoch or spec.training.epochs
    crowd = runs if seeds or final else _crowded(runs, min(file.pack, CROWD))
    job = make_job(spec, device, len(crowd), data_root=data_root)
    objective = file.objective.name
    training = replace(job.training, objectives=(objective,))
    images = replace(job.data, whole=final, folds=0 if final else job.data.folds)
    job = replace(job, training=training, width=len(crowd), together=1, most_lanes=1, data=images)
    results: dict[int, EpochResult] = {}
    with closing(executor):
        executor.start(0, job)
        ready = _receive(executor, device)
        assert isinstance(ready, Ready)
        assert ready.inputs is not None
        start, ended, running, checkpoint = tuple(crowd), tuple[int, ...](), len(runs), b""
        for epoch in range(1, last + 1):
            keep = (0,) if len(runs) == 1 and (epoch == last or spec.training.patience is not None) else ()
            executor.send(0, Orders(ended, start, keep))
            report = _receive(executor, device)
            assert isinstance(report, EpochReport)
            results |= {result.trial: result for result in report.results if result.trial < len(runs)}
            checkpoint = report.checkpoints.get(0, checkpoint)
            start, ended = (), tuple(result.trial for result in report.results if result.stopped)
            running -= sum(key < len(runs) for key in ended)
            on_epoch(epoch, last)
            if not running:
                break
    ordered = tuple(results[key] for key in sorted(results))
    over_seeds = _over_seeds(ordered, OBJECTIVES[objective], ready.images["validation"]) if seeds else None
    return Replay(ordered, objective, over_seeds, job.model, ready.inputs, ready.images["validation"], checkpoint, final)


def configuration(file: BestFile) -> Configuration:
    """Return the configuration in a file."""
    table = file.hyperparameters.model_dump()
    return Configuration(
        **{field.name: table[field.name] for field in fields(Configuration) if field.name != "loss_weights"},
        loss_weights=tuple(table["loss_weights"].items()),
    )


def _spec(file: BestFile, data: str | None, epochs: int | None, *, final: bool) -> StudySpec:
    """Return a study of this one configuration, by which a worker is told what it needs."""
    training = file.training | ({"epochs": epochs} if epochs else {}) | ({"patience": None} if final else {})
    momentum = file.hyperparameters.momentum  # what the search may have ranged over is this trial's
    training |= {"momentum": momentum, "nesterov": bool(momentum and training.get("nesterov"))}
    penalties = file.penalties
    if epochs:  # what was to act later acts in the last epoch
        penalties = {
            name: settings | {"start_epoch": min(settings.get("start_epoch", 1), epochs)} for name, settings in penalties.items()
        }
    table = {
        "name": file.study.name,
        "seed": file.seeds.study,
        "trials": 1,
        "data": file.data | ({"name": data} if data else {}),
        "model": file.model,
        "training": training,
        "penalties": penalties,
        "pruner": {"name": "none"},
        "search": {"loss": loss_terms(file.hyperparameters.loss)[0].loss},
    }
    try:
        return StudySpec.model_validate_json(json.dumps(table))
    except ValidationError as error:
        first = error.errors()[0]
        raise BestFileError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from error


def _runs(file: BestFile, spec: StudySpec, seeds: int | None, *, final: bool) -> list[Run]:
    chosen, epochs = configuration(file), spec.training.epochs
    if seeds:
        return [
            Run(
                i, chosen, derive_seed(file.seeds.study, "train", i), epochs,
                stream=i + 1, places=((0, 0),), examine=("validation",),
            )
            for i in range(seeds)
        ]  # fmt: skip
    places = ((0, file.seeds.stream_start), *file.seeds.stream_resumed)
    if final or spec.data.runs == 1:
        return [Run(0, chosen, file.seeds.run, epochs, places=((0, 0),) if final else places)]
    runs = range(spec.data.runs)
    began = [((0, place[1]),) for place in places] if spec.data.sequential else [places for _ in runs]
    return [
        Run(i, chosen, run_seed(file.seeds.study, file.study.trial, i), epochs, stream=i, places=began[i], fold=i) for i in runs
    ]


def _crowded(runs: list[Run], copies: int) -> list[Run]:
    """Return runs and copies of them, so that each is in a pack of so many."""
    return [replace(run, trial=run.trial + i * len(runs)) for i in range(copies) for run in runs]


def _receive(executor: Executor, device: str) -> Message:
    while (received := executor.receive(POLL_SECONDS)) is None:
        pass
    match received[1]:
        case Failure() as failure:
            raise failed(0, device, failure)
        case Died(reason):
            raise WorkerError(f"the worker on {device} died: {reason}")
        case message:
            return message


def _over_seeds(results: tuple[EpochResult, ...], objective: Objective, images: int) -> Interval:
    if objective is not ACCURACY:
        scores = np.stack([np.frombuffer(result.scores["validation"], np.float32) for result in results])
        return interval(scores.astype(np.float64), objective.levels)
    bits = [np.frombuffer(result.examined["validation"], np.uint8) for result in results]
    return interval(np.stack([np.unpackbits(some, count=images) for some in bits]).astype(np.float64), ACCURACY.levels)
