"""Chooses how wide an array is and how many of its slots run as one network, by measuring on the real shapes."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn

from sweeper.training.datasets import Data
from sweeper.training.losses import LOSSES
from sweeper.training.pack import Pack
from sweeper.trial import ArrayPlan, Configuration, Run, TrainingSettings

PACKS = (1, 2, 4, 8, 16, 32, 64)
SECONDS_PER_PACK = 0.04
GIVE_UP = 1.15
"""A pack this much slower per trial than the best so far ends the search: narrower ones only get slower."""
EPOCH_SECONDS = 0.25
"""An array whose epoch takes this long hides the few milliseconds that the orchestrator takes between two epochs."""


def make_plan(
    build: Callable[[], nn.Module], data: Data, settings: TrainingSettings, *, width: int | None, pack: int | None, most_slots: int
) -> ArrayPlan:
    """Return the plan asked for, or else the fastest one measured.

    Nothing is measured where `width` is given: a fixed width is how a study is repeated bit for bit.
    """
    if width is not None:
        return ArrayPlan(width, pack or width, reason="as the study says")
    measured: dict[int, float] = {}
    for candidate in sorted((p for p in PACKS if p <= most_slots), reverse=True):
        measured[candidate] = seconds_per_trial_step(build, data, settings, candidate)
        if measured[candidate] > GIVE_UP * min(measured.values()):
            break
    if 1 not in measured:
        measured[1] = seconds_per_trial_step(build, data, settings, 1)
    best = min(measured, key=lambda p: measured[p])
    steps = -(-len(data.train) // settings.batch_size)
    wanted = EPOCH_SECONDS / (measured[best] * steps)
    packs = max(1, min(round(wanted / best), most_slots // best))
    gain = measured[1] / measured[best]
    reason = f"packs of {best} train {gain:.1f} times as fast per trial as one network at a time"
    return ArrayPlan(packs * best, best, measured, reason)


def seconds_per_trial_step(build: Callable[[], nn.Module], data: Data, settings: TrainingSettings, pack_width: int) -> float:
    """Return the seconds of a training step of a full pack, divided by its slots: the fastest of several, after a warm-up."""
    pack = Pack(build, pack_width, data.train.images[:1], settings)
    losses = list(LOSSES)
    for slot in range(pack_width):
        configuration = Configuration(1e-5, 1e-4, 0.5, losses[slot % len(losses)])
        pack.place(slot, Run(slot, configuration, slot, 1), 0)
    images, labels = data.train.images[: settings.batch_size], data.train.labels[: settings.batch_size]
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - begun < SECONDS_PER_PACK:
        start = time.perf_counter()
        pack.begin_epoch(1)
        losses_of_slots, _ = pack.train_step(0, images, labels)
        losses_of_slots.tolist()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[2:]) / pack_width
