"""Changed images are those that torchvision makes of the same flips, shifts and angles, and an image's change is its own."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from sweeper.job import Augmentation, DataSettings
from sweeper.training.augment import augment, draw_changes
from sweeper.training.datasets import load_data

EVERYTHING = Augmentation(flip=True, shift=3, rotation=25.0)


def pictures(count: int, shape: tuple[int, int, int] = (3, 9, 12)) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("augmentation", [Augmentation(flip=True), Augmentation(shift=4), Augmentation(flip=True, shift=40)])
def test_flips_and_shifts_move_pixels_as_they_are(augmentation: Augmentation) -> None:
    images, rows = pictures(64), torch.arange(64)
    changes = draw_changes(rows, 5, augmentation)
    expected = [
        reference.affine(reference.hflip(image) if flip else image, 0.0, [int(right), int(down)], 1.0, [0.0])
        for image, flip, right, down in zip(images, changes.flip, changes.right, changes.down, strict=True)
    ]
    assert torch.equal(augment(images, rows, 5, augmentation), torch.stack(expected))


@pytest.mark.parametrize("augmentation", [Augmentation(rotation=180.0), EVERYTHING])
def test_rotations_are_those_of_torchvision(augmentation: Augmentation) -> None:
    images, rows = pictures(32), torch.arange(32)
    changes = draw_changes(rows, 5, augmentation)
    assert changes.clockwise is not None
    expected = [
        reference.affine(
            reference.hflip(image) if flip else image,
            float(angle),
            [int(right), int(down)],
            1.0,
            [0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        for image, flip, angle, right, down in zip(
            images, changes.flip, changes.clockwise, changes.right, changes.down, strict=True
        )
    ]
    changed = augment(images, rows, 5, augmentation)
    torch.testing.assert_close(changed, torch.stack(expected), rtol=0, atol=1e-5)
    assert (changed == 0).any()  # corners that nothing turned into are black


def test_every_change_occurs_as_often_as_it_should() -> None:
    count, rotation = 40_000, 30.0
    changes = draw_changes(torch.arange(count), 7, Augmentation(flip=True, shift=2, rotation=rotation))
    assert changes.flip.double().mean() == pytest.approx(0.5, abs=0.01)
    places = (changes.right + 2) * 5 + changes.down + 2
    assert torch.bincount(places, minlength=25).double().div(count).sub(1 / 25).abs().max() < 0.005
    assert changes.clockwise is not None
    tenths = ((changes.clockwise + rotation) / (2 * rotation) * 10).floor().long()
    assert torch.bincount(tenths).double().div(count).sub(0.1).abs().max() < 0.008
    together = torch.stack([changes.flip.double(), changes.right.double(), changes.down.double(), changes.clockwise.double()])
    assert (torch.corrcoef(together) - torch.eye(4)).abs().max() < 0.02


def test_an_image_is_changed_alike_in_any_batch() -> None:
    images = pictures(50)
    rows = torch.arange(50) + 1000
    whole = augment(images, rows, 3, EVERYTHING)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(augment(images[order], rows[order], 3, EVERYTHING), whole[order])
    assert torch.equal(augment(images[7:8], rows[7:8], 3, EVERYTHING), whole[7:8])


def test_another_seed_is_another_change() -> None:
    rows = torch.arange(2000)
    one, other = (draw_changes(rows, seed, EVERYTHING) for seed in (0, 1))
    assert (one.flip == other.flip).double().mean() == pytest.approx(0.5, abs=0.05)
    assert (one.right == other.right).double().mean() == pytest.approx(1 / 7, abs=0.05)


def test_the_random_state_of_torch_is_left_alone_and_not_asked() -> None:
    images, rows = pictures(8), torch.arange(8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(images, rows, 3, EVERYTHING)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment(images, rows, 3, EVERYTHING), first)
    assert torch.equal(rows, torch.arange(8))


def test_only_training_inputs_are_changed_and_before_they_are_normalized() -> None:
    settings = DataSettings("digits", 100, 50, 50, augmentation=EVERYTHING, mean=(0.3,), std=(0.5,))
    data = load_data(settings)
    rows = torch.tensor([3, 99, 40])
    raw = data.train.images[rows].float() / 16
    torch.testing.assert_close(data.training_inputs(rows, 9), (augment(raw, rows, 9, EVERYTHING) - 0.3) / 0.5)
    torch.testing.assert_close(data.inputs(data.train, rows), (raw - 0.3) / 0.5)
    plain = load_data(DataSettings("digits", 100, 50, 50))
    assert torch.equal(plain.training_inputs(rows, 9), raw)
