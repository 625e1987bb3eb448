"""Tries each device of this machine with a step of a grouped convolution: `python -m sweeper.training.probe` prints JSON."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn


def probe() -> dict[str, Any]:
    """Return the versions of torch and CUDA, and a row per device: its name, memory in bytes, and what went wrong with it."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return {"torch": str(torch.__version__), "cuda": torch.version.cuda, "devices": [_tried(name) for name in names]}


def _tried(name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"device": name, "name": "", "free": None, "total": None, "error": ""}
    try:
        device = torch.device(name)
        if device.type == "cuda":
            row["name"] = torch.cuda.get_device_name(device)
            row["free"], row["total"] = torch.cuda.mem_get_info(device)
        layer = nn.Conv2d(8, 16, 3, groups=4).to(device)
        layer(torch.ones(2, 8, 8, 8, device=device)).sum().backward()
        if layer.weight.grad is None or not bool(torch.isfinite(layer.weight.grad).all()):
            row["error"] = "a training step gave no finite gradient"
    except Exception as error:  # whatever a driver raises is what there is to say
        row["error"] = str(error).strip().splitlines()[0]
    return row


if __name__ == "__main__":
    print(json.dumps(probe()))
