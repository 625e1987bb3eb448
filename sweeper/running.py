"""Runs a study: searches, confirms its answer, writes its report and its best configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import platformdirs
import plotly.graph_objects as go

from storage.checkpoints import UID_ATTR
from storage.engine import DEFAULT_URL, open_database
from storage.engine import translated as storage_errors
from storage.lease import lease
from storage.retry import PATIENCE
from storage.trials import TrialStorage
from studies import loader
from studies.spec import StudySpec
from sweeper.answer import ANSWER
from sweeper.best_file import BestFile
from sweeper.confirm import Confirmer, is_due
from sweeper.errors import OutputError, SweeperError, translated
from sweeper.events import event
from sweeper.executors.choice import choose_executor
from sweeper.export import best_file, write_best
from sweeper.opening import begun_warm, open_study, own_checkpoints, set_aside, settle_spec, take_in_requests, write_note
from sweeper.orchestrator import Orchestrator
from sweeper.pool import WorkerPool
from sweeper.progress import Progress, Stoppable, Summary
from sweeper.report.dashboard import show_in_dashboard
from sweeper.report.figures import pictures
from sweeper.report.page import write_report
from sweeper.report.snapshot import Snapshot, take
from sweeper.results import PLANS_ATTR, SUMMARY_ATTR, Results
from sweeper.sampler import check_sampler
from sweeper.words import describe_progress

DEFAULT_RUNS = Path("runs")


log = logging.getLogger(__name__)


def default_data_root() -> Path:
    """Return the folder in which downloaded data sets and caches lie unless another one is given."""
    return platformdirs.user_cache_path("sweeper") / "data"


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a call of `run_study` leaves: the results as stored, and what the search of this call did (None if nothing).

    `interrupted`: a stop was requested before the search and its confirmation were finished. `confirmed`: this call finished a
    confirmation.
    """

    results: Results
    summary: Summary | None
    folder: Path
    interrupted: bool = False
    confirmed: bool = False

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


def run_study(
    spec: StudySpec,
    *,
    storage: str = DEFAULT_URL,
    runs: Path = DEFAULT_RUNS,
    devices: Sequence[str] | None = None,
    workers: int | None = None,
    in_process: bool = False,
    cluster: str | None = None,
    take_over: bool = False,
    data_root: Path | None = None,
    patience: float = PATIENCE,
    durable: bool = False,
    on_start: Callable[[Stoppable], None] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    search: bool = True,
    confirm: bool | None = None,
    purpose: str = ANSWER,
    **changes: Any,
) -> StudyResult:
    """Run a study until its budget is met, continuing what there is of it; confirm its answer; write its report and best.json.

    Args:
        spec: the study.
        storage: a database URL.
        runs: folder for the files, which go into `runs / spec.name`.
        devices: one worker each; every GPU, or else one `cpu` a core, if left out.
        workers: how many, whatever the study says, where `devices` does not say it.
        in_process: train in this process, with one worker.
        cluster: address of a Ray cluster to place the workers on (`auto`: the one of this machine); needs `sweeper[ray]`.
        take_over: lead the study even if another process seems to.
        data_root: folder of downloaded data sets and caches; the user's cache folder if left out.
        patience: seconds for which a database that is busy, restarting or full is tried again.
        durable: let SQLite sync every transaction to the disk, against a loss of power too.
        on_start: called with whoever works next, for instance to stop it from a signal handler.
        on_progress: called after every epoch of every worker, once for those that end together.
        search: train what the budget allows; if not, the study stays as it is, unfinished trials too.
        confirm: confirm the answer, again if need be; None: if it is not confirmed yet and the study does not say `top = 0`.
        purpose: what is confirmed: the answer, or `loss` or `penalty`: the best trial of each, to compare them.
        changes: top-level values of the spec to replace, for instance `trials=200`.

    Raises:
        StudyChanged: a study of this name exists, with another search.
        StudyInUse: another process leads it.
        DatabaseError: the storage cannot be used.
        OutputError: the folder for the files cannot be made.
        JobRefused: the data or the network is not as the study says.
        WorkerError: training cannot go on; nothing is lost, the same call continues.
    """
    with translated():
        spec = loader.with_changes(spec, **changes)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = runs / spec.name
    executor, chosen = choose_executor(spec, devices, in_process, cluster, workers)
    summary = None
    with ExitStack() as executors, translated(), storage_errors(storage):
        executors.enter_context(closing(executor))
        check_sampler(spec)
        database = TrialStorage(open_database(storage, durable=durable), patience)
        _make_folder(folder)
        spec = begun_warm(spec, database)
        study = open_study(spec, database)
        with lease(database.backend.engine, study._study_id, take_over=take_over) as held, database.guarded(held.check, held.since):
            database.reload(study._study_id)
            study = open_study(spec, database)
            root, pool, interrupted, confirmed = str(data_root or default_data_root()), None, False, False
            if search:
                spec = settle_spec(take_in_requests(spec, study, database), study)
                write_note(study, spec)
            if search and _unfinished(spec, study):
                checkpoints = own_checkpoints(study, database, runs)
                orchestrator = Orchestrator(
                    spec, study, database, executor, chosen, root, checkpoints, on_progress, keep_workers=True
                )
                if on_start:
                    on_start(orchestrator)
                summary = _run(orchestrator, spec, chosen)
                study.set_user_attr(SUMMARY_ATTR, _summary_as_stored(summary))
                pool, interrupted = orchestrator.pool, summary.interrupted
            results = database.patiently(lambda: Results(study, database.backend.engine))
            if not interrupted and (is_due(results, spec.confirm) if confirm is None else confirm):
                if pool and pool.closed:  # the budget ended the search, and its executor is closed too
                    executor, chosen = choose_executor(spec, devices, in_process, cluster, workers)
                    executors.enter_context(closing(executor))
                if not pool or pool.closed:
                    pool = WorkerPool(spec, executor, chosen, root, study.user_attrs.get(PLANS_ATTR, {}))
                checkpoints = own_checkpoints(study, database, runs)
                confirmer = Confirmer(spec, study, database, pool, checkpoints, on_progress, purpose)
                if on_start:
                    on_start(confirmer)
                interrupted = not (confirmed := _confirm(confirmer, spec, purpose))
                results = database.patiently(lambda: Results(study, database.backend.engine))
            write_note(study, results.spec, results)
            uid = study.user_attrs.get(UID_ATTR)
            found = database.patiently(lambda: take(results))
            if summary or confirmed:
                show_in_dashboard(study, found)
    if uid:
        set_aside(folder, uid)
    _write_files(results, found, folder)
    return StudyResult(results, summary, folder, interrupted, confirmed)


