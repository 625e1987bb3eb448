"""Sums the losses and hits of an epoch over its minibatches, one value a slot."""

from __future__ import annotations

import torch
from torch import Tensor

from sweeper.training.losses import count_hits

NUMBERS_AT_ONCE = 1 << 17
"""Hits are counted of so many logits at once: enough to amortize the calls, few enough to stay in a core's cache."""


class EpochSums:
    """What slots lost and hit so far; no value is looked at before it is asked for, so that a device need not wait."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._waiting = 0

    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a minibatch: mean losses `[K]`, logits `[K, B, C]`, labels `[B]`."""
        self._losses.append(losses)
        self._sizes.append(len(labels))
        self._logits.append(logits.transpose(1, 2))  # as they lie in memory
        self._labels.append(labels)
        self._waiting += logits.numel()
        if self._waiting >= NUMBERS_AT_ONCE:
            self._count()

    @property
    def losses(self) -> list[float]:
        """The sum of the losses of all samples, of each slot."""
        means = torch.stack(self._losses)
        return (means * means.new_tensor(self._sizes).unsqueeze(1)).sum(dim=0).tolist()

    @property
    def hits(self) -> list[float]:
        """Of how many samples the largest logit is that of their class, of each slot."""
        if self._logits:
            self._count()
        return torch.stack(self._hits).sum(dim=0).tolist()

    def _count(self) -> None:
        several = len(self._labels) > 1
        logits = torch.cat(self._logits, dim=2) if several else self._logits[0]
        labels = torch.cat(self._labels) if several else self._labels[0]
        self._hits.append(count_hits(logits.transpose(1, 2), labels))
        self._logits, self._labels, self._waiting = [], [], 0
