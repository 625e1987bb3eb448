"""What notebooks and the command line call: load a study, run it, look at what it found.

from sweeper import load_study, run_study
result = run_study(load_study("digits"), trials=40)
result.best, result.trials, result.figures()["l2"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from storage.engine import DEFAULT_URL, open_to_read
from storage.engine import translated as storage_errors
from studies import loader
from studies.spec import StudySpec
from sweeper import overview
from sweeper.best_file import BestFile, read_best
from sweeper.devices import default_devices
from sweeper.errors import JobRefused, UsageError, WorkerError, translated
from sweeper.executors.base import Died, Executor
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.export import write_atomically
from sweeper.messages import Failure, Ready
from sweeper.overview import StudyRow
from sweeper.pool import POLL_SECONDS, most_slots
from sweeper.replay import Replay, train_again
from sweeper.results import Results
from sweeper.running import DEFAULT_RUNS, StudyResult, default_data_root, run_study, study_figures
from sweeper.search import make_job

__all__ = [
    "DEFAULT_RUNS",
    "StudyResult",
    "change_study",
    "default_data_root",
    "list_studies",
    "load_study",
    "open_results",
    "plan_study",
    "run_study",
    "study_figures",
    "train_best",
]


def load_study(name_or_path: str, settings: Sequence[str] = ()) -> StudySpec:
    """Return a ready study by its name, or the study in a TOML file, some values replaced: `["training.epochs=20"]`.

    Raises:
        StudyFileError: there is none, or it is wrong.
    """
    with translated():
        return loader.load_study(name_or_path, settings)


def change_study(spec: StudySpec, **changes: Any) -> StudySpec:
    """Return the study with top-level values replaced: `change_study(spec, trials=200, seed=1)`.

    Raises:
        StudyFileError: a value is not allowed.
    """
    with translated():
        return loader.with_changes(spec, **changes)


def plan_study(spec: StudySpec, *, devices: Sequence[str] | None = None, data_root: Path | None = None) -> Ready:
    """Load the data, build the network and measure the array, as the first worker of a run would; nothing is stored.

    Returns:
        What the worker says when it is ready: its plan, with what was measured and why, and its device.

    Raises:
        JobRefused: the data or the network is not as the study says.
        WorkerError: the worker failed.
    """
    chosen = list(devices) if devices else default_devices(spec.array.workers)
    job = make_job(spec, chosen[0], most_slots(spec.trials / len(chosen)), data_root=str(data_root or default_data_root()))
    with closing(LocalExecutor()) as executor:
        executor.start(0, job)
        while (received := executor.receive(POLL_SECONDS)) is None:
            pass
    match received[1]:
        case Ready() as ready:
            return ready
        case Failure(message, _, usage=True):
            raise JobRefused(message)
        case Failure(message):
            raise WorkerError(f"a worker on {chosen[0]}: {message}")
        case other:
            raise WorkerError(f"a worker on {chosen[0]} {other.reason if isinstance(other, Died) else 'said something else'}")


def train_best(
    file: BestFile | Path,
    *,
    seeds: int | None = None,
    final: bool = False,
    epochs: int | None = None,
    data: str | None = None,
    data_root: Path | None = None,
    device: str | None = None,
    in_process: bool = False,
    save: Path | None = None,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Replay:
    """Train an exported configuration again: as it was, with `seeds` others, or (`final`) on the validation images too.

    Args:
        file: the configuration, or the file that holds it.
        seeds: so many other seeds.
        final: train for good.
        epochs: instead of the file's.
        data: a data set instead of the file's, for instance `folder:PATH`.
        data_root: folder of downloaded data sets and caches; the user's cache folder if left out.
        device: `cpu` or `cuda:0`; a GPU if there is one, if left out.
        in_process: train in this process.
        save: where the network is written to, to be read by `load_model`.
        on_epoch: called after each epoch with its number and the number of all.

    Raises:
        BestFileError: the file is wrong.
        JobRefused: the data or the network is not as the file says.
        UsageError: more than one network would have to be saved.
        OutputError: the network cannot be written.
        WorkerError: training cannot go on.
    """
    best = file if isinstance(file, BestFile) else read_best(file)
    if save and ((seeds or 1) > 1 or (best.data.get("folds") and not (final or seeds))):
        raise UsageError("several networks are trained, none of them to be kept: train one for good, with --final, to save it")
    executor: Executor = InlineExecutor() if in_process else LocalExecutor()
    where, root = device or default_devices(1)[0], str(data_root or default_data_root())
    replay = train_again(
        best, executor, where, root, seeds=seeds, final=final, data=data, epochs=epochs, on_epoch=on_epoch
    )  # fmt: skip
    if save:
        from sweeper.training.saved import model_file

        write_atomically(save, model_file(replay.checkpoint, replay.model, replay.inputs))
    return replay


def open_results(name: str, storage: str = DEFAULT_URL) -> Results:
    """Return what a study found so far, without touching it.

    Raises:
        DatabaseError: there is no such database.
        NoSuchResult: it holds no study of this name.
    """
    with translated(), storage_errors(storage):
        return Results.load(name, open_to_read(storage))


def list_studies(storage: str = DEFAULT_URL) -> list[StudyRow]:
    """Return a row for each study in a storage, by name.

    Raises:
        DatabaseError: there is no such database.
    """
    with translated(), storage_errors(storage):
        return overview.list_studies(open_to_read(storage))
