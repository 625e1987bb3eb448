"""Colours and symbols, in one place.

The colours are Okabe & Ito's (2008), which stay apart without colour vision; the symbols say the same again.
"""

from __future__ import annotations

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
AXIS_NAMES = {"l1": "λ₁ (L1)", "l2": "λ₂ (L2)", "dropout": "dropout rate"}
STATE_SYMBOLS = {"complete": "circle", "pruned": "x-thin-open"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
