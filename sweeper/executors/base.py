"""The contract between the orchestrator and whatever runs its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sweeper.job import Job
from sweeper.messages import EpochReport, Failure, Orders, Ready


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone without a word; `reason` says how."""

    reason: str


Message = Ready | EpochReport | Failure | Died


class Executor(Protocol):
    """Runs workers, told apart by a number. A worker answers `Ready` first, then one report for each orders, in their order."""

    def start(self, worker: int, job: Job) -> None:
        """Start a worker, or replace one that is gone."""
        ...

    def send(self, worker: int, orders: Orders) -> None:
        """Give a worker its orders for the next epoch of one of its lanes; it obeys them after those that it was given before."""
        ...

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        """Return the next message of any worker, or None after `timeout` seconds without one; with 0, only what is there."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker at once; no message of it comes any more."""
        ...

    def close(self) -> None:
        """End all workers now."""
        ...
