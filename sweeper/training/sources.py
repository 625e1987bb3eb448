"""Where images come from: scikit-learn, torchvision, a folder of images, an .npz file. Each gives pixels and labels as arrays."""

from __future__ import annotations

import importlib.util
import io
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.job import DataSettings
from sweeper.training.folders import read_folder
from sweeper.training.image_source import DataError, Images, Source, locked

DOWNLOAD_TIMEOUT = 30.0
"""Seconds without a byte after which a download is given up; torchvision itself would wait for ever."""


def load_source(settings: DataSettings) -> Source:
    """Read the data set that the settings name.

    Raises:
        DataError: there is no such data set, it is not where it should be and cannot be downloaded, or cannot be used as it is.
    """
    kind, _, path = settings.name.partition(":")
    if settings.name == "digits":
        source = _digits()
    elif settings.name in OFFICIAL:
        source = _official(settings.name, Path(settings.root).expanduser().absolute())
    elif kind in FROM_PATH and path:
        try:
            source = FROM_PATH[kind](Path(path).expanduser().absolute(), settings)
        except OSError as error:  # a link to nothing, a folder that must not be read
            raise DataError(f"data set {settings.name}: {error}; mend what it names, or take it away") from error
    else:
        known = [*sorted(["digits", *OFFICIAL]), "folder:PATH", "npz:PATH"]
        raise DataError(f"unknown data set {settings.name!r}; there is: {', '.join(known)}")
    _check(settings.name, source)
    return source


def _check(name: str, source: Source) -> None:
    found = np.unique(source.pool[1])
    if len(found) < 2:
        raise DataError(f"data set {name}: a classifier needs images of two classes or more, here is {len(found)}")
    if not np.array_equal(found, np.arange(len(found))):
        missing = np.setdiff1d(np.arange(len(found)), found)
        raise DataError(
            f"data set {name}: the training labels have {len(found)} values from {found[0]} to {found[-1]}; number the classes "
            f"0 to {len(found) - 1} without gaps (there is no image of class {missing[0]})"
        )
    if source.test is not None and not np.isin(source.test[1], found).all():
        raise DataError(f"data set {name}: the test part has labels that the training part has not, which are 0 to {found[-1]}")


def _digits() -> Source:
    """Read scikit-learn's handwritten digits out of its wheel; importing scikit-learn for it would take a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data set digits needs scikit-learn: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except OSError as error:
        raise DataError(f"data set digits: this scikit-learn does not bring the file {path.name}: {error}") from error
    return Source((table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)), brightest=16.0)


_IDX_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
OFFICIAL = {
    "mnist": ("MNIST", "MNIST/raw", _IDX_FILES),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw", _IDX_FILES),
    "cifar10": ("CIFAR10", "", ("cifar-10-python.tar.gz",)),
    "cifar100": ("CIFAR100", "", ("cifar-100-python.tar.gz",)),
    "svhn": ("SVHN", "", ("train_32x32.mat", "test_32x32.mat")),
}
"""torchvision's class, the folder under the root in which it looks, and the files which it takes from there."""


def _official(name: str, root: Path) -> Source:
    class_name, below, files = OFFICIAL[name]

    def part(train: bool, download: bool) -> Images:
        from torchvision import datasets

        which: dict[str, Any] = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
        loaded = getattr(datasets, class_name)(root, download=download, **which)
        pixels = np.asarray(loaded.data)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels if name == "svhn" else pixels.transpose(0, 3, 1, 2)
        return pixels, np.asarray(loaded.labels if name == "svhn" else loaded.targets, dtype=np.int64)

    def both(download: bool) -> Source:
        return Source(part(True, download), part(False, download))

    try:
        with locked(root / f".{name}.lock"):
            try:
                return both(download=False)
            except RuntimeError:  # torchvision's word for: not there
                with _quiet_download():
                    return both(download=True)
    except Exception as error:  # what torchvision raises, down to its parsers' assertions, is not documented
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"data set {name} is not in {root}, or damaged there, and could not be downloaded ({what}); put "
            f"{', '.join(files)} into {root / below} (in place of damaged files), or use images of your own: folder:PATH"
        ) from error


@contextmanager
def _quiet_download() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            yield
    finally:
        socket.setdefaulttimeout(before)


def _npz(path: Path, settings: DataSettings) -> Source:
    layouts = (
        (("images", "labels"),),
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("train_images", "train_labels"), ("val_images", "val_labels"), ("test_images", "test_labels")),
    )
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            keys = list(file)
            layout = next((each for each in layouts if {key for pair in each for key in pair} <= set(keys)), ())
            arrays = [(file[images], file[labels]) for images, labels in layout]
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise DataError(
            f"npz: cannot read {path}: {error}; it must be an .npz file of plain arrays, as numpy.savez writes"
        ) from error
    if not arrays:
        understood = " or ".join(", ".join(key for pair in each for key in pair) for each in layouts)
        raise DataError(f"npz: {path} has the arrays {', '.join(keys)}; understood are: {understood}")
    parts = [_as_images(f"npz: {path}", pair, *found) for pair, found in zip(layout, arrays, strict=True)]
    shapes = {pixels.shape[1:] for pixels, _ in parts}
    if len(shapes) > 1:
        raise DataError(f"npz: {path}: the parts' images differ in shape [C, H, W]: {', '.join(map(str, sorted(shapes)))}")
    pool = parts[:-1] or parts
    images, labels = (np.concatenate(arrays) if len(pool) > 1 else arrays[0] for arrays in zip(*pool, strict=True))
    return Source((images, labels), parts[-1] if len(parts) > 1 else None)


def _as_images(where: str, keys: tuple[str, str], images: np.ndarray, labels: np.ndarray) -> Images:
    """Bring arrays to the shapes of `Images`, or say why they cannot be."""
    if images.dtype != np.uint8:
        raise DataError(f"{where}: {keys[0]} has the type {images.dtype}; save pixels as uint8, 0 to 255")
    channels_at = [axis for axis in (1, 3) if images.ndim == 4 and images.shape[axis] in {1, 3}]
    if images.ndim == 3:
        images = images[:, None]
    elif channels_at == [3]:
        images = images.transpose(0, 3, 1, 2)
    elif channels_at != [1]:
        raise DataError(
            f"{where}: {keys[0]} has the shape {images.shape}; it must be [N, H, W], or [N, H, W, C] or [N, C, H, W] "
            "with 1 or 3 channels, and clear which of the two"
        )
    if labels.dtype.kind not in "iu" or labels.shape not in {(len(images),), (len(images), 1)}:
        raise DataError(
            f"{where}: {keys[1]} is {labels.dtype} of shape {labels.shape}; it must be one whole number for each of the "
            f"{len(images)} images, [N] or [N, 1]"
        )
    return images, labels.reshape(-1).astype(np.int64)


FROM_PATH: dict[str, Callable[[Path, DataSettings], Source]] = {"folder": read_folder, "npz": _npz}
