# ruff: noqa: E501
"""A wrong study file is told with its key, what was found, what is allowed, and the nearest right spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import TINY

from studies.errors import SpecInvalid, StudyUnknown
from studies.loader import load_study, parse_study, ready_studies, with_changes
from studies.model import LayerSpec
from studies.section import RangeSpec
from studies.spec import StudySpec
from sweeper.search import configuration_of, first_trials


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("train_size = 200", "train_sise = 200", ["data.train_sise: unknown key; did you mean train_size?"]),
        ("trials = 12", 'trials = "12"', ["trials: found '12': input should be a valid integer"]),
        ("trials = 12", "trials = 0", ["trials: found 0: input should be greater than 0"]),
        ('"digits"', '"digit"', ["data.name: found 'digit'; did you mean digits? (allowed: digits, mnist, "]),
        ('"mse"', '"mes"', ["search.loss.1: found 'mes'; did you mean mse? (allowed: cross_entropy, mse, square, hinge, "]),
        ("high = 1e-2", "hihg = 1e-2", ["search.l1.hihg: unknown key; did you mean high? (allowed: low, high, log, step, zero_below, none_above)"]),
        ("low = 1e-6", "low = 1.0", ["search.l1: low (1) must be less than high (0.01)"]),
        ("low = 1e-6", "low = 0.0", ["search.l1: a log range cannot begin at 0"]),
        (", zero_below = 2e-6", "", ["search: l1: the baseline trains without it, so the range needs zero_below"]),
        ("zero_below = 2e-6", "zero_below = 2.0", ["search.l1: zero_below (2) must lie between"]),
        ("high = 0.8", "high = 1.0", ["search: dropout reaches 1; it must stay below 1"]),
        ("dropout = { low = 0.0, high = 0.8 }", "dropout = 'much'", ["search.dropout: found 'much': input should be a valid number"]),
        ('"dense 16"', '"dnse 16"', ["model.layers.0: found 'dnse 16': a layer is 'conv 32'"]),
        ('["dense 16", "dropout"]', '["dense 16", "conv 4"]', ["model: conv and pool come before the first dense layer"]),
        ("width = 4", "width = 4\npack = 3", ["array: width (4) must be a multiple of pack (3)"]),
        ("high = 1e-2", "high = inf", ["search.l1.high: found inf: input should be a finite number"]),
        ("learning_rate = 1e-2", "learning_rate = nan", ["training.learning_rate: found nan: input should be a finite number"]),
        ("train_size = 200", "train_size = 5000", ["data: the parts ask for 5300 images; digits has 1797"]),
        ('"dense 16"', '"conv 4", "pool 9"', ["study: model.layers: images of 8×8 pixels are too small for these layers"]),
        ('"mse", "hinge"', '"mse + hing"', ["search.loss.1: found 'mse + hing'; did you mean hinge?"]),
        ('"mse", "hinge"', '"0.3 mse + hinge"', ["search.loss.1: found '0.3 mse + hinge': give every term of a mixture a weight, or none"]),
        ('"mse", "hinge"', '"0.3 mse"', ["search.loss.1: found '0.3 mse': a single loss has no weight"]),
        ('"mse", "hinge"', '"mse + mse"', ["search.loss.1: found 'mse + mse': a mixture names a loss twice"]),
        ("[pruner]", "[search.max_norm]\nlow = 1.0\nhigh = 4.0\n[pruner]", ["search: max_norm: the baseline trains without it"]),
        ("[pruner]", "[search.elastic_net]\nlow = 0.0\nhigh = 4.0\n[pruner]", ["search: elastic_net stands for l1 and l2"]),
        ("[pruner]", "[search.learning_rate]\nlow = 0.1\nhigh = 4.0\n[pruner]", ["search.learning_rate must contain training.learning_rate (0.01)"]),
        ("[pruner]", "[search.momentum]\nlow = 0.0\nhigh = 0.9\n[pruner]", ["search.momentum: adam has no momentum"]),
        ("[pruner]", "[search.focal_gamma]\nlow = 0.0\nhigh = 3\n[pruner]", ["search.focal_gamma: none of the losses is focal"]),
        ("[pruner]", "[search.dropout_conv]\nlow = 0.0\nhigh = 0.9\n[pruner]", ["search.dropout_conv: model.layers has no such dropout layer"]),
        ("[pruner]", "[penalties.l2]\nscope = ['dense3']\n[pruner]", ["penalties.l2.scope: no layer 'dense3'; the network has dense1, output"]),
        ("[pruner]", "[[enqueue]]\nl3 = 1\n[pruner]", ["enqueue: l3 is not searched; searched are l1, l2, dropout, loss"]),
        ("[pruner]", "[[enqueue]]\nl2 = 0.5\n[pruner]", ["enqueue: search.l2 does not contain 0.5"]),
        ("[pruner]", "[[enqueue]]\nloss = 'focal'\n[pruner]", ["enqueue: search.loss does not contain 'focal'"]),
        ("learning_rate = 1e-2", "learning_rate = 1e-2\nmomentum = 0.9", ["training: momentum is for sgd and rmsprop; adam has beta1"]),
        ("learning_rate = 1e-2", "learning_rate = 1e-2\nschedule = 'cosin'", ["training.schedule.name: found 'cosin'; did you mean cosine?"]),
        ("learning_rate = 1e-2", "learning_rate = 1e-2\nclass_weights = [1.0, 2.0]", ["training.class_weights: 2 weights for the 10 classes of digits"]),
        ('layers = ["dense 16", "dropout"]', 'name = "resnet19"', ["model: name 'resnet19' is neither mlp nor resnet18 nor 'package.module:function'"]),
        ('"dense 16", "dropout"', '"dropout", "batch_norm"', ["model: batch_norm comes right after conv or dense"]),
        ("test_size = 100", "test_size = 100\nimage_size = 32", ["data: image_size is for folders; images of digits have 8×8 pixels"]),
        ("test_size = 100", "test_size = 100\nnormalize = { std = 0 }", ["data.normalize: std must be greater than 0"]),
        ("validation_size = 200", "validation_size = 1.5", ["data.validation_size: found 1.5: input should be less than 1"]),
        ("[data]", "[date]", ["date: unknown key; did you mean data?", "data: missing"]),
        ("[data]", "[data", ["not TOML"]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_where_it_is(old: str, new: str, messages: list[str]) -> None:
    assert old in TINY
    with pytest.raises(SpecInvalid) as caught:
        parse_study(TINY.replace(old, new, 1), "my.toml")
    for message in messages:
        assert any(line.startswith("my.toml: ") and message in line for line in str(caught.value).splitlines()), caught.value


def test_an_unknown_study_lists_the_ready_ones() -> None:
    with pytest.raises(StudyUnknown, match=r"ready study \(.*digits.*\); did you mean digits\?"):
        load_study("diggits")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecInvalid, match=r"binary\.toml: cannot be read"):
        load_study(str(path))


@pytest.mark.parametrize("name", ready_studies())
def test_a_ready_study_survives_a_round_trip_and_describes_itself(name: str) -> None:
    spec = load_study(name)
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert len(spec.description) > 40


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("conv 32", LayerSpec(kind="conv", units=32, kernel=3)),
        ("conv 6  5x5 same", LayerSpec(kind="conv", units=6, kernel=5, padding=2)),
        ("pool", LayerSpec(kind="pool", kernel=2)),
        ("pool 3", LayerSpec(kind="pool", kernel=3)),
        ("dense 64", LayerSpec(kind="dense", units=64)),
        ("dropout", LayerSpec(kind="dropout")),
    ],
)
def test_layers_are_read(text: str, layer: LayerSpec) -> None:
    assert LayerSpec.parse(text) == layer


def test_a_value_below_zero_below_trains_with_exactly_zero() -> None:
    searched = RangeSpec(low=1e-6, high=1e-2, log=True, zero_below=2e-6)
    assert searched.effective(1.9e-6) == 0.0
    assert searched.effective(2e-6) == 2e-6


def test_differences_name_the_key_and_both_values(tiny: StudySpec) -> None:
    assert tiny.differences(with_changes(tiny, trials=99, description="new")) == []
    assert tiny.differences(with_changes(tiny, seed=5)) == ["seed: 0 in the study, 5 now"]


def changed(text: str, *changes: tuple[str, str]) -> StudySpec:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_study(text, "changed")


def test_an_elastic_net_is_scikit_learns() -> None:
    """scikit-learn's ElasticNet: alpha·l1_ratio·|w| + alpha/2·(1 − l1_ratio)·w²."""
    spec = changed(
        TINY, ("l1 = {", "elastic_net = {"), ("l2 = { low = 1e-5, high = 1e-1, log = true, zero_below = 2e-5 }", "l1_ratio = 0.25")
    )
    configuration = configuration_of({"elastic_net": 4e-3, "dropout": 0.0, "loss": "mse"}, spec)
    assert (configuration.l1, configuration.l2) == pytest.approx((1e-3, 3e-3))
    assert configuration_of({"elastic_net": 1.5e-6, "dropout": 0.0, "loss": "mse"}, spec).l1 == 0.0


