"""Index streams: in which order a run sees the training images, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sweeper.trial import Run, derive_seed


@dataclass(frozen=True, slots=True)
class Course:
    """What the slots of a pack have in common: the stream, the fold, and where in the stream they are.

    `places` None: wherever the array is, as in a search, whose runs join the stream when they begin. Otherwise pairs of
    (finished epochs, epoch of the stream), and `epoch` counts the finished epochs.
    """

    stream: int = 0
    fold: int | None = None
    places: tuple[tuple[int, int], ...] | None = None
    epoch: int = 0

    @staticmethod
    def of(run: Run, epoch: int) -> Course:
        """Return where a run with so many finished epochs is."""
        return Course(run.stream, run.fold, run.places, epoch if run.places else 0)

    def position(self, array_epoch: int) -> int:
        """Return the next epoch of the stream; `array_epoch`: where the array is."""
        if not self.places:
            return array_epoch
        begun, at = max(pair for pair in self.places if pair[0] <= self.epoch)
        return at + self.epoch - begun

    def after_epoch(self) -> Course:
        """Return where it is after one more epoch."""
        return replace(self, epoch=self.epoch + 1) if self.places else self


def stream_seed(seed: int, number: int) -> int:
    """Return the seed of one of the streams of a study: number 0, the search's, has the seed of the job itself."""
    return derive_seed("stream", seed, "number", number) if number else seed


def stream(seed: int, epoch: int, size: int) -> Tensor:
    """Return the order of the training samples in an epoch of a stream, `[size]` int64."""
    generator = torch.Generator().manual_seed(derive_seed("stream", seed, epoch))
    return torch.randperm(size, generator=generator)
