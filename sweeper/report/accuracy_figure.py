"""What a study is after against one searched number, with generalization gap and share of zero weights: figure and words."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from studies.objectives import Objective
from sweeper.notation import loss_name, metric_value, percent, points, strength
from sweeper.report import style
from sweeper.report.accuracy import WIDTH, AccuracyData, accuracy_data
from sweeper.report.picture import Picture, error_bars
from sweeper.report.snapshot import Snapshot

MANY = 400
"""With more trials, the panels below the accuracy have no points, only their line and band."""
MOST_PRUNED = 500
"""So many of the pruned trials are drawn, evenly in the order of their numbers; all of them count for line and band."""


def accuracy_figure(data: AccuracyData) -> go.Figure:
    """Draw it: colour by loss, shape by state; line and band of the trials nearby; the baseline as a line, the best as a star."""
    heights = {1: [1.0], 2: [0.68, 0.32], 3: [0.54, 0.23, 0.23]}[len(data.panels)]
    rows = make_subplots(len(data.panels), 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=heights)
    figure = style.new_figure(rows, height={1: 430, 2: 560, 3: 660}[len(data.panels)])
    for row, panel in enumerate(data.panels, start=1):
        _draw_band(figure, data, panel, row)
        if row == 1 or len(data.points) <= MANY:
            _draw_trials(figure, data, panel, row)
    _draw_failed(figure, data)
    _draw_baseline(figure, data)
    _draw_best(figure, data)
    _label_axes(figure, data)
    return figure


def accuracy_picture(study: Snapshot, name: str) -> Picture:
    """Return the figure with its words."""
    data = accuracy_data(study, name)
    note = ""
    objective = study.objective
    if not data.bands["value"].empty:
        note = (
            f"Lines: what the best {percent(_best_share(data), 0)}, and half, of the trials nearby reach (a Gaussian of "
            f"{WIDTH:.0%} of the axis, smoothed), whatever else they tried; band: all but the worst tenth of the others. Pruned "
            "trials count with the value at which they were stopped. "
        )
    if "gap" in data.panels:
        note += "Gap: training less validation accuracy; training accuracy is taken while training, dropout and all."
        if study.spec.data.label_noise:
            note += " Training labels are noisy here, validation labels are not, so the gap may be below zero."
    if data.hidden:
        note += " A double click shows the trials below the frame, too."
    if (pruned := int((data.points["state"] == "pruned").sum())) > MOST_PRUNED:
        note += f" One in {-(-pruned // MOST_PRUNED)} of the {pruned:,} pruned trials is drawn."
    called = style.axis_name(name).removesuffix(" rate") if data.axis.weaker else style.axis_name(name)
    question = f"How much {called}?" if data.axis.weaker else f"Which {called}?"
    return Picture(f"{objective.name.replace('_', '-')}-{name}", called, question, reading(data), note, accuracy_figure(data))


def reading(data: AccuracyData) -> str:
    """Say in words how far the better trials come along the axis, and where they do not."""
    band, objective = data.bands["value"], data.answer.objective
    if band.empty:
        return "Too few trials have finished to say."
    called = style.axis_name(data.axis.name)
    ranks = objective.rank(band["high"])
    top = objective.rank(float(ranks.max()))
    good = band[ranks >= float(ranks.max()) - style.close(objective, top)]
    ends = strength(good["x"].min()), strength(good["x"].max())
    if len(good) == len(band):
        return f"The better trials reach about {metric_value(objective, top, 1)} with any {called}: by itself it hardly matters."
    said = f"The better trials reach about {metric_value(objective, top, 1)} with {called} from {ends[0]} to {ends[1]}"
    outside = [
        f"{metric_value(objective, row['high'], 1)} at {strength(row['x'])}"
        for row, end in ((band.iloc[0], good["x"].min()), (band.iloc[-1], good["x"].max()))
        if row["x"] != end
    ]
    if len(data.none):
        outside.insert(0, f"{metric_value(objective, data.none['high'], 1)} with none")
    return f"{said}; {', '.join(outside)}." if outside else f"{said}."


def _best_share(data: AccuracyData) -> float:
    """Return which share of the trials the upper line is of."""
    high = data.quantiles["high"]
    return high if data.answer.objective.minimized else 1 - high


def _draw_band(figure: go.Figure, data: AccuracyData, panel: str, row: int) -> None:
    band = data.bands[panel]
    best = percent(_best_share(data), 0)
    stretches = [band] if not band.empty else []
    if panel == "value" and len(data.none):
        none_at = data.axis.none_at or 1.0
        edge = data.axis.low if data.axis.weaker < 0 else data.axis.high
        step = max(edge / none_at, none_at / edge) ** 0.2
        stretches.append(pd.DataFrame([dict(data.none) | {"x": x} for x in (none_at / step, none_at * step)]))
    for first, stretch in enumerate(stretches):
        outline = {"x": [*stretch["x"], *stretch["x"][::-1]], "y": [*stretch["high"], *stretch["low"][::-1]]}
        figure.add_trace(
            go.Scatter(
                **outline, mode="lines", line={"width": 0}, fill="toself", fillcolor=style.SOFT, opacity=0.16, hoverinfo="skip",
                name="band", showlegend=False,
            ), row, 1,
        )  # fmt: skip
        for quantile, name, line in (
            ("high", f"best {best} nearby", {"width": 2.2, "color": style.INK}),
            ("centre", "half of those", {"width": 1.6, "color": style.SOFT, "dash": "dash"}),
        ):
            if panel == "value" or quantile == "centre":
                figure.add_trace(
                    go.Scatter(
                        x=stretch["x"], y=stretch[quantile], mode="lines", line=line, hoverinfo="skip", name=name,
                        showlegend=row == 1 and not first,
                    ), row, 1,
                )  # fmt: skip


def _draw_trials(figure: go.Figure, data: AccuracyData, panel: str, row: int) -> None:
    many = len(data.points) > MANY
    shown = data.points[data.points[panel].notna() & (data.points["state"] != "fail")]
    order = {loss: rank for rank, loss in enumerate(data.colours)}
    losses = sorted(shown["loss"].unique(), key=lambda loss: order[loss])
    for state in ("pruned", "running", "complete"):
        for loss in losses:
            group = shown[(shown["state"] == state) & (shown["loss"] == loss)]
            if group.empty:
                continue
            if state == "pruned":
                group = group.iloc[:: -(-int((shown["state"] == state).sum()) // MOST_PRUNED)]
            symbols = [style.BASELINE_SYMBOL if role == "baseline" else style.STATES[state] for role in group["role"]]
            figure.add_trace(
                go.Scatter(
                    x=group["x"], y=group[panel], mode="markers", showlegend=False, name=loss_name(loss),
                    marker={
                        "color": data.colours[loss], "symbol": symbols if "baseline" in set(group["role"]) else style.STATES[state],
                        "size": (8 if state == "complete" else 6) - 2 * (row > 1) - many,
                        "opacity": (0.9 if state == "complete" else 0.65) * (0.8 if many else 1),
                        "line": {"width": 1.5 if state != "complete" else 1.2, "color": data.colours[loss]},
                    },
                    customdata=_told(group, data.answer.objective, style.STATE_NAMES[state]),
                    hovertemplate=f"<b>trial %{{customdata[0]}}: %{{customdata[2]}}</b><br>{style.axis_name(data.axis.name)} "
                    f"%{{customdata[1]}}, {loss_name(loss)}<br>%{{customdata[3]}}, %{{customdata[4]}} epochs, "
                    "gap %{customdata[5]}<extra></extra>",
                ), row, 1,
            )  # fmt: skip
    if row == 1:
        _legend(figure, data, losses, [s for s in ("complete", "pruned", "running") if (shown["state"] == s).any()])


def _told(trials: pd.DataFrame, objective: Objective, state: str) -> list[list[object]]:
    """Return what is said of each trial where a pointer is over it."""
    rows = zip(trials.index, trials.to_dict("records"), strict=True)
    return [
        [
            number,
            strength(row["strength"]),
            metric_value(objective, row["value"]),
            f"{state} ({row['role']})" if row["role"] else state,
            row["epochs"],
            points(row["gap"]),
        ]
        for number, row in rows
    ]


def _legend(figure: go.Figure, data: AccuracyData, losses: list[str], states: list[str]) -> None:
    """Explain colours and shapes apart from each other: their combinations would be a legend as large as the figure."""
    entries = [(loss_name(loss), data.colours[loss], "circle") for loss in losses] if len(losses) > 1 else []
    entries += [(style.STATE_NAMES[state], style.INK, style.STATES[state]) for state in states]
    if (data.points["role"] == "baseline").any():
        entries.append((data.baseline_name, style.INK, style.BASELINE_SYMBOL))
    if data.answer.best:
        entries.append(("best", style.INK, style.BEST_SYMBOL))
    for name, colour, symbol in entries:
        figure.add_trace(style.legend_entry(name, colour, symbol), 1, 1)


def _draw_failed(figure: go.Figure, data: AccuracyData) -> None:
    """Show trials that diverged at the foot of the figure: whatever value they had is no value of theirs."""
    failed = data.points[data.points["state"] == "fail"]
    if failed.empty:
        return
    figure.add_trace(
        go.Scatter(
            x=failed["x"], y=[0.02] * len(failed), yaxis="y9", mode="markers", name="failed",
            marker={"color": style.INK, "symbol": style.STATES["fail"], "size": 8, "line": {"width": 1.5, "color": style.INK}},
            customdata=[[n, strength(s), e] for n, s, e in zip(failed.index, failed["strength"], failed["epochs"], strict=True)],
            hovertemplate="<b>trial %{customdata[0]} failed</b> after %{customdata[2]} epochs<br>"
            f"{style.axis_name(data.axis.name)} %{{customdata[1]}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(yaxis9={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})


def _draw_baseline(figure: go.Figure, data: AccuracyData) -> None:
    baseline = data.answer.baseline
    if not baseline:
        return
    value, interval = data.answer.value(baseline), data.answer.confirmed.get(baseline.trial)
    if interval:
        figure.add_hrect(interval.low, interval.high, fillcolor=style.INK, opacity=0.1, line_width=0, row=1, col=1)
    figure.add_hline(value, line={"color": style.INK, "dash": "dot", "width": 1.3}, row=1, col=1)
    left = data.axis.weaker >= 0
    figure.add_annotation(
        x=0.002 if left else 0.998, xref="x domain", xanchor="left" if left else "right", y=value, yref="y", yanchor="top",
        text=f"{data.baseline_name}: {metric_value(data.answer.objective, value)}", showarrow=False,
        font={"size": 12, "color": style.INK}, bgcolor=style.BACKGROUND, opacity=0.85,
    )  # fmt: skip


def _draw_best(figure: go.Figure, data: AccuracyData) -> None:
    best = data.answer.best
    if not best or best.trial not in data.points.index:
        return
    row, interval = data.points.loc[best.trial], data.answer.confirmed.get(best.trial)
    value = data.answer.value(best)
    colour = data.colours[str(row["loss"])]
    figure.add_trace(
        go.Scatter(
            x=[row["x"]], y=[value], mode="markers", showlegend=False, name="best", hoverinfo="skip",
            error_y=error_bars([interval]),
            marker={"symbol": style.BEST_SYMBOL, "size": 17, "color": colour, "line": {"width": 1.5, "color": style.INK}},
        ), 1, 1,
    )  # fmt: skip


def _label_axes(figure: go.Figure, data: AccuracyData) -> None:
    axis = data.axis
    last, objective = len(data.panels), data.answer.objective
    figure.update_xaxes(axis.layout())
    figure.update_xaxes(title=style.axis_name(axis.name), row=last, col=1)
    figure.update_yaxes(title=objective.label, tickformat=style.ticks(objective), row=1, col=1)
    for row, panel in enumerate(data.panels[1:], start=2):
        figure.update_yaxes(
            title={"gap": "gap", "zero_weights": "zero weights"}[panel], tickformat=style.SHARE_TICKS, row=row, col=1
        )
        if panel == "gap":
            figure.add_hline(0, line={"color": style.FAINT, "width": 1}, row=row, col=1)
    if data.floor is not None:
        top = objective.rank(float(objective.rank(data.points["value"]).max()))
        ends = [data.floor, top + 0.08 * (top - data.floor)]
        figure.update_yaxes(range=sorted(ends), row=1, col=1)
        beyond = f"{'above' if objective.minimized else 'below'} {metric_value(objective, data.floor, 0)}"
        place = (1.0, "top") if objective.minimized else (0.0, "bottom")
        _note(figure, "y domain", *place, f"{data.hidden} trials lie {beyond}", left=True)
    if axis.weaker:
        weak, strong = "towards overfitting", "towards underfitting"
        left, right = (weak, strong) if axis.weaker < 0 else (strong, weak)
        yref = f"y{last if last > 1 else ''} domain"
        _note(figure, yref, 0.0, "bottom", f"← {left}", left=True, row=last)
        _note(figure, yref, 0.0, "bottom", f"{right} →", left=False, row=last)


def _note(figure: go.Figure, yref: str, y: float, yanchor: str, text: str, *, left: bool, row: int = 1) -> None:
    xref = f"x{row if row > 1 else ''} domain"
    figure.add_annotation(
        x=0.005 if left else 0.995, xref=xref, xanchor="left" if left else "right", y=y, yref=yref, yanchor=yanchor, text=text,
        showarrow=False, font={"size": 11, "color": style.SOFT}, bgcolor=style.BACKGROUND, opacity=0.85,
    )  # fmt: skip
