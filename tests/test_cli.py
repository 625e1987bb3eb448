"""The command line as people and scripts use it: in processes of its own, in an empty folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import optuna
import pytest
from typer.main import get_command

from storage.engine import open_to_read
from storage.tables import SCHEMA_VERSION
from sweeper.cli import app

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "best.schema.json").read_text())


def sweeper(*arguments: str, folder: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def trials_in(url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials as plain Optuna reads them."""
    storage = open_to_read(url)
    trials = optuna.load_study(study_name="tiny", storage=storage).trials
    storage.engine.dispose()
    return trials


def test_from_a_study_file_to_an_answer(tiny_file: Path, tmp_path: Path, database_url: str) -> None:
    def here(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return sweeper(*arguments, folder=tmp_path, code=code, SWEEPER_STORAGE=database_url)

    first = here("run", str(tiny_file))
    assert "12 trials" in first.stdout
    assert "no regularization, hinge" in first.stdout
    assert f"sweeper dashboard --storage {database_url.split('?', maxsplit=1)[0]}" in first.stdout.replace("'", "")
    assert (tmp_path / "runs" / "tiny" / "report.html").stat().st_size > 1_000_000
    best = json.loads((tmp_path / "runs" / "tiny" / "best.json").read_text())
    jsonschema.validate(best, SCHEMA)

    trials = trials_in(database_url)
    assert best["metrics"]["validation_accuracy"] == max(
        t.value for t in trials if t.value is not None and t.state.name == "COMPLETE"
    )
    assert best["hyperparameters"]["loss"] == trials[best["study"]["trial"]].params["loss"]

    again = here("run", str(tiny_file))
    assert "complete: 12 of 12 trials" in again.stdout

    more = here("run", str(tiny_file), "--trials", "14", "--json")
    jsonschema.validate(json.loads(more.stdout), SCHEMA)
    assert len(trials_in(database_url)) == 14

    (listed,) = json.loads(here("list", "--json").stdout)
    assert (listed["state"], listed["total"]) == ("complete", 14)
    assert listed["best"] == json.loads(here("status", "tiny", "--json").stdout)["best"]["validation_accuracy"]

    here("export", "tiny", "-o", "out/best.json")
    exported = json.loads((tmp_path / "out" / "best.json").read_text())
    assert exported == json.loads(here("export", str(tiny_file)).stdout)
    secrets = (str(tmp_path), os.uname().nodename, "sqlite", "postgres")
    assert not any(word in json.dumps(exported) for word in secrets)

    changed = here("run", str(tiny_file), "--seed", "3", code=2)
    assert "seed: 0 in the study, 3 now" in changed.stderr
    assert not (tmp_path / "sweeper.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "digts"), "did you mean digits?"),
        (("run", "wrong.toml"), "data.nam: unknown key; did you mean name?"),
        (("validate", "wrong.toml"), "wrong.toml: data.nam"),
        (("run", "digits", "--storage", "postgresql://u:secret@127.0.0.1:1/d"), "refused"),
        (("run", "digits", "--storage", "mongodb://u:secret@h/d"), "not supported"),
        (("export", "digits"), "there is no such file"),
        (("run", "digits", "--trials", "0"), "--trials"),
        (("run", "digits", "--devices", "gpu"), "write cpu, or devices like cuda:0"),
        (("run", "x" * 300), "neither a file nor a ready study"),
        (("run", "."), "cannot be read: Is a directory"),
        (("run", "cifar10-lenet", "--data", "cifar11"), "data.name: found 'cifar11'; did you mean cifar10?"),
        (("frobnicate",), "No such command"),
    ],
)
def test_a_mistake_is_one_clear_message_and_nothing_is_created(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text('name = "x"\ntrials = 1\n[data]\nnam = "digits"\n')
    done = sweeper(*arguments, folder=tmp_path, code=2)
    assert message in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.toml"]


def test_data_that_are_not_there_name_their_place(tmp_path: Path) -> None:
    options = ("--workers", "1", "--runs", str(tmp_path / "r"), "--data-root", str(tmp_path / "d"))
    done = sweeper(
        "run", "mnist-losses", *options, folder=tmp_path, code=2, HTTPS_PROXY="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1"
    )
    assert "put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz" in done.stderr
    assert str(tmp_path / "d" / "MNIST" / "raw") in done.stderr
    assert "Traceback" not in done.stderr
    missing = sweeper("run", "cifar10-l2", *options, "--data", "folder:nowhere", folder=tmp_path, code=2)
    assert "nowhere is not a folder" in missing.stderr


def test_a_database_is_looked_at_copied_and_emptied(tiny_file: Path, tmp_path: Path) -> None:
    sweeper("run", str(tiny_file), "--trials", "6", folder=tmp_path)
    info = json.loads(sweeper("storage", "info", "--json", folder=tmp_path).stdout)
    (study,) = info["studies"]
    assert (study["name"], study["led_by"], sum(study["trials"].values())) == ("tiny", None, 6)
    assert "tiny" in sweeper("storage", "info", folder=tmp_path).stdout
    sweeper("storage", "copy", "sqlite:///sweeper.db", "sqlite:///copy.db", "tiny", folder=tmp_path)
    assert "exists in the destination" in sweeper(
        "storage", "copy", "sqlite:///sweeper.db", "sqlite:///copy.db", "tiny", folder=tmp_path, code=2
    ).stderr  # fmt: skip
    mine, theirs = (
        sweeper("export", "tiny", "--storage", f"sqlite:///{name}.db", folder=tmp_path).stdout for name in ("sweeper", "copy")
    )
    assert mine == theirs
    sweeper("storage", "delete", "tiny", "--yes", folder=tmp_path)
    assert "it holds none" in sweeper("export", "tiny", folder=tmp_path, code=2).stderr
    assert "no study 'tiny'" in sweeper("storage", "delete", "tiny", folder=tmp_path, code=2).stderr
    copied = ("tiny", "--storage", "sqlite:///copy.db")
    assert "removed 0 files" in sweeper("storage", "prune-checkpoints", *copied, folder=tmp_path).stdout
    assert "nobody runs tiny" in sweeper("stop", *copied, folder=tmp_path).stdout
    assert f"version {SCHEMA_VERSION}" in sweeper("storage", "upgrade", folder=tmp_path).stdout


def test_files_that_cannot_be_written_are_told_before_the_work(tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert "cannot be made" in sweeper("run", str(tiny_file), folder=tmp_path, code=2).stderr
    (tmp_path / "runs").unlink()
    sweeper("run", str(tiny_file), "--trials", "4", folder=tmp_path)
    assert "cannot be written" in sweeper("export", "tiny", "-o", "runs", folder=tmp_path, code=2).stderr


def test_a_refused_call_leaves_the_study_as_it_is(tiny_file: Path, tmp_path: Path) -> None:
    sweeper("run", str(tiny_file), "--trials", "8", folder=tmp_path)
    lower = sweeper("run", str(tiny_file), "--trials", "2", folder=tmp_path)
    assert "complete: 8 of 8 trials" in lower.stdout
    assert f"sweeper run {tiny_file} --trials 16" in lower.stdout
    before = sweeper("export", "tiny", folder=tmp_path).stdout
    sweeper("run", str(tiny_file), "--seed", "9", folder=tmp_path, code=2)
    assert sweeper("export", "tiny", folder=tmp_path).stdout == before
    assert {"torch", "optuna", "sweeper", "python"} <= set(json.loads(before)["versions"])


def test_an_unknown_study_in_a_storage_lists_those_there_are(tmp_path: Path) -> None:
    optuna.create_study(study_name="other", storage=f"sqlite:///{tmp_path}/sweeper.db")
    assert "it holds: other" in sweeper("export", "digits", folder=tmp_path, code=2).stderr
    assert "not made by sweeper" in sweeper("export", "other", folder=tmp_path, code=2).stderr


def test_studies_and_validate_speak_json(tmp_path: Path) -> None:
    listed = json.loads(sweeper("studies", "--json", folder=tmp_path).stdout)
    assert "digits" in [study["name"] for study in listed]
    assert json.loads(sweeper("validate", "digits", "--json", folder=tmp_path).stdout)["trials"] == 120
    assert "the first 3 of them without regularization" in sweeper("validate", "digits", folder=tmp_path).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_soon_and_the_same_command_goes_on(number: int, tiny_file: Path, tmp_path: Path) -> None:
    text = tiny_file.read_text().replace("epochs = 4", "epochs = 40").replace("trials = 12", "trials = 60")
    tiny_file.write_text(text.replace('name = "successive_halving"', ""))
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", str(tiny_file)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _has_epochs(tmp_path / "sweeper.db"):
        time.sleep(0.1)
    begun = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert process.returncode == 130, out + err
    assert "go on with: sweeper run" in out
    assert "Traceback" not in err
    trials = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/sweeper.db").trials
    assert {t.state.name for t in trials} <= {"WAITING", "COMPLETE", "PRUNED"}
    waiting = [t.number for t in trials if t.state.name == "WAITING"]
    assert waiting
    sweeper("run", str(tiny_file), folder=tmp_path)
    finished = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/sweeper.db").trials
    assert [t.number for t in finished] == list(range(60))
    assert all(t.state.is_finished() for t in finished)


def test_a_second_run_of_a_led_study_is_told_who_leads_it(tiny_file: Path, tmp_path: Path) -> None:
    tiny_file.write_text(tiny_file.read_text().replace("epochs = 4", "epochs = 400").replace("trials = 12", "trials = 60"))
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", str(tiny_file)],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not _has_epochs(tmp_path / "sweeper.db"):
            time.sleep(0.1)
        assert f"led by process {process.pid}" in sweeper("run", str(tiny_file), folder=tmp_path, code=2).stderr
    finally:
        process.kill()
        process.wait()
    sweeper("run", str(tiny_file), "--trials", "60", folder=tmp_path)  # the killed one's lease is no obstacle


def _has_epochs(path: Path) -> bool:
    if not path.exists():
        return False
    import sqlite3

    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT COUNT(*) FROM trial_intermediate_values").fetchone()[0] > 0
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def commands() -> dict[str, Any]:
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found |= {f"{name} {inner}": it for inner, it in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example_and_stands_in_the_documentation(name: str) -> None:
    command = commands()[name]
    assert len(command.help) > 30
    assert f"Example: sweeper {name}" in command.epilog
    documentation = (Path(__file__).parent.parent / "docs" / "commands.md").read_text()
    assert f"sweeper {name}" in documentation
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert option in documentation, f"{name} {option}"


def test_validate_says_what_is_searched_and_refuses_what_cannot_be(tiny_file: Path, tmp_path: Path) -> None:
    settings = (
        "search.l2=[0, 1e-4]",
        "search.dropout={ low = 0.0, high = 0.6, step = 0.2 }",
        "search.label_smoothing={ low = 0.0, high = 0.3 }",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    said = sweeper(
        "validate", str(tiny_file), *options, "--set", "sampler.name=qmc", "--set", "pruner.patience=2", folder=tmp_path
    ).stdout
    for line in (
        "l1: 1e-06 … 0.01, log, below 2e-06 none",
        "l2: one of 0, 0.0001",
        "dropout: 0 … 0.6, in steps of 0.2",
        "label_smoothing: 0 … 0.3, linear, where a trial has it",
        "sampler: qmc",
        "pruning: 1 in 2 goes on at epochs 1, 2, but not before 2 epochs without a better value",
    ):
        assert line in said
    refused = sweeper("validate", str(tiny_file), "--set", "sampler.name=grid", folder=tmp_path, code=2)
    assert "sampler: grid needs values to count; give search.l1 a step, or a list" in refused.stderr
    grid = ("sampler.name=grid", "search.l1=0", "search.l2=[0, 1e-4]", "search.dropout=[0, 0.5]", "trials=99")
    refused = sweeper("validate", str(tiny_file), *[word for s in grid for word in ("--set", s)], folder=tmp_path, code=2)
    assert "trials: found 99, but the grid has 12 points, and 3 trials come before it; 15 are enough" in refused.stderr
