"""What is done to a database as a whole: look at it, copy a study into another one, delete a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, func, select

from storage import tables
from storage.changes import STUDY_USER_ATTRS
from storage.checkpoints import UID_ATTR, is_uid, new_uid
from storage.errors import StudyHeld, StudyUnknown
from storage.lease import holder_of
from storage.schema import version
from storage.tables import CHECKPOINTS, EPOCHS, STUDIES, TRIALS

TABLES = models.BaseModel.metadata.tables
OF_STUDIES = [TABLES[f"study_{name}"] for name in ("directions", "user_attributes", "system_attributes")]
OF_TRIALS = [
    *(TABLES[f"trial_{name}"] for name in ("params", "values", "intermediate_values", "user_attributes", "system_attributes")),
    *tables.OF_TRIALS,
]
ROWS_AT_ONCE = 5000
Carry = Callable[[str], None]
"""Told the name of the copy's folder of checkpoints."""
Copied = Callable[[int, int], None]
"""Told how many rows of a study are copied, of how many."""


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """A study in a database: its trials by state, its recorded epochs, the bytes of its checkpoints, who leads it."""

    name: str
    trials: dict[str, int]
    epochs: int
    checkpoint_bytes: int
    led_by: str | None


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """A database; `version` of our tables is None where there are none."""

    version: int | None
    studies: list[StudyInfo]


def info(engine: Engine) -> DatabaseInfo:
    """Return what a database holds."""
    with engine.connect() as connection:
        found = version(connection)
        studies = connection.execute(select(STUDIES.c.study_id, STUDIES.c.study_name).order_by(STUDIES.c.study_name)).all()
        return DatabaseInfo(found, [_study_info(connection, row.study_id, row.study_name, found) for row in studies])


def copy_study(
    source: Engine, destination: Engine, name: str, carry: Carry | None = None, copied: Copied = lambda rows, of: None
) -> int:
    """Copy a study whole, with all that is recorded of its trials, as one transaction; return the number of trials.

    Args:
        source: the database to read.
        destination: the database to write.
        name: of the study.
        carry: called before the transaction ends, to copy the checkpoint files; if it fails, nothing is copied.
        copied: called again and again with the rows that are copied so far, and those of the study.

    Raises:
        StudyUnknown: the source has no such study, or the destination has one of this name.
        StudyHeld: somebody leads it, and so changes it at this moment.
    """
    with source.connect() as reading, destination.begin() as writing:
        if reading.dialect.name == "postgresql":
            reading.execution_options(isolation_level="REPEATABLE READ")
        else:  # its driver begins no transaction for a SELECT, and each would see another state
            reading.exec_driver_sql("BEGIN")
        old_id = _study_id(reading, name)
        if writing.execute(select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).one_or_none():
            raise StudyUnknown(f"study {name!r} exists in the destination; delete it there first")
        _refuse_led(reading, old_id, name)
        key = writing.execute(STUDIES.insert().values(study_name=name)).inserted_primary_key
        assert key is not None
        new_id = int(key[0])
        for table in OF_STUDIES:
            _copy(reading, writing, table, table.c.study_id == old_id, {"study_id": {old_id: new_id}})
        uid = _rename_uid(writing, new_id)
        there = set(sqlalchemy.inspect(reading).get_table_names())  # plain Optuna's database has none of ours, an older one some
        wanted = {TRIALS: TRIALS.c.study_id == old_id}
        for table in OF_TRIALS:
            if table.name in there:
                wanted[table] = table.c.trial_id.in_(select(TRIALS.c.trial_id).where(TRIALS.c.study_id == old_id))
        counts = [reading.scalar(select(func.count()).select_from(table).where(mine)) for table, mine in wanted.items()]
        total, done = sum(count or 0 for count in counts), 0

        def tell(rows: int) -> None:
            nonlocal done
            done += rows
            copied(done, total)

        count = _copy(reading, writing, TRIALS, wanted.pop(TRIALS), {"study_id": {old_id: new_id}}, tell)
        ids = _ids(reading, old_id), _ids(writing, new_id)
        trial_ids = {ids[0][number]: ids[1][number] for number in ids[0]}
        for table, mine in wanted.items():
            _copy(reading, writing, table, mine, {"trial_id": trial_ids}, tell)
        if carry:
            carry(uid)
    return count


def delete_study(engine: Engine, name: str) -> None:
    """Delete a study with all that belongs to it, as one transaction.

    Raises:
        StudyUnknown: there is no such study.
        StudyHeld: somebody leads it.
    """
    with engine.begin() as connection:
        gone = _study_id(connection, name)
        _refuse_led(connection, gone, name)
        for table in OF_TRIALS:
            mine = table.c.trial_id.in_(select(TRIALS.c.trial_id).where(TRIALS.c.study_id == gone))
            connection.execute(table.delete().where(mine))
        for table in (TABLES["trial_heartbeats"], TRIALS, *OF_STUDIES, STUDIES):
            if table is TABLES["trial_heartbeats"]:
                where = table.c.trial_id.in_(select(TRIALS.c.trial_id).where(TRIALS.c.study_id == gone))
            else:
                where = table.c.study_id == gone
            connection.execute(table.delete().where(where))


