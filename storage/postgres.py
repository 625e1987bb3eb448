"""Connections to Postgres that do not wait for ever."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import event

CONNECT_OPTIONS = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000,
}  # fmt: skip
"""A machine that is gone without a word is noticed within half a minute; what the URL says instead, counts."""
WRITER_LIMITS = {"lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s"}
"""A writer that stands still must not hold a study's lease, or wait for one that does, longer than a lease lasts."""
SILENCE_SECONDS = 30.0
"""So long a server may say nothing at all in answer to a statement. One that is stopped, or whose disk hangs, keeps its
connections, and its machine goes on acknowledging: no option of the connection notices that."""


class Connection(psycopg.Connection[Any]):
    """A connection that is given up when its server has said nothing for `SILENCE_SECONDS`."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        """Wait for an answer; see the class.

        Raises:
            psycopg.OperationalError: there was none; the connection is closed.
        """
        return super().wait(self._watched(gen), *args, **options)

    def _watched(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Yield what to wait for, as psycopg's generators do; they are told every tenth of a second that there is nothing."""
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has said nothing for {SILENCE_SECONDS:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def watch(engine: sqlalchemy.Engine) -> None:
    """Let an engine connect by `Connection`."""

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> Connection:
        return Connection.connect(*args, **options)
