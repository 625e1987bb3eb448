"""Comparisons say in words which is better and by how much, over seeds, and leave what chance may do as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY

import sweeper
from studies.loader import parse_study
from sweeper.answer_words import describe_difference
from sweeper.comparison import Difference, best_of_kinds, compare_kinds, compare_studies
from sweeper.errors import NoSuchResult
from sweeper.intervals import Interval

SMALL = (
    TINY.replace("top = 0", "top = 1\nseeds = 3").replace("trials = 12", "trials = 6").replace("min_epochs = 1", "min_epochs = 3")
)


def _run(folder: Path, text: str, **options: Any) -> sweeper.StudyResult:
    spec = parse_study(text, "t.toml")
    return sweeper.run_study(spec, storage=f"sqlite:///{folder / 'test.db'}", runs=folder, in_process=True, **options)


def test_losses_of_one_study_are_compared_over_seeds(tmp_path: Path) -> None:
    first = _run(tmp_path, SMALL)
    assert compare_kinds(first.results, "loss") is None, "nothing was trained for it yet"
    looks = first.results.answer.looks  # type: ignore[union-attr]
    result = _run(tmp_path, SMALL, search=False, confirm=True, purpose="loss")
    kinds = best_of_kinds(result.results, "loss")
    differences = compare_kinds(result.results, "loss")
    assert differences is not None
    assert len(differences) == len(kinds) * (len(kinds) - 1) / 2 >= 1
    last = result.results.confirmations[-1]
    outcomes = result.results.outcomes
    for one in differences:
        means = [
            np.mean([outcomes[kinds[kind], run]["validation_accuracy"] for run in last.choosing_runs])
            for kind in (one.first, one.second)
        ]
        assert one.gap.mean == pytest.approx(means[0] - means[1])
        assert one.p >= 0
    assert all(row["test_right"] is None for (_, run), row in outcomes.items() if run in last.choosing_runs)
    assert result.results.answer == first.results.answer, "a comparison is no confirmation"
    assert result.results.answer.looks == looks  # type: ignore[union-attr]
    assert len(_run(tmp_path, SMALL).results.confirmations) == 2, "and none is due for it"


def test_confirmed_studies_are_compared(tmp_path: Path) -> None:
    poor = SMALL.replace('name = "tiny"', 'name = "poor"').replace('["dense 16", "dropout"]', '["dense 2", "dropout"]')
    other = SMALL.replace('name = "tiny"', 'name = "other"').replace("test_size = 100", "test_size = 150")
    good, bad, elsewhere = (_run(tmp_path, text).results for text in (SMALL, poor, other))
    first, second, third = compare_studies([good, bad, elsewhere])
    assert (first.first, first.second, first.images) == ("tiny", "poor", "test")
    assert first.gap.low > 0
    assert "tiny is better than poor by" in describe_difference(first, 3)
    assert first.gap.mean == pytest.approx(good.answer.winner.test.mean - bad.answer.winner.test.mean)  # type: ignore[union-attr]
    assert (second.first, second.second, third.first) == ("tiny", "other", "poor")
    with pytest.raises(NoSuchResult, match="not confirmed yet"):
        compare_studies(
            [good, _run(tmp_path / "..", SMALL.replace('name = "tiny"', 'name = "u"').replace("top = 1", "top = 0")).results]
        )


def test_a_study_of_one_loss_has_nothing_to_compare(tmp_path: Path) -> None:
    one = _run(tmp_path, SMALL.replace('["cross_entropy", "mse", "hinge"]', '"mse"').replace("top = 1", "top = 0"))
    with pytest.raises(NoSuchResult, match="one loss only: MSE"):
        best_of_kinds(one.results, "loss")
    assert "no regularization" in best_of_kinds(one.results, "penalty")


def test_a_difference_is_said_in_words() -> None:
    worse = Difference("hinge", "cross-entropy", Interval(-0.004, -0.006, -0.002, 5), "validation", 0.0003)
    assert describe_difference(worse, 3) == (
        "hinge is worse than cross-entropy by 0.40 ± 0.20 points "
        "(validation images, 5 seeds; p = 0.0003, corrected for 3 comparisons)"
    )
    equal = Difference("a", "b", Interval(0.001, -0.001, 0.003, 5), "test", 0.4)
    assert describe_difference(equal, 1) == "a and b are not shown to differ: +0.10 ± 0.20 points (test images, 5 seeds; p = 0.4)"
