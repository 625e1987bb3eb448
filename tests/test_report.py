"""What leaves a study: the report, the figures, the exported file, the Python API, and what optuna-dashboard shows."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from helpers import TINY

import sweeper
from storage.engine import parse_url
from studies.loader import parse_study, with_changes
from sweeper.best_file import BestFile
from sweeper.export import best_file, write_atomically
from sweeper.report.page import report_page
from sweeper.report.snapshot import take

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> sweeper.StudyResult:
    folder = tmp_path_factory.mktemp("study")
    spec = with_changes(parse_study(TINY, "tiny"), description="<script>alert('a & b')</script>")
    return sweeper.run_study(spec, storage=f"sqlite:///{folder}/sweeper.db", runs=folder / "runs", in_process=True, trials=16)


def test_the_python_api_gives_trials_best_and_figures(result: sweeper.StudyResult) -> None:
    assert isinstance(result.trials, pd.DataFrame)
    assert len(result.trials) == 16
    assert {"state", "value", "l1", "l2", "dropout", "loss", "baseline", "epochs"} <= set(result.trials.columns)
    assert result.trials["baseline"].sum() == 3
    assert (result.trials.loc[result.trials["baseline"], ["l1", "l2", "dropout"]] == 0).all(axis=None)
    assert result.best.metrics.validation_accuracy == result.trials.loc[result.trials["state"] == "complete", "value"].max()
    figures = result.figures()
    assert {"accuracy-l1", "accuracy-l2", "accuracy-dropout", "losses", "curves", "pruning", "timeline"} <= set(figures)
    assert all(isinstance(figure, go.Figure) for figure in figures.values())
    reopened = sweeper.open_results("tiny", result.results.study._storage.backend.engine.url.render_as_string())
    pd.testing.assert_frame_equal(reopened.trials, result.trials, check_like=True)


def test_a_study_without_a_complete_trial_has_no_answer_but_a_report(tmp_path: Path) -> None:
    spec = parse_study(TINY.replace("learning_rate = 1e-2", "learning_rate = 1e38"), "tiny")
    done = sweeper.run_study(spec, storage=f"sqlite:///{tmp_path}/s.db", runs=tmp_path / "runs", in_process=True, trials=2)
    with pytest.raises(sweeper.UsageError, match="no complete trial"):
        _ = done.best
    assert "No trial is complete yet" in (done.folder / "report.html").read_text()
    assert not (done.folder / "best.json").exists()


def test_the_report_is_self_contained_and_escapes_what_users_named(result: sweeper.StudyResult) -> None:
    page = report_page([take(result.results)])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("plotly.js v") == 1
    own = re.sub(r"<script>\s*/\*\*.*?</script>", "", page, flags=re.S)
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", own)
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', own, flags=re.S):
        assert "<" not in data
        json.loads(data)


def test_the_documented_schema_is_that_of_the_file(result: sweeper.StudyResult) -> None:
    assert json.loads((DOCS / "best.schema.json").read_text()) == BestFile.model_json_schema()
    file = best_file(result.results)
    assert BestFile.model_validate_json(file.model_dump_json()) == file
    assert file.metrics.baseline_validation_accuracy.keys() == {"cross_entropy", "mse", "hinge"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]


def test_optuna_dashboard_shows_the_study(database_url: str, tmp_path: Path) -> None:
    sweeper.run_study(parse_study(TINY, "tiny"), storage=database_url, runs=tmp_path, in_process=True)
    url = parse_url(database_url).render_as_string(hide_password=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "optuna-dashboard"), url, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def get(path: str) -> dict[str, object]:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                        body: dict[str, object] = json.load(answer)
                        return body
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.3)

        studies = get("/api/studies")["study_summaries"]
        assert isinstance(studies, list)
        study = get(f"/api/studies/{studies[0]['study_id']}")
        assert study["objective_names"] == ["validation accuracy"]
        trials = study["trials"]
        assert isinstance(trials, list)
        assert {trial["state"] for trial in trials} == {"Complete", "Pruned"}
        assert all({p["name"] for p in trial["params"]} == {"l1", "l2", "dropout", "loss"} for trial in trials)
        assert [v["step"] for v in trials[0]["intermediate_values"]] == [1, 2, 3, 4]
        drawn = study["plotly_graph_objects"]
        assert isinstance(drawn, list)
        assert {"accuracy-l1", "accuracy-l2", "accuracy-dropout", "losses"} == {figure["id"] for figure in drawn}
    finally:
        process.terminate()
        process.wait()
