"""The losses of the field, per slot and sample, and their sum over an array.

The losses of the slots are summed, never averaged: a mean would divide the learning rate of every slot by K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return `torch.nn.functional.cross_entropy` per sample: logits `[N, C]`, target `[N]`, out `[N]`."""
    return F.cross_entropy(logits, target, reduction="none")


def mse(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over classes of the squared error of the softmax probabilities against the one-hot target, `[N]`.

    Brier (1950), divided by the number of classes, as `torch.nn.functional.mse_loss` on probabilities does.
    """
    probabilities = logits.softmax(dim=1)
    one_hot = F.one_hot(target, logits.shape[1]).to(probabilities.dtype)
    return (probabilities - one_hot).square().mean(dim=1)


def hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return the multi-class hinge loss of Crammer & Singer's kind, `torch.nn.functional.multi_margin_loss`, per sample `[N]`.

    Unlike torch's, which compares and so answers 0, it is NaN where the logits are: a network that diverged must not look perfect.
    """
    return F.multi_margin_loss(logits, target, reduction="none") + 0.0 * logits.detach().sum(dim=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "mse": mse, "hinge": hinge}


class ArrayLoss:
    """The loss that each of K slots chose. A loss is never evaluated on a slot that did not choose it (0 · inf is NaN)."""

    def __init__(self, choices: Sequence[str], device: torch.device) -> None:
        by_loss = {name: [k for k, choice in enumerate(choices) if choice == name] for name in dict.fromkeys(choices)}
        order = [k for slots in by_loss.values() for k in slots]
        self._only = choices[0] if len(by_loss) == 1 else None
        self._slots = {name: torch.tensor(slots, device=device) for name, slots in by_loss.items()}
        self._back = torch.tensor([order.index(k) for k in range(len(order))], device=device)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of each slot, `[K]`: logits `[K, B, C]`, target `[B]` shared by the slots."""
        if self._only:
            return _mean_loss(self._only, logits, target.repeat(logits.shape[0]))
        targets = target.repeat(logits.shape[0])
        means = [
            _mean_loss(name, logits.index_select(0, slots), targets[: len(slots) * len(target)])
            for name, slots in self._slots.items()
        ]
        return torch.cat(means).index_select(0, self._back)


def _mean_loss(name: str, logits: Tensor, targets: Tensor) -> Tensor:
    losses = LOSSES[name](logits.reshape(-1, logits.shape[2]), targets)
    return losses.view(logits.shape[0], -1).mean(dim=1)
