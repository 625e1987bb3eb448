"""The trial array computes what torch.nn and torch.optim compute, slot by slot, whoever the neighbours are."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import CNN, MLP, network, torch_loss, train_plainly
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sweeper.training import randomness
from sweeper.training.array import PackedNetwork, check_packing
from sweeper.training.datasets import Data
from sweeper.training.layers import NotPackable
from sweeper.training.losses import LOSSES, ArrayLoss
from sweeper.training.models import initial_weights
from sweeper.training.trainer import Trainer, stream
from sweeper.trial import ArrayPlan, Configuration, EpochResult, Layer, Run, TrainingSettings

SETTINGS = TrainingSettings(epochs=3, batch_size=16)
CONFIGURATIONS = [
    Configuration(0.0, 0.0, 0.0, "cross_entropy", 1e-2),
    Configuration(1e-3, 0.0, 0.0, "mse", 3e-3),
    Configuration(0.0, 1e-2, 0.0, "hinge", 1e-2),
    Configuration(1e-4, 1e-3, 0.0, "cross_entropy", 1e-3),
    Configuration(1e-3, 1e-1, 0.0, "hinge", 1e-2),
]


def make_trainer(layers: tuple[Layer, ...], data: Data, width: int, pack: int | None = None) -> Trainer:
    return Trainer(network(layers, data), data, SETTINGS, ArrayPlan(width, pack or width), stream_seed=7)


def batches(data: Data, first_epoch: int, epochs: int) -> list[Tensor]:
    orders = [stream(7, epoch, len(data.train)) for epoch in range(first_epoch, first_epoch + epochs)]
    return [rows for order in orders for rows in order.split(SETTINGS.batch_size)]


def plain_twin(layers: tuple[Layer, ...], data: Data, run: Run, start: int, epochs: int) -> nn.Module:
    """The same run by an ordinary module, the stock optimizer and autograd through the penalties."""
    module = network(layers, data)().double()
    module.load_state_dict(initial_weights(module, run.seed))
    train_plainly(module, data, batches(data, start, epochs), run.configuration)
    return module


def assert_same_weights(trainer: Trainer, trial: int, module: nn.Module, tolerance: float = 1e-8) -> None:
    mine = trainer.weights(trial)
    for name, parameter in module.named_parameters():
        assert (mine[name] - parameter).abs().max() < tolerance, name


@pytest.mark.parametrize("layers", [CNN, MLP, (Layer("conv", 3, 3, 1), Layer("dense", 5))], ids=["cnn", "mlp", "conv same"])
@pytest.mark.parametrize(("width", "pack"), [(5, 5), (5, 1), (6, 2)])
def test_array_equals_plain_torch_with_a_refill_in_between(layers: tuple[Layer, ...], width: int, pack: int, data64: Data) -> None:
    trainer = make_trainer(layers, data64, width, pack)
    runs = [Run(i, c, seed=100 + i, epochs=3) for i, c in enumerate(CONFIGURATIONS)]
    for run in runs:
        trainer.start(run)
    trainer.epoch()
    trainer.stop(2)
    late = Run(9, CONFIGURATIONS[3], seed=55, epochs=3)
    trainer.start(late)
    results = {result.trial: result for _ in range(2) for result in trainer.epoch()}
    for run in runs:
        if run.trial != 2:
            assert_same_weights(trainer, run.trial, plain_twin(layers, data64, run, start=0, epochs=3))
    assert_same_weights(trainer, 9, plain_twin(layers, data64, late, start=1, epochs=2))
    assert results[9].stream_start == 1
    assert results[9].epoch == 2
    assert results[0].epoch == 3


def test_epoch_results_are_those_of_the_plain_network(data64: Data) -> None:
    trainer = make_trainer(CNN, data64, 3)
    for i in range(3):
        trainer.start(Run(i, CONFIGURATIONS[i], seed=i, epochs=3))
    results: list[EpochResult] = trainer.epoch()
    for i, result in enumerate(results):
        module = plain_twin(CNN, data64, Run(i, CONFIGURATIONS[i], seed=i, epochs=3), start=0, epochs=1).eval()
        with torch.no_grad():
            logits = module(data64.validation.images)
        hits = (logits.argmax(1) == data64.validation.labels).double().mean()
        assert result.validation_accuracy == pytest.approx(float(hits), abs=1e-12)
        loss = torch_loss(CONFIGURATIONS[i].loss, logits, data64.validation.labels)
        assert result.validation_loss == pytest.approx(float(loss), abs=1e-9)


@pytest.mark.parametrize("layers", [CNN, MLP], ids=["cnn", "mlp"])
def test_whole_stack_arithmetic_equals_the_fused_kernel(
    layers: tuple[Layer, ...], data64: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form that GPUs use gives what the CPU's does."""
    run = Run(0, CONFIGURATIONS[3], seed=3, epochs=3)
    trainer = make_trainer(layers, data64, 2)
    trainer.start(run)
    monkeypatch.setattr(trainer._packs[0]._optimizer, "_fused", False)
    trainer.start(Run(1, CONFIGURATIONS[1], seed=4, epochs=3))
    for _ in range(3):
        trainer.epoch()
    assert_same_weights(trainer, 0, plain_twin(layers, data64, run, start=0, epochs=3))