def test_weights_of_mixtures_are_searched_by_proportion_and_given_ones_kept() -> None:
    spec = changed(TINY, ('"mse", "hinge"', '"cross_entropy + hinge", "2 mse + 0.5 hinge"'))
    assert list(spec.search.ranges) == ["l1", "l2", "dropout", "mix_cross_entropy", "mix_hinge"]
    params = {"l1": 1e-3, "l2": 1e-3, "dropout": 0.1, "mix_cross_entropy": 0.9, "mix_hinge": 0.3}
    searched = configuration_of(params | {"loss": "cross_entropy + hinge"}, spec)
    assert dict(searched.loss_terms) == pytest.approx({"cross_entropy": 0.75, "hinge": 0.25})
    nothing = configuration_of(params | {"loss": "cross_entropy + hinge", "mix_cross_entropy": 0.0, "mix_hinge": 0.0}, spec)
    assert dict(nothing.loss_terms) == {"cross_entropy": 0.5, "hinge": 0.5}
    given = configuration_of(params | {"loss": "2 mse + 0.5 hinge"}, spec)
    assert dict(given.loss_terms) == {"mse": 2.0, "hinge": 0.5}
    assert dict(configuration_of(params | {"loss": "cross_entropy"}, spec).loss_terms) == {"cross_entropy": 1.0}


