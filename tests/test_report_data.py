"""What the figures of the report are computed from: against counts and formulas taken from the trials themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import make_up_study

import sweeper
from studies.loader import load_study, with_changes
from studies.objectives import ACCURACY
from studies.search import SearchSpec
from studies.section import RangeSpec
from sweeper.intervals import Interval
from sweeper.report import style
from sweeper.report.accuracy import accuracy_data
from sweeper.report.accuracy_figure import accuracy_figure, accuracy_picture
from sweeper.report.axis import make_axis
from sweeper.report.choices import importance_data, parallel_data
from sweeper.report.compare import compare, gain_data
from sweeper.report.curves import MOST_CURVES, curve_data
from sweeper.report.figures import pictures
from sweeper.report.files import write_files
from sweeper.report.history import history_data, pruning_data
from sweeper.report.lead import lead
from sweeper.report.losses import loss_data, loss_figure
from sweeper.report.smoothing import local_quantiles, weighted_quantiles
from sweeper.report.snapshot import Answer, Snapshot, take
from sweeper.report.surface import pairs, surface_data
from sweeper.report.table import trial_table
from sweeper.report.terminal import accuracy_plot
from sweeper.report.timeline import timeline_data, worked_seconds


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A study of the digits with 300 trials: all states, three losses; 40 are still to come."""
    return made_up(tmp_path_factory.mktemp("made-up"), trials=300, finished=260)


def made_up(folder: Path, *, finished: int | None = None, **changes: object) -> Snapshot:
    spec = with_changes(load_study("digits"), **changes)
    url = f"sqlite:///{folder}/{spec.name}.db"
    make_up_study(spec, url, finished=finished)
    return take(sweeper.open_results(spec.name, url))


def confirmed(study: Snapshot, **intervals: Interval) -> Snapshot:
    best, baseline = study.answer.best, study.answer.baseline
    assert best
    assert baseline
    numbers = {"best": best.trial, "baseline": baseline.trial}
    over_seeds = {numbers[name]: interval for name, interval in intervals.items()}
    return replace(study, answer=replace(study.answer, confirmed=over_seeds))


def test_every_started_trial_is_a_point_at_its_strength(study: Snapshot) -> None:
    data = accuracy_data(study, "l1")
    started = study.trials[study.trials["state"] != "waiting"]
    assert set(data.points.index) == set(started.index)
    applied = data.points[data.points["strength"] > 0]
    assert (applied["x"] == applied["strength"]).all()
    none = data.points[data.points["strength"] == 0]
    assert set(none["x"]) == {data.axis.none_at}
    assert data.axis.none_at is not None
    assert data.axis.extent[0] < data.axis.none_at < study.spec.search.ranges["l1"].low
    assert (data.points["gap"].dropna() == (started["train_accuracy"] - started["accuracy"]).dropna()).all()


