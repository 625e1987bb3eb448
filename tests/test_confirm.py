"""Confirmation: the winner is chosen over fresh seeds and measured over others, and is the true best more often."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY

import sweeper
from storage import queries, requests
from studies.loader import parse_study
from studies.spec import StudySpec
from sweeper.answer import candidates, stored, strongest_within_one_standard_error, winner
from sweeper.confirm import Confirmer, Planned, begin
from sweeper.executors.inline import InlineExecutor
from sweeper.keeper import Keeper
from sweeper.messages import Orders
from sweeper.progress import Progress
from sweeper.trial import Run

SMALL = parse_study(TINY.replace("top = 0", "top = 2\nseeds = 3").replace("trials = 12", "trials = 8"), "tiny.toml")


def _run(folder: Path, spec: StudySpec = SMALL, **options: Any) -> sweeper.StudyResult:
    folder.mkdir(exist_ok=True)
    return sweeper.run_study(spec, storage=f"sqlite:///{folder / 'test.db'}", runs=folder, in_process=True, **options)


def _outcomes(result: sweeper.StudyResult) -> Any:
    return queries.outcomes(result.results.engine, result.results.study._study_id)


def test_confirmation_picks_the_true_best_more_often_than_the_raw_best() -> None:
    """Forty configurations on a known curve, seeds vary by as much as neighbours differ: the setting of a real search."""
    generator = np.random.default_rng(3)
    rounds, hits, regrets = 400, {"raw": 0, "confirmed": 0}, {"raw": 0.0, "confirmed": 0.0}
    optimism = {"raw": 0.0, "confirmed": 0.0}
    for _ in range(rounds):
        log_strength = generator.uniform(-6, 0, 40)
        truth = 0.95 - 0.004 * (log_strength + 3) ** 2
        searched = dict(enumerate(truth + generator.normal(0, 0.008, 40)))
        chosen = candidates(searched, 5, {number: number for number in searched})
        scores = {number: truth[number] + generator.normal(0, 0.008, 5) for number in chosen}
        for name, picked in (("raw", chosen[0]), ("confirmed", winner(scores))):
            hits[name] += picked == truth.argmax()
            regrets[name] += truth.max() - truth[picked]
        optimism["raw"] += searched[chosen[0]] - truth[chosen[0]]
        best = winner(scores)
        optimism["confirmed"] += float(np.mean(truth[best] + generator.normal(0, 0.008, 5))) - truth[best]
    assert hits["confirmed"] > 1.15 * hits["raw"]
    assert regrets["confirmed"] < 0.8 * regrets["raw"]
    assert optimism["raw"] / rounds > 0.008  # the luckiest of forty promises about a standard deviation too much
    assert abs(optimism["confirmed"] / rounds) < 0.001  # seeds that took no part in the choice promise what is true


def test_candidates_are_the_best_and_no_configuration_comes_twice() -> None:
    values = {0: 0.5, 1: 0.9, 2: 0.9, 3: 0.8, 4: 0.7}
    assert candidates(values, 3, {number: number for number in values}) == (1, 2, 3)
    assert candidates(values, 3, {0: "a", 1: "b", 2: "b", 3: "c", 4: "d"}) == (1, 3, 4)
    assert candidates(values, 9, {number: number for number in values}) == (1, 2, 3, 4, 0)


def test_a_study_is_confirmed_after_its_search(tmp_path: Path) -> None:
    result = _run(tmp_path)
    answer = result.results.answer
    assert answer is not None
    (confirmation,) = result.results.confirmations
    assert confirmation.finished
    assert confirmation.looked
    baseline = result.results.best_baseline
    assert baseline is not None
    assert set(confirmation.candidates) >= {result.results.best.trial, confirmation.baseline}
    assert confirmation.baseline == baseline.trial

    outcomes = _outcomes(result)
    choosing, reporting = set(confirmation.choosing_runs), set(confirmation.reporting_runs)
    assert not choosing & reporting
    assert {run for _, run in outcomes} == choosing | reporting
    assert all(0 not in key[1:] for key in outcomes)  # run 0 is the search's
    for (trial, run), row in outcomes.items():
        looked = run in reporting
        assert (row["test_right"] is not None) == looked, "only the winner and the baseline are examined on test images"
        if looked:
            assert trial in confirmation.reported
            assert int(row["test_images"]) == 100
            bits = np.unpackbits(np.frombuffer(row["validation_right"], np.uint8), count=200)
            assert bits.mean() == pytest.approx(row["validation_accuracy"])
    means = {t: np.mean([outcomes[t, run]["validation_accuracy"] for run in choosing]) for t in confirmation.candidates}
    assert means[answer.winner.trial] == max(means.values())
    reported = [outcomes[answer.winner.trial, run]["validation_accuracy"] for run in reporting]
    assert answer.winner.validation.mean == pytest.approx(np.mean(reported))
    assert answer.winner.validation.std == pytest.approx(np.std(reported, ddof=1))
    assert answer.winner.validation.low <= answer.winner.validation.mean <= answer.winner.validation.high
    assert answer.looks == 1


def test_runs_of_one_seed_are_paired_and_those_of_another_are_not(tmp_path: Path) -> None:
    runs = queries.runs((result := _run(tmp_path)).results.engine, result.results.study._study_id)
    seeds = runs[runs.index.get_level_values("run") > 0]["seed"].groupby(level="run")
    assert (seeds.nunique() == 1).all()
    assert seeds.first().is_unique
    assert set(seeds.first()).isdisjoint(runs.xs(0, level="run")["seed"])


def test_a_stopped_confirmation_goes_on_to_the_same_answer(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole")
    working: list[Any] = []
    seen = 0

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += progress.what != "trials"
        if seen in (3, 9):
            seen += 1
            working[-1].request_stop()

    parts = [_run(tmp_path / "parts", on_start=working.append, on_progress=stop) for _ in range(3)]
    assert [part.interrupted for part in parts] == [True, True, False]
    assert parts[-1].results.answer is not None
    assert whole.results.answer is not None
    assert parts[-1].results.answer.winner == whole.results.answer.winner
    assert parts[-1].results.answer.gain_test == whole.results.answer.gain_test
    assert parts[-1].results.answer.looks == 1
    (confirmation,) = stored(parts[-1].results.study.user_attrs)
    assert confirmation.epochs >= whole.results.answer.epochs > 0
    assert parts[-1].results.trials["value"].equals(whole.results.trials["value"])


def test_an_interrupted_confirmation_goes_on_from_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was trained is not trained again, and the answer is that of a confirmation nobody disturbed, bit for bit."""
    monkeypatch.setattr("sweeper.confirm.CHECKPOINT_SECONDS", 0.0)
    settle = Keeper.settle

    def settle_all(keeper: Keeper) -> None:  # how far a killed one has come shall not depend on the disk
        keeper.wait()
        settle(keeper)

    monkeypatch.setattr(Keeper, "settle", settle_all)
    spec = sweeper.change_study(SMALL, training=SMALL.training.model_dump() | {"epochs": 9}, pruner={"name": "none"})
    whole = _run(tmp_path / "whole", spec).results.answer
    working: list[Any] = []

    def kill(progress: Progress) -> None:
        if progress.what != "trials" and progress.epochs >= 20:  # five epochs of an array of four
            raise ConnectionAbortedError

    for _ in range(20):
        try:
            result = _run(tmp_path / "parts", spec, on_start=working.append, on_progress=kill)
            break
        except ConnectionAbortedError:
            continue
    assert len(working) > 4
    answer = result.results.answer
    assert answer is not None
    assert whole is not None
    assert (answer.winner, answer.baseline, answer.gain_test) == (whole.winner, whole.baseline, whole.gain_test)
    runs = result.results.curves.index.droplevel("epoch").unique()
    assert len(_outcomes(result)) == len([run for _, run in runs if run])
    assert queries.checkpoints(result.results.engine, result.results.study._study_id) == []
    assert list(tmp_path.rglob("*.pt")) == []


