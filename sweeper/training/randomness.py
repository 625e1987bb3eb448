"""Counter-based random numbers: a draw depends on (run seed, layer, step, sample, feature) and on nothing else.

Because no generator carries state from one draw to the next, a run draws the same numbers in every slot, beside any
neighbours, at any width, and when it is replayed alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _signed(constant: int) -> int:
    return constant - (1 << 32) if constant >= (1 << 31) else constant


def mix(x: Tensor) -> Tensor:
    """Scramble int32 values in place.

    The finalizer `lowbias32` (bias 0.17) found by C. Wellons' hash prospector,
    https://nullprogram.com/blog/2018/07/31/. int32 arithmetic wraps, so the bits are those of unsigned arithmetic; a right
    shift copies the sign bit, which the masks take away again.
    """
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_signed(0x7FEB352D))
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(0x846CA68B))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def draw(positions: Tensor, keys: Tensor) -> Tensor:
    """Return uniform int32 numbers, one for each pair of a hashed position and a hashed key (broadcast against one another).

    Both are hashes already, and only the upper bits are looked at, so the middle of `mix` is enough: in half the time.
    """
    x = positions.bitwise_xor(keys).mul_(_signed(0x7FEB352D))
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(0x846CA68B))


def counters(samples: int, features: int, device: torch.device) -> Tensor:
    """Return `[samples, features]` int32 hashes of the position, to be combined with a key per slot."""
    position = torch.arange(samples * features, dtype=torch.int32, device=device)
    return mix(position).view(samples, features)


def step_keys(seeds: Tensor, steps: Tensor, layer: int) -> Tensor:
    """Return one int32 key per step and slot, `[S, K]`, for one layer: seeds are `[K]`, steps `[S, K]`, both int64."""
    low = (seeds & _MASK).to(torch.int32)
    high = (seeds >> 32).to(torch.int32)
    key = mix(steps.to(torch.int32).bitwise_xor_(low))
    key = mix(key.bitwise_xor_(high))
    return mix(key.add_(_signed((layer + 1) * 0x9E3779B9 & _MASK)))


def keep_threshold(rate: float) -> int:
    """Return the int32 value at or above which a uniform int32 keeps a unit that is dropped with probability `rate`."""
    return min(round(rate * 2**32), 2**32 - 1) - 2**31
