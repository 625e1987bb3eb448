"""The ready study on real images: pruning earns its place, and regularization is worth what the study says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper import StudyResult, change_study, load_study, run_study


def search(folder: Path, pruner: str) -> StudyResult:
    spec = load_study("digits")
    spec = change_study(spec, pruner=spec.pruner.model_dump() | {"name": pruner}, array={"width": 16, "workers": 1})
    return run_study(spec, storage=f"sqlite:///{folder}/{pruner}.db", runs=folder / pruner, devices=["cpu"])


@pytest.mark.slow
def test_pruning_saves_half_of_the_epochs_and_loses_less_than_a_point(tmp_path: Path) -> None:
    pruned, whole = search(tmp_path, "successive_halving"), search(tmp_path, "none")
    assert pruned.summary is not None
    assert whole.summary is not None
    assert whole.summary.progress.epochs == 120 * 60
    assert pruned.summary.progress.epochs <= 120 * 60 / 2
    assert pruned.best.metrics.validation_accuracy >= whole.best.metrics.validation_accuracy - 0.01
    assert pruned.summary.occupancy >= 0.9

    baselines = whole.best.metrics.baseline_validation_accuracy
    assert pruned.best.metrics.baseline_validation_accuracy == baselines  # the same runs, never pruned
    assert max(baselines.values()) < whole.best.metrics.validation_accuracy - 0.03
    heavy = whole.trials[(whole.trials["l2"] > 0.05)]
    assert len(heavy) > 0
    assert heavy["value"].max() < 0.5  # too much of it, and nothing is learnt
