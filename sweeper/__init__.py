"""A hyperparameter sweep service for the regularization of image classifiers.

The names below are loaded when they are first used, so that `sweeper.training` can be imported with torch and numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.spec import StudySpec
    from sweeper.api import StudyResult, change_study, load_study, open_results, run_study, study_figures, train_best
    from sweeper.errors import SweeperError, UsageError
    from sweeper.training.saved import load_model

_HOMES = {
    "StudySpec": "studies.spec",
    "SweeperError": "sweeper.errors",
    "UsageError": "sweeper.errors",
    "load_model": "sweeper.training.saved",
}

__all__ = [
    "StudyResult",
    "StudySpec",
    "SweeperError",
    "UsageError",
    "change_study",
    "load_model",
    "load_study",
    "open_results",
    "run_study",
    "study_figures",
    "train_best",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sweeper' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "sweeper.api")), name)
