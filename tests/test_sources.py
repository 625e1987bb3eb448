"""Images come as the formats and their own readers say; what cannot be used is said."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import fake_folder, fake_mnist, images_of
from PIL import Image
from scipy.io import savemat
from torchvision import datasets, transforms

from sweeper.job import DataSettings
from sweeper.training.datasets import Data, DataError, load_data


def all_images(data: Data) -> set[tuple[bytes, int]]:
    parts = (data.train, data.validation, data.test)
    return {(image.numpy().tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels, strict=True)}


def folder_settings(path: Path, root: Path, image_size: int | None = None) -> DataSettings:
    return DataSettings(f"folder:{path}", validation_size=0.25, root=str(root), image_size=image_size)


def test_mnist_is_what_torchvision_reads(tmp_path: Path) -> None:
    fake_mnist(tmp_path)
    data = load_data(DataSettings("mnist", validation_size=10, root=str(tmp_path)))
    theirs = {train: datasets.MNIST(tmp_path, train=train, transform=transforms.ToTensor()) for train in (True, False)}
    assert [len(part) for part in (data.train, data.validation, data.test)] == [50, 10, 20]
    mine = torch.cat([data.inputs(data.train, slice(None)), data.inputs(data.validation, slice(None))])
    assert {x.numpy().tobytes() for x in mine} == {x.numpy().tobytes() for x, _ in theirs[True]}
    assert torch.equal(data.inputs(data.test, slice(None)), torch.stack([x for x, _ in theirs[False]]))
    assert data.test.labels.tolist() == [label for _, label in theirs[False]]


def test_cifar_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    sums = [[name, write(name, {"data": images_of((10, 3072)), "labels": list(range(10))})] for name in names]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", {"label_names": list("abcdefghij")})}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    data = load_data(DataSettings("cifar10", validation_size=10, root=str(tmp_path)))
    theirs = datasets.CIFAR10(tmp_path, train=False, transform=transforms.ToTensor())
    assert [len(part) for part in (data.train, data.validation, data.test)] == [40, 10, 10]
    assert torch.equal(data.inputs(data.test, slice(None)), torch.stack([image for image, _ in theirs]))
    assert data.test.labels.tolist() == [label for _, label in theirs]


def test_house_numbers_are_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": images_of((32, 32, 3, 20)), "y": (np.arange(20) % 10 + 1)[:, None]})
        parts[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", parts)
    data = load_data(DataSettings("svhn", validation_size=5, root=str(tmp_path)))
    theirs = datasets.SVHN(tmp_path, split="test", transform=transforms.ToTensor())
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15, 5, 20]
    assert torch.equal(data.inputs(data.test, slice(None)), torch.stack([image for image, _ in theirs]))
    assert data.test.labels.tolist() == [label for _, label in theirs]


@pytest.mark.parametrize(
    ("name", "below", "file"),
    [
        ("mnist", "MNIST/raw", "t10k-labels-idx1-ubyte.gz"),
        ("cifar10", "", "cifar-10-python.tar.gz"),
        ("cifar100", "", "cifar-100-python.tar.gz"),
        ("svhn", "", "test_32x32.mat"),
    ],
)
def test_a_set_that_cannot_be_downloaded_names_its_place(
    name: str, below: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match="no network here") as caught:
        load_data(DataSettings(name, root=str(tmp_path)))
    message = str(caught.value)
    assert file in message
    assert f"into {tmp_path / below} " in message
    assert "folder:PATH" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_damaged_files_of_a_set_are_said_to_be(tmp_path: Path) -> None:
    fake_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged there"):
        load_data(DataSettings("mnist", root=str(tmp_path)))


def test_a_folder_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures")
    (path / ".hidden").mkdir()
    (path / "ant" / "notes.txt").write_text("not an image")
    data = load_data(folder_settings(path, tmp_path))
    assert data.input_shape == (3, 5, 6)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 0)
    expected = {
        (np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes(), label)
        for label, name in enumerate(("ant", "bee", "cat"))
        for file in (path / name).iterdir()
        if file.suffix != ".txt"
    }
    assert all_images(data) == expected


@pytest.mark.parametrize(
    ("parts", "sizes"), [(("train", "test"), (9, 3, 12)), (("train", "val"), (9, 3, 12)), (("train",), (9, 3, 0))]
)
def test_a_folder_may_have_an_official_test_part(parts: tuple[str, ...], sizes: tuple[int, ...], tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures", parts)
    data = load_data(folder_settings(path, tmp_path))
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert all_images(data) == {
        (np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes(), ["ant", "bee", "cat"].index(file.parent.name))
        for file in path.rglob("*.*")
    }
    if len(parts) > 1:
        first = sorted((path / parts[1] / "ant").iterdir())[0]
        assert data.test.images[0].permute(1, 2, 0).numpy().tobytes() == np.asarray(Image.open(first)).tobytes()


def test_images_are_gray_only_if_all_are(tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures", mode="L")
    gray = load_data(folder_settings(path, tmp_path))
    assert gray.input_shape == (1, 5, 6)
    Image.new("RGB", (6, 5), (255, 0, 0)).save(path / "cat" / "red.png")
    mixed = load_data(folder_settings(path, tmp_path))
    assert mixed.input_shape == (3, 5, 6)
    assert {np.repeat(np.frombuffer(image, np.uint8).reshape(1, 5, 6), 3, 0).tobytes() for image, _ in all_images(gray)} < {
        image for image, _ in all_images(mixed)
    }


def test_images_of_different_sizes_are_brought_to_one_as_torchvision_does(tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures", size=(30, 20))
    Image.effect_noise((17, 41), 80).save(path / "bee" / "tall.jpg")
    with pytest.raises(DataError, match=r"20x30 \(.*0.bmp\) and 41x17 \(.*tall.jpg\); set image_size"):
        load_data(folder_settings(path, tmp_path))
    data = load_data(folder_settings(path, tmp_path, image_size=9))
    change = transforms.Compose([transforms.Resize(9), transforms.CenterCrop(9)])
    expected = {np.asarray(change(Image.open(file).convert("RGB"))).transpose(2, 0, 1).tobytes() for file in path.rglob("*.*")}
    assert {image for image, _ in all_images(data)} == expected


def test_a_folder_is_decoded_once_and_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sweeper.training.folders")
    path = fake_folder(tmp_path / "pictures")
    settings = folder_settings(path, tmp_path / "root")
    first, second = load_data(settings), load_data(settings)
    assert all_images(first) == all_images(second)
    assert [record.getMessage()[:17] for record in caplog.records] == ["decoded 12 images"]
    changed = path / "ant" / "1.png"
    os.utime(changed, ns=(1, 1))
    load_data(settings)
    Image.new("RGB", (6, 5)).save(changed)
    assert (bytes(90), 0) in all_images(load_data(settings))
    changed.rename(path / "ant" / "9.png")
    load_data(settings)
    assert len(caplog.records) == 4
    assert len(list((tmp_path / "root" / "cache").glob("folder-*-*"))) == 1  # what was decoded of the folder's former state is gone


def test_processes_that_want_the_same_folder_decode_it_once(tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures", size=(64, 64), each=100)
    script = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from sweeper.job import DataSettings\nfrom sweeper.training.datasets import load_data\n"
        f"input()\ndata = load_data(DataSettings({f'folder:{path}'!r}, root={str(tmp_path)!r}))\n"
        "print(len(data.train), int(data.train.images.sum()))"
    )
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    workers = [start(), start()]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=60) for worker in workers]
    assert outputs[0][0] == outputs[1][0] != ""
    assert sum(errors.count("decoded 300 images") for _, errors in outputs) == 1


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures")
    victim = path / "cat" / "3.png"
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cat/3.png cannot be read as an image: .*; mend it or take it away"):
        load_data(folder_settings(path, tmp_path))
    assert not list((tmp_path / "cache").glob("folder-*-*"))


def test_sixteen_bits_are_not_cut_off_in_silence(tmp_path: Path) -> None:
    path = fake_folder(tmp_path / "pictures")
    Image.fromarray(np.full((5, 6), 3000, np.uint16)).save(path / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"deep.png.*more than 8 bits"):
        load_data(folder_settings(path, tmp_path))


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_data(folder_settings(tmp_path / "nowhere", tmp_path))
    path = fake_folder(tmp_path / "pictures", ("train", "test"))
    (path / "test" / "cat").rename(path / "test" / "dog")
    with pytest.raises(DataError, match=r"must have the same classes; only one of them has: cat, dog"):
        load_data(folder_settings(path, tmp_path))
    (path / "empty" / "a").mkdir(parents=True)
    (path / "empty" / "b").mkdir()
    with pytest.raises(DataError, match=r"empty/a has no images"):
        load_data(folder_settings(path / "empty", tmp_path))
    with pytest.raises(DataError, match="holds 0 folders"):
        load_data(folder_settings(path / "empty" / "a", tmp_path))
    (path / "train" / "cat" / "link.png").symlink_to(path / "gone.png")
    with pytest.raises(DataError, match=r"link.png'; mend what it names"):
        load_data(folder_settings(path / "train", tmp_path))
    (path / "train" / "cat" / "link.png").unlink()
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache in .*; choose another root"):
        load_data(folder_settings(path / "train", blocked))


@pytest.mark.parametrize(
    ("shape", "input_shape"),
    [((20, 7, 6), (1, 7, 6)), ((20, 7, 6, 3), (3, 7, 6)), ((20, 3, 7, 6), (3, 7, 6)), ((20, 7, 6, 1), (1, 7, 6))],
)
def test_arrays_of_every_shape_are_the_same_images(shape: tuple[int, ...], input_shape: tuple[int, ...], tmp_path: Path) -> None:
    images, labels = images_of(shape), (np.arange(20) % 4).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels[:, None])
    data = load_data(DataSettings(f"npz:{tmp_path / 'a.npz'}"))
    assert data.input_shape == input_shape
    back = images if shape[1] == 3 or len(shape) == 3 else images.transpose(0, 3, 1, 2)
    assert all_images(data) == {(image.tobytes(), int(label)) for image, label in zip(back, labels, strict=True)}


def test_files_of_keras_and_of_medmnist_bring_their_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.arange(12) % 3
    test = images_of((6, 5, 5))
    np.savez("keras.npz", x_train=images_of((12, 5, 5)), y_train=labels, x_test=test, y_test=labels[:6])
    keras = load_data(DataSettings("npz:keras.npz", validation_size=3))
    assert (len(keras.train), len(keras.validation), len(keras.test)) == (9, 3, 6)
    assert torch.equal(keras.test.images, torch.from_numpy(test)[:, None])
    parts = {f"{part}_images": images_of((12, 5, 5)) for part in ("train", "val", "test")}
    np.savez("med.npz", **parts, **{f"{part}_labels": labels[:, None] for part in ("train", "val", "test")})
    med = load_data(DataSettings("npz:med.npz", validation_size=4))
    assert (len(med.train), len(med.validation), len(med.test)) == (20, 4, 12)


FINE = {"images": np.zeros((6, 5, 5), np.uint8), "labels": np.arange(6) % 2}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pictures": np.zeros(3), "names": np.zeros(3)},
            "has the arrays pictures, names; understood are: images, labels or x_train",
        ),
        (FINE | {"images": np.zeros((6, 5, 5))}, "has the type float64; save pixels as uint8"),
        (FINE | {"images": np.zeros((6, 3, 5, 3), np.uint8)}, r"shape \(6, 3, 5, 3\)"),
        (FINE | {"images": np.zeros((6, 5, 5, 4), np.uint8)}, r"shape \(6, 5, 5, 4\)"),
        (FINE | {"labels": np.arange(5)}, r"int64 of shape \(5,\)"),
        (FINE | {"labels": np.zeros((6, 14), int)}, r"shape \(6, 14\)"),
        (FINE | {"labels": np.arange(6) % 2 + 1}, "2 values from 1 to 2; number the classes 0 to 1 without gaps"),
        (FINE | {"labels": np.arange(6) % 2 * 2}, "no image of class 1"),
        (FINE | {"labels": np.zeros(6, int)}, "two classes or more, here is 1"),
        (FINE | {"labels": np.array(list("ababab"), object)}, "allow_pickle=False"),
        (
            {"x_train": FINE["images"], "y_train": FINE["labels"], "x_test": FINE["images"][:, :4], "y_test": FINE["labels"]},
            r"differ in shape \[C, H, W\]: \(1, 4, 5\), \(1, 5, 5\)",
        ),
        (
            {"x_train": FINE["images"], "y_train": FINE["labels"], "x_test": FINE["images"], "y_test": FINE["labels"] + 1},
            "the test part has labels that the training part has not",
        ),
    ],
)
def test_arrays_that_cannot_be_used_are_said_to_be(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(DataSettings(f"npz:{tmp_path / 'a.npz'}"))


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }".ljust(127) + b"\n"


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no zip", b"\x80\x04K\x01.", NPY])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*a.npz"):
        load_data(DataSettings(f"npz:{path}"))
