"""Turns an ordinary `torch.nn.Module` into one that computes K of it, by swapping its layers, and checks that it does.

Layers with parameters or with random numbers are swapped for packed ones; layers that treat every channel alike stay as they
are. A network that has no packed form can still be a pack of one slot: then only its dropout layers are swapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from sweeper.training.blocked import block_feature_maps
from sweeper.training.dropout import PackedDropout
from sweeper.training.layers import NotPackable, PackedConv2d, PackedFlatten, PackedLinear
from sweeper.training.norms import PackedLayerNorm, packed_batch_norm, packed_group_norm

CHANNEL_LOCAL = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity,
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
"""Layers that neither mix channels nor hold parameters: they work on packed activations unchanged."""


@dataclass(slots=True)
class Seen:
    """What a layer of a member was given when the member was run: axis 1 of its input at each call, and its kind of input."""

    channels: list[int] = field(default_factory=list)
    kind: str = "input"


def convert(member: nn.Module, width: int, example: Tensor) -> nn.Module:
    """Swap the layers of a member, in place, for those that compute `width` of it; return the network.

    Raises:
        NotPackable: a layer has no packed form.
    """
    if len(list(member.named_parameters())) < len(list(member.named_parameters(remove_duplicate=False))):
        raise NotPackable("two of its layers share a parameter")
    if not all(p.requires_grad for p in member.parameters()):
        raise NotPackable("some of its parameters are frozen")
    return _swap(member, width, _watch(member, example), {})


def convert_dropout(member: nn.Module, example: Tensor) -> nn.Module:
    """Swap only the dropout layers of a member, in place, so that each trial's rate and seed rule them; return the network."""
    seen, swapped = _watch(member, example), dict[nn.Module, nn.Module]()
    for parent in list(member.modules()):
        for name, child in parent._modules.items():
            if type(child) in (nn.Dropout, nn.Dropout2d):
                assert isinstance(child, nn.Dropout | nn.Dropout2d)
                if child not in swapped:
                    swapped[child] = _packed_dropout(child, 1, seen)
                parent._modules[name] = swapped[child]
    return member


def same_function(packed: nn.Module, members: list[nn.Module], x: Tensor) -> str | None:
    """Compare a packed network with its members run alone: outputs, gradients and statistics, training and evaluating.

    Args:
        packed: answers `[K, B, classes]`, and holds the weights of the members; its dropout rates are 0.
        members: K ordinary networks.
        x: a batch in float64.

    Returns:
        None if they agree to within rounding, or what is different.
    """
    weighted = [p for p in packed.parameters() if p.requires_grad]
    names = [name for name, p in members[0].named_parameters() if p.requires_grad]
    for training in (True, False):
        packed.train(training)
        out = packed(x.clone())
        weight = torch.linspace(-1, 1, out[0].numel(), dtype=x.dtype, device=x.device).view_as(out[0])
        out_grads = torch.autograd.grad((out * weight).sum(), weighted, materialize_grads=True)
        for slot, member in enumerate(members):
            member.train(training)
            for layer in member.modules():
                if isinstance(layer, nn.Dropout | nn.Dropout2d):
                    layer.p = 0.0
            alone = member(x.clone())
            own = [p for p in member.parameters() if p.requires_grad]
            grads = torch.autograd.grad((alone * weight).sum(), own, materialize_grads=True)
            if not _close(out[slot], alone):
                return "in training" if training else "in evaluation"
            for name, grad, packed_grad in zip(names, grads, out_grads, strict=True):
                if not _close(packed_grad.view(len(members), *grad.shape)[slot], grad):
                    return f"in the gradient of {name}"
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def _watch(member: nn.Module, example: Tensor) -> dict[nn.Module, Seen]:
    """Run a member once, as in training, and write down what its layers are given."""
    seen: dict[nn.Module, Seen] = {}
    weighted = False

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal weighted
        if args and isinstance(args[0], Tensor) and args[0].dim() > 1:
            note = seen.setdefault(module, Seen(kind="input" if not weighted else "conv" if args[0].dim() == 4 else "dense"))
            note.channels.append(args[0].shape[1])
        weighted = weighted or bool(module._parameters)

    hooks = [m.register_forward_pre_hook(record) for m in member.modules() if not list(m.children())]
    with torch.no_grad():
        member.train()(example.repeat(2, *(1,) * (example.dim() - 1)))
    for hook in hooks:
        hook.remove()
    return seen


