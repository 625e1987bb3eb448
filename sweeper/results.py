"""What a study found: its trials with the values they trained with, its baselines and its best."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.storages import RDBStorage
from sqlalchemy import Engine

from storage import queries
from studies.objectives import Objective
from studies.spec import StudySpec
from sweeper.answer import ANSWER, Answer, Confirmation, Outcomes, answer_of, over_seeds, stored
from sweeper.errors import NoSuchResult
from sweeper.intervals import Interval
from sweeper.search import FIELDS, configuration_of, is_complete, searched_values
from sweeper.trial import Configuration

SPEC_ATTR = "spec"
SUMMARY_ATTR = "summary"
VERSIONS_ATTR = "versions"
PLANS_ATTR = "plans"
HYPERPARAMETERS = ("loss", *FIELDS)


@dataclass(frozen=True, slots=True)
class Best:
    """A complete trial: its configuration, its value by the study's objective, and all else recorded of it."""

    trial: int
    configuration: Configuration
    value: float
    facts: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Its validation accuracy; it is the value where the study is after accuracy."""
        return float(self.facts.get("validation_accuracy", self.value))


class Results:
    """A study as its storage holds it now.

    `trials` has a row per trial: `state`, `value`, `last_value`, `epochs`, `started`, `finished`, `baseline`, and the
    hyperparameters it trained with: the fields of `Configuration` and whatever else was searched, 0 where a sampled value
    stands for none; `mix_LOSS`, the weight of a loss in the trial's mixture, is missing where it is none of its terms.
    """

    def __init__(self, study: optuna.Study, engine: Engine) -> None:
        attrs = study.user_attrs
        if SPEC_ATTR not in attrs:
            raise NoSuchResult(f"study {study.study_name!r} was not made by sweeper: it has no spec")
        self.study, self.engine = study, engine
        self.spec = StudySpec.model_validate_json(attrs[SPEC_ATTR])
        self.versions: dict[str, str] = attrs.get(VERSIONS_ATTR, {})
        self.summary: dict[str, Any] = attrs.get(SUMMARY_ATTR, {})
        trials = queries.trials(engine, study._study_id)
        if self.spec.has_two_objectives and "attr_epochs" in trials:  # Optuna has no intermediate values of these
            trials = trials.assign(last_value=trials["value"], epochs=trials["attr_epochs"].fillna(0).astype(int))
        if self.spec.data.sequential:
            trials = _of_sequences(trials, self.spec.training.epochs)
        self.trials = _with_configurations(trials, self.spec)

    @classmethod
    def load(cls, name: str, storage: RDBStorage) -> Results:
        """Read a study by its name.

        Raises:
            NoSuchResult: there is none of this name in the storage; the message lists those there are.
        """
        try:
            return cls(optuna.load_study(study_name=name, storage=storage), storage.engine)
        except KeyError:
            names = sorted(study.study_name for study in storage.get_all_studies())
            known = f"it holds: {', '.join(names)}" if names else "it holds none"
            raise NoSuchResult(f"no study {name!r} in this storage; {known}") from None

    @property
    def curves(self) -> pd.DataFrame:
        """What was measured in each epoch of each run, indexed by trial number, run and epoch."""
        return queries.curves(self.engine, self.study._study_id)

    @property
    def best(self) -> Best:
        """The complete trial with the best value, the earliest of equals.

        Raises:
            NoSuchResult: no trial is complete yet.
        """
        ranked = self.ranked
        if ranked.empty:
            raise NoSuchResult(f"study {self.spec.name!r} has no complete trial yet")
        return self.trial(int(ranked.index[0]))

    @property
    def chosen(self) -> Best:
        """The winner of the last confirmation; the best trial if there was none.

        Raises:
            NoSuchResult: no trial is complete yet.
        """
        answer = self.answer
        return self.trial(answer.winner.trial) if answer else self.best

    @property
    def ranked(self) -> pd.DataFrame:
        """The rows of the complete trials, the best first, of equals the earlier one."""
        complete = self.trials[self.trials["state"] == "complete"]
        return complete.sort_values("value", ascending=self.spec.objective.minimized, kind="stable")

    @property
    def pareto(self) -> list[Best]:
        """With two objectives: the complete trials that no other exceeds in one without falling behind in the other.

        The best by the first objective first; `second_value` tells the other. With one objective: none.
        """
        if not self.spec.has_two_objectives:
            return []
        front = [self.trial(trial.number) for trial in self.study.best_trials if trial.number in self.trials.index]
        return sorted(front, key=lambda best: -self.spec.objective.rank(best.value))

    def second_value(self, best: Best) -> float:
        """Return what a complete trial reached by the second of two objectives."""
        return float(self.study.get_trials(deepcopy=False)[best.trial].values[1])

    @property
    def baselines(self) -> list[Best]:
        """The complete trials without any searched regularization, one for each loss."""
        chosen = self.trials[self.trials["baseline"] & (self.trials["state"] == "complete")]
        return [self.trial(int(number)) for number in chosen.index]

    @property
    def best_baseline(self) -> Best | None:
        """The baseline that did best, whatever its loss: what regularization has to beat."""
        return max(self.baselines, key=lambda b: self.spec.objective.rank(b.value), default=None)

    @property
    def confirmations(self) -> list[Confirmation]:
        """The confirmations that were begun, in their order."""
        return stored(self.study.user_attrs)

    @property
    def answer(self) -> Answer | None:
        """What the last finished confirmation found; None if there is none."""
        return self.answer_by(self.spec.objective)

    def answer_by(self, metric: Objective) -> Answer | None:
        """Return what the last finished confirmation found, by the study's objective or by accuracy; None if there is none."""
        confirmations = self.confirmations
        if not any(each.finished and each.purpose == ANSWER for each in confirmations):
            return None
        return answer_of(confirmations, self.outcomes, metric)

    @property
    def over_seeds(self) -> dict[int, Interval]:
        """The value, over seeds that took no part in any choice, of each trial of which it is known."""
        return over_seeds(self.confirmations, self.outcomes, self.spec.objective)

    @property
    def outcomes(self) -> Outcomes:
        """What each finished run of a confirmation reached, by trial and run."""
        return queries.outcomes(self.engine, self.study._study_id)

    @property
    def pack(self) -> int:
        """How many trials were planned to be trained as one network, at least."""
        return min((entry["plan"]["pack"] for entry in self.study.user_attrs.get(PLANS_ATTR, {}).values()), default=1)

    @property
    def finished(self) -> int:
        """The number of trials with a final state."""
        return int(self.trials["state"].isin(["complete", "pruned", "fail"]).sum())

    def counts(self) -> dict[str, int]:
        """Return how many trials are complete, pruned, fail, running and waiting."""
        found = self.trials["state"].value_counts()
        return {state: int(found.get(state, 0)) for state in ("complete", "pruned", "fail", "running", "waiting")}

    def trial(self, number: int) -> Best:
        """Return a complete trial."""
        row = self.trials.loc[number].dropna()
        params = {str(key).removeprefix("param_"): value for key, value in row.items() if str(key).startswith("param_")}
        facts = {str(key).removeprefix("attr_"): value for key, value in row.items() if str(key).startswith("attr_")}
        return Best(number, configuration_of(params, self.spec), float(str(row["value"])), facts)


