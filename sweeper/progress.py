"""How far a study is: what the orchestrator tells while it works, and at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from sweeper.trial import ArrayPlan, Configuration


@dataclass(frozen=True, slots=True)
class Leader:
    """The best complete trial so far."""

    trial: int
    value: float
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a running study. `epochs` and `seconds` count this call only, `busy` is the share of slots in use."""

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


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call of the orchestrator did.

    `occupancy` is the share of slots that held a trial until the last trial was started; `sampler_seconds` the time Optuna
    took to propose configurations, `recording_seconds` all other time of the orchestrator between two epochs.
    """

    interrupted: bool
    progress: Progress
    occupancy: float
    sampler_seconds: float
    recording_seconds: float
    plans: dict[int, ArrayPlan] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
