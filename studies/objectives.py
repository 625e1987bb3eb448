"""What a search may be after: the metrics that a trial's value can be, which way each is better, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar, get_args

ObjectiveName = Literal[
    "accuracy", "balanced_accuracy", "worst_class_accuracy", "macro_f1", "loss", "log_loss", "ece", "gap", "zero_weights"
]
MonitorName = Literal["accuracy", "balanced_accuracy", "worst_class_accuracy", "macro_f1", "loss", "log_loss", "ece"]
"""What patience can look at: what the network answers, not how it got there."""
MONITORS: tuple[str, ...] = get_args(MonitorName)


class _Negatable(Protocol):
    def __neg__(self) -> Self: ...


Negatable = TypeVar("Negatable", bound=_Negatable)


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric on the validation part.

    `metric`: its name in a sentence, and in front of the name of a part. `minimized`: the lower, the better. `is_share`: it is
    written as a percentage, and a difference in percentage points.
    """

    name: str
    metric: str
    minimized: bool = False
    is_share: bool = True
    title: str = ""

    @property
    def label(self) -> str:
        """What axes and lists call it."""
        return self.title or f"validation {self.metric}"

    def rank(self, value: Negatable) -> Negatable:
        """Return a value, or a column of them, as it ranks: the higher the better. Applied twice, it is the value again."""
        return -value if self.minimized else value

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which differences of its values lie."""
        return (-1.0, 1.0) if self.is_share or self.name == "macro_f1" else (float("-inf"), float("inf"))

    @property
    def levels(self) -> tuple[float, float]:
        """Between which its values lie."""
        return (0.0, 1.0) if self.bounds == (-1.0, 1.0) and self.name != "gap" else self.bounds


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "accuracy"),
        Objective("balanced_accuracy", "balanced accuracy"),
        Objective("worst_class_accuracy", "accuracy of the worst class"),
        Objective("macro_f1", "macro-F1", is_share=False),
        Objective("loss", "loss", minimized=True, is_share=False),
        Objective("log_loss", "log loss", minimized=True, is_share=False),
        Objective("ece", "calibration error", minimized=True),
        Objective("gap", "generalization gap", minimized=True, title="generalization gap"),
        Objective("zero_weights", "share of zero weights", title="share of zero weights"),
    )
}
ACCURACY = OBJECTIVES["accuracy"]
