"""Shows a running study: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.notation import describe_seconds
from sweeper.progress import Progress
from sweeper.words import (
    describe_leader,
    describe_plan,
    describe_progress,
    describe_speed,
    describe_states,
    describe_time_left,
)

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Takes in progress and shows it: `with Display(console, "digits") as display: display.update(progress)`."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
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
        grid.add_row(progress.what, f"{progress.finished} of {progress.total}: {describe_states(progress)}")
        if progress.what == "trials":
            grid.add_row("best", describe_leader(progress.leader) if progress.leader else "no trial is complete yet")
        grid.add_row("speed", f"{describe_speed(progress)}, array {100 * progress.busy:.0f} % full")
        if progress.plan:
            grid.add_row("array", describe_plan(progress.plan))
        grid.add_row("time", f"{describe_seconds(progress.seconds)} so far, {describe_time_left(progress)}")
        whole = Table.grid(expand=True)
        whole.add_row(ProgressBar(total=progress.total, completed=progress.finished))
        whole.add_row(grid)
        return Panel(whole, title=self._title, title_align="left")