def _packed_dropout(layer: nn.Dropout | nn.Dropout2d, width: int, seen: dict[nn.Module, Seen]) -> PackedDropout:
    note = seen.get(layer, Seen([0]))
    return PackedDropout(width, note.channels, note.kind, layer.p, isinstance(layer, nn.Dropout2d))


def _swap(module: nn.Module, width: int, seen: dict[nn.Module, Seen], swapped: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return what stands for a module; one that stands in several places is swapped once."""
    if module not in swapped:
        swapped[module] = _packed_form(module, width, seen) or _swap_parts(module, width, seen, swapped)
    return swapped[module]


def _swap_parts(module: nn.Module, width: int, seen: dict[nn.Module, Seen], swapped: dict[nn.Module, nn.Module]) -> nn.Module:
    if not list(module.children()):
        raise NotPackable(f"{type(module).__name__} has no packed form")
    for kind, own in (("parameter", module._parameters), ("buffer", module._buffers)):
        if held := [name for name, tensor in own.items() if tensor is not None]:
            raise NotPackable(f"{type(module).__name__} holds a {kind} of its own, {held[0]}, outside of a layer")
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _swap(child, width, seen, swapped)
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        _lighten_relu(module)
        block_feature_maps(module)
    return module


def _packed_form(module: nn.Module, width: int, seen: dict[nn.Module, Seen]) -> nn.Module | None:  # noqa: PLR0911
    """Return the layer that stands for K of this one; None if it has none, or is made of other layers."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise NotPackable(f"{type(module).__name__} has hooks")
    if not type(module).__module__.startswith("torch.nn.modules") or isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return None  # made of layers, or something of its own: a parametrized or a lazy layer too
    match module:
        case nn.Conv2d():
            return PackedConv2d(module, width)
        case nn.Linear():
            return PackedLinear(module, width)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return packed_batch_norm(module, width)
        case nn.GroupNorm():
            return packed_group_norm(module, width)
        case nn.LayerNorm():
            return PackedLayerNorm(module, width)
        case nn.Dropout() | nn.Dropout2d():
            return _packed_dropout(module, width, seen)
        case nn.Flatten():
            if (module.start_dim, module.end_dim) != (1, -1):
                raise NotPackable(f"Flatten({module.start_dim}, {module.end_dim}); only Flatten(1, -1) keeps slots apart")
            return PackedFlatten()
    return module if type(module) in CHANNEL_LOCAL else None


def _lighten_relu(sequence: nn.Sequential) -> None:
    """Swap each ReLU with the max-pooling behind it (the same function and gradient, a quarter of the work), then leave it to the
    dropout behind it, or let it overwrite the output of a convolution before it, which nothing else reads.
    """
    for i in range(len(sequence) - 1):
        if isinstance(sequence[i], nn.ReLU) and isinstance(sequence[i + 1], nn.MaxPool2d):
            sequence[i], sequence[i + 1] = sequence[i + 1], sequence[i]
    for (name, layer), (_, behind) in pairwise(list(sequence._modules.items())):
        if isinstance(layer, nn.ReLU) and isinstance(behind, PackedDropout) and behind.calls == 1:
            behind.after_relu = True
            sequence._modules[name] = nn.Identity()
    for before, layer in pairwise(sequence):
        if isinstance(layer, nn.ReLU) and isinstance(before, PackedConv2d):
            layer.inplace = True
