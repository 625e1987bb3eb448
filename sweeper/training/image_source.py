"""What every source of images gives, and how sources keep out of each other's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweeper.job import JobError

Images = tuple[np.ndarray, np.ndarray]
"""Pixels uint8 `[N, C, H, W]` and labels int64 `[N]`."""


class DataError(JobError):
    """The data cannot be had, or cannot be split as asked; the message says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set as it comes: images to train on, the set's own test part if it has one, the value of the brightest pixel."""

    pool: Images
    test: Images | None = None
    brightest: float = 255.0

    @property
    def classes(self) -> int:
        """Number of classes; labels are 0 to one less, and the pool has them all (`load_source`)."""
        return int(self.pool[1].max()) + 1


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out; not where nothing can be written, for there nobody else writes either."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    with FileLock(path) if writable else nullcontext():
        yield
