"""Who proposes configurations, who stops trials, how a search begins and ends, and how its answer is confirmed.

The tables `[sampler]`, `[pruner]`, `[warm_start]`, `[budget]` and `[confirm]`.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from studies.section import Section


class SamplerSpec(Section):
    """Who proposes configurations: samplers of Optuna."""

    name: Literal["tpe", "gp", "random", "grid", "qmc", "cma_es", "nsga_ii"] = "tpe"
    startup_trials: int = Field(10, ge=0, description="random trials before the model of tpe, gp or cma_es takes over")
    population_size: int = Field(50, ge=2, description="of nsga_ii")

    OWN: ClassVar[dict[str, set[str]]] = {
        "startup_trials": {"tpe", "gp", "cma_es"},
        "population_size": {"nsga_ii"},
    }

    @model_validator(mode="after")
    def _of_this_sampler(self) -> SamplerSpec:
        _refuse_foreign(self, self.name, self.OWN)
        return self


class ConfirmSpec(Section):
    """How the answer is confirmed after the search.

    The best `top` trials and the best baseline are trained again with `seeds` fresh seeds each, which choose the winner; the
    winner and the baseline then with as many further seeds, which say what it is worth.
    """

    top: int = Field(3, ge=0, le=64, description="trials that are trained again; 0: no confirmation")
    seeds: int = Field(5, ge=2, le=1000)
    rule: Literal["best", "one_standard_error"] = Field(
        "best", description="who wins: the best mean, or the strongest regularization within one standard error of it"
    )


class PrunerSpec(Section):
    """Who stops hopeless trials, by what the study is after.

    successive_halving: at epochs `min_epochs · reduction_factor^k` the best 1 in `reduction_factor` go on. hyperband: several
    of them side by side, which begin later and later. percentile: from `min_epochs` on, every `interval_epochs`, a trial stops
    whose best value is below that of the best `percentile` % of the complete trials at the same epoch; median: the same with
    50 %. wilcoxon: of folds that are trained one after another, after each a trial stops that is worse than the best complete
    trial by a signed-rank test over the folds of both. With `patience`, whoever else decides, a trial goes on that became better
    by `min_delta` within as many epochs; with none that decides, one stops that did not.
    """

    name: Literal["successive_halving", "hyperband", "median", "percentile", "wilcoxon", "none"] = "successive_halving"
    min_epochs: int = Field(3, gt=0)
    reduction_factor: int = Field(3, ge=2, description="of successive_halving and hyperband")
    percentile: float = Field(25.0, gt=0, lt=100, description="of percentile")
    startup_trials: int = Field(5, ge=0, description="complete trials before median and percentile decide")
    interval_epochs: int = Field(1, gt=0, description="between two decisions of median and percentile")
    p_threshold: float = Field(0.1, gt=0, lt=1, description="of wilcoxon: the p-value below which a trial is worse than the best")
    patience: int | None = Field(None, ge=0, description="epochs without a better value before a trial may be stopped")
    min_delta: float = Field(0.0, ge=0, description="of patience: how much better")

    OWN: ClassVar[dict[str, set[str]]] = {
        "min_epochs": {"successive_halving", "hyperband", "median", "percentile"},
        "reduction_factor": {"successive_halving", "hyperband"},
        "percentile": {"percentile"},
        "startup_trials": {"median", "percentile"},
        "interval_epochs": {"median", "percentile"},
        "p_threshold": {"wilcoxon"},
    }

    @model_validator(mode="after")
    def _of_this_pruner(self) -> PrunerSpec:
        if self.name != "none":  # whoever turns pruning off need not take its settings out
            _refuse_foreign(self, self.name, self.OWN)
        if self.min_delta and self.patience is None:
            raise ValueError("min_delta goes with patience")
        if self.name == "wilcoxon" and self.patience is not None:
            raise ValueError("patience counts epochs, and wilcoxon compares folds; leave one of them out")
        return self

    @property
    def decides(self) -> bool:
        """Whether it ever stops a trial."""
        return self.name != "none" or self.patience is not None


class WarmStartSpec(Section):
    """Begin with the best configurations of another study, as far as they fit this one's search."""

    study: str = Field(min_length=1, description="its name in the database")
    top: int = Field(5, gt=0, description="how many of its complete trials, best first")


def _seconds(value: object) -> object:
    """Read a time: a number of seconds, or one with its unit, as in `90s`, `15min`, `2h`."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)\s*", value)
    if found is None:
        raise ValueError("a time is written as in '90s', '15min', '2h' or '1d'")
    return float(found[1]) * {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}[found[2]]


class BudgetSpec(Section):
    """When a study ends before all its trials are finished: whatever comes first. All counts are over all calls."""

    time: Annotated[float | None, BeforeValidator(_seconds)] = Field(None, gt=0, description="as in '2h'; a number is seconds")
    accuracy: float | None = Field(None, gt=0, le=1, description="validation accuracy of a complete trial that is good enough")
    target: float | None = Field(None, description="the same of whatever the study is after: of a loss, the value to come down to")
    failures: int | None = Field(None, ge=0, description="failed trials that are borne")
    no_improvement: int | None = Field(None, gt=0, description="trials that finish, one after another, without a better one")

    @model_validator(mode="after")
    def _one_target(self) -> BudgetSpec:
        if self.accuracy is not None and self.target is not None:
            raise ValueError("accuracy is a target too; leave one of them out")
        return self


def _refuse_foreign(section: Section, name: str, own: dict[str, set[str]]) -> None:
    for key, owners in own.items():
        if name not in owners and getattr(section, key) != type(section).model_fields[key].default:
            raise ValueError(f"{key} is for {' and '.join(sorted(owners))}, not for {name}")
