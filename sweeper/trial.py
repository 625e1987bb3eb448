"""The frozen objects that travel between orchestrator, executor and worker.

Nothing here imports a third-party package, so that `sweeper.training` and the worker run wherever torch and numpy do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network written as a list: `kind` is conv, pool, dense or dropout."""

    kind: str
    units: int = 0
    kernel: int = 0
    padding: int = 0


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which images, how they are split, and what is done to the training labels."""

    name: str
    train_size: int
    validation_size: int
    test_size: int
    label_noise: float = 0.0
    split_seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What every trial of a study shares."""

    epochs: int
    batch_size: int
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """How many trials a worker holds (`width`), and how many of them run as one network (`pack`).

    `measured` maps a pack width to the seconds that one training step of one trial took; empty where nothing was measured.
    """

    width: int
    pack: int
    measured: dict[int, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a worker needs to train runs of one study."""

    data: DataSettings
    layers: tuple[Layer, ...]
    training: TrainingSettings
    stream_seed: int
    device: str = "cpu"
    width: int | None = None
    pack: int | None = None
    most_slots: int = 64
    plan: ArrayPlan | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """The values that may differ between the trials of one array. Zero means: not applied at all."""

    l1: float = 0.0
    l2: float = 0.0
    dropout: float = 0.0
    loss: str = "cross_entropy"
    learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class Run:
    """One training of one configuration, `trial` being the number of its trial."""

    trial: int
    configuration: Configuration
    seed: int
    epochs: int


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one run did in one epoch (counted from 1): mean losses without penalties, accuracies as shares."""

    trial: int
    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    stream_start: int


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker does at an epoch boundary: trials taken out, then runs put in."""

    stop: tuple[int, ...] = ()
    start: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first message."""

    plan: ArrayPlan
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """A worker's message after each epoch of its array."""

    results: tuple[EpochResult, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker's last message when it cannot go on: one line, and the traceback for the log."""

    message: str
    traceback: str


def derive_seed(*parts: int | str) -> int:
    """Return a seed that is a hash of its parts: distinct uses of one study seed never share a stream.

    It has 53 bits, which JSON readers of every language hold exactly.
    """
    text = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 11
