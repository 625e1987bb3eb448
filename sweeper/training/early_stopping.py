"""Early stopping by patience (Prechelt 1998): the best epoch of a run, and whether it has been too long ago."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Best:
    """The epoch (from 1) whose weights count, what was measured in it, and, with patience, the weights themselves."""

    epoch: int
    accuracy: float
    loss: float
    weights: dict[str, Tensor] | None = None

    def is_better_than(self, other: Best | None, monitor: str) -> bool:
        """Return whether this epoch beats an earlier one by `accuracy` or by `loss`; of equals, the earlier one stays."""
        if other is None:
            return True
        if monitor == "accuracy":
            return self.accuracy > other.accuracy
        return self.loss < other.loss or (math.isnan(other.loss) and not math.isnan(self.loss))
