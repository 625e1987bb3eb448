"""Weight gradients made slot by slot are those of plain torch, whatever network, optimizer and penalties they meet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import NETWORKS
from reference import NO_SETTINGS
from test_array import CONFIGURATIONS, SETTINGS, make_trainer, train_with_a_refill
from torch import Tensor, nn

from sweeper.job import Layer, Penalties, PenaltySettings
from sweeper.training.array import PackedNetwork
from sweeper.training.datasets import Data
from sweeper.training.layers import PackedLinear
from sweeper.training.models import build_network
from sweeper.training.slot_gradients import WORTH_A_PRODUCT, wide_layers
from sweeper.trial import Configuration, Run

ALL = PenaltySettings(scope=("all",))
LAYERWISE = Penalties(l1=PenaltySettings(start_epoch=2), l2=PenaltySettings(scope=("output",)), weight_decay=ALL)


class Twice(nn.Module):
    """One dense layer is passed through twice, one never; neither has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.again, self.never = (nn.Linear(inner, 16, bias=False) for inner in (64, 16, 16))
        self.output = nn.Linear(16, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.input(x.flatten(1)))
        return self.output(torch.tanh(self.again(torch.relu(self.again(x)))))


@pytest.fixture
def narrow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every dense layer's gradient be made slot by slot."""
    monkeypatch.setattr("sweeper.training.slot_gradients.WORTH_A_PRODUCT", 1)


@pytest.mark.usefixtures("narrow_too")
@pytest.mark.parametrize("name", [*sorted(NETWORKS), "twice"])
@pytest.mark.parametrize("pack", [1, 3])
def test_every_network_equals_plain_torch(name: str, pack: int, data64: Data) -> None:
    train_with_a_refill(NETWORKS.get(name, Twice), data64, CONFIGURATIONS[:3], pack)


@pytest.mark.usefixtures("narrow_too")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("penalties", [NO_SETTINGS, LAYERWISE])
@pytest.mark.parametrize("l2_in_the_kernel", [False, True])
def test_every_optimizer_equals_plain_torchs(
    optimizer: str, clip_norm: float | None, penalties: Penalties, l2_in_the_kernel: bool, data64: Data,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sweeper.training.penalties.WORTH_A_CALL", 1 if l2_in_the_kernel else 10**9)
    training = replace(SETTINGS, optimizer=optimizer, clip_norm=clip_norm)
    strong = (Configuration(dropout=0.0, l2=0.1 * i, l1=0.01, weight_decay=3.0 * (i != 1), learning_rate=1e-2) for i in range(3))
    chosen = [replace(c, momentum=0.5) for c in strong]
    train_with_a_refill(NETWORKS["mlp"], data64, chosen, 3, training, penalties)


def test_nothing_of_a_step_is_kept(data64: Data) -> None:
    trainer = make_trainer(lambda: build_network((Layer("dense", 1024), Layer("dense", 64)), (1, 8, 8), 10), data64, 2)
    trainer.start(Run(0, CONFIGURATIONS[0], seed=0, epochs=2))
    kept: list[int] = []

    def look(module: nn.Module, *_: object) -> None:
        if isinstance(module, PackedLinear) and not module.training:
            kept.append(len(module.factors))

    hook = nn.modules.module.register_module_forward_hook(look)
    trainer.epoch()
    hook.remove()
    assert kept
    assert not any(kept)


def test_only_layers_that_gain_by_it_are_taken() -> None:
    def build() -> nn.Module:
        wide, narrow = nn.Linear(64, WORTH_A_PRODUCT // 64), nn.Linear(WORTH_A_PRODUCT // 64, 10)
        return nn.Sequential(nn.Flatten(), wide, nn.ReLU(), narrow)

    for width in (1, 4):
        packed = PackedNetwork(build, width, torch.zeros(1, 1, 8, 8))
        assert [weight.shape[0] for weight in wide_layers(packed)] == [width * WORTH_A_PRODUCT // 64]
