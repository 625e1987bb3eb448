"""An array too large for the memory is split, its trials end up as if it never had been; refilling takes no more and more of it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from helpers import NETWORKS

from studies.spec import StudySpec
from sweeper import StudyResult, run_study
from sweeper.job import ArrayPlan, Penalties, TrainingSettings
from sweeper.training.datasets import Data
from sweeper.training.memory import is_out_of_memory
from sweeper.training.pack import Pack
from sweeper.training.trainer import Trainer, make_recipe
from sweeper.trial import Configuration, Run

SCRIPT = """
import json, resource, sys
import torch
from sweeper.job import ArrayPlan, DataSettings, Layer, Penalties, TrainingSettings
from sweeper.training.datasets import load_data
from sweeper.training.models import build_network
from sweeper.training.trainer import Trainer, make_recipe
from sweeper.trial import Configuration, Run

torch.set_num_threads(1)
width, limit = int(sys.argv[1]), int(sys.argv[2])
data = load_data(DataSettings("digits", 512, 256, 200))
layers = (Layer("conv", 16, 3, 1), Layer("conv", 16, 3, 1), Layer("dense", 8), Layer("dropout"))
recipe = make_recipe(lambda: build_network(layers, (1, 8, 8), 10), data, TrainingSettings(3, 256), Penalties())
def trainer(width):
    made = Trainer(recipe, data, ArrayPlan(32, width), 7)
    for i in range(32 if width > 1 else 1):
        made.start(Run(i, Configuration(l2=1e-3, dropout=0.2), i, 3))
    return made
trainer(1).epoch()  # what torch loads and sets up once
array = trainer(width)
if limit:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, resource.RLIM_INFINITY))
try:
    results = [array.epoch() for _ in range(2)][-1]
except ValueError as error:
    sys.exit(f"refused: {error}")
print(json.dumps({"pack": array.plan.pack, "width": array.plan.width, "reason": array.plan.reason,
    "losses": [r.metrics.validation_loss for r in results], "epochs": [r.epoch for r in results]}))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")


def run(pack: int, limit: int = 0) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", SCRIPT, str(pack), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, env={"PYTHONPATH": root})


@linux
def test_a_pack_that_does_not_fit_is_split_and_nothing_of_its_trials_is_lost() -> None:
    short = run(32, limit=100 << 20)
    assert short.returncode == 0, short.stderr
    narrow, expected = json.loads(short.stdout), json.loads(run(32).stdout)
    assert 1 <= narrow["pack"] < 32
    assert narrow["width"] == 32
    assert "did not fit into the memory" in narrow["reason"]
    assert narrow["epochs"] == [2] * 32
    assert narrow["losses"] == pytest.approx(expected["losses"], rel=1e-3)


@linux
def test_what_does_not_fit_even_alone_is_one_clear_line() -> None:
    refused = run(2, limit=2 << 20)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("refused: not even one trial at a time fits into the memory")


def test_a_thousand_refills_happen_in_place_and_leave_nothing_behind(data64: Data) -> None:
    recipe = make_recipe(NETWORKS["batch norm"], data64, TrainingSettings(9, 90, patience=5), Penalties())
    trainer = Trainer(recipe, data64, ArrayPlan(8, 8), 7)
    for trial in range(8):
        trainer.start(Run(trial, Configuration(dropout=0.2), trial, 9))

    def refill(first: int, number: int) -> None:
        for trial in range(first, first + number):
            trainer.stop(trial - 8)
            trainer.start(Run(trial, Configuration(l2=1e-3, dropout=0.2, loss=("mse", "hinge")[trial % 2]), trial, 9))
            if trial % 40 == 39:
                trainer.epoch()

    def held() -> tuple[int, int]:
        gc.collect()
        objects = gc.get_objects()
        return sum(each.nbytes for each in objects if type(each) in (torch.Tensor, torch.nn.Parameter)), len(objects)

    def places() -> list[int]:
        return [tensor.data_ptr() for pack in trainer._packs for tensor in (*pack._network.tensors, *pack._optimizer.tensors)]

    refill(8, 200)
    (tensors, objects), before = held(), places()
    refill(208, 1000)
    tensors_after, objects_after = held()
    assert places() == before
    assert tensors_after == tensors
    assert objects_after < objects + 100


def test_a_study_that_runs_out_of_memory_blames_no_configuration_and_remembers(
    tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack of more than two fails in the middle of its epoch, as an allocator would make it fail."""
    refused = []
    train_step = Pack.train_step

    def short(pack: Pack, step: int, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if pack.width > 2 and step == 2:
            refused.append(pack.width)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return train_step(pack, step, images, labels)

    def run(name: str, trials: int) -> StudyResult:
        storage = f"sqlite:///{tmp_path / name}.db"
        return run_study(tiny, trials=trials, storage=storage, runs=tmp_path / name, devices=["cpu"], in_process=True)

    expected = run("enough", 12)
    monkeypatch.setattr(Pack, "train_step", short)
    result = run("short", 12)
    assert refused == [4]
    assert result.summary is not None
    assert result.summary.progress.failed == 0
    assert result.summary.plans[0].pack == 2
    assert "packs of 4 did not fit" in result.summary.plans[0].reason
    assert result.trials["value"].tolist() == pytest.approx(expected.trials["value"].tolist(), abs=0.011, nan_ok=True)
    run("short", 16)
    assert refused == [4]  # the plan that fits was stored


def test_a_pack_that_is_replaced_is_gone_at_once(data64: Data) -> None:
    trainer = Trainer(make_recipe(NETWORKS["cnn"], data64, TrainingSettings(9, 90), Penalties()), data64, ArrayPlan(4, 4), 7)
    for trial in range(4):
        trainer.start(Run(trial, Configuration(), trial, 9))
    trainer.epoch()
    wide = weakref.ref(trainer._packs[0])
    gc.disable()
    try:
        for trial in range(3):
            trainer.stop(trial)
        trainer.epoch()
        assert wide() is None
    finally:
        gc.enable()


def test_other_errors_are_no_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("not enough memory"))