def _of_sequences(trials: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """Return trials whose intermediate values are of folds, `epochs` long: their epochs, and of those pruned the mean so far."""
    none = pd.Series(None, index=trials.index, dtype=object)
    means = trials.get("attr_fold_values", none).map(statistics.fmean, na_action="ignore").astype(float)
    counted = trials.get("attr_epochs", none).astype(float).fillna(trials["epochs"] * epochs).astype(int)
    return trials.assign(last_value=means.fillna(trials["last_value"]), epochs=counted)


def _with_configurations(trials: pd.DataFrame, spec: StudySpec) -> pd.DataFrame:
    """Add what each trial trained with: the fields of its configuration, and what else was searched; missing while it waits."""
    ranges = spec.search.ranges
    searched = [*ranges, *spec.search.choices]
    known = {name: trials[f"param_{name}"] for name in searched if f"param_{name}" in trials}
    rows: list[dict[str, Any]] = []
    for number in trials.index:
        params = {name: column[number] for name, column in known.items() if pd.notna(column[number])}
        if not is_complete(params, spec):
            rows.append({})
            continue
        configuration = configuration_of(params, spec)
        weights = {f"mix_{loss}": weight for loss, weight in configuration.loss_weights}
        mixture = {name: weights.get(name) for name in ranges if name.startswith("mix_")}
        rows.append({name: getattr(configuration, name) for name in HYPERPARAMETERS} | searched_values(params, spec) | mixture)
    chosen = pd.DataFrame(rows, index=trials.index, columns=list(dict.fromkeys([*HYPERPARAMETERS, *ranges])))
    baseline = trials["attr_baseline"] if "attr_baseline" in trials else pd.Series(False, index=trials.index)
    return trials.join(chosen).assign(baseline=baseline.eq(True))
