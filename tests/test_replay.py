"""What was exported is trained again: it lands where it did, and its network leaves as an ordinary torch module."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY

import sweeper
from studies.loader import parse_study
from studies.spec import StudySpec
from sweeper.best_file import BestFile, read_best
from sweeper.errors import BestFileError, JobRefused, UsageError
from sweeper.export import as_text, best_file, write_best
from sweeper.job import JobError
from sweeper.progress import Progress
from sweeper.search import make_job
from sweeper.training.datasets import load_data

CNN = TINY.replace('"dense 16", "dropout"', '"conv 4", "batch_norm", "pool", "dense 8", "dropout"')
UNPRUNED = ("min_epochs = 1\nreduction_factor = 2", 'name = "none"')


def _run(folder: Path, text: str = TINY, **options: Any) -> sweeper.StudyResult:
    folder.mkdir(exist_ok=True)
    spec: StudySpec = parse_study(text, "tiny.toml")
    return sweeper.run_study(spec, storage=f"sqlite:///{folder / 'test.db'}", runs=folder, in_process=True, **options)


def _files(result: sweeper.StudyResult) -> list[BestFile]:
    complete = result.results.trials[result.results.trials["state"] == "complete"]
    return [best_file(result.results, result.results.trial(int(number))) for number in complete.index]


@pytest.mark.parametrize("text", [TINY, CNN], ids=["dense", "conv"])
def test_trials_trained_alone_are_replayed_bit_for_bit(tmp_path: Path, text: str) -> None:
    files = _files(_run(tmp_path, text.replace("width = 4", "width = 1").replace(*UNPRUNED)))
    assert len(files) >= 10
    for file in files:
        replay = sweeper.train_best(file, in_process=True)
        assert replay.validation_accuracy == file.metrics.validation_accuracy
        assert replay.results[0].best.validation_loss == file.metrics.validation_loss
        assert replay.results[0].best.train_loss == file.metrics.train_loss


def test_trials_of_a_pack_are_replayed_to_within_rounding(tmp_path: Path) -> None:
    files = _files(_run(tmp_path, CNN.replace("width = 4", "width = 8").replace(*UNPRUNED)))
    assert len(files) >= 10
    for file in files:
        replay = sweeper.train_best(file, in_process=True)
        assert replay.results[0].best.train_loss == pytest.approx(file.metrics.train_loss, rel=1e-3)
        assert abs(replay.validation_accuracy - file.metrics.validation_accuracy) * 200 <= 2


def test_an_interrupted_trial_is_replayed_with_the_minibatches_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.orchestrator.CHECKPOINT_SECONDS", 0.0)
    text = TINY.replace("width = 4", "width = 1").replace("epochs = 4", "epochs = 8").replace("min_epochs = 1", "min_epochs = 7")
    working: list[Any] = []

    def stop(progress: Progress) -> None:
        if progress.epochs == 12:
            working[-1].request_stop()

    assert _run(tmp_path, text, on_start=working.append, on_progress=stop).interrupted
    files = _files(_run(tmp_path, text))
    resumed = [file for file in files if file.seeds.stream_resumed]
    assert resumed
    for file in resumed:
        assert sweeper.train_best(file, in_process=True).results[0].best.train_loss == file.metrics.train_loss


def test_patience_is_replayed_and_the_restored_network_is_saved(tmp_path: Path) -> None:
    text = CNN.replace("epochs = 4", "epochs = 12\npatience = 2").replace("learning_rate = 1e-2", "learning_rate = 5e-2")
    file = best_file(_run(tmp_path, text.replace("width = 4", "width = 1")).results)
    replay = sweeper.train_best(file, in_process=True, save=tmp_path / "model.pt")
    assert replay.results[0].best_epoch == file.metrics.best_epoch
    assert _accuracy_of(tmp_path / "model.pt", file) == pytest.approx(file.metrics.validation_accuracy)


def _accuracy_of(path: Path, file: BestFile, part: str = "validation") -> float:
    network, prepare = sweeper.load_model(path)
    assert not network.training
    assert type(network) is torch.nn.Sequential
    spec = parse_study(CNN, "tiny.toml")
    data = getattr(load_data(make_job(spec, "cpu", 1).data), part)
    with torch.inference_mode():
        return float((network(prepare(data.images)).argmax(dim=1) == data.labels).float().mean())


def test_a_saved_network_is_an_ordinary_module(tmp_path: Path) -> None:
    text = CNN.replace("test_size = 100", 'test_size = 100\nnormalize = "standard"')
    file = best_file(_run(tmp_path, text).results)
    replay = sweeper.train_best(file, in_process=True, save=tmp_path / "model.pt")
    assert _accuracy_of(tmp_path / "model.pt", file) == pytest.approx(replay.validation_accuracy)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(36, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 10),
    )  # fmt: skip
    plain.load_state_dict(dict(zip(plain.state_dict(), saved["state_dict"].values(), strict=True)))


def test_final_training_sees_the_validation_images_too(tmp_path: Path) -> None:
    file = best_file(_run(tmp_path, CNN).results)
    alone = sweeper.train_best(file, in_process=True)
    final = sweeper.train_best(file, in_process=True, final=True, epochs=30, save=tmp_path / "model.pt")
    longer = sweeper.train_best(file, in_process=True, epochs=30)
    assert final.results[0].metrics.validation_accuracy > longer.results[0].metrics.validation_accuracy
    assert final.results[0].epoch == 30
    assert alone.results[0].epoch == 4
    assert _accuracy_of(tmp_path / "model.pt", file, "test") > 0.5


def test_other_seeds_give_an_interval(tmp_path: Path) -> None:
    file = best_file(_run(tmp_path).results)
    replay = sweeper.train_best(file, in_process=True, seeds=5)
    accuracies = [result.best.validation_accuracy for result in replay.results]
    assert len(set(accuracies)) > 1
    assert replay.over_seeds is not None
    assert replay.over_seeds.mean == pytest.approx(np.mean(accuracies))
    assert replay.over_seeds.low < replay.over_seeds.mean < replay.over_seeds.high
    assert [r.best.validation_accuracy for r in sweeper.train_best(file, in_process=True, seeds=5).results] == accuracies


def test_every_notation_says_the_same_and_names_no_path(tmp_path: Path) -> None:
    result = _run(tmp_path / "here", TINY.replace("top = 0", "top = 2\nseeds = 2"))
    file = result.best
    assert file.confirmed is not None
    assert file.study.trial == result.results.answer.winner.trial  # type: ignore[union-attr]
    table = json.loads(as_text([file]))
    assert yaml.safe_load(as_text([file], "yaml")) == table
    scope: dict[str, Any] = {}
    exec(as_text([file], "python"), scope)
    assert scope["best"] == table
    toml = tomllib.loads(as_text([file], "toml"))
    assert toml["hyperparameters"]["l2"] == table["hyperparameters"]["l2"]
    assert BestFile.model_validate(toml | {"model": table["model"]}).seeds == file.seeds
    assert len(tomllib.loads(as_text([file, file], "toml", several=True))["best"]) == 2
    moved = result.results.spec.model_copy(
        update={"data": result.results.spec.data.model_copy(update={"name": "folder:/home/me/secret/images"})}
    )
    result.results.spec = moved
    assert best_file(result.results).data["name"] == "folder:images"
    assert str(tmp_path) not in as_text([file])


def test_older_files_are_read_newer_and_broken_ones_refused(tmp_path: Path) -> None:
    result = _run(tmp_path)
    path = tmp_path / "best.json"
    file = write_best(result.results, path)
    assert read_best(path) == file
    table = json.loads(path.read_text())
    older = table | {"version": 1, "seeds": {k: v for k, v in table["seeds"].items() if k != "stream_resumed"}}
    del older["confirmed"]
    path.write_text(json.dumps(older))
    assert read_best(path) == file
    for wrong, said in (
        (table | {"version": 3}, "version 3"),
        (table | {"format": "other"}, "not a best configuration"),
        (table | {"seeds": {}}, "seeds.study"),
        ([], "not a best configuration"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(BestFileError, match=said):
            read_best(path)
    path.write_text("{")
    with pytest.raises(BestFileError, match="no JSON"):
        read_best(path)
    with pytest.raises(BestFileError, match="No such file"):
        read_best(tmp_path / "nothing.json")


def test_what_cannot_be_trained_again_is_said(tmp_path: Path) -> None:
    file = best_file(_run(tmp_path).results)
    with pytest.raises(JobRefused, match="nowhere"):
        sweeper.train_best(file, in_process=True, data=f"folder:{tmp_path / 'nowhere'}")
    broken = file.model_copy(update={"training": file.training | {"optimizer": "magic"}})
    with pytest.raises(BestFileError, match="optimizer"):
        sweeper.train_best(broken, in_process=True)
    (tmp_path / "model.pt").write_bytes(b"no network")
    with pytest.raises(JobError, match="no saved network"):
        sweeper.load_model(tmp_path / "model.pt")


@pytest.mark.slow
def test_ten_exported_configurations_land_where_they_did_by_the_commands(tmp_path: Path) -> None:
    """`sweeper run` with one worker at width 1, `sweeper export --top 10`, then `sweeper train` each: bit for bit."""
    (tmp_path / "tiny.toml").write_text(CNN.replace(*UNPRUNED))
    script = Path(__file__).parent.parent / "benchmarks" / "replay.py"
    command = [sys.executable, str(script), str(tmp_path / "tiny.toml"), "--top", "10", "--", "--width", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "10 of 10 bit for bit", done.stdout


def test_one_of_several_exported_configurations_is_chosen(tmp_path: Path) -> None:
    files = _files(_run(tmp_path))[:3]
    path = tmp_path / "top.json"
    path.write_text(as_text(files, several=True))
    assert [read_best(path, number) for number in (1, 2, 3)] == files
    with pytest.raises(BestFileError, match="choose one with --number"):
        read_best(path)
    with pytest.raises(BestFileError, match="no number 4"):
        read_best(path, 4)
    path.write_text(as_text(files[:1]))
    assert read_best(path, 1) == files[0]
    with pytest.raises(BestFileError, match="holds one configuration, there is no number 3"):
        read_best(path, 3)


def test_no_network_of_several_is_saved_and_that_is_said_before_they_are_trained(tmp_path: Path) -> None:
    text = TINY.replace("test_size = 100", "test_size = 100\nfolds = 2").replace("validation_size = 200\n", "")
    file = best_file(_run(tmp_path, text.replace("train_size = 200\n", "")).results)
    for options in ({}, {"seeds": 2}):
        with pytest.raises(UsageError, match="train one for good, with --final"):
            sweeper.train_best(file, in_process=True, save=tmp_path / "model.pt", **options)
    final = sweeper.train_best(file, in_process=True, final=True, save=tmp_path / "model.pt")
    assert sweeper.load_model(tmp_path / "model.pt")
    said = final.as_json(file)
    assert (said["validation_accuracies"], said["values"]) == (None, None), "it has seen these images"


def test_what_a_search_ranged_over_and_what_acts_late_is_trained_again(tmp_path: Path) -> None:
    text = TINY.replace("[search]", 'optimizer = "sgd"\nnesterov = true\n[search]\nmomentum = { low = 0.0, high = 0.9 }')
    file = best_file(_run(tmp_path, text + "[penalties]\nl1 = { start_epoch = 4 }\n").results)
    assert sweeper.train_best(file, in_process=True, epochs=2).results[0].epoch == 2
