"""Changes of trials that are not in the database yet, and the statements that put them there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.dialects import postgresql, sqlite

from storage.tables import CHECKPOINTS, EPOCHS, OF_TRIALS, STUDIES, TRIALS

STUDY_USER_ATTRS = models.BaseModel.metadata.tables["study_user_attributes"]
STUDY_SYSTEM_ATTRS = models.BaseModel.metadata.tables["study_system_attributes"]
PARAMS = models.BaseModel.metadata.tables["trial_params"]
VALUES = models.BaseModel.metadata.tables["trial_values"]
STEPS = models.BaseModel.metadata.tables["trial_intermediate_values"]
USER_ATTRS = models.BaseModel.metadata.tables["trial_user_attributes"]
SYSTEM_ATTRS = models.BaseModel.metadata.tables["trial_system_attributes"]


@dataclass(slots=True)
class Change:
    """Which parts of one trial changed since the last flush."""

    params: set[str] = field(default_factory=set)
    steps: set[int] = field(default_factory=set)
    user_attrs: set[str] = field(default_factory=set)
    system_attrs: set[str] = field(default_factory=set)
    state: bool = False
    truncated: int | None = None
    rows: dict[str, dict[tuple[int, ...], dict[str, Any]]] = field(default_factory=dict)
    """Rows of our own tables, by the table's name and the rest of their keys."""
    no_checkpoints: set[int] = field(default_factory=set)
    """Runs whose checkpoints are gone."""


def write(connection: sqlalchemy.Connection, changes: Iterable[tuple[FrozenTrial, Change]]) -> None:
    """Write changes: truncations first, then parameters, values and attributes, states last."""
    pairs = list(changes)
    for trial, change in pairs:
        if change.truncated is not None:
            where = (STEPS.c.trial_id == trial._trial_id) & (STEPS.c.step > change.truncated)
            connection.execute(STEPS.delete().where(where))
            where = (EPOCHS.c.trial_id == trial._trial_id) & (EPOCHS.c.epoch > change.truncated)
            connection.execute(EPOCHS.delete().where(where))
        if change.no_checkpoints:
            mine = (CHECKPOINTS.c.trial_id == trial._trial_id) & CHECKPOINTS.c.run.in_(change.no_checkpoints)
            connection.execute(CHECKPOINTS.delete().where(mine))
    _upsert(connection, PARAMS, ("trial_id", "param_name"), (row for t, c in pairs for row in _params(t, c.params)))
    _upsert(connection, STEPS, ("trial_id", "step"), (row for t, c in pairs for row in _steps(t, c.steps)))
    for table, part in ((USER_ATTRS, "user_attrs"), (SYSTEM_ATTRS, "system_attrs")):
        rows = (row for t, c in pairs for row in _attrs(t, getattr(t, part), getattr(c, part)))
        _upsert(connection, table, ("trial_id", "key"), rows)
    for table in OF_TRIALS:
        keys = tuple(column.name for column in table.primary_key)
        _upsert(connection, table, keys, (row for _, c in pairs for row in c.rows.get(table.name, {}).values()))
    _upsert(connection, VALUES, ("trial_id", "objective"), (row for t, c in pairs if c.state for row in _values(t)))
    states = [_state(t) for t, c in pairs if c.state]
    if states:
        update = TRIALS.update().where(TRIALS.c.trial_id == sqlalchemy.bindparam("id"))
        connection.execute(update, states)


class ForeignTrials(Exception):
    """Another process has created trials in a study that this one leads."""


def insert_trials(connection: sqlalchemy.Connection, study_id: int, trials: Sequence[FrozenTrial], *, again: bool) -> list[int]:
    """Insert empty trials and return their ids; their parts follow by `write`.

    Args:
        connection: in a transaction.
        study_id: whose trials they are.
        trials: their numbers, times and states.
        again: an earlier attempt failed, perhaps only its answer was lost: the trials may be there already.

    Raises:
        ForeignTrials: there are others with these numbers, or higher ones.
    """
    numbers = [trial.number for trial in trials]
    mine = (TRIALS.c.study_id == study_id) & TRIALS.c.number.in_(numbers)
    found = sqlalchemy.select(TRIALS.c.number, TRIALS.c.trial_id).where(mine).order_by(TRIALS.c.trial_id)
    connection.execute(
        sqlalchemy.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()
    )  # as Optuna does
    last = connection.scalar(sqlalchemy.select(sqlalchemy.func.max(TRIALS.c.number)).where(TRIALS.c.study_id == study_id))
    if last is not None and last >= numbers[0] and not again:
        raise ForeignTrials(f"study {study_id} has trials that this process did not create")
    there = {number for number, _ in connection.execute(found)} if again else set()
    rows = [
        {"number": trial.number, "study_id": study_id, **_times(trial), "state": trial.state}
        for trial in trials
        if trial.number not in there
    ]
    if rows:
        connection.execute(TRIALS.insert(), rows)
    ids = dict(tuple(row) for row in connection.execute(found))
    return [ids[number] for number in numbers]


