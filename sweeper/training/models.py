"""Ordinary PyTorch networks, built from a list of layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sweeper.trial import Layer


def build_network(layers: Sequence[Layer], input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return a plain network: conv and dense are followed by ReLU, and a last dense layer gives `classes` logits.

    Args:
        layers: conv, pool (max, stride = kernel), dense and dropout, in order.
        input_shape: `(C, H, W)` of one image.
        classes: how many logits the network returns.

    Raises:
        ValueError: the image is too small for the layers.
    """
    channels, high, wide = input_shape
    features = 0
    modules: list[nn.Module] = []
    for layer in (*layers, Layer("dense", classes)):
        if layer.kind == "conv":
            modules += [nn.Conv2d(channels, layer.units, layer.kernel, padding=layer.padding), nn.ReLU()]
            channels = layer.units
            high, wide = (size + 2 * layer.padding - layer.kernel + 1 for size in (high, wide))
        elif layer.kind == "pool":
            modules.append(nn.MaxPool2d(layer.kernel))
            high, wide = high // layer.kernel, wide // layer.kernel
        elif layer.kind == "dropout":
            modules.append(nn.Dropout())
        else:
            if not features:
                if min(high, wide) < 1:
                    raise ValueError(f"images of {input_shape[1]}×{input_shape[2]} pixels are too small for this network's layers")
                modules.append(nn.Flatten())
                features = channels * high * wide
            modules += [nn.Linear(features, layer.units), nn.ReLU()]
            features = layer.units
    return nn.Sequential(*modules[:-1])


def initial_weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Draw a network's parameters anew by its layers' own `reset_parameters`, from a seed; the global generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return {name: p.detach() for name, p in network.named_parameters()}
