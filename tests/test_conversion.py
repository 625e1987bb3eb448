"""What packs computes what its members do; what does not is refused with the reason; a user's own network trains either way."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import NETWORKS
from test_array import make_trainer
from torch import Tensor, nn

from sweeper.job import JobError, Layer, ModelSettings, Penalties, PenaltySettings, Schedule, TrainingSettings
from sweeper.training.array import PackedNetwork
from sweeper.training.checks import check_job, check_packing
from sweeper.training.datasets import Data
from sweeper.training.layers import NotPackable
from sweeper.training.models import build_network, initial_state, make_builder
from sweeper.training.penalties import ArrayPenalties
from sweeper.training.schedules import learning_rate
from sweeper.training.steering import Steering
from sweeper.trial import Configuration, Run


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("width", [1, 3])
def test_networks_pack(name: str, width: int) -> None:
    check_packing(NETWORKS[name], width, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (3, 16, 16)), ("mlp", (1, 8, 8))])
def test_ready_networks_pack(name: str, shape: tuple[int, ...]) -> None:
    build = make_builder(ModelSettings(name=name), shape, 5)
    check_packing(build, 2, torch.zeros(1, *shape))


class Overwriting(nn.Module):
    """Its activations overwrite what dense layers answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu_(self.second(self.activate(self.first(x.flatten(1))))))


