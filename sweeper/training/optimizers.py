"""Optimizers whose coefficients, step counters and states are per slot. Equal to those of torch.optim."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sweeper.training.array import Stack
from sweeper.training.penalties import ArrayPenalty


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1, as torch.optim.Adam computes it) over stacks of `[K, P]`.

    Each slot has its own learning rate and step count, so that a slot can be refilled while its neighbours go on. On a CPU,
    where arithmetic on whole stacks would stream its operands through memory ten times, torch's fused kernel takes one pass.
    """

    def __init__(self, stacks: Sequence[Stack], beta1: float, beta2: float, eps: float) -> None:
        self._params = [stack.rows for stack in stacks]
        self._is_weight = [stack.is_weight for stack in stacks]
        self._beta1, self._beta2, self._eps = beta1, beta2, eps
        width = self._params[0].shape[0]
        self._first = [torch.zeros_like(p) for p in self._params]
        self._second = [torch.zeros_like(p) for p in self._params]
        self.steps = [0] * width
        self.learning_rates = [0.0] * width
        self._fused = self._params[0].device.type == "cpu"
        self._counts = torch.zeros(width)
        self._rows = {
            "params": _by_slot(self._params),
            "first": _by_slot(self._first),
            "second": _by_slot(self._second),
            "counts": [[count] * len(self._params) for count in self._counts.unbind()],
        }

    def reset(self, slot: int, learning_rate: float) -> None:
        """Start a slot anew: zero moments, step 0."""
        self.load(slot, learning_rate, 0, [torch.zeros_like(m[slot]) for m in self._first * 2])

    def state(self, slot: int) -> list[Tensor]:
        """Return copies of a slot's first, then second moments."""
        return [m[slot].clone() for m in self._first + self._second]

    def load(self, slot: int, learning_rate: float, step: int, moments: Sequence[Tensor]) -> None:
        """Overwrite a slot's learning rate, step counter and moments, in place."""
        self.learning_rates[slot], self.steps[slot] = learning_rate, step
        for own, new in zip(self._first + self._second, moments, strict=True):
            own[slot].copy_(new)

    def step(self, grads: Sequence[Tensor], slots: Sequence[int], penalty: ArrayPenalty) -> None:
        """Add the penalty's gradient to `grads`, one `[K, P]` a stack, in place, and update the given slots.

        Empty slots may be computed as well; their learning rate is 0.
        """
        for k in slots:
            self.steps[k] += 1
        for param, grad, is_weight in zip(self._params, grads, self._is_weight, strict=True):
            if is_weight:
                penalty.add_to(grad, param)
        if self._fused:
            self._step_fused(grads, slots)
        else:
            self._step_stacks(grads)

    def _step_fused(self, grads: Sequence[Tensor], slots: Sequence[int]) -> None:
        """Let torch's own fused kernel pass once over the rows, in one call for all slots of the same learning rate."""
        self._counts.copy_(torch.tensor(self.steps))
        rows = _by_slot(grads)
        for rate in dict.fromkeys(self.learning_rates[k] for k in slots):
            mine = [k for k in slots if self.learning_rates[k] == rate]

            def of(all_rows: list[list[Tensor]], mine: list[int] = mine) -> list[Tensor]:
                return [row for k in mine for row in all_rows[k]]

            torch._fused_adam_(
                of(self._rows["params"]), of(rows), of(self._rows["first"]), of(self._rows["second"]), [],
                of(self._rows["counts"]), lr=rate, beta1=self._beta1, beta2=self._beta2, weight_decay=0.0, eps=self._eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def _step_stacks(self, grads: Sequence[Tensor]) -> None:
        like = self._params[0]
        correction1 = [1.0 - self._beta1 ** max(step, 1) for step in self.steps]
        correction2 = [(1.0 - self._beta2 ** max(step, 1)) ** 0.5 for step in self.steps]
        rate = like.new_tensor([-lr / c for lr, c in zip(self.learning_rates, correction1, strict=True)]).unsqueeze(1)
        scale = like.new_tensor(correction2).unsqueeze(1)
        for param, grad, first, second in zip(self._params, grads, self._first, self._second, strict=True):
            first.lerp_(grad, 1.0 - self._beta1)
            second.mul_(self._beta2).addcmul_(grad, grad, value=1.0 - self._beta2)
            denominator = second.sqrt().div_(scale).add_(self._eps)
            param.addcdiv_(first * rate, denominator)


def _by_slot(stacks: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return, for each slot, its row of every stack."""
    return [list(rows) for rows in zip(*(stack.unbind() for stack in stacks), strict=True)]
