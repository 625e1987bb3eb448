"""The sampler is Optuna's, seeded anew for each call of a study, and does not learn from the baselines."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import scipy.stats
from helpers import TINY
from optuna.samplers import TPESampler
from test_search_space import searching

from studies.errors import SpecInvalid
from studies.loader import parse_study, with_changes
from studies.spec import StudySpec
from sweeper.api import run_study
from sweeper.errors import StudyFileError
from sweeper.sampler import NEEDS, SobolSequence, WithoutBaselines, check_sampler, make_sampler
from sweeper.search import first_trials, suggest


def proposals(sampler: optuna.samplers.BaseSampler, spec: StudySpec, baselines: int, count: int = 12) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for _ in range(baselines):
        low = {"l1": 1e-6, "l2": 1e-5, "dropout": 0.0, "loss": "mse"}
        study.enqueue_trial(low, user_attrs={"baseline": True})
        trial = study.ask()
        suggest(trial, spec)
        study.tell(trial, 0.999)
    for _ in range(count):
        trial = study.ask()
        suggest(trial, spec)
        study.tell(trial, trial.params["dropout"])
    return [trial.params for trial in study.trials[baselines:]]


def test_what_is_proposed_does_not_depend_on_the_baselines(tiny: StudySpec) -> None:
    def sampler() -> WithoutBaselines:
        return WithoutBaselines(TPESampler(n_startup_trials=4, seed=3))

    assert proposals(sampler(), tiny, baselines=6) == proposals(sampler(), tiny, baselines=0)
    assert proposals(TPESampler(n_startup_trials=4, seed=3), tiny, 6) != proposals(TPESampler(n_startup_trials=4, seed=3), tiny, 0)


def test_without_baselines_it_is_optunas_own_tpe(tiny: StudySpec) -> None:
    own = TPESampler(n_startup_trials=4, seed=3)
    assert proposals(WithoutBaselines(TPESampler(n_startup_trials=4, seed=3)), tiny, 0) == proposals(own, tiny, 0)


def test_a_continued_study_draws_other_configurations(tiny: StudySpec) -> None:
    first, again, continued = (proposals(make_sampler(tiny, n), tiny, 0, 3) for n in (0, 0, 3))
    assert first == again
    assert first != continued


GRID = ("dropout = { low = 0.0, high = 0.4, step = 0.2 }", "l2 = [0, 1e-4, 1e-2]")
NUMBERS = ("l1 = { low = 0.0, high = 1e-2 }", "dropout = { low = 0.0, high = 0.8 }")
CONDITIONAL = ("focal_gamma = { low = 0.5, high = 4.0 }", "dropout = { low = 0.0, high = 0.8 }")


def sampled_by(name: str, *search: str, losses: str = 'loss = "mse"', trials: int = 12, rest: str = "") -> StudySpec:
    spec = searching(*search, losses=losses + f"\n[sampler]\nname = '{name}'\n{rest}")
    return with_changes(spec, trials=trials)


def asked(spec: StudySpec, calls: tuple[int, ...], study: optuna.Study | None = None) -> list[dict[str, object]]:
    """What is proposed after the first trials, the sampler made anew for each call, as when a study is continued."""
    study = study or optuna.create_study(directions=["maximize"] * len(spec.objectives))
    for params, role in first_trials(spec):
        study.enqueue_trial(params, user_attrs={role: True})
    first = len(study.trials)
    for count in calls:
        study.sampler = make_sampler(spec, len(study.trials))
        for _ in range(count if count else first):
            trial = study.ask()
            suggest(trial, spec)
            study.tell(trial, [trial.params.get("dropout", 0.0)] * len(spec.objectives))
    return [trial.params for trial in study.trials[first:]]


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "qmc", "nsga_ii"])
def test_every_sampler_searches_a_space_with_choices_and_conditions(name: str) -> None:
    losses = 'loss = ["focal", "mse"]'
    spec = sampled_by(name, *CONDITIONAL, losses=losses, rest="startup_trials = 4" if name in ("tpe", "gp") else "")
    found = asked(spec, (0, 12, 4))
    assert len({str(params) for params in found}) > 8  # a model may come back to the peak it knows
    for params in found:
        assert ("focal_gamma" in params) == (params["loss"] == "focal")
        assert 0.0 <= params["dropout"] <= 0.8  # type: ignore[operator]
    assert asked(spec, (0, 12, 4)) == found


def test_cma_es_searches_what_every_trial_has_and_draws_the_rest() -> None:
    """The first trials all have the loss whose number only it has: Optuna's own sampler would take that for granted."""
    search = (*NUMBERS, CONDITIONAL[0], "weight_decay = [0, 1e-4]")
    spec = sampled_by("cma_es", *search, losses='loss = ["focal", "mse"]', trials=80, rest="startup_trials = 3")
    spec = with_changes(spec, enqueue=[{"loss": "focal", "l1": value} for value in (1e-3, 2e-3, 3e-3)])
    study = optuna.create_study(direction="maximize")
    found = asked(spec, (0, 40, 20), study)
    assert found == asked(spec, (0, 40, 20))
    for params in found:
        assert ("focal_gamma" in params) == (params["loss"] == "focal")
    assert {params["loss"] for params in found} == {"focal", "mse"}
    assert {params["weight_decay"] for params in found} == {0.0, 1e-4}
    generations = [trial.system_attrs.get("cma:generation") for trial in study.trials]
    assert generations[:5] == [None] * 5, "baselines and enqueued ones are no proposals"
    assert generations[-1] == max(generation for generation in generations if generation is not None) > 5


