"""The table of trials: its columns, its rows as they are shown, and as they are sorted and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from studies.objectives import ACCURACY
from sweeper.notation import loss_name, metric_value, percent, points, strength
from sweeper.report import style
from sweeper.report.snapshot import Snapshot

ORDER = {"complete": 0, "running": 1, "pruned": 2, "fail": 3, "waiting": 4}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its `key` in files, its `name` on the page; text stands `left`."""

    key: str
    name: str
    left: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A trial: its cells as `values` and as `shown`; `mark` is `best`, `baseline` or empty."""

    values: list[Any]
    shown: list[str]
    mark: str


@dataclass(frozen=True, slots=True)
class Select:
    """A filter: the values of a column and their names."""

    column: int
    name: str
    choices: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class TrialTable:
    """The best trials first."""

    columns: list[Column]
    rows: list[Row]
    selects: list[Select]


def trial_table(study: Snapshot) -> TrialTable:
    """Compute the table of all trials that were started."""
    names, objective = list(study.spec.search.ranges), study.objective
    columns = [
        Column("trial", "trial"),
        Column("state", "state", left=True),
        Column("role", "role", left=True),
        *([Column("value", objective.metric)] if objective is not ACCURACY else []),
        Column("accuracy", "accuracy"),
        Column("train_accuracy", "training"),
        Column("gap", "gap (points)"),
        *(Column(name, style.axis_name(name)) for name in names),
        Column("loss", "loss", left=True),
        Column("epochs", "epochs"),
        Column("reason", "remark", left=True),
    ]
    trials = study.trials[study.trials["state"] != "waiting"]
    trials = trials.assign(rank=trials["state"].map(ORDER)).sort_values(
        ["rank", "value"], ascending=[True, objective.minimized], kind="stable"
    )
    if not (trials["reason"] != "").any():
        columns.pop()
    formats: dict[str, Callable[[Any], str]] = {
        "value": lambda value: metric_value(objective, value),
        "accuracy": percent,
        "train_accuracy": percent,
        "gap": lambda gap: points(gap).removesuffix(" points"),
        "loss": loss_name,
        "state": lambda state: style.STATE_NAMES[state],
        **dict.fromkeys(names, strength),
    }
    best = study.answer.best.trial if study.answer.best else None
    rows = []
    for number, found in zip(trials.index, trials.to_dict("records"), strict=True):
        values = [number if c.key == "trial" else None if pd.isna(found[c.key]) else found[c.key] for c in columns]
        shown = ["–" if v is None else str(formats.get(c.key, str)(v)) for v, c in zip(values, columns, strict=True)]
        rows.append(Row(values, shown, "best" if number == best else "baseline" if found["role"] == "baseline" else ""))
    keys = [column.key for column in columns]
    selects = [Select(keys.index("state"), "state", [(s, style.STATE_NAMES[s]) for s in ORDER if s in set(trials["state"])])]
    losses = study.spec.search.losses
    if len(losses) > 1:
        selects.append(Select(keys.index("loss"), "loss", [(loss, loss_name(loss)) for loss in losses]))
    return TrialTable(columns, rows, selects)
