"""A run in the middle as bytes, and back: weights, statistics, optimizer, counters. Its random numbers follow from the counters."""

from __future__ import annotations

import io
import logging
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from sweeper.training.early_stopping import Best
from sweeper.trial import Metrics, Run

log = logging.getLogger(__name__)
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Occupant:
    """A run in a slot: how many steps and epochs it has behind it, where in the index stream it began and went on, its best epoch.

    `stream` has pairs of (finished epochs, epoch of the shared index stream): one for the start, one for each resumption.
    """

    run: Run
    stream: tuple[tuple[int, int], ...]
    epoch: int = 0
    steps: int = 0
    best: Best | None = None


@dataclass(frozen=True, slots=True)
class SlotState:
    """All that a run needs to go on in another slot, of whatever array."""

    occupant: Occupant
    network: dict[str, Tensor]
    optimizer: list[Tensor]


def encode(state: SlotState) -> bytes:
    """Return a slot's state as bytes that `decode` reads, whatever the device."""
    at = state.occupant
    best = at.best and {"epoch": at.best.epoch, "metrics": list(astuple(at.best.metrics)), "weights": at.best.weights}
    content = {
        "format": FORMAT,
        "stream": [list(pair) for pair in at.stream],
        "epoch": at.epoch,
        "steps": at.steps,
        "best": best,
        "network": state.network,
        "optimizer": state.optimizer,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def decode(content: bytes, run: Run, device: torch.device) -> SlotState | None:
    """Return the state that `encode` wrote, of this run; None if it is of another format, or of a torch that wrote otherwise."""
    try:
        table: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch's readers raise what they come across
        log.warning("trial %d begins again: its checkpoint cannot be read (%s)", run.trial, type(error).__name__)
        return None
    if table.get("format") != FORMAT:
        log.warning("trial %d begins again: its checkpoint has format %s, not %s", run.trial, table.get("format"), FORMAT)
        return None
    best = table["best"] and Best(table["best"]["epoch"], Metrics(*table["best"]["metrics"]), table["best"]["weights"])
    stream = tuple((epoch, at) for epoch, at in table["stream"])
    return SlotState(Occupant(run, stream, table["epoch"], table["steps"], best), table["network"], table["optimizer"])
