"""What orchestrator and worker say to each other, by way of an executor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sweeper.job import ArrayPlan
from sweeper.trial import EpochResult, Run


class Lane(NamedTuple):
    """A part of a worker's array with orders and reports of its own. A worker's lanes are trained in turn."""

    worker: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker does at a lane's epoch boundary: trials taken out, then runs put in; after the epoch, checkpoints of some.

    Trials are taken out of whichever lane they are in. With `join`, the runs of the worker's other lanes, which wait, go on in
    this one. With `train` false there is no epoch: it hands over the checkpoints as they are.
    """

    stop: tuple[int, ...] = ()
    start: tuple[Run, ...] = ()
    checkpoint: tuple[int, ...] = ()
    train: bool = True
    join: bool = False
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a network is given and answers: images `shape` (C, H, W) as `(pixels / brightest − mean) / std`, logits of `classes`."""

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    brightest: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first message; `images`: how many there are in each part."""

    plan: ArrayPlan
    device: str
    versions: dict[str, str]
    images: dict[str, int] = field(default_factory=dict)
    inputs: Inputs | None = None


@dataclass(frozen=True, slots=True)
class EpochReport:
    """A worker's message after each epoch of a lane; `checkpoints` of the trials it was asked for, by number.

    `plan`: what it goes on with, where memory was too short for the plan so far.
    """

    results: tuple[EpochResult, ...]
    seconds: float
    checkpoints: dict[int, bytes] = field(default_factory=dict, repr=False)
    plan: ArrayPlan | None = None
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker's last message when it cannot go on: one line, and the traceback for the log. `usage`: the user can mend it."""

    message: str
    traceback: str
    usage: bool = False
