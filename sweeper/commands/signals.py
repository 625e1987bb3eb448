"""Ctrl-C and SIGTERM: the first asks work to stop soon, the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sweeper.progress import Stoppable


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[Stoppable], None]]:
    """Let SIGINT and SIGTERM stop the orchestrator or server that is handed over: once soon, twice at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    working: list[Stoppable] = []
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        working[-1].request_stop()

    def on_start(work: Stoppable) -> None:
        working.append(work)
        for number in before:
            signal.signal(number, stop)
        if asked:  # while whoever worked before was already done
            work.request_stop()

    try:
        yield on_start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
