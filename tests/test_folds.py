"""Cross-validation: every image is validated on once, a trial's value is the mean of runs that can each be trained alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import TINY
from optuna.trial import TrialState

import sweeper
from storage import queries
from studies.errors import SpecError
from studies.loader import parse_study
from sweeper.folds import bundle, unbundle
from sweeper.job import DataSettings
from sweeper.results import Results
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


SEQUENTIAL = (
    FOLDED.replace("folds = 3", 'folds = 3\nfold_repeats = 2\nfold_mode = "sequential"').replace("width = 6", "width = 4")
    .replace("min_epochs = 1\nreduction_factor = 2", 'name = "wilcoxon"').replace("trials = 8", "trials = 14")
)  # fmt: skip


def _check_sequences(results: Results, epochs: int = 4) -> None:
    """Every trial has its folds in order; those that are pruned are worse than a complete one by scipy's own test."""
    trials = results.study.trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    lengths = results.curves.groupby(["number", "run"]).size().unstack()
    for trial in trials:
        values = list(trial.intermediate_values.values())
        assert list(trial.intermediate_values) == list(range(1, len(values) + 1))
        assert trial.user_attrs["fold_values"] == values
        assert trial.user_attrs["epochs"] == lengths.loc[trial.number].sum()
        if trial.state == TrialState.COMPLETE:
            assert len(values) == 6
            assert trial.value == pytest.approx(np.mean(values))
        else:
            assert trial.state == TrialState.PRUNED
            assert 4 <= len(values) < 6, "four folds are the fewest of which the test says anything"
            worse = [np.subtract(values, list(other.intermediate_values.values())[: len(values)]) for other in complete]
            assert min(scipy.stats.wilcoxon(each, alternative="less", zero_method="zsplit").pvalue for each in worse) < 0.1
    if epochs:
        assert (lengths.loc[:, :3] == epochs).all(axis=None)


def test_folds_follow_one_another_and_a_trial_ends_when_it_is_surely_worse(tmp_path: Path) -> None:
    result = _run(tmp_path, SEQUENTIAL)
    results = result.results
    _check_sequences(results)
    counts = results.counts()
    assert counts["pruned"] >= 2
    pruned = results.trials[results.trials["state"] == "pruned"]
    assert not pruned["baseline"].any()
    assert pruned["last_value"].to_numpy() == pytest.approx(pruned["attr_fold_values"].map(np.mean).to_numpy())
    runs = queries.runs(results.engine, results.study._study_id)
    assert list(runs.xs(0, level="number")["fold"]) == [0, 1, 2, 3, 4, 5]


def test_a_sequence_trained_at_width_1_is_replayed_exactly(tmp_path: Path) -> None:
    result = _run(tmp_path, SEQUENTIAL.replace("width = 4", "width = 1").replace("trials = 14", "trials = 4"))
    replay = sweeper.train_best(result.best, in_process=True)
    assert [one.best.validation_accuracy for one in replay.results] == result.results.best.facts["fold_values"]
    assert len(sweeper.train_best(result.best, in_process=True, final=True).results) == 1


def test_a_sequence_of_folds_repeats_bit_for_bit(tmp_path: Path) -> None:
    one, again = (_run(tmp_path / name, SEQUENTIAL).results.study.trials for name in ("one", "again"))
    assert [(t.params, t.intermediate_values) for t in one] == [(t.params, t.intermediate_values) for t in again]


def test_with_patience_the_next_fold_begins_earlier(tmp_path: Path) -> None:
    text = SEQUENTIAL.replace("epochs = 4", "epochs = 20\npatience = 2")
    results = _run(tmp_path, text).results
    _check_sequences(results, epochs=0)
    lengths = results.curves.groupby(["number", "run"]).size()
    assert lengths.nunique() > 1
    best = results.curves["validation_accuracy"].groupby(["number", "run"]).max()
    first = results.study.trials[0]
    assert list(first.intermediate_values.values()) == pytest.approx(best.loc[0].to_numpy())


def test_a_sequence_that_is_stopped_begins_again_on_two_workers(tmp_path: Path) -> None:
    working: list[Any] = []
    stopped = Counter[str]()

    def stop(progress: Any) -> None:
        if progress.epochs > 40 and not stopped["once"]:
            stopped["once"] += 1
            working[-1].request_stop()

    options = {"in_process": False, "devices": ["cpu", "cpu"]}
    assert _run(tmp_path, SEQUENTIAL, on_start=working.append, on_progress=stop, **options).interrupted
    results = _run(tmp_path, SEQUENTIAL, **options).results
    assert results.counts()["complete"] + results.counts()["pruned"] == 14
    _check_sequences(results)
    confirmed = _run(tmp_path, SEQUENTIAL, search=False, confirm=True, **options)
    assert confirmed.results.answer is not None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('fold_mode = "sequential"', "", "pruner: wilcoxon compares folds that follow one another; write data.fold_mode"),
        ("fold_repeats = 2", "", "wilcoxon cannot tell trials apart at p < 0.1 before the last of 3 folds; write more data.folds"),
        ('name = "wilcoxon"', "min_epochs = 1", "pruner: successive_halving compares epochs; with data.fold_mode = 'sequential'"),
        ("folds = 3\nfold_repeats = 2\n", "", "fold_mode is for folds; write folds = 5, for instance"),
        ("[search]", "[penalties.l1]\nmethod = 'proximal'\n[search]", "pruner: with two objectives there is no pruning"),
    ],
)
def test_pruning_that_does_not_go_with_the_folds_is_refused(before: str, after: str, message: str) -> None:
    text = SEQUENTIAL.replace(before, after)
    if "two objectives" in message:
        text = text.replace("[data]", 'objectives = ["accuracy", "zero_weights"]\n[data]')
    with pytest.raises(SpecError) as caught:
        parse_study(text, "t.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


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
