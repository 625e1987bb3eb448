"""Dropout with one rate per slot and masks that do not depend on slot, neighbours or width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sweeper.training import randomness

MASK_BLOCK = 1 << 18
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
    """

    def __init__(self, width: int, channels: Sequence[int], kind: str, built_rate: float, whole_maps: bool) -> None:
        super().__init__()
        self.width, self.kind, self.built_rate = width, kind, built_rate
        self._channels, self._whole_maps = list(channels), whole_maps
        self._rates = [0.0] * width
        self._keys: Tensor | None = None
        self._step = self._call = 0
        self._blocks: dict[int, tuple[int, Tensor]] = {}

    @property
    def active(self) -> bool:
        """Whether any slot drops anything."""
        return any(self._rates)

    def set_rate(self, slot: int, rate: float | None) -> None:
        """Set the probability with which a unit of this slot is dropped, 0 ≤ rate < 1; None: the rate it was built with."""
        self._rates[slot] = self.built_rate if rate is None else rate

    def draw(self, keys: Tensor) -> None:
        """Prepare for `[S, K]` int32 keys, one a step and slot."""
        self._keys, self._blocks = keys, {}

    def begin(self, step: int) -> None:
        """Say which of the steps the next forward belongs to."""
        self._step, self._call = step, 0

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.active):
            return x
        call, self._call = self._call, self._call + 1
        if self.width > 1 and x.shape[1] == self._channels[min(call, len(self._channels) - 1)]:
            x = x.repeat(1, self.width, *(1,) * (x.dim() - 2))
        return x * self._mask(x, call)

    def _mask(self, x: Tensor, call: int) -> Tensor:
        """Return the mask of this step, in a shape that multiplies `x`."""
        features = x.shape[1] // self.width if self._whole_maps else x[0].numel() // self.width
        first, masks = self._blocks.get(call, (0, x.new_empty(0, 0, 0, 0)))
        at = self._step - first
        if not (0 <= at < len(masks) and masks.shape[1] >= len(x) and masks.shape[3] == features):
            first, at, masks = self._step, 0, self._draw_block(x, features, call)
            self._blocks[call] = first, masks
        mask = masks[at, : x.shape[0]]
        return mask.reshape(*x.shape[:2], *(1,) * (x.dim() - 2)) if self._whole_maps else mask.view(x.shape)

    def _draw_block(self, x: Tensor, features: int, call: int) -> Tensor:
        """Return masks `[steps, B, K, features]`, divided by the share kept, for as many steps as fit into the block."""
        if self._keys is None:
            raise RuntimeError("draw() gives a dropout layer its keys before the first step")
        size = x.shape[0] * self.width * features
        keys = self._keys[self._step : self._step + max(1, MASK_BLOCK // size)]
        if call:
            keys = randomness.mix(keys + call)
        positions = randomness.counters(x.shape[0], features, x.device).view(1, -1, 1, features)
        draws = randomness.draw(positions, keys[:, None, :, None])
        thresholds = torch.tensor([randomness.keep_threshold(rate) for rate in self._rates], device=x.device)
        scales = torch.tensor([1.0 / (1.0 - rate) for rate in self._rates], device=x.device, dtype=x.dtype)
        return (draws >= thresholds.to(torch.int32).unsqueeze(1)).to(x.dtype).mul_(scales.unsqueeze(1))
