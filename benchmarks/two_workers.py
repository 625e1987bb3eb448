"""What leading costs: a study's two workers against two arrays of the same plan that nobody leads.

    python benchmarks/two_workers.py [--repeat 3] [--seconds 20]

The same network, configurations and width on both sides, no pruning, so that every slot is always in use. Led: `run_study`, with
sampling, recording and the database; counted while the arrays are full. Unconnected: two
processes that train their arrays epoch after epoch. Prints epochs of trials trained in a second, and the ratio.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from studies.loader import load_study, with_changes
from studies.spec import StudySpec
from sweeper.api import run_study
from sweeper.job import ArrayPlan
from sweeper.messages import Orders
from sweeper.orchestrator import Orchestrator
from sweeper.progress import Progress
from sweeper.search import make_job, samples
from sweeper.trial import Run

WIDTH, WORKERS = 16, 2


def alone(spec: StudySpec, seconds: float, pipe: Connection) -> None:
    """Train an array that nobody leads, and tell its epochs of trials a second."""
    from sweeper.worker import Worker, tune_process

    tune_process("cpu")
    worker = Worker(make_job(spec, "cpu", WIDTH, ArrayPlan(WIDTH, WIDTH)))
    runs = tuple(Run(number, samples(spec)[number % len(samples(spec))], number, 10**9) for number in range(WIDTH))
    worker.step(Orders(start=runs))
    epochs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        epochs += len(worker.step(Orders()).results)
    pipe.send(epochs / (time.perf_counter() - begun))


def unconnected(spec: StudySpec, seconds: float) -> float:
    """Return the epochs of trials a second of two arrays together."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(WORKERS)]
    processes = [context.Process(target=alone, args=(spec, seconds, theirs)) for _, theirs in pipes]
    for process in processes:
        process.start()
    rates: list[float] = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    return sum(rates)


def led(spec: StudySpec, seconds: float) -> float:
    """Return the epochs of trials a second of a study while its arrays are full."""
    seen: list[tuple[float, int]] = []
    leading: list[Orchestrator] = []

    def watch(progress: Progress) -> None:
        if progress.busy == 1.0:
            seen.append((time.perf_counter(), progress.epochs))
        if seen and time.perf_counter() - seen[0][0] > seconds:
            leading[0].request_stop()

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/two.db"
        run_study(spec, storage=url, runs=Path(folder), devices=["cpu"] * WORKERS, on_start=leading.append, on_progress=watch)
    (begun, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / (ended - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    spec = with_changes(load_study("digits"), name="two", trials=100_000, pruner={"name": "none"}, array={"width": WIDTH})
    ratios = []
    for _ in range(options.repeat):
        apart, together = unconnected(spec, options.seconds), led(spec, options.seconds)
        ratios.append(together / apart)
        print(f"unconnected {apart:.0f} epochs/s, led {together:.0f} epochs/s: {together / apart:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
