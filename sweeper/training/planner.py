"""Chooses how wide an array is and how many of its slots run as one network, by measuring on the real shapes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from torch import Tensor

from sweeper.job import ArrayPlan, JobError
from sweeper.training.memory import TOO_LARGE, is_out_of_memory
from sweeper.training.pack import Pack, Recipe
from sweeper.trial import Configuration, Run

PACKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS_PER_PACK, SECONDS_FOR_FEW = 0.04, 0.2
"""What a pack is measured for, and where that makes fewer steps than `FEW`, for which one or the other may be the lucky one."""
FEW, MOST_STEPS = 8, 200
GIVE_UP = 1.15
"""A pack this much slower per trial than the best so far ends the search: wider ones only get slower."""
LONGEST_STEP = 0.1
"""Seconds of a pack's training step beyond which nothing wider is tried: no calls are left to amortize, and epochs get long."""
WORTH_PACKING = 0.97
"""A pack that takes more than this share of the time of one network at a time is not worth it: the difference may be chance."""
AS_FAST = 1.02
"""A narrower pack may take so much longer than the fastest: it needs less memory, its epochs end sooner, and two of them make two
lanes, so that the device need not wait between two epochs."""
EPOCH_SECONDS = 0.25
"""An array whose epoch takes this long hides the few milliseconds that the orchestrator takes between two epochs."""


def make_plan(
    recipe: Recipe, images: Tensor, labels: Tensor, samples: Sequence[Configuration], *,
    width: int | None, pack: int | None, strategy: str | None, most_slots: int,
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
        strategy: `packed`, `looped`, or None: whichever is faster.
        most_slots: the largest width that makes sense for the study.

    Raises:
        JobError: not even one trial fits into the memory.
    """
    precision = recipe.settings.precision
    looped = strategy == "looped" or not recipe.packable
    if width is not None:
        return ArrayPlan(width, 1 if looped else pack or width, reason="as the study says", precision=precision)
    candidates = [p for p in PACKS if p == 1 or (p <= most_slots and not looped)]
    measured, obstacle = _measure(recipe, images, labels, samples, candidates)
    real = [p for p in measured if p > 1]
    fastest = min(measured, key=lambda p: measured[p])
    if strategy == "packed" and real:
        fastest = min(real, key=lambda p: measured[p])
    elif measured[fastest] > WORTH_PACKING * measured[1]:
        fastest = 1
    slowest = AS_FAST * measured[fastest]
    if strategy != "packed":
        slowest = min(slowest, WORTH_PACKING * measured[1])
    best = min((p for p in real if p < fastest and measured[p] <= slowest), default=fastest)
    steps = -(-recipe.train_size // recipe.settings.batch_size)
    wanted = round(EPOCH_SECONDS / (measured[best] * steps) / best)
    packs = max(1, min(max(wanted, 2 if best < fastest else 1), most_slots // best))
    return ArrayPlan(packs * best, best, measured, _reason(best, measured, strategy) + obstacle, precision)


def in_lanes(plan: ArrayPlan, together: int) -> ArrayPlan:
    """Return a plan with its slots in two lanes of whole packs, if there are two packs at least: they are trained in turn anyway.

    Args:
        plan: of one lane.
        together: so many runs of a trial are trained in one array, each in a pack of its own.
    """
    trials = plan.width // together
    if trials < 2 * plan.pack:
        return plan
    first = (trials // plan.pack + 1) // 2 * plan.pack * together
    return replace(plan, lanes=(first, plan.width - first))


def _reason(best: int, measured: dict[int, float], strategy: str | None) -> str:
    gain = measured[1] / measured[best]
    if best > 1:
        asked = " (packed, as the study says)" if strategy == "packed" else ""
        return f"packs of {best} train {gain:.1f} times as fast per trial as one network at a time{asked}"
    if len(measured) == 1:
        return "one network at a time" + (", as the study says" if strategy == "looped" else "")
    return "one network at a time is as fast as any pack"


def _measure(
    recipe: Recipe, images: Tensor, labels: Tensor, samples: Sequence[Configuration], candidates: Iterable[int]
) -> tuple[dict[int, float], str]:
    """Return the seconds a trial's step takes in packs of ascending width, and what kept from trying wider ones, if memory did.

    The fastest and those beside it are measured twice, for what else a machine does slows down one measurement or the other.
    """
    measured: dict[int, float] = {}
    obstacle = ""

    def measure(candidate: int) -> float:
        return seconds_per_trial_step(recipe, images, labels, samples, candidate)

    for candidate in candidates:
        try:
            measured[candidate] = measure(candidate)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if candidate == 1:
                raise JobError(TOO_LARGE) from error
            obstacle = f"; packs of {candidate} do not fit into the memory"
            break
        if measured[candidate] > GIVE_UP * min(measured.values()) or measured[candidate] * candidate > LONGEST_STEP:
            break
    if len(measured) > 1:
        first, second = sorted(measured, key=lambda p: measured[p])[:2]
        for finalist in sorted({1, first // 2, first, first * 2, second} & set(measured)):
            measured[finalist] = min(measured[finalist], measure(finalist))
    return measured, obstacle


def seconds_per_trial_step(
    recipe: Recipe, images: Tensor, labels: Tensor, samples: Sequence[Configuration], pack_width: int
) -> float:
    """Return the seconds of a training step of a full pack, divided by its slots: the median of several, after a warm-up.

    On a CPU they are the process's own: on a busy machine a long step is interrupted and a short one is not, so that by the clock
    on the wall narrow packs would seem the faster ones.
    """
    clock = time.process_time if images.device.type == "cpu" else time.perf_counter
    pack = Pack(recipe, pack_width)
    for slot in range(pack_width):
        pack.place(slot, Run(slot, samples[slot % len(samples)], slot, 1), 0)
    times: list[float] = []
    begun = clock()
    pack.begin_epoch(MOST_STEPS)
    while True:
        seconds = SECONDS_PER_PACK if len(times) >= FEW else SECONDS_FOR_FEW
        if len(times) >= 4 and (clock() - begun >= seconds or len(times) == MOST_STEPS):
            break
        start = clock()
        losses, _ = pack.train_step(len(times), images, labels)
        losses.tolist()  # waits for the device
        times.append(clock() - start)
    return median(times[2:]) / pack_width
