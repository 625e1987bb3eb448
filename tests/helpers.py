"""What several tests share: a tiny study and small networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sweeper.job import Layer
from sweeper.training.datasets import Data
from sweeper.training.models import build_network

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
[confirm]
top = 0
"""

CNN = (Layer("conv", 4, 3), Layer("conv", 6, 3), Layer("pool", kernel=2), Layer("dense", 8), Layer("dropout"))
MLP = (Layer("dense", 12), Layer("dropout"), Layer("dense", 8))


def network(layers: tuple[Layer, ...], data: Data) -> Callable[[], nn.Module]:
    return lambda: build_network(layers, data.input_shape, data.classes)


class Normed(nn.Module):
    """Group norm on feature maps, layer norm on all of them and on features, activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.groups, self.maps = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6])
        self.dense, self.features, self.output = nn.Linear(144, 8), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(torch.relu(self.groups(self.conv(x))))
        return self.output(torch.tanh(self.features(self.dense(torch.flatten(x, 1)))))


class Residual(nn.Module):
    """A block as in a ResNet, with an average over each map, and one dropout layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv, self.norm1 = nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.BatchNorm2d(4)
        self.dropout, self.pool, self.output = nn.Dropout(0.0), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm0(self.stem(x)))
        x = x + self.dropout(torch.relu(self.norm1(self.conv(x))))
        return self.output(self.dropout(self.pool(x).flatten(1)))


def _listed(*layers: Layer) -> Callable[[], nn.Module]:
    return lambda: build_network(layers, (1, 8, 8), 10)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": _listed(*CNN),
    "mlp": _listed(*MLP),
    "conv same": _listed(Layer("conv", 3, 3, 1), Layer("dense", 5)),
    "batch norm": _listed(*CNN[:1], Layer("batch_norm"), Layer("pool", kernel=2), Layer("dense", 8), Layer("batch_norm")),
    "layer norm": Normed,
    "residual": Residual,
    "dropout everywhere": _listed(
        Layer("dropout"), Layer("conv", 4, 3), Layer("dropout"), Layer("pool", kernel=2), Layer("dense", 8), Layer("dropout")
    ),
}
"""Small networks for images of 1×8×8, among them all layers that can be packed."""
