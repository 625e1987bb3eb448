"""How numbers and names are written, in the report and on the terminal alike."""

from __future__ import annotations

import math

LOSS_NAMES = {"cross_entropy": "cross-entropy", "mse": "MSE", "hinge": "hinge"}


def percent(share: float | None) -> str:
    """Return a share as a percentage with two decimals."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.2f} %"


def strength(value: float) -> str:
    """Return a regularization strength: 'none' for exactly 0."""
    return "none" if value == 0 else f"{value:.2g}"


def loss_name(loss: str) -> str:
    """Return a loss as people write it."""
    return LOSS_NAMES.get(loss, loss)
