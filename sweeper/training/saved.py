"""Trained networks as files: the weights of an ordinary `torch.nn.Module`, the network they belong to, and what its inputs are."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.job import JobError, Layer, ModelSettings
from sweeper.messages import Inputs
from sweeper.training.models import make_builder, seeded

FORMAT, VERSION = "sweeper.model", 1


def model_file(checkpoint: bytes, model: ModelSettings, inputs: Inputs) -> bytes:
    """Return the file of the network in a checkpoint (`checkpoint.encode`), which `torch.load(…, weights_only=True)` reads.

    It is a dictionary: `state_dict` of the ordinary network, `model` and `inputs` as in the arguments, `format`, `version`.
    """
    weights: dict[str, Tensor] = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)["network"]
    network = _network(model, inputs)
    network.load_state_dict(network.state_dict() | weights)  # which has what no result depends on, as a norm's count of batches
    content = {
        "format": FORMAT,
        "version": VERSION,
        "state_dict": dict(network.state_dict()),
        "model": asdict(model),
        "inputs": {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(inputs).items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_model(path: str | Path) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return the network in a file as an ordinary module, ready to evaluate, and what makes its inputs.

    Returns:
        The network, `[B, C, H, W]` to logits `[B, classes]`, and a function from pixels `[B, C, H, W]` (uint8 as they were
        trained on) to its inputs. A network of a function of the user's needs that function where Python finds it.

    Raises:
        JobError: the file is no saved network, or of a newer version; or its network cannot be built.
        OSError: it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch and pickle each raise their own
        raise JobError(f"{path}: no saved network: {type(error).__name__}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise JobError(f"{path}: no network saved by sweeper")
    if content["version"] > VERSION:
        raise JobError(f"{path}: of version {content['version']}, this sweeper reads up to {VERSION}; use a newer one")
    table = content["inputs"]
    inputs = Inputs(tuple(table["shape"]), table["classes"], tuple(table["mean"]), tuple(table["std"]), table["brightest"])
    model = content["model"]
    layers = tuple(Layer(**layer) for layer in model["layers"])
    network = _network(ModelSettings(layers, model["name"], model["options"]), inputs)
    network.load_state_dict(content["state_dict"])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (inputs.mean, inputs.std))

    def prepare(pixels: Tensor) -> Tensor:
        return (pixels.float() / inputs.brightest - mean.to(pixels.device)) / std.to(pixels.device)

    return network.eval(), prepare


def _network(model: ModelSettings, inputs: Inputs) -> nn.Module:
    with seeded(0):
        return make_builder(model, inputs.shape, inputs.classes)()
