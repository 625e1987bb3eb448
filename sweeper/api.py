"""What notebooks and the command line call: load a study, run it, look at what it found.

from sweeper import load_study, run_study
result = run_study(load_study("digits"), trials=40)
result.best, result.trials, result.figures()["l2"]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import platformdirs
import plotly.graph_objects as go

from storage import admin
from storage.checkpoints import UID_ATTR, checkpoint_folder, new_uid
from storage.engine import DEFAULT_URL, open_database, open_to_read
from storage.engine import translated as storage_errors
from storage.lease import holder_of, lease
from storage.requests import STOP, Request, ask
from storage.retry import PATIENCE
from storage.trials import TrialStorage
from studies import loader
from studies.spec import StudySpec
from sweeper.devices import default_devices
from sweeper.errors import OutputError, StudyChanged, translated
from sweeper.executors.base import Executor
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.export import BestFile, best_file, write_best
from sweeper.orchestrator import Orchestrator
from sweeper.progress import Progress, Summary
from sweeper.report.dashboard import show_in_dashboard
from sweeper.report.figures import pictures
from sweeper.report.page import write_report
from sweeper.report.snapshot import take
from sweeper.results import SPEC_ATTR, SUMMARY_ATTR, Results

DEFAULT_RUNS = Path("runs")


def default_data_root() -> Path:
    """Return the folder in which downloaded data sets and caches lie unless another one is given."""
    return platformdirs.user_cache_path("sweeper") / "data"


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a call of `run_study` leaves: the results as stored, and what this call did (None if there was nothing to do)."""

    results: Results
    summary: Summary | None
    folder: Path

    @property
    def trials(self) -> Any:
        """A pandas frame, a row per trial; see `Results`."""
        return self.results.trials

    @property
    def best(self) -> BestFile:
        """The best configuration, as `best.json` holds it."""
        return best_file(self.results)

    def figures(self) -> dict[str, go.Figure]:
        """Return the figures of the report, by name: `accuracy-l2`, `losses`, `curves`, …; see `study_figures`."""
        return study_figures(self.results)


def load_study(name_or_path: str) -> StudySpec:
    """Return a ready study by its name, or the study in a TOML file.

    Raises:
        StudyFileError: there is none, or it is wrong.
    """
    with translated():
        return loader.load_study(name_or_path)


def change_study(spec: StudySpec, **changes: Any) -> StudySpec:
    """Return the study with top-level values replaced: `change_study(spec, trials=200, seed=1)`.

    Raises:
        StudyFileError: a value is not allowed.
    """
    with translated():
        return loader.with_changes(spec, **changes)


def run_study(
    spec: StudySpec,
    *,
    storage: str = DEFAULT_URL,
    runs: Path = DEFAULT_RUNS,
    devices: Sequence[str] | None = None,
    in_process: bool = False,
    take_over: bool = False,
    data_root: Path | None = None,
    patience: float = PATIENCE,
    durable: bool = False,
    on_start: Callable[[Orchestrator], None] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **changes: Any,
) -> StudyResult:
    """Run a study until its budget is met, continuing what there is of it, and write its report and its best configuration.

    Args:
        spec: the study.
        storage: a database URL.
        runs: folder for the files, which go into `runs / spec.name`.
        devices: one worker each; every GPU, or else one `cpu` a core, if left out.
        in_process: train in this process, with one worker.
        take_over: lead the study even if another process seems to.
        data_root: folder of downloaded data sets and caches; the user's cache folder if left out.
        patience: seconds for which a database that is busy, restarting or full is tried again.
        durable: let SQLite sync every transaction to the disk, against a loss of power too.
        on_start: called with the orchestrator before it works, for instance to stop it from a signal handler.
        on_progress: called after every epoch of every worker.
        changes: top-level values of the spec to replace, for instance `trials=200`.

    Raises:
        StudyChanged: a study of this name exists, with another search.
        StudyInUse: another process leads it.
        DatabaseError: the storage cannot be used.
        OutputError: the folder for the files cannot be made.
        JobRefused: the data or the network is not as the study says.
        WorkerError: training cannot go on; nothing is lost, the same call continues.
    """
    spec = change_study(spec, **changes)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = runs / spec.name
    chosen = list(devices) if devices else default_devices(1 if in_process else spec.array.workers)
    executor: Executor = InlineExecutor() if in_process else LocalExecutor(warm=len(chosen))
    summary = None
    with closing(executor), translated(), storage_errors(storage):
        database = TrialStorage(open_database(storage, durable=durable), patience)
        study = _open_study(spec, database)
        _make_folder(folder)
        with lease(database.backend.engine, study._study_id, take_over=take_over) as held, database.guarded(held.check):
            database.reload(study._study_id)
            study = _open_study(spec, database)
            spec = _settle_spec(spec, study)
            if _unfinished(spec, study):
                root = str(data_root or default_data_root())
                checkpoints = checkpoint_folder(runs, spec.name, study.user_attrs[UID_ATTR])
                orchestrator = Orchestrator(spec, study, database, executor, chosen, root, checkpoints, on_progress)
                if on_start:
                    on_start(orchestrator)
                summary = orchestrator.run()
                study.set_user_attr(SUMMARY_ATTR, _summary_as_stored(summary))
            results = database.patiently(lambda: Results(study, database.backend.engine))
            found = database.patiently(lambda: take(results))
            if summary:
                show_in_dashboard(study, found)
    if results.counts()["complete"]:
        write_best(results, folder / "best.json")
    if len(results.trials):
        write_report(found, folder / "report.html")
    return StudyResult(results, summary, folder)


