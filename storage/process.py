"""Which process this is, and whether another one still lives: as far as this machine can tell."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


class Process(Protocol):
    """A process somewhere: its machine, its number there, and when it started."""

    machine: str
    pid: int
    process_start: str


@lru_cache(maxsize=1)
def this_machine() -> str:
    """Return what all processes share that can see one another.

    The host's name does not tell: containers of one image may have the same. A boot of a kernel and a namespace of process
    numbers do; where there is no /proc, the name has to.
    """
    try:
        return f"{BOOT_ID.read_text().strip()}/{PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return socket.gethostname()


def this_process() -> dict[str, str | int]:
    """Return the columns of a lease that say which process holds it."""
    pid = os.getpid()
    return {"machine": this_machine(), "host": socket.gethostname(), "pid": pid, "process_start": process_start(pid)}


def is_alive(process: Process) -> bool | None:
    """Return whether a process lives; None if it is not of this machine."""
    if process.machine != this_machine():
        return None
    return process_start(process.pid) == process.process_start != ""


def process_start(pid: int) -> str:
    """Return when a process of this machine started, so that a reused number is not taken for it; '' if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] in ("Z", "X") else fields[19]  # a zombie leads nothing
    except OSError:
        pass
    if Path("/proc").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
