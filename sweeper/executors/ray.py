"""Runs each worker as a Ray actor, wherever in a cluster its resources are free. The only file that imports ray."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    TaskCancelledError,
    WorkerCrashedError,
)

from sweeper.errors import UsageError
from sweeper.executors.base import Died, Message
from sweeper.job import Job, JobError
from sweeper.messages import Failure, Orders

if TYPE_CHECKING:
    from ray import ObjectRef

    from sweeper.worker import Worker

CONNECT_SECONDS = 10.0
GONE = (
    RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError, TaskCancelledError, GetTimeoutError,
)  # fmt: skip
"""An actor, its node, or a report that lay in its node's memory is lost, or Ray has killed it because memory was short there."""


class RayExecutor:
    """Actors of a Ray cluster, which places them by its resources: a GPU each for `cuda`, otherwise a CPU.

    An actor that dies, with its node or alone, is not restarted by Ray: the orchestrator replaces it, as it does any worker.
    What it needs of the study travels through the orchestrator, so no disk need be shared; data sets are read on its node.

    Args:
        address: of the cluster, HOST:PORT; `auto` for the one that this machine belongs to, `local` to start one on it.

    Raises:
        UsageError: there is no cluster at this address.
    """

    def __init__(self, address: str) -> None:
        self._mine = not ray.is_initialized()
        if self._mine:
            terminated = signal.getsignal(signal.SIGTERM)
            try:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, terminated)  # Ray's would end the process without a word
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(f"--address {address}: no Ray cluster answers: {_first_line(error)}") from error
        self._actors: dict[int, ActorHandle[Any]] = {}
        self._expected: dict[ObjectRef[Any], int] = {}

    def devices(self, workers: int | None = None) -> list[str]:
        """Return the devices of so many workers, by default of one a GPU of the cluster, or a CPU where it has no GPU.

        More than there is room for wait until nodes join.
        """
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        return ["cuda:0" if gpus else "cpu"] * (workers or gpus or cpus or 1)

    def start(self, worker: int, job: Job) -> None:
        """Ask for an actor; its first message comes when Ray has placed it and it has loaded the data."""
        gpus = 1 if job.device.startswith("cuda") else 0
        on_its_own = ray.remote(num_gpus=gpus, num_cpus=0 if gpus else 1, max_restarts=0, max_task_retries=0)
        actor: Any = on_its_own(_Actor).remote()
        self._actors[worker] = actor
        # Of its node's GPUs an actor sees, as the first, the one that Ray gave it.
        self._expect(worker, actor.begin.remote(replace(job, device="cuda:0") if gpus else job))

    def send(self, worker: int, orders: Orders) -> None:
        """Send orders; that a worker is gone shows at `receive`."""
        self._expect(worker, self._actors[worker].step.remote(orders))

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        """Return the first message that is there, in the order of the workers."""
        if not self._expected:
            return None
        done, _ = ray.wait(list(self._expected), num_returns=1, timeout=timeout)
        if not done:
            return None
        worker = self._expected.pop(done[0])
        try:
            message: Message = ray.get(done[0])
        except GONE as error:
            self.kill(worker)  # where only its report is lost, it lives
            return worker, Died(f"gone from the cluster: {_first_line(error)}")
        except RayError as error:  # what the worker itself cannot say: it does not know the class of a message, its code is missing
            return worker, Failure(_first_line(error), traceback.format_exc())
        return worker, message

    def kill(self, worker: int) -> None:
        """Kill an actor."""
        ray.kill(self._actors[worker])
        self._forget(worker)

    def close(self) -> None:
        """Kill all actors, and leave the cluster if this executor joined it."""
        for worker in list(self._actors):
            self.kill(worker)
        if self._mine and ray.is_initialized():
            ray.shutdown()

    def _expect(self, worker: int, message: ObjectRef[Any]) -> None:
        self._expected[message] = worker

    def _forget(self, worker: int) -> None:
        self._actors.pop(worker, None)
        self._expected = {message: other for message, other in self._expected.items() if other != worker}


class _Actor:
    """A worker in a process of Ray's."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def begin(self, job: Job) -> Message:
        """Build the worker."""
        from sweeper.worker import Worker, tune_process

        try:
            tune_process(job.device)
            self._worker = Worker(job)
        except Exception as error:  # the boundary of the process: whatever it is, the orchestrator decides
            return _failure(error)
        return self._worker.ready

    def step(self, orders: Orders) -> Message:
        """Train an epoch."""
        assert self._worker is not None
        try:
            return self._worker.step(orders)
        except Exception as error:
            return _failure(error)


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself would try for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _failure(error: Exception) -> Failure:
    usage = isinstance(error, JobError)
    return Failure(str(error) if usage else f"{type(error).__name__}: {error}", traceback.format_exc(), usage=usage)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
