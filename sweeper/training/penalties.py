"""Penalties on the weights of K slots: L1, L2, decoupled weight decay, max-norm, each with a scope and a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from sweeper.job import JobError, Penalties, PenaltySettings
from sweeper.training.array import Stack
from sweeper.training.steering import L2, Steering
from sweeper.trial import Configuration

WORTH_A_CALL = 1 << 14
"""Penalized numbers of a slot from which on a pass over them takes longer than a kernel's call for this slot alone."""


@dataclass(slots=True)
class _Penalty:
    """One penalty: the numbers of its stacks, its strength in each slot this epoch, `[K, 1]`, and whether any is not 0."""

    settings: PenaltySettings
    scope: list[int]
    column: Tensor
    acts: bool = False


class ArrayPenalties:
    """The penalties of K slots.

    A training step calls `add_gradient` on the gradients of the losses, `decay` before the optimizer's step, `project` after.
    With `fixed` (see `Steering`), a penalty that has acted once is computed ever after, with strengths of 0 if need be.

    Args:
        stacks: the parameters of the slots.
        settings: of each penalty.
        train_size: the number of training samples, for strengths per sample.
        fixed: see above.
        leave_l2: let the optimizer add large L2 penalties itself, as `l2_of_step` tells it.
    """

    def __init__(
        self, stacks: Sequence[Stack], settings: Penalties, train_size: int, *, fixed: bool = False, leave_l2: bool = False
    ) -> None:
        self._stacks, self._train_size, self._fixed = list(stacks), train_size, fixed
        column = stacks[0].rows.new_zeros(len(stacks[0].rows), 1)
        self._l1, self._l2, self._decay, self._max_norm = (
            _Penalty(s, scope(stacks, s), column.clone())
            for s in (settings.l1, settings.l2, settings.weight_decay, settings.max_norm)
        )
        self._max_norm.scope = [i for i in self._max_norm.scope if stacks[i].is_weight]
        self._leaves_l2 = leave_l2 and sum(stacks[i].rows.shape[1] for i in self._l2.scope) >= WORTH_A_CALL
        self.l2_of_step: L2 | None = None
        """What is left to the optimizer."""

    def begin_epoch(self, configurations: Sequence[Configuration], epochs: Sequence[int]) -> None:
        """Set the strengths for each slot's configuration and the epoch (from 1) it is in."""
        for penalty, name in ((self._l1, "l1"), (self._l2, "l2"), (self._decay, "weight_decay"), (self._max_norm, "max_norm")):
            divisor = self._train_size if penalty.settings.per_sample else 1
            shares = [share_in_epoch(penalty.settings, epoch) / divisor for epoch in epochs]
            strengths = [getattr(c, name) * share for c, share in zip(configurations, shares, strict=True)]
            if penalty is self._l2 and self._leaves_l2:
                strengths = self._leave_l2(strengths, configurations)
            penalty.column.copy_(penalty.column.new_tensor(strengths).unsqueeze(1))
            penalty.acts = any(strengths) or (self._fixed and penalty.acts)

    @property
    def acting(self) -> tuple[bool, ...]:
        """Which of the penalties are computed."""
        return tuple(penalty.acts for penalty in (self._l1, self._l2, self._decay, self._max_norm))

    def add_gradient(self, stack: int, grad: Tensor, slot: int | None = None) -> None:
        """Add `l1·sign(w) + l2·w`, at 0 the subgradient 0, in place to the gradient of a stack: `[K, P]`, or `[P]` of one slot."""
        l2 = self._l2.acts and stack in self._l2.scope
        l1 = self._l1.acts and not self._l1.settings.proximal and stack in self._l1.scope
        if l1 or l2:
            which = slice(None) if slot is None else slot
            rows = self._stacks[stack].rows[which]
            if l2:
                grad.addcmul_(rows, self._l2.column[which])
            if l1:
                grad.addcmul_(rows.sign(), self._l1.column[which])

    def decay(self, stack: int, now: Steering, slot: int | None = None) -> None:
        """Shrink the weights of a stack, of all slots or of one, by `learning rate · weight_decay`.

        Loshchilov & Hutter 2019, algorithm 2, as torch's AdamW does. The gradient must be whole by then: penalties add to it by the
        weights before.
        """
        if self._decay.acts and stack in self._decay.scope:
            which = slice(None) if slot is None else slot
            self._stacks[stack].rows[which].mul_(1.0 - now.rate[which] * self._decay.column[which])

    def project(self, now: Steering) -> None:
        """Take the proximal step of L1, soft thresholding by `learning rate · l1` (Parikh & Boyd 2014, 6.5.2), and shorten
        the incoming weights of every unit to at most the max-norm (Srivastava et al. 2014, section 5.1), as torch.renorm does.
        """
        if self._l1.acts and self._l1.settings.proximal:
            thresholds = now.rate * self._l1.column
            for i in self._l1.scope:
                rows = self._stacks[i].rows
                rows.sub_(torch.minimum(torch.maximum(rows, -thresholds), thresholds))
        if self._max_norm.acts:
            limit = self._max_norm.column.unsqueeze(2)
            for i in self._max_norm.scope:
                units = self._stacks[i].rows.view(len(limit), self._stacks[i].shape[0], -1)
                norms = torch.linalg.vector_norm(units, dim=2, keepdim=True)
                too_long = (limit > 0) & (norms > limit)
                units.mul_((limit / (norms + 1e-7)).masked_fill_(~too_long, 1.0))

    def _leave_l2(self, strengths: Sequence[float], configurations: Sequence[Configuration]) -> list[float]:
        """Leave L2 to the optimizer in all slots but those whose weights decay before its step; return what is not left."""
        left = [0.0 if c.weight_decay else strength for c, strength in zip(configurations, strengths, strict=True)]
        self.l2_of_step = L2(tuple(self._l2.scope), tuple(left)) if any(left) else None
        return [strength if c.weight_decay else 0.0 for c, strength in zip(configurations, strengths, strict=True)]

    def zero_shares(self) -> list[float]:
        """Return the share of weights in L1's scope that are exactly 0, a slot each; zeros only come from the proximal step."""
        if not self._l1.settings.proximal:
            return [0.0] * self._stacks[0].rows.shape[0]
        rows = [self._stacks[i].rows for i in self._l1.scope]
        zeros = torch.stack([(r == 0).sum(dim=1) for r in rows]).sum(dim=0)
        return (zeros / sum(r.shape[1] for r in rows)).tolist()


