"""The tables beside Optuna's: who leads a study."""

from __future__ import annotations

import sqlalchemy

METADATA = sqlalchemy.MetaData()

LEASES = sqlalchemy.Table(
    "sweeper_leases",
    METADATA,
    sqlalchemy.Column("study_id", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("token", sqlalchemy.String(32), nullable=False),
    sqlalchemy.Column("host", sqlalchemy.String(255), nullable=False),
    sqlalchemy.Column("pid", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("process_start", sqlalchemy.String(64), nullable=False),
    sqlalchemy.Column("since", sqlalchemy.DateTime, nullable=False),
    sqlalchemy.Column("renewed", sqlalchemy.DateTime, nullable=False),
)
