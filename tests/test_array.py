"""The trial array computes what torch.nn and torch.optim compute, slot by slot, whoever the neighbours are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import CNN, MLP, NETWORKS, network
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import NO_SETTINGS, STREAM, assert_same_network, torch_loss, train_plainly
from torch import nn

from sweeper.job import ArrayPlan, Augmentation, Layer, Penalties, PenaltySettings, Schedule, TrainingSettings
from sweeper.training.datasets import Data
from sweeper.training.losses import balanced_weights
from sweeper.training.models import Builder, initial_state
from sweeper.training.trainer import Trainer, make_recipe, stream
from sweeper.trial import Configuration, EpochResult, Run

SETTINGS = TrainingSettings(epochs=4, batch_size=16)
CONFIGURATIONS = [
    Configuration(0.0, 0.0, dropout=0.0, loss="cross_entropy", learning_rate=1e-2),
    Configuration(1e-3, 0.0, dropout=0.0, loss="mse", learning_rate=3e-3),
    Configuration(0.0, 1e-2, dropout=0.0, loss="hinge", learning_rate=1e-2),
    Configuration(1e-4, 1e-3, dropout=0.0, loss="cross_entropy", learning_rate=1e-3),
    Configuration(1e-3, 1e-1, dropout=0.0, loss="hinge", learning_rate=1e-2),
]


def make_trainer(
    build: Builder, data: Data, width: int, pack: int | None = None, training: TrainingSettings = SETTINGS,
    penalties: Penalties = NO_SETTINGS, *, packable: bool = True,
) -> Trainer:  # fmt: skip
    recipe = make_recipe(build, data, training, penalties, packable=packable)
    return Trainer(recipe, data, ArrayPlan(width, pack or width), STREAM)


def train_with_a_refill(
    build: Builder, data: Data, configurations: list[Configuration], pack: int, training: TrainingSettings = SETTINGS,
    penalties: Penalties = NO_SETTINGS, tolerance: float = 1e-8,
) -> list[EpochResult]:  # fmt: skip
    """Train runs for four epochs (24 steps), the second of them replaced after one, and compare each with plain torch."""
    width = -(-len(configurations) // pack) * pack
    trainer = make_trainer(build, data, width, pack, training, penalties)
    runs = [Run(i, c, seed=100 + i, epochs=4) for i, c in enumerate(configurations)]
    for run in runs:
        trainer.start(run)
    trainer.epoch()
    trainer.stop(1)
    late = Run(9, configurations[-1], seed=55, epochs=4)
    trainer.start(late)
    results = [result for _ in range(3) for result in trainer.epoch()]
    weights = torch.tensor(training.class_weights, dtype=data.dtype) if isinstance(training.class_weights, tuple) else None
    if training.class_weights == "balanced":
        weights = balanced_weights(data.train.labels, data.classes).to(data.dtype)
    for run in runs[:1] + runs[2:]:
        twin = train_plainly(build, data, run, training, penalties, class_weights=weights)
        assert_same_network(trainer.weights(run.trial), twin, tolerance)
    twin = train_plainly(build, data, late, training, penalties, start=1, epochs=3, class_weights=weights)
    assert_same_network(trainer.weights(9), twin, tolerance)
    return results


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize(("pack", "number"), [(5, 5), (1, 3), (2, 5)])
def test_every_network_equals_plain_torch_with_a_refill_in_between(name: str, pack: int, number: int, data64: Data) -> None:
    results = train_with_a_refill(NETWORKS[name], data64, CONFIGURATIONS[:number], pack)
    late = [result for result in results if result.trial == 9]
    assert [(result.epoch, result.stream) for result in late] == [(1, ((0, 1),)), (2, ((0, 1),)), (3, ((0, 1),))]


strengths = st.sampled_from([0.0, 1e-4, 1e-2])
configurations = st.builds(
    Configuration,
    l1=strengths,
    l2=strengths,
    weight_decay=st.sampled_from([0.0, 1e-2, 0.3]),
    max_norm=st.sampled_from([0.0, 0.7, 2.0]),
    dropout=st.just(0.0),
    loss=st.sampled_from(["cross_entropy", "mse", "square", "hinge", "squared_hinge", "focal"]),
    loss_weights=st.sampled_from([(), (("cross_entropy", 0.3), ("hinge", 0.7)), (("mse", 2.0), ("focal", 0.1), ("square", 0.2))]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    focal_gamma=st.sampled_from([0.5, 2.0]),
    square_k=st.sampled_from([1.0, 3.0]),
    square_m=st.sampled_from([1.0, 2.0]),
    learning_rate=st.sampled_from([1e-3, 5e-3]),
    momentum=st.sampled_from([0.0, 0.9]),
)
penalty = st.builds(
    PenaltySettings,
    scope=st.sampled_from([("weights",), ("all",), ("output",)]),
    per_sample=st.booleans(),
    start_epoch=st.sampled_from([1, 2]),
    warmup_epochs=st.sampled_from([0, 3]),
)
trainings = st.builds(
    TrainingSettings,
    epochs=st.just(4),
    batch_size=st.just(16),
    optimizer=st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]),
    nesterov=st.booleans(),
    schedule=st.sampled_from(
        [Schedule(), Schedule("step", every=2, factor=0.5), Schedule("cosine", minimum=1e-5), Schedule("one_cycle")]
    ),
    clip_norm=st.sampled_from([None, 0.3]),
    class_weights=st.sampled_from([None, "balanced", tuple(float(1 + i % 3) for i in range(10))]),
)


@pytest.mark.timeout(900)  # a minute alone; many, where others work too
@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["cnn", "mlp", "batch norm", "layer norm"]),
    chosen=st.lists(configurations, min_size=3, max_size=4),
    training=trainings,
    penalties=st.builds(Penalties, l1=penalty, l2=penalty, weight_decay=penalty, max_norm=penalty),
    proximal=st.booleans(),
    augmentation=st.sampled_from([Augmentation(), Augmentation(flip=True, shift=1, rotation=10)]),
    pack=st.sampled_from([1, 2, 4]),
    as_if_wide=st.booleans(),
)
def test_any_combination_equals_plain_torch(
    data64: Data, name: str, chosen: list[Configuration], training: TrainingSettings, penalties: Penalties, proximal: bool,
    augmentation: Augmentation, pack: int, as_if_wide: bool,
) -> None:  # fmt: skip
    data = replace(data64, augmentation=augmentation)
    penalties = replace(penalties, l1=replace(penalties.l1, proximal=proximal))
    with pytest.MonkeyPatch.context() as patch:
        if as_if_wide:  # as layers with thousands of weights are trained
            patch.setattr("sweeper.training.penalties.WORTH_A_CALL", 1)
            patch.setattr("sweeper.training.slot_gradients.WORTH_A_PRODUCT", 1)
        train_with_a_refill(NETWORKS[name], data, chosen, pack, training, penalties)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_whole_stack_arithmetic_equals_the_fused_kernels(optimizer: str, data64: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form that GPUs use gives what the CPU's does."""
    training = replace(SETTINGS, optimizer=optimizer, nesterov=True, schedule=Schedule("one_cycle"))
    monkeypatch.setattr("sweeper.training.pack.records_steps", lambda device: True)
    monkeypatch.setattr("sweeper.training.capture.WARM_UP", 10**9)
    chosen = [replace(c, momentum=0.9 * (i % 2)) for i, c in enumerate(CONFIGURATIONS)]
    train_with_a_refill(NETWORKS["cnn"], data64, chosen, 3, training)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("scope", [("weights",), ("all",), ("output",)])
