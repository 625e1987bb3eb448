"""What can be wrong with a study file, said so that its author can mend it.

SpecError
├── SpecInvalid     a key or a value is not allowed
└── StudyUnknown    no ready study and no file has this name
"""

from __future__ import annotations


class SpecError(Exception):
    """Root of the errors of this package."""


class SpecInvalid(SpecError):
    """A study file is wrong; the message has a line per mistake: file, key, what was found, what is allowed."""


class StudyUnknown(SpecError):
    """Neither a ready study nor a file."""
