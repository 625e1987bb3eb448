"""The numbers that steer a training step of K slots: learning rates, momenta and step counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.job import TrainingSettings


@dataclass(frozen=True, slots=True)
class L2:
    """An L2 penalty that the optimizer's kernel adds to the gradients: the numbers of its stacks, its strength in each slot."""

    scope: tuple[int, ...]
    strengths: tuple[float, ...]


class Steering:
    """What differs from slot to slot and from step to step.

    As lists, for kernels that take numbers; as columns `[K, 1]`, for arithmetic on whole stacks. With `fixed`, the columns keep
    their place in memory and are filled from a table that is made once an epoch: a recorded step reads them wherever it is
    replayed, and no number crosses to the device between two steps.

    Args:
        width: the number of slots K.
        like: a tensor of the device and type of the columns.
        settings: the optimizer's coefficients.
        fixed: see above.
    """

    def __init__(self, width: int, like: Tensor, settings: TrainingSettings, *, fixed: bool) -> None:
        self._like, self._settings, self._fixed = like, settings, fixed
        self._now = like.new_zeros(4, width, 1)
        self.rates, self.momenta, self.counts = [0.0] * width, [0.0] * width, [0] * width

    def begin_epoch(self, counts: Sequence[int], momenta: Sequence[float], rates: Sequence[Sequence[float]], steps: int) -> None:
        """Take up what holds for the next steps.

        Args:
            counts: of each slot, the steps it has taken.
            momenta: of each slot.
            rates: the learning rate of each slot, for each step, or once for all of them.
            steps: how many there will be.
        """
        self._before, self.momenta, self._rates = list(counts), list(momenta), rates
        if self._fixed:
            device, betas = self._like.device, (self._settings.beta1, self._settings.beta2)
            taken = torch.tensor(counts, device=device, dtype=torch.float64) + torch.arange(1, steps + 1, device=device).unsqueeze(
                1
            )
            first, second = (1.0 - torch.full_like(taken, beta).pow(taken) for beta in betas)
            rows = torch.tensor(rates, device=device, dtype=torch.float64).expand_as(taken)
            momentum = torch.tensor(momenta, device=device, dtype=torch.float64).expand_as(taken)
            self._table = torch.stack([rows, momentum, first, second.sqrt()], dim=1).to(self._like.dtype).unsqueeze(3)

    def begin_step(self, step: int) -> None:
        """Move on to a step of the epoch, from 0."""
        self.counts = [count + step + 1 for count in self._before]
        self.rates = list(self._rates[step] if len(self._rates) > 1 else self._rates[0])
        if self._fixed:
            self._now.copy_(self._table[step])

    @property
    def rate(self) -> Tensor:
        """The learning rate of each slot, `[K, 1]`."""
        return self._now[0] if self._fixed else self._like.new_tensor(self.rates).unsqueeze(1)

    @property
    def momentum(self) -> Tensor:
        """The momentum of each slot, `[K, 1]`."""
        return self._now[1] if self._fixed else self._like.new_tensor(self.momenta).unsqueeze(1)

    @property
    def corrections(self) -> tuple[Tensor, Tensor]:
        """Adam's `1 - beta1^t` and `sqrt(1 - beta2^t)` of each slot after t steps, this one included, `[K, 1]` each; if fixed."""
        return self._now[2], self._now[3]
