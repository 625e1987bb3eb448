"""Where the time of a whole study goes: in the workers' epochs, or outside of them.

    python benchmarks/study_profile.py digits
    python benchmarks/study_profile.py mnist-l1-l2 --trials 12 --train-size 6400 --data-root DIR

Runs a ready study on every core and prints, of the time from a worker's first order to its last report, the share that it spent
in epochs (refilling included), and of the rest: how long the orchestrator proposed configurations, recorded and decided.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from sweeper import change_study, load_study, run_study
from sweeper.messages import EpochReport
from sweeper.orchestrator import Orchestrator
from sweeper.words import describe_plan


class Watched:
    """An executor whose messages are timed."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.busy: dict[int, float] = defaultdict(float)
        self.epochs: dict[int, int] = defaultdict(int)

    def send(self, worker: int, orders: Any) -> None:
        self.first.setdefault(worker, time.perf_counter())
        self._executor.send(worker, orders)

    def receive(self, timeout: float) -> Any:
        received = self._executor.receive(timeout)
        if received and isinstance(received[1], EpochReport):
            worker, report = received
            self.last[worker] = time.perf_counter()
            self.busy[worker] += report.seconds
            self.epochs[worker] += 1
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--train-size", type=int, help="images instead of the study's")
    parser.add_argument("--sampler", choices=["tpe", "random"])
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    spec = load_study(options.study)
    if options.train_size:
        spec = change_study(spec, data=spec.data.model_dump() | {"train_size": options.train_size})
    if options.sampler:
        spec = change_study(spec, sampler=spec.sampler.model_dump() | {"name": options.sampler})
    watched: list[Watched] = []

    def watch(orchestrator: Orchestrator) -> None:
        watched.append(Watched(orchestrator._pool._executor))
        orchestrator._pool._executor = watched[0]

    changes = {"trials": options.trials} if options.trials else {}
    with tempfile.TemporaryDirectory() as folder:
        result = run_study(
            spec,
            storage=f"sqlite:///{folder}/study.db",
            runs=Path(folder),
            data_root=options.data_root,
            on_start=watch,
            confirm=False,
            **changes,
        )
    summary, seen = result.summary, watched[0]
    assert summary is not None
    for worker, plan in summary.plans.items():
        wall = seen.last[worker] - seen.first[worker]
        print(f"worker {worker}: {describe_plan(plan)}")
        what, outside = "its lanes" if plan.lanes else "the array", 1 - seen.busy[worker] / wall
        print(f"  {seen.epochs[worker]} epochs of {what} in {wall:.2f} s, {outside:.1%} of it outside of them")
    whole = max(seen.last.values()) - min(seen.first.values())
    progress = summary.progress
    print(
        f"{progress.finished} trials, {progress.epochs} epochs of a trial in {whole:.2f} s: {progress.epochs / whole:.0f} epochs/s"
    )
    print(f"orchestrator: {summary.sampler_seconds:.2f} s proposing, {summary.recording_seconds:.2f} s recording and deciding")


if __name__ == "__main__":
    main()
