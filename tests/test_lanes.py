"""An array in two lanes: orders come while the device trains, and neither results nor what is lost in a fault depend on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from helpers import NETWORKS, TINY
from optuna.trial import TrialState
from reference import STREAM, assert_same_network, train_plainly

import sweeper
from storage.engine import open_database
from storage.requests import TRIALS, Request, ask
from storage.trials import TrialStorage
from studies.loader import parse_study, with_changes
from studies.spec import StudySpec
from sweeper.executors.base import Died, Executor, Message
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.job import ArrayPlan, Job, Penalties, TrainingSettings
from sweeper.messages import EpochReport, Lane, Orders, Ready
from sweeper.orchestrator import Orchestrator
from sweeper.progress import Progress, Summary
from sweeper.search import make_job
from sweeper.training.datasets import Data
from sweeper.training.pack import Pack
from sweeper.training.planner import in_lanes
from sweeper.training.trainer import Trainer, make_recipe
from sweeper.trial import Configuration, Run

LANES = (2, 2)


@pytest.fixture
def two(tiny: StudySpec) -> StudySpec:
    return with_changes(tiny, array={"width": 4, "pack": 2, "workers": 1})


def new_study(folder: Path) -> optuna.Study:
    folder.mkdir(exist_ok=True)
    storage = TrialStorage(open_database(f"sqlite:///{folder / 'x.db'}"))
    return optuna.create_study(study_name="tiny", storage=storage, direction="maximize")


def lead(spec: StudySpec, study: optuna.Study, executor: Executor | None = None) -> Summary:
    assert isinstance(study._storage, TrialStorage)
    return Orchestrator(spec, study, study._storage, executor or InlineExecutor(), ["cpu"]).run()


def facts(study: optuna.Study) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.value, t.params, t.intermediate_values, t.user_attrs) for t in study.trials]


class Watched(InlineExecutor):
    """Notes the orders, and how many wait whenever an epoch is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[Orders] = []
        self.waiting: list[int] = []

    def send(self, worker: int, orders: Orders) -> None:
        self.orders.append(orders)
        super().send(worker, orders)

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if timeout and not self._messages and self._orders:
            self.waiting.append(len(self._orders))
        return super().receive(timeout)


@pytest.mark.parametrize(
    ("width", "pack", "together", "lanes"),
    [(32, 16, 1, (16, 16)), (16, 16, 1, ()), (1, 1, 1, ()), (48, 16, 1, (32, 16)), (10, 4, 1, (4, 6)), (4, 1, 1, (2, 2)),
     (24, 4, 3, (12, 12)), (21, 4, 3, ()), (27, 4, 3, (12, 15))],
)  # fmt: skip
def test_lanes_are_of_whole_packs(width: int, pack: int, together: int, lanes: tuple[int, ...]) -> None:
    assert in_lanes(ArrayPlan(width, pack), together).lanes == lanes


def test_orders_wait_while_the_device_trains_and_few_trials_join(two: StudySpec, tmp_path: Path) -> None:
    executor, study = Watched(), new_study(tmp_path)
    summary = lead(with_changes(two, trials=24), study, executor)
    assert summary.plans[0].lanes == LANES
    last_begun = max(i for i, orders in enumerate(executor.orders) if orders.start)
    assert [orders.lane for orders in executor.orders[: last_begun + 1]] == [i % 2 for i in range(last_begun + 1)]
    assert set(executor.waiting[:last_begun]) == {2}
    assert [orders.join for orders in executor.orders].count(True) == 1
    assert summary.occupancy == 1.0
    assert all(t.state.is_finished() for t in study.trials)
    assert summary.progress.epochs == sum(len(t.intermediate_values) for t in study.trials)


def test_the_same_study_twice_is_the_same_bit_for_bit(two: StudySpec, tmp_path: Path) -> None:
    studies = [new_study(tmp_path / name) for name in ("one", "two")]
    for study in studies:
        lead(with_changes(two, trials=20), study)
    assert facts(studies[0]) == facts(studies[1])


@pytest.mark.slow
def test_worker_processes_repeat_a_study_bit_for_bit(two: StudySpec, tmp_path: Path) -> None:
    studies = [new_study(tmp_path / name) for name in ("one", "two")]
    for study in studies:
        lead(with_changes(two, trials=40), study, LocalExecutor())
    assert facts(studies[0]) == facts(studies[1])


def without_lanes(study: optuna.Study) -> None:
    """Make the stored plan one of a version that knew no lanes."""
    plans = study.user_attrs["plans"]
    del plans["0"]["plan"]["lanes"]
    study.set_user_attr("plans", plans)


