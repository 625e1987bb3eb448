"""Runs each worker in a process of this machine, started afresh (spawn), spoken to over a pipe."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from sweeper.executors.base import Died, Message
from sweeper.job import Job
from sweeper.messages import Orders

GRACE_SECONDS = 0.5
"""What workers are given to end by themselves before they are killed."""

TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
"""The variable from which glibc takes its settings, `name=value:name=value`, and the one for huge pages."""

_environment = threading.Lock()
"""Held while the environment is not the user's."""


class LocalExecutor:
    """Worker processes. They end when their pipe does, so none outlives a killed orchestrator.

    Args:
        warm: so many processes are started at once and import torch while the caller opens its database.
    """

    def __init__(self, warm: int = 0) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._spare = [self._spawn() for _ in range(warm)]

    def start(self, worker: int, job: Job) -> None:
        """Give a job to a process; its first message comes when it has loaded torch and the data."""
        self._workers[worker] = self._spare.pop() if self._spare else self._spawn()
        with suppress(BrokenPipeError, ConnectionResetError):
            self._workers[worker][1].send(job)

    def _spawn(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_main, args=(theirs,), name="sweeper-worker", daemon=True)
        with huge_pages():
            process.start()
        theirs.close()
        return process, ours

    def send(self, worker: int, orders: Orders) -> None:
        """Send orders; that a worker is gone shows at `receive`."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._workers[worker][1].send(orders)

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        """Return the first message that is there, in the order of the workers."""
        by_pipe = {pipe: worker for worker, (_, pipe) in self._workers.items()}
        ready = wait(list(by_pipe), timeout)
        for pipe, worker in by_pipe.items():
            if pipe in ready:
                try:
                    return worker, pipe.recv()
                except (EOFError, OSError):  # the end, perhaps in the middle of a message
                    return worker, Died(self._bury(worker))
        return None

    def kill(self, worker: int) -> None:
        """Kill a worker's process."""
        process, pipe = self._workers.pop(worker)
        pipe.close()
        process.kill()
        process.join()

    def close(self) -> None:
        """Close the pipes, which ends idle workers, and kill those that are in the middle of an epoch."""
        everyone = [*self._workers.values(), *self._spare]
        for _, pipe in everyone:
            pipe.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for process, _ in everyone:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._workers.clear()
        self._spare.clear()

    def _bury(self, worker: int) -> str:
        process, pipe = self._workers.pop(worker)
        pipe.close()
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()
        code = process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


@contextmanager
def huge_pages() -> Iterator[None]:
    """Let processes that are started meanwhile ask the kernel for huge pages: glibc does, from 2.35 on, if told so at their start.

    A worker streams through tens of megabytes at every step; with small pages it keeps waiting for their addresses. What the
    user has told glibc about it stays.
    """
    with _environment:
        before = os.environ.get(TUNABLES)
        if HUGE_PAGES not in (before or ""):
            os.environ[TUNABLES] = ":".join(filter(None, [before, f"{HUGE_PAGES}=1"]))
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(TUNABLES, None)
            else:
                os.environ[TUNABLES] = before


def _main(pipe: Connection) -> None:
    """Serve one worker. Ctrl-C and SIGTERM are the orchestrator's to handle: they may reach the whole process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from sweeper.worker import serve

    def receive() -> Any:
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return None

    job: Job | None = receive()
    if job is None:
        return
    waiting: SimpleQueue[Orders | None] = SimpleQueue()

    def read() -> None:
        """Take orders from the pipe while a lane trains: were it full, the orchestrator would wait, and might for ever."""
        while (orders := receive()) is not None:
            waiting.put(orders)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # the orchestrator is gone; nobody is left to tell
        serve(job, waiting.get, pipe.send)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # at once: taking down torch and what it loaded takes time, and libraries complain of what is left over
