"""Optuna's storage interface, written behind: trials live in memory and reach the database in bulk.

One process leads a study and is the only writer of its trials, so what it holds in memory is what the database will hold.
Creation and final states are durable when the call returns; everything else at the next `flush`. Within `deferred()`, final
states wait for its end, so that all that an epoch brought is one transaction.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError

from storage.cache import TrialCache, copied
from storage.changes import STUDY_SYSTEM_ATTRS, STUDY_USER_ATTRS, Change, ForeignTrials, insert_trials, write, write_study_attr
from storage.retry import PATIENCE, Result, patiently
from storage.tables import CHECKPOINTS, EPOCHS

Guard = Callable[[sqlalchemy.Connection], None]
"""Called first in each transaction; raises where this process may not write (`storage.lease`)."""
FINAL = tuple(state for state in TrialState if state.is_finished())


class TrialStorage(BaseStorage):
    """The storage of an orchestrator. Studies and their attributes go straight to `backend`; trials are written behind.

    Args:
        backend: the database, opened by `storage.engine.open_database`.
        patience: seconds for which a transaction is tried again while the database is busy, restarting or full.
    """

    def __init__(self, backend: RDBStorage, patience: float = PATIENCE) -> None:
        self.backend = backend
        self._patience = patience
        self._guard: Guard = _let_pass
        self.led_since = 0.0
        self._reserved: dict[int, deque[int]] = {}
        self._changes: dict[int, Change] = {}
        self._deferring = False
        self._lock = threading.RLock()
        self._cache = TrialCache(backend, self.patiently, self._lock)

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {"backend": self.backend, "patience": self._patience}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["backend"], state["patience"])  # type: ignore[misc]

    # What Optuna does not know of

    def flush(self) -> None:
        """Write all that changed, in one transaction."""
        with self._lock:
            if self._changes:
                changes = [(self._cache.trial(trial_id), change) for trial_id, change in self._changes.items()]
                self.transact(lambda connection: write(connection, changes))
                self._changes.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let final states wait for the end of this block, the outermost one, where everything is flushed."""
        with self._lock:
            outermost, self._deferring = not self._deferring, True
            try:
                yield
            finally:
                self._deferring = not outermost
            if outermost:
                self.flush()

    def patiently(self, action: Callable[[], Result]) -> Result:
        """Do something that may be repeated with the database, trying again while it is busy, restarting or full."""
        return patiently(action, self._patience)

    def transact(self, action: Callable[[sqlalchemy.Connection], Result]) -> Result:
        """Do something as one transaction that begins with the guard; done again, it must come to the same."""

        def once() -> Result:
            with self.backend.engine.begin() as connection:
                self._guard(connection)
                return action(connection)

        return self.patiently(once)

    def reload(self, study_id: int) -> None:
        """Forget what is in memory of a study, to read it anew: before it was led, somebody else may have written to it."""
        with self._lock:
            self.flush()
            self._cache.forget(study_id)
            self._reserved.pop(study_id, None)

    def reserve(self, study_id: int, count: int) -> None:
        """Create trials ahead, as one transaction: so many calls of `create_new_trial` then cost none.

        None are added to those that are still ahead. Those that are not created in the end are RUNNING without a runner until
        `unreserve`.
        """
        with self._lock:
            reserved = self._reserved.setdefault(study_id, deque())
            if not reserved and count:
                reserved.extend(self._insert(study_id, [_running_trial() for _ in range(count)]))

    def unreserve(self, study_id: int) -> int:
        """Put trials that were created ahead, and that nobody asked for, into the queue; return how many."""
        with self._lock:
            left = len(self._reserved.get(study_id, ()))
            for _ in range(left):
                self.requeue(self.create_new_trial(study_id))
            return left

    def close(self) -> None:
        """Write what is left and close all connections."""
        self.flush()
        self.backend.remove_session()
        self.backend.engine.dispose()

    @contextmanager
    def guarded(self, guard: Guard, since: float = 0.0) -> Iterator[None]:
        """Call a guard first in each transaction, as long as this block lasts; `since`: when the study began to be led."""
        self._guard, self.led_since = guard, since
        try:
            yield
        finally:
            self._guard = _let_pass

    def record(self, trial_id: int, table: sqlalchemy.Table, **row: Any) -> None:
        """Remember a row of one of our tables of trials, to be written with whatever else the trial brings."""
        with self._lock:
            self._cache.trial(trial_id)
            key = tuple(row[column.name] for column in table.primary_key if column.name != "trial_id")
            self._change(trial_id).rows.setdefault(table.name, {})[key] = {"trial_id": trial_id, **row}

    def forget_checkpoint(self, trial_id: int, run: int) -> None:
        """Remove the row of a run's checkpoint at the next flush."""
        with self._lock:
            change = self._change(trial_id)
            change.rows.get(CHECKPOINTS.name, {}).pop((run,), None)
            change.no_checkpoints.add(run)

    def requeue(self, trial_id: int, keep_until: int = 0) -> None:
        """Put an interrupted trial back into the queue, under its number, without its values after a step."""
        with self._lock:
            self.truncate(trial_id, keep_until)
            self._updatable(trial_id).state = TrialState.WAITING
            self._change(trial_id).state = True
            self._flush_unless_deferred()

    def truncate(self, trial_id: int, keep_until: int) -> None:
        """Forget what an unfinished trial reported after a step."""
        with self._lock:
            trial = self._updatable(trial_id)
            trial.intermediate_values = {s: v for s, v in trial.intermediate_values.items() if s <= keep_until}
            change = self._change(trial_id)
            change.steps -= {step for step in change.steps if step > keep_until}
            for key in [key for key in change.rows.get(EPOCHS.name, {}) if key[-1] > keep_until]:
                del change.rows[EPOCHS.name][key]
            change.truncated = keep_until if change.truncated is None else min(keep_until, change.truncated)

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self.patiently(lambda: self.backend.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        with self._lock:
            for trial_id in self._cache.forget(study_id):
                self._changes.pop(trial_id, None)
            self._reserved.pop(study_id, None)
            self.backend.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr(STUDY_USER_ATTRS, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr(STUDY_SYSTEM_ATTRS, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.patiently(lambda: self.backend.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.patiently(lambda: self.backend.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.patiently(lambda: self.backend.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.patiently(lambda: self.backend.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.patiently(lambda: self.backend.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self.patiently(self.backend.get_all_studies)

    # Trials, written

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._lock:
            trials = self._cache.trials(study_id)
            trial = copy.deepcopy(template_trial) if template_trial else _running_trial()
            if not self._reserved.get(study_id):
                self._reserved[study_id] = deque(self._insert(study_id, [_without_state(trial)]))
            elif not template_trial:  # its row was inserted ahead, with another time of its start
                self._changes.setdefault(self._reserved[study_id][0], Change()).state = True
            trial._trial_id = trial_id = self._reserved[study_id].popleft()
            trial.number = len(trials)
            self._cache.add(study_id, trial)
            if template_trial:
                change = self._change(trial_id)
                change.params, change.steps = set(trial.params), set(trial.intermediate_values)
                change.user_attrs, change.system_attrs = set(trial.user_attrs), set(trial.system_attrs)
                change.state = True
                self._flush_unless_deferred()
            return trial_id

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            self._cache.agree(trial_id, param_name, distribution)
            trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
            trial.distributions = {**trial.distributions, param_name: distribution}
            self._change(trial_id).params.add(param_name)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with self._lock:
            before = self._cache.trial(trial_id).state
            self.check_trial_is_updatable(trial_id, before)
            if state == TrialState.RUNNING and before != TrialState.WAITING:
                return False
            trial = self._updatable(trial_id)
            trial.state = state
            if values is not None:
                trial.values = list(values)
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            if state.is_finished():
                trial.datetime_complete = datetime.now()
                self._cache.finish(trial_id)
            self._change(trial_id).state = True
            self._flush_unless_deferred()
            return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
            self._change(trial_id).steps.add(step)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            trial.user_attrs = {**trial.user_attrs, key: value}
            self._change(trial_id).user_attrs.add(key)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            trial.system_attrs = {**trial.system_attrs, key: value}
            self._change(trial_id).system_attrs.add(key)

    # Trials, read

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        trials = self._cache.trials(study_id)
        if not 0 <= trial_number < len(trials):
            raise KeyError(f"No trial with trial number {trial_number} exists in study with study_id {study_id}.")
        return trials[trial_number]._trial_id

    def get_trial_number_from_id(self, trial_id: int) -> int:
        return self._cache.trial(trial_id).number

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        trial = self._cache.trial(trial_id)
        return trial.distributions[param_name].to_internal_repr(trial.params[param_name])

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            return _separate(self._cache.trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with self._lock:
            trials = self._cache.trials(study_id)
            if states is not None:
                unfinished = not any(state in states for state in FINAL)  # asked for at every creation of a trial
                chosen = self._cache.unfinished(study_id) if unfinished else trials
                trials = [trial for trial in chosen if trial.state in states]
            elif not deepcopy:
                trials = list(trials)
            return [_separate(trial) for trial in trials] if deepcopy else trials

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        directions = self.get_study_directions(study_id)
        if len(directions) > 1:
            raise RuntimeError("Best trial can be obtained only for single-objective optimization.")
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            raise ValueError("No trials are completed yet.")
        best: Callable[..., FrozenTrial] = max if directions[0] == StudyDirection.MAXIMIZE else min
        return copy.deepcopy(best(complete, key=lambda trial: trial.value))

    def remove_session(self) -> None:
        self.backend.remove_session()

    # Helpers

    def _insert(self, study_id: int, trials: list[FrozenTrial]) -> list[int]:
        """Insert trials, numbered after all that there are: somebody else may have added one, as with Optuna's `enqueue_trial`."""
        attempts, known = itertools.count(), len(self._cache.trials(study_id))
        for number, trial in enumerate(trials, known):
            trial.number = number
        try:
            return self.transact(lambda connection: insert_trials(connection, study_id, trials, again=next(attempts) > 0))
        except ForeignTrials:
            self._cache.catch_up(study_id)
            if len(self._cache.trials(study_id)) == known:
                raise
            return self._insert(study_id, trials)

    def _set_study_attr(self, table: sqlalchemy.Table, study_id: int, key: str, value: Any) -> None:
        try:
            self.transact(lambda connection: write_study_attr(connection, table, study_id, key, value))
        except IntegrityError:
            raise KeyError(f"No study with study_id {study_id} exists.") from None

    def _updatable(self, trial_id: int) -> FrozenTrial:
        """Return a fresh copy of an unfinished trial that has taken its place: what was handed out before stays as it was."""
        self.check_trial_is_updatable(trial_id, self._cache.trial(trial_id).state)
        return self._cache.replaceable(trial_id)

    def _change(self, trial_id: int) -> Change:
        change = self._changes.get(trial_id)
        if change is None:
            change = self._changes[trial_id] = Change()
        return change

    def _flush_unless_deferred(self) -> None:
        if not self._deferring:
            self.flush()


def _let_pass(connection: sqlalchemy.Connection) -> None:
    """Guard nothing: for whoever is alone with a database."""


def _running_trial() -> FrozenTrial:
    return FrozenTrial(
        number=-1, trial_id=-1, state=TrialState.RUNNING, value=None, datetime_start=datetime.now(), datetime_complete=None,
        params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={},
    )  # fmt: skip


def _separate(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy whose changes do not reach the trial; of what cannot change, only references, which is ten times as fast."""
    separate = copied(trial)
    separate.params, separate.distributions = dict(trial.params), dict(trial.distributions)
    separate.intermediate_values = dict(trial.intermediate_values)
    separate.user_attrs = copy.deepcopy(trial.user_attrs) if trial.user_attrs else {}
    separate.system_attrs = copy.deepcopy(trial.system_attrs) if trial.system_attrs else {}
    return separate


def _without_state(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial to insert: one with a final state is inserted as running, and gets its state after its values."""
    if not trial.state.is_finished():
        return trial
    started = copied(trial)
    started.state, started.datetime_complete = TrialState.RUNNING, None
    return started
