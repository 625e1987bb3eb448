"""Successive halving and Hyperband decide for whole cohorts, whatever the order of their values; the others as Optuna's own do."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import MedianPruner, PatientPruner, PercentilePruner, WilcoxonPruner
from optuna.trial import TrialState

from studies.strategy import PrunerSpec
from sweeper.pruning import Hyperband, NoPruning, OfOptuna, Standing, SuccessiveHalving, make_pruner


@given(
    values=st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=64), factor=st.integers(2, 5), seed=st.integers()
)
def test_a_cohort_keeps_its_best_share_in_any_order(values: list[float], factor: int, seed: int) -> None:
    cohort = [Standing(number, 1, value) for number, value in enumerate(values)]
    random.Random(seed).shuffle(cohort)
    stopped = SuccessiveHalving(1, factor, 50).decide(cohort)
    kept = [value for number, value in enumerate(values) if number not in stopped]
    assert sorted(kept, reverse=True) == sorted(values, reverse=True)[: max(1, len(values) // factor)]


def test_of_equals_the_earlier_go_on_and_no_more_than_the_share() -> None:
    assert SuccessiveHalving(1, 2, 10).decide([Standing(n, 1, 0.1) for n in (5, 3, 1, 0, 2, 4)]) == {3, 4, 5}


def test_rungs_grow_by_the_factor_and_end_before_the_last_epoch() -> None:
    assert SuccessiveHalving(5, 2, 60).rungs == [5, 10, 20, 40]
    assert SuccessiveHalving(4, 3, 36).rungs == [4, 12]
    assert SuccessiveHalving(10, 2, 10).rungs == []


def test_later_trials_compete_with_all_that_reached_the_rung() -> None:
    pruner = SuccessiveHalving(1, 2, 10)
    assert pruner.decide([Standing(n, 1, v) for n, v in enumerate([0.9, 0.8, 0.7, 0.6])]) == {2, 3}
    assert pruner.decide([Standing(4, 1, 0.85)]) == set()
    assert pruner.decide([Standing(5, 1, 0.75)]) == {5}
    assert pruner.decide([Standing(0, 3, 0.0)]) == set()  # no rung


def test_a_protected_trial_competes_but_is_not_stopped() -> None:
    pruner = SuccessiveHalving(1, 2, 10)
    assert pruner.decide([Standing(0, 1, 0.1, protected=True), Standing(1, 1, 0.5)]) == set()
    assert pruner.decide([Standing(2, 1, 0.9, protected=True), Standing(3, 1, 0.4)]) == {3}


def test_a_trial_that_begins_again_is_forgotten() -> None:
    pruner = SuccessiveHalving(1, 2, 10)
    pruner.decide([Standing(0, 1, 0.9)])
    pruner.forget(0)
    assert pruner.decide([Standing(1, 1, 0.1)]) == set()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("none", NoPruning), ("successive_halving", SuccessiveHalving), ("hyperband", Hyperband), ("median", OfOptuna)],
)
def test_the_spec_chooses(name: str, kind: type) -> None:
    pruner = make_pruner(PrunerSpec.model_validate({"name": name}), 60, optuna.create_study())
    assert isinstance(pruner, kind)


def patient(pruner: optuna.pruners.BasePruner | None, patience: int, min_delta: float = 0.0) -> PatientPruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(pruner, patience, min_delta)


def wilcoxon(p_threshold: float) -> WilcoxonPruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return WilcoxonPruner(p_threshold=p_threshold)


def reporting(
    pruner: optuna.pruners.BasePruner, seed: int, trials: int = 12, epochs: int = 9
) -> Iterator[tuple[optuna.Study, int]]:
    """A study of Optuna's in which trials report one after another, half of them complete before the others begin."""
    draw = random.Random(seed)
    study = optuna.create_study(direction="maximize", pruner=pruner, study_name=f"s{seed}")
    running = []
    for number in range(trials):
        trial = study.ask()
        if number < trials // 2:
            for epoch in range(1, epochs + 1):
                trial.report(draw.random(), epoch)
            study.tell(trial, draw.random())
        else:
            running.append(trial)
    for epoch in range(1, epochs + 1):
        for trial in running:
            trial.report(draw.random(), epoch)
        yield study, epoch


def cohort_of(study: optuna.Study, epoch: int, protected: int = -1) -> list[Standing]:
    return [
        Standing(t.number, epoch, t.intermediate_values[epoch], protected=t.number == protected)
        for t in reversed(study.trials)
        if t.state == TrialState.RUNNING
    ]