def open_results(name: str, storage: str = DEFAULT_URL) -> Results:
    """Return what a study found so far, without touching it.

    Raises:
        DatabaseError: there is no such database.
        NoSuchResult: it holds no study of this name.
    """
    with translated(), storage_errors(storage):
        return Results.load(name, open_to_read(storage))


def study_figures(results: Results) -> dict[str, go.Figure]:
    """Return the figures of a study's report, by name.

    `accuracy-NAME` for each searched number, `losses`, `curves`, `surface-NAME-NAME`, `importances`, `parallel`,
    `history-epochs`, `history-time`, `pruning` and `timeline`, as far as the study has something to show in them.
    """
    return {picture.name: picture.figure for picture in pictures(take(results))}


def request_stop(name: str, storage: str = DEFAULT_URL) -> str | None:
    """Ask whoever leads a study to stop soon; return who that is, None if nobody does.

    Raises:
        DatabaseError: there is no such database.
        NoSuchResult: it holds no study of this name.
    """
    with translated(), storage_errors(storage):
        engine = open_to_read(storage).engine
        study_id = admin.study_id(engine, name)
        with engine.connect() as connection:
            holder = holder_of(connection, study_id)
        if holder:
            ask(open_database(storage).engine, study_id, Request(STOP))
        return holder


def _open_study(spec: StudySpec, database: TrialStorage) -> optuna.Study:
    """Return the study of this name, made if there is none, if this spec may go on with it."""
    study = optuna.create_study(study_name=spec.name, storage=database, direction="maximize", load_if_exists=True)
    stored = study.user_attrs.get(SPEC_ATTR)
    if not study.get_trials(deepcopy=False):
        return study
    if stored is None:
        raise StudyChanged(f"a study {spec.name!r} exists in this storage that sweeper did not make; give this one another name")
    differences = StudySpec.model_validate_json(stored).differences(spec)
    if differences:
        raise StudyChanged(
            f"study {spec.name!r} exists with another search; give this one another name, or go back to:\n  "
            + "\n  ".join(differences)
        )
    return study


def _settle_spec(spec: StudySpec, study: optuna.Study) -> StudySpec:
    """Store the spec, its budget at least the trials that there are, and how the study is to be shown."""
    spec = spec.model_copy(update={"trials": max(spec.trials, len(study.get_trials(deepcopy=False)))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["validation accuracy"])
    study.set_user_attr(SPEC_ATTR, spec.model_dump_json())
    if UID_ATTR not in study.user_attrs:
        study.set_user_attr(UID_ATTR, new_uid())
    return spec


def _unfinished(spec: StudySpec, study: optuna.Study) -> bool:
    trials = study.get_trials(deepcopy=False)
    return len(trials) < spec.trials or not all(trial.state.is_finished() for trial in trials)


def _make_folder(folder: Path) -> None:
    """Make the folder for a study's files before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _summary_as_stored(summary: Summary) -> dict[str, Any]:
    return {
        "epochs": summary.progress.epochs,
        "seconds": summary.progress.seconds,
        "occupancy": summary.occupancy,
        "devices": list(summary.devices),
    }
