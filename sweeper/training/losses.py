"""The losses of the field, per sample, and their mean in each slot of an array.

The losses of the slots are summed, never averaged: a mean would divide the learning rate of every slot by K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sweeper.trial import Configuration

LossFunction = Callable[..., Tensor]
"""`(logits [K, C, B], target [K, B], *parameters [K, 1]) → losses [K, B]`."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return `torch.nn.functional.cross_entropy` per sample."""
    return -_of_target(logits.log_softmax(dim=1), target)


def smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy against `(1 − ε)·one-hot + ε/C` (Szegedy et al. 2016, section 7), torch's `label_smoothing`.

    With class weights, `[C]`, each class's part of it is weighted by its own, as torch does; the other losses weight a sample.
    """
    log_probabilities = logits.log_softmax(dim=1)
    if class_weights is not None:
        log_probabilities = log_probabilities * class_weights.unsqueeze(1)
    return -torch.lerp(_of_target(log_probabilities, target), log_probabilities.mean(dim=1), smoothing)


def mse(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over classes of the squared error of the softmax probabilities against the one-hot target.

    Brier (1950), divided by the number of classes, as `torch.nn.functional.mse_loss` on probabilities does.
    """
    probabilities = logits.softmax(dim=1)
    return (probabilities - _one_hot(target, logits)).square().mean(dim=1)


def square(logits: Tensor, target: Tensor, k: Tensor, m: Tensor) -> Tensor:
    """Return the square loss on logits, `(k·(f_y − M)² + Σ_{i≠y} f_i²) / C` (Hui & Belkin 2020, section on rescaling)."""
    one_hot = _one_hot(target, logits)
    errors = (logits - one_hot * m.unsqueeze(1)).square()
    return torch.where(one_hot > 0, errors * k.unsqueeze(1), errors).mean(dim=1)


def hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return the multi-class hinge loss of Crammer & Singer's kind, `torch.nn.functional.multi_margin_loss`, per sample.

    Unlike torch's, which compares and so answers 0, it is NaN where the logits are: a network that diverged must not look perfect.
    """
    return _margins(logits, target).mean(dim=1)


def squared_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return `torch.nn.functional.multi_margin_loss` with p = 2 per sample; NaN as in `hinge`."""
    return _margins(logits, target).square().mean(dim=1)


def focal(logits: Tensor, target: Tensor, gamma: Tensor) -> Tensor:
    """Return the focal loss `−(1 − p)^γ · log p` of the target's probability p (Lin et al. 2017, equation 4, several classes)."""
    log_p = _of_target(logits.log_softmax(dim=1), target)
    others = torch.expm1(log_p).neg().clamp_min(torch.finfo(logits.dtype).tiny)  # its logarithm and power have finite gradients
    return -log_p * (gamma * others.log()).exp()


def _of_target(values: Tensor, target: Tensor) -> Tensor:
    """Return the value of each sample's class, `[K, B]`."""
    return values.gather(1, target.unsqueeze(1)).squeeze(1)


def _margins(logits: Tensor, target: Tensor) -> Tensor:
    """Return `[K, C, B]`, by how much each class comes too near to that of the target; 0 for the target itself."""
    short = F.relu(1.0 - _of_target(logits, target).unsqueeze(1) + logits)
    return short * (1.0 - _one_hot(target, logits))


def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
    """Return `[K, C, B]` of zeros and ones."""
    classes = torch.arange(logits.shape[1], device=logits.device).unsqueeze(1)
    return (target.unsqueeze(1) == classes).to(logits.dtype)  # F.one_hot looks at the values, which no recorded step can


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "smoothed_cross_entropy": smoothed_cross_entropy,
    "mse": mse,
    "square": square,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
    "focal": focal,
}
PARAMETERS = {"smoothed_cross_entropy": ("label_smoothing",), "square": ("square_k", "square_m"), "focal": ("focal_gamma",)}
"""The values of a configuration that a loss is given, one a sample."""


def terms_of(configuration: Configuration) -> list[tuple[str, float]]:
    """Return the losses that a configuration sums, with their weights; plain where a parameter changes nothing."""
    smooth = configuration.label_smoothing > 0
    return [
        ("smoothed_cross_entropy" if name == "cross_entropy" and smooth else name, weight)
        for name, weight in configuration.loss_terms
        if weight != 0.0
    ]


