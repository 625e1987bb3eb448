"""When a study has had enough: its time, its target, its failures, its patience. Trials are counted by whoever starts them."""

from __future__ import annotations

from collections.abc import Iterable

from storage import requests
from storage.requests import Request
from studies.objectives import Objective
from studies.spec import StudySpec
from studies.strategy import BudgetSpec
from sweeper.notation import metric_value
from sweeper.progress import Tally


class Budget:
    """The limits of a study, over all its calls.

    Args:
        spec: the limits; those that are None never end a study.
        objective: what the study is after.
        seconds_before: what earlier calls took.
    """

    def __init__(self, spec: BudgetSpec, objective: Objective, seconds_before: float = 0.0) -> None:
        self._spec, self._objective, self._seconds_before = spec, objective, seconds_before

    def change(self, spec: BudgetSpec) -> None:
        """Go on with other limits."""
        self._spec = spec

    def seconds(self, tally: Tally) -> float:
        """Return what all calls took until now."""
        return self._seconds_before + tally.seconds

    def spent(self, tally: Tally) -> str | None:
        """Return why the study ends, in words; None while it goes on."""
        limit, objective = self._spec, self._objective
        target = limit.accuracy if limit.target is None else limit.target
        if limit.time is not None and self.seconds(tally) >= limit.time:
            return f"its time is up ({duration(limit.time)})"
        if target is not None and tally.leader and objective.rank(tally.leader.value) >= objective.rank(target):
            reached = metric_value(objective, tally.leader.value)
            return f"its target is reached ({objective.label} {reached}, asked for {metric_value(objective, target)})"
        if limit.failures is not None and tally.failed > limit.failures:
            return f"more than {limit.failures} trials failed"
        if limit.no_improvement is not None and tally.since_leader >= limit.no_improvement:
            return f"the last {tally.since_leader} trials brought nothing better"
        return None


def extended(spec: StudySpec, asked: Iterable[Request]) -> StudySpec:
    """Return the study with the trials and the time that other processes asked for: never with less than it has."""
    for request in asked:
        if request.kind == requests.TRIALS:
            spec = spec.model_copy(update={"trials": max(spec.trials, request.value or 0)})
        elif request.kind == requests.TIME and spec.budget.time is not None:
            time = max(spec.budget.time, float(request.value or 0))
            spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"time": time})})
    return spec


def duration(seconds: float) -> str:
    """Return a time as people write it: `90 s`, `15 min`, `2 h`."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def describe_request(request: Request) -> str:
    """Return what is asked, as in `asked to …`."""
    match request.kind:
        case requests.TRIALS:
            return f"go on to {request.value} trials"
        case requests.TIME:
            return f"work for {duration(request.value or 0)} in all"
        case kind:
            return kind
