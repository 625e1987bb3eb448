"""What a worker is told of a study before its first run: data, network, training, penalties, array. Frozen, plain, and picklable.

Nothing here imports a third-party package, so that `sweeper.training` and the worker run wherever torch and numpy do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sweeper.trial import Configuration


class JobError(ValueError):
    """A job cannot be done as asked: its data, network or scopes are not what they are said to be. The user can mend it."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of training images: flips left to right, shifts (pixels) and rotations (degrees), each up to a limit."""

    flip: bool = False
    shift: int = 0
    rotation: float = 0.0

    def __bool__(self) -> bool:
        return self.flip or self.shift > 0 or self.rotation > 0


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which images, how they are split, and what is done to them.

    `name` is a data set's name, `folder:PATH` or `npz:PATH`. `train_size` None: all that is left. `validation_size`: images,
    or a share (below 1, a float) of the images that are not test images. `test_size` None: the set's own test part, none if
    it has none. `mean` and `std` are one value for all channels or one each, in units of the brightest pixel; `standardize`
    takes them from the training part. `image_size`: height and width that images of a folder are brought to.
    `root` is the folder in which downloaded sets and caches lie. `whole`: train on the validation part too, for good.
    `folds`: of a cross-validation over the images of both parts, `fold_repeats` times, each time split anew; 0: none.
    """

    name: str
    train_size: int | None = None
    validation_size: int | float = 0.1
    test_size: int | None = None
    label_noise: float = 0.0
    split_seed: int = 0
    standardize: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augmentation: Augmentation = Augmentation()
    image_size: int | None = None
    root: str = "."
    whole: bool = False
    folds: int = 0
    fold_repeats: int = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network written as a list: `kind` is conv, pool, dense, dropout or batch_norm."""

    kind: str
    units: int = 0
    kernel: int = 0
    padding: int = 0


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A network: a list of layers, or the name of a function that builds it (`models.make_builder`), with its options."""

    layers: tuple[Layer, ...] = ()
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the learning rate changes over a trial's own epochs; see `schedules`."""

    name: str = "constant"
    every: int = 1
    factor: float = 0.1
    minimum: float = 0.0
    warmup_share: float = 0.3
    initial_divisor: float = 25.0
    final_divisor: float = 1e4


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What every trial of a study shares.

    `precision`: of the layers, `float32` or `bfloat16`; weights and losses are float32 in either. `patience`: epochs without
    a better `monitor` (of the validation part; `monitor_minimized`: the lower, the better) after which a trial stops and its best
    weights come back. `clip_norm`: largest norm of a trial's whole gradient. `class_weights`: one a class, or `balanced`.
    `objectives`: by name, what the search is after (`Metrics.value`), the first of them first. `measure`: what of
    `measures.MEASURES` is measured on the validation part at the end of a run.
    """

    epochs: int
    batch_size: int
    precision: str = "float32"
    optimizer: str = "adam"
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    alpha: float = 0.99
    eps: float = 1e-8
    schedule: Schedule = Schedule()
    patience: int | None = None
    monitor: str = "accuracy"
    monitor_minimized: bool = False
    clip_norm: float | None = None
    class_weights: tuple[float, ...] | str | None = None
    objectives: tuple[str, ...] = ("accuracy",)
    measure: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PenaltySettings:
    """Where and when a penalty acts.

    `scope`: `weights` (of two and more dimensions: no biases, no norms), `all` parameters, or patterns of layer names, whose
    weights it acts on. `per_sample`: its strength is divided by the number of training images. It begins in epoch
    `start_epoch` (from 1) and grows linearly over `warmup_epochs`. `proximal`: soft thresholding (L1 only).
    """

    scope: tuple[str, ...] = ("weights",)
    per_sample: bool = False
    start_epoch: int = 1
    warmup_epochs: int = 0
    proximal: bool = False


@dataclass(frozen=True, slots=True)
class Penalties:
    """The settings of each penalty; how strong it is differs from trial to trial (`Configuration`)."""

    l1: PenaltySettings = PenaltySettings()
    l2: PenaltySettings = PenaltySettings()
    weight_decay: PenaltySettings = PenaltySettings()
    max_norm: PenaltySettings = PenaltySettings()


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """How many trials a worker holds (`width`), and how many of them run as one network (`pack`).

    `measured` maps a pack width to the seconds that one training step of one trial took; empty where nothing was measured.
    `reason`: why it is so, in words. `lanes`: slots of each lane, if there are several (docs/adr/0012-lanes.md).
    """

    width: int
    pack: int
    measured: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    precision: str = "float32"
    lanes: tuple[int, ...] = ()

    @property
    def lane_widths(self) -> tuple[int, ...]:
        """The slots of each lane; a single one has all."""
        return self.lanes or (self.width,)

    @property
    def strategy(self) -> str:
        """How the slots run: `packed` as one network (or several), or `looped`, one network after the other."""
        return "packed" if self.pack > 1 else "looped"


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a worker needs to train runs of one study.

    `samples` are configurations like those that will come, by which an array is planned. `plan` is kept where it is given;
    `width`, `pack` and `strategy` (`packed`, `looped`) are what the user says of it.
    `stream_epoch`: where in the stream of minibatches it begins. `together`: so many runs of a trial are trained in one array.
    `most_lanes`: 1 or 2, into how many lanes the array may be split.
    """

    data: DataSettings
    model: ModelSettings
    training: TrainingSettings
    stream_seed: int
    stream_epoch: int = 0
    penalties: Penalties = Penalties()
    device: str = "cpu"
    width: int | None = None
    pack: int | None = None
    strategy: str | None = None
    most_slots: int = 64
    together: int = 1
    most_lanes: int = 2
    plan: ArrayPlan | None = None
    samples: tuple[Configuration, ...] = (Configuration(),)
