"""Dropout with one rate per slot and masks that do not depend on slot, neighbours or width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.training import randomness

MASK_BLOCK = 1 << 17
"""Numbers drawn at once by a dropout layer: enough to amortize the calls, few enough to stay in a core's cache."""


class PackedDropout(nn.Module):
    """`nn.Dropout` or `nn.Dropout2d` of K slots, with counter-based masks (`randomness`).

    `draw` gives the keys of the steps of an epoch; the masks of several steps are made at once, which on small networks costs
    less than one call a step. A slot whose rate is 0 passes its activations through untouched.

    Args:
        width: the number of slots K.
        channels: for each call in a forward, the size of axis 1 of one member's input.
        kind: what the layer drops: parts of the `input`, of the feature maps of a `conv`, or of a `dense` layer's output.
        built_rate: the rate that the member was built with.
        whole_maps: drop whole feature maps (`nn.Dropout2d`).

    With `keep_place`, what a mask depends on stays where it is in memory, and each step draws its own, as a recorded step must.
    With `after_relu`, the layer does the work of the ReLU before it as well.
    """

    def __init__(self, width: int, channels: Sequence[int], kind: str, built_rate: float, whole_maps: bool) -> None:
        super().__init__()
        self.width, self.kind, self.built_rate = width, kind, built_rate
        self._channels, self._whole_maps = list(channels), whole_maps
        self._rates = [0.0] * width
        self._keys: Tensor | None = None
        self._step = self._call = 0
        self._blocks: dict[int, tuple[int, Tensor]] = {}
        self._positions: dict[tuple[int, int, bool], Tensor] = {}
        self._key: Tensor | None = None
        self._thresholds = self._scales = torch.empty(0)
        self._was_active = False
        self.after_relu = False

    @property
    def calls(self) -> int:
        """How often a forward passes through the layer; 1 too if it never does."""
        return len(self._channels)

    @property
    def active(self) -> bool:
        """Whether any slot drops anything; in place, whether any ever did."""
        return any(self._rates) or self._was_active

    def keep_place(self, device: torch.device) -> None:
        """Allocate what a recorded step will read."""
        self._key = torch.zeros(1, self.width, dtype=torch.int32, device=device)
        self._thresholds = torch.zeros(self.width, 1, dtype=torch.int32, device=device)
        self._scales = torch.zeros(self.width, 1, dtype=torch.float64, device=device)

    def set_rate(self, slot: int, rate: float | None) -> None:
        """Set the probability with which a unit of this slot is dropped, 0 ≤ rate < 1; None: the rate it was built with."""
        self._rates[slot] = self.built_rate if rate is None else rate

    def draw(self, keys: Tensor) -> None:
        """Prepare for `[S, K]` int32 keys, one a step and slot."""
        self._keys, self._blocks = keys, {}
        thresholds = torch.tensor([[randomness.keep_threshold(rate)] for rate in self._rates], dtype=torch.int32)
        scales = torch.tensor([[1.0 / (1.0 - rate)] for rate in self._rates], dtype=torch.float64)
        if self._key is None:
            self._thresholds, self._scales = thresholds.to(keys.device), scales.to(keys.device)
        else:
            self._was_active = self.active
            self._thresholds.copy_(thresholds)
            self._scales.copy_(scales)

    def begin(self, step: int) -> None:
        """Say which of the steps the next forward belongs to."""
        self._step = step
        if self._key is not None and self._keys is not None:
            self._key.copy_(self._keys[step])

    def begin_forward(self) -> None:
        """Say that the next call is a forward's first."""
        self._call = 0

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.active):
            return F.relu(x) if self.after_relu else x
        call, self._call = self._call, self._call + 1
        if self.width > 1 and x.shape[1] == self._channels[min(call, len(self._channels) - 1)]:
            x = x.repeat(1, self.width, *(1,) * (x.dim() - 2))
        mask = self._mask(x, call)
        if not self.after_relu:
            return x * mask
        out: Tensor = _ReluDropout.apply(x, mask)
        return out

    def _mask(self, x: Tensor, call: int) -> Tensor:
        """Return the mask of this step, in a shape that multiplies `x`."""
        features = x.shape[1] // self.width if self._whole_maps else x[0].numel() // self.width
        if self._key is not None:
            return self._shaped(self._draw(x, features, self._key, call)[0], x)
        first, masks = self._blocks.get(call, (0, x.new_empty(0, 0, 0, 0)))
        at = self._step - first
        if not (0 <= at < len(masks) and masks.shape[1] >= len(x) and masks.shape[3] == features):
            first, at, masks = self._step, 0, self._draw_block(x, features, call)
            self._blocks[call] = first, masks
        return self._shaped(masks[at, : x.shape[0]], x)

    def _shaped(self, mask: Tensor, x: Tensor) -> Tensor:
        return mask.reshape(*x.shape[:2], *(1,) * (x.dim() - 2)) if self._whole_maps else mask.reshape(x.shape)

    def _draw_block(self, x: Tensor, features: int, call: int) -> Tensor:
        """Return masks `[steps, B, K, features]` for as many steps as fit into the block."""
        if self._keys is None:
            raise RuntimeError("draw() gives a dropout layer its keys before the first step")
        size = x.shape[0] * self.width * features
        return self._draw(x, features, self._keys[self._step : self._step + max(1, MASK_BLOCK // size)], call)

    def _draw(self, x: Tensor, features: int, keys: Tensor, call: int) -> Tensor:
        """Return masks `[S, B, K, features]`, divided by the share kept, for keys `[S, K]`; in memory as `x` lies."""
        if call:
            keys = randomness.mix(keys + call)
        samples_last = x.dim() == 2 and x.stride(0) == 1  # as dense layers answer
        positions = self._hashed_positions(len(x), features, samples_last, x.device)
        if samples_last:
            draws = randomness.draw(positions, keys[:, :, None, None])
            thresholds, scales = self._thresholds.unsqueeze(2), self._scales.unsqueeze(2)
            return draws.ge_(thresholds).to(x.dtype).mul_(scales.to(x.dtype)).permute(0, 3, 1, 2)
        draws = randomness.draw(positions.view(1, -1, 1, features), keys[:, None, :, None])
        return draws.ge_(self._thresholds).to(x.dtype).mul_(self._scales.to(x.dtype))

    def _hashed_positions(self, samples: int, features: int, samples_last: bool, device: torch.device) -> Tensor:
        """Return what each number of a mask is drawn from beside its key: the same at every step, so few enough are kept.

        Not where steps are recorded: what is made in a recording has its value only once that is replayed.
        """
        which = samples, features, samples_last
        if which in self._positions:
            return self._positions[which]
        positions = randomness.counters(samples, features, device)
        positions = positions.t().contiguous() if samples_last else positions
        if self._key is None and positions.numel() <= MASK_BLOCK:
            self._positions[which] = positions
        return positions


class _ReluDropout(torch.autograd.Function):
    """ReLU and a mask, in half the time of autograd's: it would keep and read the result of each.

    Where the answer is positive, the gradient is that of the product with the mask, elsewhere 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        out = x.relu().mul_(mask)
        ctx.save_for_backward(out, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        out, mask = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], out, 0).mul_(mask), None
