"""What works on this machine and what would not: versions, devices, memory, data, storage, folders."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storage import admin
from storage.engine import file_of, network_file_system, open_to_read, shown
from storage.engine import translated as storage_errors
from sweeper.devices import core_count
from sweeper.errors import SweeperError, translated
from sweeper.sampler import NEEDS

PROBE_SECONDS = 120
LITTLE_MEMORY, LITTLE_DISK = 2e9, 2e9
DATA_SETS = {
    "MNIST/raw": "mnist",
    "FashionMNIST/raw": "fashion_mnist",
    "cifar-10-batches-py": "cifar10",
    "cifar-100-python": "cifar100",
    "train_32x32.mat": "svhn",
    "cache": "decoded folders",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `state` is ok, warn or fail; `text` says what was found, and where it is wanting what to do."""

    name: str
    state: str
    text: str


def examine(storage: str, data_root: Path, runs: Path) -> Iterator[Check]:
    """Yield what is found, one after another: trying the devices takes seconds."""
    yield from _packages()
    yield from _samplers()
    yield from _devices()
    yield _memory()
    yield _data(data_root)
    yield _storage(storage)
    yield _folder("runs", runs)


def _packages() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    wanted = [re.split(r"[^\w-]", text)[0] for text in metadata.requires("sweeper") or [] if "extra ==" not in text]
    found = {name: _version(name) for name in ["sweeper", *wanted]}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        yield Check("packages", "fail", f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}")
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Check("packages", "ok", there)


def _samplers() -> Iterator[Check]:
    for name, packages in NEEDS.items():
        if missing := [package for package in packages if find_spec(package) is None]:
            text = f"{name} would need {missing[0]}: pip install {missing[0]}; the other samplers work"
            yield Check("samplers", "warn", text)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Check]:
    """Try each device in a process of its own: a broken driver may end it."""
    command = [sys.executable, "-m", "sweeper.training.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        yield Check("devices", "fail", f"torch does not work: {last}")
        return
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        yield Check("devices", "fail", f"torch does not work: {type(error).__name__}")
        return
    for row in found["devices"]:
        device = row["device"]
        if row["error"]:
            yield Check("devices", "fail", f"{device}: {row['error']}")
        elif device == "cpu":
            yield Check("devices", "ok", f"cpu: {core_count()} cores, a worker each unless there is a GPU")
        else:
            memory = f"{row['free'] / 1e9:.1f} of {row['total'] / 1e9:.1f} GB free"
            yield Check("devices", "ok", f"{device}: {row['name']}, {memory}, CUDA {found['cuda']}")
    if shutil.which("nvidia-smi") and len(found["devices"]) == 1:
        yield Check("devices", "warn", "nvidia-smi is here, but torch sees no GPU: a torch for the CPU alone, or an old driver?")


def _memory() -> Check:
    available = min((number for number in (_available(), _cgroup_left()) if number is not None), default=None)
    if available is None:
        return Check("memory", "warn", "how much is free cannot be told here")
    text = f"{available / 1e9:.1f} GB free"
    if available < LITTLE_MEMORY:
        return Check("memory", "warn", f"{text}: a worker needs about 1 GB, and the data; use fewer --workers")
    return Check("memory", "ok", text)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _cgroup_left() -> int | None:
    """Return what a container's limit leaves; None where there is no limit."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None


def _data(root: Path) -> Check:
    there = [name for place, name in DATA_SETS.items() if (root / place).exists()]
    found = _folder("data", root)
    return Check("data", found.state, f"{found.text}; there already: {', '.join([*there, 'digits'])}")


def _storage(url: str) -> Check:
    try:
        with translated(), storage_errors(url):
            place = file_of(url)
            if place is not None and not place.exists():
                parent = _folder("storage", place.parent)
                return Check("storage", parent.state, f"{shown(url)}: not there yet, `run` makes it; {parent.text}")
            backend = open_to_read(url)
            found = admin.info(backend.engine)
            backend.engine.dispose()
    except SweeperError as error:
        return Check("storage", "fail", str(error))
    kind = network_file_system(place) if place is not None else ""
    if kind:
        return Check("storage", "warn", f"{shown(url)} lies on a network file system ({kind}); use a local disk, or Postgres")
    if place is not None and not os.access(place, os.W_OK):
        return Check("storage", "warn", f"{shown(url)} can be read, not written")
    led = sum(study.led_by is not None for study in found.studies)
    return Check("storage", "ok", f"{shown(url)}: {len(found.studies)} studies, {led} of them run now")


def _folder(name: str, folder: Path) -> Check:
    """Look whether a folder, or what is there of the way to it, can be written to, and how much room it has."""
    folder = folder.expanduser().absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        return Check(name, "fail", f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(name, "fail", f"{there} cannot be written to")
    free = shutil.disk_usage(there).free
    text = f"{folder}{'' if there == folder else ' (not there yet)'}, {free / 1e9:.1f} GB of disk free"
    return Check(name, "warn" if free < LITTLE_DISK else "ok", text)
