"""The tables beside Optuna's: schema version, leases, runs, epochs, checkpoints, outcomes, requests, queue.

Rows that belong to a trial go with it (`ON DELETE CASCADE`), so that optuna-dashboard or plain Optuna may delete a study.
"""

from __future__ import annotations

import sqlalchemy
from optuna.storages._rdb import models
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, LargeBinary, String, Text

SCHEMA_VERSION = 3
METADATA = sqlalchemy.MetaData()
STUDIES = models.BaseModel.metadata.tables["studies"]
TRIALS = models.BaseModel.metadata.tables["trials"]


def _of_study() -> Column[int]:
    return Column("study_id", Integer, ForeignKey(STUDIES.c.study_id, ondelete="CASCADE"), primary_key=True, autoincrement=False)


def _of_trial() -> Column[int]:
    return Column("trial_id", Integer, ForeignKey(TRIALS.c.trial_id, ondelete="CASCADE"), primary_key=True, autoincrement=False)


SCHEMA = sqlalchemy.Table("sweeper_schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

LEASES = sqlalchemy.Table(
    "sweeper_leases",
    METADATA,
    _of_study(),
    Column("token", String(32), nullable=False),
    Column("machine", String(255), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_start", String(64), nullable=False),
    Column("since", Float(53), nullable=False),
    Column("renewed", Float(53), nullable=False),
)
"""Who leads a study; `machine` as in `storage.process`, `host` for people. Times are seconds since 1970 by the database's clock."""

RUNS = sqlalchemy.Table(
    "sweeper_runs",
    METADATA,
    _of_trial(),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("seed", BigInteger, nullable=False),
    Column("fold", Integer),
    Column("stream", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
)
"""Trainings of a trial: run 0 is the search's, the others are its folds and those of confirmations.

`stream` is JSON, pairs of (finished epochs, epoch of the index stream): where in the stream it began, and went on after each
interruption."""

EPOCHS = sqlalchemy.Table(
    "sweeper_epochs",
    METADATA,
    _of_trial(),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("train_loss", Float(53)),
    Column("train_accuracy", Float(53)),
    Column("validation_loss", Float(53)),
    Column("validation_accuracy", Float(53)),
    Column("weight_norm", Float(53)),
    Column("zero_weights", Float(53)),
    Column("seconds", Float(53)),
)
"""What was measured in each epoch; a number that is not finite is NULL. `seconds`: of the array's epoch."""

CHECKPOINTS = sqlalchemy.Table(
    "sweeper_checkpoints",
    METADATA,
    _of_trial(),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("file", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
"""Checkpoints that unfinished runs can go on from; `file` lies in the study's folder."""

OUTCOMES = sqlalchemy.Table(
    "sweeper_outcomes",
    METADATA,
    _of_trial(),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("validation_accuracy", Float(53)),
    Column("train_accuracy", Float(53)),
    Column("epochs", Integer, nullable=False),
    Column("validation_right", LargeBinary),
    Column("validation_images", Integer),
    Column("test_right", LargeBinary),
    Column("test_images", Integer),
    Column("value", Float(53)),
    Column("validation_scores", LargeBinary),
    Column("test_scores", LargeBinary),
)
"""What finished runs of a confirmation reached; `value` by the study's objective, NULL where it is not finite.

`…_right` has a bit per image of a part, set if it is right (`numpy.packbits`). `…_scores`, where the objective is not accuracy,
has a float32 per image, whose mean is the objective's value on that part."""

REQUESTS = sqlalchemy.Table(
    "sweeper_requests",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey(STUDIES.c.study_id, ondelete="CASCADE"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("value", Integer),
    Column("at", Float(53), nullable=False),
)
"""What other processes ask of the one that leads a study, which takes the row away when it has read it."""

QUEUE = sqlalchemy.Table(
    "sweeper_queue",
    METADATA,
    _of_study(),
    Column("priority", Integer, nullable=False),
    Column("since", Float(53), nullable=False),
    Column("error", Text),
)
"""Studies that servers are to run, the highest priority first, then the oldest; `error`: why one was given up."""

OF_TRIALS = (RUNS, EPOCHS, CHECKPOINTS, OUTCOMES)
