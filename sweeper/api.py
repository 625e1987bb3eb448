"""What notebooks and the command line call: load a study, run it, look at what it found.

from sweeper import load_study, run_study
result = run_study(load_study("digits"), trials=40)
result.best, result.trials, result.figures()["l2"]
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go

from storage.engine import open_database
from storage.lease import lease
from storage.trials import TrialStorage
from studies import loader
from studies.spec import StudySpec
from sweeper.devices import default_devices
from sweeper.errors import StudyChanged, translated
from sweeper.executors.base import Executor
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.export import BestFile, best_file, write_best
from sweeper.orchestrator import Orchestrator
from sweeper.progress import Progress, Summary
from sweeper.report.figures import accuracy_figures
from sweeper.report.page import write_report
from sweeper.results import ENVIRONMENT_ATTR, SPEC_ATTR, SUMMARY_ATTR, Results
from sweeper.trial import ArrayPlan

DEFAULT_STORAGE = "sqlite:///sweeper.db"
DEFAULT_RUNS = Path("runs")
PLANS_ATTR = "plans"


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
        """Return validation accuracy against each regularizer that was searched."""
        return accuracy_figures(self.results)


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
    storage: str = DEFAULT_STORAGE,
    runs: Path = DEFAULT_RUNS,
    devices: Sequence[str] | None = None,
    in_process: bool = False,
    take_over: bool = False,
    on_start: Callable[[Orchestrator], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
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
        on_start: called with the orchestrator before it works, for instance to stop it from a signal handler.
        on_progress: called after every epoch of every worker.
        changes: top-level values of the spec to replace, for instance `trials=200`.

    Raises:
        StudyChanged: a study of this name exists, with another search.
        StudyInUse: another process leads it.
        DatabaseError: the storage cannot be used.
        WorkerError: training cannot go on; nothing is lost, the same call continues.
    """
    spec = change_study(spec, **changes)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with translated():
        database = TrialStorage(open_database(storage))
        study = _open_study(spec, database)
        with lease(database.backend, study._study_id, take_over=take_over):
            summary = _lead(spec, study, database, devices, in_process, on_start, on_progress)
            results = Results(study)
    folder = runs / spec.name
    if results.counts()["complete"]:
        write_best(results, folder / "best.json")
    if len(results.trials):
        write_report(results, folder / "report.html")
    return StudyResult(results, summary, folder)


def open_results(name: str, storage: str = DEFAULT_STORAGE) -> Results:
    """Return what a study found so far, without touching it.

    Raises:
        DatabaseError: there is no such database.
        NoSuchResult: it holds no study of this name.
    """
    with translated():
        return Results.load(name, optuna.storages.get_storage(open_database(storage, must_exist=True)))


def _open_study(spec: StudySpec, database: TrialStorage) -> optuna.Study:
    study = optuna.create_study(study_name=spec.name, storage=database, direction="maximize", load_if_exists=True)
    stored = study.user_attrs.get(SPEC_ATTR)
    if stored is None and study.get_trials(deepcopy=False):
        raise StudyChanged(f"a study {spec.name!r} exists in this storage that sweeper did not make; give this one another name")
    differences = StudySpec.model_validate_json(stored).differences(spec) if stored else []
    if differences:
        raise StudyChanged(
            f"study {spec.name!r} exists with another search; give this one another name, or go back to:\n  "
            + "\n  ".join(differences)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["validation accuracy"])
    study.set_user_attr(SPEC_ATTR, spec.model_dump_json())
    return study


def _lead(
    spec: StudySpec,
    study: optuna.Study,
    database: TrialStorage,
    devices: Sequence[str] | None,
    in_process: bool,
    on_start: Callable[[Orchestrator], None] | None,
    on_progress: Callable[[Progress], None] | None,
) -> Summary | None:
    trials = study.get_trials(deepcopy=False)
    if len(trials) >= spec.trials and all(trial.state.is_finished() for trial in trials):
        return None
    executor: Executor = InlineExecutor() if in_process else LocalExecutor()
    workers = 1 if in_process else spec.array.workers
    chosen = list(devices) if devices else default_devices(workers)
    stored = study.user_attrs.get(PLANS_ATTR, {})
    plans = {int(worker): _plan(plan) for worker, plan in stored.items()}
    if any(spec.array.width not in (None, plan.width) for plan in plans.values()):
        plans = {}
    orchestrator = Orchestrator(spec, study, database, executor, chosen, plans, on_progress)
    if on_start:
        on_start(orchestrator)
    summary = orchestrator.run()
    study.set_user_attr(PLANS_ATTR, {str(worker): asdict(plan) for worker, plan in summary.plans.items()})
    study.set_user_attr(ENVIRONMENT_ATTR, {"versions": _versions()})
    study.set_user_attr(
        SUMMARY_ATTR,
        {
            "epochs": summary.progress.epochs,
            "seconds": summary.progress.seconds,
            "occupancy": summary.occupancy,
            "devices": list(summary.devices),
        },
    )
    return summary


def _plan(stored: dict[str, Any]) -> ArrayPlan:
    measured = {int(pack): seconds for pack, seconds in stored["measured"].items()}
    return ArrayPlan(stored["width"], stored["pack"], measured, stored["reason"])


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("sweeper", "torch", "optuna", "numpy", "scikit-learn")}
    return {"python": platform.python_version(), **packages}