@pytest.mark.parametrize(
    ("table", "theirs"),
    [
        ({"name": "median", "min_epochs": 3}, MedianPruner(5, 3)),
        ({"name": "percentile", "percentile": 20.0, "min_epochs": 2, "interval_epochs": 3}, PercentilePruner(20.0, 5, 2, 3)),
        ({"name": "median", "startup_trials": 7, "min_epochs": 1}, MedianPruner(7, 1)),
        ({"name": "median", "min_epochs": 1, "patience": 2}, patient(MedianPruner(5, 1), 2)),
        ({"name": "none", "patience": 1, "min_delta": 0.2}, patient(None, 1, 0.2)),
        ({"name": "wilcoxon", "p_threshold": 0.3}, wilcoxon(0.3)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_what_optunas_pruners_would_stop_is_stopped(table: dict[str, object], theirs: optuna.pruners.BasePruner) -> None:
    stopped = 0
    for seed in range(8):
        for study, epoch in reporting(theirs, seed):
            ours = make_pruner(PrunerSpec.model_validate(table), 9, study)
            expected = {t.number for t in study.trials if t.state == TrialState.RUNNING and theirs.prune(study, t)}
            assert ours.decide(cohort_of(study, epoch)) == expected
            assert ours.decide(cohort_of(study, epoch, protected=8)) == expected - {8}
            stopped += len(expected)
    assert stopped or table.get("startup_trials") == 7


def test_patience_spares_whom_successive_halving_would_stop() -> None:
    spec = PrunerSpec.model_validate({"min_epochs": 4, "reduction_factor": 2, "patience": 2})
    study = optuna.create_study(direction="maximize")
    curves = {0: [0.9, 0.9, 0.9, 0.9], 1: [0.1, 0.2, 0.3, 0.4], 2: [0.5, 0.2, 0.2, 0.2]}
    pruner = make_pruner(spec, 16, study)
    trials = [study.ask() for _ in curves]
    for epoch in range(1, 5):
        for trial in trials:
            trial.report(curves[trial.number][epoch - 1], epoch)
        cohort = [Standing(number, epoch, values[epoch - 1]) for number, values in curves.items()]
        assert pruner.decide(cohort) == (set() if epoch < 4 else {2})


@pytest.mark.parametrize(("low", "factor", "epochs"), [(1, 3, 80), (3, 2, 30), (10, 4, 50), (1, 5, 4)])
def test_trials_are_in_the_brackets_that_optuna_puts_them_in(low: int, factor: int, epochs: int) -> None:
    theirs = optuna.pruners.HyperbandPruner(low, epochs, factor)
    study = optuna.create_study(study_name="hyper", direction="maximize", pruner=theirs)
    for _ in range(60):
        study.ask()
    theirs._try_initialization(study)
    ours = Hyperband(low, factor, epochs, "hyper")
    assert [ours.bracket_of(n) for n in range(60)] == [theirs._get_bracket_id(study, trial) for trial in study.trials]
    assert len(ours.brackets) == theirs._n_brackets


def test_the_brackets_are_those_of_the_paper() -> None:
    """Table 1 of Li et al. 2018: R = 81, η = 3 has five brackets, whose first rungs are at 1, 3, 9, 27 and 81 units."""
    ours = Hyperband(1, 3, 81, "s")
    assert [bracket.rungs for bracket in ours.brackets] == [[1, 3, 9, 27], [3, 9, 27], [9, 27], [27], []]
    assert ours._shares == [81, 34, 15, 8, 5]


def test_each_bracket_decides_about_its_own_trials() -> None:
    pruner = Hyperband(1, 3, 9, "s")
    members = [[n for n in range(60) if pruner.bracket_of(n) == bracket] for bracket in range(3)]
    first = pruner.decide(Standing(n, 1, n / 100) for n in range(60))
    assert first == set(members[0][: -(len(members[0]) // 3)])
    second = pruner.decide(Standing(n, 3, n / 100) for n in range(60) if n not in first)
    assert set(members[1][: -(len(members[1]) // 3)]) <= second
    assert not second & set(members[2])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"name": "hyperband", "interval_epochs": 5},
            "interval_epochs is for median and percentile, not for hyperband",
        ),
        ({"name": "median", "percentile": 30.0}, "percentile is for percentile, not for median"),
        ({"min_delta": 0.1}, "min_delta goes with patience"),
        ({"p_threshold": 0.2}, "p_threshold is for wilcoxon, not for successive_halving"),
        ({"name": "wilcoxon", "patience": 2}, "patience counts epochs, and wilcoxon compares folds"),
    ],
)
def test_a_setting_of_another_pruner_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunerSpec.model_validate(table)