def sample_losses(configuration: Configuration, logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss that a configuration chose of each sample, `[N]`: logits `[N, C]`, target `[N]`; not weighted by class."""
    of_classes, total = logits.t().unsqueeze(0), logits.new_zeros(len(logits))
    for name, weight in terms_of(configuration):
        parameters = [logits.new_full((1, 1), getattr(configuration, key)) for key in PARAMETERS.get(name, ())]
        total = total + weight * LOSSES[name](of_classes, target.unsqueeze(0), *parameters).squeeze(0)
    return total


@dataclass(frozen=True, slots=True)
class _Group:
    """The slots that chose a loss, `slots` `[n]` (None: all, in order), with its weight and parameters in each."""

    function: str
    slots: Tensor | None
    weights: Tensor | None
    parameters: tuple[Tensor, ...]


class ArrayLoss:
    """The loss that each of K slots chose. A loss is never evaluated on a slot that did not choose it (0 · inf is NaN).

    Args:
        configurations: one a slot.
        like: a tensor of the device and type of the logits.
        class_weights: `[C]`, or None; the mean over samples is then a weighted one, `Σ w·loss / Σ w`, for every loss as for
            `torch.nn.functional.cross_entropy`.
    """

    def __init__(self, configurations: Sequence[Configuration], like: Tensor, class_weights: Tensor | None = None) -> None:
        self._width, self._class_weights = len(configurations), class_weights
        terms = [terms_of(c) for c in configurations]
        self._groups = []
        for name in dict.fromkeys(name for slot in terms for name, _ in slot):
            mine = [(k, weight) for k, slot in enumerate(terms) for other, weight in slot if other == name]
            slots, weights = [k for k, _ in mine], [weight for _, weight in mine]
            parameters = tuple(
                like.new_tensor([getattr(configurations[k], key) for k in slots]).unsqueeze(1) for key in PARAMETERS.get(name, ())
            )
            self._groups.append(
                _Group(
                    name,
                    None if len(slots) == self._width else torch.tensor(slots, device=like.device),
                    None if set(weights) == {1.0} else like.new_tensor(weights),
                    parameters,
                )
            )

    def __call__(self, logits: Tensor, target: Tensor, *, weighted: bool = True) -> Tensor:
        """Return the mean loss of each slot, `[K]`: logits `[K, B, C]`, target `[B]` shared by the slots.

        Args:
            logits: of a batch.
            target: its labels.
            weighted: by class; evaluation is not.
        """
        class_weights = self._class_weights if weighted else None
        of_classes = _of_classes(logits)
        total: Tensor | None = None
        for group in self._groups:
            chosen = of_classes if group.slots is None else of_classes.index_select(0, group.slots)
            means = _mean_loss(group.function, group.parameters, chosen, target, class_weights)
            if group.weights is not None:
                means = means * group.weights
            if group.slots is not None:
                means = means.new_zeros(self._width).index_add(0, group.slots, means)
            total = means if total is None else total + means
        assert total is not None
        return total


class FixedArrayLoss:
    """`ArrayLoss` by the same operations on the same tensors whatever the slots choose, so that a step can be recorded.

    Every loss that any slot has ever chosen is computed for all; one that did not choose it gives it logits of 0 in place of its
    own, and takes neither value nor gradient from it.

    Args:
        width: the number of slots K.
        like: a tensor of the device and type of the logits.
        class_weights: as for `ArrayLoss`.
    """

    def __init__(self, width: int, like: Tensor, class_weights: Tensor | None = None) -> None:
        self.functions: tuple[str, ...] = ()
        self._class_weights, self._like = class_weights, like
        self._weights: dict[str, Tensor] = {}
        names = [name for group in PARAMETERS.values() for name in group]
        self._parameters = {name: like.new_zeros(width, 1) for name in names}

    def choose(self, configurations: Sequence[Configuration]) -> None:
        """Take up what the slots chose, one configuration a slot."""
        terms = [terms_of(configuration) for configuration in configurations]
        for name in sorted({name for slot in terms for name, _ in slot} - set(self.functions)):
            self.functions = (*self.functions, name)
            self._weights[name] = self._like.new_zeros(len(terms))
        for name, weights in self._weights.items():
            weights.copy_(weights.new_tensor([sum(weight for other, weight in slot if other == name) for slot in terms]))
        for name, column in self._parameters.items():
            column.copy_(column.new_tensor([getattr(configuration, name) for configuration in configurations]).unsqueeze(1))

    def __call__(self, logits: Tensor, target: Tensor, *, weighted: bool = True) -> Tensor:
        """Return the mean loss of each slot, as `ArrayLoss` does."""
        of_classes, total = _of_classes(logits), logits.new_zeros(len(logits))
        for name in self.functions:
            weights = self._weights[name]
            chosen = of_classes.masked_fill((weights == 0).view(-1, 1, 1), 0.0)
            parameters = tuple(self._parameters[key] for key in PARAMETERS.get(name, ()))
            total = total + weights * _mean_loss(name, parameters, chosen, target, self._class_weights if weighted else None)
        return total


def _of_classes(logits: Tensor) -> Tensor:
    """Return logits `[K, B, C]` as `[K, C, B]`: so dense layers write them, and sums over classes go over many samples at once."""
    return logits.transpose(1, 2).contiguous()


def _mean_loss(
    function: str, parameters: tuple[Tensor, ...], of_classes: Tensor, target: Tensor, class_weights: Tensor | None
) -> Tensor:
    smoothed = function == "smoothed_cross_entropy"
    arguments = [*parameters, class_weights] if smoothed and class_weights is not None else [*parameters]
    losses = LOSSES[function](of_classes, target.expand(len(of_classes), -1), *arguments)
    if class_weights is None:
        return losses.mean(dim=1)
    weights = class_weights[target]
    return (losses if smoothed else losses * weights).sum(dim=1) / weights.sum()


def count_hits(logits: Tensor, target: Tensor) -> Tensor:
    """Return of how many samples the class with the largest logit, the first of several, is the target, `[K]`.

    The same as comparing `logits.argmax(dim=2)`, which takes one sample after the other; a sample with a NaN is no hit. What is
    compared stays a number: torch makes truth values of numbers several times as slowly.

    Args:
        logits: `[K, B, C]`.
        target: `[B]`.
    """
    of_classes = _of_classes(logits)
    of_target = _of_target(of_classes, target.expand(len(logits), -1)).unsqueeze(1)
    later = (torch.arange(of_classes.shape[1], device=logits.device).unsqueeze(1) >= target).to(logits.dtype)
    below = torch.lt(of_classes, of_target, out=torch.empty_like(of_classes))
    tied = torch.eq(of_classes, of_target, out=torch.empty_like(of_classes))
    return below.addcmul_(tied, later).amin(dim=1).sum(dim=1)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return `[C]` weights inverse to how often a class occurs, of mean 1 over the samples (King & Zeng 2001)."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)
    return len(labels) / (classes * counts.double())
