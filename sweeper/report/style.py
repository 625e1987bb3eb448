"""Colours and symbols, in one place.

The colours are Okabe & Ito's (2008), which stay apart without colour vision; the symbols say the same again.
"""

from __future__ import annotations

LOSS_COLOURS = {"cross_entropy": "#0072B2", "mse": "#D55E00", "hinge": "#009E73"}
OTHER_COLOUR = "#999999"
AXIS_NAMES = {"l1": "λ₁ (L1)", "l2": "λ₂ (L2)", "dropout": "dropout rate"}
STATE_SYMBOLS = {"complete": "circle", "pruned": "x-thin-open"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
