"""Layers that hold the parameters of K networks and run them on packed activations.

Packed activations keep an ordinary network's rank, with the slots side by side in the channel axis: `[B, K·C, H, W]` or
`[B, K·F]`. A layer whose input has only C (or F) channels reads one input shared by all slots, as the first layer of an
array does. Parameters are stacked along their first axis, `[K·O, …]`, the part of each slot contiguous in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.training import randomness

MASK_BLOCK = 1 << 18
"""Numbers drawn at once by a dropout layer: enough to amortize the calls, few enough to stay in a core's cache."""


class PackedConv2d(nn.Module):
    """K convolutions as one grouped convolution; weight `[K·O, I, h, w]`, bias `[K·O]`.

    The strides of weight and input are those of channels_last, spelled out for one channel too: there both layouts count as
    contiguous, torch answers in the default one, and every later layer pays for it.
    """

    def __init__(self, member: nn.Conv2d, width: int) -> None:
        super().__init__()
        if member.padding_mode != "zeros" or isinstance(member.padding, str):
            raise NotPackable(f"a convolution with padding={member.padding!r}, padding_mode={member.padding_mode!r}")
        self.width, self.in_channels, self.groups = width, member.in_channels, member.groups
        self.stride, self.padding, self.dilation = member.stride, member.padding, member.dilation
        out, inner, high, wide = member.weight.shape
        memory = member.weight.new_zeros(width * out * high * wide * inner)
        strides = (inner * high * wide, 1, wide * inner, inner)
        self.weight = nn.Parameter(memory.as_strided((width * out, inner, high, wide), strides))
        self.bias = None if member.bias is None else nn.Parameter(member.bias.new_zeros(width * out))

    def forward(self, x: Tensor) -> Tensor:
        groups = self.groups * self.width
        if self.width > 1 and x.shape[1] == self.in_channels:
            if self.groups == 1:
                groups = 1
            else:
                x = x.repeat(1, self.width, 1, 1)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, groups)


class PackedLinear(nn.Module):
    """K dense layers as one batched product; weight `[K·O, I]`, bias `[K·O]`."""

    def __init__(self, member: nn.Linear, width: int) -> None:
        super().__init__()
        self.width, self.in_features = width, member.in_features
        self.weight = nn.Parameter(member.weight.new_zeros(width * member.out_features, member.in_features))
        self.bias = None if member.bias is None else nn.Parameter(member.bias.new_zeros(width * member.out_features))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.in_features:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = _BatchedLinear.apply(x, self.weight, self.bias, self.width)
        return out


class _BatchedLinear(torch.autograd.Function):
    """`[B, K·I]` times weights `[K·O, I]`: every product is written so that its result needs no transposing copy.

    Autograd's own backward of the batched product answers with a transposed weight gradient, whose copy into the weight's
    layout takes longer on a CPU than the three products together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> Tensor:
        members, stacked = x.view(x.shape[0], width, -1), weight.view(width, -1, weight.shape[1])
        ctx.save_for_backward(members, stacked)
        ctx.biased = bias is not None
        inputs = members.permute(1, 2, 0)
        out = torch.bmm(stacked, inputs) if bias is None else torch.baddbmm(bias.view(width, -1, 1), stacked, inputs)
        return out.permute(2, 0, 1).reshape(x.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        members, stacked = ctx.saved_tensors
        batch, width, _ = members.shape
        grad = grads[0].reshape(batch, width, -1).transpose(0, 1)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = torch.bmm(grad, stacked).transpose(0, 1).reshape(batch, -1)
        if ctx.needs_input_grad[1]:
            for_weight = torch.bmm(grad.transpose(1, 2), members.transpose(0, 1)).view(-1, stacked.shape[2])
        if ctx.biased:
            for_bias = grads[0].sum(dim=0)
        return for_x, for_weight, for_bias, None


class PackedDropout(nn.Module):
    """Dropout with one rate per slot and counter-based masks (`randomness`).

    `draw` makes the masks of several steps at once, which on small networks costs less than one call a step; `step` says
    which of them the next forward uses. A slot whose rate is 0 passes its activations through untouched.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width, self.channels, self.step = width, channels, 0
        self._rates = [0.0] * width
        self._keys: Tensor | None = None
        self._masks: Tensor | None = None
        self._first = 0

    @property
    def active(self) -> bool:
        """Whether any slot drops anything."""
        return any(self._rates)

    def set_rate(self, slot: int, rate: float) -> None:
        """Set the probability with which a unit of this slot is dropped, 0 ≤ rate < 1."""
        self._rates[slot] = rate

    def draw(self, keys: Tensor) -> None:
        """Prepare for `[S, K]` int32 keys, one a step and slot; steps count from 0 again."""
        self._keys, self._masks = keys, None

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.active):
            return x
        if x.shape[1] == self.channels and self.width > 1:
            x = x.repeat(1, self.width, *(1,) * (x.dim() - 2))
        return x * self._mask(x).view(x.shape)

    def _mask(self, x: Tensor) -> Tensor:
        at = self.step - self._first
        if self._masks is None or not 0 <= at < len(self._masks):
            self._masks, self._first, at = self._draw_block(x), self.step, 0
        return self._masks[at, : x.shape[0]]

    def _draw_block(self, x: Tensor) -> Tensor:
        """Return masks `[steps, B, K, features]`, divided by the share kept, for as many steps as fit into the block."""
        if self._keys is None:
            raise RuntimeError("draw() gives a dropout layer its keys before the first step")
        features = x[0].numel() // self.width
        keys = self._keys[self.step : self.step + max(1, MASK_BLOCK // x.numel())]
        positions = randomness.counters(x.shape[0], features, x.device).view(1, -1, 1, features)
        draws = randomness.draw(positions, keys[:, None, :, None])
        thresholds = torch.tensor([randomness.keep_threshold(rate) for rate in self._rates], device=x.device)
        scales = torch.tensor([1.0 / (1.0 - rate) for rate in self._rates], device=x.device, dtype=x.dtype)
        return (draws >= thresholds.to(torch.int32).unsqueeze(1)).to(x.dtype).mul_(scales.unsqueeze(1))


class PackedFlatten(nn.Module):
    """Flatten whose gradient goes back into the layout the activations came in, in one copy instead of two slow ones."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Flatten.apply(x)
        return out


class _Flatten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.input_shape = x.shape
        ctx.channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return x.reshape(x.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].reshape(ctx.input_shape)
        if not ctx.channels_last:
            return grad
        out = torch.empty_like(grad, memory_format=torch.channels_last)
        return out.copy_(grad)


class NotPackable(ValueError):
    """A network cannot be trained as an array; the message names the layer and the reason."""
