"""The losses are torch's own where it has them and the papers' where it has not; a slot meets only the losses it chose."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import torch_loss, torch_losses
from torch import Tensor

from sweeper.training.losses import LOSSES, ArrayLoss, balanced_weights, count_hits, sample_losses
from sweeper.trial import Configuration

NAMES = ["cross_entropy", "mse", "square", "hinge", "squared_hinge", "focal"]
TARGET = torch.arange(20) % 10


def logits_of(slots: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(slots, 20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def value_and_gradient(loss: ArrayLoss, logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    values = loss(leaf, TARGET)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, torch.linspace(0.5, 2, 10, dtype=torch.float64)])
def test_a_loss_and_its_gradient_are_torchs_own(name: str, weights: Tensor | None) -> None:
    chosen = [Configuration(loss=name, label_smoothing=s, focal_gamma=1 + s, square_k=2.0, square_m=3.0) for s in (0.0, 0.1, 0.3)]
    logits = logits_of(3)
    values, gradient = value_and_gradient(ArrayLoss(chosen, logits, weights), logits)
    for slot, configuration in enumerate(chosen):
        alone = logits[slot].clone().requires_grad_()
        expected = torch_loss(alone, TARGET, configuration, weights)
        assert values[slot] == pytest.approx(expected.item(), abs=1e-12)
        assert torch.allclose(gradient[slot], torch.autograd.grad(expected, alone)[0], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_of_single_images_are_torchs_own(name: str, smoothing: float) -> None:
    chosen = Configuration(loss=name, label_smoothing=smoothing, focal_gamma=1.5, square_k=2.0, square_m=3.0)
    (logits,) = logits_of(1)
    assert torch.allclose(sample_losses(chosen, logits, TARGET), torch_losses(name, logits, TARGET, chosen), atol=1e-12)
    mixture = replace(chosen, loss_weights=(("cross_entropy", 0.3), (name, 2.0)))
    assert float(sample_losses(mixture, logits, TARGET).mean()) == pytest.approx(float(torch_loss(logits, TARGET, mixture)))


def test_class_weights_are_those_of_torchs_cross_entropy() -> None:
    weights = torch.linspace(0.5, 2, 10, dtype=torch.float64)
    logits = logits_of(1)
    mine = ArrayLoss([Configuration()], logits, weights)(logits, TARGET)
    assert float(mine) == pytest.approx(float(F.cross_entropy(logits[0], TARGET, weight=weights)), abs=1e-12)
    assert float(ArrayLoss([Configuration()], logits, weights)(logits, TARGET, weighted=False)) == pytest.approx(
        float(F.cross_entropy(logits[0], TARGET))
    )


def test_balanced_weights_make_every_class_count_the_same() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(labels, 3)
    totals = [float((weights[labels] * (labels == c)).sum()) for c in range(3)]
    assert totals == pytest.approx([10 / 3] * 3)


def test_the_square_loss_without_rescaling_is_torchs_mse_on_logits() -> None:
    logits = logits_of(1)
    mine = ArrayLoss([Configuration(loss="square")], logits)(logits, TARGET)
    assert float(mine) == pytest.approx(float(F.mse_loss(logits[0], F.one_hot(TARGET, 10).double())))


def test_focal_loss_without_focus_is_cross_entropy_and_its_gradient_is_finite_for_certain_answers() -> None:
    logits = logits_of(2, scale=200.0)
    chosen = [Configuration(loss="focal", focal_gamma=0.0), Configuration(loss="focal", focal_gamma=0.5)]
    values, gradient = value_and_gradient(ArrayLoss(chosen, logits), logits)
    assert float(values[0]) == pytest.approx(float(F.cross_entropy(logits[0], TARGET)))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_of_diverged_logits_is_not_finite(name: str, value: float) -> None:
    logits = torch.full((1, 4, 10), value)
    loss = ArrayLoss([Configuration(loss=name)], logits)
    assert not loss(logits, torch.zeros(4, dtype=torch.int64)).isfinite().any()


def test_a_loss_is_not_evaluated_where_it_was_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    monkeypatch.setitem(LOSSES, "mse", lambda x, t: (seen.append(tuple(x.shape)), x.square().mean(1))[1])
    logits = torch.randn(4, 4, 10)
    logits[0] = math.inf
    mixture = Configuration(loss="mse + hinge", loss_weights=(("mse", 0.0), ("hinge", 1.0)))
    chosen = [Configuration(), Configuration(loss="mse"), Configuration(loss="mse"), mixture]
    out = ArrayLoss(chosen, logits)(logits, torch.zeros(4, dtype=torch.int64))
    assert seen == [(2, 10, 4)]
    assert out[1:].isfinite().all()


@given(
    logits=arrays("float32", (2, 5, 4), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, math.inf, -math.inf])),
    labels=arrays("int64", 5, elements=st.integers(0, 3)),
)
def test_hits_are_those_of_the_first_largest_logit(logits: Any, labels: Any) -> None:
    expected = torch.from_numpy(logits).argmax(dim=2) == torch.from_numpy(labels)
    assert count_hits(torch.from_numpy(logits), torch.from_numpy(labels)).tolist() == expected.sum(dim=1).tolist()


def test_a_diverged_network_hits_nothing() -> None:
    assert count_hits(torch.full((1, 3, 4), math.nan), torch.tensor([0, 1, 3])).tolist() == [0]


def test_smoothing_in_one_slot_leaves_its_neighbour_alone() -> None:
    logits = logits_of(2)
    logits[0, :, 0] = -math.inf  # one class is out of the question: only without smoothing is that no infinite loss
    target = TARGET.clamp_min(1)
    out = ArrayLoss([Configuration(), Configuration(label_smoothing=0.1)], logits)(logits, target)
    assert out.isfinite().all()
    assert float(out[0]) == pytest.approx(float(torch_losses("cross_entropy", logits[0], target, Configuration()).mean()))
