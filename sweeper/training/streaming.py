"""Images that stay where they were read from, often a memory map, and come to the device batch by batch while it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AHEAD = 3
"""Batches that are fetched before they are needed."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images on the device, and what to wait for before they are used; None where they are there already."""

    images: Tensor
    arrived: torch.cuda.Event | None = None


class StreamedImages:
    """Part of the images of an array, to be indexed like a tensor uint8 `[N, C, H, W]` on the device.

    Args:
        pixels: uint8 `[M, C, H, W]`, in memory or mapped into it.
        rows: int64 `[N]`, which of them are meant.
        device: where batches are needed.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray, device: torch.device | str) -> None:
        self._pixels, self._rows, self.device = pixels, rows, torch.device(device)
        self.shape = torch.Size((len(rows), *pixels.shape[1:]))
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return images uint8 `[B, C, H, W]`, fetched now."""
        chosen = self._rows[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return torch.from_numpy(self._pixels.take(chosen, axis=0)).to(self.device)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of rows (int64 `[B]`, on the CPU), the next ones being fetched meanwhile."""
        waiting: deque[Future[_Batch]] = deque()
        with ThreadPoolExecutor(1, "images") as reader:
            try:
                for rows in batches:
                    waiting.append(reader.submit(self._fetch, rows))
                    if len(waiting) > AHEAD:
                        yield _taken(waiting.popleft().result())
                while waiting:
                    yield _taken(waiting.popleft().result())
            finally:
                for late in waiting:
                    late.cancel()

    def _fetch(self, rows: Tensor) -> _Batch:
        chosen = self._rows[rows.numpy()]
        if self._copies is None:
            return _Batch(torch.from_numpy(self._pixels.take(chosen, axis=0)))
        # torch keeps pinned blocks, and gives one out again only when the copies out of it are done.
        buffer = torch.empty((len(chosen), *self.shape[1:]), dtype=torch.uint8, pin_memory=True)
        self._pixels.take(chosen, axis=0, out=buffer.numpy(), mode="clip")  # any other mode copies through a buffer of its own
        with torch.cuda.stream(self._copies):
            images = buffer.to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._copies)
        return _Batch(images, arrived)


def _taken(batch: _Batch) -> Tensor:
    """Let the device's present work wait for a batch, and return its images."""
    if batch.arrived is not None:
        current = torch.cuda.current_stream(batch.images.device)
        current.wait_event(batch.arrived)
        batch.images.record_stream(current)
    return batch.images
