"""Reads a folder of image files, one folder a class, decoded once into a cache."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeper.job import DataSettings
from sweeper.training.image_source import DataError, Source, locked

if TYPE_CHECKING:
    from PIL import Image

FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
GRAY_MODES = ("1", "L", "LA")
DECODED_AT_ONCE = 256
WORTH_THREADS = 20_000
"""Mean size of a file, in bytes, from which threads decode faster: smaller images spend their time in Python, under its lock."""


def read_folder(path: Path, settings: DataSettings) -> Source:
    """Read a folder with a folder of images for each class, out of its cache if nothing has changed since it was written."""
    pool, test = _list_images(path)
    place = "folder-" + hashlib.sha256(f"{path}\0{settings.image_size}".encode()).hexdigest()[:16]
    content = hashlib.sha256()
    for file, label in pool + test:
        state = os.stat(file)
        content.update(f"{os.path.relpath(file, path)}\0{label}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    cache = Path(settings.root).expanduser().absolute() / "cache"
    target = cache / f"{place}-{content.hexdigest()[:16]}"
    with locked(cache / f"{place}.lock"):
        if not target.exists():
            decoded = _decode([file for file, _ in pool + test], settings.image_size)
            try:
                _write_cache(target, decoded, cache.glob(f"{place}-*"))
            except OSError as error:
                raise DataError(f"folder: cannot write the cache in {cache}: {error}; choose another root") from error
        images = np.load(target / "images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.array([label for _, label in pool + test], dtype=np.int64)
    cut = len(pool)
    return Source((images[:cut], labels[:cut]), (images[cut:], labels[cut:]) if test else None)


def _write_cache(target: Path, images: np.ndarray, replaced: Iterable[Path]) -> None:
    """Write under another name, then rename: no process ever sees half of a cache. Of one folder only the last is kept."""
    for old in replaced:
        shutil.rmtree(old)
    new = target.with_name(f"{target.name}-new")
    new.mkdir()
    np.save(new / "images.npy", images)
    new.rename(target)


def _list_images(path: Path) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return files and labels of the pool and of the test part, in the order of their names."""
    if not path.is_dir():
        raise DataError(f"folder: {path} is not a folder; it must hold one folder of images for each class")
    parts = [path / name for name in ("train", "val", "test") if (path / name).is_dir()]
    if not parts or parts[0].name != "train" or not _folders(parts[0]):
        parts = [path]
    classes = _folders(parts[0])
    if len(classes) < 2:
        raise DataError(f"folder: {parts[0]} holds {len(classes)} folders; it must hold one folder of images for each class")
    listed = []
    for part in parts:
        if (found := _folders(part)) != classes:
            odd = ", ".join(sorted(set(found) ^ set(classes)))
            raise DataError(f"folder: {parts[0]} and {part} must have the same classes; only one of them has: {odd}")
        listed.append([(file, label) for label, name in enumerate(classes) for file in _files(part / name)])
    *pool, last = listed
    return (list(chain.from_iterable(pool)), last) if pool else (last, [])


def _folders(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def _files(path: Path) -> list[str]:
    walk = os.walk(path, followlinks=True)
    found = [f"{at}/{name}" for at, _, names in walk for name in names if not name.startswith(".")]
    images = sorted(name for name in found if name.lower().endswith(FORMATS))
    if not images:
        raise DataError(f"folder: {path} has no images; put some there ({', '.join(FORMATS)}) or take the folder away")
    return images


def _decode(files: list[str], image_size: int | None) -> np.ndarray:
    """Return the pixels of image files, `[N, 1, H, W]` if all of them are gray, else `[N, 3, H, W]`."""
    began = time.perf_counter()
    first = _decode_one(files[0], image_size)

    def decode_some(start: int) -> list[np.ndarray]:
        some = files[start : start + DECODED_AT_ONCE]
        decoded = [_decode_one(file, image_size) for file in some]
        for file, pixels in zip(some, decoded, strict=True):
            if pixels.shape[1:] != first.shape[1:]:
                sizes = " and ".join(f"{h}x{w} ({name})" for name, (_, h, w) in ((files[0], first.shape), (file, pixels.shape)))
                raise DataError(f"folder: images differ in height and width, {sizes}; set image_size to bring all to one size")
        return decoded

    sample = files[:: max(1, len(files) // 100)]
    threads = min(os.cpu_count() or 1, 8) if sum(map(os.path.getsize, sample)) > WORTH_THREADS * len(sample) else 1
    images = np.empty((len(files), *first.shape), np.uint8)
    starts = range(0, len(files), DECODED_AT_ONCE)
    with ThreadPoolExecutor(threads) as pool:
        for start, decoded in zip(starts, pool.map(decode_some, starts), strict=True):
            for at, pixels in enumerate(decoded, start):
                if len(pixels) > images.shape[1]:  # the first in colour after gray ones
                    images = np.repeat(images, len(pixels), axis=1)
                images[at] = pixels  # one gray channel goes into all three
    logging.getLogger(__name__).info("decoded %d images in %.1f s", len(files), time.perf_counter() - began)
    return images


def _decode_one(file: str, image_size: int | None) -> np.ndarray:
    """Return `[1, H, W]` of a gray image, `[3, H, W]` of any other; the shorter side scaled to `image_size`, the centre kept."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            image = _gray_or_rgb(opened)
        if image_size is not None:
            short = min(image.size)
            width, height = (image_size * side // short for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = round((width - image_size) / 2), round((height - image_size) / 2)
            image = image.crop((left, top, left + image_size, top + image_size))
    except Exception as error:  # each of Pillow's decoders raises its own
        raise DataError(f"folder: {file} cannot be read as an image: {error}; mend it or take it away") from error
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _gray_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # Pillow would cut off what is above 255
        raise ValueError("it has more than 8 bits a channel, save it with 8")
    return image.convert("L" if image.mode in GRAY_MODES else "RGB")
