"""A study begins with the best configurations of another one, as far as they fit its search."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY

from studies.loader import parse_study
from studies.spec import StudySpec
from sweeper.api import StudyResult, open_results, run_study
from sweeper.errors import NoSuchResult, StudyFileError


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'warm.db'}"


def run(spec: StudySpec, url: str, tmp_path: Path, **changes: Any) -> StudyResult:
    return run_study(spec, storage=url, runs=tmp_path / "runs", in_process=True, **changes)


def named(name: str, *changes: tuple[str, str], settings: tuple[str, ...] = ()) -> StudySpec:
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_study(text, name, [f"name={name}", *settings])


def test_studies_of_one_name_in_two_databases_do_not_overwrite_each_others_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (f"sqlite:///{tmp_path / name}.db" for name in ("one", "other"))
    folder = tmp_path / "runs" / "tiny"
    run(named("tiny"), one, tmp_path, trials=4)
    run(named("tiny"), one, tmp_path, trials=5)
    assert not list(folder.glob("before-*")), "it is the same study"
    first = (folder / "best.json").read_bytes()
    with caplog.at_level(logging.WARNING):
        run(named("tiny", settings=("seed=7",)), other, tmp_path, trials=4)
    (aside,) = folder.glob("before-*")
    assert str(aside) in caplog.text
    assert (aside / "best.json").read_bytes() == first != (folder / "best.json").read_bytes()
    assert (aside / "report.html").exists()


WITHOUT_PRUNING = ("min_epochs = 1\nreduction_factor = 2", "name = 'none'")


def test_the_best_of_another_study_come_first_and_are_not_pruned(url: str, tmp_path: Path) -> None:
    other = run(named("other", WITHOUT_PRUNING), url, tmp_path).results
    spec = named("warm", settings=("warm_start.study=other", "warm_start.top=3"))
    result = run(spec, url, tmp_path, trials=8)
    enqueued = result.trials[result.trials["attr_enqueued"].eq(True)]
    best = other.ranked.head(3)
    fields = ["l1", "l2", "dropout", "loss"]
    without_baselines = best[~best["baseline"]]  # which the study has anyway
    assert enqueued[fields].to_numpy().tolist() == without_baselines[fields].to_numpy().tolist()
    assert set(enqueued["state"]) == {"complete"}
    again = run(spec, url, tmp_path, trials=9)  # goes on, and does not begin warm a second time
    assert (again.trials["attr_enqueued"].eq(True)).sum() == len(enqueued)
    assert len(again.results.spec.enqueue) == 3
    cold = run(named("warm"), url, tmp_path, trials=10)  # neither does it have to
    assert len(cold.trials) == 10


def test_what_does_not_fit_is_left_out_and_told(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    enqueued = "".join(
        f"[[enqueue]]\n{line}\n"
        for line in ("l1 = 1e-3\nloss = 'mse'", "l2 = 1e-1\nloss = 'mse'", "l1 = 1e-3\nl2 = 1e-2\nloss = 'mse'", "dropout = 0.7")
    )
    other = run(named("other", WITHOUT_PRUNING, ("[array]", enqueued + "[array]")), url, tmp_path, trials=7).results
    spec = named(
        "warm",
        ('loss = ["cross_entropy", "mse", "hinge"]', 'loss = "mse"\npenalty = ["none", "l1", "l2"]'),
        settings=("warm_start.study=other", "warm_start.top=7", "search.l2.high=1e-2", "search.dropout={ low = 0.0, high = 0.5 }"),
    )
    with caplog.at_level(logging.INFO, "sweeper"):
        result = run(spec, url, tmp_path, trials=4)
    said = next(record.getMessage() for record in caplog.records if "warm start" in record.getMessage())
    assert "warm start: 2 of the best 7 configurations of other are enqueued; left out: " in said
    assert "trial 4 (search.l2 does not contain 0.1)" in said
    assert "trial 5 (search.penalty does not contain 'l1 + l2')" in said
    assert "trial 6 (its loss is cross_entropy)" in said
    assert {str(params) for params in result.results.spec.enqueue} == {
        str({"penalty": "l1", "l1": 1e-3, "dropout": 0.0}),
        str({"penalty": "none", "dropout": 0.0}),
    }
    assert other.spec.name == "other"


def test_a_warm_start_from_nothing_is_refused_and_no_study_is_made(url: str, tmp_path: Path) -> None:
    spec = named("warm", settings=("warm_start.study=other",))
    with pytest.raises(NoSuchResult, match=r"no study 'other' in this storage; it holds none"):
        run(spec, url, tmp_path)
    with pytest.raises(NoSuchResult, match="no study 'warm'"):
        open_results("warm", url)


def test_a_sampler_that_cannot_work_is_refused_before_anything_is_made(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sweeper.sampler").sampler.NEEDS, "cma_es", ("no_such_package",))
    text = TINY.replace('loss = ["cross_entropy", "mse", "hinge"]', "") + "[sampler]\nname = 'cma_es'\n"
    with pytest.raises(StudyFileError, match="needs the package no_such_package"):
        run(parse_study(text, "t"), url, tmp_path)
    assert list(tmp_path.iterdir()) == []
