"""Random changes of training images: flips left to right, shifts and rotations, the same for an image in whatever batch it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sweeper.job import Augmentation
from sweeper.training.randomness import mix
from sweeper.trial import derive_seed

_HALF = 1 << 31


@dataclass(frozen=True, slots=True)
class Changes:
    """What is done to each of B images: first the flip, then the rotation about the centre, then the shift.

    `flip` is bool `[B]`. `right` and `down` are int64 `[B]`, in pixels. `clockwise` is float32 `[B]`, in degrees, and None where
    no rotation was asked for.
    """

    flip: Tensor
    right: Tensor
    down: Tensor
    clockwise: Tensor | None


def augment(images: Tensor, rows: Tensor, seed: int, augmentation: Augmentation) -> Tensor:
    """Change each image at random; pixels from outside it are black.

    Flips and whole-pixel shifts move pixels as they are; rotations interpolate between them (bilinear).

    Args:
        images: float `[B, C, H, W]`, black being 0.
        rows: int64 `[B]`, the images' numbers in the data set, which together with the seed decide what happens to them.
        seed: any integer; another one for each epoch.
        augmentation: how far the changes may go.

    Returns:
        The changed images, float `[B, C, H, W]`.
    """
    changes = draw_changes(rows, seed, augmentation)
    if changes.clockwise is not None:
        return _resample(images, changes)
    if augmentation.flip:
        images = torch.where(changes.flip[:, None, None, None], images.flip(-1), images)
    return _shifted(images, changes, augmentation.shift) if augmentation.shift else images


def draw_changes(rows: Tensor, seed: int, augmentation: Augmentation) -> Changes:
    """Draw what happens to the images `rows`, int64 `[B]`: a function of the seed and each image's number alone.

    Flips have probability 1/2; shifts are uniform over the whole numbers, and angles over the reals, up to either limit.
    """
    flip = _below(2, rows, seed, "flip") == 1 if augmentation.flip else torch.zeros_like(rows, dtype=torch.bool)
    choices = 2 * augmentation.shift + 1
    right = _below(choices, rows, seed, "right") - augmentation.shift
    down = _below(choices, rows, seed, "down") - augmentation.shift
    clockwise = None
    if augmentation.rotation > 0:
        share = (_hash(rows, seed, "rotation") >> 7).to(torch.float32) * 2.0**-24  # [-1, 1), exact in 25 bits
        clockwise = share * augmentation.rotation
    return Changes(flip, right, down, clockwise)


def _hash(rows: Tensor, seed: int, use: str) -> Tensor:
    """Return a uniform int32 number for each row, `[B]`."""
    key = derive_seed("augmentation", seed, use)
    low, high = ((word & (2 * _HALF - 1)) - _HALF for word in (key, key >> 32))
    return mix(mix(rows.to(torch.int32) ^ low) ^ high)


def _below(end: int, rows: Tensor, seed: int, use: str) -> Tensor:
    """Return a uniform whole number from 0 to `end` - 1 for each row, int64 `[B]`."""
    return ((_hash(rows, seed, use).to(torch.int64) + _HALF) * end) >> 32


def _shifted(images: Tensor, changes: Changes, limit: int) -> Tensor:
    """Cut each image's window out of all windows of the padded images: many times faster than gathering single pixels."""
    height, width = images.shape[-2:]
    windows = F.pad(images, (limit, limit, limit, limit)).unfold(2, height, 1).unfold(3, width, 1)
    batch = torch.arange(len(images), device=images.device)
    return windows[batch, :, limit - changes.down, limit - changes.right]


def _resample(images: Tensor, changes: Changes) -> Tensor:
    """Look each pixel's place up in the original: undo the shift, the rotation and the flip, in this order."""
    assert changes.clockwise is not None
    height, width = images.shape[-2:]
    angle = (changes.clockwise * (math.pi / 180)).to(images.dtype)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    x = _centred(width, images)[None, None, :] - changes.right[:, None, None]
    y = _centred(height, images)[None, :, None] - changes.down[:, None, None]
    across = (cos * x + sin * y) * torch.where(changes.flip, -1, 1)[:, None, None]
    along = cos * y - sin * x
    # Written out, not as a matrix product (`affine_grid`), which a GPU may round to ten bits.
    grid = torch.stack([across * (2 / width), along * (2 / height)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _centred(size: int, like: Tensor) -> Tensor:
    """Return the places of pixels along a side, counted from its middle, `[size]`."""
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
