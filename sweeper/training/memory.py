"""How much memory a device has left, and whether an error says that it has none."""

from __future__ import annotations

import os
from pathlib import Path

import torch

TOO_LARGE = "not even one trial at a time fits into the memory: make training.batch_size or the network smaller"
"""What a user is told when an array cannot become narrower."""
MESSAGES = (
    "not enough memory",  # torch's allocator of the CPU
    "can't allocate memory",  # the same, on other systems
    "_STATUS_ALLOC_FAILED",  # cuDNN's and cuBLAS's workspaces
    "could not create a memory object",  # oneDNN's
    "could not create a primitive",  # the same, where it has no room for its code
    "std::bad_alloc",
    "CUDA error: out of memory",
)


def available(device: torch.device) -> int:
    """Return how many bytes a worker can have on its device; of a CPU's memory, which has a worker a core, a core's share."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # no Linux
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return total // (os.cpu_count() or 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or this machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)