def test_again_is_with_other_seeds_and_counted(tmp_path: Path) -> None:
    first = _run(tmp_path)
    assert _run(tmp_path).results.confirmations == first.results.confirmations, "there is nothing left to confirm"
    again = _run(tmp_path, search=False, confirm=True)
    assert again.results.answer is not None
    assert again.results.answer.looks == 2
    one, two = again.results.confirmations
    assert set(one.reporting_runs).isdisjoint([*two.choosing_runs, *two.reporting_runs])
    more = _run(tmp_path, trials=10)
    assert len(more.results.confirmations) == 3, "trials were added, so the answer is confirmed anew"
    assert (more.results.trials["state"] == "complete").sum() >= (first.results.trials["state"] == "complete").sum()


def test_a_study_may_do_without(tmp_path: Path, tiny: StudySpec) -> None:
    result = _run(tmp_path, tiny)
    assert (result.results.answer, result.results.confirmations) == (None, [])
    later = _run(tmp_path, sweeper.change_study(tiny, confirm={"top": 1, "seeds": 2}), search=False, confirm=True)
    assert later.results.answer is not None
    assert not math.isnan(later.results.answer.winner.validation.mean)
    assert later.results.trials["value"].equals(result.results.trials["value"])


def test_without_test_images_nothing_is_read_of_them(tmp_path: Path) -> None:
    spec = sweeper.change_study(SMALL, data=SMALL.data.model_dump() | {"test_size": None})
    result = _run(tmp_path, spec)
    answer = result.results.answer
    assert answer is not None
    assert (answer.winner.test, answer.looks, result.results.confirmations[0].looked) == (None, 0, False)
    assert answer.winner.validation.seeds == 3


