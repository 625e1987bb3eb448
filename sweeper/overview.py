"""Where studies stand: all of a database in a row each, or one with what it runs at this moment. Plain data, for words and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
from optuna.storages import RDBStorage

from storage import admin, queries
from studies.objectives import ACCURACY
from studies.spec import StudySpec
from sweeper.results import SPEC_ATTR, SUMMARY_ATTR, Best, Results
from sweeper.search import configuration_of, is_complete
from sweeper.trial import Configuration


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study in a list: `state` is running, complete, ended, unfinished, or foreign (sweeper did not make it).

    `total` is its budget of trials, `ended` why it ended before they were all done, `best` the best value of a complete
    trial by its `objective`.
    """

    name: str
    state: str
    trials: dict[str, int]
    total: int | None
    best: float | None
    led_by: str | None
    ended: str | None = None
    objective: str = ACCURACY.name


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial that is being trained, or waits to go on: epochs recorded so far, the last value by the study's objective."""

    trial: int
    state: str
    epoch: int
    value: float | None
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Finding:
    """A complete trial: its value by the study's objective, with two of them by the second too, and its accuracy beside it."""

    trial: int
    value: float
    validation_accuracy: float
    configuration: Configuration
    zero_weights: float | None = None
    second_value: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A study: its row, its best, its baselines, with two objectives its Pareto set, and what runs at this moment."""

    study: StudyRow
    epochs: int
    best: Finding | None = None
    baselines: list[Finding] = field(default_factory=list)
    pareto: list[Finding] = field(default_factory=list)
    running: list[RunningTrial] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def list_studies(storage: RDBStorage) -> list[StudyRow]:
    """Return a row for each study of a database, by name."""
    attrs = {study.study_name: study.user_attrs for study in storage.get_all_studies()}
    best = queries.best_values(storage.engine)
    return [_row(study, attrs.get(study.name, {}), best.get(study.name)) for study in admin.info(storage.engine).studies]


def status_of(results: Results) -> Status:
    """Return where a study stands."""
    name = results.spec.name
    studies = {study.name: study for study in admin.info(results.engine).studies}
    ranked = results.ranked
    row = _row(studies[name], results.study.user_attrs, float(ranked["value"].iloc[0]) if len(ranked) else None)
    return Status(
        study=row,
        epochs=studies[name].epochs,
        best=_finding(results.best) if len(ranked) else None,
        baselines=[_finding(baseline) for baseline in results.baselines],
        pareto=[_finding(one, results.second_value(one)) for one in results.pareto],
        running=_running(results),
    )


def _row(study: admin.StudyInfo, attrs: Mapping[str, Any], best: float | None) -> StudyRow:
    spec = StudySpec.model_validate_json(attrs[SPEC_ATTR]) if SPEC_ATTR in attrs else None
    finished = sum(study.trials[state] for state in ("complete", "pruned", "fail"))
    unfinished = study.trials["running"] + study.trials["waiting"]
    ended: str | None = attrs.get(SUMMARY_ATTR, {}).get("ended")
    if spec is None:
        state = "foreign"
    elif study.led_by:
        state = "running"
    elif finished >= spec.trials and not unfinished:
        state = "complete"
    else:
        state = "ended" if ended else "unfinished"
    total = max(spec.trials, finished + unfinished) if spec else None
    objective = spec.objective.name if spec else ACCURACY.name
    return StudyRow(study.name, state, study.trials, total, best, study.led_by, ended if state == "ended" else None, objective)


def _finding(best: Best, second: float | None = None) -> Finding:
    return Finding(best.trial, best.value, best.accuracy, best.configuration, best.facts.get("zero_weights"), second)


def _running(results: Results) -> list[RunningTrial]:
    found, searched = [], [*results.spec.search.ranges, *results.spec.search.choices]
    for number, row in results.trials[results.trials["state"].isin(["running", "waiting"])].iterrows():
        params = {name: row[f"param_{name}"] for name in searched if pd.notna(row.get(f"param_{name}"))}
        if is_complete(params, results.spec):  # else it waits to be asked for
            last = None if pd.isna(row["last_value"]) else float(row["last_value"])
            configuration = configuration_of(params, results.spec)
            found.append(RunningTrial(int(str(number)), str(row["state"]), int(row["epochs"]), last, configuration))
    return found
