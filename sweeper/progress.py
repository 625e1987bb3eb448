"""How far a study is: what the orchestrator tells while it works, and at the end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from optuna.trial import TrialState

from studies.objectives import ACCURACY, Objective
from sweeper.job import ArrayPlan
from sweeper.trial import Configuration


class Stoppable(Protocol):
    """Whoever works at the moment: a search, a confirmation, a server."""

    def request_stop(self) -> None:
        """End soon; the same call goes on later. Safe to call from a signal handler."""
        ...


@dataclass(frozen=True, slots=True)
class Leader:
    """The best complete trial so far."""

    trial: int
    value: float
    configuration: Configuration
    objective: Objective = ACCURACY


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a running study. `epochs` and `seconds` count this call only, `busy` is the share of slots in use.

    `plan` is the first worker's; None before one is ready. `what` is counted: trials, or something like them.
    """

    total: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    leader: Leader | None = None
    epochs: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    finished_here: int = 0
    plan: ArrayPlan | None = None
    what: str = "trials"

    @property
    def finished(self) -> int:
        """Trials with a final state."""
        return self.complete + self.pruned + self.failed

    @property
    def epochs_per_second(self) -> float:
        """Epochs of single trials trained a second, all workers together."""
        return self.epochs / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the trials finished in this call; None before there is any."""
        if not self.finished_here:
            return None
        return self.seconds / self.finished_here * (self.total - self.finished)


class Tally:
    """Counts what happens in a study: states of trials, epochs, slots in use, the leader by what the study is after."""

    def __init__(self, objective: Objective = ACCURACY) -> None:
        self._objective = objective
        self.states: Counter[TrialState] = Counter()
        self.leader: Leader | None = None
        self.epochs = self.finished_here = 0
        self.since_leader = 0  # trials that finished after the leader
        self._slots_used = self._slots_offered = 0
        self._begun = time.perf_counter()

    @property
    def trials(self) -> int:
        """Trials in the study, whatever their state."""
        return sum(self.states.values())

    @property
    def finished(self) -> int:
        """Trials with a final state."""
        return sum(count for state, count in self.states.items() if state.is_finished())

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return self.states[TrialState.FAIL]

    @property
    def seconds(self) -> float:
        """The time since this tally began."""
        return time.perf_counter() - self._begun

    @property
    def occupancy(self) -> float:
        """The share of slots that held a trial while there were more to start."""
        return self._slots_used / self._slots_offered if self._slots_offered else 0.0

    def change(self, before: TrialState, after: TrialState) -> None:
        """Count a trial's change of state."""
        self.states[before] -= 1
        self.states[after] += 1
        self.finished_here += after.is_finished()

    def rank(self, candidate: Leader | None) -> None:
        """Let a finished trial lead if it is better than all before it; None stands for one that is not complete."""
        self.since_leader += 1
        rank = self._objective.rank
        if candidate is not None and (self.leader is None or rank(candidate.value) > rank(self.leader.value)):
            self.leader, self.since_leader = candidate, 0

    def epoch(self, occupied: int, width: int, *, more_to_start: bool) -> None:
        """Count an epoch of an array."""
        self.epochs += occupied
        if more_to_start:
            self._slots_used += occupied
            self._slots_offered += width

    def progress(self, budget: int, running: int, slots: int) -> Progress:
        """Return where the study stands."""
        return Progress(
            total=max(budget, self.trials),
            complete=self.states[TrialState.COMPLETE],
            pruned=self.states[TrialState.PRUNED],
            failed=self.states[TrialState.FAIL],
            running=running,
            leader=self.leader,
            epochs=self.epochs,
            seconds=self.seconds,
            busy=running / slots if slots else 0.0,
            finished_here=self.finished_here,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call of the orchestrator did.

    `occupancy` is the share of slots that held a trial until the last trial was started; `sampler_seconds` the time Optuna
    took to propose configurations, `recording_seconds` all other time of the orchestrator between two epochs. `interrupted`:
    there is work left; `ended`: why the study ends nonetheless, its budget being spent.
    """

    interrupted: bool
    progress: Progress
    occupancy: float
    sampler_seconds: float
    recording_seconds: float
    plans: dict[int, ArrayPlan] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    ended: str | None = None
