"""What can go wrong with a database, said in one line.

StorageError
├── StorageUnavailable   the database cannot be opened, read or written
├── SchemaUnknown        its tables are of another version
├── StudyHeld            another process leads the study
└── StudyUnknown         there is no such study, or one too many
"""

from __future__ import annotations


class StorageError(Exception):
    """Root of the errors of this package."""


class StorageUnavailable(StorageError):
    """The database cannot be opened, read or written; the message says why and what to do."""


class SchemaUnknown(StorageUnavailable):
    """The tables in the database are of another version; the message says what to do."""


class StudyHeld(StorageError):
    """Another process leads the study."""


class StudyUnknown(StorageError):
    """There is no such study, or there is one already where it should go."""
