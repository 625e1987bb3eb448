"""Learning rates over a trial's own epochs, equal to those of torch.optim.lr_scheduler."""

from __future__ import annotations

import math

from sweeper.job import Schedule


def learning_rate(schedule: Schedule, base: float, epoch: int, epochs: int, step: int = 0, steps: int = 1) -> float:
    """Return the learning rate of a training step.

    `step` is torch's StepLR, `cosine` its CosineAnnealingLR over all epochs (Loshchilov & Hutter 2017, equation 5, one
    period), both constant within an epoch; `one_cycle` is its OneCycleLR with cosine annealing and without cycling the
    momentum (Smith & Topin 2018), step by step.

    Args:
        schedule: its name and coefficients.
        base: the trial's learning rate; for one_cycle the highest.
        epoch: the trial's finished epochs.
        epochs: how many the trial has.
        step: the step within the epoch, from 0.
        steps: how many steps an epoch has.
    """
    match schedule.name:
        case "step":
            return base * schedule.factor ** (epoch // schedule.every)
        case "cosine":
            return schedule.minimum + (base - schedule.minimum) * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2
        case "one_cycle":
            return _one_cycle(schedule, base, epoch * steps + step, epochs * steps)
    return base


def changes_within_epochs(schedule: Schedule) -> bool:
    """Return whether the learning rate differs between the steps of an epoch."""
    return schedule.name == "one_cycle"


def _one_cycle(schedule: Schedule, highest: float, at: int, total: int) -> float:
    first = highest / schedule.initial_divisor
    last = first / schedule.final_divisor
    peak = schedule.warmup_share * total - 1
    if at <= peak:
        return _between(first, highest, at / peak) if peak > 0 else highest
    return _between(highest, last, min((at - peak) / (total - 1 - peak), 1.0))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
