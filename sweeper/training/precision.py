"""In which precision a network's layers compute, and whether a device gains anything by the lower one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from sweeper.job import JobError

CPU_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""What torch calls the units of a core, Intel's and AMD's and Arm's, that multiply bfloat16 themselves."""


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context for a forward pass: layers that gain by it and bear it compute in bfloat16, if that was asked for.

    torch's autocast: weights, gradients and optimizer stay in float32, as do sums, norms and losses.
    """
    if precision == "float32":
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16)
    return context


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that a device has no units for: it would emulate it, and be slower and less exact than in float32.

    Raises:
        JobError: it has none.
    """
    if precision == "bfloat16" and not has_bfloat16(device):
        what = "this GPU" if device.type == "cuda" else "this processor (neither AMX nor AVX-512 BF16 nor Arm's BF16)"
        raise JobError(f'training.precision: {what} has no bfloat16 units and would emulate them slowly; use "float32"')


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in units of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(units.get(unit) for unit in CPU_UNITS)
