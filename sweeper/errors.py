"""The one tree of errors that users of this package meet.

SweeperError                 root; its message is one clear line: what, where, what to do
├── UsageError               the user's to mend: the command line exits with 2
│   ├── StudyFileError       a study file is wrong, or there is no such study
│   ├── BestFileError        a file of a best configuration is wrong
│   ├── StudyChanged         a study of this name exists, with another search
│   ├── JobRefused           the data or the network is not as the study says
│   ├── StudyInUse           another process leads the study
│   ├── NoSuchResult         the study has no finished trial yet, or does not exist
│   ├── DatabaseError        the storage cannot be opened, read or written
│   └── OutputError          a file cannot be written
└── WorkerError              training cannot go on: workers died or failed

The packages `studies` and `storage` know nothing of this one and have roots of their own; `translated` turns theirs into ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import StorageError, StudyHeld, StudyUnknown
from studies.errors import SpecError


class SweeperError(Exception):
    """Root of all errors of this package."""


class UsageError(SweeperError):
    """The user can mend this."""


class StudyFileError(UsageError):
    """A study file is wrong, or there is no such study."""


class BestFileError(UsageError):
    """A file of a best configuration cannot be read, or is wrong."""


class StudyChanged(UsageError):
    """A study of this name exists, with another search."""


class JobRefused(UsageError):
    """A worker cannot train as the study says: its data, its network or a penalty's scope."""


class StudyInUse(UsageError):
    """Another process leads the study."""


class NoSuchResult(UsageError):
    """The study does not exist, or has no finished trial yet."""


class DatabaseError(UsageError):
    """The storage cannot be opened, read or written."""


class OutputError(UsageError):
    """A file cannot be written."""


class WorkerError(SweeperError):
    """Training cannot go on."""


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of `studies` and `storage` leave as errors of this package."""
    try:
        yield
    except SpecError as error:
        raise StudyFileError(str(error)) from error
    except StudyUnknown as error:
        raise NoSuchResult(str(error)) from error
    except StudyHeld as error:
        raise StudyInUse(str(error)) from error
    except StorageError as error:
        raise DatabaseError(str(error)) from error
