"""Tells an exhausted memory, which a narrower array may mend, from other errors."""

from __future__ import annotations

import torch

TOO_LARGE = "not even one trial at a time fits into the memory: make training.batch_size or the network smaller"
"""What a user is told when an array cannot become narrower."""
MESSAGES = (
    "not enough memory",  # torch's allocator of the CPU
    "can't allocate memory",  # the same, on other systems
    "_STATUS_ALLOC_FAILED",  # cuDNN's and cuBLAS's workspaces
    "could not create a memory object",  # oneDNN's
    "CUDA error: out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or this machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)