def write_study_attr(connection: sqlalchemy.Connection, table: sqlalchemy.Table, study_id: int, key: str, value: Any) -> None:
    """Write an attribute of a study into one of the two tables of them."""
    _upsert(connection, table, ("study_id", "key"), [{"study_id": study_id, "key": key, "value_json": json.dumps(value)}])


def _upsert(
    connection: sqlalchemy.Connection, table: sqlalchemy.Table, keys: tuple[str, ...], rows: Iterable[dict[str, Any]]
) -> None:
    """Insert rows, all with the same columns, or update those whose keys are there.

    The statement is compiled once and the rows go straight to the driver: SQLAlchemy's own way through them takes longer than
    the database. Values are therefore what the driver takes: the names of enumerations, JSON as text. Postgres gets all rows as
    one JSON text: a statement for each of them takes three times as long.
    """
    batch = list(rows)
    if not batch:
        return
    sql, names = _upsert_statement(connection.dialect, table, keys, tuple(batch[0]))
    if names:
        connection.exec_driver_sql(sql, [tuple(map(row.__getitem__, names)) for row in batch])
    else:
        connection.exec_driver_sql(sql, {"rows": json.dumps(batch, default=_bytea)})


@lru_cache(maxsize=64)
def _upsert_statement(
    dialect: sqlalchemy.Dialect, table: sqlalchemy.Table, keys: tuple[str, ...], columns: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """Return the statement, and the order of its parameters where there is one statement for each row."""
    if dialect.name == "sqlite":
        in_place = sqlite.insert(table)
        by_name: dict[str, Any] = {name: sqlalchemy.bindparam(name) for name in columns}
        changed = {name: in_place.excluded[name] for name in columns if name not in keys}
        compiled = in_place.values(by_name).on_conflict_do_update(index_elements=list(keys), set_=changed).compile(dialect=dialect)
        return str(compiled), tuple(compiled.positiontup or ())
    insert, types = postgresql.insert(table), {name: table.c[name].type for name in columns}
    rows = sqlalchemy.func.json_to_recordset(sqlalchemy.cast(sqlalchemy.bindparam("rows"), sqlalchemy.JSON))
    source = rows.table_valued(*(sqlalchemy.column(name, kind) for name, kind in types.items())).render_derived(with_types=True)
    changed = {name: insert.excluded[name] for name in columns if name not in keys}
    upsert = insert.from_select(list(columns), sqlalchemy.select(source)).on_conflict_do_update(
        index_elements=list(keys), set_=changed
    )
    return str(upsert.compile(dialect=dialect)), ()


def _bytea(value: object) -> str:
    """Return bytes as Postgres writes them as text."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is no value of a column")
    return f"\\x{value.hex()}"


def _params(trial: FrozenTrial, names: set[str]) -> Iterable[dict[str, Any]]:
    for name in trial.params:  # in the order of suggestion, which the ids keep
        if name in names:
            distribution = trial.distributions[name]
            yield {
                "trial_id": trial._trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }


def _steps(trial: FrozenTrial, steps: set[int]) -> Iterable[dict[str, Any]]:
    for step in sorted(steps):
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(trial.intermediate_values[step])
        yield {"trial_id": trial._trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind.name}


def _attrs(trial: FrozenTrial, attrs: Mapping[str, Any], keys: set[str]) -> Iterable[dict[str, Any]]:
    for key in sorted(keys):
        yield {"trial_id": trial._trial_id, "key": key, "value_json": json.dumps(attrs[key])}


def _values(trial: FrozenTrial) -> Iterable[dict[str, Any]]:
    for objective, number in enumerate(trial.values or ()):
        value, kind = models.TrialValueModel.value_to_stored_repr(number)
        yield {"trial_id": trial._trial_id, "objective": objective, "value": value, "value_type": kind.name}


def _state(trial: FrozenTrial) -> dict[str, Any]:
    return {"id": trial._trial_id, "state": trial.state, **_times(trial)}


def _times(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's times as Optuna stores them: naive UTC, where the trial itself holds naive local time."""

    def utc(time: datetime | None) -> datetime | None:
        return time and time.astimezone(UTC).replace(tzinfo=None)

    return {"datetime_start": utc(trial.datetime_start), "datetime_complete": utc(trial.datetime_complete)}
