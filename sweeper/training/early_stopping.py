"""Early stopping by patience (Prechelt 1998): the best epoch of a run, by what is monitored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sweeper.trial import Metrics


@dataclass(frozen=True, slots=True)
class Best:
    """The epoch (from 1) whose weights count, what was measured in it, and, with patience, the weights themselves."""

    epoch: int
    metrics: Metrics
    weights: dict[str, Tensor] | None = None

    def is_better_than(self, other: Best | None, monitor: str, *, minimized: bool) -> bool:
        """Return whether this epoch beats an earlier one by a metric, any number a NaN; of equals, the earlier one stays."""
        if other is None:
            return True
        mine, theirs = self.metrics.value(monitor), other.metrics.value(monitor)
        return (mine < theirs if minimized else mine > theirs) or (math.isnan(theirs) and not math.isnan(mine))
