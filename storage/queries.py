"""What a database holds of a study, as pandas frames. Read only; a query a table, whatever the number of trials."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from typing import Any

import pandas as pd
import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Engine, Select, case, func, select

from storage.changes import PARAMS, STEPS, USER_ATTRS, VALUES
from storage.checkpoints import Checkpoint
from storage.tables import CHECKPOINTS, EPOCHS, OUTCOMES, RUNS, STUDIES, TRIALS

DIRECTIONS = models.BaseModel.metadata.tables["study_directions"]
COLUMNS = ["number", "state", "value", "last_value", "epochs", "started", "finished"]


def trials(engine: Engine, study_id: int) -> pd.DataFrame:
    """Return a row per trial, indexed by its number.

    Columns: `state`, `value` (NaN where there is none), `last_value` (the last one reported), `epochs` (how many were
    reported), `started` and `finished` (UTC), `param_NAME` and `attr_NAME`.
    """
    mine = TRIALS.c.study_id == study_id
    last = (
        select(STEPS.c.trial_id, func.max(STEPS.c.step).label("step"), func.count().label("epochs"))
        .join(TRIALS, TRIALS.c.trial_id == STEPS.c.trial_id)
        .where(mine)
        .group_by(STEPS.c.trial_id)
        .subquery()
    )
    this_step = (STEPS.c.trial_id == last.c.trial_id) & (STEPS.c.step == last.c.step)
    with engine.connect() as connection:
        rows = {
            row.trial_id: {
                "number": row.number,
                "state": row.state.name.lower(),
                "value": None,
                "last_value": None,
                "epochs": 0,
                "started": row.datetime_start,
                "finished": row.datetime_complete,
            }
            for row in connection.execute(
                select(
                    TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, TRIALS.c.datetime_start, TRIALS.c.datetime_complete
                ).where(mine)
            )
        }
        for row in _known(connection.execute(_of(study_id, VALUES).where(VALUES.c.objective == 0)), rows):
            rows[row.trial_id]["value"] = models.TrialValueModel.stored_repr_to_value(row.value, row.value_type)
        reported = select(last, STEPS.c.intermediate_value, STEPS.c.intermediate_value_type).join(STEPS, this_step)
        for row in _known(connection.execute(reported), rows):
            value = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(
                row.intermediate_value, row.intermediate_value_type
            )
            rows[row.trial_id] |= {"epochs": row.epochs, "last_value": value}
        for row in _known(connection.execute(_of(study_id, PARAMS).order_by(PARAMS.c.param_id)), rows):
            value = _distribution(row.distribution_json).to_external_repr(row.param_value)
            rows[row.trial_id][f"param_{row.param_name}"] = value
        for row in _known(connection.execute(_of(study_id, USER_ATTRS)), rows):
            rows[row.trial_id][f"attr_{row.key}"] = json.loads(row.value_json)
    frame = pd.DataFrame(rows.values(), columns=None if rows else COLUMNS)
    for name in ("started", "finished"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame.astype({"value": float, "last_value": float}).set_index("number").sort_index()


def curves(engine: Engine, study_id: int) -> pd.DataFrame:
    """Return a row per epoch of each run, indexed by trial number, run and epoch; the columns are those of `EPOCHS`."""
    return _frame(engine, study_id, EPOCHS, ["number", "run", "epoch"])


def runs(engine: Engine, study_id: int) -> pd.DataFrame:
    """Return a row per run, indexed by trial number and run: its seed, fold, place in the index stream, and attempts."""
    frame = _frame(engine, study_id, RUNS, ["number", "run"])
    return frame.assign(stream=frame["stream"].map(json.loads))


def outcomes(engine: Engine, study_id: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the columns of `OUTCOMES` of each finished run of a confirmation, by trial number and run."""
    return _frame(engine, study_id, OUTCOMES, ["number", "run"]).to_dict("index")  # type: ignore[return-value]


def best(engine: Engine, study_id: int, number: int = 10) -> pd.DataFrame:
    """Return the rows of `trials` of the best complete ones by the first objective, best first, the earlier of equals first."""
    frame = trials(engine, study_id)
    complete = frame[frame["state"] == "complete"]
    first = select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == study_id, DIRECTIONS.c.objective == 0)
    with engine.connect() as connection:
        minimized = connection.scalar(first) == StudyDirection.MINIMIZE
    return complete.sort_values("value", ascending=minimized, kind="stable").head(number)


def best_values(engine: Engine) -> dict[str, float]:
    """Return the best first objective of the complete trials of each study, by its name; a study without any is left out."""
    minimized = DIRECTIONS.c.direction == StudyDirection.MINIMIZE
    query = (
        select(STUDIES.c.study_name, case((minimized, func.min(VALUES.c.value)), else_=func.max(VALUES.c.value)))
        .join(DIRECTIONS, (DIRECTIONS.c.study_id == STUDIES.c.study_id) & (DIRECTIONS.c.objective == 0))
        .join(TRIALS, TRIALS.c.study_id == STUDIES.c.study_id)
        .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(VALUES.c.objective == 0, TRIALS.c.state == TrialState.COMPLETE)
        .group_by(STUDIES.c.study_name, DIRECTIONS.c.direction)
    )
    with engine.connect() as connection:
        return {name: float(value) for name, value in connection.execute(query) if value is not None}


def checkpoints(engine: Engine, study_id: int) -> list[Checkpoint]:
    """Return the checkpoints that unfinished runs of a study can go on from."""
    with engine.connect() as connection:
        return [Checkpoint(**row._asdict()) for row in connection.execute(_of(study_id, CHECKPOINTS))]


def _known(result: Iterable[Any], trial_ids: Container[int]) -> Iterator[Any]:
    """Leave out rows of trials that were created since the trials were read: a study may be running."""
    return (row for row in result if row.trial_id in trial_ids)


def _of(study_id: int, table: sqlalchemy.Table) -> Select[Any]:
    """Return the query of all rows of a table that belong to trials of a study."""
    return select(table).join(TRIALS, TRIALS.c.trial_id == table.c.trial_id).where(TRIALS.c.study_id == study_id)


def _frame(engine: Engine, study_id: int, table: sqlalchemy.Table, index: list[str]) -> pd.DataFrame:
    columns = [TRIALS.c.number, *(column for column in table.c if column.name != "trial_id")]
    query = select(*columns).join(TRIALS, TRIALS.c.trial_id == table.c.trial_id).where(TRIALS.c.study_id == study_id)
    names = [column.name for column in columns]
    with engine.connect() as connection:
        there = sqlalchemy.inspect(connection).has_table(table.name)  # not in a database of plain Optuna
        rows = [tuple(row) for row in connection.execute(query)] if there else []
    return pd.DataFrame(rows, columns=names).set_index(index).sort_index()


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
