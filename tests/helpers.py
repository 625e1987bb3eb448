"""What several tests share: a tiny study, small networks, and a plain training loop of torch.nn and torch.optim alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.training.datasets import Data
from sweeper.training.models import build_network
from sweeper.trial import Configuration, Layer

TINY = """
name = "tiny"
trials = 12
[data]
name = "digits"
train_size = 200
validation_size = 200
test_size = 100
[model]
layers = ["dense 16", "dropout"]
[training]
epochs = 4
batch_size = 50
learning_rate = 1e-2
[search]
l1 = { low = 1e-6, high = 1e-2, log = true, zero_below = 2e-6 }
l2 = { low = 1e-5, high = 1e-1, log = true, zero_below = 2e-5 }
dropout = { low = 0.0, high = 0.8 }
loss = ["cross_entropy", "mse", "hinge"]
[pruner]
min_epochs = 1
reduction_factor = 2
[array]
width = 4
workers = 1
"""

CNN = (Layer("conv", 4, 3), Layer("conv", 6, 3), Layer("pool", kernel=2), Layer("dense", 8), Layer("dropout"))
MLP = (Layer("dense", 12), Layer("dropout"), Layer("dense", 8))


def network(layers: tuple[Layer, ...], data: Data) -> Callable[[], nn.Module]:
    return lambda: build_network(layers, data.input_shape, data.classes)


def torch_loss(name: str, logits: Tensor, target: Tensor) -> Tensor:
    """The losses as torch.nn.functional has them."""
    if name == "mse":
        return F.mse_loss(logits.softmax(1), F.one_hot(target, logits.shape[1]).to(logits.dtype))
    if name == "hinge":
        return F.multi_margin_loss(logits, target)
    return F.cross_entropy(logits, target)


def train_plainly(module: nn.Module, data: Data, batches: list[Tensor], configuration: Configuration) -> None:
    """Train an ordinary module with torch.optim.Adam and the penalties written into the loss."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = configuration.dropout
    optimizer = torch.optim.Adam(module.parameters(), configuration.learning_rate)
    weights = [p for name, p in module.named_parameters() if name.endswith("weight")]
    for rows in batches:
        loss = torch_loss(configuration.loss, module(data.train.images[rows]), data.train.labels[rows])
        loss = loss + configuration.l1 * sum(w.abs().sum() for w in weights)
        loss = loss + configuration.l2 / 2 * sum(w.square().sum() for w in weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
