"""Checkpoint files of unfinished runs: written whole or not at all, off the main thread, and believed only if unchanged."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

UID_ATTR = "sweeper_uid"
"""The attribute of a study that names its folder of checkpoints: studies of one name in two databases must not share one."""
UID = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(r"\.?trial-\d+-\d+-epoch-\d+-[0-9a-f]{8}\.pt")
"""What names of our files look like. No other is ever read or removed: names come from a database that others may write to."""
OWNER = "database.txt"


def is_uid(text: object) -> TypeGuard[str]:
    """Return whether this names a folder of checkpoints."""
    return isinstance(text, str) and UID.fullmatch(text) is not None


def checkpoint_folder(runs: Path, study: str, uid: str) -> Path:
    """Return where the checkpoints of a study lie, `runs` being the folder of all studies' files."""
    if not is_uid(uid):
        raise ValueError(f"{uid!r} is not the name of a folder of checkpoints")
    return runs / study / "checkpoints" / uid


def claim(folder: Path, database: str) -> bool:
    """Write down whose folder of checkpoints this is; return whether it is this database's, and not that of one it was copied from.

    Args:
        folder: made if there is none.
        database: what tells it from others; only a digest of it is written.

    Raises:
        OSError: the folder cannot be made or read.
    """
    digest = hashlib.sha256(database.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / OWNER
    if not owner.exists():
        owner.write_text(digest + "\n")
    return owner.read_text().strip() == digest


def take_along(source: Path, target: Path, names: set[str]) -> int:
    """Copy checkpoints into the folder of another study, made if there is none; return how many were there.

    Raises:
        OSError: they cannot be copied.
    """
    there = [name for name in names if FILE.fullmatch(name) and (source / name).is_file()]
    if there:
        target.mkdir(parents=True, exist_ok=True)
    for name in there:
        shutil.copyfile(source / name, target / name)
    return len(there)


def new_uid() -> str:
    """Return a name that no other study has."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file that a run can go on from, after `epoch` epochs."""

    trial_id: int
    run: int
    epoch: int
    file: str
    sha256: str
    bytes: int


class CheckpointFiles:
    """The checkpoints of a study, in a folder of its own.

    Files are written and removed by a thread, in the order asked for; `written` tells which have reached the disk since it was
    last asked, so that the database only ever names files that are there.

    Args:
        folder: made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sweeper-checkpoints")
        self._writing: list[Future[Checkpoint]] = []

    def write(self, trial_id: int, run: int, epoch: int, content: bytes) -> str:
        """Begin to write a checkpoint, and return the name of its file, which no other ever has."""
        name = f"trial-{trial_id}-{run}-epoch-{epoch}-{secrets.token_hex(4)}.pt"
        self._writing.append(self._thread.submit(self._write, Checkpoint(trial_id, run, epoch, name, "", len(content)), content))
        return name

    def written(self) -> tuple[list[Checkpoint], list[OSError]]:
        """Return the checkpoints that were written since the last call, and why others could not be."""
        done = [future for future in self._writing if future.done()]
        self._writing = [future for future in self._writing if future not in done]  # one may be done by now, and is told next time
        failed = [error for future in done if isinstance(error := future.exception(), OSError)]
        return [future.result() for future in done if not isinstance(future.exception(), OSError)], failed

    @property
    def has_news(self) -> bool:
        """Whether `written` has anything to tell."""
        return any(future.done() for future in self._writing)

    def remove(self, names: list[str]) -> None:
        """Begin to remove files that are no longer needed."""
        for name in filter(FILE.fullmatch, names):
            self._thread.submit((self.folder / name).unlink, missing_ok=True)

    def read(self, checkpoint: Checkpoint) -> bytes | None:
        """Return the content of a checkpoint; None if its file is gone or is not what was written."""
        if not FILE.fullmatch(checkpoint.file):
            return None
        try:
            content = (self.folder / checkpoint.file).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == checkpoint.sha256 else None

    def tidy(self, needed: set[str]) -> int:
        """Remove what checkpoints are not needed, half-written ones too; return how many files went."""
        if not self.folder.is_dir():
            return 0
        ours = [path for path in self.folder.iterdir() if FILE.fullmatch(path.name) and path.is_file()]
        superfluous = [path for path in ours if path.name not in needed]
        for path in superfluous:
            path.unlink(missing_ok=True)
        return len(superfluous)

    def finish(self) -> None:
        """Wait until all that was asked for is done; more may be asked for afterwards."""
        self._thread.submit(int).result()

    def close(self) -> None:
        """Finish what was begun, for good."""
        self._thread.shutdown(wait=True)

    def _write(self, checkpoint: Checkpoint, content: bytes) -> Checkpoint:
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self.folder / f".{checkpoint.file}"
        with half.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        half.replace(self.folder / checkpoint.file)
        return replace(checkpoint, sha256=hashlib.sha256(content).hexdigest())