def study_id(engine: Engine, name: str) -> int:
    """Return the id of a study.

    Raises:
        StudyUnknown: there is none of this name.
    """
    with engine.connect() as connection:
        return _study_id(connection, name)


def uid_of(engine: Engine, study_id: int) -> str | None:
    """Return the name of a study's folder of checkpoints; None if it never had any."""
    mine = (STUDY_USER_ATTRS.c.study_id == study_id) & (STUDY_USER_ATTRS.c.key == UID_ATTR)
    with engine.connect() as connection:
        found = connection.scalar(select(STUDY_USER_ATTRS.c.value_json).where(mine))
    uid = json.loads(found) if found else None
    return uid if is_uid(uid) else None


def refuse_led(engine: Engine, name: str) -> None:
    """Refuse to go on where somebody leads a study.

    Raises:
        StudyUnknown: there is none of this name.
        StudyHeld: somebody does.
    """
    with engine.connect() as connection:
        _refuse_led(connection, _study_id(connection, name), name)


def _rename_uid(connection: Connection, study_id: int) -> str:
    """Give a copy a folder of checkpoints of its own."""
    uid, mine = new_uid(), (STUDY_USER_ATTRS.c.study_id == study_id) & (STUDY_USER_ATTRS.c.key == UID_ATTR)
    connection.execute(STUDY_USER_ATTRS.update().where(mine).values(value_json=json.dumps(uid)))
    return uid


def _study_info(connection: Connection, study_id: int, name: str, found: int | None) -> StudyInfo:
    counted = select(TRIALS.c.state, func.count()).where(TRIALS.c.study_id == study_id).group_by(TRIALS.c.state)
    states: dict[TrialState, int] = dict(tuple(row) for row in connection.execute(counted))
    trials = {state.name.lower(): states.get(state, 0) for state in TrialState}
    if not found:
        return StudyInfo(name, trials, 0, 0, None)
    mine = TRIALS.c.study_id == study_id
    recorded = EPOCHS.join(TRIALS, TRIALS.c.trial_id == EPOCHS.c.trial_id)
    epochs = connection.scalar(select(func.count()).select_from(recorded).where(mine))
    joined = CHECKPOINTS.join(TRIALS, TRIALS.c.trial_id == CHECKPOINTS.c.trial_id)
    size = connection.scalar(select(func.sum(CHECKPOINTS.c.bytes)).select_from(joined).where(mine))
    return StudyInfo(name, trials, epochs or 0, int(size or 0), holder_of(connection, study_id))


def _study_id(connection: Connection, name: str) -> int:
    found = connection.scalar(select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)) if is_text(name) else None
    if found is None:
        names = connection.scalars(select(STUDIES.c.study_name).order_by(STUDIES.c.study_name)).all()
        raise StudyUnknown(
            f"no study {ascii(name) if not is_text(name) else repr(name)} in this storage; it holds: {', '.join(names) or 'none'}"
        )
    return int(found)


def is_text(name: str) -> bool:
    """Return whether a name can be written in UTF-8, which a command line's need not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_led(connection: Connection, study_id: int, name: str) -> None:
    holder = holder_of(connection, study_id) if version(connection) else None
    if holder:
        raise StudyHeld(f"study {name!r} is led by {holder}; stop it first")


def _ids(connection: Connection, study_id: int) -> dict[int, int]:
    rows = connection.execute(select(TRIALS.c.number, TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id))
    return {row.number: row.trial_id for row in rows}


def _copy(
    reading: Connection,
    writing: Connection,
    table: sqlalchemy.Table,
    where: sqlalchemy.ColumnElement[bool],
    new_ids: Mapping[str, Mapping[int, int]],
    tell: Callable[[int], None] = lambda rows: None,
) -> int:
    """Copy rows; those ids that others refer to are replaced, a key of the row's own is left to the destination."""
    key = list(table.primary_key)
    own_key = [column.name for column in key if len(key) == 1 and not column.foreign_keys]
    count = 0
    for batch in _batches(reading.execute(select(table).where(where).order_by(*table.primary_key))):
        rows = []
        for old in batch:
            row = {name: value for name, value in old.items() if name not in own_key}
            rows.append(row | {name: ids[row[name]] for name, ids in new_ids.items()})
        writing.execute(table.insert(), rows)
        count += len(rows)
        tell(len(rows))
    return count


def _batches(result: sqlalchemy.CursorResult[Any]) -> Iterator[list[dict[str, Any]]]:
    while rows := result.mappings().fetchmany(ROWS_AT_ONCE):
        yield [dict(row) for row in rows]
