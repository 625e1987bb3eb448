"""Chooses how wide an array is and how many of its slots run as one network, by measuring on the real shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from sweeper.job import ArrayPlan
from sweeper.training.pack import Pack, Recipe
from sweeper.trial import Configuration, Run

PACKS = (1, 2, 4, 8, 16, 32, 64)
SECONDS_PER_PACK = 0.04
MOST_STEPS = 200
GIVE_UP = 1.15
"""A pack this much slower per trial than the best so far ends the search: wider ones only get slower."""
LONGEST_STEP = 1.0
"""Seconds of a training step of a pack beyond which nothing wider is tried: there are no calls left to amortize."""
EPOCH_SECONDS = 0.25
"""An array whose epoch takes this long hides the few milliseconds that the orchestrator takes between two epochs."""


def make_plan(
    recipe: Recipe, images: Tensor, labels: Tensor, samples: Sequence[Configuration], *,
    width: int | None, pack: int | None, most_slots: int,
) -> ArrayPlan:  # fmt: skip
    """Return the plan asked for, or else the fastest one measured.

    Nothing is measured where `width` is given: a fixed width is how a study is repeated bit for bit.

    Args:
        recipe: what is trained.
        images: a batch of inputs.
        labels: its labels.
        samples: configurations like those that will be trained.
        width: trials held at once, if the user says so.
        pack: how many of them run as one network, if the user says so.
        most_slots: the largest width that makes sense for the study.
    """
    if width is not None:
        return ArrayPlan(width, (pack or width) if recipe.packable else 1, reason="as the study says")
    measured: dict[int, float] = {}
    for candidate in PACKS if recipe.packable else (1,):
        if candidate > most_slots:
            break
        measured[candidate] = seconds_per_trial_step(recipe, images, labels, samples, candidate)
        if measured[candidate] > GIVE_UP * min(measured.values()) or measured[candidate] * candidate > LONGEST_STEP:
            break
    best = min(measured, key=lambda p: measured[p])
    steps = -(-recipe.train_size // recipe.settings.batch_size)
    wanted = EPOCH_SECONDS / (measured[best] * steps)
    packs = max(1, min(round(wanted / best), most_slots // best))
    gain = measured[1] / measured[best]
    reason = f"packs of {best} train {gain:.1f} times as fast per trial as one network at a time"
    return ArrayPlan(packs * best, best, measured, reason)


def seconds_per_trial_step(
    recipe: Recipe, images: Tensor, labels: Tensor, samples: Sequence[Configuration], pack_width: int
) -> float:
    """Return the seconds of a training step of a full pack, divided by its slots: the fastest of several, after a warm-up."""
    pack = Pack(recipe, pack_width)
    for slot in range(pack_width):
        pack.place(slot, Run(slot, samples[slot % len(samples)], slot, 1), 0)
    times: list[float] = []
    begun = time.perf_counter()
    pack.begin_epoch(MOST_STEPS)
    while len(times) < 4 or (time.perf_counter() - begun < SECONDS_PER_PACK and len(times) < MOST_STEPS):
        start = time.perf_counter()
        losses, _ = pack.train_step(len(times), images, labels)
        losses.tolist()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[2:]) / pack_width