@pytest.mark.parametrize("text", ["", "folds = 3\nlabel_noise = 0.3"], ids=["alone", "folds"])
def test_trials_learn_the_same_in_one_lane_by_a_plan_of_earlier_days(text: str, tmp_path: Path) -> None:
    """Without pruning all trials begin at the same places of the stream, whatever the lanes."""
    text = TINY.replace("test_size = 100", f"test_size = 100\n{text}").replace("width = 4", "width = 12\npack = 2")
    spec = parse_study(text.replace("[pruner]\nmin_epochs = 1\nreduction_factor = 2", "[pruner]\nname = 'none'"), "t")
    spec = with_changes(spec, trials=24, sampler={"name": "random"})
    one, both = new_study(tmp_path / "one"), new_study(tmp_path / "both")
    for study in (one, both):
        lead(with_changes(spec, trials=1), study)
    assert both.user_attrs["plans"]["0"]["plan"]["lanes"] == [6, 6]
    without_lanes(one)
    assert (lead(spec, one).plans[0].lanes, lead(spec, both).plans[0].lanes) == ((), (6, 6))
    assert [t.params for t in one.trials] == [t.params for t in both.trials]
    for a, b in zip(one.trials, both.trials, strict=True):
        assert a.intermediate_values == pytest.approx(b.intermediate_values, abs=0.011), "an image or two by rounding"


def test_runs_that_another_trainer_takes_over_equal_plain_torch(data64: Data) -> None:
    settings = TrainingSettings(epochs=4, batch_size=16)
    recipe = make_recipe(NETWORKS["cnn"], data64, settings, Penalties())
    lanes = [Trainer(recipe, data64, ArrayPlan(2, 2), STREAM) for _ in range(2)]
    runs = [Run(i, Configuration(dropout=0.0, learning_rate=1e-2, l2=10.0**-i), seed=i, epochs=4) for i in range(4)]
    for run in runs:
        lanes[run.trial % 2].start(run)
    for lane in lanes:
        lane.epoch()
    lanes[0].stop(0)
    lanes[1].stop(3)
    lanes[1].take_over(lanes[0])
    assert (lanes[0].trials, lanes[1].trials) == ((), (1, 2))
    results = [lanes[1].epoch() for _ in range(3)][-1]
    assert [(result.epoch, result.stream) for result in results] == [(4, ((0, 0),)), (4, ((0, 0),))]
    for run in runs[1:3]:
        assert_same_network(lanes[1].weights(run.trial), train_plainly(NETWORKS["cnn"], data64, run, settings), 1e-8)


def test_a_run_taken_over_from_another_place_of_the_stream_says_so(data64: Data) -> None:
    recipe = make_recipe(NETWORKS["mlp"], data64, TrainingSettings(9, 16), Penalties())
    ahead, behind = (Trainer(recipe, data64, ArrayPlan(2, 2), STREAM) for _ in range(2))
    for i, lane in enumerate((ahead, behind)):
        lane.start(Run(i, Configuration(), i, 9))
        lane.epoch()
    ahead.epoch()
    ahead.take_over(behind)
    assert {result.trial: result.stream for result in ahead.epoch()} == {0: ((0, 0),), 1: ((0, 0), (1, 2))}


class Mortal(InlineExecutor):
    """A worker that dies with the orders of both lanes: before some reports, or in the second epoch of certain trials."""

    def __init__(self, reports: set[int], culprits: set[int]) -> None:
        super().__init__()
        self.fatal, self.culprits, self.reports, self.deaths, self.company = reports, culprits, 0, 0, 0
        self.epochs: Counter[int] = Counter()
        self.inside: dict[int, set[int]] = {}

    def receive(self, timeout: float) -> tuple[int, Message] | None:
        if timeout and self._orders and not self._messages:
            worker, orders = self._orders[0]
            for lane in self.inside.values():
                lane.difference_update(orders.stop)
            lane = self.inside.setdefault(orders.lane, set())
            if orders.join:
                lane.update(*self.inside.values())
                self.inside = {orders.lane: lane}
            lane.update(run.trial for run in orders.start)
            self.epochs.update(lane)
            self.reports += 1
            if self.reports in self.fatal or any(self.epochs[trial] >= 2 for trial in lane & self.culprits):
                self.company = sum(map(len, self.inside.values()))
                self.inside.clear()
                self.epochs.clear()
                self.deaths += 1
                return worker, Died("killed by SIGSEGV")
        return super().receive(timeout)


