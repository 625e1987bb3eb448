# ruff: noqa: E501
"""A wrong study file is told with its key, what was found, what is allowed, and the nearest right spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import TINY

from studies.errors import SpecInvalid, StudyUnknown
from studies.loader import load_study, parse_study, ready_studies, with_changes
from studies.spec import LayerSpec, RangeSpec, StudySpec


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("train_size = 200", "train_sise = 200", ["data.train_sise: unknown key; did you mean train_size?", "data.train_size: missing"]),
        ("trials = 12", 'trials = "12"', ["trials: found '12': input should be a valid integer"]),
        ("trials = 12", "trials = 0", ["trials: found 0: input should be greater than 0"]),
        ('"digits"', '"digit"', ["data.name: found 'digit'; did you mean digits? (allowed: digits)"]),
        ('"mse"', '"mes"', ["search.loss.1: found 'mes'; did you mean mse? (allowed: cross_entropy, mse, hinge)"]),
        ("high = 1e-2", "hihg = 1e-2", ["search.l1.hihg: unknown key; did you mean high? (allowed: low, high, log, zero_below)"]),
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
