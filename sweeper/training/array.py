"""K networks as one module, whose parameters, buffers and gradients can be read and written slot by slot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sweeper.training.conversion import convert, convert_dropout
from sweeper.training.dropout import PackedDropout
from sweeper.training.layers import NotPackable
from sweeper.training.precision import computing_in


@dataclass(frozen=True, slots=True)
class Stack:
    """One parameter of all slots: `rows` is `[K, P]`, contiguous, and shares memory with `leaf`, which the network reads.

    `shape` is that of one member's parameter; a packed convolution's weights lie with their channels last (`channels_last`).
    """

    name: str
    leaf: nn.Parameter
    rows: Tensor
    shape: torch.Size
    channels_last: bool

    @property
    def is_weight(self) -> bool:
        """Whether it is a weight of a dense or convolutional layer: no bias, no scale of a norm."""
        return len(self.shape) > 1

    def as_rows(self, like_leaf: Tensor) -> Tensor:
        """Return a tensor of the leaf's shape (a gradient) as `[K, P]` in the order of `rows`."""
        return self.in_order(like_leaf).reshape(self.rows.shape)

    def in_order(self, x: Tensor) -> Tensor:
        """Return a member's or the leaf's tensor with its axes in the order of `rows`."""
        return x.permute(0, 2, 3, 1) if self.channels_last else x


class PackedNetwork(nn.Module):
    """K copies of the network that `build` returns.

    Args:
        build: returns a fresh member; its initial weights are not used.
        width: the number of slots K.
        example: one input of a member, `[1, C, H, W]`, to record what its layers see.
        packable: whether its layers can be packed; if not, `width` is 1 and the member is run as it is.
        precision: that its layers compute in; parameters, inputs and logits are the example's type.

    Raises:
        NotPackable: a layer has no packed form.
    """

    def __init__(
        self, build: Callable[[], nn.Module], width: int, example: Tensor, *, packable: bool = True, precision: str = "float32"
    ) -> None:
        super().__init__()
        if not packable and width != 1:
            raise NotPackable("a network that does not pack has one slot")
        self.width, self.packable, self.precision = width, packable, precision
        member = build().to(example.device, example.dtype)
        shapes = {name: p.shape for name, p in member.named_parameters()}
        network = convert(member, width, example) if packable else convert_dropout(member, example)
        self.network = network.to(example.device, example.dtype)
        self.dropouts = [m for m in self.network.modules() if isinstance(m, PackedDropout)]
        parameters = dict(self.network.named_parameters())
        self.stacks = [self._stack(name, leaf, shapes[name]) for name, leaf in parameters.items() if leaf.requires_grad]
        frozen = {name: leaf.detach() for name, leaf in parameters.items() if not leaf.requires_grad}
        self._untrained = {
            name: tensor.view(width, -1) if packable else tensor.unsqueeze(0)
            for name, tensor in {**frozen, **dict(self.network.named_buffers())}.items()
            if not (packable and tensor.dim() == 0)  # a norm's count of batches, which its statistics do not depend on
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[K, B, classes]` for an input `[B, …]` shared by all slots."""
        if self.packable and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        for dropout in self.dropouts:
            dropout.begin_forward()
        with computing_in(self.precision, x.device):
            out: Tensor = self.network(x)
        out = out.to(x.dtype)
        return out.view(x.shape[0], self.width, -1).transpose(0, 1) if self.packable else out.unsqueeze(0)

    @property
    def tensors(self) -> list[Tensor]:
        """All that training changes: the parameters and buffers of every slot."""
        return [*(stack.rows for stack in self.stacks), *self._untrained.values()]

    def load_member(self, slot: int, state: dict[str, Tensor]) -> None:
        """Overwrite a slot's parameters and buffers, in place, with those of a member, by name."""
        with torch.no_grad():
            for stack in self.stacks:
                stack.rows[slot].copy_(stack.in_order(state[stack.name]).reshape(-1))
            for name, rows in self._untrained.items():
                rows[slot].copy_(state[name])

    def member(self, slot: int) -> dict[str, Tensor]:
        """Return copies of a slot's parameters and buffers, by name, in the shapes of an ordinary member."""
        out = {}
        for stack in self.stacks:
            members = stack.leaf.detach().view(self.width, *stack.shape)
            out[stack.name] = members[slot].clone(memory_format=torch.contiguous_format)
        return out | {name: rows[slot].clone() for name, rows in self._untrained.items()}

    def set_dropout(self, slot: int, rate: Callable[[str], float | None]) -> None:
        """Give every dropout layer, in this slot, the rate for its kind."""
        for dropout in self.dropouts:
            dropout.set_rate(slot, rate(dropout.kind))

    def _stack(self, name: str, leaf: nn.Parameter, shape: torch.Size) -> Stack:
        channels_last = self.packable and len(shape) == 4
        if not self.packable:
            leaf.data = leaf.data.contiguous()
        memory = leaf.detach().permute(0, 2, 3, 1) if channels_last else leaf.detach()
        return Stack(name, leaf, memory.view(self.width, -1), shape, channels_last)
