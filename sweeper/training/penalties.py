"""Penalties on the weights, as gradients: `l1·Σ|w| + (l2/2)·Σw²` adds `l1·sign(w) + l2·w`, at 0 the subgradient 0."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class ArrayPenalty:
    """λ₁ and λ₂ of each of K slots, applied to weights only, not to biases."""

    def __init__(self, l1: Sequence[float], l2: Sequence[float], like: Tensor) -> None:
        self._l1 = like.new_tensor(l1).unsqueeze(1) if any(l1) else None
        self._l2 = like.new_tensor(l2).unsqueeze(1) if any(l2) else None

    def add_to(self, grad: Tensor, weight: Tensor) -> None:
        """Add the gradient of the penalty to `grad`, in place; both `[K, P]`."""
        if self._l2 is not None:
            grad.addcmul_(weight, self._l2)
        if self._l1 is not None:
            grad.addcmul_(weight.sign(), self._l1)
