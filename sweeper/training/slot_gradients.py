"""Weight gradients of wide dense layers, made slot by slot right before they are used, while they are in the core's cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sweeper.training.layers import PackedLinear

WORTH_A_PRODUCT = 1 << 16
"""Weights of a slot from which on a product of its own costs less than writing all slots' gradients and reading them again."""


class SlotGradients:
    """The gradients of one layer's weights in place of a tensor `[K, P]`: `make` makes that of a slot, once a step.

    Args:
        layer: keeps the factors of its gradient.
        memory: room for one slot's gradient.
        complete: called with each gradient, `[P]`, and its slot, right after it is made; adds to it in place what else belongs to
            it, and may change the weights that it no longer depends on.
    """

    def __init__(self, layer: PackedLinear, memory: Tensor, complete: Callable[[Tensor, int], None]) -> None:
        self._layer, self._complete = layer, complete
        shape = layer.weight.shape[0] // layer.width, layer.weight.shape[1]
        self._matrix = memory[: shape[0] * shape[1]].view(shape)
        self._row = self._matrix.view(-1)
        layer.keeps_factors = True

    def make(self, slot: int) -> Tensor:
        """Return a slot's gradient, `[P]`; it is overwritten when the next one is made, by any that shares its memory."""
        passes = self._layer.factors
        if not passes:
            self._matrix.zero_()
        for i, factors in enumerate(passes):
            if i == 0:
                torch.mm(factors.grads[slot], factors.inputs[slot], out=self._matrix)
            else:
                self._matrix.addmm_(factors.grads[slot], factors.inputs[slot])
        self._complete(self._row, slot)
        return self._row

    def forget(self) -> None:
        """Drop the factors of a step."""
        self._layer.factors.clear()


Gradients = Tensor | SlotGradients
"""Of one stack: of all slots, `[K, P]`, or made slot by slot."""


def of_all_slots(gradients: Sequence[Gradients]) -> list[Tensor]:
    """Return gradients none of which is made slot by slot.

    Raises:
        TypeError: one is.
    """
    tensors = [gradient for gradient in gradients if isinstance(gradient, Tensor)]
    if len(tensors) < len(gradients):
        raise TypeError("a gradient that is made slot by slot where those of all slots are needed")
    return tensors


def wide_layers(network: nn.Module) -> dict[Tensor, PackedLinear]:
    """Return the dense layers of a packed network for which gradients slot by slot are worth it, by their weights."""
    layers = [layer for layer in network.modules() if isinstance(layer, PackedLinear)]
    return {layer.weight: layer for layer in layers if layer.weight.numel() >= WORTH_A_PRODUCT * layer.width}
