"""Colours, symbols, fonts and formats of every figure and page, in one place.

The series' colours are Okabe & Ito's (2008), which stay apart without colour vision; shapes and positions say the same again.
Figures are drawn in the light colours; where a page is dark, `DARK` says what stands for each of them.
"""

from __future__ import annotations

from itertools import cycle

import plotly.graph_objects as go

from studies.objectives import Objective
from sweeper.notation import hyperparameter_name

BACKGROUND, INK, SOFT, GRID, FAINT = "#ffffff", "#1b1f24", "#5d6672", "#e4e7eb", "#b9c0c9"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
LOW_TO_HIGH = ("#00224e", "#3b496c", "#6f6f77", "#a59c74", "#cfbf5c", "#f3dc3c")
"""From low to high accuracy: cividis (Nuñez, Anderton & Renslow 2018), the same with and without colour vision."""
DARK = {
    BACKGROUND: "#14181d", INK: "#e8eaed", SOFT: "#a2acb8", GRID: "#2c343e", FAINT: "#566170",
    "#0072b2": "#3f9fe0", "#d55e00": "#f27b35", "#009e73": "#1fc397", "#cc79a7": "#e39cc6", "#56b4e9": "#9ad7ff",
    "#e69f00": "#f5b93d", "#7f7f7f": "#b0b0b0",
    "#00224e": "#2f4d85",
}  # fmt: skip
"""What stands for a colour where the page is dark; one that is missing stays."""
STATES = {"complete": "circle", "pruned": "x-thin-open", "running": "circle-open", "fail": "triangle-down-open"}
"""The shape of a trial, by its state."""
STATE_NAMES = {"complete": "complete", "pruned": "pruned", "running": "still running", "fail": "failed", "waiting": "waiting"}
BASELINE_SYMBOL, BEST_SYMBOL = "diamond-open", "star"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
AXIS_NAMES = {"l1": "λ₁ (L1)", "l2": "λ₂ (L2)", "dropout": "dropout rate"}
SHARE, SHARE_TICKS = ".2%", ".3~%"
MARGIN = {"l": 58, "r": 12, "t": 12, "b": 44}
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}
"""How plotly.js shows a figure."""

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": BACKGROUND,
        "plot_bgcolor": BACKGROUND,
        "colorway": SERIES,
        "hoverlabel": {"align": "left", "bgcolor": BACKGROUND, "bordercolor": SOFT, "font": {"color": INK, "size": 13}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": SOFT, "orientation": "v"},
        "xaxis": {"gridcolor": GRID, "linecolor": FAINT, "zeroline": False, "title": {"standoff": 8}, "automargin": True},
        "yaxis": {"gridcolor": GRID, "linecolor": FAINT, "zeroline": False, "title": {"standoff": 6}, "automargin": True},
        "hovermode": "closest",
        "separators": ". ",
    }
)


def new_figure(figure: go.Figure | None = None, height: int = 380) -> go.Figure:
    """Return a figure that looks like all the others, empty unless one with subplots is given."""
    figure = go.Figure() if figure is None else figure
    return figure.update_layout(template=TEMPLATE, height=height, margin=MARGIN)


def axis_name(name: str) -> str:
    """Return a hyperparameter as axes and headings say it."""
    return AXIS_NAMES.get(name, hyperparameter_name(name))


def series(names: list[str]) -> dict[str, str]:
    """Return a colour for each of these, in their order."""
    return dict(zip(names, cycle(SERIES), strict=False))


def ticks(objective: Objective, decimals: str = SHARE_TICKS) -> str:
    """Return plotly's format of an axis that holds what a study is after."""
    return decimals if objective.is_share else ".3~g"


def hover(objective: Objective) -> str:
    """Return plotly's format of one value of what a study is after."""
    return SHARE if objective.is_share else ".4~g"


def close(objective: Objective, best: float) -> float:
    """Return by how much values may differ and still be called the same: a point, or of a number a twentieth of the best."""
    return 0.01 if objective.is_share else max(abs(best) / 20, 1e-6)


def legend_entry(name: str, colour: str, symbol: str) -> go.Scatter:
    """Return a trace without points that explains a colour or a shape."""
    marker = {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.5, "color": colour}}
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip")


def colour_scale(colours: tuple[str, ...] = LOW_TO_HIGH) -> list[tuple[float, str]]:
    """Return the places of some colours on plotly's scale from 0 to 1."""
    return [(i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]
