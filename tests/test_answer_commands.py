"""The commands of the answer, as they are typed: confirm, compare, export in its forms, train."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from helpers import TINY
from test_cli import sweeper

SCHEMA = Path(__file__).parent.parent / "docs" / "best.schema.json"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of two objectives, not confirmed."""
    folder = tmp_path_factory.mktemp("searched")
    proximal = '[penalties]\nl1 = { method = "proximal" }\n'
    (folder / "tiny.toml").write_text(
        'objectives = ["accuracy", "zero_weights"]\n' + TINY.replace("[pruner]\nmin_epochs = 1\nreduction_factor = 2", proximal)
    )
    sweeper("run", "tiny.toml", folder=folder)
    return folder


def test_an_answer_is_confirmed_again_and_exported_or_the_raw_best_is(searched: Path) -> None:
    raw = json.loads(sweeper("export", "tiny", folder=searched).stdout)
    assert raw["confirmed"] is None
    said = sweeper("confirm", "tiny", "--top", "2", "--seeds", "2", "--workers", "1", folder=searched).stdout
    assert "over 2 fresh seeds" in said or "over 2 seeds" in said
    confirmed = json.loads(sweeper("export", "tiny", folder=searched).stdout)
    assert confirmed["confirmed"]["seeds"] == 2
    jsonschema.validate(confirmed, json.loads(SCHEMA.read_text()))
    again = json.loads(sweeper("confirm", "tiny", "--seeds", "2", "--workers", "1", "--json", folder=searched).stdout)
    assert again["confirmed"]["test_looks"] == 2
    assert json.loads(sweeper("export", "tiny", "--raw", folder=searched).stdout)["study"]["trial"] == raw["study"]["trial"]


def test_every_form_of_an_export_says_the_same(searched: Path) -> None:
    best = json.loads(sweeper("export", "tiny", "--raw", folder=searched).stdout)
    dropout = best["hyperparameters"]["dropout"]
    as_toml = tomllib.loads(sweeper("export", "tiny", "--raw", "--format", "toml", folder=searched).stdout)
    as_yaml = yaml.safe_load(sweeper("export", "tiny", "--raw", "--format", "yaml", folder=searched).stdout)
    assert as_toml["hyperparameters"]["dropout"] == as_yaml["hyperparameters"]["dropout"] == dropout
    assert str(dropout) in sweeper("export", "tiny", "--raw", "--format", "python", folder=searched).stdout
    pareto = json.loads(sweeper("export", "tiny", "--pareto", folder=searched).stdout)
    assert [one["trial"] for one in best["pareto"]] == [one["study"]["trial"] for one in pareto]
    sweeper("export", "tiny", "--top", "2", "-o", "top.json", folder=searched)
    landed = json.loads(sweeper("train", "top.json", "--number", "2", "--json", folder=searched).stdout)
    assert landed["validation_accuracies"] == pytest.approx([landed["recorded_validation_accuracy"]], abs=0.02)
    assert "exclude each other" in sweeper("export", "tiny", "--raw", "--pareto", folder=searched, code=2).stderr


def test_losses_are_compared_over_seeds_once(searched: Path) -> None:
    command = ("compare", "tiny", "--by", "loss", "--workers", "1")
    found = json.loads(sweeper(*command, "--seeds", "2", "--json", folder=searched).stdout)
    assert len(found) == 3  # pairs of three losses
    for one in found:
        assert one["gap"]["low"] <= one["gap"]["mean"] <= one["gap"]["high"]
        assert 0 <= one["p"] <= 1
    said = sweeper(*command, folder=searched).stdout
    assert said.count("corrected for 3 comparisons") == 3
    assert "name two studies or more" in sweeper("compare", "tiny", folder=searched, code=2).stderr
