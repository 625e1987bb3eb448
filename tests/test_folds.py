"""Cross-validation: every image is validated on once, a trial's value is the mean of runs that can each be trained alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY

import sweeper
from storage import queries
from studies.errors import SpecError
from studies.loader import parse_study
from sweeper.folds import bundle, unbundle
from sweeper.job import DataSettings
from sweeper.training.datasets import DataError, load_data
from sweeper.trial import EpochResult, Metrics

FOLDED = (
    TINY.replace("test_size = 100", "test_size = 100\nfolds = 3\nlabel_noise = 0.3").replace("width = 4", "width = 6")
    .replace("trials = 12", "trials = 8")
)  # fmt: skip


def _run(folder: Path, text: str = FOLDED, **options: Any) -> sweeper.StudyResult:
    folder.mkdir(exist_ok=True)
    options = {"in_process": True} | options
    return sweeper.run_study(parse_study(text, "t.toml"), storage=f"sqlite:///{folder / 'test.db'}", runs=folder, **options)


def test_folds_divide_the_images_that_are_not_test_images() -> None:
    settings = DataSettings("digits", 200, 100, 50, label_noise=0.5, folds=4, fold_repeats=2)
    data, clean = load_data(settings), load_data(DataSettings("digits", 200, 100, 50))
    assert len(data.folds) == 8
    pool = torch.cat([clean.train.images, clean.validation.images]).flatten(1)
    for repeat in (data.folds[:4], data.folds[4:]):
        validated = torch.cat([fold.validation.images for fold in repeat]).flatten(1)
        assert len(validated) == 300
        assert torch.equal(torch.unique(validated, dim=0), torch.unique(pool, dim=0))
        for fold in repeat:
            assert len(fold.rows) + len(fold.validation) == 300
            counts = torch.bincount(fold.validation.labels, minlength=10)
            assert counts.max() - counts.min() <= 3, "stratified"
            seen = {image.tobytes() for image in fold.train.images[fold.rows].numpy()}
            assert not any(image.tobytes() in seen for image in fold.validation.images.numpy())
    first, second = (fold[0].validation.images.flatten(1) for fold in (data.folds[:4], data.folds[4:]))
    assert not torch.equal(first, second), "each repetition is divided anew"
    labels = {image.numpy().tobytes(): int(label) for image, label in zip(clean.train.images, clean.train.labels, strict=True)}
    fold = data.folds[0]
    truths = [
        labels[image.numpy().tobytes()] == int(label)
        for image, label in zip(fold.validation.images, fold.validation.labels, strict=True) if image.numpy().tobytes() in labels
    ]  # fmt: skip
    assert all(truths), "noise is in training labels only"


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be divided into 50 folds"):
        load_data(DataSettings("digits", 20, 20, 50, folds=50))
    with pytest.raises(SpecError, match="multiple of the 3 runs"):
        parse_study(FOLDED.replace("width = 6", "width = 4"), "t.toml")
    with pytest.raises(SpecError, match="fold_repeats"):
        parse_study(TINY.replace("test_size = 100", "test_size = 100\nfold_repeats = 2"), "t.toml")


def test_a_trials_value_is_the_mean_over_its_folds(tmp_path: Path) -> None:
    results = _run(tmp_path).results
    complete = results.trials[results.trials["state"] == "complete"]
    assert len(complete) >= 3
    for _, row in complete.iterrows():
        assert len(row["attr_fold_values"]) == 3
        assert row["value"] == pytest.approx(np.mean(row["attr_fold_values"]))
        assert row["attr_fold_std"] == pytest.approx(np.std(row["attr_fold_values"], ddof=1))
    curves = results.curves
    for number, values in ((int(n), results.study.trials[int(n)].intermediate_values) for n in results.trials.index):
        for epoch, value in values.items():
            folds = curves.xs((number, epoch), level=("number", "epoch"))["validation_accuracy"]
            assert list(folds.index) == [0, 1, 2]
            assert value == pytest.approx(folds.mean())
    counts = curves.groupby(["number", "run"]).size().unstack()
    assert (counts.nunique(axis=1) == 1).all(), "the folds of a trial are pruned together"
    assert counts.iloc[:, 0].nunique() > 1, "and some trials were"
    runs = queries.runs(results.engine, results.study._study_id)
    assert list(runs.xs(0, level="number")["fold"]) == [0, 1, 2]
    assert runs["seed"].is_unique


def test_folds_are_replayed(tmp_path: Path) -> None:
    result = _run(tmp_path)
    file = result.best
    replay = sweeper.train_best(file, in_process=True)
    assert len(replay.results) == 3
    assert abs(replay.validation_accuracy - file.metrics.validation_accuracy) < 0.02
    final = sweeper.train_best(file, in_process=True, final=True)
    assert len(final.results) == 1


def test_with_patience_a_fold_may_end_before_the_others(tmp_path: Path) -> None:
    text = FOLDED.replace("epochs = 4", "epochs = 20\npatience = 2").replace(
        "min_epochs = 1\nreduction_factor = 2", 'name = "none"'
    )
    results = _run(tmp_path, text).results
    assert results.counts()["complete"] == 8
    lengths = results.curves.groupby(["number", "run"]).size().unstack()
    assert (lengths.nunique(axis=1) > 1).any()
    best = results.curves["validation_accuracy"].groupby(["number", "run"]).max().unstack().mean(axis=1)
    assert results.trials["value"].to_numpy() == pytest.approx(best.to_numpy())


def test_two_workers_and_a_stop_lose_nothing(tmp_path: Path) -> None:
    working: list[Any] = []
    stopped = Counter[str]()

    def stop(progress: Any) -> None:
        if progress.epochs > 20 and not stopped["once"]:
            stopped["once"] += 1
            working[-1].request_stop()

    options = {"in_process": False, "devices": ["cpu", "cpu"]}
    assert _run(tmp_path, on_start=working.append, on_progress=stop, **options).interrupted
    result = _run(tmp_path, **options)
    counts = result.results.counts()
    assert counts["complete"] + counts["pruned"] == 8
    confirmed = _run(tmp_path, search=False, confirm=True)
    assert confirmed.results.answer is not None
    assert min(run for _, run in queries.outcomes(confirmed.results.engine, confirmed.results.study._study_id)) == 3


@pytest.mark.parametrize("patience", [None, 2])
def test_an_interrupted_trial_goes_on_from_the_checkpoints_of_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    """Stopped again and again, no epoch of any fold is trained twice, and folds that had ended stay ended."""
    monkeypatch.setattr("sweeper.orchestrator.CHECKPOINT_SECONDS", 0.0)
    text = FOLDED.replace("epochs = 4", "epochs = 9" + (f"\npatience = {patience}" if patience else "")).replace(
        "min_epochs = 1\nreduction_factor = 2", 'name = "none"'
    )
    working: list[Any] = []

    def stop(progress: Any) -> None:
        if progress.epochs >= 24:  # four epochs of an array of six
            working[-1].request_stop()

    calls, trained = 0, 0
    while True:
        calls += 1
        result = _run(tmp_path, text, on_start=working.append, on_progress=stop)
        assert result.summary is not None
        trained += result.summary.progress.epochs
        if not result.interrupted:
            break
    assert calls > 5
    results = result.results
    curves = results.curves["validation_accuracy"]
    assert trained == len(curves), "nothing was trained twice"
    assert results.trials["attr_stream_resumed"].notna().sum() > 3
    lengths = curves.groupby(["number", "run"]).size().unstack()
    assert (lengths.nunique(axis=1) > 1).any() == (patience is not None)
    for (number, run), curve in curves.groupby(["number", "run"]):
        assert curve.index.get_level_values("epoch").tolist() == list(range(1, len(curve) + 1)), (number, run)
    counted = curves.groupby(["number", "run"]).max() if patience else curves.groupby(["number", "run"]).last()
    assert results.trials["value"].to_numpy() == pytest.approx(counted.unstack().mean(axis=1).to_numpy())
    assert queries.checkpoints(results.engine, results.study._study_id) == []
    assert list(tmp_path.rglob("*.pt")) == []
    file = result.best
    if patience is None:
        replay = sweeper.train_best(file, in_process=True)
        assert abs(replay.validation_accuracy - file.metrics.validation_accuracy) < 0.02, "with the minibatches it had"


def test_a_checkpoint_that_is_none_lets_a_trial_begin_again(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(0.5, 0.6, 0.7, 0.8, {"ece": 0.1})
    ended = EpochResult(7, 3, metrics, ((0, 4), (2, 9)), 1, metrics, stopped=True, measured={"class_accuracy": [0.5, 1.0]})
    assert unbundle(bundle({0: b"zero", 2: b"two"}, {1: ended})) == ({0: b"zero", 2: b"two"}, {1: ended})
    assert unbundle(b"no archive") == ({}, {})
    assert "begins again" in caplog.text