def test_an_l2_penalty_that_the_optimizers_kernel_adds_is_the_same(
    optimizer: str, scope: tuple[str, ...], data64: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.training.penalties.WORTH_A_CALL", 1)
    chosen = [replace(c, l2=0.01 * i, weight_decay=0.3 * (i % 2), momentum=0.5) for i, c in enumerate(CONFIGURATIONS)]
    l2 = PenaltySettings(scope=scope, warmup_epochs=2)
    for training in (replace(SETTINGS, optimizer=optimizer), replace(SETTINGS, optimizer=optimizer, clip_norm=0.3)):
        train_with_a_refill(NETWORKS["cnn"], data64, chosen, 3, training, Penalties(l2=l2))


def test_weight_decay_is_that_of_torchs_adamw(data64: Data) -> None:
    build, training = NETWORKS["mlp"], replace(SETTINGS, optimizer="adamw", schedule=Schedule("cosine"))
    trainer = make_trainer(build, data64, 2, training=training, penalties=Penalties(weight_decay=PenaltySettings(scope=("all",))))
    for slot, decay in enumerate((0.3, 0.01)):
        trainer.start(Run(slot, Configuration(weight_decay=decay, learning_rate=1e-2), seed=slot, epochs=4))
    for _ in range(4):
        trainer.epoch()
    for slot, decay in enumerate((0.3, 0.01)):
        module = build().double()
        module.load_state_dict(initial_state(build, slot))
        optimizer = torch.optim.AdamW(module.parameters(), 1e-2, weight_decay=decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        for epoch in range(4):
            for rows in stream(STREAM, epoch, len(data64.train)).split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(data64.inputs(data64.train, rows)), data64.train.labels[rows]).backward()
                optimizer.step()
            scheduler.step()
        assert_same_network(trainer.weights(slot), module)


def test_epoch_results_are_those_of_the_plain_network(data64: Data) -> None:
    build = network(CNN, data64)
    trainer = make_trainer(build, data64, 3)
    for i in range(3):
        trainer.start(Run(i, CONFIGURATIONS[i], seed=i, epochs=3))
    results: list[EpochResult] = trainer.epoch()
    for i, result in enumerate(results):
        run = Run(i, CONFIGURATIONS[i], seed=i, epochs=3)
        module = train_plainly(build, data64, run, SETTINGS, epochs=1).eval()
        with torch.no_grad():
            logits = module(data64.inputs(data64.validation, slice(None)))
        hits = (logits.argmax(1) == data64.validation.labels).double().mean()
        assert result.metrics.validation_accuracy == result.best.validation_accuracy == pytest.approx(float(hits), abs=1e-12)
        loss = torch_loss(logits, data64.validation.labels, CONFIGURATIONS[i])
        assert result.metrics.validation_loss == pytest.approx(float(loss), abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    rates=st.lists(st.floats(0.0, 0.9), min_size=2, max_size=5),
    pack=st.sampled_from([1, 2, 3]),
    slot=st.integers(0, 4),
    name=st.sampled_from(["cnn", "mlp", "batch norm", "dropout everywhere"]),
    augmentation=st.sampled_from([Augmentation(), Augmentation(flip=True, shift=1, rotation=10)]),
)
def test_a_result_depends_on_neither_slot_nor_neighbours_nor_width(
    data64: Data, rates: list[float], pack: int, slot: int, name: str, augmentation: Augmentation
) -> None:
    data, build = replace(data64, augmentation=augmentation), NETWORKS[name]
    slot = min(slot, len(rates) - 1)
    runs = [Run(i, Configuration(1e-4, 1e-3, dropout=r, learning_rate=1e-2), seed=i, epochs=2) for i, r in enumerate(rates)]
    training = replace(SETTINGS, clip_norm=1.0)
    together = make_trainer(build, data, pack * len(rates), pack, training)
    alone = make_trainer(build, data, 1, training=training)
    for run in runs:
        together.start(run)
    alone.start(runs[slot])
    for _ in range(2):
        together.epoch()
        alone.epoch()
    mine, reference = together.weights(slot), alone.weights(slot)
    for key, tensor in reference.items():
        assert (mine[key] - tensor).abs().max() < 1e-8, key


@pytest.mark.parametrize("name", ["cnn", "batch norm", "layer norm"])
def test_an_exploding_trial_fails_alone(name: str, data64: Data) -> None:
    build, training = NETWORKS[name], replace(SETTINGS, clip_norm=1.0, optimizer="sgd")
    trainer = make_trainer(build, data64, 2, training=training)
    alone = make_trainer(build, data64, 1, training=training)
    good = Run(0, replace(CONFIGURATIONS[0], max_norm=2.0), seed=1, epochs=3)
    trainer.start(good)
    trainer.start(Run(1, Configuration(learning_rate=1e308, weight_decay=1e-3), seed=2, epochs=3))
    alone.start(good)
    for _ in range(3):
        results = trainer.epoch()
        expected = alone.epoch()
    assert not math.isfinite(results[1].metrics.train_loss)
    assert results[0].metrics.validation_accuracy == expected[0].metrics.validation_accuracy
    assert results[0].metrics.train_loss == pytest.approx(expected[0].metrics.train_loss, rel=1e-12)
    trainer.stop(1)
    fresh = Run(2, CONFIGURATIONS[1], seed=5, epochs=3)
    trainer.start(fresh)  # into the slot that exploded
    trainer.epoch()
    assert_same_network(trainer.weights(2), train_plainly(build, data64, fresh, training, start=3, epochs=1))


def test_the_array_shrinks_with_its_trials_and_grows_again(data64: Data) -> None:
    build = network((*MLP[:2], Layer("dense", 8), Layer("batch_norm")), data64)
    trainer, alone = make_trainer(build, data64, 8, 4), make_trainer(build, data64, 1)
    runs = [Run(i, Configuration(dropout=0.3), seed=i, epochs=4) for i in range(8)]
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
    assert results[1].metrics.train_loss == pytest.approx(expected[0].metrics.train_loss, rel=1e-9)
    assert results[1].metrics.validation_loss == pytest.approx(expected[0].metrics.validation_loss, rel=1e-9)


def test_proximal_steps_leave_exact_zeros_and_count_them(data64: Data) -> None:
    penalties = Penalties(l1=PenaltySettings(proximal=True))
    trainer = make_trainer(network(CNN, data64), data64, 2, penalties=penalties)
    trainer.start(Run(0, Configuration(l1=2.0, learning_rate=1e-2), seed=0, epochs=4))
    trainer.start(Run(1, Configuration(learning_rate=1e-2), seed=1, epochs=4))
    for _ in range(2):
        results = trainer.epoch()
    for result in results:
        weights = [w for name, w in trainer.weights(result.trial).items() if name.endswith("weight")]
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert result.zero_weights == pytest.approx(zeros)
    assert results[0].zero_weights > 0.5
    assert results[1].zero_weights == 0.0


class TestPatience:
    TRAINING = replace(SETTINGS, epochs=30, optimizer="sgd", patience=2)

    def follow(self, data: Data, monitor: str, learning_rate: float) -> tuple[list[EpochResult], dict[str, torch.Tensor], Builder]:
        build = network(MLP, data)
        trainer = make_trainer(
            build, data, 2, training=replace(self.TRAINING, monitor=monitor, monitor_minimized=monitor == "loss")
        )
        trainer.start(Run(0, Configuration(learning_rate=learning_rate), seed=3, epochs=30))
        trainer.start(Run(1, Configuration(learning_rate=1e-3), seed=4, epochs=30))
        seen: list[EpochResult] = []
        while not (seen and (seen[-1].stopped or seen[-1].epoch == 30)):
            seen.append(trainer.epoch()[0])
        return seen, trainer.weights(0), build

    @pytest.mark.parametrize("monitor", ["accuracy", "loss"])
    def test_it_stops_and_the_best_weights_come_back(self, monitor: str, data64: Data) -> None:
        seen, weights, build = self.follow(data64, monitor, learning_rate=1.0)
        values = [r.metrics.validation_accuracy if monitor == "accuracy" else -r.metrics.validation_loss for r in seen]
        best = values.index(max(values))
        assert seen[-1].stopped
        assert seen[-1].best_epoch == best + 1 == len(seen) - 2
        assert seen[-1].best.validation_accuracy == seen[best].metrics.validation_accuracy
        run = Run(0, Configuration(learning_rate=1.0), seed=3, epochs=30)
        assert_same_network(weights, train_plainly(build, data64, run, self.TRAINING, epochs=best + 1), 1e-7)

    def test_of_equals_the_earlier_epoch_stays(self, data64: Data) -> None:
        seen, _, _ = self.follow(data64, "accuracy", learning_rate=1e-12)
        assert [r.best_epoch for r in seen] == [1, 1, 1]
        assert [r.stopped for r in seen] == [False, False, True]


def test_a_network_that_does_not_pack_trains_beside_others_as_plain_torch_does(data64: Data) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(x.squeeze(1))[0][:, -1])

    trainer = make_trainer(Recurrent, data64, 3, 1, packable=False)
    runs = [Run(i, c, seed=i, epochs=4) for i, c in enumerate(CONFIGURATIONS[:3])]
    for run in runs:
        trainer.start(run)
    for _ in range(4):
        trainer.epoch()
    for run in runs:
        assert_same_network(trainer.weights(run.trial), train_plainly(Recurrent, data64, run, SETTINGS))


def test_random_numbers_of_a_network_of_its_own_are_repeated(data64: Data) -> None:
    class DrawsItself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(nn.functional.dropout(x.flatten(1), 0.5, self.training))

    seen = []
    for neighbours in (0, 2):
        trainer = make_trainer(DrawsItself, data64, 1 + neighbours, 1, packable=False)
        for i in range(neighbours):
            trainer.start(Run(10 + i, Configuration(), seed=50 + i, epochs=4))
        trainer.start(Run(0, Configuration(), seed=1, epochs=4))
        torch.rand(neighbours)
        seen.append([trainer.epoch()[-1].metrics.train_loss for _ in range(2)])
    assert seen[0] == seen[1]
