"""Images that are streamed give what images in the device's memory give, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CNN, network
from image_files import fake_folder

from sweeper.job import ArrayPlan, Augmentation, DataSettings, Penalties, TrainingSettings
from sweeper.training import datasets
from sweeper.training.datasets import Data, load_data
from sweeper.training.streaming import StreamedImages
from sweeper.training.trainer import Trainer, make_recipe
from sweeper.trial import Configuration, EpochResult, Run


def train(data: Data, pack: int) -> tuple[list[EpochResult], list[torch.Tensor]]:
    recipe = make_recipe(network(CNN, data), data, TrainingSettings(2, 16), Penalties())
    trainer = Trainer(recipe, data, ArrayPlan(4, pack), 7)
    for slot in range(4):
        trainer.start(Run(slot, Configuration(l2=1e-3, dropout=0.2), slot, 2))
    results = [result for _ in range(2) for result in trainer.epoch()]
    return results, [tensor for slot in range(4) for tensor in trainer.weights(slot).values()]


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True, shift=1, rotation=10)])
@pytest.mark.parametrize("pack", [1, 4])
def test_training_is_the_same_bit_for_bit(augmentation: Augmentation, pack: int) -> None:
    settings = DataSettings("digits", 90, 60, 20, standardize=True, label_noise=0.1, augmentation=augmentation)
    resident, streamed = load_data(settings, streamed=False), load_data(settings, streamed=True)
    assert isinstance(streamed.train.images, StreamedImages)
    results, weights = train(resident, pack)
    same_results, same_weights = train(streamed, pack)
    assert same_results == results
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(same_weights, weights, strict=True))


def test_a_folders_images_are_streamed_out_of_the_memory_map_of_its_cache(tmp_path: Path) -> None:
    fake_folder(tmp_path / "images")
    settings = DataSettings(f"folder:{tmp_path / 'images'}", validation_size=0.25, root=str(tmp_path), standardize=True)
    resident, streamed = load_data(settings, streamed=False), load_data(settings, streamed=True)
    for part, same in (
        (resident.train, streamed.train),
        (resident.validation, streamed.validation),
        (resident.test, streamed.test),
    ):
        assert isinstance(same.images, StreamedImages)
        assert isinstance(same.images._pixels, np.memmap)
        assert torch.equal(resident.inputs(part, slice(None)), streamed.inputs(same, slice(None)))


def test_what_takes_too_much_of_the_memory_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings("digits", 90, 60, 20)
    assert isinstance(load_data(settings).train.images, torch.Tensor)
    monkeypatch.setattr(datasets, "available", lambda device: 170 * 64 * 2 - 1)
    assert isinstance(load_data(settings).train.images, StreamedImages)
    monkeypatch.setattr(datasets, "available", lambda device: 170 * 64 * 2)
    assert isinstance(load_data(settings).train.images, torch.Tensor)


def test_an_epoch_given_up_half_way_leaves_no_reader_behind() -> None:
    data = load_data(DataSettings("digits", 600, 200, 200), streamed=True)
    batches = data.training_batches(torch.arange(600), 16, 0)
    next(batches)
    batches.close()
    (images, labels), *_ = replace(data).training_batches(torch.arange(600), 16, 0)
    assert torch.equal(labels, data.train.labels[:16])
    assert torch.equal(images, data.inputs(data.train, torch.arange(16)))


def test_an_error_while_reading_ends_the_epoch() -> None:
    images = StreamedImages(np.zeros((4, 1, 2, 2), np.uint8), np.arange(4), "cpu")
    with pytest.raises(IndexError):
        list(images.batches([torch.tensor([0]), torch.tensor([9])]))
