"""A study of ten thousand trials of a tiny network: what leading it costs beside the training, and whether memory stays flat.

    python benchmarks/ten_thousand.py [--trials 10000] [--storage URL] [--sampler random|tpe]

The network (64-16-10 on digits) is so small that the array trains an epoch of a trial in well under a millisecond: the hardest case
for whoever records it. Prints the memory of the orchestrator as it goes, then the share of the time that recording, pruning and
refilling took (the sampler's own time apart), and how long report and export take.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from studies.loader import load_study, with_changes
from sweeper.api import open_results, run_study
from sweeper.export import best_file
from sweeper.progress import Progress
from sweeper.report.page import report_page
from sweeper.report.snapshot import take


def megabytes() -> float:
    """Return the memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--storage")
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    options = parser.parse_args()
    digits = load_study("digits")
    spec = with_changes(
        digits,
        name="ten-thousand",
        trials=options.trials,
        model={"layers": ["dense 16", "dropout"]},
        training=digits.training.model_dump() | {"epochs": 18},
        sampler={"name": options.sampler},
        pruner={"name": "successive_halving", "min_epochs": 2, "reduction_factor": 3},
    )
    told = 0

    def watch(progress: Progress) -> None:
        nonlocal told
        if progress.finished >= told:
            told = progress.finished + options.trials // 8
            print(f"{progress.finished:6} trials, {progress.seconds:6.1f} s, {megabytes():5.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        url = options.storage or f"sqlite:///{folder}/ten-thousand.db"
        summary = run_study(spec, storage=url, runs=Path(folder), on_progress=watch, confirm=False).summary
        assert summary is not None
        seconds = summary.progress.seconds
        print(f"{summary.progress.epochs} epochs in {seconds:.1f} s: {summary.progress.epochs_per_second:.0f} a second")
        print(f"recording, pruning, refilling {summary.recording_seconds:.1f} s ({summary.recording_seconds / seconds:.1%})")
        print(f"sampler {summary.sampler_seconds:.1f} s ({summary.sampler_seconds / seconds:.1%})")
        begun = time.perf_counter()
        results = open_results(spec.name, url)
        opened = time.perf_counter()
        page = report_page([take(results)])
        drawn = time.perf_counter()
        best_file(results)
        print(f"opening {opened - begun:.1f} s, report {drawn - opened:.1f} s ({len(page) / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
