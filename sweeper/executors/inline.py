"""Runs the workers in this very process: for tests, notebooks and debuggers."""

from __future__ import annotations

import traceback
from collections import deque
from typing import TYPE_CHECKING

from sweeper.executors.base import Message
from sweeper.job import Job, JobError
from sweeper.messages import Failure, Orders

if TYPE_CHECKING:
    from sweeper.worker import Worker


class InlineExecutor:
    """Workers of this process, which take turns: `receive` trains the epoch of the worker whose orders came first."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}
        self._messages: deque[tuple[int, Message]] = deque()
        self._orders: deque[tuple[int, Orders]] = deque()

    def start(self, worker: int, job: Job) -> None:
        """Build the worker; what it cannot do is its first message."""
        from sweeper.worker import Worker

        self.kill(worker)
        try:
            self._workers[worker] = Worker(job)
            self._messages.append((worker, self._workers[worker].ready))
        except ValueError as error:
            self._messages.append((worker, Failure(str(error), traceback.format_exc(), usage=isinstance(error, JobError))))

    def send(self, worker: int, orders: Orders) -> None:
        """Remember the orders until the worker's turn."""
        self._orders.append((worker, orders))

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        """Return a message, training an epoch for it if need be."""
        if self._messages:
            return self._messages.popleft()
        if not self._orders or not timeout:
            return None
        worker, orders = self._orders.popleft()
        try:
            return worker, self._workers[worker].step(orders)
        except JobError as error:
            return worker, Failure(str(error), traceback.format_exc(), usage=True)

    def kill(self, worker: int) -> None:
        """Forget a worker."""
        self._workers.pop(worker, None)
        self._orders = deque(order for order in self._orders if order[0] != worker)

    def close(self) -> None:
        """Forget the workers."""
        self._workers.clear()
        self._orders.clear()