@pytest.mark.parametrize("culprits", [set(), {4}, {4, 6}], ids=str)
def test_a_death_takes_both_lanes_and_nothing_is_lost(culprits: set[int], two: StudySpec, tmp_path: Path) -> None:
    executor, study = Mortal({3, 9, 10} if not culprits else set(), culprits), new_study(tmp_path)
    lead(with_changes(two, trials=16, pruner={"name": "none"}), study, executor)
    assert executor.deaths >= 3
    assert not culprits or executor.company == 1, "a suspect is trained alone, in both lanes together"
    states = {t.number: t.state for t in study.trials}
    assert {number for number, state in states.items() if state == TrialState.FAIL} == culprits
    assert {state for number, state in states.items() if number not in culprits} == {TrialState.COMPLETE}


@pytest.mark.timeout(60)
def test_trials_that_begin_while_the_lanes_are_about_to_join_are_trained(
    two: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is asked for while the first lane waits for the second one: the last trials still fit into one pack."""
    monkeypatch.setattr("sweeper.orchestrator.REQUEST_SECONDS", 0.0)
    spec, study = with_changes(two, trials=24, array={"width": 16, "pack": 8, "workers": 1}), new_study(tmp_path)
    storage, asked = study._storage, []
    assert isinstance(storage, TrialStorage)

    def extend(progress: Progress) -> None:
        waits = Lane(0, 0) in leader.pool.idle and leader.pool.works(Lane(0, 1))
        if waits and 1 < progress.running < 8 and not asked:
            asked.append(progress.running)
            ask(storage.backend.engine, study._study_id, Request(TRIALS, 25))

    leader = Orchestrator(spec, study, storage, InlineExecutor(), ["cpu"], on_progress=extend)
    leader.run()
    assert asked
    assert len(study.trials) == 25
    assert all(t.state.is_finished() for t in study.trials)


@pytest.mark.parametrize("after", [2, 7, 31, 64, 68])
def test_a_stop_at_any_moment_loses_no_epoch(after: int, two: StudySpec, tmp_path: Path) -> None:
    leaders: list[Any] = []

    def stop(progress: Progress) -> None:
        if progress.epochs >= after:
            leaders[0].request_stop()

    def run(watch: Callable[[Progress], None]) -> sweeper.StudyResult:
        leaders.clear()
        url = f"sqlite:///{tmp_path / 'x.db'}"
        spec = with_changes(two, trials=18, pruner={"name": "none"})
        return sweeper.run_study(
            spec, storage=url, runs=tmp_path, in_process=True, on_start=leaders.append, on_progress=watch, confirm=False
        )

    first, second = run(stop).summary, run(lambda progress: None).summary
    assert first is not None
    assert second is not None
    assert first.interrupted
    assert first.progress.epochs + second.progress.epochs == 18 * 4


def test_a_lack_of_memory_in_one_lane_narrows_both(two: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_step, refused = Pack.train_step, []

    def short(pack: Pack, step: int, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if pack.width > 1 and step == 2:
            refused.append(pack.width)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return train_step(pack, step, images, labels)

    monkeypatch.setattr(Pack, "train_step", short)
    study = new_study(tmp_path)
    plan = lead(two, study).plans[0]
    assert refused == [2]  # the other lane made no such pack
    assert (plan.width, plan.pack, plan.lanes) == (4, 1, LANES)
    assert study.user_attrs["plans"]["0"]["plan"]["pack"] == 1
    assert not any(t.state == TrialState.FAIL for t in study.trials)


def _next(executor: LocalExecutor) -> Message:
    while (received := executor.receive(0.2)) is None:
        pass
    return received[1]


@pytest.mark.timeout(120)
def test_large_orders_and_large_reports_do_not_wait_for_each_other(two: StudySpec) -> None:
    """Each is many times what a pipe holds, and the orders come while the report is not read."""
    job: Job = make_job(with_changes(two, array={"width": 128, "pack": 64, "workers": 1}), "cpu", 128)
    executor, large = LocalExecutor(), bytes(20_000_000)
    try:
        executor.start(0, job)
        assert isinstance(ready := _next(executor), Ready)
        assert ready.plan.lanes == (64, 64)
        runs = tuple(Run(i, Configuration(), i, 4) for i in range(64))
        executor.send(0, Orders(start=runs, checkpoint=tuple(range(64))))
        executor.send(0, Orders(start=(Run(64, Configuration(), 1, 4, checkpoint=large),), lane=1))
        reports = [_next(executor), _next(executor)]
        assert [(r.lane, len(r.results)) for r in reports if isinstance(r, EpochReport)] == [(0, 64), (1, 1)]
    finally:
        executor.close()
