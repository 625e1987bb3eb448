"""Events of a study: log records that say what happened to people, and carry the same as facts for machines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

LOGGERS = ("sweeper", "storage", "studies")
"""Whose records are ours."""

log = logging.getLogger(__name__)


def event(log: logging.Logger, name: str, message: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log an event by its name, in words, and with facts that JSON can hold."""
    log.log(level, "%s", message, extra={"event": name, "facts": facts})


class JsonLines(logging.Formatter):
    """A record as one JSON object: `time` (UTC), `level`, `event` ("message" for any other record), `message`, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _LinesFile(logging.FileHandler):
    """A file of lines; one that cannot be written, and a disk that is full, is told of once, and harms nothing."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the file is opened by the first record, which logging itself does not guard
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            error = sys.exc_info()[1]
            log.warning("%s: events cannot be written: %s", self.baseFilename, getattr(error, "strerror", None) or error)

    def close(self) -> None:
        with suppress(OSError):  # what a full disk did not take is tried again
            super().close()


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append our records to a file of JSON lines as long as this block lasts, once the folder exists: nothing is made before."""
    handler = _LinesFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(JsonLines())
    handler.setLevel(logging.INFO)
    handler.addFilter(lambda record: path.parent.is_dir())
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
