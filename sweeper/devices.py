"""Which devices a study can use here, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess


def default_devices(workers: int | None = None) -> list[str]:
    """Return one entry a worker: every GPU of this machine, or else `cpu` once a core."""
    gpus = [f"cuda:{i}" for i in range(gpu_count())]
    if gpus:
        return gpus[:workers]
    return ["cpu"] * (workers or core_count())


def core_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_count() -> int:
    """Return how many GPUs torch will see: NVIDIA's tool asked, CUDA_VISIBLE_DEVICES respected."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
