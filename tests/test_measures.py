"""Macro-F1, calibration error and class accuracies are those of scikit-learn and of the published formula."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

import sweeper
from studies.loader import parse_study
from sweeper.training.measures import class_accuracy, ece, macro_f1


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_they_are_as_published(seed: int, classes: int, images: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    predicted, known = logits.argmax(dim=1).numpy(), list(range(classes))
    assert macro_f1(logits, labels) == pytest.approx(f1_score(labels, predicted, average="macro", labels=known, zero_division=0))
    assert class_accuracy(logits, labels) == pytest.approx(
        recall_score(labels, predicted, average=None, labels=known, zero_division=0), abs=1e-6
    )
    confidence, right = logits.softmax(dim=1).max(dim=1).values.numpy(), predicted == labels.numpy()
    edges, expected = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):  # Guo et al. 2017, equation 3, with bins (low, high]
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert ece(logits, labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("folds", [False, True])
def test_they_are_stored_where_asked_for(tmp_path: Path, folds: bool) -> None:
    text = TINY.replace("trials = 12", 'trials = 6\nmetrics = ["macro_f1", "ece", "class_accuracy"]')
    text = text.replace("test_size = 100", "test_size = 100\nfolds = 2") if folds else text
    result = sweeper.run_study(
        parse_study(text, "t.toml"), storage=f"sqlite:///{tmp_path / 'test.db'}", runs=tmp_path, in_process=True
    )
    trials = result.results.trials
    complete = trials[trials["state"] == "complete"]
    assert complete[["attr_macro_f1", "attr_ece"]].notna().all(axis=None)
    assert (abs(complete["attr_macro_f1"] - complete["value"]) < 0.2).all()
    assert complete["attr_ece"].between(0, 1).all()
    for _, row in complete.iterrows():
        assert len(row["attr_class_accuracy"]) == 10
        assert np.mean(row["attr_class_accuracy"]) == pytest.approx(row["value"], abs=0.02)
