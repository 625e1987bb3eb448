"""A training step whose kernels are recorded once and replayed as one: a small network's step is mostly the launching of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 1
"""Steps that run as they are before one is recorded, so that libraries choose and load their kernels before."""

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(images, labels) → (losses [K], logits [K, B, C])`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Recording:
    images: Tensor
    labels: Tensor
    results: tuple[Tensor, Tensor]
    replay: Callable[[], None]


class Recorder:
    """Takes steps, by replaying what was recorded of them for every shape of a batch that comes again.

    Whatever the step reads besides its batch must keep its place in memory: it may be overwritten, as when a slot is refilled.
    What the step does must not change either; if it does, `forget` says so.
    """

    def __init__(self) -> None:
        self._recordings: dict[torch.Size, _Recording] = {}
        self._seen = Counter[torch.Size]()
        self._recordable = True

    def take(self, step: Step, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; return its results, which stay as they are."""
        shape = images.shape
        self._seen[shape] += 1
        if shape not in self._recordings and self._recordable and self._seen[shape] > WARM_UP:
            self._record(step, images, labels)
        recording = self._recordings.get(shape)
        if recording is None:
            return step(images, labels)
        recording.images.copy_(images)
        recording.labels.copy_(labels)
        recording.replay()
        losses, logits = recording.results
        return losses.clone(), logits.clone()

    def forget(self) -> None:
        """Drop what was recorded: from now on the step does something else."""
        self._recordings.clear()

    def _record(self, step: Step, images: Tensor, labels: Tensor) -> None:
        own_images, own_labels = images.clone(), labels.clone()
        try:
            replay, results = record(lambda: step(own_images, own_labels))
        except RuntimeError as error:  # a network that looks at its values, or too little memory: it runs unrecorded
            log.warning("the training step cannot be recorded and runs kernel by kernel: %s", error)
            self._recordable = False
        else:
            self._recordings[images.shape] = _Recording(own_images, own_labels, results, replay)


def records_steps(device: torch.device) -> bool:
    """Return whether steps are recorded on a device."""
    return device.type == "cuda"


def record(step: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
    """Record a step as a CUDA graph, without taking it; return what takes it, and where its results will lie."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be fetching images meanwhile
        results = step()
    return graph.replay, results