def test_the_line_of_the_better_trials_lies_above_that_of_half_of_them(study: Snapshot) -> None:
    data = accuracy_data(study, "l2")
    band = data.bands["value"]
    assert (band["low"] <= band["centre"]).all()
    assert (band["centre"] <= band["high"]).all()
    finished = study.finished
    assert band["high"].max() <= finished["accuracy"].max()
    assert band["x"].between(finished["l2"][finished["l2"] > 0].min() * 0.999, finished["l2"].max() * 1.001).all()
    # so strong a penalty was made up to end at chance level
    assert band.iloc[-1]["high"] < 0.5 < band.iloc[len(band) // 3]["high"]


def test_the_axis_shows_the_better_trials_and_says_how_many_it_does_not(study: Snapshot) -> None:
    trials = study.trials.copy()
    trials.loc[trials["state"] == "pruned", "value"] = np.linspace(0.85, 0.93, (trials["state"] == "pruned").sum())
    worst = trials.index[trials["state"] == "pruned"][:9]
    trials.loc[worst, "value"] = 0.1
    data = accuracy_data(replace(study, trials=trials), "dropout")
    assert data.floor is not None
    assert 0.1 < data.floor < 0.9
    assert data.hidden == (trials["value"] < data.floor).sum() >= 9
    figure = accuracy_figure(data)
    assert figure.layout.yaxis.range[0] == data.floor
    assert any(str(data.hidden) in a.text for a in figure.layout.annotations)


def test_figures_show_intervals_when_the_winner_is_confirmed(study: Snapshot) -> None:
    plain = accuracy_figure(accuracy_data(study, "l2"))
    assert not any(trace.error_y.array is not None for trace in plain.data)
    sure = confirmed(study, best=Interval(0.94, 0.93, 0.95, 5), baseline=Interval(0.90, 0.89, 0.91, 5))
    figure = accuracy_figure(accuracy_data(sure, "l2"))
    star = next(trace for trace in figure.data if trace.error_y.array is not None)
    assert star.y[0] == 0.94
    assert [star.error_y.array[0], star.error_y.arrayminus[0]] == pytest.approx([0.01, 0.01])
    assert sorted((s.y0, s.y1) for s in figure.layout.shapes if s.type == "rect") == [(0.89, 0.91)]


def test_losses_are_compared_over_seeds_if_all_of_them_were_trained_over_seeds(study: Snapshot) -> None:
    """A mean over seeds beside the luckiest of many single trials would be no comparison."""
    raw = loss_data(study)
    trials = [int(trial) for trial in raw.losses["best_trial"]]
    for count, drawn in ((1, 0), (len(trials), 1)):
        seeds = {trial: Interval(0.8 + place / 100, 0.7, 0.9, 5) for place, trial in enumerate(trials[:count])}
        data = loss_data(replace(study, answer=replace(study.answer, confirmed=seeds)))
        assert [trace.error_x.array is not None for trace in loss_figure(data).data].count(True) == drawn
        assert data.losses["best"].tolist() == pytest.approx([0.8, 0.81, 0.82] if drawn else raw.losses["best"].tolist())


def test_the_lead_is_honest_about_what_is_not_confirmed(study: Snapshot) -> None:
    said = lead(study)
    assert f"Not finished: {study.ended} of 300 trials have ended, 16 are running." in said.cautions
    assert any(f"Not confirmed: this is the best of {study.ended} trials" in line for line in said.cautions)
    assert len(said.numbers) == 3
    sure = lead(confirmed(study, best=Interval(0.94, 0.93, 0.95, 5), baseline=Interval(0.90, 0.89, 0.91, 5)))
    assert not any("Not confirmed" in line for line in sure.cautions)
    assert [number.value for number in sure.numbers] == ["94.00 %", "+4.00 points", "±1.0 points"]
    assert any("expect a little less on new ones" in line for line in sure.cautions)
    tested = replace(study.answer, test=Interval(0.93, 0.92, 0.94, 5), test_gain=Interval(0.03, 0.01, 0.05, 5))
    known = confirmed(replace(study, answer=tested), best=Interval(0.94, 0.93, 0.95, 5))
    (line,) = (line for line in lead(known).cautions if line.startswith("Confirmed"))
    assert "on test images, which took no part in any choice, 93.00 % (92.00 % to 94.00 %), +3.00 points over" in line


def test_losses_are_compared_by_their_best_complete_trial(study: Snapshot) -> None:
    data = loss_data(study)
    complete = study.trials[study.trials["state"] == "complete"]
    for loss, row in data.losses.iterrows():
        mine = complete[complete["loss"] == loss]
        assert row["best"] == mine["accuracy"].max()
        assert mine.loc[row["best_trial"], "accuracy"] == row["best"]
        assert row["baseline"] == mine[mine["role"] == "baseline"]["accuracy"].item()
    assert data.losses["best"].is_monotonic_increasing


def test_curves_are_few_and_always_those_of_the_best_and_the_baseline(study: Snapshot) -> None:
    data = curve_data(study)
    assert len(data.states) <= MOST_CURVES + 10 < data.total
    assert {data.best, data.baseline} <= set(data.states.index)
    assert data.rungs == [11, 33]
    best = data.curves[data.curves.index == data.best]
    assert best["validation"].iloc[-1] == study.trials.loc[data.best, "accuracy"]


def test_pruning_saved_what_the_pruned_trials_did_not_train(study: Snapshot) -> None:
    data = pruning_data(study)
    trials = study.trials
    pruned = trials[trials["state"] == "pruned"]
    assert data.unpruned - data.trained == (60 - pruned["epochs"]).sum()
    assert data.alive.sum() == data.trained
    assert data.alive.iloc[0] == data.possible == (trials["state"].isin(["complete", "pruned"])).sum()
    assert data.alive.is_monotonic_decreasing


def test_the_history_counts_all_epochs_and_never_falls(study: Snapshot) -> None:
    trials = history_data(study).trials
    assert trials["epochs_spent"].iloc[-1] == study.finished["epochs"].sum()
    assert trials["best"].dropna().is_monotonic_increasing
    assert study.answer.best
    assert trials["best"].iloc[-1] == study.answer.best.value


def test_no_slot_holds_two_trials_at_once_and_workers_share_none(study: Snapshot) -> None:
    data = timeline_data(study)
    assert sum(len(lanes) for lanes in data.lanes.values()) == 16
    assert set(data.lanes) == {0, 1}
    for lane, bars in data.bars.groupby("lane"):
        ordered = bars.sort_values("begin")
        assert (ordered["begin"].to_numpy()[1:] >= ordered["end"].to_numpy()[:-1] - 2e-3).all()
        assert ordered["worker"].nunique() == 1
        assert lane in data.lanes[ordered["worker"].iloc[0]]
    assert 0.8 < data.full <= 1


def test_a_pause_between_two_calls_is_no_time_of_work(study: Snapshot) -> None:
    before = worked_seconds(study)
    trials = study.trials.copy()
    late = trials["started"] > trials["started"].min() + pd.Timedelta(seconds=before["end"].max() / 2)
    resting = trials.loc[~late, "finished"].max()
    shift = resting + pd.Timedelta(hours=9) - trials.loc[late, "started"].min()
    trials.loc[late, ["started", "finished"]] += shift
    after = worked_seconds(replace(study, trials=trials))
    assert after["end"].max() < before["end"].max() + 120
    assert ((after["end"] - after["begin"]) - (before["end"] - before["begin"]))[~late].abs().max() < 1e-6


def test_importances_are_those_of_optuna_and_sum_to_one(study: Snapshot) -> None:
    data = importance_data(study)
    assert set(data.importances.index) == {"l1", "l2", "dropout", "loss"}
    assert data.importances.sum() == pytest.approx(1)
    assert data.importances["loss"] < data.importances[["l1", "l2"]].max()


def test_parallel_coordinates_stay_on_their_axes(study: Snapshot) -> None:
    data = parallel_data(study)
    assert data.axes == ["l1", "l2", "dropout", "loss"]
    assert ((data.lines[data.axes] >= 0) & (data.lines[data.axes] <= 1)).all(axis=None)
    assert set(data.lines["rank"]) == set(range(5))


def test_surfaces_are_blank_where_no_trials_are_and_within_their_accuracies(study: Snapshot) -> None:
    assert pairs(study) == [("l1", "l2"), ("l1", "dropout"), ("l2", "dropout")]
    data = surface_data(study, "l1", "dropout")
    known = data.surface[~np.isnan(data.surface)]
    assert known.min() >= data.points["value"].min()
    assert known.max() <= data.points["value"].max()
    lonely = study.finished.index[:4]
    few = replace(study, trials=study.trials.loc[lonely])
    assert np.isnan(surface_data(few, "l1", "dropout").surface).any()


def test_the_table_has_every_started_trial_the_best_first(study: Snapshot) -> None:
    table = trial_table(study)
    started = study.trials[study.trials["state"] != "waiting"]
    assert sorted(row.values[0] for row in table.rows) == list(started.index)
    assert study.answer.best
    assert table.rows[0].values[0] == study.answer.best.trial
    assert table.rows[0].mark == "best"
    assert sum(row.mark == "baseline" for row in table.rows) == 3
    assert all(len(row.values) == len(row.shown) == len(table.columns) for row in table.rows)


def test_several_studies_are_compared_by_answer_and_gain(study: Snapshot, tmp_path: Path) -> None:
    other = made_up(tmp_path, name="other", trials=60, seed=5)
    comparison = compare([study, other])
    assert [row[0] for row in comparison.rows] == ["digits", "other"]
    assert {"gains", "compared-l1", "compared-l2", "compared-dropout", "progress"} == {p.name for p in comparison.pictures}
    data = gain_data([study, other])
    assert study.answer.gain == data.loc["digits", "best"] - data.loc["digits", "baseline"]


@pytest.mark.parametrize("finished", [0, 1, 5])
def test_a_study_that_has_just_begun_has_figures_too(finished: int, tmp_path: Path) -> None:
    young = made_up(tmp_path, trials=30, finished=finished)
    assert len(list(pictures(young))) >= 5
    assert lead(young).cautions[0].startswith("Not finished")
    assert accuracy_picture(young, "l1").reading == "Too few trials have finished to say."


def test_a_study_of_one_number_and_one_loss_has_no_figures_of_several(tmp_path: Path) -> None:
    search = {"l2": load_study("digits").search.l2}
    alone = made_up(tmp_path, trials=60, search=search)
    names = [picture.name for picture in pictures(alone)]
    assert names == ["accuracy-l2", "curves", "history-epochs", "history-time", "pruning", "timeline"]


@pytest.mark.parametrize("width", [20, 44, 80, 200])
def test_the_terminal_picture_fits_and_has_the_best_and_the_axis(study: Snapshot, width: int) -> None:
    lines = accuracy_plot(accuracy_data(study, "l2"), width).plain.splitlines()
    assert max(map(len, lines)) <= max(width, 30)
    assert sum("★" in line for line in lines) == 2  # in the picture and in the legend
    assert any("none" in line and "10⁻¹" in line for line in lines)


@given(
    low=st.floats(1e-8, 1e-3),
    decades=st.floats(0.5, 6),
    log=st.booleans(),
    share=st.floats(0, 1),
)
def test_an_axis_keeps_order_and_holds_its_range(low: float, decades: float, log: bool, share: float) -> None:
    high = low * 10**decades
    axis = make_axis("l2", SearchSpec(l2=RangeSpec(low=low, high=high, log=log, zero_below=low * 1.2)))
    assert axis.none_at is not None
    inside = low * (high / low) ** share
    units = [float(axis.unit([place])[0]) for place in (axis.none_at, low, inside, high)]
    assert all(0 <= unit <= 1 for unit in units)
    assert units[0] <= units[1] <= units[2] + 1e-9 <= units[3] + 2e-9
    assert all(0 <= float(axis.unit([tick])[0]) <= 1 for tick in axis.ticks)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0.05, 0.95))
