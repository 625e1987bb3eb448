"""Hooks tell of an end or a failure, give nothing away, and harm nothing when they fail."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from test_cli import sweeper

from sweeper.errors import UsageError
from sweeper.notify import Hooks, Outcome

OUTCOME = Outcome("tiny", "complete", trials={"complete": 3}, best_trial=2, best_validation_accuracy=0.9)


@pytest.fixture
def received() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server, and the bodies that were posted to it; it answers 500 to /broken."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_command_gets_the_outcome_without_a_shell_and_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE", "postgresql://me:hush@host/d")
    monkeypatch.setenv("SWEEPER_WEBHOOK", "https://host/hush")
    monkeypatch.chdir(tmp_path)
    Hooks("sh -c 'cat > told.json; env > environment'").tell(OUTCOME)
    assert json.loads(Path("told.json").read_text())["trials"] == {"complete": 3}
    environment = Path("environment").read_text()
    assert "SWEEPER_OUTCOME=complete" in environment
    assert "hush" not in environment
    Hooks("touch a ; touch b").tell(OUTCOME)  # words, not a shell's commands
    assert Path(";").exists()


def test_a_webhook_gets_the_outcome(received: tuple[str, list[bytes]]) -> None:
    address, bodies = received
    Hooks(webhook=f"{address}/hook").tell(OUTCOME)
    assert json.loads(bodies[0])["best_validation_accuracy"] == 0.9


def test_what_goes_wrong_is_a_warning_without_the_address(
    received: tuple[str, list[bytes]], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    address, _ = received
    with caplog.at_level(logging.WARNING, "sweeper"):
        Hooks("false", f"{address}/broken").tell(OUTCOME)
        Hooks("no-such-command-anywhere", "http://127.0.0.1:1/hush").tell(OUTCOME)
    assert [record.getMessage() for record in caplog.records] == [
        "the command of --on-end ended with exit code 1",
        "the webhook answered 500",
        "the command of --on-end could not be run: FileNotFoundError",
        "the webhook could not be reached: URLError",
    ]


@pytest.mark.parametrize(
    ("command", "webhook", "message"),
    [
        ("", None, "write a command"),
        ("a 'b", None, "No closing quotation"),
        (None, "ftp://x/y", "begins with https"),
        (None, "http://[", "begins"),
    ],
)
def test_hooks_that_cannot_be_are_refused(command: str | None, webhook: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Hooks(command, webhook)


def test_an_end_and_a_failure_are_told_and_a_broken_hook_harms_neither(tiny_file: Path, tmp_path: Path) -> None:
    hook = ("--on-end", "sh -c 'cat > told.json'")
    sweeper("run", str(tiny_file), "--trials", "4", *hook, folder=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["outcome"], sum(told["trials"].values())) == ("complete", 4)
    assert (
        told["best_validation_accuracy"]
        == json.loads(sweeper("export", "tiny", folder=tmp_path).stdout)["metrics"]["validation_accuracy"]
    )
    broken = sweeper("run", str(tiny_file), "--trials", "5", "--on-end", "false", folder=tmp_path)
    assert "exit code 1" in broken.stderr
    missing = ("--data", f"npz:{tmp_path / 'none.npz'}", "--set", "name=other", "--workers", "1")
    sweeper("run", str(tiny_file), *missing, *hook, folder=tmp_path, code=2)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["study"], told["outcome"]) == ("other", "failed")
    assert "none.npz" in told["reason"]
    log = (tmp_path / "runs" / "other" / "log.jsonl").read_text()
    assert '"event": "failed"' in log


def test_a_server_tells_of_each_study_that_it_has_run(tiny_file: Path, tmp_path: Path) -> None:
    hook = ("--on-end", "sh -c 'cat > told-$SWEEPER_STUDY.json'")
    sweeper("launch", str(tiny_file), "--trials", "4", folder=tmp_path)
    missing = ("--data", f"npz:{tmp_path / 'none.npz'}", "--set", "name=other")
    sweeper("launch", str(tiny_file), *missing, folder=tmp_path)
    sweeper("serve", "--once", "--workers", "1", *hook, folder=tmp_path)
    outcomes = {name: json.loads((tmp_path / f"told-{name}.json").read_text()) for name in ("tiny", "other")}
    assert (outcomes["tiny"]["outcome"], sum(outcomes["tiny"]["trials"].values())) == ("complete", 4)
    assert outcomes["other"]["outcome"] == "failed"
    assert "none.npz" in outcomes["other"]["reason"]
