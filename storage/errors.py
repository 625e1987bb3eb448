"""What can go wrong with a database, said in one line.

StorageError
├── StorageUnavailable   the database cannot be opened, read or written
└── StudyHeld            another process leads the study
"""

from __future__ import annotations


class StorageError(Exception):
    """Root of the errors of this package."""


class StorageUnavailable(StorageError):
    """The database cannot be opened, read or written; the message says why and what to do."""


class StudyHeld(StorageError):
    """Another process leads the study."""
