"""A study through the orchestrator: budgets met exactly, cohorts, failures that stay alone, stops and deaths that lose nothing."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from helpers import TINY
from optuna.trial import TrialState

from storage.engine import open_database
from storage.trials import TrialStorage
from studies.errors import SpecInvalid
from studies.loader import parse_study, with_changes
from studies.spec import StudySpec
from sweeper.errors import JobRefused, WorkerError
from sweeper.executors.base import Died, Executor, Message
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.export import best_file
from sweeper.job import Job
from sweeper.messages import EpochReport, Orders
from sweeper.orchestrator import Orchestrator
from sweeper.pool import WorkerPool
from sweeper.progress import Progress, Summary
from sweeper.report.accuracy import accuracy_data
from sweeper.report.snapshot import take
from sweeper.results import Results
from sweeper.trial import Configuration, EpochResult, Metrics


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'test.db'}"))
    return optuna.create_study(study_name="tiny", storage=storage, direction="maximize")


def orchestrate(
    spec: StudySpec,
    study: optuna.Study,
    executor: Executor | None = None,
    workers: int = 1,
    watch: Callable[[Orchestrator, Progress], None] = lambda orchestrator, progress: None,
) -> Summary:
    storage = study._storage
    assert isinstance(storage, TrialStorage)
    orchestrator = Orchestrator(
        spec, study, storage, executor or InlineExecutor(), ["cpu"] * workers, on_progress=lambda p: watch(orchestrator, p)
    )
    return orchestrator.run()


def stored(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials as somebody else reads them from the database."""
    url = study._storage.backend.engine.url.render_as_string(hide_password=False)
    return optuna.load_study(study_name=study.study_name, storage=url).trials


def facts(study: optuna.Study) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.value, t.params, t.intermediate_values, t.user_attrs) for t in stored(study)]


def test_a_study_ends_with_exactly_its_trials_the_baselines_first(tiny: StudySpec, study: optuna.Study) -> None:
    summary = orchestrate(tiny, study)
    trials = stored(study)
    assert not summary.interrupted
    assert [t.number for t in trials] == list(range(12))
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    for trial, loss in zip(trials, tiny.search.losses, strict=False):
        assert trial.user_attrs["baseline"]
        assert (trial.state, trial.params["loss"], trial.params["dropout"]) == (TrialState.COMPLETE, loss, 0.0)
    for trial in trials:
        assert sorted(trial.intermediate_values) == list(range(1, trial.user_attrs["epochs"] + 1))
        if trial.state == TrialState.COMPLETE:
            assert trial.value == trial.intermediate_values[tiny.training.epochs]
    assert any(t.state == TrialState.PRUNED for t in trials)
    assert summary.progress.epochs == sum(len(t.intermediate_values) for t in trials)
    assert summary.occupancy >= 0.9


