"""Who proposes configurations: Optuna's samplers. TPE does not learn from the baselines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, GridSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.spec import StudySpec
from sweeper.errors import StudyFileError
from sweeper.search import distributions, first_trials
from sweeper.trial import derive_seed

NEEDS = {"gp": ("scipy", "torch"), "qmc": ("scipy",), "cma_es": ("cmaes",)}
"""Packages beside our own dependencies that a sampler imports when it is made."""


def make_sampler(spec: StudySpec, existing_trials: int) -> BaseSampler:
    """Return the sampler, seeded by the study and by how many trials there are: continued, it does not repeat its draws.

    Raises:
        StudyFileError: see `check_sampler`.
    """
    check_sampler(spec)
    seed = derive_seed(spec.seed, "sampler", existing_trials) % 2**32
    constant = derive_seed(spec.seed, "sampler") % 2**32  # of what goes on by itself: its place is in the database
    startup = spec.sampler.startup_trials
    tree = bool(spec.search.conditional)
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: WithoutBaselines(TPESampler(n_startup_trials=startup, seed=seed, multivariate=True, group=tree)),
        "gp": lambda: GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False),
        "random": lambda: RandomSampler(seed=seed),
        "grid": lambda: Grid(grid_values(spec), constant),
        "qmc": lambda: SobolSequence(constant, RandomSampler(seed=seed), shared_numbers(spec)),
        "cma_es": lambda: Evolution(seed, startup, shared_numbers(spec)),
        "nsga_ii": lambda: NSGAIISampler(seed=seed, population_size=spec.sampler.population_size),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return makers[spec.sampler.name]()


def check_sampler(spec: StudySpec) -> None:
    """Refuse a sampler that cannot work here.

    Raises:
        StudyFileError: it needs a package that is not installed, or more points than its grid has.
    """
    name = spec.sampler.name
    if missing := [package for package in NEEDS.get(name, ()) if find_spec(package) is None]:
        raise StudyFileError(f"sampler.name = '{name}' needs the package {missing[0]}: pip install {missing[0]}")
    if name == "grid":
        points, first = math.prod(map(len, grid_values(spec).values())), len(list(first_trials(spec)))
        if spec.trials > points + first:
            raise StudyFileError(
                f"trials: found {spec.trials}, but the grid has {points} points, and {first} trials come before it; "
                f"{points + first} are enough"
            )


def grid_values(spec: StudySpec) -> dict[str, list[Any]]:
    """Return the values of each searched name, which a grid multiplies out."""
    numbers = {name: list(searched.grid or []) for name, searched in spec.search.ranges.items()}
    return numbers | spec.search.choices


def shared_numbers(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Return the ranges that every trial has a number of, whatever it chose."""
    known, conditional = distributions(spec), spec.search.conditional
    return {n: d for n, d in known.items() if n not in conditional and not isinstance(d, CategoricalDistribution)}


def _is_given(trial: FrozenTrial) -> bool:
    """Whether a trial has its values, enqueued or interrupted as it is, and needs none proposed."""
    return bool(trial.params) or "fixed_params" in trial.system_attrs


class Grid(GridSampler):
    """Optuna's grid, which is not asked to end a study: the budget does."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Do nothing: Optuna's would call `study.stop()`, which belongs to `study.optimize`."""


class SobolSequence(QMCSampler):
    """A scrambled Sobol' sequence over the numbers that every trial has; choices are drawn at random.

    Optuna's learns its space from the first complete trial, and draws at random until then: a whole array of trials.
    """

    def __init__(self, seed: int, chance: BaseSampler, space: dict[str, BaseDistribution]) -> None:
        super().__init__(scramble=True, seed=seed, independent_sampler=chance, warn_independent_sampling=False)
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the numbers that every trial has; none for a trial that has its values, and needs no point of the sequence."""
        return {} if _is_given(trial) else self._space


class Evolution(CmaEsSampler):
    """CMA-ES over the numbers that every trial has; choices, and numbers that go with one, are drawn at random.

    Optuna's learns its space from complete trials: a number that the first of them happened to share would drop out later, and
    the strategy, whose number of dimensions is fixed, would propose nothing any more.
    """

    def __init__(self, seed: int, startup_trials: int, space: dict[str, BaseDistribution]) -> None:
        super().__init__(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the numbers that every trial has; none for a trial that has its values already."""
        return {} if _is_given(trial) else self._space


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
