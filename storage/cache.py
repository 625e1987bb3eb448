"""The trials of led studies in memory: read from the database once, then what it holds or will hold after the next flush."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from storage.errors import StorageUnavailable
from storage.retry import Result
from storage.tables import TRIALS


def copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a shallow copy; `copy.copy` takes four times as long, and this is done for every value of every trial."""
    new = FrozenTrial.__new__(FrozenTrial)
    new.__dict__.update(trial.__dict__)
    return new


class Patiently(Protocol):
    """Does something with a database, again while it is busy."""

    def __call__(self, action: Callable[[], Result]) -> Result:
        """Return what the action returns."""
        ...


@dataclass(slots=True)
class _Study:
    trials: list[FrozenTrial]
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    unfinished: set[int] = field(default_factory=set)


class TrialCache:
    """Trials by their ids and numbers. What was handed out never changes: a change replaces the trial.

    Args:
        backend: the database.
        patiently: how it is read.
        lock: held while the cache is read or changed.
    """

    def __init__(self, backend: RDBStorage, patiently: Patiently, lock: threading.RLock) -> None:
        self._backend, self._patiently, self._lock = backend, patiently, lock
        self._studies: dict[int, _Study] = {}
        self._where: dict[int, tuple[int, int]] = {}

    def trials(self, study_id: int) -> list[FrozenTrial]:
        """Return the trials of a study by number; the list is the cache's own."""
        return self._study(study_id).trials

    def unfinished(self, study_id: int) -> list[FrozenTrial]:
        """Return those of a study that have no final state, by number."""
        study = self._study(study_id)
        return [study.trials[number] for number in sorted(study.unfinished)]

    def trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            study_id, number = self._place(trial_id)
            return self._studies[study_id].trials[number]

    def replaceable(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a trial that has taken its place, to be changed."""
        study_id, number = self._place(trial_id)
        trials = self._studies[study_id].trials
        trials[number] = copied(trials[number])
        return trials[number]

    def add(self, study_id: int, trial: FrozenTrial) -> None:
        """Append a trial, which has its id and its number."""
        study = self._study(study_id)
        study.trials.append(trial)
        self._where[trial._trial_id] = study_id, trial.number
        if not trial.state.is_finished():
            study.unfinished.add(trial.number)
        for name, distribution in trial.distributions.items():
            study.distributions.setdefault(name, distribution)

    def finish(self, trial_id: int) -> None:
        """Count a trial among the finished ones."""
        study_id, number = self._place(trial_id)
        self._studies[study_id].unfinished.discard(number)

    def agree(self, trial_id: int, name: str, distribution: BaseDistribution) -> None:
        """Refuse a distribution that a parameter of this name cannot have in the trial's study.

        Raises:
            ValueError: it cannot.
        """
        known = self._studies[self._place(trial_id)[0]].distributions
        check_distribution_compatibility(known.setdefault(name, distribution), distribution)

    def catch_up(self, study_id: int) -> None:
        """Add the trials that are in the database and not here.

        Raises:
            StorageUnavailable: two of its trials have the same number.
        """
        trials = self._patiently(lambda: self._backend.get_all_trials(study_id))
        for trial in sorted(trials, key=lambda trial: trial.number):
            if trial._trial_id not in self._where:
                if trial.number != len(self._studies[study_id].trials):
                    raise StorageUnavailable(
                        f"trial {trial.number} is there twice, or one before it is missing: somebody else wrote while it was led"
                    )
                self.add(study_id, trial)

    def forget(self, study_id: int) -> list[int]:
        """Drop a study, and return the ids of its trials."""
        with self._lock:
            study = self._studies.pop(study_id, None)
            ids = [trial._trial_id for trial in study.trials] if study else []
            for trial_id in ids:
                del self._where[trial_id]
            return ids

    def _study(self, study_id: int) -> _Study:
        with self._lock:
            if study_id not in self._studies:
                self._studies[study_id] = _Study([])
                try:
                    self.catch_up(study_id)
                except Exception:
                    del self._studies[study_id]
                    raise
            return self._studies[study_id]

    def _place(self, trial_id: int) -> tuple[int, int]:
        if trial_id not in self._where:
            query = sqlalchemy.select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id)
            study_id = self._patiently(lambda: self._scalar(query))
            if study_id is None:
                raise KeyError(f"No trial with trial_id {trial_id} exists.")
            self._study(study_id)
        return self._where[trial_id]

    def _scalar(self, query: sqlalchemy.Select[int]) -> int | None:
        with self._backend.engine.connect() as connection:
            return connection.scalar(query)
