"""A study at one moment: what every figure and table of the report is computed from, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from studies.objectives import ACCURACY, Objective
from studies.spec import StudySpec
from sweeper.intervals import Interval
from sweeper.results import Best, Results

FINISHED = ("complete", "pruned", "fail")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a study says: its best trial, the baseline that regularization has to beat, and what was confirmed over seeds.

    `objective` is what the study is after. `confirmed` maps trials to their value over seeds. It is empty as long as nothing was
    trained anew; then the best trial is the luckiest of many as well as the best, and whoever shows it has to say so. `test`: of
    the best on test images, and `test_gain` that less what the baseline reaches, if a confirmation has read them.
    """

    objective: Objective = ACCURACY
    best: Best | None = None
    baseline: Best | None = None
    confirmed: Mapping[int, Interval] = field(default_factory=dict)
    test: Interval | None = None
    test_gain: Interval | None = None

    def value(self, trial: Best) -> float:
        """Return the value that a trial is shown with: over seeds where that is known."""
        return self.confirmed[trial.trial].mean if trial.trial in self.confirmed else trial.value

    @property
    def gain(self) -> float | None:
        """The value of the best trial less that of the baseline; None if one of them is missing."""
        return self.value(self.best) - self.value(self.baseline) if self.best and self.baseline else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A study at one moment.

    `trials` has a row per trial, indexed by number: `state`, `role` (`baseline`, `enqueued` or empty), `loss`, the searched
    numbers, `value` by the study's objective and `accuracy` (of a pruned or running trial: the last ones), `train_accuracy` and
    `gap` of the same epoch, `zero_weights`, `epochs`, `started`, `finished`, `worker`, `reason` (why it failed). `curves` has a
    row per epoch of the search's runs, indexed by trial number and epoch. `plans` and `summary` are as stored.
    """

    spec: StudySpec
    trials: pd.DataFrame
    curves: pd.DataFrame
    answer: Answer
    versions: dict[str, str]
    summary: dict[str, Any]
    plans: dict[str, Any]

    @property
    def finished(self) -> pd.DataFrame:
        """The trials with a final state and a value."""
        return self.trials[self.trials["state"].isin(["complete", "pruned"]) & self.trials["value"].notna()]

    @property
    def objective(self) -> Objective:
        """What the study is after."""
        return self.answer.objective

    @property
    def searched(self) -> list[str]:
        """The searched numbers but for the weights of mixtures."""
        return [name for name in self.spec.search.ranges if not name.startswith("mix_")]

    @property
    def ended(self) -> int:
        """How many trials have a final state."""
        return int(self.trials["state"].isin(FINISHED).sum())

    @property
    def is_finished(self) -> bool:
        """Whether all trials of the budget have a final state."""
        return self.ended >= self.spec.trials

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        found = self.trials["state"].value_counts()
        return {state: int(found.get(state, 0)) for state in (*FINISHED, "running", "waiting")}


def take(results: Results) -> Snapshot:
    """Read what the report needs of a study."""
    curves = results.curves
    search = curves[curves.index.get_level_values("run") == 0].reset_index("run", drop=True)
    attrs = results.study.user_attrs
    return Snapshot(
        spec=results.spec,
        trials=_trials(results, search),
        curves=search,
        answer=_answer(results),
        versions=results.versions,
        summary=results.summary,
        plans=attrs.get("plans", {}),
    )


def _answer(results: Results) -> Answer:
    """Return the confirmed winner and the baseline it was measured against, or the best so far of each."""
    found, objective = results.answer, results.spec.objective
    if found is None:
        complete = (results.trials["state"] == "complete").any()
        return Answer(objective, results.best if complete else None, results.best_baseline, results.over_seeds)
    baseline = results.trial(found.baseline.trial) if found.baseline else None
    return Answer(objective, results.chosen, baseline, results.over_seeds, found.winner.test, found.gain_test)


def _trials(results: Results, curves: pd.DataFrame) -> pd.DataFrame:
    trials = results.trials
    none = pd.Series(None, index=trials.index, dtype=object)
    last = curves.groupby("number").tail(1).droplevel("epoch").reindex(trials.index)

    def fact(name: str) -> pd.Series[Any]:
        return trials.get(f"attr_{name}", none)

    frame = trials[["state", "loss", *results.spec.search.ranges, "epochs", "started", "finished"]].copy()
    for name in set(results.spec.search.conditional) - set(results.spec.search.REGULARIZERS):  # a default that does not apply
        frame[name] = frame[name].where(trials.get(f"param_{name}", none).notna())
    frame["role"] = ""
    frame.loc[fact("enqueued").eq(True), "role"] = "enqueued"
    frame.loc[trials["baseline"], "role"] = "baseline"
    frame["value"] = trials["value"].where(trials["state"] == "complete", trials["last_value"])
    frame["accuracy"] = frame["value"]
    if results.spec.objective is not ACCURACY:
        frame["accuracy"] = fact("validation_accuracy").astype(float).fillna(last["validation_accuracy"].astype(float))
    frame["train_accuracy"] = fact("train_accuracy").astype(float).fillna(last["train_accuracy"].astype(float))
    frame["gap"] = frame["train_accuracy"] - frame["accuracy"]
    frame["zero_weights"] = last["zero_weights"].astype(float)
    frame["worker"] = fact("worker").fillna(0).astype(int)
    frame["reason"] = fact("reason").fillna("")
    return frame
