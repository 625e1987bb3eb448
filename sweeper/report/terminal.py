"""What a study is after against regularization in characters, for a terminal of any width."""

from __future__ import annotations

from rich.text import Text

from studies.objectives import ACCURACY
from sweeper.notation import loss_name, metric_value
from sweeper.report import style
from sweeper.report.accuracy import AccuracyData

HEIGHT = 12
NARROWEST, WIDEST = 30, 110
MARKS = {"pruned": "·", "running": "○", "complete": "●"}
BEST = "★"
COLOURS = ("blue", "red", "green", "magenta", "cyan", "yellow", "white")


def accuracy_plot(data: AccuracyData, width: int) -> Text:
    """Draw trials as characters: by state, coloured by loss; the baseline as a dotted line, the best as a star.

    Args:
        data: as computed for the figure.
        width: columns of the terminal.
    """
    columns = max(NARROWEST, min(width, WIDEST)) - _label(data) - 1
    objective = data.answer.objective
    shown = data.points[data.points["value"].notna() & (data.points["state"] != "fail")]
    text = Text(no_wrap=True, overflow="crop")
    if shown.empty:
        return text.append(f"{style.axis_name(data.axis.name)}: no trial has been measured yet\n")
    values = shown["value"].astype(float)
    low, high = float(values.min()), float(values.max())
    if data.floor is not None:
        low, high = (low, data.floor) if objective.minimized else (data.floor, high)
    high = max(high, low + style.close(objective, high) / 10)
    colours = dict(zip(data.colours, COLOURS, strict=False))
    cells: list[list[tuple[str, str]]] = [[(" ", "")] * columns for _ in range(HEIGHT)]

    def row_of(value: float) -> int:
        return round((HEIGHT - 1) * (high - value) / (high - low))

    baseline = data.answer.baseline
    if baseline and low <= (value := data.answer.value(baseline)) <= high:
        cells[row_of(value)] = [("┄", "dim")] * columns
    best = data.answer.best.trial if data.answer.best else None
    order = list(MARKS)
    rows = zip(shown.index, data.axis.unit(shown["x"]), shown.to_dict("records"), strict=True)
    for number, place, trial in sorted(rows, key=lambda row: (row[0] == best, order.index(row[2]["state"]))):
        if low <= trial["value"] <= high:
            mark = BEST if number == best else MARKS[trial["state"]]
            cells[row_of(trial["value"])][min(columns - 1, int(place * columns))] = (mark, colours.get(trial["loss"], "white"))
    for number, row in enumerate(cells):
        label = metric_value(objective, high - (high - low) * number / (HEIGHT - 1), 1)
        text.append(f"{label if number % 4 == 0 or number == HEIGHT - 1 else '':>{_label(data)}}│", "dim")
        for mark, colour in row:
            text.append(mark, colour)
        text.append("\n")
    _append_axis(text, data, columns)
    _append_legend(text, data, colours, columns)
    return text


def _append_axis(text: Text, data: AccuracyData, columns: int) -> None:
    axis = data.axis
    ticks = axis.ticks or {tick: f"{tick:.2g}" for tick in (axis.low, (axis.low + axis.high) / 2, axis.high)}
    line, labels = ["─"] * columns, [" "] * columns
    free = 0
    for place, name in sorted(ticks.items()):
        at = min(columns - 1, int(float(axis.unit([place])[0]) * columns))
        start = max(0, min(at - len(name) // 2, columns - len(name)))
        line[at] = "┴"
        if start >= free:
            labels[start : start + len(name)] = name
            free = start + len(name) + 1
    text.append(f"{'':>{_label(data)}}└{''.join(line)}\n", "dim").append(
        f"{'':>{_label(data)}} {''.join(labels).rstrip()}\n", "dim"
    )


def _append_legend(text: Text, data: AccuracyData, colours: dict[str, str], columns: int) -> None:
    states = set(data.points["state"])
    objective = data.answer.objective
    named = "" if objective is ACCURACY else f"{objective.label} against "
    parts = [(f"{named}{style.axis_name(data.axis.name)}:", "bold")]
    parts += [(f"{mark} {style.STATE_NAMES[state]}", "") for state, mark in reversed(MARKS.items()) if state in states]
    if data.answer.best:
        parts.append((f"{BEST} best", ""))
    if data.answer.baseline:
        parts.append((f"┄ {data.baseline_name}", ""))
    if len(colours) > 1:
        parts += [(f"■ {loss_name(loss)}", colour) for loss, colour in colours.items()]
    if data.hidden:
        parts.append((f"{data.hidden} lie {'higher' if objective.minimized else 'lower'}", "dim"))
    line = Text()
    for part, colour in parts:
        if line and len(line) + 2 + len(part) > columns:
            text.append(" " * (_label(data) + 1)).append(line).append("\n")
            line = Text()
        line.append("  " if line else "").append(part, colour)
    text.append(" " * (_label(data) + 1)).append(line).append("\n")


def _label(data: AccuracyData) -> int:
    """Return the number of characters of the values at the left."""
    return 7 if data.answer.objective.is_share else 8