def test_the_same_study_twice_is_the_same_bit_for_bit(tiny: StudySpec, tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        storage = TrialStorage(open_database(f"sqlite:///{tmp_path / name}.db"))
        study = optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
        orchestrate(tiny, study)
        runs.append(facts(study))
    assert runs[0] == runs[1]


def test_the_budget_counts_over_all_calls_and_can_grow(tiny: StudySpec, study: optuna.Study) -> None:
    orchestrate(with_changes(tiny, trials=5), study)
    assert len(stored(study)) == 5
    before = facts(study)
    summary = orchestrate(with_changes(tiny, trials=5), study)
    assert summary.progress.epochs == 0
    orchestrate(with_changes(tiny, trials=9), study)
    assert len(stored(study)) == 9
    assert facts(study)[:5] == before
    assert len({t.params["l2"] for t in stored(study)[3:]}) == 6  # the sampler did not repeat itself


def test_a_stop_puts_running_trials_back_and_the_same_call_goes_on(tiny: StudySpec, study: optuna.Study) -> None:
    def stop_soon(orchestrator: Orchestrator, progress: Progress) -> None:
        if progress.epochs >= 10:
            orchestrator.request_stop()

    summary = orchestrate(tiny, study, watch=stop_soon)
    assert summary.interrupted
    trials = stored(study)
    waiting = {t.number: t.params for t in trials if t.state == TrialState.WAITING}
    assert waiting
    assert not any(t.state == TrialState.RUNNING for t in trials)
    assert all(t.intermediate_values == {} for t in trials if t.state == TrialState.WAITING)
    finished = [fact for fact in facts(study) if fact[1].is_finished()]  # type: ignore[attr-defined]
    orchestrate(tiny, study)
    after = stored(study)
    assert [t.number for t in after] == list(range(12))
    assert all(t.state.is_finished() for t in after)
    assert all(after[number].params == params for number, params in waiting.items())
    assert [fact for fact in facts(study) if fact[0] in {f[0] for f in finished}] == finished


def test_trials_left_running_by_a_killed_orchestrator_begin_again(tiny: StudySpec, study: optuna.Study) -> None:
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("l1", 1e-6, 1e-2, log=True)
        trial.report(0.5, 1)
    study._storage.flush()
    orchestrate(with_changes(tiny, trials=6), study)
    trials = stored(study)
    assert [t.number for t in trials] == list(range(6))
    assert all(t.state.is_finished() and len(t.params) == 4 for t in trials)


def test_a_diverging_trial_fails_alone_with_the_reason(tmp_path: Path, study: optuna.Study) -> None:
    text = TINY.replace("learning_rate = 1e-2", "learning_rate = 1e38").replace("trials = 12", "trials = 4")
    summary = orchestrate(parse_study(text, "t"), study)
    trials = stored(study)
    assert summary.progress.failed == sum(t.state == TrialState.FAIL for t in trials) > 0
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert "diverged in epoch" in trial.user_attrs["reason"]


def test_a_lower_budget_than_there_are_trials_finishes_those(tiny: StudySpec, study: optuna.Study) -> None:
    orchestrate(
        with_changes(tiny, trials=30), study, watch=lambda orchestrator, p: orchestrator.request_stop() if p.finished >= 6 else None
    )
    started = len(stored(study))
    summary = orchestrate(with_changes(tiny, trials=2), study)
    assert not summary.interrupted
    assert [t.state.is_finished() for t in stored(study)] == [True] * started


def test_baselines_that_did_not_fit_the_budget_come_with_a_higher_one(tiny: StudySpec, study: optuna.Study) -> None:
    orchestrate(with_changes(tiny, trials=1), study)
    orchestrate(with_changes(tiny, trials=6), study)
    assert sorted(t.params["loss"] for t in stored(study) if t.user_attrs.get("baseline")) == sorted(tiny.search.losses)


def test_a_plan_is_kept_as_long_as_the_same_is_asked(tiny: StudySpec, study: optuna.Study) -> None:
    first = orchestrate(with_changes(tiny, trials=4, array={}), study)
    assert first.plans[0].measured
    kept = orchestrate(with_changes(tiny, trials=6, array={}), study)
    assert kept.plans == first.plans
    other = orchestrate(with_changes(tiny, trials=8, array={"width": 3}), study)
    assert (other.plans[0].width, other.plans[0].pack) == (3, 3)


class Scripted(InlineExecutor):
    """An executor whose workers die, for real as far as the orchestrator can see, before the given reports."""

    def __init__(self, deaths: set[int]) -> None:
        super().__init__()
        self.deaths, self.reports, self.jobs = deaths, 0, 0

    def start(self, worker: int, job: Job) -> None:
        self.jobs += 1
        super().start(worker, job)

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if self._orders and timeout:
            self.reports += 1
            if self.reports in self.deaths:
                worker, _ = self._orders.popleft()
                return worker, Died("killed by SIGKILL")
        return super().receive(timeout)


def test_a_dead_worker_is_replaced_and_nothing_is_lost(
    tiny: StudySpec, study: optuna.Study, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Scripted({2, 5, 6})
    with caplog.at_level(logging.INFO, "sweeper"):
        orchestrate(tiny, study, executor)
    assert executor.jobs == 4
    events = Counter(record.event for record in caplog.records if hasattr(record, "event"))
    states = Counter(f"trial_{t.state.name.lower()}" for t in stored(study))
    assert events == {"worker_ready": 4, "worker_died": 3, "trial_begun": events["trial_begun"], **states}
    assert events["trial_begun"] > 12  # those of the dead begin again
    trials = stored(study)
    assert [t.number for t in trials] == list(range(12))
    assert all(t.state.is_finished() for t in trials)


def test_three_deaths_in_a_row_stop_the_study_which_can_go_on(tiny: StudySpec, study: optuna.Study) -> None:
    with pytest.raises(WorkerError, match=r"died 3 times in a row.*SIGKILL"):
        orchestrate(tiny, study, Scripted({3, 4, 5}))
    assert not any(t.state == TrialState.RUNNING for t in stored(study))
    orchestrate(tiny, study)
    assert [t.state.is_finished() for t in stored(study)] == [True] * 12


class Deadly(InlineExecutor):
    """A worker that dies whenever it should train the second epoch of one of these trials."""

    def __init__(self, culprits: set[int]) -> None:
        super().__init__()
        self.culprits, self.epochs, self.deaths = culprits, dict[int, int](), 0

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if self._orders and timeout:
            worker, orders = self._orders[0]
            self.epochs = {n: e for n, e in self.epochs.items() if n not in orders.stop} | {run.trial: 0 for run in orders.start}
            if any(self.epochs.get(culprit) == 1 for culprit in self.culprits):
                self._orders.popleft()
                self.epochs.clear()
                self.deaths += 1
                return worker, Died("killed by SIGSEGV")
        received = super().receive(timeout)
        if received and isinstance(received[1], EpochReport):
            self.epochs = {number: epoch + 1 for number, epoch in self.epochs.items()}
        return received


def test_a_trial_that_kills_its_workers_fails_alone(tiny: StudySpec, study: optuna.Study) -> None:
    executor = Deadly({4, 6})
    orchestrate(with_changes(tiny, pruner={"name": "none"}), study, executor)
    trials = stored(study)
    assert {t.number for t in trials if t.state == TrialState.FAIL} == {4, 6}
    assert {t.state for t in trials if t.number not in (4, 6)} == {TrialState.COMPLETE}
    assert trials[4].user_attrs["reason"] == "its worker died of it again and again, killed by SIGSEGV"
    assert executor.deaths <= 8


def test_trials_created_ahead_wait_if_asking_fails(tiny: StudySpec, study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_ideas(*arguments: object) -> Configuration:
        raise RuntimeError("out of ideas")

    with monkeypatch.context() as patch:
        patch.setattr("sweeper.trial_source.suggest", out_of_ideas)
        with pytest.raises(RuntimeError, match="out of ideas"):
            orchestrate(tiny, study)
    assert not any(t.state == TrialState.RUNNING for t in stored(study))
    orchestrate(tiny, study)
    assert [t.number for t in stored(study)] == list(range(12))


def test_the_draws_of_a_call_whose_trials_were_lost_are_not_repeated(tiny: StudySpec, tmp_path: Path) -> None:
    class Broken(InlineExecutor):
        def start(self, worker: int, job: Job) -> None:
            raise RuntimeError("no room")

    draws = []
    for failures in (0, 1):
        storage = TrialStorage(open_database(f"sqlite:///{tmp_path / str(failures)}.db"))
        study = optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
        for _ in range(failures):
            with pytest.raises(RuntimeError, match="no room"):
                orchestrate(tiny, study, Broken())
        orchestrate(with_changes(tiny, trials=8), study)
        draws.append({t.params["l2"] for t in stored(study) if not t.user_attrs.get("baseline")})
    assert not draws[0] & draws[1]


class TwoWorkersOneIdle(InlineExecutor):
    """Worker 1 dies while it waits for trials; then worker 0 dies at work before worker 1's successor is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.died: list[int] = []
        self.held: list[tuple[int, Message]] = []

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if self.died == [] and self._orders and not self._messages:
            self.died.append(1)
            return 1, Died("killed by SIGKILL")
        if self.died == [1]:
            self.held = list(self._messages)
            self._messages.clear()
            self._orders.clear()
            self.died.append(0)
            return 0, Died("killed by SIGKILL")
        if self.held and not self._orders and not self._messages:
            return self.held.pop()
        return super().receive(timeout)


def test_an_idle_worker_that_died_gets_no_orders_before_its_successor_is_ready(tiny: StudySpec, study: optuna.Study) -> None:
    executor = TwoWorkersOneIdle()
    orchestrate(with_changes(tiny, trials=4), study, executor, workers=2)
    assert executor.died == [1, 0]
    assert [t.state.is_finished() for t in stored(study)] == [True] * 4


class Reporting:
    """A worker of 64 slots that trains nothing: every trial's accuracy is a function of its number."""

    def __init__(self, accuracy: Callable[[int], float]) -> None:
        self._accuracy = accuracy
        self._epochs: dict[int, int] = {}
        self._orders: Orders | None = None
        self._ready: list[tuple[int, Message]] = []

    def start(self, worker: int, job: Job) -> None:
        from sweeper.job import ArrayPlan
        from sweeper.messages import Ready

        self._ready.append((worker, Ready(ArrayPlan(64, 64), "none", {})))

    def send(self, worker: int, orders: Orders) -> None:
        for trial in orders.stop:
            del self._epochs[trial]
        self._epochs.update({run.trial: 0 for run in orders.start})
        self._orders = orders

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if self._ready:
            return self._ready.pop()
        if self._orders is None:
            return None
        self._orders = None
        results = []
        for trial in self._epochs:
            self._epochs[trial] += 1
            value = self._accuracy(trial)
            epoch = self._epochs[trial]
            metrics = Metrics(0.1, value, 0.1, value)
            results.append(EpochResult(trial, epoch, metrics, ((0, 0),), best_epoch=epoch, best=metrics))
        return 0, EpochReport(tuple(results), 0.0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("accuracy", [lambda n: n / 100, lambda n: 1 - n / 100], ids=["worst first", "best first"])
def test_a_cohort_of_64_keeps_its_better_half_whatever_the_order(
    accuracy: Callable[[int], float], tiny: StudySpec, study: optuna.Study
) -> None:
    orchestrate(with_changes(tiny, trials=64), study, Reporting(accuracy))
    first_rung = [t for t in stored(study) if len(t.intermediate_values) == 1]
    assert 29 <= len(first_rung) <= 32  # the three baselines are protected
    assert max(t.value for t in stored(study) if t.state == TrialState.COMPLETE) == max(accuracy(n) for n in range(64))


def test_an_enqueued_configuration_is_tried_in_full_whatever_it_is_worth(study: optuna.Study) -> None:
    hopeless = "[[enqueue]]\nl2 = 0.1\nl1 = 0.01\nloss = 'mse'\n[array]"
    spec = parse_study(TINY.replace("[array]", hopeless), "enqueued")
    orchestrate(with_changes(spec, trials=10), study)
    trial = stored(study)[3]
    assert trial.user_attrs["enqueued"]
    assert (trial.params["l1"], trial.params["l2"], trial.params["loss"]) == (0.01, 0.1, "mse")
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["epochs"] == spec.training.epochs
    assert trial.value is not None
    assert trial.value < 0.3


@pytest.mark.parametrize("monitor", ["accuracy", "loss"])
def test_a_trial_that_patience_stops_is_complete_with_its_best_epoch(monitor: str, study: optuna.Study) -> None:
    changes = f"epochs = 40\npatience = 1\nmonitor = '{monitor}'\noptimizer = 'sgd'"
    text = TINY.replace("epochs = 4", changes).replace("learning_rate = 1e-2", "learning_rate = 3.0")
    spec = parse_study(text.replace("min_epochs = 1", "min_epochs = 30"), "patient")
    orchestrate(with_changes(spec, trials=6), study)
    early = [t for t in stored(study) if t.state == TrialState.COMPLETE and t.user_attrs["epochs"] < 40]
    assert early
    for trial in early:
        best = trial.user_attrs["best_epoch"]
        assert trial.user_attrs["epochs"] == best + 1
        assert trial.value == trial.intermediate_values[best]
    if monitor == "accuracy":
        assert all(trial.value == max(trial.intermediate_values.values()) for trial in early)


def test_what_a_worker_refuses_is_the_users_to_mend(tiny: StudySpec, study: optuna.Study, tmp_path: Path) -> None:
    spec = parse_study(TINY.replace('"digits"', f'"npz:{tmp_path / "none.npz"}"'), "absent")
    with pytest.raises(JobRefused, match=r"none\.npz"):
        orchestrate(spec, study)


@pytest.mark.slow
def test_real_workers_killed_at_work_are_replaced(tiny: StudySpec, study: optuna.Study) -> None:
    executor = LocalExecutor()
    killed: list[int] = []

    def kill_one(orchestrator: Orchestrator, progress: Progress) -> None:
        if len(killed) < 2 and progress.finished >= 4 * (len(killed) + 1):
            pid = executor._workers[len(killed)][0].pid
            assert pid
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    orchestrate(with_changes(tiny, trials=20), study, executor, workers=2, watch=kill_one)
    assert len(set(killed)) == 2
    assert [t.number for t in stored(study)] == list(range(20))
    assert all(t.state.is_finished() for t in stored(study))


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(tiny: StudySpec, study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.pool.PATIENCE_SECONDS", 3.0)
    executor, hung = LocalExecutor(), []

    def stop_the_process(orchestrator: Orchestrator, progress: Progress) -> None:
        if progress.epochs >= 12 and not hung:
            hung.append(executor._workers[0][0].pid)
            os.kill(hung[0], signal.SIGSTOP)

    orchestrate(tiny, study, executor, watch=stop_the_process)
    assert hung
    assert [t.state.is_finished() for t in stored(study)] == [True] * 12
    with pytest.raises(ProcessLookupError):
        os.kill(hung[0], 0)


class Together(LocalExecutor):
    """Worker processes of which none is heard before both are ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[tuple[int, Message]] = []
        self.both = False

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        while not self.both:
            self.ready += [received] if (received := super().receive(timeout)) else []
            self.both = len(self.ready) == 2
        return self.ready.pop() if self.ready else super().receive(timeout)


@pytest.mark.slow
def test_two_workers_share_a_study(tiny: StudySpec, study: optuna.Study) -> None:
    summary = orchestrate(with_changes(tiny, trials=20), study, Together(), workers=2)
    assert len(summary.plans) == len(summary.devices) == 2
    assert [t.state.is_finished() for t in stored(study)] == [True] * 20


SPARSE = TINY.replace("[pruner]\nmin_epochs = 1\nreduction_factor = 2\n", "[penalties.l1]\nmethod = 'proximal'\n").replace(
    "trials = 12", 'trials = 12\nobjectives = ["accuracy", "zero_weights"]'
)


@pytest.mark.parametrize("sampler", ["tpe", "nsga_ii"])
def test_two_objectives_are_searched_without_pruning_and_interruptions_lose_nothing(sampler: str, tmp_path: Path) -> None:
    spec = parse_study(SPARSE.replace("[array]", f"[sampler]\nname = '{sampler}'\n[array]"), "sparse")
    storage = TrialStorage(open_database(f"sqlite:///{tmp_path / 'two.db'}"))
    study = optuna.create_study(study_name="tiny", storage=storage, directions=["maximize"] * 2)
    orchestrate(spec, study, watch=lambda orchestrator, p: orchestrator.request_stop() if p.finished >= 4 else None)
    orchestrate(spec, study)
    study.set_user_attr("spec", spec.model_dump_json())
    trials = stored(study)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 12
    results = Results(study, storage.backend.engine)
    curves = results.curves
    for trial in trials:
        epochs = curves.loc[trial.number, 0]
        assert list(epochs.index) == [1, 2, 3, 4]
        assert trial.values == [epochs["validation_accuracy"].iloc[-1], epochs["zero_weights"].iloc[-1]]
        assert not trial.intermediate_values
    assert max(t.values[1] for t in trials) > 0
    front = {best.trial for best in results.pareto}
    assert front == {
        t.number
        for t in trials
        if not any(o.values != t.values and all(a >= b for a, b in zip(o.values, t.values, strict=True)) for o in trials)
    }
    assert [one.trial for one in best_file(results).pareto] == [best.trial for best in results.pareto]
    assert best_file(results).pareto[0].validation_accuracy == results.best.value
    assert len(accuracy_data(take(results), "l2").points) == 12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method = 'proximal'", "method = 'subgradient'", "zero_weights needs search.l1 and penalties.l1.method = 'proximal'"),
        ("learning_rate = 1e-2", "learning_rate = 1e-2\npatience = 2", "training.patience brings back the weights of another"),
        ("[array]", "[pruner]\nname = 'median'\n[array]", "with two objectives there is no pruning"),
        ('"accuracy", "zero_weights"', '"accuracy", "accuracy"', "objectives: accuracy stands there twice"),
    ],
)
def test_two_objectives_that_cannot_be_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse_study(SPARSE.replace(old, new), "sparse")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "pruner",
    [
        "name = 'hyperband'\nmin_epochs = 1",
        "name = 'median'\nmin_epochs = 1\nstartup_trials = 2",
        "name = 'median'\nmin_epochs = 1\npatience = 1",
    ],
)
def test_every_pruner_stops_some_and_is_the_same_after_an_interruption(pruner: str, study: optuna.Study) -> None:
    spec = parse_study(TINY.replace("min_epochs = 1\nreduction_factor = 2", pruner).replace("epochs = 4", "epochs = 8"), "pruned")
    orchestrate(spec, study, watch=lambda orchestrator, p: orchestrator.request_stop() if p.finished >= 8 else None)
    before = [fact for fact in facts(study) if fact[1].is_finished()]  # type: ignore[attr-defined]
    orchestrate(with_changes(spec, trials=20), study)
    trials = stored(study)
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    assert any(t.state == TrialState.PRUNED for t in trials)
    assert [fact for fact in facts(study) if fact[0] in {f[0] for f in before}] == before


def test_a_worker_that_never_begins_is_not_replaced_for_ever_while_others_work(tiny: StudySpec) -> None:
    pool = WorkerPool(tiny, InlineExecutor(), ["cuda:0", "cuda:1"], ".", {})
    for _ in range(2):
        pool.bury(1, Died("ended with exit code 1"))
        pool.heard()
    with pytest.raises(WorkerError, match="worker 1 on cuda:1 died 3 times without a report, last ended with exit code 1"):
        pool.bury(1, Died("ended with exit code 1"))