def study_figures(results: Results) -> dict[str, go.Figure]:
    """Return the figures of a study's report, by name.

    `accuracy-NAME` for each searched number (`macro-f1-NAME` where the study is after that), `losses`, `curves`,
    `surface-NAME-NAME`, `importances`, `parallel`, `history-epochs`, `history-time`, `pruning` and `timeline`, as far as the study
    has something to show in them.
    """
    return {picture.name: picture.figure for picture in pictures(take(results))}


def _write_files(results: Results, found: Snapshot, folder: Path) -> None:
    if results.counts()["complete"]:
        write_best(results, folder / "best.json")
    if len(results.trials):
        write_report(found, folder / "report.html")


@contextmanager
def _failure_told(spec: StudySpec) -> Iterator[None]:
    """Say why a study failed, if it does."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, SweeperError) else type(error).__name__  # drivers say more than a log should hold
        event(log, "failed", f"study {spec.name} failed: {reason}", level=logging.ERROR, study=spec.name, reason=reason)
        raise


def _confirm(confirmer: Confirmer, spec: StudySpec, purpose: str) -> bool:
    """Let the confirmation work, and say when it begins and how it ends; return whether it is finished."""
    said = f"the answer of study {spec.name} is being confirmed, over fresh seeds"
    event(log, "confirm", said, study=spec.name, purpose=purpose)
    with _failure_told(spec):
        finished = confirmer.run()
    said = "is finished" if finished else "is stopped; the next call goes on with it"
    event(log, "confirm_end", f"the confirmation of study {spec.name} {said}", study=spec.name, finished=finished)
    return finished


def _run(orchestrator: Orchestrator, spec: StudySpec, devices: Sequence[str]) -> Summary:
    """Let the orchestrator work, and say when it begins and how it ends."""
    said = f"study {spec.name} begins, or goes on, with {len(devices)} workers"
    event(log, "start", said, study=spec.name, trials=spec.trials, seed=spec.seed, devices=list(devices))
    with _failure_told(spec):
        summary = orchestrator.run()
    name, word = ("stopped", "is stopped") if summary.interrupted else ("end", "is complete")
    said = f"study {spec.name} {f'ends, {summary.ended}' if summary.ended else word}: {describe_progress(summary.progress)}"
    states = {state: getattr(summary.progress, state) for state in ("complete", "pruned", "failed")}
    seconds = round(summary.progress.seconds, 1)
    event(log, name, said, study=spec.name, ended=summary.ended, seconds=seconds, **states)
    return summary


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
        "ended": summary.ended,
    }
