"""Feature maps in blocks: the same training, for the networks that gain by it, and for no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_array import train_with_a_refill
from torch import nn

from sweeper.job import DataSettings, Layer, TrainingSettings
from sweeper.training.array import PackedNetwork
from sweeper.training.blocked import ToBlocked, gains
from sweeper.training.datasets import load_data
from sweeper.training.models import build_network, initial_state
from sweeper.training.precision import has_bfloat16
from sweeper.trial import Configuration

POOL, DENSE, DROPOUT = Layer("pool", kernel=2), Layer("dense", 8), Layer("dropout")
WHOLE = (Layer("conv", 16, 3), Layer("conv", 32, 3, 1), POOL, DROPOUT, DENSE)
CONFIGURATIONS = [Configuration(l2=0.1 * k, l1=1e-3, dropout=0.0, learning_rate=0.05, momentum=0.9) for k in range(3)]

blocks = pytest.mark.skipif(not gains(), reason="this processor gains nothing by blocks")


def build() -> nn.Module:
    return build_network(WHOLE, (1, 8, 8), 10)


def blocked(network: nn.Module) -> bool:
    return any(isinstance(layer, ToBlocked) for layer in network.modules())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (WHOLE, True),
        ((*WHOLE[:2], DROPOUT), True),
        ((Layer("conv", 16, 3),), True),
        ((Layer("conv", 6, 3), Layer("conv", 16, 3)), False),  # blocks half empty
        ((Layer("conv", 16, 3), Layer("conv", 24, 3)), False),
        ((Layer("conv", 16, 3), Layer("batch_norm"), Layer("conv", 16, 3)), False),  # would leave the blocks and come back
        ((DROPOUT, Layer("conv", 16, 3)), False),  # its images are not shared: one channel of a block each
        ((DENSE,), False),
    ],
)
def test_maps_lie_in_blocks_where_they_fill_them(layers: tuple[Layer, ...], expected: bool) -> None:
    build = lambda: build_network(layers, (1, 8, 8), 10)  # noqa: E731
    packed = PackedNetwork(build, 2, torch.zeros(1, 1, 8, 8))
    assert blocked(packed) == expected
    assert {stack.name for stack in packed.stacks} == dict(build().named_parameters()).keys()


def test_a_part_of_a_larger_network_stays_as_it_is() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(1, 16, 3), nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
            self.output = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.output((x + self.block(x)).mean(dim=(2, 3)))

    assert not blocked(PackedNetwork(Residual, 2, torch.zeros(1, 1, 8, 8)))


@pytest.fixture
def seen() -> Iterator[list[torch.dtype | None]]:
    """The types of the maps that were laid out in blocks; None where they were left as they are."""
    seen: list[torch.dtype | None] = []

    def look(module: nn.Module, _: object, out: torch.Tensor) -> None:
        if isinstance(module, ToBlocked):
            seen.append(out.dtype if out.is_mkldnn else None)

    hook = nn.modules.module.register_module_forward_hook(look)
    yield seen
    hook.remove()


@blocks
@pytest.mark.parametrize("pack", [1, 3])
def test_training_in_blocks_is_plain_torchs(pack: int, seen: list[torch.dtype | None]) -> None:
    data = load_data(DataSettings("digits", 96, 64, 0))
    train_with_a_refill(build, data, CONFIGURATIONS, pack, TrainingSettings(4, 16, optimizer="sgd"), tolerance=1e-5)
    assert set(seen) == {torch.float32}


@blocks
@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 units")
@pytest.mark.parametrize("pack", [1, 3])
def test_in_bfloat16_blocks_are_as_near_to_float64_as_other_layouts(
    pack: int, seen: list[torch.dtype | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def gradients(dtype: torch.dtype = torch.float32, precision: str = "bfloat16") -> torch.Tensor:
        packed = PackedNetwork(build, pack, x[:1].to(dtype), precision=precision).train()
        for slot in range(pack):
            packed.load_member(slot, initial_state(build, slot))
            packed.set_dropout(slot, lambda kind: 0.0)
        grads = torch.autograd.grad(packed(x.to(dtype)).square().sum(), [stack.leaf for stack in packed.stacks])
        assert packed(x.to(dtype)).dtype == dtype
        return torch.cat([stack.as_rows(g).flatten() for stack, g in zip(packed.stacks, grads, strict=True)]).double()

    exact = gradients(torch.float64, "float32")
    in_blocks = gradients()
    assert set(seen) == {None, torch.bfloat16}
    monkeypatch.setattr("sweeper.training.blocked.gains", lambda: False)
    seen.clear()
    channels_last = gradients()
    assert set(seen) == {None}
    error, usual = ((found - exact).norm() / exact.norm() for found in (in_blocks, channels_last))
    assert 0 < error < 1.5 * usual < 0.05
