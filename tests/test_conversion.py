"""What packs computes what its members do; what does not is refused with the reason; a user's own network trains either way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import NETWORKS, TINY
from torch import Tensor, nn

import sweeper
from studies.loader import parse_study
from sweeper.errors import JobRefused
from sweeper.job import JobError, Layer, ModelSettings, Penalties, PenaltySettings
from sweeper.training.array import PackedNetwork, check_packing
from sweeper.training.layers import NotPackable
from sweeper.training.models import ModelError, build_network, initial_state, make_builder
from sweeper.training.penalties import ArrayPenalties
from sweeper.training.schedules import learning_rate


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("width", [1, 3])
def test_networks_pack(name: str, width: int) -> None:
    check_packing(NETWORKS[name], width, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (3, 16, 16)), ("mlp", (1, 8, 8))])
def test_ready_networks_pack(name: str, shape: tuple[int, ...]) -> None:
    build = make_builder(ModelSettings(name=name), shape, 5)
    check_packing(build, 2, torch.zeros(1, *shape))


def test_resnet18_is_torchvisions_with_a_stem_for_small_images() -> None:
    from torchvision.models import resnet18

    mine = make_builder(ModelSettings(name="resnet18"), (1, 28, 28), 10)()
    theirs = resnet18(num_classes=10)
    differing = {n for n, p in mine.named_parameters() if p.shape != dict(theirs.named_parameters())[n].shape}
    assert differing == {"conv1.weight"}
    assert mine.conv1.weight.shape == (64, 1, 3, 3)
    assert mine.layer1(mine.maxpool(torch.zeros(1, 64, 28, 28))).shape[-1] == 28


class MixesChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.dense((x - x.mean(1, keepdim=True)).amax((2, 3)))


class DrawsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(nn.functional.dropout(x.flatten(1), 0.5, self.training))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.scale = nn.Linear(64, 3), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1)) * self.scale


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.flatten(1)))


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dense(x.squeeze(1)).mean(1))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (MixesChannels, "mixes channels"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LSTM(64, 3)), "LSTM has no packed form"),
        (DrawsItself, "do not compute what one alone does \\(in training\\)"),
        (Scaled, "Scaled holds a parameter of its own, scale"),
        (Tied, "share a parameter"),
        (Sequence, "activations of 3 dimensions"),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 3)), "momentum=None"),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()), "circular"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(6), nn.Flatten(), nn.Linear(72, 3)), "does not span all features"),
    ],
)
def test_what_does_not_pack_is_refused_with_the_reason(build: type[nn.Module], reason: str) -> None:
    with pytest.raises(NotPackable, match=reason):
        check_packing(build, 2, torch.zeros(1, 1, 8, 8))


def test_weights_are_those_that_the_constructor_draws() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 3)
            nn.init.orthogonal_(self.dense.weight)

    torch.manual_seed(11)
    expected = Own().state_dict()
    before = torch.get_rng_state()
    state = initial_state(Own, 11)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_are_named_by_kind_and_number() -> None:
    layers = [
        Layer("conv", 4, 3),
        Layer("batch_norm"),
        Layer("pool", kernel=2),
        Layer("dropout"),
        Layer("dense", 5),
        Layer("dropout"),
    ]
    names = [name for name, _ in build_network(layers, (1, 8, 8), 10).named_children()]
    assert names == ["conv1", "batch_norm1", "relu1", "pool1", "dropout1", "flatten", "dense1", "relu2", "dropout2", "output"]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (("weights",), {"conv1.weight", "dense1.weight", "output.weight"}),
        (("dense*", "output"), {"dense1.weight", "output.weight"}),
        (("conv1",), {"conv1.weight"}),
    ],
)
def test_a_penalty_acts_on_its_scope_alone(scope: tuple[str, ...], expected: set[str]) -> None:
    network = PackedNetwork(NETWORKS["batch norm"], 1, torch.zeros(1, 1, 8, 8))
    settings = Penalties(l2=PenaltySettings(scope=scope))
    penalties = ArrayPenalties(network.stacks, settings, 10)
    assert {network.stacks[i].name for i in penalties._l2.scope} == expected


def test_a_scope_that_names_nothing_is_refused_with_the_layers_there_are() -> None:
    network = PackedNetwork(make_builder(ModelSettings(name="resnet18"), (1, 8, 8), 10), 1, torch.zeros(1, 1, 8, 8))
    ArrayPenalties(network.stacks, Penalties(l1=PenaltySettings(scope=("layer4", "fc"))), 10)
    with pytest.raises(JobError, match=r"scope 'layer9' is no layer of the network; it has conv1, layer1\.0\.conv1"):
        ArrayPenalties(network.stacks, Penalties(l1=PenaltySettings(scope=("layer9",))), 10)


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


def test_a_module_beside_the_user_is_found_by_the_command_line(own_networks: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        study_with('{ name = "my_networks:Branches", options = { width = 2 } }').replace("dropout = {", "# {")
    )
    command = [sys.executable, "-m", "sweeper", "run", "own.toml", "--json", "--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert '"name": "my_networks:Branches"' in done.stdout


def test_one_cycle_reaches_its_peak_and_its_end() -> None:
    from sweeper.job import Schedule

    rates = [learning_rate(Schedule("one_cycle"), 1.0, epoch, 10, step, 20) for epoch in range(10) for step in range(20)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(1 / 25 / 1e4)
