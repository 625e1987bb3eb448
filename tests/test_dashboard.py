"""The dashboard over HTTP: it shows studies, also running ones, and changes nothing unless it may."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from wsgiref.simple_server import make_server

import optuna
import pytest
from helpers import TINY
from optuna_dashboard import get_note, save_note
from sqlalchemy.exc import DBAPIError
from test_cli import sweeper

from storage.engine import open_to_read
from studies.loader import with_changes
from studies.spec import StudySpec
from sweeper.api import run_study
from sweeper.dashboard import Guard, dashboard_app, is_loopback
from sweeper.opening import SIGNATURE


@contextmanager
def served(storage: str, *, write: bool = False) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, dashboard_app(storage, "127.0.0.1", write=write))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def run(spec: StudySpec, url: str, folder: Path, **changes: Any) -> None:
    run_study(spec, storage=url, runs=folder / "runs", in_process=True, **changes)


def test_it_shows_a_study_and_refuses_every_change(tiny: StudySpec, database_url: str, tmp_path: Path) -> None:
    run(tiny, database_url, tmp_path)
    with served(database_url) as address:
        for path in ("dashboard/", "api/studies", "api/studies/1", "api/studies/1/param_importances", "csv/1", "api/meta"):
            assert ask(f"{address}/{path}")[0] == 200, path
        study = json.loads(ask(f"{address}/api/studies/1")[1])
        assert len(study["trials"]) == 12
        assert {attr["key"] for attr in study["trials"][0]["user_attrs"]} >= {"baseline", "epochs", "validation_loss"}
        assert SIGNATURE in study["note"]["body"]
        changes = [
            ("DELETE", "api/studies/1", None),
            ("PUT", "api/studies/1/note", {"body": "mine", "version": 99}),
            ("POST", "api/studies/1/rename", {"study_name": "other"}),
            ("POST", "api/studies", {"study_name": "new", "directions": ["minimize"]}),
            ("POST", "api/trials/1/tell", {"state": "Fail"}),
        ]
        for method, path, body in changes:
            status, answer = ask(f"{address}/{path}", method, body)
            assert status == 403, path
            assert "read-only" in json.loads(answer)["reason"]
        assert json.loads(ask(f"{address}/api/studies/1")[1])["note"] == study["note"]


def test_a_database_that_is_opened_to_read_refuses_to_be_written(tiny: StudySpec, database_url: str, tmp_path: Path) -> None:
    """The second lock: what would get past the first one fails in the database."""
    run(tiny, database_url, tmp_path, trials=3)
    backend = open_to_read(database_url)
    with pytest.raises((DBAPIError, optuna.exceptions.StorageInternalError)):
        backend.delete_study(1)
    backend.remove_session()
    backend.engine.dispose()
    assert len(sweeper_list(database_url)) == 1


def sweeper_list(url: str) -> list[str]:
    storage = open_to_read(url)
    names = [study.study_name for study in storage.get_all_studies()]
    storage.remove_session()
    storage.engine.dispose()
    return names


def test_with_write_it_deletes_but_not_for_pages_of_other_sites(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'w.db'}"
    run(tiny, url, tmp_path, trials=3)
    with served(url, write=True) as address:
        assert ask(f"{address}/api/studies/1", "DELETE", Origin="https://evil.example")[0] == 403
        assert ask(f"{address}/api/studies/1", "DELETE", Origin="null")[0] == 403
        assert ask(f"{address}/api/studies", Host="evil.example")[0] == 403
        assert ask(f"{address}/api/studies/1")[0] == 200
        assert ask(f"{address}/api/studies/1", "DELETE", {}, Origin=address)[0] == 204
    assert sweeper_list(url) == []


@pytest.mark.parametrize(
    ("host", "ours"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)]
)
def test_loopback_is_told_from_the_rest(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours
    assert Guard(lambda environment, start: [], host, False)._is_ours("evil.example") is not ours


def test_the_note_holds_spec_and_answer_and_gives_way_to_somebody_elses(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'n.db'}"
    run(tiny, url, tmp_path, trials=4)
    study = optuna.load_study(study_name="tiny", storage=url)
    note = get_note(study)
    assert "- best      " in note
    spec = json.loads(note.split("```json")[1].split("```")[0])
    assert StudySpec.model_validate(spec) == with_changes(tiny, trials=4)
    save_note(study, "what I think of it")
    run(tiny, url, tmp_path, trials=5)
    assert get_note(optuna.load_study(study_name="tiny", storage=url)) == "what I think of it"


def test_an_address_that_is_taken_is_told(tiny: StudySpec, tmp_path: Path) -> None:
    run(tiny, f"sqlite:///{tmp_path / 'sweeper.db'}", tmp_path, trials=3)
    with served(f"sqlite:///{tmp_path / 'sweeper.db'}") as address:
        port = address.rsplit(":", 1)[1]
        assert f"--port {port}: Address already in use" in sweeper("dashboard", "--port", port, folder=tmp_path, code=2).stderr
    (tmp_path / "empty").mkdir()
    assert "there is no such file" in sweeper("dashboard", folder=tmp_path / "empty", code=2).stderr


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def trials_in_browser(address: str, profile: Path) -> int:
    """How many trials the list of trials of study 1 shows in a real browser."""
    assert BROWSER
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=15000 --window-size=1600,20000 --dump-dom"
    )
    done = subprocess.run(
        [BROWSER, *options.split(), f"--user-data-dir={profile}", f"{address}/dashboard/studies/1/trials"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return len(set(re.findall(r"Trial (\d+)", done.stdout)))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no browser here")
def test_a_browser_sees_a_running_study_grow_and_does_it_no_harm(tmp_path: Path) -> None:
    text = TINY.replace("min_epochs = 1\nreduction_factor = 2", "name = 'none'").replace("epochs = 4", "epochs = 60")
    (tmp_path / "tiny.toml").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", "tiny.toml", "--trials", "2000"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"sqlite:///{tmp_path / 'sweeper.db'}"
    try:
        deadline = time.monotonic() + 60
        log = tmp_path / "runs" / "tiny" / "log.jsonl"
        while time.monotonic() < deadline and not (log.exists() and "trial_complete" in log.read_text()):
            time.sleep(0.2)
        with served(url) as address:
            seen = [trials_in_browser(address, tmp_path / "profile")]
            while time.monotonic() < deadline + 120 and len(seen) < 6 and not seen[0] < seen[-1]:
                time.sleep(2)
                seen.append(trials_in_browser(address, tmp_path / "profile"))
            assert 0 < seen[0] < seen[-1]
            assert ask(f"{address}/api/studies/1", "DELETE")[0] == 403
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)
    states = {trial.state.name for trial in optuna.load_study(study_name="tiny", storage=url).trials}
    assert states <= {"COMPLETE", "WAITING"}
