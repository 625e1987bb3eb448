"""What a study found: its trials with the values they trained with, its baselines and its best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.storages import BaseStorage

from storage import queries
from studies.spec import StudySpec
from sweeper.errors import NoSuchResult
from sweeper.search import FIELDS, configuration_of, searched_values
from sweeper.trial import Configuration

SPEC_ATTR = "spec"
SUMMARY_ATTR = "summary"
VERSIONS_ATTR = "versions"
HYPERPARAMETERS = ("loss", *FIELDS)


@dataclass(frozen=True, slots=True)
class Best:
    """A complete trial: its configuration, its validation accuracy, and all else recorded of it."""

    trial: int
    configuration: Configuration
    value: float
    facts: dict[str, Any]


class Results:
    """A study as its storage holds it now.

    `trials` has a row per trial: `state`, `value`, `last_value`, `epochs`, `started`, `finished`, `baseline`, and the
    hyperparameters it trained with: the fields of `Configuration` and whatever else was searched, 0 where a sampled value
    stands for none; `mix_LOSS`, the weight of a loss in the trial's mixture, is missing where it is none of its terms.
    """

    def __init__(self, study: optuna.Study) -> None:
        attrs = study.user_attrs
        if SPEC_ATTR not in attrs:
            raise NoSuchResult(f"study {study.study_name!r} was not made by sweeper: it has no spec")
        self.study = study
        self.spec = StudySpec.model_validate_json(attrs[SPEC_ATTR])
        self.versions: dict[str, str] = attrs.get(VERSIONS_ATTR, {})
        self.summary: dict[str, Any] = attrs.get(SUMMARY_ATTR, {})
        self._by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
        self.trials = _with_configurations(queries.trials(study._storage, study._study_id), self.spec)

    @classmethod
    def load(cls, name: str, storage: BaseStorage) -> Results:
        """Read a study by its name.

        Raises:
            NoSuchResult: there is none of this name in the storage; the message lists those there are.
        """
        try:
            return cls(optuna.load_study(study_name=name, storage=storage))
        except KeyError:
            names = sorted(study.study_name for study in storage.get_all_studies())
            known = f"it holds: {', '.join(names)}" if names else "it holds none"
            raise NoSuchResult(f"no study {name!r} in this storage; {known}") from None

    @property
    def best(self) -> Best:
        """The complete trial with the highest validation accuracy, the earliest of equals.

        Raises:
            NoSuchResult: no trial is complete yet.
        """
        complete = self.trials[self.trials["state"] == "complete"]
        if complete.empty:
            raise NoSuchResult(f"study {self.spec.name!r} has no complete trial yet")
        return self._as_best(int(complete.index[int(complete["value"].to_numpy().argmax())]))

    @property
    def baselines(self) -> list[Best]:
        """The complete trials without any searched regularization, one for each loss."""
        chosen = self.trials[self.trials["baseline"] & (self.trials["state"] == "complete")]
        return [self._as_best(int(number)) for number in chosen.index]

    @property
    def best_baseline(self) -> Best | None:
        """The baseline that did best, whatever its loss: what regularization has to beat."""
        return max(self.baselines, key=lambda b: b.value, default=None)

    def counts(self) -> dict[str, int]:
        """Return how many trials are complete, pruned, fail, running and waiting."""
        found = self.trials["state"].value_counts()
        return {state: int(found.get(state, 0)) for state in ("complete", "pruned", "fail", "running", "waiting")}

    def _as_best(self, number: int) -> Best:
        trial = self._by_number[number]
        assert trial.value is not None
        return Best(number, configuration_of(trial.params, self.spec), trial.value, dict(trial.user_attrs))


def _with_configurations(trials: pd.DataFrame, spec: StudySpec) -> pd.DataFrame:
    """Add what each trial trained with: the fields of its configuration, and what else was searched; missing while it waits."""
    ranges = spec.search.ranges
    searched = [*ranges, *(["loss"] if isinstance(spec.search.loss, list) else [])]
    known = {name: trials[f"param_{name}"] for name in searched if f"param_{name}" in trials}
    rows: list[dict[str, Any]] = []
    for number in trials.index:
        params = {name: column[number] for name, column in known.items() if pd.notna(column[number])}
        if len(params) < len(searched):
            rows.append({})
            continue
        configuration = configuration_of(params, spec)
        weights = {f"mix_{loss}": weight for loss, weight in configuration.loss_weights}
        mixture = {name: weights.get(name) for name in ranges if name.startswith("mix_")}
        rows.append({name: getattr(configuration, name) for name in HYPERPARAMETERS} | searched_values(params, spec) | mixture)
    chosen = pd.DataFrame(rows, index=trials.index, columns=list(dict.fromkeys([*HYPERPARAMETERS, *ranges])))
    baseline = trials["attr_baseline"] if "attr_baseline" in trials else pd.Series(False, index=trials.index)
    return trials.join(chosen).assign(baseline=baseline.eq(True))
