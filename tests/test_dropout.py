"""Dropout drops what it should, independently, by rates of its kind, and trains as torch's does on average."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers import MLP, NETWORKS, network
from reference import mean_error, torch_loss, train_plainly
from test_array import make_trainer
from torch import Tensor, nn

from sweeper.job import TrainingSettings
from sweeper.training import randomness
from sweeper.training.array import PackedNetwork
from sweeper.training.datasets import Data
from sweeper.training.models import initial_state
from sweeper.trial import Configuration, Run


def masks(rate: float, seed: int, step: int, layer: nn.Module | None = None, shape: tuple[int, ...] = (40, 1, 50, 50)) -> Tensor:
    """What a dropout layer makes of ones."""
    build = (lambda: layer) if layer else nn.Dropout
    packed = PackedNetwork(lambda: nn.Sequential(build(), nn.Flatten()), 1, torch.ones(1, *shape[1:])).train()
    packed.set_dropout(0, lambda kind: rate)
    dropout = packed.dropouts[0]
    dropout.draw(randomness.step_keys(torch.tensor([seed]), torch.tensor([[step]]), 0))
    dropout.begin(0)
    return packed(torch.ones(shape))[0].view(shape)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    mask = masks(rate, seed=3, step=0)
    error = math.sqrt(rate * (1 - rate) / mask.numel())
    assert abs(float((mask == 0).float().mean()) - rate) < 4 * error
    assert float(mask.max()) == pytest.approx(1 / (1 - rate))


def test_draws_of_steps_seeds_samples_and_units_are_unrelated() -> None:
    mask = masks(0.5, seed=3, step=0) > 0
    others = [masks(0.5, 3, 1) > 0, masks(0.5, 4, 0) > 0, mask.roll(1, 0), mask.roll(1, 2), mask.roll(1, 3)]
    for other in others:
        agreement = float((mask == other).float().mean())
        assert abs(agreement - 0.5) < 4 * 0.5 / math.sqrt(mask.numel())


def test_dropout2d_drops_whole_maps() -> None:
    mask = masks(0.3, seed=1, step=0, layer=nn.Dropout2d(), shape=(64, 32, 4, 4))
    assert torch.equal(mask.amin((2, 3)), mask.amax((2, 3)))
    share = float((mask[:, :, 0, 0] == 0).float().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / (64 * 32))


def test_a_layer_used_twice_draws_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.dropout(x), self.dropout(x)], 1).flatten(1)

    packed = PackedNetwork(Twice, 1, torch.ones(1, 1, 20, 20)).train()
    packed.set_dropout(0, lambda kind: 0.5)
    packed.dropouts[0].draw(randomness.step_keys(torch.tensor([1]), torch.tensor([[0]]), 0))
    packed.dropouts[0].begin(0)
    first, second = packed(torch.ones(30, 1, 20, 20))[0].chunk(2, dim=1)
    assert abs(float((first == second).float().mean()) - 0.5) < 4 * 0.5 / math.sqrt(first.numel())


def test_rate_zero_is_the_identity_beside_a_dropping_neighbour() -> None:
    packed = PackedNetwork(lambda: nn.Sequential(nn.Flatten(), nn.Dropout()), 2, torch.ones(1, 1, 4, 4)).train()
    packed.set_dropout(0, lambda kind: 0.0)
    packed.set_dropout(1, lambda kind: 0.9)
    packed.dropouts[0].draw(randomness.step_keys(torch.tensor([1, 2]), torch.zeros(1, 2, dtype=torch.int64), 0))
    out = packed(torch.ones(8, 1, 4, 4))
    assert torch.equal(out[0], torch.ones(8, 16))
    assert (out[1] == 0).any()


def test_each_kind_of_layer_has_its_rate() -> None:
    packed = PackedNetwork(NETWORKS["dropout everywhere"], 1, torch.ones(1, 1, 8, 8))
    assert [dropout.kind for dropout in packed.dropouts] == ["input", "conv", "dense"]
    packed.set_dropout(0, Configuration(dropout=0.1, dropout_conv=0.2, dropout_dense=0.0).dropout_rate)
    assert [dropout._rates for dropout in packed.dropouts] == [[0.1], [0.2], [0.0]]


def test_without_a_rate_layers_keep_the_one_they_were_built_with() -> None:
    packed = PackedNetwork(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.25)), 1, torch.ones(1, 1, 4, 4))
    packed.set_dropout(0, Configuration().dropout_rate)
    assert packed.dropouts[0]._rates == [0.25]


@pytest.mark.parametrize("name", ["mlp", "dropout everywhere"])
def test_the_mean_over_seeds_equals_torch_dropout(name: str, data64: Data) -> None:
    """One epoch with dropout 0.5 over many seeds, from the same weights: the array's mean loss is torch's."""
    seeds, training = 64, TrainingSettings(epochs=1, batch_size=16)
    build = network(MLP, data64) if name == "mlp" else NETWORKS[name]
    trainer = make_trainer(build, data64, seeds, training=training)
    configuration = Configuration(dropout=0.5, learning_rate=1e-2)
    start = {key: value.double() for key, value in initial_state(build, 0).items()}
    plain = []
    for seed in range(seeds):
        run = Run(seed, configuration, seed=seed, epochs=1)
        trainer.start(run)
        pack, slot = trainer._places[seed]
        pack.restore(slot, start)
        torch.manual_seed(seed)
        module = train_plainly(build, data64, run, training, state=start).eval()
        with torch.no_grad():
            logits = module(data64.inputs(data64.validation, slice(None)))
        plain.append(float(torch_loss(logits, data64.validation.labels, configuration)))
    array = [result.metrics.validation_loss for result in trainer.epoch()]
    (mean, error), (plain_mean, plain_error) = mean_error(array), mean_error(plain)
    assert abs(mean - plain_mean) < 4 * math.sqrt(error + plain_error)
    assert 0.6 < math.sqrt(error / plain_error) < 1.6


class Functional(nn.Module):
    """Its ReLUs are no layers, so that none is seen to stand before a dropout layer."""

    def __init__(self, dropout: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.of_maps, self.dense, self.of_units, self.output = (
            nn.Conv2d(1, 4, 3), dropout(), nn.Linear(144, 8), nn.Dropout(), nn.Linear(8, 10)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.of_maps(torch.relu(self.conv(x))).flatten(1)
        return self.output(self.of_units(torch.relu(self.dense(x))))

    @staticmethod
    def as_layers(dropout: type[nn.Module]) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), dropout(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)
        )


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
@pytest.mark.parametrize("width", [1, 3])
def test_a_relu_and_the_dropout_behind_it_as_one_are_the_same(dropout: type[nn.Module], width: int) -> None:
    found = []
    for form in (Functional.as_layers, Functional):
        build = partial(form, dropout)
        packed = PackedNetwork(build, width, torch.zeros(1, 1, 8, 8, dtype=torch.float64)).train()
        assert [layer.after_relu for layer in packed.dropouts] == [form is not Functional] * 2
        for slot in range(width):
            packed.load_member(slot, initial_state(build, slot))
            packed.set_dropout(slot, lambda kind, slot=slot: 0.3 * slot if width > 1 else 0.3)
        for number, layer in enumerate(packed.dropouts):
            layer.draw(randomness.step_keys(torch.arange(width), torch.zeros(1, width, dtype=torch.int64), number))
        x = torch.linspace(-1, 1, 5 * 64, dtype=torch.float64).view(5, 1, 8, 8)
        out = packed(x)
        grads = torch.autograd.grad(out.square().sum(), [stack.leaf for stack in packed.stacks])
        found.append([out.detach(), *grads, packed.eval()(x).detach()])
    for mine, reference in zip(*found, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-12, atol=1e-14)
        assert reference.abs().sum() > 0