@settings(max_examples=12, deadline=None)
@given(
    rates=st.lists(st.floats(0.0, 0.9), min_size=2, max_size=5),
    pack=st.sampled_from([1, 2, 3]),
    slot=st.integers(0, 4),
    layers=st.sampled_from([CNN, MLP]),
)
def test_a_result_depends_on_neither_slot_nor_neighbours_nor_width(
    data64: Data, rates: list[float], pack: int, slot: int, layers: tuple[Layer, ...]
) -> None:
    slot = min(slot, len(rates) - 1)
    runs = [Run(i, Configuration(1e-4, 1e-3, r, "cross_entropy", 1e-2), seed=i, epochs=2) for i, r in enumerate(rates)]
    together, alone = make_trainer(layers, data64, pack * len(rates), pack), make_trainer(layers, data64, 1)
    for run in runs:
        together.start(run)
    alone.start(runs[slot])
    for _ in range(2):
        together.epoch()
        alone.epoch()
    mine, reference = together.weights(slot), alone.weights(slot)
    for name, tensor in reference.items():
        assert (mine[name] - tensor).abs().max() < 1e-9, name


def test_an_exploding_trial_fails_alone(data64: Data) -> None:
    trainer, alone = make_trainer(CNN, data64, 2), make_trainer(CNN, data64, 1)
    good = Run(0, CONFIGURATIONS[0], seed=1, epochs=3)
    trainer.start(good)
    trainer.start(Run(1, Configuration(learning_rate=1e200), seed=2, epochs=3))
    alone.start(good)
    for _ in range(3):
        results = trainer.epoch()
        expected = alone.epoch()
    assert not math.isfinite(results[1].train_loss)
    assert results[0].validation_accuracy == expected[0].validation_accuracy
    trainer.stop(1)
    fresh = Run(2, CONFIGURATIONS[1], seed=5, epochs=3)
    trainer.start(fresh)  # into the slot that exploded
    trainer.epoch()
    assert_same_weights(trainer, 2, plain_twin(CNN, data64, fresh, start=3, epochs=1))


def test_the_array_shrinks_with_its_trials_and_grows_again(data64: Data) -> None:
    trainer, alone = make_trainer(MLP, data64, 8, 4), make_trainer(MLP, data64, 1)
    runs = [Run(i, Configuration(dropout=0.3), seed=i, epochs=3) for i in range(8)]
    for run in runs:
        trainer.start(run)
    alone.start(runs[6])
    trainer.epoch()
    for trial in (0, 1, 2, 4, 5, 7):
        trainer.stop(trial)
    trainer.epoch()
    assert sum(pack.width for pack in trainer._packs) == 2
    for trial in range(10, 16):
        trainer.start(Run(trial, Configuration(), seed=trial, epochs=3))
    with pytest.raises(LookupError, match="occupied"):
        trainer.start(Run(99, Configuration(), seed=0, epochs=3))
    results = trainer.epoch()
    assert [r.trial for r in results] == [3, 6, *range(10, 16)]
    for _ in range(3):
        expected = alone.epoch()
    assert results[1].train_loss == pytest.approx(expected[0].train_loss, rel=1e-9)