def test_models_find_a_peak_sooner_than_chance() -> None:
    best = {}
    for name in ("tpe", "gp", "cma_es", "random"):
        spec = sampled_by(name, *NUMBERS)
        best[name] = sum(sorted((params["dropout"] for params in asked(spec, (0, 30))), reverse=True)[:10])  # type: ignore[type-var,misc]
    assert min(best["tpe"], best["gp"], best["cma_es"]) > best["random"]


def test_cma_es_runs_a_study_and_goes_on_with_it_as_it_would_have(tmp_path: Path) -> None:
    sampler = "[sampler]\nname = 'cma_es'\nstartup_trials = 4\n"
    text = TINY.replace('["cross_entropy", "mse", "hinge"]', '["cross_entropy", "mse"]').replace("trials = 12", "trials = 30")
    text = text.replace("min_epochs = 1\nreduction_factor = 2", 'name = "none"') + sampler
    found = []
    for name in ("one", "again"):
        (tmp_path / name).mkdir()
        where = {"storage": f"sqlite:///{tmp_path / name / 'test.db'}", "runs": tmp_path / name, "in_process": True}
        run_study(parse_study(text, "t.toml"), trials=14, **where)
        found.append(run_study(parse_study(text, "t.toml"), **where).results.study.trials)
    one, again = ([(trial.params, trial.values) for trial in trials] for trials in found)
    assert one == again
    generations = [trial.system_attrs.get("cma:generation", -1) for trial in found[0]]
    assert max(generations[14:]) > max(generations[:14]) >= 0, "the strategy went on where it was"


def test_a_grid_is_covered_once_whatever_the_interruptions() -> None:
    spec = sampled_by("grid", *GRID, losses='loss = ["mse", "hinge"]', trials=20)
    found = asked(spec, (0, 5, 7, 6))
    assert len(found) == 18
    assert len({str(sorted((k, v if isinstance(v, str) else round(v, 9)) for k, v in params.items())) for params in found}) == 18  # type: ignore[call-overload]
    with pytest.raises(StudyFileError, match="the grid has 18 points, and 2 trials come before it; 20 are enough"):
        make_sampler(with_changes(spec, trials=21), 0)


def test_a_sequence_is_sobols_from_the_first_trial_on_and_goes_on_where_it_was() -> None:
    spec = sampled_by("qmc", *NUMBERS)
    study = optuna.create_study(direction="maximize")
    sampler = make_sampler(spec, 0)
    found = asked(spec, (0, 5, 3), study)
    assert isinstance(sampler, SobolSequence)
    points = scipy.stats.qmc.Sobol(2, scramble=True, seed=sampler._seed).random(8)
    assert [params["l1"] for params in found] == pytest.approx(1e-2 * points[:, 0])
    assert [params["dropout"] for params in found] == pytest.approx(0.8 * points[:, 1])


@pytest.mark.parametrize(
    ("name", "search", "message"),
    [
        ("grid", NUMBERS, "sampler: grid needs values to count; give search.l1 a step, or a list"),
        ("grid", ("loss = ['mse', 'mse + hinge']",), "sampler: grid needs values to count; write the weights of mixtures"),
        (
            "cma_es",
            ("l2 = [0, 1e-4]", "dropout = { low = 0.0, high = 0.8 }"),
            "sampler: cma_es needs two ranges to search, or more, that every trial has a number of",
        ),
        ("cma_es", NUMBERS[:1], "sampler: cma_es needs two ranges to search"),
        (
            "bayes",
            NUMBERS,
            "sampler.name: found 'bayes'; did you mean cma_es? (allowed: tpe, gp, random",
        ),
    ],
)
def test_a_space_that_a_sampler_cannot_search_is_refused(name: str, search: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        sampled_by(name, *search, losses="" if "loss" in search[0] else 'loss = "mse"')
    assert message in str(caught.value)


def test_a_setting_of_another_sampler_is_refused() -> None:
    with pytest.raises(SpecInvalid, match="population_size is for nsga_ii, not for tpe"):
        sampled_by("tpe", *NUMBERS, rest="population_size = 20")
    with pytest.raises(SpecInvalid, match="grid cannot search focal_gamma, which not every trial has"):
        sampled_by("grid", "focal_gamma = [1, 2]", losses='loss = ["focal", "mse"]')


def test_a_sampler_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "cma_es", ("no_such_package",))
    with pytest.raises(StudyFileError, match=r"sampler.name = 'cma_es' needs the package no_such_package: pip install"):
        check_sampler(sampled_by("cma_es", *NUMBERS))
