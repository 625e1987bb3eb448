"""Patience with a database that is busy, restarting or full for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import optuna
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

PATIENCE = 60.0
"""Seconds for which a transaction is tried again before the database counts as gone."""
FINAL = (
    "readonly",
    "read-only",
    "password authentication",
    "does not exist",
    "permission denied",
    "not a database",
    "malformed",
    "no such table",
)
"""What waiting does not mend, in the words of SQLite and Postgres."""

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def is_transient(error: BaseException) -> bool:
    """Return whether an error may go away by itself: a lock, a lost connection, a restarting server, a full disk."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        return is_transient(error.__cause__)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | InterfaceError) and not any(words in str(error.orig) for words in FINAL)


def is_race(error: BaseException) -> bool:
    """Return whether an error comes of several processes that create the same tables, or of a server that is just starting."""
    words = ("locked", "already exists", "unique", "starting up", "shutting down")
    return isinstance(error, DBAPIError) and any(word in str(error.orig).lower() for word in words)


def patiently(
    action: Callable[[], Result], patience: float = PATIENCE, transient: Callable[[BaseException], bool] = is_transient
) -> Result:
    """Do something with a database, again and again while it fails for a passing reason, at most for `patience` seconds.

    The action must be one transaction that may be repeated; `transient` says which errors may pass.
    """
    retrying = Retrying(
        stop=stop_after_delay(patience),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        retry=retry_if_exception(transient),
        before_sleep=_tell,
        reraise=True,
    )
    return retrying(action)


def reason_of(error: BaseException) -> str:
    """Return the first line of what the driver says, without the statement that SQLAlchemy adds."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if state.attempt_number == 1 and error is not None:
        log.warning("the database does not answer as it should (%s); trying again", reason_of(error))