class TestDropout:
    def masks(self, rate: float, seed: int, step: int) -> Tensor:
        packed = PackedNetwork(lambda: nn.Sequential(nn.Flatten(), nn.Dropout()), 1, torch.ones(1, 1, 50, 50)).train()
        packed.set_dropout(0, rate)
        dropout = packed.dropouts[0]
        dropout.draw(randomness.step_keys(torch.tensor([seed]), torch.tensor([[step]]), 0))
        return packed(torch.ones(40, 1, 50, 50))[0]

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
    def test_drops_its_share_and_keeps_the_mean(self, rate: float) -> None:
        mask = self.masks(rate, seed=3, step=0)
        error = math.sqrt(rate * (1 - rate) / mask.numel())
        assert abs(float((mask == 0).float().mean()) - rate) < 4 * error
        assert float(mask.max()) == pytest.approx(1 / (1 - rate))

    def test_draws_of_steps_seeds_samples_and_units_are_unrelated(self) -> None:
        mask = self.masks(0.5, seed=3, step=0) > 0
        others = [self.masks(0.5, 3, 1) > 0, self.masks(0.5, 4, 0) > 0, mask.roll(1, 0), mask.roll(1, 1)]
        for other in others:
            agreement = float((mask == other).float().mean())
            assert abs(agreement - 0.5) < 4 * 0.5 / math.sqrt(mask.numel())

    def test_rate_zero_is_the_identity_beside_a_dropping_neighbour(self) -> None:
        packed = PackedNetwork(lambda: nn.Sequential(nn.Flatten(), nn.Dropout()), 2, torch.ones(1, 1, 4, 4)).train()
        packed.set_dropout(1, 0.9)
        packed.dropouts[0].draw(randomness.step_keys(torch.tensor([1, 2]), torch.zeros(1, 2, dtype=torch.int64), 0))
        out = packed(torch.ones(8, 1, 4, 4))
        assert torch.equal(out[0], torch.ones(8, 16))
        assert (out[1] == 0).any()

    def test_the_mean_over_seeds_equals_torch_dropout(self, data64: Data) -> None:
        """One epoch with dropout 0.5 over many seeds, from the same weights: the array's mean loss is torch's."""
        seeds = 96
        trainer = make_trainer(MLP, data64, seeds)
        configuration = Configuration(dropout=0.5, learning_rate=1e-2)
        module = network(MLP, data64)().double()
        start = initial_weights(module, 0)
        plain = []
        for seed in range(seeds):
            trainer.start(Run(seed, configuration, seed=seed, epochs=1))
            pack, slot = trainer._places[seed]
            pack._network.load_member(slot, start)
            torch.manual_seed(seed)
            module.load_state_dict(start)
            train_plainly(module.train(), data64, batches(data64, 0, 1), configuration)
            with torch.no_grad():
                plain.append(float(torch_loss("cross_entropy", module.eval()(data64.validation.images), data64.validation.labels)))
        array = [result.validation_loss for result in trainer.epoch()]
        a, b = torch.tensor(array), torch.tensor(plain)
        error = math.sqrt(float(a.var() + b.var()) / seeds)
        assert abs(float(a.mean() - b.mean())) < 4 * error
        assert 0.7 < float(a.std() / b.std()) < 1.4


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_torchs_own(name: str) -> None:
    logits = torch.randn(3, 20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(20) % 10
    mine = ArrayLoss([name] * 3, logits.device)(logits, target)
    assert torch.allclose(mine, torch.stack([torch_loss(name, part, target) for part in logits]), atol=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_of_diverged_logits_is_not_finite(name: str, value: float) -> None:
    logits = torch.full((1, 4, 10), value)
    assert not ArrayLoss([name], logits.device)(logits, torch.zeros(4, dtype=torch.int64)).isfinite().any()


def test_a_loss_is_not_evaluated_where_it_was_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setitem(LOSSES, "mse", lambda x, t: (seen.append(len(x)), x.square().mean(1))[1])
    logits = torch.randn(3, 4, 10)
    logits[0] = math.inf
    out = ArrayLoss(["cross_entropy", "mse", "mse"], logits.device)(logits, torch.zeros(4, dtype=torch.int64))
    assert seen == [8]
    assert out[1:].isfinite().all()


class MixesChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.dense((x - x.mean(1, keepdim=True)).amax((2, 3)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [(MixesChannels, "mixes channels"), (lambda: nn.Sequential(nn.Flatten(), nn.LSTM(64, 3)), "LSTM has no packed form")],
)
def test_what_does_not_pack_is_refused_with_the_reason(build: type[nn.Module], reason: str) -> None:
    with pytest.raises(NotPackable, match=reason):
        check_packing(build, 2, torch.zeros(1, 1, 8, 8))


def test_an_unusual_forward_of_channel_local_operations_packs() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.dense = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + torch.relu(self.conv(x))
            return self.dense(torch.flatten(x.amax((2, 3)), 1))

    check_packing(Residual, 3, torch.zeros(1, 1, 8, 8))
