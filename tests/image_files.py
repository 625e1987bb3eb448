"""Small image files in the formats of the field, made up on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def images_of(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.integers(256, size=shape, dtype=np.uint8)


def fake_mnist(root: Path, train: int = 60, test: int = 20, name: str = "MNIST") -> None:
    """Write the four files of MNIST in their format: magic number, dimensions (big-endian), bytes."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        images = images_of((count, 28, 28))
        sizes = np.array([0x803, *images.shape], ">u4")
        (raw / f"{part}-images-idx3-ubyte").write_bytes(sizes.tobytes() + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">u4").tobytes() + labels.tobytes())


def fake_folder(
    path: Path, parts: tuple[str, ...] = ("",), size: tuple[int, int] = (6, 5), mode: str = "RGB", each: int = 4
) -> Path:
    """Write `each` images, (width, height) `size`, for each of the classes ant, bee and cat."""
    for part in parts:
        for name in ("bee", "ant", "cat"):
            (path / part / name).mkdir(parents=True)
            for number in range(each):
                shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
                image = Image.fromarray(images_of(shape))
                image.save(path / part / name / f"{number}.{'png' if number % 2 else 'bmp'}")
    return path