def test_one_standard_error_prefers_the_stronger_regularization() -> None:
    accuracies = {0: [0.90, 0.92, 0.91, 0.93], 1: [0.91, 0.912, 0.911, 0.911], 2: [0.80, 0.81, 0.80, 0.79]}
    fits = {0: 0.99, 1: 0.95, 2: 0.85}
    # The best mean is 0.915 with a standard error of 0.0065: trial 1 (0.911) is within it, trial 2 is not.
    assert winner(accuracies) == 0
    assert strongest_within_one_standard_error(accuracies, fits) == 1
    assert strongest_within_one_standard_error(accuracies, fits | {1: 1.0}) == 0


def test_the_rule_is_the_studys(tmp_path: Path) -> None:
    spec = sweeper.change_study(SMALL, confirm={"top": 6, "seeds": 3, "rule": "one_standard_error"})
    result = _run(tmp_path, spec)
    (confirmation,) = result.results.confirmations
    outcomes, runs = _outcomes(result), confirmation.choosing_runs
    means = {t: np.mean([outcomes[t, run]["validation_accuracy"] for run in runs]) for t in confirmation.candidates}
    fits = {t: np.mean([outcomes[t, run]["train_accuracy"] for run in runs]) for t in confirmation.candidates}
    best = max(means, key=lambda trial: means[trial])
    assert confirmation.winner is not None
    assert fits[confirmation.winner] <= fits[best]


def test_a_search_that_its_budget_ended_is_confirmed_too(tmp_path: Path) -> None:
    result = _run(tmp_path, sweeper.change_study(SMALL, trials=30, budget={"accuracy": 0.1}))
    assert result.summary is not None
    assert result.summary.ended
    assert result.results.answer is not None
    assert not result.interrupted
    more = _run(tmp_path, sweeper.change_study(SMALL, trials=result.results.finished + 4))
    assert more.results.finished > result.results.finished
    assert len(more.results.confirmations) == 2


