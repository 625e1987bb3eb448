"""What a trial is to a worker: a configuration, a run of it, and what comes of every epoch.

Nothing here imports a third-party package, so that `sweeper.training` and the worker run wherever torch and numpy do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Configuration:
    """The values that may differ between the trials of one array.

    Zero means: not applied at all. A dropout rate of None leaves layers the rate they were built with; `dropout_input`,
    `dropout_conv` and `dropout_dense` go before `dropout` for layers of their kind. `loss_weights` are the terms of a mixture,
    none for a single loss.
    """

    l1: float = 0.0
    l2: float = 0.0
    weight_decay: float = 0.0
    max_norm: float = 0.0
    dropout: float | None = None
    dropout_input: float | None = None
    dropout_conv: float | None = None
    dropout_dense: float | None = None
    loss: str = "cross_entropy"
    loss_weights: tuple[tuple[str, float], ...] = ()
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    square_k: float = 1.0
    square_m: float = 1.0
    learning_rate: float = 1e-3
    momentum: float = 0.0

    def dropout_rate(self, kind: str) -> float | None:
        """Return the rate for dropout layers of a kind: `input`, `conv` or `dense`."""
        own: float | None = getattr(self, f"dropout_{kind}")
        return self.dropout if own is None else own

    @property
    def loss_terms(self) -> tuple[tuple[str, float], ...]:
        """The losses that are summed, with their weights."""
        return self.loss_weights or ((self.loss, 1.0),)


@dataclass(frozen=True, slots=True)
class Run:
    """One training of one configuration.

    `trial`: the number of its trial, or another number that tells it apart from the other runs of its array. `stream`: which
    index stream it follows, 0 being the search's; `places`: where in it, as pairs of (finished epochs, epoch of the stream);
    None: wherever the array is. `fold`: which part of a cross-validation it is validated on; None: the validation part.
    `examine`: the parts (`validation`, `test`) of which the last result says what it gets right, image by image.
    `checkpoint`: what it goes on from.
    """

    trial: int
    configuration: Configuration
    seed: int
    epochs: int
    checkpoint: bytes | None = field(default=None, repr=False)
    stream: int = 0
    places: tuple[tuple[int, int], ...] | None = None
    fold: int | None = None
    examine: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was measured in an epoch: mean losses without penalties, accuracies as shares.

    `others`: by name, what else the search or patience looks at.
    """

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    others: dict[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """Return a metric by its name: `accuracy`, `loss`, `gap` (training less validation accuracy), or one of `others`."""
        match name:
            case "accuracy":
                return self.validation_accuracy
            case "loss":
                return self.validation_loss
            case "gap":
                return self.train_accuracy - self.validation_accuracy
            case _:
                return self.others[name]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one run did in one epoch (counted from 1).

    `best` was measured in `best_epoch`, whose weights are those that count: the last epoch's, or with patience those that
    come back at the end. `stopped`: patience ran out. `zero_weights`: the share of weights in L1's scope that are exactly 0.
    `stream` has pairs of (finished epochs, epoch of the index stream): where the run began and was resumed in it.
    `examined`: of each part that the run is examined on, a bit per image, set if it is right (`numpy.packbits`). `scores`: of
    the same parts, where the search is after another metric than accuracy, how each image adds to it
    (`measures.image_scores`), float32.
    `measured`: in a run's last result, what else was asked for, by name.
    Of a cross-validated trial, all numbers are means over its runs; `folds` are the results of the runs that were trained in
    this epoch, `trial` being a run's number, and `fold_bests` what each run measured in the epoch that counts.
    """

    trial: int
    epoch: int
    metrics: Metrics
    stream: tuple[tuple[int, int], ...]
    best_epoch: int
    best: Metrics
    stopped: bool = False
    zero_weights: float = 0.0
    weight_norm: float = 0.0
    examined: dict[str, bytes] = field(default_factory=dict, repr=False)
    scores: dict[str, bytes] = field(default_factory=dict, repr=False)
    measured: dict[str, float | list[float]] = field(default_factory=dict)
    folds: tuple[EpochResult, ...] = field(default=(), repr=False)
    fold_bests: tuple[Metrics, ...] = field(default=(), repr=False)


def derive_seed(*parts: int | str) -> int:
    """Return a seed that is a hash of its parts: distinct uses of one study seed never share a stream.

    It has 53 bits, which JSON readers of every language hold exactly.
    """
    text = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 11