def test_the_baseline_has_no_regularization_and_the_reference_for_all_else() -> None:
    spec = changed(
        TINY,
        ("[pruner]", "[search.max_norm]\nlow = 1.0\nhigh = 8.0\nnone_above = 6.0\n[pruner]"),
        ("[pruner]", "[search.learning_rate]\nlow = 1e-3\nhigh = 1.0\nlog = true\n[pruner]"),
        ("[pruner]", "[search.label_smoothing]\nlow = 0.0\nhigh = 0.3\n[pruner]"),
        ("[pruner]", "[[enqueue]]\nmax_norm = 2.0\nlearning_rate = 0.1\n[pruner]"),
    )
    *baselines, enqueued = [(configuration_of(params, spec), role) for params, role in first_trials(spec)]
    assert [(c.loss, role) for c, role in baselines] == [(loss, "baseline") for loss in ("cross_entropy", "mse", "hinge")]
    for c, _ in baselines:
        assert (c.l1, c.l2, c.max_norm, c.dropout, c.label_smoothing, c.learning_rate) == (0, 0, 0, 0, 0, 1e-2)
    assert enqueued[1] == "enqueued"
    assert (enqueued[0].max_norm, enqueued[0].learning_rate, enqueued[0].l2) == (2.0, 0.1, 0.0)


def test_an_enqueued_configuration_that_is_a_baseline_is_not_tried_twice() -> None:
    spec = changed(TINY, ("[pruner]", "[[enqueue]]\nloss = 'mse'\nl2 = 0.0\n[pruner]"))
    assert [role for _, role in first_trials(spec)] == ["baseline"] * 3
