"""The written-behind storage is a whole Optuna storage, on both databases, and loses nothing that it promised to keep."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from storage import queries
from storage.engine import open_database, open_to_read, parse_url, shown
from storage.errors import StorageUnavailable, StudyHeld
from storage.lease import lease
from storage.tables import LEASES, OUTCOMES
from storage.trials import TrialStorage


@pytest.fixture
def storage(database_url: str) -> Iterator[TrialStorage]:
    opened = TrialStorage(open_database(database_url))
    yield opened
    opened.close()


class TestConformance(StorageTestCase):
    """Optuna's own suite, on SQLite and on Postgres."""


def other_reader(storage: TrialStorage, study_id: int) -> list[optuna.trial.FrozenTrial]:
    """What somebody else sees in the database."""
    reader = RDBStorage(storage.backend.engine.url.render_as_string(hide_password=False))
    trials = reader.get_all_trials(study_id)
    reader.engine.dispose()
    return trials


def test_epochs_are_written_at_the_flush_and_final_states_at_once(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    trial = study.ask()
    trial.suggest_float("l2", 1e-5, 1e-1, log=True)
    trial.report(0.5, 1)
    assert other_reader(storage, study._study_id)[0].intermediate_values == {}
    storage.flush()
    assert other_reader(storage, study._study_id)[0].intermediate_values == {1: 0.5}
    trial.report(0.6, 2)
    study.tell(trial, 0.6)
    seen = other_reader(storage, study._study_id)[0]
    assert (seen.state, seen.value, seen.intermediate_values, seen.params) == (
        TrialState.COMPLETE,
        0.6,
        {1: 0.5, 2: 0.6},
        trial.params,
    )


def test_a_tick_is_one_transaction(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    trials = [study.ask() for _ in range(8)]
    commits: list[object] = []
    sqlalchemy.event.listen(storage.backend.engine, "commit", commits.append)
    with storage.deferred():
        for trial in trials:
            storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
            study.tell(trial.number, 0.5)
    assert len(commits) == 1
    assert {t.state for t in other_reader(storage, study._study_id)} == {TrialState.COMPLETE}


def test_truncation_puts_a_trial_back_under_its_number_with_its_parameters(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    trial = study.ask()
    value = trial.suggest_float("l2", 1e-5, 1e-1, log=True)
    for step in (1, 2, 3):
        trial.report(step / 10, step)
    storage.flush()
    trial.report(0.4, 4)
    storage.requeue(trial._trial_id, keep_until=2)
    seen = other_reader(storage, study._study_id)[0]
    assert (seen.state, seen.intermediate_values) == (TrialState.WAITING, {1: 0.1, 2: 0.2})
    again = study.ask()
    assert again.number == trial.number
    assert again.suggest_float("l2", 1e-5, 1e-1, log=True) == value
    again.report(0.9, 3)
    storage.flush()
    assert other_reader(storage, study._study_id)[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.9}


def test_a_database_of_plain_optuna_is_read_and_continued(database_url: str) -> None:
    plain = optuna.create_study(study_name="s", storage=RDBStorage(parse_url(database_url).render_as_string(hide_password=False)))
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    study = optuna.load_study(study_name="s", storage=TrialStorage(open_database(database_url)))
    assert [t.value for t in study.trials] == [t.value for t in plain.trials]
    study.tell(study.ask(), 0.5)
    assert [t.number for t in plain.trials] == [0, 1, 2, 3]


def test_the_frame_of_trials_holds_every_state(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    done, pruned = study.ask(), study.ask()
    done.report(0.7, 1)
    pruned.report(0.1, 1)
    study.tell(done, 0.7)
    study.tell(pruned, state=TrialState.PRUNED)
    study.ask()
    frame = queries.trials(storage.backend.engine, study._study_id)
    assert frame["state"].tolist() == ["complete", "pruned", "running"]
    assert frame["last_value"].tolist()[:2] == [0.7, 0.1]


def test_what_was_promised_survives_kill_9(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, optuna
        from storage.engine import open_database
        from storage.trials import TrialStorage
        study = optuna.create_study(study_name="s", storage=TrialStorage(open_database("sqlite:///{tmp_path}/k.db")))
        for i in range(20):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            trial.report(i, 1)
            study.tell(trial, i)
        study.ask().report(99, 1)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/k.db").trials
    assert [(t.number, t.value, t.intermediate_values) for t in trials[:20]] == [(i, i, {1: i}) for i in range(20)]
    assert all("x" in t.params for t in trials[:20])
    assert trials[20].state == TrialState.RUNNING


@pytest.fixture
def studies(storage: TrialStorage) -> None:
    for name in ("one", "two"):
        optuna.create_study(study_name=name, storage=storage)


@pytest.mark.usefixtures("studies")
class TestLease:
    def test_a_second_holder_is_told_who_has_it(self, storage: TrialStorage) -> None:
        with (
            lease(storage.backend.engine, 1),
            pytest.raises(StudyHeld, match=r"led by process \d+ on .* since .* UTC.*--take-over"),
            lease(storage.backend.engine, 1),
        ):
            pass
        with lease(storage.backend.engine, 1), lease(storage.backend.engine, 2):
            pass

    def test_a_holder_of_this_machine_that_no_longer_lives_is_replaced(self, storage: TrialStorage) -> None:
        with lease(storage.backend.engine, 1):
            with storage.backend.engine.begin() as connection:
                connection.execute(LEASES.update().values(process_start="long ago"))
            with lease(storage.backend.engine, 1):
                pass

    def test_a_holder_elsewhere_only_with_take_over(self, storage: TrialStorage) -> None:
        with lease(storage.backend.engine, 1):
            with storage.backend.engine.begin() as connection:
                connection.execute(LEASES.update().values(machine="another", host="another-machine"))
            with pytest.raises(StudyHeld, match="another-machine"), lease(storage.backend.engine, 1):
                pass
            with lease(storage.backend.engine, 1, take_over=True):
                pass


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "is not a database URL; write sqlite:///FILE"),
        ("postgresql:/u:secret@h/d", "is not a database URL"),
        ("postgresql://u:secret@h:abc/d", "is not a database URL"),
        ("postgresql://u:sec@secret@127.0.0.1:1/d", "is written %40"),
        ("postgresql://127.0.0.1:1/d?user=u&password=secret", "refused"),
        ("sqlite://", "would be lost; name a file"),
        ("mysql://u:secret@h/d", "mysql is not supported"),
        ("postgresql://u:secret@127.0.0.1:1/d", "refused"),
        ("sqlite:////nowhere/at/all.db", "there is no folder /nowhere/at; make it"),
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(url: str, message: str) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        open_database(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_not_made_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="no such file"):
        open_to_read(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    sqlite3.connect(foreign).execute("CREATE TABLE mine (x)").connection.close()
    before = foreign.read_bytes()
    with pytest.raises(StorageUnavailable, match="no studies in this database"):
        open_to_read(f"sqlite:///{foreign}")
    assert foreign.read_bytes() == before
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/plain.db")
    reader = open_to_read(f"sqlite:///{tmp_path}/plain.db")
    assert [s.study_name for s in reader.get_all_studies()] == ["s"]
    with pytest.raises(optuna.exceptions.StorageInternalError):
        reader.set_study_user_attr(1, "key", "value")
    assert not (tmp_path / "plain.db-wal").exists()
    reader.engine.dispose()


def test_an_orchestrator_that_lost_its_lease_writes_nothing_more(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    trial = study.ask()
    with lease(storage.backend.engine, study._study_id) as mine, storage.guarded(mine.check):
        trial.report(0.1, 1)
        storage.flush()
        with lease(storage.backend.engine, study._study_id, take_over=True):
            trial.report(0.2, 2)
            with pytest.raises(StudyHeld, match="taken this study over"):
                storage.flush()
            with pytest.raises(StudyHeld, match="taken this study over"):
                study.ask()
    assert [t.intermediate_values for t in other_reader(storage, study._study_id)] == [{1: 0.1}]


def test_several_processes_may_open_a_new_database_at_once(database_url: str) -> None:
    script = "import sys; from storage.engine import open_database; open_database(sys.argv[1]).get_all_studies()"
    processes = [subprocess.Popen([sys.executable, "-c", script, database_url], stderr=subprocess.PIPE) for _ in range(6)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, "\n".join(errors)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database at all, but long enough to look into" * 20)
    with pytest.raises(StorageUnavailable, match="not a database"):
        open_database(f"sqlite:///{tmp_path}/x.db")


def test_postgres_urls_mean_psycopg_3_and_are_shown_without_password() -> None:
    assert parse_url("postgres://u:p@h/d").drivername == "postgresql+psycopg"
    assert shown("postgresql://u:secret@h/d") == "postgresql://u:***@h/d"
    assert shown("sqlite:///sweeper.db") == "sqlite:///sweeper.db"
    accounts = ("u:a:secret@h/d", "u:a:secret@b/secret@h/d", "u:se cret:secret/y@h", "u:secret?secret@h/d")
    for hidden in (*accounts, "h/d?user=u&pass%77ord=secret"):
        assert "secret" not in shown(f"postgresql://{hidden}"), hidden
    assert shown("postgresql://u:secret@h/d?options=a@b") == "postgresql://u:***@h/d?options=a@b"
    for open_ in ("postgresql://me@h/d", "postgresql://me:@h/d", "sqlite:///a@b.db"):
        assert shown(open_) == open_


def test_bytes_numbers_and_text_come_back_as_they_were(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    rows = [(bytes(range(256)), 0.1 + 0.2, 2**31 - 1), (b"", 5e-324, 0), (None, None, 1)]
    for run, (right, accuracy, epochs) in enumerate(rows):
        trial = study.ask()
        trial.set_user_attr("said", "quotes \" ' \\ \x00 and \u20ac")
        storage.record(
            trial._trial_id, OUTCOMES, run=run, validation_accuracy=accuracy, train_accuracy=None, epochs=epochs,
            validation_right=right, validation_images=None, test_right=None, test_images=None,
        )  # fmt: skip
    storage.flush()
    with storage.backend.engine.connect() as connection:
        read = connection.execute(sqlalchemy.select(OUTCOMES).order_by(OUTCOMES.c.run)).all()
    assert [(row.validation_right, row.validation_accuracy, row.epochs) for row in read] == rows
    assert [t.user_attrs for t in other_reader(storage, study._study_id)] == [{"said": "quotes \" ' \\ \x00 and \u20ac"}] * 3
