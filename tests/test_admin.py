"""Databases as a whole: versions, copies between SQLite and Postgres, deletion, requests, leases that run out, queries."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import sqlalchemy
from optuna.storages import RDBStorage

import sweeper
from storage import admin, lease, queries, requests
from storage.checkpoints import Checkpoint, CheckpointFiles, checkpoint_folder
from storage.engine import open_database, open_to_read
from storage.errors import SchemaUnknown, StorageUnavailable, StudyHeld, StudyUnknown
from storage.requests import Request
from storage.tables import EPOCHS, LEASES, SCHEMA, SCHEMA_VERSION
from storage.trials import TrialStorage
from studies.loader import with_changes
from studies.spec import StudySpec
from sweeper.cli import main
from sweeper.keeper import Keeper
from sweeper.ledger import Active, Ledger
from sweeper.messages import Lane
from sweeper.trial import Configuration, Run


@pytest.fixture
def swept(tiny: StudySpec, tmp_path: Path, database_url: str) -> Iterator[tuple[str, sweeper.StudyResult]]:
    """A finished study, and the database it is in."""
    result = sweeper.run_study(with_changes(tiny, trials=8), storage=database_url, runs=tmp_path / "runs", in_process=True)
    yield database_url, result
    result.results.engine.dispose()


def frames(url: str) -> list[pd.DataFrame]:
    storage = open_to_read(url)
    study_id = admin.study_id(storage.engine, "tiny")
    found = [query(storage.engine, study_id) for query in (queries.trials, queries.curves, queries.runs)]
    storage.engine.dispose()
    return found


def test_every_epoch_of_every_run_is_there(swept: tuple[str, sweeper.StudyResult]) -> None:
    url, _ = swept
    trials, curves, runs = frames(url)
    for number, trial in trials.iterrows():
        curve = curves.loc[(number, 0)]
        assert curve.index.tolist() == list(range(1, int(trial["epochs"]) + 1))
        assert curve["validation_accuracy"].iloc[-1] == trial["last_value"]
        assert (curve["weight_norm"] > 0).all()
        assert (curve["seconds"] > 0).all()
        assert curve["train_loss"].notna().all()
        assert runs.loc[(number, 0), "seed"] == trial["attr_run_seed"]
        assert runs.loc[(number, 0), "stream"][0][0] == 0
    study_id = admin.study_id(open_to_read(url).engine, "tiny")
    best = queries.best(open_to_read(url).engine, study_id, 3)
    assert best["value"].tolist() == sorted(trials["value"].dropna(), reverse=True)[:3]


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'x.db'}"))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    storage.record(trial._trial_id, EPOCHS, run=0, epoch=1, train_loss=None, validation_loss=0.5)
    storage.flush()
    curve = queries.curves(storage.backend.engine, study._study_id)
    assert math.isnan(curve["train_loss"].astype(float).iloc[0])
    assert curve["validation_loss"].iloc[0] == 0.5


def test_a_copy_there_and_back_is_the_same_study(
    swept: tuple[str, sweeper.StudyResult], tmp_path: Path, postgres_server: str
) -> None:
    url, _ = swept
    there = f"sqlite:///{tmp_path / 'there.db'}" if url.startswith("postgres") else postgres_server
    back = f"sqlite:///{tmp_path / 'back.db'}"
    try:
        assert admin.copy_study(open_to_read(url).engine, open_database(there).engine, "tiny") == 8
        assert admin.copy_study(open_to_read(there).engine, open_database(back).engine, "tiny") == 8
        for mine, theirs in zip(frames(url), frames(back), strict=True):
            pd.testing.assert_frame_equal(mine, theirs, check_dtype=False)
        same = optuna.load_study(study_name="tiny", storage=back).trials
        assert [(t.state, t.params, t.distributions) for t in same] == [
            (t.state, t.params, t.distributions) for t in optuna.load_study(study_name="tiny", storage=open_to_read(url)).trials
        ]
        told: list[tuple[int, int]] = []
        third = open_database(f"{back}.third").engine
        admin.copy_study(open_to_read(back).engine, third, "tiny", copied=lambda *rows: told.append(rows))
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1] > 8
        with pytest.raises(StudyUnknown, match="exists in the destination"):
            admin.copy_study(open_to_read(url).engine, open_database(back).engine, "tiny")
        again = sweeper.run_study(
            sweeper.load_study(str(tiny_file(tmp_path))), trials=10, storage=back, runs=tmp_path / "r", in_process=True
        )
        assert again.results.counts()["complete"] + again.results.counts()["pruned"] == 10
    finally:
        if there.startswith("postgres"):
            admin.delete_study(open_database(there).engine, "tiny")


def tiny_file(folder: Path) -> Path:
    from helpers import TINY

    (folder / "tiny.toml").write_text(TINY)
    return folder / "tiny.toml"


def test_deleting_is_refused_while_a_study_is_led_and_leaves_nothing_else(swept: tuple[str, sweeper.StudyResult]) -> None:
    url, _ = swept
    storage = TrialStorage(open_database(url))
    other = optuna.create_study(study_name="other", storage=storage)
    other.tell(other.ask(), 1.0)
    engine = storage.backend.engine
    study_id = admin.study_id(engine, "tiny")
    with lease.lease(engine, study_id):
        for refused in (lambda: admin.delete_study(engine, "tiny"), lambda: admin.refuse_led(engine, "tiny")):
            with pytest.raises(StudyHeld, match=r"led by process \d+"):
                refused()
    admin.delete_study(engine, "tiny")
    assert [study.name for study in admin.info(engine).studies] == ["other"]
    with engine.connect() as connection:
        for table in admin.OF_TRIALS:
            if table is not admin.TABLES["trial_values"]:
                assert connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)) == 0, table.name
    with pytest.raises(StudyUnknown, match="it holds: other"):
        admin.delete_study(engine, "tiny")
    storage.close()


def test_plain_optuna_may_delete_a_study(swept: tuple[str, sweeper.StudyResult]) -> None:
    url, _ = swept
    plain = open_to_read(url).engine.url.render_as_string(hide_password=False)
    optuna.delete_study(study_name="tiny", storage=RDBStorage(plain))
    engine = open_database(url).engine
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(EPOCHS)) == 0
    assert admin.info(engine).studies == []
    engine.dispose()


def test_tables_of_a_newer_version_are_refused(database_url: str) -> None:
    engine = open_database(database_url).engine
    with engine.begin() as connection:
        connection.execute(SCHEMA.update().values(version=99))
    for opening in (open_database, open_to_read):
        with pytest.raises(SchemaUnknown, match=f"version 99, this sweeper knows {SCHEMA_VERSION}; use a newer sweeper") as caught:
            opening(database_url)
        assert "storage " in str(caught.value)
    engine.dispose()


OLD_LEASES = {
    0: "token VARCHAR(32), since DATETIME, renewed DATETIME",
    1: "token VARCHAR(32), host VARCHAR(255), pid INTEGER, process_start VARCHAR(64), since FLOAT, renewed FLOAT",
}


@pytest.mark.parametrize("version", OLD_LEASES)
def test_tables_of_an_older_version_are_upgraded(version: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    study = optuna.create_study(study_name="s", storage=url)
    study.tell(study.ask(), 1.0)
    old = sqlite3.connect(tmp_path / "old.db")
    old.execute(f"CREATE TABLE sweeper_leases (study_id INTEGER PRIMARY KEY, {OLD_LEASES[version]})")
    old.execute("INSERT INTO sweeper_leases (study_id, token) VALUES (1, 'x')")
    if version:  # a leader elsewhere that is long gone
        old.execute("UPDATE sweeper_leases SET host = 'elsewhere', pid = 1, process_start = '1', since = 0.0, renewed = 0.0")
        old.execute("CREATE TABLE sweeper_schema (version INTEGER PRIMARY KEY)")
        old.execute("INSERT INTO sweeper_schema VALUES (?)", (version,))
    old.commit()
    old.close()
    storage = TrialStorage(open_database(url))
    with lease.lease(storage.backend.engine, study._study_id):
        pass
    assert [t.value for t in optuna.load_study(study_name="s", storage=storage).trials] == [1.0]
    assert admin.info(storage.backend.engine).version == SCHEMA_VERSION
    storage.close()


def test_a_database_of_plain_optuna_has_no_curves(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'plain.db'}"
    study = optuna.create_study(study_name="s", storage=url)
    study.optimize(lambda trial: trial.suggest_categorical("kind", ["a", "b"]) == "a", n_trials=4)
    reader = open_to_read(url)
    assert queries.curves(reader.engine, study._study_id).empty
    assert queries.trials(reader.engine, study._study_id)["param_kind"].tolist() == [t.params["kind"] for t in study.trials]
    assert admin.info(reader.engine).version is None


class TestLeases:
    @pytest.fixture
    def engine(self, database_url: str) -> Iterator[sqlalchemy.Engine]:
        storage = open_database(database_url)
        optuna.create_study(study_name="s", storage=storage)
        yield storage.engine
        storage.engine.dispose()

    def test_one_that_is_not_renewed_runs_out(self, engine: sqlalchemy.Engine) -> None:
        with lease.lease(engine, 1) as first:
            with engine.begin() as connection:
                connection.execute(LEASES.update().values(machine="another", host="elsewhere"))
            with pytest.raises(StudyHeld, match="elsewhere"), lease.lease(engine, 1):
                pass
            with engine.begin() as connection:
                connection.execute(LEASES.update().values(renewed=LEASES.c.renewed - lease.EXPIRY))
            lost = pytest.raises(StudyHeld, match="taken this study over")
            with lease.lease(engine, 1), lost, engine.begin() as connection:
                first.check(connection)

    def test_a_holder_renews_it_in_the_background(self, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "RENEWAL", 0.05)

        def renewed() -> float:
            with engine.connect() as connection:
                return float(connection.execute(sqlalchemy.select(LEASES.c.renewed)).scalar_one())

        with lease.lease(engine, 1):
            before, deadline = renewed(), time.monotonic() + 10
            while renewed() == before and time.monotonic() < deadline:
                time.sleep(0.02)
            assert renewed() > before
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.select(LEASES)).all() == []

    def test_the_clock_is_the_databases(self, engine: sqlalchemy.Engine) -> None:
        from storage.clock import read

        with engine.connect() as connection:
            assert abs(read(connection) - time.time()) < 5


def _powerless(*arguments: str, folder: Path) -> str:
    """What the command says on standard error, or else prints, called by somebody who may write only where permissions let them."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("permissions do not bind root, and there is no setpriv")
        powers = "-dac_override,-dac_read_search"
        prefix = (setpriv, f"--inh-caps={powers}", f"--bounding-set={powers}")
    command = [*prefix, sys.executable, "-m", "sweeper", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    if done.stderr.startswith("setpriv:"):
        pytest.skip(done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr if done.returncode else done.stdout


def test_a_database_that_may_not_be_written_is_read_and_refused_in_a_clear_line(tiny: StudySpec, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    url = f"sqlite:///{archive / 'x y.db'}"
    sweeper.run_study(with_changes(tiny, trials=4), storage=url, runs=tmp_path, in_process=True).results.engine.dispose()
    (archive / "x y.db").chmod(0o444)
    archive.chmod(0o555)
    try:
        assert "4 of 4" in _powerless("list", "--storage", url, folder=tmp_path)
        assert not list(archive.glob("*-wal"))
        for command in ("resume tiny --trials 5", "extend tiny --trials 5", "storage delete tiny --yes"):
            said = _powerless(*command.split(), "--storage", url, folder=tmp_path)
            assert f"{archive} may not be written to; name another" in said
        archive.chmod(0o755)
        said = _powerless("resume", "tiny", "--trials", "5", "--storage", url, folder=tmp_path)
        assert f"{archive / 'x y.db'} may not be written to" in said
    finally:
        archive.chmod(0o755)
    nowhere = f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}"
    with pytest.raises(StorageUnavailable, match=r"there is no folder .*nowhere; make it"):
        open_database(nowhere)


def test_requests_reach_the_leader_in_their_order(tiny: StudySpec, tmp_path: Path, database_url: str) -> None:
    engine = open_database(database_url).engine
    study_id = optuna.create_study(study_name="other", storage=open_database(database_url))._study_id
    for request in (Request(requests.TRIALS, 30), Request(requests.STOP)):
        requests.ask(engine, study_id, request)
    first, second = requests.pending(engine, study_id)
    assert [(request.kind, request.value) for request in (first, second)] == [("trials", 30), ("stop", None)]
    with engine.begin() as connection:
        requests.remove(connection, [first])
    assert requests.pending(engine, study_id) == [second]


@pytest.mark.parametrize(("request_", "finished"), [(Request(requests.STOP), None), (Request(requests.TRIALS, 14), 14)])
def test_a_leader_does_what_it_is_asked(
    request_: Request, finished: int | None, tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.orchestrator.REQUEST_SECONDS", 0.0)
    url, asked = f"sqlite:///{tmp_path / 'x.db'}", []

    def ask_once(progress: object) -> None:
        if not asked:
            asked.append(request_)
            engine = open_database(url).engine
            requests.ask(engine, admin.study_id(engine, "tiny"), request_)

    result = sweeper.run_study(tiny, storage=url, runs=tmp_path, in_process=True, on_progress=ask_once)
    assert result.summary is not None
    assert result.summary.interrupted == (finished is None)
    assert requests.pending(result.results.engine, result.results.study._study_id) == []
    if finished:
        assert len(result.trials) == finished
        assert sweeper.open_results("tiny", url).spec.trials == finished
    else:
        assert (result.trials["state"] == "waiting").any()
        assert not (result.trials["state"] == "running").any()
        whole = sweeper.run_study(tiny, storage=url, runs=tmp_path, in_process=True)
        assert len(whole.trials) == 12


def test_a_request_to_stop_an_earlier_leader_does_not_stop_the_next(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    first = sweeper.run_study(with_changes(tiny, trials=4), storage=url, runs=tmp_path, in_process=True)
    requests.ask(first.results.engine, first.results.study._study_id, Request(requests.STOP))
    second = sweeper.run_study(with_changes(tiny, trials=6), storage=url, runs=tmp_path, in_process=True)
    assert second.summary is not None
    assert not second.summary.interrupted
    assert len(second.trials) == 6


def test_what_another_leader_finished_before_the_lease_changed_hands_stays(
    tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, real, seen = f"sqlite:///{tmp_path / 'x.db'}", lease.lease, []
    spec = with_changes(tiny, trials=6)

    def late(*arguments: Any, **options: Any) -> Any:
        if not seen:
            seen.append(None)
            seen[0] = sweeper.run_study(spec, storage=url, runs=tmp_path / "other", in_process=True).trials
        return real(*arguments, **options)

    monkeypatch.setattr("sweeper.running.lease", late)
    mine = sweeper.run_study(spec, storage=url, runs=tmp_path / "mine", in_process=True)
    assert mine.summary is None  # nothing was left to do
    pd.testing.assert_frame_equal(mine.trials, seen[0])


def test_a_running_study_can_be_looked_at_while_trials_are_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'x.db'}"))
    study = optuna.create_study(storage=storage, direction="maximize")
    study.tell(study.ask(), 0.5)
    known = queries._known

    def meanwhile(*arguments: Any) -> Any:
        trial = study.ask()
        trial.set_user_attr("new", 1)
        study.tell(trial, 0.7)
        return known(*arguments)

    monkeypatch.setattr(queries, "_known", meanwhile)
    assert queries.trials(storage.backend.engine, study._study_id).index.tolist() == [0]


def test_a_killed_leader_that_nobody_waited_for_leads_no_more(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    engine = open_database(url).engine
    optuna.create_study(study_name="s", storage=open_database(url))
    script = (
        "import sys, time; from storage.engine import open_database; from storage.lease import lease\n"
        "with lease(open_database(sys.argv[1]).engine, 1):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StudyHeld), lease.lease(engine, 1):
        pass
    process.kill()  # and not waited for: a zombie
    time.sleep(0.5)
    with lease.lease(engine, 1):
        pass
    process.communicate()


class TestCheckpointFiles:
    def test_a_file_is_read_only_if_it_is_what_was_written(self, tmp_path: Path) -> None:
        files = CheckpointFiles(tmp_path / "checkpoints")
        files.write(7, 0, 3, b"weights")
        files.close()
        ((written,), _) = files.written()
        assert (written.trial_id, written.epoch, written.bytes) == (7, 3, 7)
        assert files.read(written) == b"weights"
        (tmp_path / "checkpoints" / written.file).write_bytes(b"weighty")
        assert files.read(written) is None
        (tmp_path / "checkpoints" / written.file).unlink()
        assert files.read(written) is None

    def test_one_that_is_still_being_written_when_its_trial_is_requeued_is_not_recorded(
        self, tiny: StudySpec, tmp_path: Path
    ) -> None:
        storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'x.db'}"))
        study = optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
        trial = study.ask()
        ledger = Ledger(study, storage, tiny, tmp_path / "checkpoints")
        active = Active(trial._trial_id, Run(trial.number, Configuration(), 1, 8), Lane(0), False, 0.0)
        ledger.save(active, 5, b"of the life before")
        ledger.requeue(active.id)
        ledger.wait()
        ledger.settle()
        storage.flush()
        assert queries.checkpoints(storage.backend.engine, study._study_id) == []
        ledger.close()

    def test_one_that_reaches_a_slow_disk_after_the_end_is_removed(
        self, tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'x.db'}"))
        study = optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
        keeper = Keeper(storage, study._study_id, tmp_path / "checkpoints")
        quick, slow = (study.ask()._trial_id, 0), (study.ask()._trial_id, 0)
        keeper.save(quick, 5, b"in time")
        keeper.wait()
        keeper.settle()
        storage.flush()
        ending = threading.Event()
        monkeypatch.setattr("os.fsync", lambda descriptor: ending.wait())
        keeper.save(slow, 5, b"its run has ended by then")
        keeper.save(quick, 6, b"nothing comes after it to record it")
        keeper.forget(slow)
        threading.Timer(0.2, ending.set).start()
        keeper.close()
        (row,) = queries.checkpoints(storage.backend.engine, study._study_id)
        assert (row.trial_id, row.epoch) == (quick[0], 5)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [row.file]

    def test_what_is_not_needed_goes(self, tmp_path: Path) -> None:
        needed, old = "trial-1-0-epoch-3-00c0ffee.pt", "trial-1-0-epoch-2-00c0ffee.pt"
        for name in (needed, old, f".{old}", "somebody's.txt"):
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "trial-9-0-epoch-9-00c0ffee.pt").mkdir()
        assert CheckpointFiles(tmp_path).tidy({needed}) == 2
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {needed, "somebody's.txt", "trial-9-0-epoch-9-00c0ffee.pt"}

    def test_names_from_the_database_lead_nowhere_else(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious.txt"
        precious.write_text("mine")
        files = CheckpointFiles(tmp_path / "checkpoints")
        for name in (str(precious), "../precious.txt"):
            files.remove([name])
            assert files.read(Checkpoint(1, 0, 1, name, hashlib.sha256(b"mine").hexdigest(), 4)) is None
        files.close()
        assert precious.read_text() == "mine"
        with pytest.raises(ValueError, match="not the name of a folder"):
            checkpoint_folder(tmp_path, "s", str(tmp_path))


def test_a_stopped_study_is_copied_with_its_checkpoints(
    tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy and the original go on from the same epoch, each with its own files, in one folder of runs."""
    monkeypatch.setattr("sweeper.orchestrator.CHECKPOINT_SECONDS", 0.0)
    here, there = (f"sqlite:///{tmp_path / name}" for name in ("here.db", "there.db"))
    spec, stopping = with_changes(tiny, trials=4, pruner={"name": "none"}), []

    def stop_soon(progress: Any) -> None:
        if progress.epochs >= 8:
            stopping[0].request_stop()

    sweeper.run_study(spec, storage=here, runs=tmp_path, in_process=True, on_start=stopping.append, on_progress=stop_soon)
    monkeypatch.setattr("sys.argv", ["sweeper", "storage", "copy", here, there, "tiny", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "copied tiny, 4 trials" in capsys.readouterr().out
    for url in (there, here):
        whole = sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True)
        assert whole.results.counts()["complete"] == 4
        streams = queries.runs(whole.results.engine, whole.results.study._study_id)["stream"]
        assert [len(stream) for stream in streams] == [2] * 4, url
    assert len(list((tmp_path / "tiny" / "checkpoints").iterdir())) == 2


def test_a_copied_database_leaves_the_originals_checkpoints_alone(
    tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup makes two studies of one name and one folder of runs: each goes on from the same epoch."""
    monkeypatch.setattr("sweeper.orchestrator.CHECKPOINT_SECONDS", 0.0)
    url, copied = f"sqlite:///{tmp_path / 'x.db'}", f"sqlite:///{tmp_path / 'copied.db'}"
    spec, stopping = with_changes(tiny, trials=4, pruner={"name": "none"}), []

    def stop_soon(progress: Any) -> None:
        if progress.epochs >= 8:
            stopping[0].request_stop()

    sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True, on_start=stopping.append, on_progress=stop_soon)
    with closing(sqlite3.connect(tmp_path / "x.db")) as here, closing(sqlite3.connect(tmp_path / "copied.db")) as there:
        here.backup(there)
    for one in (copied, url):
        whole = sweeper.run_study(spec, storage=one, runs=tmp_path, in_process=True)
        streams = queries.runs(whole.results.engine, whole.results.study._study_id)["stream"]
        assert [len(stream) for stream in streams] == [2] * 4, one


def test_a_trial_that_plain_optuna_adds_while_a_study_is_led_is_trained_with_it(tiny: StudySpec, tmp_path: Path) -> None:
    url, added = f"sqlite:///{tmp_path / 'x.db'}", []

    def add(progress: Any) -> None:
        if not added:
            added.append(True)
            params = {"l1": 1e-4, "l2": 1e-4, "dropout": 0.1, "loss": "hinge"}
            optuna.load_study(study_name="tiny", storage=url).enqueue_trial(params)

    spec = with_changes(tiny, trials=20)
    sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True, on_progress=add)
    whole = sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True)
    assert added
    assert whole.trials.index.tolist() == list(range(len(whole.trials)))
    assert whole.trials["state"].isin(["complete", "pruned"]).all()
    assert ((whole.trials["l1"] == 1e-4) & (whole.trials["loss"] == "hinge")).sum() == 1
    assert [t.number for t in optuna.load_study(study_name="tiny", storage=url).trials] == whole.trials.index.tolist()
