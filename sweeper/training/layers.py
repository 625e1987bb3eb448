"""Layers that hold the parameters of K networks and run them on packed activations.

Packed activations keep an ordinary network's rank, with the slots side by side in the channel axis: `[B, K·C, H, W]` or
`[B, K·F]`. A layer whose input has only C (or F) channels reads one input shared by all slots, as the first layer of an
array does. Parameters are stacked along their first axis, `[K·O, …]`, the part of each slot contiguous in memory.

In memory, feature maps have their channels last. What a dense layer answers has its samples last, `[K·F, B]` seen as
`[B, K·F]`: so a batched product writes it, reads it, and gives its gradients, and nothing between two products is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """K convolutions as one grouped convolution; weight `[K·O, I, h, w]`, bias `[K·O]`.

    The strides of weight and input are those of channels_last, spelled out for one channel too: there both layouts count as
    contiguous, torch answers in the default one, and every later layer pays for it.
    """

    def __init__(self, member: nn.Conv2d, width: int) -> None:
        super().__init__()
        if member.padding_mode != "zeros":
            raise NotPackable(f"a convolution with padding_mode={member.padding_mode!r}")
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
        if x.is_mkldnn and x.dtype == torch.bfloat16:  # which F.conv2d refuses together with weights that are not blocked
            assert not isinstance(self.padding, str)
            weight = self.weight.to(x.dtype, memory_format=torch.contiguous_format)
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.mkldnn_convolution(x, weight, bias, self.padding, self.stride, self.dilation, groups)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, groups)


class PackedLinear(nn.Module):
    """K dense layers as one batched product; weight `[K·O, I]`, bias `[K·O]`.

    With `keeps_factors`, the gradient of its weight is left to whoever reads `factors`: autograd answers none.
    """

    def __init__(self, member: nn.Linear, width: int) -> None:
        super().__init__()
        self.width, self.in_features = width, member.in_features
        self.weight = nn.Parameter(member.weight.new_zeros(width * member.out_features, member.in_features))
        self.bias = None if member.bias is None else nn.Parameter(member.bias.new_zeros(width * member.out_features))
        self.keeps_factors = False
        self.factors: list[Factors] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise NotPackable(f"a Linear layer on activations of {x.dim()} dimensions instead of [batch, features]")
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if torch.is_autocast_enabled(x.device.type):  # which knows nothing of a function of our own
            lower = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(lower), weight.to(lower), None if bias is None else bias.to(lower)
        factors = self.factors if self.keeps_factors else None
        if x.shape[1] == self.in_features:
            out: Tensor = _SharedLinear.apply(x, weight, bias, self.width, factors)
        else:
            out = _BatchedLinear.apply(x, weight, bias, self.width, factors).flatten(0, 1)
        return out.t()  # seen so outside of the functions, so that the network may overwrite it


@dataclass(frozen=True, slots=True)
class Factors:
    """The gradient of a dense layer's weight, from one pass through it, as a product `[O, B] · [B, I]` in each slot."""

    grads: Sequence[Tensor]
    inputs: Sequence[Tensor]


class _SharedLinear(torch.autograd.Function):
    """Weights `[K·O, I]` times inputs `[B, I]` that the slots share; answers `[K·O, B]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, width: int, factors: list[Factors] | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.width, ctx.biased, ctx.factors = width, bias is not None, factors
        return weight @ x.t() if bias is None else torch.addmm(bias.unsqueeze(1), weight, x.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), grad = ctx.saved_tensors, grads[0]
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = (weight.t() @ grad).t()
        if ctx.factors is not None:
            ctx.factors.append(Factors(grad.reshape(ctx.width, -1, len(x)).unbind(), [x.detach()] * ctx.width))
        elif ctx.needs_input_grad[1]:
            for_weight = grad @ x
        if ctx.biased:
            for_bias = grad.sum(dim=1)
        return for_x, for_weight, for_bias, None, None


class _BatchedLinear(torch.autograd.Function):
    """Weights `[K·O, I]` times inputs `[B, K·I]`, slot by slot; answers `[K, O, B]`.

    Every product is written so that its result needs no transposing copy: autograd's own backward of the batched product answers
    with a transposed weight gradient, whose copy into the weight's layout takes longer on a CPU than the three products together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, width: int, factors: list[Factors] | None) -> Tensor:
        inputs, stacked = x.t().view(width, -1, len(x)), weight.view(width, -1, weight.shape[1])
        ctx.save_for_backward(inputs, stacked)
        ctx.biased, ctx.factors = bias is not None, factors
        return torch.bmm(stacked, inputs) if bias is None else torch.baddbmm(bias.view(width, -1, 1), stacked, inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inputs, stacked), grad = ctx.saved_tensors, grads[0]
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = torch.bmm(stacked.transpose(1, 2), grad).flatten(0, 1).t()
        if ctx.factors is not None:
            ctx.factors.append(Factors(grad.unbind(), inputs.transpose(1, 2).unbind()))
        elif ctx.needs_input_grad[1]:
            for_weight = torch.bmm(grad, inputs.transpose(1, 2)).flatten(0, 1)
        if ctx.biased:
            for_bias = grad.sum(dim=2).flatten()
        return for_x, for_weight, for_bias, None, None


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