def share_in_epoch(settings: PenaltySettings, epoch: int) -> float:
    """Return the share of its strength with which a penalty acts in an epoch, counted from 1."""
    if epoch < settings.start_epoch:
        return 0.0
    return min(1.0, (epoch - settings.start_epoch + 1) / max(settings.warmup_epochs, 1))


def scope(stacks: Sequence[Stack], settings: PenaltySettings) -> list[int]:
    """Return the numbers of the stacks that a penalty acts on.

    Raises:
        JobError: a pattern names no layer; the message lists those there are.
    """
    if settings.scope == ("all",):
        return list(range(len(stacks)))
    weights = [i for i, stack in enumerate(stacks) if stack.is_weight]
    if settings.scope == ("weights",):
        return weights
    layers = {i: stacks[i].name.rpartition(".")[0] for i in weights}
    found: set[int] = set()
    for pattern in settings.scope:
        matching = {i for i, layer in layers.items() if _names(pattern, layer)}
        if not matching:
            raise JobError(f"penalties: scope {pattern!r} is no layer of the network; it has {', '.join(layers.values())}")
        found |= matching
    return sorted(found)


def _names(pattern: str, layer: str) -> bool:
    """Return whether a pattern means a layer or something that it is part of."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def clip_gradients(grads: Sequence[Tensor], limit: float) -> None:
    """Scale each slot's gradients, `[K, P]` a stack, in place, to a norm of at most `limit`, as torch's clip_grad_norm_ does."""
    squares = torch.stack([grad.square().sum(dim=1) for grad in grads]).sum(dim=0)
    factors = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0).unsqueeze(1)
    for grad in grads:
        grad.mul_(factors)