class Indexing(nn.Module):
    """Its forward takes the layers of a sequence one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net[:4]:
            x = layer(x)
        return self.net[4](x)


@pytest.mark.parametrize("build", [Overwriting, Indexing])
@pytest.mark.parametrize("width", [1, 3])
def test_networks_written_in_other_ways_pack(build: type[nn.Module], width: int) -> None:
    check_packing(build, width, torch.zeros(1, 1, 8, 8))


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


class OwnBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 3)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1)) + self.shift[:3]


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.dense(x.view(x.size(0), -1))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(64, 8).requires_grad_(False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.backbone(x.flatten(1))))


class HalfInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.float().flatten(1))


def parametrized() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 3)))


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dense(x.squeeze(1)).mean(1))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (MixesChannels, "do not compute what one alone does, in training"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LSTM(64, 3)), "LSTM has no packed form"),
        (DrawsItself, "do not compute what one alone does, in training"),
        (Scaled, "Scaled holds a parameter of its own, scale"),
        (Tied, "share a parameter"),
        (Sequence, "activations of 3 dimensions"),
        (OwnBuffer, "OwnBuffer holds a buffer of its own, shift"),
        (Viewed, r"view size is not compatible.*flatten\(1\) would do"),
        (Frozen, "some of its parameters are frozen"),
        (HalfInside, "it does not run on activations of several networks"),
        (parametrized, "ParametrizedLinear holds a parameter of its own|has no packed form|has hooks"),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 3)), "momentum=None"),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()), "circular"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(6), nn.Flatten(), nn.Linear(72, 3)), "does not span all features"),
    ],
)
def test_what_does_not_pack_is_refused_with_the_reason(build: type[nn.Module], reason: str) -> None:
    with pytest.raises(NotPackable, match=reason):
        check_packing(build, 2, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    "build", [MixesChannels, DrawsItself, Scaled, Tied, Sequence, OwnBuffer, Viewed, Frozen, HalfInside, parametrized]
)
def test_what_does_not_pack_is_trained_alone(build: type[nn.Module], data64: Data) -> None:
    parts = {name: getattr(data64, name) for name in ("train", "validation")}
    narrow = replace(data64, classes=3, **{name: replace(part, labels=part.labels % 3) for name, part in parts.items()})
    if build is HalfInside:
        narrow = replace(narrow, mean=narrow.mean.float(), std=narrow.std.float())
    trainer = make_trainer(build, narrow, 2, 1, packable=False)
    trainer.start(Run(0, Configuration(learning_rate=1e-2), seed=1, epochs=3))
    before = {name: tensor.clone() for name, tensor in trainer.weights(0).items()}
    for _ in range(3):
        (result,) = trainer.epoch()
    assert math.isfinite(result.metrics.train_loss)
    changed = {name for name, tensor in trainer.weights(0).items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(name.startswith("backbone") for name in changed)


def test_one_dropout_layer_in_several_places_has_the_trials_rate_in_all_of_them() -> None:
    def build() -> nn.Module:
        shared = nn.Dropout(0.9)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), shared, nn.Linear(16, 8), shared, nn.Linear(8, 3))

    check_packing(build, 2, torch.zeros(1, 1, 8, 8))
    for packable in (True, False):
        network = PackedNetwork(build, 1, torch.zeros(1, 1, 8, 8), packable=packable).train()
        network.load_member(0, initial_state(build, 0))
        network.set_dropout(0, lambda kind: 0.0)
        x = torch.rand(5, 1, 8, 8)
        assert torch.equal(network(x), network(x))
        assert not any(isinstance(module, nn.Dropout) for module in network.modules())


def test_dropout_that_is_called_in_training_only_knows_what_it_drops() -> None:
    class TrainOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.dropout, self.out = nn.Linear(64, 8), nn.Dropout(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.dense(x.flatten(1))
            return self.out(self.dropout(x) if self.training else x)

    network = PackedNetwork(TrainOnly, 2, torch.zeros(1, 1, 8, 8))
    assert [dropout.kind for dropout in network.dropouts] == ["dense"]
    check_packing(TrainOnly, 2, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Configuration(dropout=0.3), "search.dropout: the network has no such dropout layer"),
        (Configuration(dropout_conv=0.3), "search.dropout_conv: the network has no such dropout layer"),
    ],
)
def test_a_rate_without_a_layer_is_refused(sample: Configuration, message: str) -> None:
    with pytest.raises(JobError, match=message):
        check_job(NETWORKS["batch norm"], torch.zeros(1, 1, 8, 8), [sample], 5, packable=True)
    check_job(NETWORKS["batch norm"], torch.zeros(1, 1, 8, 8), [Configuration(dropout=0.0)], 5, packable=True)


def test_batch_norm_on_a_single_image_is_refused_before_the_first_step() -> None:
    with pytest.raises(JobError, match="the last batch of an epoch would hold one image"):
        check_job(NETWORKS["batch norm"], torch.zeros(1, 1, 8, 8), [Configuration()], 1, packable=True)
    check_job(NETWORKS["cnn"], torch.zeros(1, 1, 8, 8), [Configuration()], 1, packable=True)


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
    network.load_member(0, {name: torch.ones_like(tensor) for name, tensor in network.member(0).items()})
    penalties = ArrayPenalties(network.stacks, Penalties(weight_decay=PenaltySettings(scope=scope)), 10)
    penalties.begin_epoch([Configuration(weight_decay=0.5)], [1])
    now = Steering(1, network.stacks[0].rows, TrainingSettings(1, 1), fixed=False)
    now.begin_epoch([0], [0.0], [[1.0]], steps=1)
    now.begin_step(0)
    with torch.no_grad():
        for stack in range(len(network.stacks)):
            penalties.decay(stack, now)
    assert {name for name, tensor in network.member(0).items() if (tensor == 0.5).all()} == expected


def test_a_scope_that_names_nothing_is_refused_with_the_layers_there_are() -> None:
    network = PackedNetwork(make_builder(ModelSettings(name="resnet18"), (1, 8, 8), 10), 1, torch.zeros(1, 1, 8, 8))
    ArrayPenalties(network.stacks, Penalties(l1=PenaltySettings(scope=("layer4", "fc"))), 10)
    with pytest.raises(JobError, match=r"scope 'layer9' is no layer of the network; it has conv1, layer1\.0\.conv1"):
        ArrayPenalties(network.stacks, Penalties(l1=PenaltySettings(scope=("layer9",))), 10)


def test_one_cycle_reaches_its_peak_and_its_end() -> None:
    rates = [learning_rate(Schedule("one_cycle"), 1.0, epoch, 10, step, 20) for epoch in range(10) for step in range(20)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(1 / 25 / 1e4)


def test_one_cycle_of_a_few_steps_has_no_hole() -> None:
    rates = [learning_rate(Schedule("one_cycle", warmup_share=0.2), 1.0, epoch, 5) for epoch in range(5)]
    assert rates[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates))
