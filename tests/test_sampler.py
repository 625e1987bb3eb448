"""The sampler is Optuna's, seeded anew for each call of a study, and does not learn from the baselines."""

from __future__ import annotations

import optuna
from optuna.samplers import TPESampler

from studies.spec import StudySpec
from sweeper.sampler import WithoutBaselines, make_sampler
from sweeper.search import suggest


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
