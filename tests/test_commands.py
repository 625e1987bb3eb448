"""The commands that look at studies and at the machine, settings on the command line, and the file of events."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import TINY
from test_cli import sweeper

from studies.errors import SpecInvalid
from studies.loader import load_study, parse_study, ready_studies, with_changes
from studies.spec import StudySpec
from sweeper.api import run_study
from sweeper.commands.signals import stopped_by_signals
from sweeper.events import event, logged_to


@pytest.fixture
def done(tiny: StudySpec, tmp_path: Path) -> Path:
    """A folder with the tiny study, complete."""
    run_study(tiny, storage=f"sqlite:///{tmp_path / 'sweeper.db'}", runs=tmp_path / "runs", in_process=True)
    return tmp_path


def test_a_list_and_a_status_say_where_studies_stand(done: Path) -> None:
    (row,) = json.loads(sweeper("list", "--json", folder=done).stdout)
    assert (row["name"], row["state"], row["total"], row["led_by"]) == ("tiny", "complete", 12, None)
    best = json.loads(sweeper("export", "tiny", folder=done).stdout)
    status = json.loads(sweeper("status", "tiny", "--json", folder=done).stdout)
    assert status["study"] == row
    assert status["best"]["trial"] == best["study"]["trial"]
    assert status["best"]["validation_accuracy"] == row["best"] == best["metrics"]["validation_accuracy"]
    assert [baseline["configuration"]["loss"] for baseline in status["baselines"]] == ["cross_entropy", "mse", "hinge"]
    assert (status["pareto"], status["running"]) == ([], [])
    said = sweeper("status", "tiny", folder=done).stdout
    assert said.startswith("tiny: complete\ntrials    12 of 12: ")
    assert said.count("\nbaseline") == 3
    assert "12 of 12" in sweeper("list", folder=done).stdout
    assert "no study runs" in sweeper("status", folder=done).stdout
    assert "it holds: tiny" in sweeper("status", "tinny", folder=done, code=2).stderr


def test_a_stored_study_is_resumed_by_its_name(done: Path) -> None:
    best = json.loads(sweeper("resume", "tiny", "--trials", "14", "--json", folder=done).stdout)
    assert sum(best["study"]["trials"].values()) == 14
    assert json.loads(sweeper("status", "tiny", "--json", folder=done).stdout)["study"]["total"] == 14
    assert "it holds: tiny" in sweeper("resume", "digits", folder=done, code=2).stderr


def test_a_study_that_ended_early_says_why(tiny: StudySpec, tmp_path: Path) -> None:
    spec = with_changes(tiny, budget={"accuracy": 0.01})
    run_study(spec, storage=f"sqlite:///{tmp_path / 'sweeper.db'}", runs=tmp_path / "runs", in_process=True)
    (row,) = json.loads(sweeper("list", "--json", folder=tmp_path).stdout)
    assert row["state"] == "ended"
    assert row["ended"].startswith("its target is reached")
    assert sweeper("status", "tiny", folder=tmp_path).stdout.startswith("tiny: ended, its target is reached")


def test_a_stopped_study_says_what_waits_and_how_to_go_on_and_every_event_is_a_line(tmp_path: Path) -> None:
    changes = [f"--set={setting}" for setting in ("training.epochs=20000", "pruner.name=none", "name=slow")]
    (tmp_path / "tiny.toml").write_text(TINY)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", "tiny.toml", *changes, "--on-end", "touch told"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "runs" / "slow" / "log.jsonl"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (log.exists() and "trial_begun" in log.read_text()):
        time.sleep(0.1)
    (running,) = json.loads(sweeper("status", "--json", folder=tmp_path).stdout)
    assert running["study"]["state"] == "running"
    assert str(process.pid) in running["study"]["led_by"]
    assert {one["state"] for one in running["running"]} == {"running"}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "sweeper run tiny.toml --set training.epochs=20000 --set pruner.name=none --set name=slow" in out
    assert not (tmp_path / "told").exists()  # a stop is no end

    status = json.loads(sweeper("status", "slow", "--json", folder=tmp_path).stdout)
    assert status["study"]["state"] == "unfinished"
    assert [one["state"] for one in status["running"]] == ["waiting"] * 4
    assert "go on with: sweeper resume slow" in sweeper("status", "slow", folder=tmp_path).stdout
    events = [json.loads(line) for line in log.read_text().splitlines()]
    named = [event["event"] for event in events if event["event"] != "message"]  # a busy database is told of too
    assert named == ["start", "worker_ready", *["trial_begun"] * 4, "stopped"]
    assert all(event["time"].endswith("+00:00") and event["message"] for event in events)
    assert events[2]["loss"] == "cross_entropy"
    assert sweeper("logs", "slow", "--json", "-n", "3", folder=tmp_path).stdout == "".join(log.read_text().splitlines(True)[-3:])
    assert "worker 0 on" in sweeper("logs", "slow", folder=tmp_path).stdout
    assert "No such file" in sweeper("logs", "tiny", folder=tmp_path, code=2).stderr


def test_logs_follow_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "s" / "log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("")
    command = [sys.executable, "-m", "sweeper", "logs", "s", "--follow", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for number in range(2):
            with path.open("a") as file:
                file.write(f'{{"n": {number}}}\n')
            assert json.loads(process.stdout.readline()) == {"n": number}
        process.kill()


def test_quiet_says_nothing_and_verbose_says_every_event(tiny_file: Path, tmp_path: Path) -> None:
    quiet = sweeper("--quiet", "run", str(tiny_file), "--trials", "4", folder=tmp_path)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    verbose = sweeper("--verbose", "run", str(tiny_file), "--trials", "5", folder=tmp_path)
    assert "trial 4 begins on worker 0" in verbose.stderr
    assert "study tiny is complete: 5/5 trials" in verbose.stderr


def test_doctor_says_what_works_and_what_would_not(done: Path) -> None:
    checks = json.loads(sweeper("doctor", "--json", "--data-root", str(done / "d"), folder=done).stdout)
    assert all(check["state"] in ("ok", "warn") for check in checks)
    by_name = {check["name"]: check["text"] for check in checks}
    assert set(by_name) >= {"python", "packages", "devices", "memory", "data", "storage", "runs"}
    assert "sqlite:///sweeper.db: 1 studies, 0 of them run now" in by_name["storage"]
    assert "torch" in by_name["packages"]
    (done / "file").write_text("")
    broken = ("--runs", "file", "--storage", "postgresql://me:secret@127.0.0.1:1/x")
    said = sweeper("doctor", *broken, folder=done, code=1)
    assert "secret" not in said.stdout + said.stderr
    assert "file is not a folder" in said.stdout
    assert "127.0.0.1:1/x" in said.stdout
    assert not (done / "d").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.epochs=20", 20),
        ("training.optimizer=sgd", "sgd"),
        ("training.schedule={ name = 'cosine', minimum = 1e-5 }", None),
        ("trials = 7", 7),
        ("search.loss=0.3 mse + 0.7 hinge", "0.3 mse + 0.7 hinge"),
        ("search.l1.high=1e-3", 1e-3),
        ("data.label_noise=0.1", 0.1),
    ],
)
def test_a_setting_replaces_one_value(setting: str, value: object) -> None:
    spec = parse_study(TINY, "tiny", [setting])
    found: object = spec
    for part in setting.split("=", maxsplit=1)[0].strip().split("."):
        found = getattr(found, part)
    assert found == value or value is None
    assert spec != parse_study(TINY, "tiny")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=20", "training.epoch: unknown key; did you mean epochs?"),
        ("training.epochs=many", "training.epochs: found 'many': input should be a valid integer"),
        ("training.epochs", "write KEY=VALUE, for instance training.epochs=20"),
        ("trials.x=1", "trials.x: trials is 12 in the file, not a table; set it as a whole"),
        ("search.l1={low=1", "search.l1: '{low=1' is not a value of TOML"),
        (".epochs=1", "write KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_told_by_its_key(setting: str, message: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse_study(TINY, "tiny", [setting])
    assert message in str(caught.value)


def test_ready_studies_are_found_by_the_names_they_give_themselves() -> None:
    for name, spec in ready_studies().items():
        assert load_study(name, ["seed=5"]) == spec.model_copy(update={"seed": 5})


def test_no_secret_of_a_storage_is_in_files_or_notes(tiny: StudySpec, postgres_server: str, tmp_path: Path) -> None:
    url = postgres_server.replace("postgres:@", "postgres:hush-hush@")
    if "hush-hush" not in url:
        pytest.skip("this server's URL has no place for a password")
    changed = tmp_path / "t.toml"
    changed.write_text(TINY.replace('"tiny"', f'"s{os.getpid()}"').replace("trials = 12", "trials = 4"))
    sweeper("--verbose", "run", str(changed), folder=tmp_path, SWEEPER_STORAGE=url)
    for path in (tmp_path / "runs").rglob("*"):
        assert path.is_dir() or b"hush-hush" not in path.read_bytes(), path


def test_a_signal_that_comes_between_two_works_stops_the_next() -> None:
    class Work:
        stopped = 0

        def request_stop(self) -> None:
            self.stopped += 1

    search, confirmation = Work(), Work()
    with stopped_by_signals() as on_start:
        on_start(search)
        signal.raise_signal(signal.SIGTERM)
        on_start(confirmation)
        assert (search.stopped, confirmation.stopped) == (1, 1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_events_that_cannot_be_written_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").mkdir()
    log = logging.getLogger("sweeper.test")
    with caplog.at_level(logging.INFO, "sweeper"), logged_to(tmp_path / "log.jsonl"):
        for i in range(3):
            event(log, "something", f"event {i}")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{tmp_path / 'log.jsonl'}: events cannot be written: Is a directory"
    ]
    assert "Traceback" not in capsys.readouterr().err
    caplog.clear()
    with caplog.at_level(logging.INFO, "sweeper"), logged_to(Path("/dev/full")):
        event(log, "something", "on a full disk")
    assert "No space left on device" in caplog.text


def test_a_command_to_go_on_with_says_where_it_was_called_to_train(tiny_file: Path, tmp_path: Path) -> None:
    shown = sweeper("run", str(tiny_file), "--width", "2", "--workers", "1", "--devices", "cpu", folder=tmp_path).stdout
    assert "--devices cpu --workers 1 --width 2" in shown