def test_trials_go_on_in_slots_that_ended_ones_left(tmp_path: Path) -> None:
    """A worker without orders still holds the trials that ended; more trials, or a confirmation, must find their slots free."""
    spec = sweeper.change_study(SMALL, trials=6, pruner={"name": "none"}, array={"width": 6, "workers": 1})
    answer = _run(tmp_path, spec).results.answer
    assert answer is not None
    assert set(answer.confirmed) == {answer.winner.trial, answer.baseline.trial}  # type: ignore[union-attr]


def test_a_candidate_that_diverges_over_seeds_does_not_win(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a loss, which then is no number, in a database of either kind."""
    text = TINY.replace("trials = 12", 'trials = 8\nobjectives = ["loss"]').replace("top = 0", "top = 2\nseeds = 2")
    spec = parse_study(text.replace('["cross_entropy", "mse", "hinge"]', '"mse"'), "t.toml")
    options: dict[str, Any] = {"storage": database_url, "runs": tmp_path, "in_process": True}
    best = sweeper.run_study(spec, confirm=False, **options).results.best.trial
    make = Confirmer._run

    def diverging(confirmer: Confirmer, key: int, planned: Planned) -> Run:
        run = make(confirmer, key, planned)
        chooses = planned.trial == best and not planned.examine
        return replace(run, configuration=replace(run.configuration, learning_rate=1e30)) if chooses else run

    monkeypatch.setattr(Confirmer, "_run", diverging)
    result = sweeper.run_study(spec, search=False, confirm=True, **options)
    outcomes, (confirmation,) = _outcomes(result), result.results.confirmations
    assert best in confirmation.candidates
    assert all(not outcomes[best, run]["value"] > 0 for run in confirmation.choosing_runs)
    assert result.results.answer is not None
    assert result.results.answer.winner.trial != best
    assert math.isfinite(result.results.answer.winner.validation.mean)


def test_a_confirmation_alone_is_shared_out_among_workers_that_are_not_ready_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: dict[int, int] = {}
    send = InlineExecutor.send

    def watch(executor: InlineExecutor, worker: int, orders: Orders) -> None:
        began[worker] = began.get(worker, 0) + len(orders.start)
        send(executor, worker, orders)

    spec = sweeper.change_study(SMALL, array={"width": 16, "pack": 4, "workers": 2})
    _run(tmp_path, spec, confirm=False)
    monkeypatch.setattr(InlineExecutor, "send", watch)
    _run(tmp_path, spec, search=False, confirm=True, devices=["cpu", "cpu"])
    assert len(began) == 2
    assert min(began.values()) >= 0.4 * max(began.values())


def test_an_interrupted_confirmation_gives_way_when_more_trials_change_its_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.confirm.CHECKPOINT_SECONDS", 0.0)
    working: list[Any] = []

    def stop(progress: Progress) -> None:
        if progress.what != "trials":
            working[-1].request_stop()

    few = sweeper.change_study(SMALL, trials=5)
    stopped = _run(tmp_path, few, on_start=working.append, on_progress=stop)
    assert stopped.interrupted
    (old,) = stored(stopped.results.study.user_attrs)
    result = _run(tmp_path, trials=14)
    before, now = stored(result.results.study.user_attrs)
    assert before == old
    assert set(now.candidates) - set(old.candidates)
    assert now.candidates == begin(result.results, result.results.spec.confirm).candidates
    assert set(now.choosing_runs).isdisjoint([*old.choosing_runs, *old.reporting_runs])
    assert result.results.answer is not None
    assert result.results.answer.looks == 1
    assert _run(tmp_path, trials=14).results.confirmations == result.results.confirmations, "there is nothing left to confirm"
    assert list(tmp_path.rglob("*.pt")) == []


def test_a_stop_that_an_earlier_leader_did_not_hear_stops_no_later_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.confirm.REQUEST_SECONDS", 0.0)
    first = _run(tmp_path, confirm=False)
    requests.ask(first.results.engine, first.results.study._study_id, requests.Request(requests.STOP))
    result = _run(tmp_path, search=False, confirm=True)
    assert (result.interrupted, result.confirmed) == (False, True)
    assert requests.pending(result.results.engine, result.results.study._study_id) == []
