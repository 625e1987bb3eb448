"""Keeps the checkpoints that interrupted runs go on from: their files, and the rows that name them."""

from __future__ import annotations

import logging
from pathlib import Path

from storage import queries
from storage.checkpoints import Checkpoint, CheckpointFiles
from storage.tables import CHECKPOINTS
from storage.trials import TrialStorage
from sweeper.errors import OutputError

CHECKPOINT_SECONDS = 60.0
"""What has been trained for so long since its last checkpoint gets one at the next epoch boundary."""

Key = tuple[int, int]
"""The id of a trial, and the number of a run of it."""

log = logging.getLogger(__name__)


class Keeper:
    """The checkpoints of one study. Rows are written by the storage's next flush, and name only files that are on the disk.

    Args:
        storage: the study's storage.
        study_id: of the study.
        folder: for the files; None: nothing is kept, and an interrupted run begins again.
    """

    def __init__(self, storage: TrialStorage, study_id: int, folder: Path | None) -> None:
        self._storage = storage
        self._files = CheckpointFiles(folder) if folder else None
        self._superfluous: list[str] = []
        self._expected: dict[str, Key] = {}
        rows = storage.patiently(lambda: queries.checkpoints(storage.backend.engine, study_id))
        self._known: dict[Key, Checkpoint] = {(row.trial_id, row.run): row for row in rows}
        if self._files:
            self._files.tidy({row.file for row in rows})

    @property
    def keeps(self) -> bool:
        """Whether there is a place for checkpoints."""
        return self._files is not None

    @property
    def has_news(self) -> bool:
        """Whether files have reached the disk since `settle`."""
        return self._files is not None and self._files.has_news

    def epoch(self, key: Key) -> int:
        """Return how many epochs the checkpoint of a run holds; 0: there is none."""
        return self._known[key].epoch if key in self._known else 0

    def read(self, key: Key) -> bytes | None:
        """Return what a run can go on from; None if it must begin anew."""
        known = self._known.get(key)
        content = self._files.read(known) if known and self._files else None
        if known and content is None:
            log.warning("checkpoint %s is gone or damaged; what it was of begins again", known.file)
            self.forget(key)
        return content

    def save(self, key: Key, epoch: int, content: bytes) -> None:
        """Begin to write a checkpoint of a run."""
        if self._files:
            self._expected[self._files.write(*key, epoch, content)] = key

    def settle(self) -> None:
        """Before a flush: let the rows follow the files that have reached the disk.

        A file whose run has ended or gone back into the queue since is not believed any more.

        Raises:
            OutputError: a checkpoint cannot be written; those that could are recorded.
        """
        written, failed = self._files.written() if self._files else ([], [])
        for new in written:
            key = self._expected.pop(new.file, None)
            if key is None:
                self._superfluous.append(new.file)
                continue
            if old := self._known.get(key):
                self._superfluous.append(old.file)
            self._known[key] = new
            self._storage.record(
                new.trial_id, CHECKPOINTS, run=new.run, epoch=new.epoch, file=new.file, sha256=new.sha256, bytes=new.bytes
            )
        for error in failed:
            raise OutputError(f"{error.filename}: a checkpoint cannot be written: {error.strerror}") from error

    def sweep(self) -> None:
        """After a flush: remove the files that no row names any more."""
        if self._files and self._superfluous:
            self._files.remove(self._superfluous)
        self._superfluous = []

    def expect_none(self, key: Key) -> None:
        """Let files of a run that are being written at this moment go unrecorded."""
        self._expected = {name: whose for name, whose in self._expected.items() if whose != key}

    def forget(self, key: Key) -> None:
        """Drop the checkpoint of a run."""
        self.expect_none(key)
        if known := self._known.pop(key, None):
            self._storage.forget_checkpoint(*key)
            self._superfluous.append(known.file)

    def wait(self) -> None:
        """Wait until the files that were begun are written."""
        if self._files:
            self._files.finish()

    def close(self) -> None:
        """Finish writing files, for good, and remove those that came too late for a row to name them."""
        if self._files:
            self._files.finish()
            late, _ = self._files.written()
            self._files.remove([each.file for each in late])
            self._files.close()
