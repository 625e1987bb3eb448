"""`sweeper report` and `sweeper status` as people and scripts use them, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up import make_up_study

from studies.loader import load_study, with_changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of a study that is finished and one that is not."""
    folder = tmp_path_factory.mktemp("work")
    url = f"sqlite:///{folder}/sweeper.db"
    make_up_study(with_changes(load_study("digits"), trials=40), url)
    make_up_study(with_changes(load_study("digits"), name="half", trials=40), url, finished=20)
    return folder


def sweeper(*arguments: str, folder: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_report_writes_a_page_and_tables_where_it_is_told(folder: Path, tmp_path: Path) -> None:
    done = sweeper("report", "digits", "-o", str(tmp_path / "out"), "--format", "html,csv", folder=folder)
    written = [str(tmp_path / "out" / name) for name in ("report.html", "trials.csv", "epochs.csv")]
    assert done.stdout.splitlines() == written
    page = Path(written[0]).read_text()
    assert "best of 40 trials" in page
    assert "data-refresh" not in page.split("<head>")[0]


def test_report_without_options_goes_beside_the_other_files_and_works_while_a_study_runs(folder: Path) -> None:
    sweeper("report", "half", folder=folder)
    assert "Not finished: 20 of 40 trials have ended" in (folder / "runs" / "half" / "report.html").read_text()
    assert sweeper("report", "digits", "half", folder=folder).stdout.strip() == "runs/compared/report.html"
    assert "2 studies compared" in (folder / "runs" / "compared" / "report.html").read_text()


def test_watch_writes_a_page_that_is_read_again_until_it_is_stopped(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweeper", "report", "half", "--watch", "-o", str(tmp_path)]
    page = tmp_path / "report.html"
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline() == "half: 20 of 40 trials\n"
        assert 'data-refresh="10.0"' in page.read_text().split("<head>")[0]
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "data-refresh" not in page.read_text().split("<head>")[0]


def test_watching_what_is_finished_writes_once(folder: Path, tmp_path: Path) -> None:
    sweeper("report", "digits", "--watch", "--format", "csv", "-o", str(tmp_path), folder=folder)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "trials.csv", "epochs.csv"}


@pytest.mark.parametrize("columns", [40, 100])
def test_status_draws_within_the_terminal(folder: Path, columns: int) -> None:
    done = sweeper("status", "half", folder=folder, COLUMNS=str(columns))
    drawn = [line for line in done.stdout.splitlines() if "│" in line or "└" in line]
    assert max(map(len, drawn)) <= columns
    assert sum("└" in line for line in drawn) == 3  # a picture for each of λ₁, λ₂ and dropout
    one = sweeper("status", "half", "--against", "l2", folder=folder, COLUMNS=str(columns))
    assert sum("└" in line for line in one.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "digits", "--against", "l3"), "--against: l3 is not searched; searched are l1, l2, dropout"),
        (("report", "digits", "--format", "pdf"), "--format: found pdf (allowed: html, png, svg, csv, parquet)"),
        (("report", "nothing"), "no study 'nothing' in this storage; it holds: digits, half"),
        (("report", "digits", "-o", "/proc/nowhere"), "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    done = sweeper(*arguments, folder=folder, code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