def test_quantiles_of_equal_weights_are_those_of_hazen(values: list[float], quantile: float) -> None:
    array = np.array(values)
    found = weighted_quantiles(array, np.ones((1, len(array))), (quantile,))[0, 0]
    assert found == pytest.approx(np.quantile(array, quantile, method="hazen"), abs=1e-9)


def test_smooth_quantiles_of_a_constant_are_that_constant_and_follow_a_step() -> None:
    places = np.linspace(0, 1, 200)
    at = np.linspace(0, 1, 41)
    flat = local_quantiles(at, places, np.full(200, 0.7), (0.1, 0.5, 0.9), 0.05)
    assert flat == pytest.approx(0.7)
    step = local_quantiles(at, places, (places > 0.5).astype(float), (0.5,), 0.02)[:, 0]
    assert step[:15] == pytest.approx(0.0)
    assert step[-15:] == pytest.approx(1.0)


def test_colours_stay_apart_in_the_dark_and_for_the_colour_blind() -> None:
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:  # WCAG 2.2, 1.4.3 and 1.4.11
        high, low = sorted((lightness(a), lightness(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    dark = {colour: style.DARK.get(colour, colour) for colour in (style.BACKGROUND, style.INK, style.SOFT, *style.SERIES)}
    assert len(set(dark.values())) == len(dark)
    for ground, ink, soft in (
        (style.BACKGROUND, style.INK, style.SOFT),
        tuple(dark[c] for c in (style.BACKGROUND, style.INK, style.SOFT)),
    ):
        assert contrast(ground, ink) >= 7
        assert contrast(ground, soft) >= 4.5
    assert all(contrast(dark[style.BACKGROUND], dark[colour]) >= 3 for colour in style.SERIES)
    assert all(math.isclose(contrast(c, c), 1) for c in style.SERIES)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_written_as_files(study: Snapshot, tmp_path: Path, kind: str) -> None:
    written = write_files([study], tmp_path, [kind])
    assert [path.name for path in written] == [f"trials.{kind}", f"epochs.{kind}"]
    read = pd.read_csv if kind == "csv" else pd.read_parquet
    trials, epochs = (read(path) for path in written)
    assert list(trials["trial"]) == list(study.trials.index)
    assert set(trials["study"]) == {"digits"}
    pd.testing.assert_series_equal(trials["accuracy"], study.trials["accuracy"], check_index=False)
    assert len(epochs) == len(study.curves)


def test_a_format_that_does_not_exist_is_a_clear_line(study: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(sweeper.UsageError, match=r"--format: found pdf \(allowed: html, png, svg, csv, parquet\)"):
        write_files([study], tmp_path, ["html", "pdf"])
    assert not list(tmp_path.iterdir())


def test_without_a_chrome_one_line_says_what_to_do(study: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(sweeper.UsageError, match=r"draws with Chrome or Chromium.*apt install chromium.*--format html"):
        write_files([study], tmp_path / "out", ["svg"])


def test_choices_and_numbers_that_only_some_trials_have_are_drawn(tmp_path: Path) -> None:
    search = {
        "penalty": ["none", "l1", "l2"],
        "l1": {"low": 1e-6, "high": 1e-2, "log": True},
        "l2": [1e-5, 1e-4, 1e-3, 1e-2],
        "dropout": [0.0, 0.25, 0.5],
        "focal_gamma": {"low": 0.5, "high": 4.0},
        "loss": ["cross_entropy", "focal"],
    }
    study = made_up(tmp_path, trials=120, search=search)
    drawn = {picture.name for picture in pictures(study)}
    assert {"accuracy-l1", "accuracy-l2", "accuracy-dropout", "accuracy-focal_gamma", "parallel", "importances"} <= drawn
    l1 = accuracy_data(study, "l1")
    without = l1.points[l1.points["strength"] == 0]
    assert len(without) > 40
    assert set(without["x"]) == {l1.axis.none_at}
    assert set(study.trials.loc[study.trials["focal_gamma"].notna(), "loss"]) == {"focal"}


def test_figures_of_what_is_minimized_mirror_those_of_what_is_maximized(study: Snapshot) -> None:
    """The same trials, their values negated and the lower the better: the same are best, hidden and drawn on top."""
    down = replace(ACCURACY, name="down", minimized=True)
    trials, pruned = study.trials.copy(), study.trials["state"] == "pruned"
    trials.loc[pruned, "value"] = np.linspace(0.85, 0.93, pruned.sum())
    trials.loc[trials.index[pruned][:9], "value"] = 0.1
    best, baseline = (trial and replace(trial, value=-trial.value) for trial in (study.answer.best, study.answer.baseline))
    up = replace(study, trials=trials)
    mirrored = replace(up, trials=trials.assign(value=-trials["value"]), answer=Answer(down, best, baseline))

    one, two = (accuracy_data(each, "dropout") for each in (up, mirrored))
    assert one.floor is not None
    assert two.floor == pytest.approx(-one.floor)
    assert two.hidden == one.hidden > 0
    assert two.bands["value"]["high"].to_numpy() == pytest.approx(-one.bands["value"]["high"].to_numpy(), abs=1e-9)
    low, high = accuracy_figure(two).layout.yaxis.range
    assert (-high, -low) == pytest.approx(accuracy_figure(one).layout.yaxis.range)
    assert history_data(mirrored).trials["best"].dropna().tolist() == (-history_data(up).trials["best"].dropna()).tolist()
    losses = [loss_data(each).losses for each in (up, mirrored)]
    assert list(losses[0].index) == list(losses[1].index)
    assert losses[0]["best_trial"].tolist() == losses[1]["best_trial"].tolist()
    assert (losses[0]["best"] == -losses[1]["best"]).all()
    ranks = [parallel_data(each).lines["rank"] for each in (up, mirrored)]
    assert (ranks[0].sort_index() == ranks[1].sort_index()).mean() > 0.98, "but for ties"
    assert importance_data(mirrored).importances.to_dict() == pytest.approx(importance_data(up).importances.to_dict())
    surfaces = [surface_data(each, "l1", "l2") for each in (up, mirrored)]
    assert (surfaces[0].low, surfaces[0].high) == pytest.approx((-surfaces[1].low, -surfaces[1].high))
    tables = [[row.values[0] for row in trial_table(each).rows] for each in (up, mirrored)]
    assert tables[0][:5] == tables[1][:5]
    assert lead(mirrored).numbers[0].name == "validation accuracy of the best trial"
