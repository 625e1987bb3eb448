"""Who proposes configurations: Optuna's samplers, which do not learn from the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.spec import StudySpec
from sweeper.trial import derive_seed


def make_sampler(spec: StudySpec, existing_trials: int) -> BaseSampler:
    """Return the sampler, seeded by the study and by how many trials there are: continued, it does not repeat its draws."""
    seed = derive_seed(spec.seed, "sampler", existing_trials) % 2**32
    if spec.sampler.name == "random":
        return RandomSampler(seed=seed)
    return WithoutBaselines(TPESampler(n_startup_trials=spec.sampler.startup_trials, seed=seed))


class WithoutBaselines(BaseSampler):
    """Hides the baselines from a sampler.

    They are measured, not proposed, and never pruned. TPE ranks complete trials before pruned ones, whatever their values, and
    would for half of a study look for good configurations around 'no regularization at all'.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(_View(study), trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._sampler.sample_relative(_View(study), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._sampler.sample_independent(_View(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(_View(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


class _View(Study):
    """A study without its baselines, for a sampler to look at."""

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [trial for trial in super()._get_trials(*args, **kwargs) if not trial.user_attrs.get("baseline")]
