"""Shows a running study: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.progress import Leader, Progress
from sweeper.report.style import loss_name, percent, strength

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Takes in progress and shows it: `with Display(console, "digits") as display: display.update(progress)`."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._last_line = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
            self._live.update(Panel(Text("starting the workers …"), title=self._title, title_align="left"))
        else:
            self._console.print(f"{self._title}: starting the workers …")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show where the study stands; plain lines come at most every few seconds."""
        if self._live:
            self._live.update(self._panel(progress))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            leader = f"; best {describe_leader(progress.leader)}" if progress.leader else ""
            self._console.print(f"{self._title}: {describe_progress(progress)}{leader}", soft_wrap=True, highlight=False)

    def _panel(self, progress: Progress) -> Panel:
        grid = Table.grid(padding=(0, 2))
        grid.add_row("trials", f"{progress.finished} of {progress.total}: {describe_states(progress)}")
        grid.add_row("best", describe_leader(progress.leader) if progress.leader else "no trial is complete yet")
        grid.add_row("speed", f"{progress.epochs_per_second:.0f} epochs/s, array {100 * progress.busy:.0f} % full")
        grid.add_row("time", f"{describe_seconds(progress.seconds)} so far, {_left(progress)}")
        bar = ProgressBar(total=progress.total, completed=progress.finished)
        return Panel(Group(bar, grid), title=self._title, title_align="left")


def describe_progress(progress: Progress) -> str:
    """Return one line: how many trials, in which states, how fast, how long."""
    return (
        f"{progress.finished}/{progress.total} trials ({describe_states(progress)}), "
        f"{progress.epochs_per_second:.0f} epochs/s, {_left(progress)}"
    )


def describe_states(progress: Progress) -> str:
    """Return the number of trials in each state."""
    return f"{progress.complete} complete, {progress.pruned} pruned, {progress.failed} failed, {progress.running} running"


def describe_leader(leader: Leader) -> str:
    """Return a trial with its accuracy and configuration."""
    c = leader.configuration
    return (
        f"{percent(leader.value)} by trial {leader.trial}: "
        f"λ₁ {strength(c.l1)}, λ₂ {strength(c.l2)}, dropout {strength(c.dropout)}, {loss_name(c.loss)}"
    )


def describe_seconds(seconds: float) -> str:
    """Return a time span as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _left(progress: Progress) -> str:
    return f"about {describe_seconds(progress.seconds_left)} left" if progress.seconds_left is not None else "time left unknown yet"
