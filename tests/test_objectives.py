"""A search may be after any metric: each is what its formula says, and all that ranks, stops or chooses turns with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from helpers import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, recall_score

import sweeper
from storage import queries
from storage.engine import open_database, open_to_read
from storage.errors import StorageUnavailable
from storage.tables import SCHEMA_VERSION
from studies.errors import SpecError
from studies.loader import parse_study
from studies.objectives import ACCURACY, OBJECTIVES, Objective
from studies.strategy import BudgetSpec, PrunerSpec
from sweeper.answer import candidates, strongest_within_one_standard_error, winner
from sweeper.answer_words import describe_difference
from sweeper.api import list_studies
from sweeper.budget import Budget
from sweeper.comparison import Difference, compare_studies
from sweeper.errors import UsageError
from sweeper.export import best_file
from sweeper.intervals import Interval
from sweeper.overview import status_of
from sweeper.progress import Leader, Tally
from sweeper.pruning import Standing, SuccessiveHalving, make_pruner
from sweeper.report.accuracy import accuracy_data
from sweeper.report.compare import compare
from sweeper.report.figures import pictures
from sweeper.report.lead import lead
from sweeper.report.page import report_page
from sweeper.report.snapshot import Answer, take
from sweeper.report.terminal import accuracy_plot
from sweeper.search import make_job
from sweeper.training.datasets import load_data
from sweeper.training.measures import MEASURES, image_scores
from sweeper.trial import Configuration
from sweeper.words import what_it_runs

ONE_LOSS = TINY.replace('["cross_entropy", "mse", "hinge"]', '"cross_entropy"')
SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "best.schema.json").read_text())


def _after(*objectives: str, text: str = ONE_LOSS) -> str:
    return text.replace("trials = 12", f"trials = 12\nobjectives = {json.dumps(objectives)}")


def _run(folder: Path, text: str, storage: str | None = None, **options: Any) -> sweeper.StudyResult:
    folder.mkdir(exist_ok=True)
    spec = parse_study(text, "t.toml")
    return sweeper.run_study(spec, storage=storage or f"sqlite:///{folder / 'test.db'}", runs=folder, in_process=True, **options)


def _ranked(folder: Path, text: str = ONE_LOSS) -> sweeper.StudyResult:
    return _run(folder, text.replace("trials = 12", "trials = 8"))


# What the metrics are


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(4, 60))
@settings(max_examples=50, deadline=None)
def test_scores_of_images_add_up_to_their_metric(seed: int, classes: int, images: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    assert MEASURES["log_loss"](logits, labels) == pytest.approx(
        log_loss(labels, logits.softmax(dim=1), labels=list(range(classes)))
    )
    there = sorted(set(labels.tolist()))
    recall = recall_score(labels, logits.argmax(dim=1), average="macro", labels=there, zero_division=0)
    assert MEASURES["balanced_accuracy"](logits, labels) == pytest.approx(recall)
    present = [float((logits.argmax(dim=1)[labels == c] == c).double().mean()) for c in range(classes) if (labels == c).any()]
    assert MEASURES["worst_class_accuracy"](logits, labels) == pytest.approx(min(present))
    for name in ("macro_f1", "ece", "log_loss", "balanced_accuracy", "worst_class_accuracy"):
        scores = image_scores(name, logits, labels)
        assert scores.shape == (images,)
        assert float(scores.mean()) == pytest.approx(MEASURES[name](logits, labels), abs=1e-9), name


@pytest.mark.parametrize("name", ["macro_f1", "ece", "balanced_accuracy", "worst_class_accuracy"])
def test_scores_of_images_vary_as_their_metric_does(name: str) -> None:
    """Against the bootstrap itself: images drawn with replacement, the metric computed anew of each draw.

    The network is too sure of itself: at a bin that is calibrated, the calibration error bends, and the scores err to the wide
    side.
    """
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(4, (600,), generator=generator)
    logits = torch.randn(600, 4, generator=generator, dtype=torch.float64) + torch.tensor([0.6, 1.4, 2.2, 3.0])[labels][
        :, None
    ] * torch.nn.functional.one_hot(labels, 4)
    logits = 2 * logits
    draws = [torch.randint(600, (600,), generator=generator) for _ in range(1500)]
    measured = np.std([MEASURES[name](logits[drawn], labels[drawn]) for drawn in draws])
    scores = image_scores(name, logits, labels)
    assert float(scores.std()) / np.sqrt(600) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize("name", ["macro_f1", "ece", "log_loss", "balanced_accuracy", "worst_class_accuracy", "gap"])
def test_a_trials_value_is_the_metric_of_its_network(tmp_path: Path, name: str) -> None:
    """Of a saved network, by whoever computes it: nothing of the search is between."""
    text = _after(name, text=TINY).replace("width = 4", "width = 1").replace("trials = 12", "trials = 5")
    result = _run(tmp_path, text)
    objective = OBJECTIVES[name]
    complete = result.results.trials[result.results.trials["state"] == "complete"]["value"]
    assert result.results.best.value == (complete.min() if objective.minimized else complete.max())
    file = best_file(result.results)
    jsonschema.validate(json.loads(file.model_dump_json()), SCHEMA)
    assert (file.objective.name, file.objective.minimized, file.objective.value) == (
        name,
        objective.minimized,
        result.results.best.value,
    )
    replay = sweeper.train_best(file, in_process=True, save=tmp_path / "model.pt")
    assert replay.value == file.objective.value, "alone, bit for bit"
    network, prepare = sweeper.load_model(tmp_path / "model.pt")
    part = load_data(make_job(parse_study(text, "t.toml"), "cpu", 1).data).validation
    with torch.inference_mode():
        logits = network(prepare(part.images))
    predicted = logits.argmax(dim=1)
    accuracy = float((predicted == part.labels).double().mean())
    assert file.metrics.validation_accuracy == pytest.approx(accuracy)
    expected = {
        "macro_f1": lambda: f1_score(part.labels, predicted, average="macro", labels=list(range(10)), zero_division=0),
        "ece": lambda: _ece(logits.softmax(dim=1).numpy(), part.labels.numpy()),
        "log_loss": lambda: log_loss(part.labels, logits.double().softmax(dim=1), labels=list(range(10))),
        "balanced_accuracy": lambda: balanced_accuracy_score(part.labels, predicted),
        "worst_class_accuracy": lambda: min(float((predicted[part.labels == c] == c).double().mean()) for c in range(10)),
        "gap": lambda: (file.metrics.train_accuracy or 0) - accuracy,
    }
    assert file.objective.value == pytest.approx(expected[name](), abs=1e-5)


def _ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the sum over bins of their share times the distance of accuracy and confidence (Guo et al. 2017, equation 3)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * 15), 1, 15)
    return float(sum((bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean()) for b in np.unique(bins)))


# What turns with the direction

UP, DOWN = Objective("up", "up", is_share=False), Objective("down", "down", minimized=True, is_share=False)
VALUES = st.lists(st.floats(-5, 5, allow_nan=False), min_size=2, max_size=20)


@given(VALUES, st.integers(1, 5), st.floats(-5, 5))
@settings(deadline=None)
def test_all_that_ranks_turns_with_the_direction(values: list[float], top: int, target: float) -> None:
    """Minimizing some values is maximizing their negatives: the same are stopped, lead, end the study, are chosen."""
    found = []
    for objective, seen in ((UP, values), (DOWN, [-value for value in values])):
        ranks = dict(enumerate(map(objective.rank, seen)))
        stopped = SuccessiveHalving(1, 2, 9).decide([Standing(number, 1, rank) for number, rank in ranks.items()])
        tally = Tally(objective)
        budget = Budget(BudgetSpec(target=objective.rank(target)), objective)
        spent = []
        for number, value in enumerate(seen):
            tally.rank(Leader(number, value, Configuration(), objective))
            spent.append(budget.spent(tally) is not None)
        seeds = {number: [rank, rank - 0.1, rank + 0.2] for number, rank in ranks.items()}
        fits = {number: number / 9 for number in ranks}
        found.append(
            (
                stopped, tally.leader and tally.leader.trial, tally.since_leader, spent,
                candidates(ranks, top, {number: number for number in ranks}), winner(seeds),
                strongest_within_one_standard_error(seeds, fits),
            )
        )  # fmt: skip
    assert found[0] == found[1]
    leader = found[0][1]
    assert leader is not None
    assert values[leader] == max(values)


@pytest.mark.parametrize("name", ["successive_halving", "hyperband", "median", "percentile"])
def test_pruners_stop_the_worse_ones_whichever_way_that_is(name: str) -> None:
    """Optuna's by the study's direction, ours by rank: both stop the same trials of the mirrored study."""
    stopped = []
    for direction, sign in (("maximize", 1), ("minimize", -1)):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(study_name="mirror", direction=direction)
        own = {"startup_trials": 2} if name in ("median", "percentile") else {}
        pruner = make_pruner(PrunerSpec.model_validate({"name": name, "min_epochs": 1} | own), 4, study)
        for value in (0.5, 0.6, 0.7):
            trial = study.ask()
            for epoch in range(1, 5):
                trial.report(sign * value, epoch)
            study.tell(trial, sign * value)
        running = [study.ask() for _ in range(6)]
        cohort = []
        for number, trial in enumerate(running, start=1):
            trial.report(sign * number / 8.2, 1)
            cohort.append(Standing(trial.number, 1, OBJECTIVES["loss" if sign < 0 else "accuracy"].rank(sign * number / 8.2)))
        stopped.append(pruner.decide(cohort))
    assert stopped[0] == stopped[1] != set()
    assert max(trial.number for trial in running) not in stopped[0]


# What a study may be after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_after("loss", text=TINY), "trials differ in their loss.*log_loss"),
        (_after("loss").replace("[search]", "[search]\nlabel_smoothing = { low = 0.0, high = 0.2 }"), "search.label_smoothing"),
        (_after("ece", "ece"), "twice"),
        (_after("loss") + "[budget]\naccuracy = 0.9\n", "budget.target"),
        (_after("zero_weights"), "zero_weights needs search.l1"),
        (_after("accuracy") + "[budget]\naccuracy = 0.9\ntarget = 0.8\n", "leave one of them out"),
        (_after("sharpness"), "objectives"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_study(text, "t.toml")


def test_patience_looks_at_what_the_study_is_after_unless_told_otherwise() -> None:
    assert parse_study(ONE_LOSS, "t.toml").training.monitor == "accuracy"
    assert parse_study(_after("loss"), "t.toml").training.monitor == "loss"
    assert parse_study(_after("gap"), "t.toml").training.monitor == "accuracy", "a gap does not tell when to stop"
    told = _after("macro_f1").replace("epochs = 4", 'epochs = 4\nmonitor = "log_loss"')
    job = make_job(parse_study(told, "t.toml"), "cpu", 1)
    assert (job.training.monitor, job.training.monitor_minimized, job.training.objectives) == ("log_loss", True, ("macro_f1",))


# Whole studies


def test_a_study_that_minimizes_its_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _after("loss").replace("width = 4", "width = 6").replace("top = 0", "top = 2\nseeds = 3")
    text = text.replace("trials = 12", "trials = 18") + "[budget]\nno_improvement = 100\n"
    result = _run(tmp_path, text)
    results = result.results
    spec, trials = results.spec, results.trials
    assert any("validation loss, the lower the better" in line for line in what_it_runs(spec))
    assert results.study.direction == optuna.study.StudyDirection.MINIMIZE
    assert results.study.metric_names == ["validation loss"]
    losses = results.curves.xs(0, level="run")["validation_loss"]
    for trial in results.study.trials:
        assert trial.intermediate_values == losses.loc[trial.number].to_dict()
    complete = trials[trials["state"] == "complete"]["value"]
    assert results.best.trial == complete.idxmin() == results.study.best_trial.number
    pruned = trials[(trials["state"] == "pruned") & (trials["epochs"] == 1)].index
    assert len(pruned) >= 3
    first = losses.xs(1, level="epoch")
    assert first[pruned].min() > first.min(), "the best at a rung goes on"
    assert first[pruned].mean() > first.drop(pruned).mean()

    answer = results.answer
    assert answer is not None
    (confirmation,) = results.confirmations
    outcomes = results.outcomes
    means = {t: np.mean([outcomes[t, run]["value"] for run in confirmation.choosing_runs]) for t in confirmation.candidates}
    assert answer.winner.trial == min(means, key=lambda t: means[t])
    reported = [outcomes[answer.winner.trial, run]["value"] for run in confirmation.reporting_runs]
    assert answer.winner.validation.mean == pytest.approx(np.mean(reported), rel=1e-5)
    assert answer.winner.validation.std == pytest.approx(np.std(reported, ddof=1), rel=1e-4)
    assert answer.winner.validation.high > answer.winner.validation.mean > answer.winner.validation.low > 0
    beside = results.answer_by(ACCURACY)
    assert beside is not None
    accuracies = [outcomes[answer.winner.trial, run]["validation_accuracy"] for run in confirmation.reporting_runs]
    assert beside.winner.validation.mean == pytest.approx(np.mean(accuracies))

    file = result.best
    jsonschema.validate(json.loads(file.model_dump_json()), SCHEMA)
    assert file.confirmed is not None
    assert file.confirmed.objective is not None
    assert file.confirmed.objective.validation.mean == pytest.approx(answer.winner.validation.mean)
    assert file.confirmed.validation_accuracy.mean == pytest.approx(np.mean(accuracies))
    seeds = sweeper.train_best(file, in_process=True, seeds=3)
    assert seeds.over_seeds is not None
    assert seeds.over_seeds.mean == pytest.approx(np.mean([r.best.validation_loss for r in seeds.results]), rel=1e-5)

    study = take(results)
    drawn = {picture.name: picture for picture in pictures(study)}
    assert "loss-l2" in drawn
    assert drawn["loss-l2"].figure.layout.yaxis.title.text == "validation loss"
    best_so_far = next(trace for trace in drawn["history-epochs"].figure.data if trace.name == "best so far")
    assert list(best_so_far.y) == sorted(best_so_far.y, reverse=True)
    shown = lead(study)
    assert shown.numbers[0].name == "validation loss of the best trial"
    assert "%" not in shown.numbers[0].value
    assert "loss of" in shown.headline
    assert "validation loss against" in accuracy_plot(accuracy_data(study, "l2"), 80).plain
    small = replace(study, trials=study.trials.assign(value=study.trials["value"] / 5000), answer=Answer(study.objective))
    drawn_rows = [line for line in accuracy_plot(accuracy_data(small, "l2"), 80).plain.splitlines() if "│" in line]
    assert {line.index("│") for line in drawn_rows} == {8}, "long numbers have room"
    assert sum("●" in line for line in drawn_rows) > 2, "and small ones are told apart"
    page = report_page([study])
    assert "validation accuracy of the best" not in page

    other = _run(
        tmp_path, text.replace('name = "tiny"', 'name = "poor"').replace('["dense 16", "dropout"]', '["dense 2", "dropout"]')
    )
    (difference,) = compare_studies([results, other.results])
    assert difference.gap.mean < 0
    assert "tiny is better than poor: its loss is lower by" in describe_difference(difference, 1)
    third = _ranked(tmp_path, ONE_LOSS.replace('name = "tiny"', 'name = "accurate"'))
    with pytest.raises(UsageError, match="'accurate' after the validation accuracy"):
        compare_studies([results, third.results])
    beside_each_other = compare([study, take(third.results)])
    assert beside_each_other.pictures == [], "a loss and an accuracy have no axis in common"
    assert beside_each_other.rows[0][1].startswith("loss ")
    rows = {row.name: row for row in list_studies(f"sqlite:///{tmp_path / 'test.db'}")}
    assert rows["tiny"].best == results.best.value
    assert (rows["tiny"].objective, rows["accurate"].objective) == ("loss", "accuracy")
    assert rows["accurate"].best == third.results.best.value


def test_patience_brings_back_the_epoch_of_the_least_loss(tmp_path: Path) -> None:
    text = _after("loss").replace("epochs = 4", "epochs = 25\npatience = 3").replace("learning_rate = 1e-2", "learning_rate = 5e-2")
    results = _run(tmp_path, text.replace("min_epochs = 1\nreduction_factor = 2", 'name = "none"')).results
    losses = results.curves.xs(0, level="run")["validation_loss"]
    ends = []
    for trial in results.study.trials:
        curve = losses.loc[trial.number]
        assert trial.value == curve.min()
        assert trial.user_attrs["best_epoch"] == curve.idxmin()
        ends.append(len(curve) - curve.idxmin())
    assert 3 in ends, "some stopped early"


@pytest.mark.parametrize(("target", "reached"), [(10.0, True), (1e-9, False)])
def test_a_target_is_reached_from_its_side(tmp_path: Path, target: float, reached: bool) -> None:
    result = _run(tmp_path, _after("log_loss", text=TINY) + f"[budget]\ntarget = {target}\n")
    assert result.summary is not None
    assert (result.summary.ended is not None) == reached
    if reached:
        assert "validation log loss" in str(result.summary.ended)


def test_folds_have_a_value_each_and_their_mean_is_the_trials(tmp_path: Path) -> None:
    text = _after("ece", text=TINY).replace("test_size = 100", "test_size = 100\nfolds = 2").replace("trials = 12", "trials = 5")
    results = _run(tmp_path, text).results
    for trial in results.study.trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.value == pytest.approx(np.mean(trial.user_attrs["fold_values"]))
            assert trial.value != trial.user_attrs["validation_accuracy"]
    assert results.best.value == min(t.value for t in results.study.trials if t.state == TrialState.COMPLETE)


def test_two_objectives_of_different_directions(tmp_path: Path) -> None:
    result = _run(tmp_path, _after("accuracy", "ece", text=TINY.replace("[pruner]\nmin_epochs = 1\nreduction_factor = 2\n", "")))
    front = result.results.pareto
    values = {best.trial: (best.value, result.results.second_value(best)) for best in front}
    assert [accuracy for accuracy, _ in values.values()] == sorted((a for a, _ in values.values()), reverse=True)
    assert [error for _, error in values.values()] == sorted((e for _, e in values.values()), reverse=True), "a trade-off"
    file = result.best
    jsonschema.validate(json.loads(file.model_dump_json()), SCHEMA)
    assert {one.trial: (one.value, one.second_value) for one in status_of(result.results).pareto} == values
    assert [part.values for part in file.pareto] == [dict(zip(("accuracy", "ece"), pair, strict=True)) for pair in values.values()]


def test_the_share_of_zero_weights_alone(tmp_path: Path) -> None:
    text = _after("zero_weights", text=TINY).replace("[array]", '[penalties.l1]\nmethod = "proximal"\n[array]')
    text = text.replace("high = 1e-2, log", "high = 1.0, log")
    result = _run(tmp_path, text.replace("top = 0", "top = 1\nseeds = 2").replace("trials = 12", "trials = 8"))
    results = result.results
    assert results.best.value == results.trials["value"].max() > 0
    assert results.best.value == pytest.approx(results.best.facts["zero_weights"])
    answer = results.answer
    assert answer is not None
    assert 0 < answer.winner.validation.mean <= 1


def test_a_difference_says_which_way_it_is_better() -> None:
    loss = Difference("a", "b", Interval(-0.05, -0.07, -0.03, 5), "test", 0.001, OBJECTIVES["loss"])
    assert describe_difference(loss, 1) == "a is better than b: its loss is lower by 0.05 ± 0.02 (test images, 5 seeds; p = 0.001)"
    ece = Difference("a", "b", Interval(0.02, 0.01, 0.03, 5), "test", 0.001, OBJECTIVES["ece"])
    assert "a is worse than b: its calibration error is higher by 2.00 ± 1.00 points" in describe_difference(ece, 1)
    unsure = Difference("a", "b", Interval(-0.05, -0.1, 0.01, 5), "test", 0.2, OBJECTIVES["macro_f1"])
    assert "not shown to differ in macro-F1: −0.05 ± 0.055 (" in describe_difference(unsure, 1)


def test_a_database_from_before_is_upgraded_and_its_answer_stays(tmp_path: Path, database_url: str) -> None:
    url = database_url
    before = _run(tmp_path, ONE_LOSS.replace("top = 0", "top = 1\nseeds = 2").replace("trials = 12", "trials = 5"), url)
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for column in ("value", "validation_scores", "test_scores"):
            connection.execute(sqlalchemy.text(f"ALTER TABLE sweeper_outcomes DROP COLUMN {column}"))
        connection.execute(sqlalchemy.text("UPDATE sweeper_schema SET version = 2"))
    engine.dispose()
    with pytest.raises(StorageUnavailable, match="sweeper storage upgrade"):
        open_to_read(url)
    storage = open_database(url)
    with storage.engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT version FROM sweeper_schema")) == SCHEMA_VERSION
    assert queries.outcomes(storage.engine, before.results.study._study_id)
    assert sweeper.open_results("tiny", url).answer == before.results.answer
