"""The planner measures what is there, obeys what it is told, says why, and is never worse than one network at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import NETWORKS
from test_cli import sweeper
from torch import Tensor

from studies.loader import with_changes
from studies.spec import StudySpec
from sweeper.job import ArrayPlan, JobError, Penalties, TrainingSettings
from sweeper.search import make_job
from sweeper.training import planner
from sweeper.training.datasets import Data
from sweeper.training.pack import Recipe
from sweeper.training.planner import in_lanes, make_plan
from sweeper.training.trainer import make_recipe
from sweeper.trial import Configuration
from sweeper.words import describe_plan
from sweeper.worker import Worker

SAMPLES = (Configuration(dropout=0.2), Configuration(loss="mse", l2=1e-3))


def plan_for(data: Data, recipe: Recipe | None = None, **asked: int | str | None) -> ArrayPlan:
    recipe = recipe or make_recipe(NETWORKS["cnn"], data, TrainingSettings(4, 16), Penalties())
    rows = torch.arange(16)
    options = {"width": None, "pack": None, "strategy": None, "most_slots": 8} | asked
    return make_plan(recipe, data.training_inputs(rows, 0), data.train.labels[rows], SAMPLES, **options)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds by pack width, in place of a clock; a width that is not there does not fit into the memory."""
    table: dict[int, float] = {}

    def look_up(recipe: Recipe, images: Tensor, labels: Tensor, samples: object, width: int) -> float:
        if width not in table:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return table[width]

    monkeypatch.setattr(planner, "seconds_per_trial_step", look_up)
    return table


def test_it_measures_ascending_packs_and_takes_a_fast_one(data64: Data) -> None:
    plan = plan_for(data64)
    assert set(plan.measured) <= {1, 2, 4, 8}
    assert {1, 2} <= set(plan.measured)
    assert plan.measured[plan.pack] <= plan.measured[1]
    assert plan.width % plan.pack == 0
    assert plan.width <= 8
    assert "one network at a time" in plan.reason


def test_what_is_asked_for_goes_before_what_is_measured(data64: Data, measured: dict[int, float]) -> None:
    measured.update({1: 1e-3, 2: 2e-3, 4: 0.1e-3})
    assert plan_for(data64, width=6, pack=3) == ArrayPlan(6, 3, {}, "as the study says")
    assert plan_for(data64, width=6) == ArrayPlan(6, 6, {}, "as the study says")
    assert plan_for(data64, width=6, strategy="looped") == ArrayPlan(6, 1, {}, "as the study says")
    looped = plan_for(data64, strategy="looped")
    assert (looped.pack, looped.strategy, set(looped.measured)) == (1, "looped", {1})
    packed = plan_for(data64, strategy="packed")
    assert (packed.pack, packed.strategy) == (2, "packed")  # the search ended there: wider ones seemed to get slower
    assert "as the study says" in packed.reason


@pytest.mark.parametrize(
    ("seconds", "pack"),
    [({1: 1.0, 2: 0.5, 4: 0.3, 8: 0.4}, 4), ({1: 1.0, 2: 0.98, 4: 1.1, 8: 1.2}, 1), ({1: 1.0, 2: 1.2}, 1), ({1: 1.0, 2: 0.5}, 2)],
)
def test_a_pack_must_be_worth_it(data64: Data, measured: dict[int, float], seconds: dict[int, float], pack: int) -> None:
    measured.update({width: 1e-4 * value for width, value in seconds.items()})
    plan = plan_for(data64)
    assert plan.pack == pack
    assert ("do not fit" in plan.reason) == (8 not in seconds and 4 not in seconds and seconds.get(2, 9) < 1.15)


@pytest.mark.parametrize(
    ("seconds", "width", "pack"),
    [
        ({2: 0.6, 4: 0.404, 8: 0.4}, 8, 4),  # half the width is as fast: two of them
        ({2: 0.6, 4: 0.45, 8: 0.4}, 8, 8),
        ({2: 0.405, 4: 0.42, 8: 0.404, 16: 0.403, 32: 0.4}, 4, 2),  # a flat curve: chance alone says that 32 is the best
        ({2: 0.6, 4: 0.5, 8: 0.403, 16: 0.401, 32: 0.4}, 16, 8),
    ],
)
def test_of_packs_that_are_as_fast_it_takes_two_of_the_narrowest(
    data64: Data, measured: dict[int, float], seconds: dict[int, float], width: int, pack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of this network lasts longer than the quarter of a second that an array is made for."""
    monkeypatch.setattr(planner, "LONGEST_STEP", 1.0)
    measured.update({each: 0.06 * value for each, value in ({1: 1.0} | seconds).items()})
    plan = plan_for(data64, most_slots=32)
    assert (plan.width, plan.pack) == (width, pack)
    assert in_lanes(plan, 1).lanes == ((width // 2,) * 2 if width > pack else ())


def test_a_pack_whose_steps_are_long_already_is_the_widest_tried(data64: Data, measured: dict[int, float]) -> None:
    measured.update({each: 0.03 - 1e-4 * each for each in (1, 2, 4, 8, 16)})
    plan = plan_for(data64)
    assert sorted(plan.measured) == [1, 2, 4]  # four of them take 0.12 s


def test_a_network_too_large_for_the_memory_is_the_users_to_mend(data64: Data, measured: dict[int, float]) -> None:
    assert not measured
    with pytest.raises(JobError, match="not even one trial at a time fits"):
        plan_for(data64)


def test_a_network_that_does_not_pack_is_looped(data64: Data) -> None:
    recipe = make_recipe(NETWORKS["cnn"], data64, TrainingSettings(4, 16), Penalties(), packable=False)
    assert plan_for(data64, recipe).pack == 1
    assert plan_for(data64, recipe, width=4, strategy="packed").pack == 1


def test_a_stored_plan_is_kept_and_the_spec_rules_the_strategy(tiny: StudySpec) -> None:
    job = make_job(with_changes(tiny, array={"width": 4, "strategy": "looped", "workers": 1}), "cpu", 4)
    assert Worker(job).ready.plan == ArrayPlan(4, 1, {}, "as the study says", lanes=(2, 2))
    stored = ArrayPlan(6, 2, {1: 2e-3, 2: 1e-3}, "measured")
    assert Worker(replace(job, plan=stored)).ready.plan == stored
    assert "6 trials at once in packs of 2; measured" in describe_plan(stored)


def test_validate_shows_the_plan_what_was_measured_and_how_to_repeat_it(tmp_path: Path, tiny_file: Path) -> None:
    tiny_file.write_text(tiny_file.read_text().replace("width = 4\n", ""))
    shown = sweeper("validate", str(tiny_file), "--plan", folder=tmp_path).stdout
    assert "array: " in shown
    assert "packs of 1: " in shown
    assert "[array] width = " in shown
    plan = json.loads(sweeper("validate", str(tiny_file), "--plan", "--json", folder=tmp_path).stdout)["plan"]
    assert plan["strategy"] in ("packed", "looped")
    assert plan["measured"]["1"] > 0
    assert plan["precision"] == "float32"
    tiny_file.write_text(tiny_file.read_text().replace('name = "digits"', 'name = "folder:nowhere"'))
    refused = sweeper("validate", str(tiny_file), "--plan", folder=tmp_path, code=2).stderr
    assert "folder:nowhere" in refused or "nowhere" in refused
    assert not list(tmp_path.glob("*.db"))
