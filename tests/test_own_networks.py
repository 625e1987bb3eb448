"""A user's own network, from a file or a module outside the project, is swept whether it packs or not; mistakes are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TINY

import sweeper
from studies.loader import parse_study
from sweeper.errors import JobRefused
from sweeper.job import ModelSettings
from sweeper.training.models import ModelError, make_builder

OWN_NETWORKS = '''
import torch
from torch import nn

class Branches(nn.Module):
    """Packs: two branches of channel-local operations, joined by addition."""
    def __init__(self, classes, width):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(1, width, 5, padding=2)
        self.norm, self.out = nn.GroupNorm(2, width), nn.Linear(width, classes)
    def forward(self, x):
        x = nn.functional.gelu(self.norm(self.left(x) + self.right(x)))
        return self.out(x.amax(dim=(2, 3)))

class Rows(nn.Module):
    """Does not pack: reads an image row by row."""
    def __init__(self, input_shape, classes):
        super().__init__()
        self.gru, self.drop, self.out = nn.GRU(input_shape[2], 16, batch_first=True), nn.Dropout(0.5), nn.Linear(16, classes)
    def forward(self, x):
        return self.out(self.drop(self.gru(x.squeeze(1))[0][:, -1]))

def broken(classes):
    raise RuntimeError("no luck")

number = 5

def nothing(classes):
    pass

class Tuple(nn.Sequential):
    def forward(self, x):
        out = super().forward(x)
        return (out, out) if self.training else out

def lazy(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def wrong(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))
'''


@pytest.fixture
def own_networks(tmp_path: Path) -> Path:
    path = tmp_path / "my_networks.py"
    path.write_text(OWN_NETWORKS)
    return path


def study_with(model: str) -> str:
    text = TINY.replace('[model]\nlayers = ["dense 16", "dropout"]\n', "").replace("trials = 12", f"trials = 8\nmodel = {model}")
    return text.replace("width = 4", "width = 2")


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [("Branches", "{ width = 4 }", "as the study says"), ("Rows", "{}", "trained one network at a time: GRU has no packed form")],
)
def test_a_network_of_the_users_is_swept(function: str, options: str, reason: str, own_networks: Path, tmp_path: Path) -> None:
    text = study_with(f'{{ name = "{own_networks}:{function}", options = {options} }}')
    if function == "Branches":  # which has no dropout layer
        text = text.replace("dropout = {", "# {")
    spec = parse_study(text, "own")
    result = sweeper.run_study(spec, storage=f"sqlite:///{tmp_path / 's.db'}", runs=tmp_path, in_process=True)
    assert result.summary is not None
    assert result.summary.plans[0].reason == reason
    assert result.summary.plans[0].pack == (1 if function == "Rows" else 2)
    assert result.results.counts()["complete"] >= 3
    assert result.results.counts()["fail"] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"my_networks\.py:broken: RuntimeError: no luck"),
        ("number", r"my_networks\.py has no number, or it is no function"),
        ("nothing", r"it returns NoneType instead of a torch\.nn\.Module"),
        ("Tuple", r"it answers tuple instead of \[2, 10\] logits in training"),
        ("lazy", "lazy layers have no weights yet"),
        ("wrong", r"for 2 images of \[1, 8, 8\] it answers \[2, 11\] instead of \[2, 10\] logits"),
        ("absent", r"my_networks\.py has no absent"),
        ("Branches", r"missing 1 required positional argument: 'width'"),
    ],
)
def test_a_network_that_cannot_be_built_is_the_users_to_mend(name: str, message: str, own_networks: Path, tmp_path: Path) -> None:
    spec = parse_study(study_with(f'"{own_networks}:{name}"').replace("dropout = {", "# {"), "own")
    with pytest.raises(JobRefused, match=message):
        sweeper.run_study(spec, storage=f"sqlite:///{tmp_path / 's.db'}", runs=tmp_path, in_process=True)


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere:f", "No module named 'nowhere'"), ("gone.py:f", "there is no file gone.py")]
)
def test_a_function_that_is_not_there_is_said(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_builder(ModelSettings(name=name), (1, 8, 8), 10)


def test_a_file_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "parts_of_mine.py").write_text("from torch import nn\nhead = nn.Linear\n")
    own = "from torch import nn\nfrom parts_of_mine import head\n"
    (tmp_path / "whole.py").write_text(own + "def net(classes): return nn.Sequential(nn.Flatten(), head(64, classes))\n")
    assert make_builder(ModelSettings(name=f"{tmp_path / 'whole.py'}:net"), (1, 8, 8), 10)()


def test_a_module_beside_the_user_is_found_by_the_command_line(own_networks: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        study_with('{ name = "my_networks:Branches", options = { width = 2 } }').replace("dropout = {", "# {")
    )
    command = [sys.executable, "-m", "sweeper", "run", "own.toml", "--json", "--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert '"name": "my_networks:Branches"' in done.stdout
