"""An ordinary `torch.nn.Module` turned into a network that computes K of it at once.

Layers with parameters or with random numbers are swapped for packed ones (`layers`); layers that treat every channel alike stay
as they are. Before it is used, a packed network is compared with its members run alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from sweeper.training.layers import NotPackable, PackedConv2d, PackedDropout, PackedFlatten, PackedLinear

CHANNEL_LOCAL = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
"""Layers that neither mix channels nor hold parameters: they work on packed activations unchanged."""


@dataclass(frozen=True, slots=True)
class Stack:
    """One parameter of all slots: `rows` is `[K, P]`, contiguous, and shares memory with `leaf`, which the network reads."""

    name: str
    leaf: nn.Parameter
    rows: Tensor
    is_weight: bool

    def as_rows(self, like_leaf: Tensor) -> Tensor:
        """Return a tensor of the leaf's shape (a gradient) as `[K, P]` in the order of `rows`."""
        return _memory_order(like_leaf).reshape(self.rows.shape)


class PackedNetwork(nn.Module):
    """K copies of the network that `build` returns.

    Args:
        build: returns a fresh member; called under no particular seed, its initial weights are not used.
        width: the number of slots K.
        example: one input of a member, `[1, C, H, W]` or `[1, F]`, to record the shapes that its layers see.

    Raises:
        NotPackable: a layer has no packed form, or the packed network does not compute what its members do.
    """

    def __init__(self, build: Callable[[], nn.Module], width: int, example: Tensor) -> None:
        super().__init__()
        self.width = width
        member = build().to(example.device, example.dtype)
        self._shapes = {name: p.shape for name, p in member.named_parameters()}
        self.network = _convert(member, width, _input_channels(member, example))
        self.to(example.device)
        self.dropouts = [m for m in self.network.modules() if isinstance(m, PackedDropout)]
        self.stacks = [
            Stack(name, leaf, _memory_order(leaf.detach()).reshape(width, -1), name.endswith("weight"))
            for name, leaf in self.network.named_parameters()
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[K, B, classes]` for an input `[B, …]` shared by all slots."""
        out: Tensor = self.network(x)
        return out.view(x.shape[0], self.width, -1).transpose(0, 1)

    def load_member(self, slot: int, weights: dict[str, Tensor]) -> None:
        """Overwrite a slot's parameters, in place, with the named parameters of a member."""
        with torch.no_grad():
            for stack in self.stacks:
                stack.rows[slot].copy_(_memory_order(weights[stack.name]).reshape(-1))

    def member(self, slot: int) -> dict[str, Tensor]:
        """Return copies of a slot's parameters, by name, in the shapes of an ordinary member."""
        out = {}
        for stack in self.stacks:
            members = stack.leaf.detach().view(self.width, *self._shapes[stack.name])
            out[stack.name] = members[slot].clone(memory_format=torch.contiguous_format)
        return out

    def set_dropout(self, slot: int, rate: float) -> None:
        """Give every dropout layer this rate in this slot."""
        for dropout in self.dropouts:
            dropout.set_rate(slot, rate)


def check_packing(build: Callable[[], nn.Module], width: int, example: Tensor) -> None:
    """Compare a packed network with its members run alone, outputs and gradients, in float64.

    Raises:
        NotPackable: they differ by more than rounding.
    """
    x = torch.randn((3, *example.shape[1:]), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(example.device)
    packed = PackedNetwork(build, width, x[:1]).eval()
    members = [build().to(x.device, torch.float64).eval() for _ in range(width)]
    for slot, member in enumerate(members):
        packed.load_member(slot, dict(member.named_parameters()))
    out = packed(x)
    weight = torch.linspace(-1, 1, out[0].numel(), dtype=x.dtype, device=x.device).view_as(out[0])
    grads = torch.autograd.grad((out * weight).sum(), [stack.leaf for stack in packed.stacks])
    for slot, member in enumerate(members):
        alone = member(x)
        alone_grads = torch.autograd.grad((alone * weight).sum(), list(member.parameters()))
        by_name = dict(zip((name for name, _ in member.named_parameters()), alone_grads, strict=True))
        pairs = [(out[slot], alone)] + [
            (stack.as_rows(grad)[slot], _memory_order(by_name[stack.name]).reshape(-1))
            for stack, grad in zip(packed.stacks, grads, strict=True)
        ]
        if not all(torch.allclose(a, b, rtol=1e-7, atol=1e-9) for a, b in pairs):
            raise NotPackable("its forward mixes channels in a way that differs between one network and several side by side")


def _memory_order(x: Tensor) -> Tensor:
    """Return a convolution's weight with its channels last, as the array keeps it, and anything else as it is."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _input_channels(member: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """Run a member once and return the size of axis 1 of the input of each of its layers."""
    channels: dict[nn.Module, int] = {}

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            channels[module] = args[0].shape[1]

    hooks = [m.register_forward_pre_hook(record) for m in member.modules() if not list(m.children())]
    with torch.no_grad():
        member.eval()(example)
    for hook in hooks:
        hook.remove()
    return channels


def _convert(module: nn.Module, width: int, channels: dict[nn.Module, int]) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return PackedConv2d(module, width)
    if isinstance(module, nn.Linear):
        return PackedLinear(module, width)
    if isinstance(module, nn.Dropout):
        return PackedDropout(width, channels[module])
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) != (1, -1):
            raise NotPackable(f"Flatten({module.start_dim}, {module.end_dim}); only Flatten(1, -1) keeps slots apart")
        return PackedFlatten()
    if isinstance(module, CHANNEL_LOCAL):
        return module
    if not list(module.children()):
        raise NotPackable(f"{type(module).__name__} has no packed form")
    for name, child in list(module.named_children()):
        setattr(module, name, _convert(child, width, channels))
    if isinstance(module, nn.Sequential):
        _lighten_relu(module)
    return module


def _lighten_relu(sequence: nn.Sequential) -> None:
    """Swap each ReLU with the max-pooling behind it (the same function and gradient, a quarter of the work), then let it
    overwrite the output of a convolution before it, which nothing else reads.
    """
    for i in range(len(sequence) - 1):
        if isinstance(sequence[i], nn.ReLU) and isinstance(sequence[i + 1], nn.MaxPool2d):
            sequence[i], sequence[i + 1] = sequence[i + 1], sequence[i]
    for before, layer in pairwise(sequence):
        if isinstance(layer, nn.ReLU) and isinstance(before, PackedConv2d):
            layer.inplace = True
