"""Normalization layers of K slots: each slot by its own statistics."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.training.layers import NotPackable


def packed_batch_norm(member: nn.BatchNorm1d | nn.BatchNorm2d, width: int) -> nn.Module:
    """Return the same kind of layer for K·C channels: its statistics are per channel, so slots stay apart."""
    if member.momentum is None:
        raise NotPackable(f"a {type(member).__name__} with momentum=None averages over all steps it ever took")
    options: dict[str, Any] = {"eps": member.eps, "momentum": member.momentum, "affine": member.affine}
    return type(member)(width * member.num_features, track_running_stats=member.track_running_stats, **options)


def packed_group_norm(member: nn.GroupNorm, width: int) -> nn.Module:
    """Return a group norm of K·G groups: the groups of a slot lie side by side."""
    return nn.GroupNorm(width * member.num_groups, width * member.num_channels, eps=member.eps, affine=member.affine)


class PackedLayerNorm(nn.Module):
    """A layer norm over all features of a sample, `[B, K·F]` or `[B, K·C, H, W]`; weight and bias `[K·F]` or `[K·C, H, W]`."""

    def __init__(self, member: nn.LayerNorm, width: int) -> None:
        super().__init__()
        self.width, self.eps, self.shape = width, member.eps, tuple(member.normalized_shape)
        self.weight, self.bias = (
            None if p is None else nn.Parameter(p.new_zeros(width * p.shape[0], *p.shape[1:])) for p in (member.weight, member.bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        if (x.shape[1] // self.width, *x.shape[2:]) != self.shape:
            raise NotPackable(f"a LayerNorm over {list(self.shape)} that does not span all features of a sample")
        out = F.layer_norm(x.reshape(x.shape[0], self.width, *self.shape), self.shape, eps=self.eps).view(x.shape)
        if self.weight is not None:
            out = out * self.weight
        return out if self.bias is None else out + self.bias
