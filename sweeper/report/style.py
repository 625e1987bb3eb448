"""Colours, symbols and number formats, in one place.

The colours are Okabe & Ito's (2008), which stay apart without colour vision; the symbols say the same again.
"""

from __future__ import annotations

import math

LOSS_COLOURS = {"cross_entropy": "#0072B2", "mse": "#D55E00", "hinge": "#009E73"}
OTHER_COLOUR = "#999999"
LOSS_NAMES = {"cross_entropy": "cross-entropy", "mse": "MSE", "hinge": "hinge"}
AXIS_NAMES = {"l1": "λ₁ (L1)", "l2": "λ₂ (L2)", "dropout": "dropout rate"}
STATE_SYMBOLS = {"complete": "circle", "pruned": "x-thin-open"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def percent(share: float | None) -> str:
    """Return a share as a percentage with two decimals."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.2f} %"


def strength(value: float) -> str:
    """Return a regularization strength: 'none' for exactly 0."""
    return "none" if value == 0 else f"{value:.2g}"


def loss_name(loss: str) -> str:
    """Return a loss as people write it."""
    return LOSS_NAMES.get(loss, loss)
