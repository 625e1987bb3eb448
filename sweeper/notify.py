"""Tells somebody that a study ended: a command, or a web address. Whatever goes wrong with it is a warning, and harms nothing."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import urllib.request
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit

from sweeper.errors import UsageError

COMMAND_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is told, as JSON: the study, its `outcome` (complete, stopped or failed), its trials by state, its best trial.

    `best_value` is by the study's `objective`, `best_validation_accuracy` of the same trial.
    """

    study: str
    outcome: str
    reason: str = ""
    trials: dict[str, int] = field(default_factory=dict)
    best_trial: int | None = None
    best_validation_accuracy: float | None = None
    best_value: float | None = None
    objective: str = "accuracy"


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told.

    Args:
        command: its words are taken apart as a shell does, but no shell runs it: `sh -c '…'` asks for one.
        webhook: an http or https address. It may hold a secret: it is never stored, logged or passed on.

    Raises:
        UsageError: one of them cannot be.
    """

    command: str | None = None
    webhook: str | None = None

    def __post_init__(self) -> None:
        if self.command is not None:
            try:
                words = shlex.split(self.command)
            except ValueError as error:
                raise UsageError(f"--on-end: {error}") from None
            if not words:
                raise UsageError("--on-end: write a command, for instance 'notify-send sweeper'")
        if self.webhook is not None and not _is_address(self.webhook):
            raise UsageError("--webhook: write an address that begins with https:// or http://")

    def tell(self, outcome: Outcome) -> None:
        """Tell the outcome: on the command's standard input and in SWEEPER_STUDY and SWEEPER_OUTCOME; as the body of a POST."""
        text = json.dumps(asdict(outcome), ensure_ascii=False)
        if self.command is not None:
            self._call(self.command, text, outcome)
        if self.webhook is not None:
            self._post(self.webhook, text)

    def _call(self, command: str, text: str, outcome: Outcome) -> None:
        hidden = {"SWEEPER_STORAGE", "SWEEPER_WEBHOOK"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"SWEEPER_STUDY": outcome.study, "SWEEPER_OUTCOME": outcome.outcome}
        try:
            done = subprocess.run(
                shlex.split(command), input=text, text=True, env=environment, timeout=COMMAND_SECONDS, check=False,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("the command of --on-end could not be run: %s", type(error).__name__)
        else:
            if done.returncode:
                log.warning("the command of --on-end ended with exit code %d", done.returncode)

    def _post(self, webhook: str, text: str) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(webhook, data=text.encode(), headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
                pass
        except HTTPError as error:
            log.warning("the webhook answered %d", error.code)
        except (OSError, ValueError, HTTPException) as error:
            log.warning("the webhook could not be reached: %s", type(error).__name__)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
