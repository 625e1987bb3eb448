"""The queue and its servers: order, failures that block nobody, stops, and two servers of which one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY
from test_cli import sweeper as in_shell

import sweeper
from storage import queue
from storage.engine import open_database
from storage.lease import lease
from studies.loader import with_changes
from studies.spec import StudySpec
from sweeper.api import list_studies
from sweeper.cli import main
from sweeper.errors import StudyFileError, StudyInUse
from sweeper.queueing import extend_study, launch_study, list_queue, request_stop
from sweeper.service import Server


def launched(spec: StudySpec, url: str, *names: str, **changes: Any) -> None:
    for name in names:
        launch_study(with_changes(spec, name=name, trials=4, **changes), url)


def server(url: str, folder: Path, **options: Any) -> Server:
    return Server(url, folder, in_process=True, **options)


def test_a_running_study_goes_on_with_more_trials_and_more_time(
    tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.orchestrator.REQUEST_SECONDS", 0.0)
    url, asked = f"sqlite:///{tmp_path / 'x.db'}", []

    def ask_once(progress: object) -> None:
        if not asked:
            asked.append(extend_study("tiny", url, trials=16, time="2h"))

    spec = with_changes(tiny, budget={"time": 3600})
    result = sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True, on_progress=ask_once)
    assert str(os.getpid()) in (asked[0].led_by or "")
    assert (len(result.trials), result.trials["state"].isin(["complete", "pruned"]).sum()) == (16, 16)
    stored = sweeper.open_results("tiny", url).spec
    assert (stored.trials, stored.budget.time) == (16, 7200.0)


def test_a_study_that_nobody_runs_keeps_what_was_asked_for_the_next_call(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    sweeper.run_study(tiny, storage=url, runs=tmp_path, in_process=True)
    found = extend_study("tiny", url, trials=14)
    assert (found.led_by, found.queued, found.spec.trials) == (None, False, 14)
    assert list_studies(url)[0].state == "unfinished"
    engine = open_database(url).engine
    with lease(engine, 1):  # a leader that has ended its search, and does not ask any more
        assert extend_study("tiny", url, trials=15).led_by
    result = sweeper.run_study(sweeper.open_results("tiny", url).spec, storage=url, runs=tmp_path, in_process=True)
    assert len(result.trials) == 15
    with lease(engine, 1):
        extend_study("tiny", url, trials=16)
    spec = with_changes(sweeper.open_results("tiny", url).spec, trials=17)
    assert len(sweeper.run_study(spec, storage=url, runs=tmp_path, in_process=True).trials) == 17, "no less than is asked for now"
    launched(tiny, url, "waiting")
    assert extend_study("waiting", url, trials=5).queued
    server(url, tmp_path).serve(once=True)
    assert len(sweeper.open_results("waiting", url).trials) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say how far: --trials N, --timeout TIME, or both"),
        (["--trials", "4"], "--trials 4: first has 4 trials already; say how many it should have in all"),
        (["--timeout", "2h"], "--timeout 2h: first has no time limit"),
        (["--timeout", "soon", "--trials", "9"], "a time is written as in '90s', '15min', '2h' or '1d'"),
    ],
)
def test_less_than_there_is_is_refused(options: list[str], message: str, tiny: StudySpec, tmp_path: Path) -> None:
    launched(tiny, f"sqlite:///{tmp_path / 'sweeper.db'}", "first")
    assert message in in_shell("extend", "first", *options, folder=tmp_path, code=2).stderr


def test_a_grid_is_not_extended_beyond_its_points(tiny: StudySpec, tmp_path: Path) -> None:
    """It could not be resumed any more."""
    url, search = f"sqlite:///{tmp_path / 'x.db'}", {"l2": [0.0, 1e-3, 1e-2], "loss": "mse"}
    launch_study(with_changes(tiny, trials=3, sampler={"name": "grid"}, search=search), url)
    with pytest.raises(StudyFileError, match="the grid has 3 points, and 1 trials come before it; 4 are enough"):
        extend_study("tiny", url, trials=5)
    assert extend_study("tiny", url, trials=4).spec.trials == 4


def test_the_command_line_extends_a_study(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sweeper.db'}"
    launch_study(with_changes(tiny, budget={"time": "1h"}), url)
    request_stop("tiny", url)
    said = in_shell("extend", "tiny", "--trials", "20", folder=tmp_path).stdout
    assert said == "tiny may go on up to: 20 trials, 1 h\nnobody runs it; go on with: sweeper resume tiny\n"
    with lease(open_database(url).engine, 1):
        found = json.loads(in_shell("extend", "tiny", "--timeout", "90min", "--json", folder=tmp_path).stdout)
    assert str(os.getpid()) in found.pop("asked")
    assert found == {"study": "tiny", "queued": False, "trials": 20, "seconds": 5400.0}


def test_studies_are_run_by_priority_then_age(tiny: StudySpec, tmp_path: Path) -> None:
    url, order = f"sqlite:///{tmp_path / 'x.db'}", []

    def noted(spec: StudySpec, **options: Any) -> sweeper.StudyResult:
        order.append(spec.name)
        return sweeper.run_study(spec, **options)

    launched(tiny, url, "first", "second")
    launch_study(with_changes(tiny, name="urgent", trials=4), url, priority=3)
    launch_study(with_changes(tiny, name="second", trials=4), url, priority=1)
    server(url, tmp_path, run=noted).serve(once=True)
    assert order == ["urgent", "second", "first"]
    assert list_queue(url) == []
    assert {row.name: row.state for row in list_studies(url)} == dict.fromkeys(order, "complete")
    assert (tmp_path / "urgent" / "report.html").exists()


def test_a_study_that_cannot_be_run_is_given_up_and_blocks_nobody(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    launched(tiny, url, "broken", data={"name": f"npz:{tmp_path / 'nothing.npz'}"})
    launched(tiny, url, "sound")
    server(url, tmp_path).serve(once=True)
    (left,) = list_queue(url)
    assert left.name == "broken"
    assert left.error is not None
    assert "nothing.npz" in left.error
    assert sweeper.open_results("sound", url).counts()["complete"] > 0
    launched(tiny, url, "broken", data={"name": f"npz:{tmp_path / 'nothing.npz'}"})  # another chance
    assert list_queue(url)[0].error is None


def test_a_study_that_is_asked_to_stop_leaves_the_queue_and_one_whose_server_ends_stays(tiny: StudySpec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    launched(tiny, url, "one")
    ending = server(url, tmp_path)
    ending._where["on_progress"] = lambda progress: ending.request_stop()
    ending.serve()
    assert [queued.name for queued in list_queue(url)] == ["one"]
    assert list_studies(url)[0].state == "unfinished"
    stopped = request_stop("one", url)
    assert (stopped.led_by, stopped.queued) == (None, True)
    server(url, tmp_path).serve(once=True)
    assert list_studies(url)[0].state == "unfinished"
    launched(tiny, url, "one")
    server(url, tmp_path).serve(once=True)
    assert list_studies(url)[0].state == "complete"


def test_what_is_being_run_cannot_be_launched(tiny: StudySpec, tmp_path: Path) -> None:
    url, refused = f"sqlite:///{tmp_path / 'x.db'}", []

    def launch_again(progress: object) -> None:
        if not refused:
            with pytest.raises(StudyInUse, match="is led by process"):
                launch_study(tiny, url)
            refused.append(True)

    sweeper.run_study(tiny, storage=url, runs=tmp_path, in_process=True, on_progress=launch_again)
    assert refused


def test_an_idle_server_takes_what_is_launched_later(tiny: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.service.POLL_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path / 'x.db'}"
    idle = server(url, tmp_path)
    working = threading.Thread(target=idle.serve)
    working.start()
    launched(tiny, url, "late")
    deadline = time.monotonic() + 60
    while list_queue(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    idle.request_stop()
    working.join(timeout=30)
    assert not working.is_alive()
    assert list_queue(url) == []


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["sweeper", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    assert "tiny is number 1 of 1 in the queue" in call("launch", "tiny.toml", "--trials", "4")
    assert json.loads(call("launch", "tiny.toml", "--trials", "4", "--json")) == {"study": "tiny", "place": 1, "queued": 1}
    assert "waits" in call("queue")
    (shown,) = json.loads(call("queue", "--json"))
    assert (shown["name"], shown["led_by"]) == ("tiny", None)
    call("serve", "--once", "--workers", "1", "--devices", "cpu")
    assert "the queue is empty" in call("queue")
    events = [json.loads(line)["event"] for line in (tmp_path / "runs" / "tiny" / "log.jsonl").read_text().splitlines()]
    assert (events[0], events[-1]) == ("start", "end")
    assert "complete" in call("list")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_servers_of_one_database_of_which_one_is_killed(tiny: StudySpec, tmp_path: Path, postgres_url: str) -> None:
    names = [f"study-{number}" for number in range(6)]
    for name in names:
        launch_study(with_changes(tiny, name=name, trials=40, training=tiny.training.model_dump() | {"epochs": 9}), postgres_url)
    serving = [sys.executable, "-m", "sweeper", "-v", "serve", "--storage", postgres_url, "--devices", "cpu", "--workers", "1"]
    logs = [(tmp_path / f"server-{number}.txt").open("w") for number in range(2)]
    servers = [
        subprocess.Popen([*serving, "--runs", str(tmp_path / str(number))], stderr=log, stdout=log, start_new_session=True)
        for number, log in enumerate(logs)
    ]
    engine = open_database(postgres_url).engine
    try:
        deadline = time.monotonic() + 200
        while not {f"process {servers[0].pid} " in (q.led_by or "") + " " for q in list_queue(postgres_url)} & {True}:
            assert time.monotonic() < deadline, (tmp_path / "server-0.txt").read_text()
            time.sleep(0.05)
        time.sleep(1.0)
        taken = next((q.name for q in list_queue(postgres_url) if f"process {servers[0].pid} " in (q.led_by or "")), None)
        os.killpg(servers[0].pid, signal.SIGKILL)
        servers[0].wait()
        while queue.listed(engine):
            assert time.monotonic() < deadline, (tmp_path / "server-1.txt").read_text()
            time.sleep(0.2)
        servers[1].send_signal(signal.SIGTERM)
        assert servers[1].wait(timeout=20) == 0, (tmp_path / "server-1.txt").read_text()
    finally:
        for one in servers:
            one.kill()
        for log in logs:
            log.close()
    assert taken is not None
    for row in list_studies(postgres_url):
        assert (row.name in names, row.state, sum(row.trials.values())) == (True, "complete", 40)
        calls = sweeper.open_results(row.name, postgres_url).study.user_attrs["calls"]
        assert calls <= 1 + (row.name == taken), (row.name, taken)
    engine.dispose()


@pytest.mark.parametrize("how", ["launched anew", "extended", "extended while it was still led"])
def test_what_is_asked_of_a_study_as_it_ends_is_done_before_it_leaves_the_queue(
    how: str, tiny: StudySpec, tmp_path: Path, database_url: str
) -> None:
    url, calls = database_url, []

    def run(spec: StudySpec, **options: Any) -> sweeper.StudyResult:
        result = sweeper.run_study(spec, **options)
        calls.append(len(result.trials))
        if len(calls) > 1:
            return result
        if how == "launched anew":
            launch_study(with_changes(tiny, name="ending", trials=6), url)
        elif how == "extended":
            assert extend_study("ending", url, trials=6).queued
        else:
            with lease(open_database(url).engine, 1):
                assert extend_study("ending", url, trials=6).led_by
        return result

    launched(tiny, url, "ending")
    Server(url, tmp_path, run, in_process=True).serve(once=True)
    assert calls == [4, 6]
    assert list_queue(url) == []


def test_a_study_that_is_stopped_as_a_server_takes_it_is_not_run(tiny: StudySpec, tmp_path: Path, database_url: str) -> None:
    """Between the look into the queue and the lease there is nobody to ask."""
    url = database_url

    def run(spec: StudySpec, **options: Any) -> sweeper.StudyResult:
        found = request_stop("taken", url)
        assert (found.led_by, found.queued) == (None, True)
        return sweeper.run_study(spec, **options)

    launched(tiny, url, "taken")
    Server(url, tmp_path, run, in_process=True).serve(once=True)
    assert list_queue(url) == []
    assert sweeper.open_results("taken", url).counts()["complete"] == 0


def test_a_server_has_as_many_workers_as_it_is_told(tiny: StudySpec, tmp_path: Path) -> None:
    url, workers = f"sqlite:///{tmp_path / 'x.db'}", []

    def run(spec: StudySpec, **options: Any) -> sweeper.StudyResult:
        result = sweeper.run_study(spec, **options)
        assert result.summary is not None
        workers.append(len(result.summary.devices))
        return result

    launched(tiny, url, "some", array={"width": 4, "workers": 2})
    Server(url, tmp_path, run, workers=1).serve(once=True)
    assert workers == [1]
    assert sweeper.open_results("some", url).spec.array.workers == 2, "another server has its own"


def test_an_address_that_is_none_ends_a_server_at_once(tmp_path: Path) -> None:
    assert "mysql is not supported" in in_shell("serve", "--storage", "mysql://x/y", folder=tmp_path, code=2).stderr


def test_a_stored_study_is_launched_by_its_name(tiny: StudySpec, tmp_path: Path) -> None:
    launched(tiny, f"sqlite:///{tmp_path / 'sweeper.db'}", "stopped")
    in_shell("stop", "stopped", folder=tmp_path)
    said = in_shell("launch", "stopped", "--trials", "9", folder=tmp_path).stdout
    assert said.startswith("stopped is number 1 of 1 in the queue")
    assert sweeper.open_results("stopped", f"sqlite:///{tmp_path / 'sweeper.db'}").spec.trials == 9
    assert "only --trials and --timeout" in in_shell("launch", "stopped", "--seed", "3", folder=tmp_path, code=2).stderr
    assert "no study 'stoped'" in in_shell("run", "stoped", folder=tmp_path, code=2).stderr
