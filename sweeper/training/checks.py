"""What is looked at before the first step: that a pack computes what its members do, and that what is asked for has an effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sweeper.job import JobError
from sweeper.training.array import PackedNetwork
from sweeper.training.conversion import same_function
from sweeper.training.layers import NotPackable
from sweeper.training.models import seeded
from sweeper.trial import Configuration

Build = Callable[[], nn.Module]


def obstacle_to_packing(build: Build, example: Tensor) -> str | None:
    """Return why several of a network cannot run as one; None if they can."""
    try:
        with seeded(0):
            check_packing(build, 2, example)
    except NotPackable as error:
        return str(error)
    return None


def check_packing(build: Build, width: int, example: Tensor) -> None:
    """Compare a packed network with its members run alone, in float64.

    Raises:
        NotPackable: a layer has no packed form, or the packed network does not compute what its members do.
    """
    try:
        difference = _difference(build, width, example)
    except NotPackable:
        raise
    except Exception as error:  # the user's forward on activations it was not written for
        hint = "; flatten(1) would do in place of view" if "view" in str(error) else ""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise NotPackable(f"it does not run on activations of several networks ({reason}){hint}") from error
    if difference:
        raise NotPackable(f"several side by side do not compute what one alone does, {difference}")


def check_job(build: Build, example: Tensor, samples: Sequence[Configuration], last_batch: int, *, packable: bool) -> None:
    """Refuse what would fail late or change nothing.

    Args:
        build: the network.
        example: one input.
        samples: configurations like those that will be trained.
        last_batch: how many images the last batch of an epoch holds.
        packable: whether the network packs.

    Raises:
        JobError: a dropout rate without such a layer; batch norm on a single image.
    """
    with seeded(0):
        network = PackedNetwork(build, 1, example, packable=packable)
    kinds = {dropout.kind for dropout in network.dropouts}
    for name in ("dropout", "dropout_input", "dropout_conv", "dropout_dense"):
        there = kinds if name == "dropout" else kinds & {name.removeprefix("dropout_")}
        if any(getattr(sample, name) for sample in samples) and not there:
            raise JobError(f"search.{name}: the network has no such dropout layer, its rate would change nothing")
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    if last_batch == 1 and any(isinstance(m, norms) for m in network.modules()):
        raise JobError("the last batch of an epoch would hold one image, and batch norm needs two; change train_size or batch_size")


def _difference(build: Build, width: int, example: Tensor) -> str | None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, *example.shape[1:]), dtype=torch.float64, generator=generator).to(example.device)
    packed = PackedNetwork(build, width, x[:1])
    members = [build().to(x.device, x.dtype) for _ in range(width)]
    for slot, member in enumerate(members):
        packed.load_member(slot, {**dict(member.named_parameters()), **dict(member.named_buffers())})
        packed.set_dropout(slot, lambda kind: 0.5)
    _run_with_dropout(packed, x)
    for slot in range(width):
        packed.set_dropout(slot, lambda kind: 0.0)
    return same_function(packed, members, x)


def _run_with_dropout(packed: PackedNetwork, x: Tensor) -> None:
    """Run a network with its dropout layers at work: what they see then differs in shape from what they see at rate 0."""
    state = [packed.member(slot) for slot in range(packed.width)]
    for dropout in packed.dropouts:
        dropout.draw(torch.zeros(1, packed.width, dtype=torch.int32, device=x.device))
        dropout.begin(0)
    packed.train()(x.clone())
    for slot, tensors in enumerate(state):  # training has moved the statistics of norms
        packed.load_member(slot, tensors)
