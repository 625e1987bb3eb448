"""The ready study on real images: pruning earns its place, and regularization is worth what the study says."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

import pytest

from sweeper import StudyResult, change_study, load_study, run_study
from sweeper.job import ArrayPlan
from sweeper.search import make_job
from sweeper.training.datasets import load_data
from sweeper.training.models import make_builder
from sweeper.training.trainer import Trainer, make_recipe
from sweeper.trial import Run

FRESH_SEEDS = 16


def search(folder: Path, pruner: str) -> StudyResult:
    spec = load_study("digits")
    spec = change_study(spec, pruner=spec.pruner.model_dump() | {"name": pruner}, array={"width": 16, "workers": 1})
    return run_study(spec, storage=f"sqlite:///{folder}/{pruner}.db", runs=folder / pruner, devices=["cpu"])


def over_fresh_seeds(result: StudyResult) -> list[float]:
    """Train the study's answer again from other initial weights: its validation accuracies, free of the luck of the best."""
    spec, answer = result.results.spec, result.results.answer
    assert answer is not None
    configuration = result.results.trial(answer.winner.trial).configuration
    job = make_job(spec, "cpu", FRESH_SEEDS)
    data = load_data(job.data)
    build = make_builder(job.model, data.input_shape, data.classes)
    trainer = Trainer(make_recipe(build, data, job.training, job.penalties), data, ArrayPlan(FRESH_SEEDS, FRESH_SEEDS), 999)
    for seed in range(FRESH_SEEDS):
        trainer.start(Run(seed, configuration, 10_000 + seed, spec.training.epochs))
    for _ in range(spec.training.epochs):
        results = trainer.epoch()
    return [r.metrics.validation_accuracy for r in results]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pruning_saves_half_of_the_epochs_and_its_answer_is_within_a_point(tmp_path: Path) -> None:
    """The confirmed answers are compared over fresh seeds, in pairs: that of pruning must not be worse by more than a point and
    what the seeds leave open (two standard errors, for other machines round otherwise and search elsewhere).
    """
    pruned, whole = search(tmp_path, "successive_halving"), search(tmp_path, "none")
    assert pruned.summary is not None
    assert whole.summary is not None
    assert whole.summary.progress.epochs == 120 * 60
    assert pruned.summary.progress.epochs <= 120 * 60 / 2
    reached = over_fresh_seeds(pruned)
    apart = [a - b for a, b in zip(reached, over_fresh_seeds(whole), strict=True)]
    assert mean(apart) >= -0.01 - 2 * stdev(apart) / FRESH_SEEDS**0.5
    assert pruned.summary.occupancy >= 0.9

    baselines = whole.best.metrics.baseline_validation_accuracy
    assert pruned.best.metrics.baseline_validation_accuracy == baselines  # the same runs, never pruned
    assert max(baselines.values()) < mean(reached) - 0.02  # regularization is worth something
    heavy = whole.trials[(whole.trials["l2"] > 0.05)]
    assert len(heavy) > 0
    assert heavy["value"].max() < 0.5  # too much of it, and nothing is learnt
