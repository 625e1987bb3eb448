"""When a study ends before all its trials are finished: its time, its target, its failures, its patience; over all calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import TINY

import sweeper
from studies.loader import parse_study, with_changes
from studies.objectives import ACCURACY
from studies.spec import StudySpec
from studies.strategy import BudgetSpec
from sweeper.budget import Budget, duration
from sweeper.errors import StudyFileError
from sweeper.progress import Leader, Tally
from sweeper.trial import Configuration


def swept(spec: StudySpec, folder: Path, **options: Any) -> sweeper.StudyResult:
    return sweeper.run_study(spec, storage=f"sqlite:///{folder / 'x.db'}", runs=folder, in_process=True, **options)


def test_a_target_that_is_reached_ends_a_study_and_a_higher_one_goes_on(tiny: StudySpec, tmp_path: Path) -> None:
    spec = with_changes(tiny, trials=30, pruner={"name": "none"})
    first = swept(with_changes(spec, budget={"accuracy": 0.05}), tmp_path)
    assert first.summary is not None
    assert first.summary.ended is not None
    assert "its target is reached" in first.summary.ended
    assert not first.summary.interrupted
    assert 1 <= first.results.counts()["complete"] < 30
    assert not (first.trials["state"] == "running").any()
    again = swept(with_changes(spec, budget={"accuracy": 0.05}), tmp_path)
    assert again.summary is not None
    assert (again.summary.progress.epochs, again.summary.ended is not None) == (0, True)
    assert (tmp_path / "tiny" / "best.json").exists()
    assert swept(spec, tmp_path).results.counts()["complete"] == 30


def test_the_time_counts_over_all_calls(tiny: StudySpec, tmp_path: Path) -> None:
    spec = with_changes(tiny, trials=12, budget={"time": 3600.0})
    first = swept(with_changes(spec, trials=4), tmp_path)
    spent = first.results.study.user_attrs["seconds"]
    assert spent > 0
    ended = swept(with_changes(spec, budget={"time": spent / 2}), tmp_path)
    assert ended.summary is not None
    assert ended.summary.ended is not None
    assert ended.summary.ended.startswith("its time is up")
    assert len(ended.trials) == 4
    whole = swept(spec, tmp_path)
    assert len(whole.trials) == 12
    assert whole.results.study.user_attrs["seconds"] > spent


def test_more_failures_than_are_borne_end_a_study(tmp_path: Path) -> None:
    diverging = TINY.replace("learning_rate = ", "learning_rate = 1e18 # ").replace('name = "tiny"', 'name = "diverging"')
    spec = with_changes(parse_study(diverging, "t"), trials=60, array={"width": 3}, budget={"failures": 5})
    result = swept(spec, tmp_path)
    assert result.summary is not None
    assert result.summary.ended == "more than 5 trials failed"
    assert 5 < result.results.counts()["fail"] < 60


def test_no_improvement_counts_finished_trials_since_the_best_one() -> None:
    tally, budget = Tally(), Budget(BudgetSpec(no_improvement=3), ACCURACY)
    ended = []
    for value in (0.5, 0.4, None, 0.6, 0.6, None, 0.1):
        tally.rank(Leader(0, value, Configuration()) if value is not None else None)
        ended.append(budget.spent(tally))
    assert ended == [None] * 6 + ["the last 3 trials brought nothing better"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("15 min", 900.0), ("2h", 7200.0), ("1.5m", 90.0), ("1d", 86400.0)])
def test_times_are_written_with_their_unit(text: str, seconds: float) -> None:
    assert BudgetSpec.model_validate({"time": text}).time == seconds


@pytest.mark.parametrize("text", ["2 weeks", "", "h", "-3s", "1e3"])
def test_what_is_no_time_is_refused_with_its_place(text: str, tiny: StudySpec) -> None:
    with pytest.raises(StudyFileError, match=r"budget\.time: "):
        sweeper.change_study(tiny, budget={"time": text})


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.0, "5 s"), (90.0, "90 s"), (900.0, "15 min"), (3600.0, "1 h"), (9000.0, "2.5 h")]
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words
