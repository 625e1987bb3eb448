"""Layers that compute in bfloat16: as accurate a classifier, near to float32, refused where it would be emulated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import NETWORKS
from reference import mean_error

from studies.spec import StudySpec
from sweeper.job import ArrayPlan, DataSettings, Layer, Penalties, TrainingSettings
from sweeper.search import make_job
from sweeper.training.datasets import Data, load_data
from sweeper.training.models import build_network
from sweeper.training.precision import check_precision
from sweeper.training.trainer import Trainer, make_recipe
from sweeper.trial import Configuration, Run
from sweeper.worker import Worker

SETTINGS = TrainingSettings(epochs=8, batch_size=32, precision="bfloat16")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataSettings("digits", 600, 597, 600))


def trainer_for(name: str, data: Data, plan: ArrayPlan, training: TrainingSettings) -> Trainer:
    return Trainer(make_recipe(NETWORKS[name], data, training, Penalties()), data, plan, 7)


def test_a_classifier_is_as_accurate_as_in_float32(digits: Data) -> None:
    layers = (Layer("conv", 8, 3), Layer("conv", 16, 3), Layer("pool", kernel=2), Layer("dense", 32), Layer("dropout"))
    accuracies = {}
    for precision in ("float32", "bfloat16"):
        training = replace(SETTINGS, precision=precision)
        recipe = make_recipe(lambda: build_network(layers, (1, 8, 8), 10), digits, training, Penalties())
        trainer = Trainer(recipe, digits, ArrayPlan(8, 8), 7)
        for seed in range(8):
            trainer.start(Run(seed, Configuration(l2=1e-3, dropout=0.3, learning_rate=1e-2), seed, SETTINGS.epochs))
        for _ in range(SETTINGS.epochs):
            results = trainer.epoch()
        accuracies[precision] = mean_error([result.metrics.validation_accuracy for result in results])
    (full, error_full), (half, error_half) = accuracies["float32"], accuracies["bfloat16"]
    assert full > 0.85
    assert abs(full - half) < 4 * (error_full + error_half) ** 0.5


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_result_stays_near_that_of_float32_whatever_the_pack(name: str, digits: Data) -> None:
    """Rounding to eight bits is all that differs: after an epoch the weights have moved as in float32 to a few percent."""
    moved = {}
    for pack, precision in ((1, "float32"), (1, "bfloat16"), (4, "bfloat16")):
        trainer = trainer_for(name, digits, ArrayPlan(4, pack), replace(SETTINGS, precision=precision, optimizer="sgd"))
        for slot in range(4):
            trainer.start(Run(slot, Configuration(learning_rate=1e-2), slot, 3))
        before = trainer.weights(2)
        trainer.epoch()
        after = trainer.weights(2)
        assert all(tensor.dtype == torch.float32 for tensor in after.values() if tensor.is_floating_point())
        names = [key for key in after if after[key].dim() > 1]
        moved[pack, precision] = torch.cat([(after[key] - before[key]).flatten() for key in names])
    exact = moved.pop((1, "float32"))
    for rounded in moved.values():
        assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()


def test_a_processor_without_the_units_is_refused_in_one_line(tiny: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tiny, "cpu", 4)
    job = replace(job, training=replace(job.training, precision="bfloat16"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False}, raising=False)
    with pytest.raises(ValueError, match=r"^training\.precision: .*no bfloat16 units.*float32") as refusal:
        Worker(job)
    assert "\n" not in str(refusal.value)
    for units in ({"amx_bf16": True}, {"avx512_bf16": True}, {"bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units, raising=False)
        check_precision("bfloat16", CPU)
    check_precision("float32", CPU)
