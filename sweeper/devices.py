"""Which devices a study can use here, found without importing torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from sweeper.errors import UsageError


def default_devices(workers: int | None = None) -> list[str]:
    """Return one entry a worker: every GPU of this machine, or else `cpu` once a core."""
    gpus = [f"cuda:{i}" for i in range(gpu_count())]
    if gpus:
        return gpus[:workers]
    return ["cpu"] * (workers or core_count())


def parse_devices(text: str, workers: int | None = None) -> list[str]:
    """Read a list of devices, one worker each: `cuda:0,cuda:1`; `cpu` alone means one worker a core, or `workers` of them.

    Raises:
        UsageError: it is none.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"cpu|cuda:\d+", name) for name in names):
        raise UsageError(f"--devices {text}: write cpu, or devices like cuda:0,cuda:1")
    if names == ["cpu"]:
        return ["cpu"] * (workers or core_count())
    return names[:workers]


def core_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_count() -> int:
    """Return how many GPUs torch will see: NVIDIA's tool asked, CUDA_VISIBLE_DEVICES respected."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    there_are = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there_are
    return min(there_are, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
