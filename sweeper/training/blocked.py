"""Feature maps in oneDNN's blocked layout: a plain convolutional network on a CPU's wide vectors trains faster in it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sweeper.training.layers import PackedConv2d, PackedFlatten

VECTOR = 16
"""Channels of a block. Maps whose channels do not fill their blocks are up to three times as slow in this layout as channels last;
those that do are as fast or up to twice as fast, the wider the pack the more (docs/performance.md)."""


class ToBlocked(nn.Module):
    """Lay feature maps out in blocks, in the precision that layers compute in, if the processor and their type are made for it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or not gains():
            return x
        return x.to_mkldnn(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype)


class ToPlain(nn.Module):
    """Undo `ToBlocked`: the answer is contiguous, `[B, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to_dense() if x.is_mkldnn else x


def gains() -> bool:
    """Return whether the processor has vectors as wide as a block, and torch has oneDNN."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and torch.backends.cpu.get_cpu_capability() == "AVX512"


def block_feature_maps(sequence: nn.Sequential) -> None:
    """Keep the feature maps of a sequence in blocks, from its first convolution to where they are flattened for dense layers, if
    all layers between are convolutions of whole blocks, ReLU and max-pooling; change nothing else.

    A sequence that does not flatten its maps is a part of something larger, a residual block say, which would go in and out.
    """
    layers = list(sequence._modules.items())
    begin = next((i for i, (_, layer) in enumerate(layers) if isinstance(layer, PackedConv2d)), len(layers))
    end = next((i for i, (_, layer) in enumerate(layers) if i >= begin and not _fits(layer, shared=i == 0)), len(layers))
    rest = [part for _, layer in layers[end:] if layer for part in layer.modules()]
    if begin == end or not any(isinstance(part, PackedFlatten) for part in rest) or any(isinstance(p, PackedConv2d) for p in rest):
        return
    inside = [*layers[:begin], ("to_blocked", ToBlocked()), *layers[begin:end], ("to_plain", ToPlain()), *layers[end:]]
    sequence._modules = OrderedDict(inside)


def _fits(layer: nn.Module | None, *, shared: bool) -> bool:
    """Return whether a layer works on blocks, and fills them; `shared`: it reads the images, which all slots share."""
    match layer:
        case PackedConv2d():
            ordinary = layer.groups == 1 and layer.dilation == (1, 1) and not isinstance(layer.padding, str)
            channels = layer.weight.shape[0] // layer.width
            return ordinary and channels % VECTOR == 0 and (shared or layer.in_channels % VECTOR == 0)
        case nn.MaxPool2d():
            return layer.dilation in (1, (1, 1)) and not layer.return_indices
        case nn.ReLU():
            return True
    return False
