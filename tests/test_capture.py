"""A recorded training step computes what the step does, also after slots were refilled; on a CPU a tape stands for a CUDA graph.

The tape holds the operations of one step with the very tensors they worked on, and repeats them there, as a CUDA graph does: a
number that Python put in is the same in every replay, and a tensor that moved is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import NETWORKS
from reference import assert_same_network, train_plainly
from test_array import CONFIGURATIONS, SETTINGS, make_trainer, train_with_a_refill
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sweeper.job import Penalties, PenaltySettings, Schedule, TrainingSettings
from sweeper.training import capture, pack
from sweeper.training.datasets import Data
from sweeper.trial import Configuration, Run

FORBIDDEN = ("aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero")
"""What a CUDA graph cannot hold: values from Python, values to Python, shapes that depend on values."""

Results = tuple[Tensor, Tensor]


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func.name()}")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            read = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            again = func(*args, **kwargs)
            for place, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.untyped_storage().data_ptr() not in read:
                    place.copy_(new)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record steps on a CPU; the list has the number of replays of each recording."""
    replays: list[int] = []

    def record(step: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        with Tape() as tape:
            results = step()
        replays.append(0)
        number = len(replays) - 1

        def replay() -> None:
            if replays[number]:  # recording on a tape has taken the step already
                tape.replay()
            replays[number] += 1

        return replay, results

    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(pack, "records_steps", lambda device: True)
    return replays


@pytest.mark.parametrize("name", ["cnn", "batch norm", "layer norm", "residual"])
def test_replayed_steps_equal_plain_torch_with_a_refill_in_between(name: str, data64: Data, recorded: list[int]) -> None:
    train_with_a_refill(NETWORKS[name], data64, CONFIGURATIONS, 5)
    assert sum(recorded) >= 14  # of 24 steps; the others warm up


@pytest.mark.parametrize(
    "training",
    [
        replace(SETTINGS, optimizer="sgd", nesterov=True, schedule=Schedule("one_cycle")),
        replace(SETTINGS, optimizer="rmsprop", clip_norm=0.3),
        replace(SETTINGS, optimizer="adamw", schedule=Schedule("cosine"), class_weights="balanced"),
    ],
)
def test_nothing_that_changes_between_steps_is_frozen(training: TrainingSettings, data64: Data, recorded: list[int]) -> None:
    chosen = [
        replace(c, momentum=0.9 * (i % 2), weight_decay=0.1 * i, max_norm=2.0, label_smoothing=0.1 * (i % 2))
        for i, c in enumerate(CONFIGURATIONS)
    ]
    chosen[2] = replace(chosen[2], loss_weights=(("cross_entropy", 0.3), ("focal", 0.7)), focal_gamma=1.0)
    late = PenaltySettings(start_epoch=2, warmup_epochs=2)
    train_with_a_refill(NETWORKS["cnn"], data64, chosen, 5, training, Penalties(l1=replace(late, proximal=True), l2=late))
    assert sum(recorded) >= 10


def test_dropout_is_drawn_anew_in_every_replay_and_as_without_recording(
    data64: Data, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [Run(i, Configuration(dropout=0.2 * i, learning_rate=1e-2), seed=i, epochs=3) for i in range(4)]
    build = NETWORKS["dropout everywhere"]
    together, alone = make_trainer(build, data64, 4), make_trainer(build, data64, 1)
    for run in runs:
        together.start(run)
    monkeypatch.setattr(pack, "records_steps", lambda device: False)
    alone.start(runs[3])
    for _ in range(3):
        together.epoch()
        alone.epoch()
    assert sum(recorded) >= 10
    mine, reference = together.weights(3), alone.weights(3)
    for key, tensor in reference.items():
        assert (mine[key] - tensor).abs().max() < 1e-8, key


def test_refills_of_the_same_kind_record_nothing_anew(data64: Data, recorded: list[int]) -> None:
    trainer = make_trainer(NETWORKS["cnn"], data64, 3)
    for trial in range(3):
        trainer.start(Run(trial, CONFIGURATIONS[trial], seed=trial, epochs=9))
    for trial in range(3, 9):
        trainer.epoch()
        trainer.stop(trial - 3)
        trainer.start(Run(trial, CONFIGURATIONS[(trial + 1) % 3], seed=trial, epochs=9))
    assert len(recorded) == 2  # one for the whole minibatches, one for the last of an epoch


def test_a_slot_that_explodes_leaves_the_others_as_they_are(data64: Data, recorded: list[int]) -> None:
    build, training = NETWORKS["cnn"], replace(SETTINGS, optimizer="sgd")
    trainer = make_trainer(build, data64, 3, training=training)
    good = [Run(i, CONFIGURATIONS[i], seed=i, epochs=3) for i in (0, 1)]
    for run in (*good, Run(2, Configuration(loss="hinge", learning_rate=1e308), seed=2, epochs=3)):
        trainer.start(run)
    for _ in range(3):
        results = trainer.epoch()
    assert recorded
    assert results[2].metrics.train_loss != results[2].metrics.train_loss
    for run in good:
        assert_same_network(trainer.weights(run.trial), train_plainly(build, data64, run, training))


def test_a_network_that_looks_at_its_values_runs_unrecorded(data64: Data, recorded: list[int]) -> None:
    class Looks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.dense = torch.nn.Dropout(0.0), torch.nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.dense(self.dropout(x.flatten(1)))
            return out if float(out.detach().sum()) > -1e9 else -out

    trainer = make_trainer(Looks, data64, 2)
    runs = [Run(i, CONFIGURATIONS[i], seed=i, epochs=2) for i in range(2)]
    for run in runs:
        trainer.start(run)
    for _ in range(2):
        trainer.epoch()
    assert not recorded
    for run in runs:
        assert_same_network(trainer.weights(run.trial), train_plainly(Looks, data64, run, SETTINGS))
