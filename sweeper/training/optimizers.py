"""Optimizers whose coefficients, step counters and states are per slot. Equal to those of torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sweeper.job import TrainingSettings
from sweeper.training.array import Stack
from sweeper.training.slot_gradients import Gradients, SlotGradients, of_all_slots
from sweeper.training.steering import L2, Steering


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a kernel: the coefficients that it takes for all of its tensors, and the rows of slots and stacks it updates."""

    rate: float
    momentum: float
    l2: float
    places: list[tuple[int, int]]
    """The number of the stack and of the slot, of each row."""
    params: list[Tensor]
    states: list[list[Tensor]]

    def grads(self, of_slot: Sequence[Callable[[int], Tensor]]) -> list[Tensor]:
        """Return the gradients that belong to the rows, from what gives, for each stack, that of a slot."""
        return [of_slot[i](k) for i, k in self.places]


class ArrayOptimizer:
    """An optimizer over stacks of `[K, P]`, each slot with its own learning rate, momentum, step count and state.

    On a CPU, where arithmetic on whole stacks would stream its operands through memory again and again, torch's fused kernels
    take one pass over the rows of a slot; elsewhere (`fixed`, see `Steering`) whole stacks are updated at once.
    """

    moments: ClassVar[int]
    """How many tensors of a parameter's size its state has."""
    takes_rows: ClassVar[bool] = False
    """Whether, where steps are not `fixed`, it updates slot after slot, by a kernel that can add the gradient of an L2 penalty."""

    def __init__(self, stacks: Sequence[Stack], settings: TrainingSettings, *, fixed: bool = False) -> None:
        self._params = [stack.rows for stack in stacks]
        self._settings = settings
        self._state = [[torch.zeros_like(p) for p in self._params] for _ in range(self.moments)]
        self.tensors = [tensor for tensors in self._state for tensor in tensors]
        self._fixed = fixed
        self._rows = [[tensor.unbind() for tensor in tensors] for tensors in (self._params, *self._state)]
        self._planned: tuple[object, list[_Call]] = (None, [])

    def reset(self, slot: int) -> None:
        """Start a slot anew: a state of zeros."""
        for tensor in self.tensors:
            tensor[slot].zero_()

    def state(self, slot: int) -> list[Tensor]:
        """Return copies of a slot's state."""
        return [tensor[slot].clone() for tensor in self.tensors]

    def load(self, slot: int, state: Sequence[Tensor]) -> None:
        """Overwrite a slot's state, in place."""
        for tensor, new in zip(self.tensors, state, strict=True):
            tensor[slot].copy_(new)

    def step(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None = None) -> None:
        """Update the given slots by their gradients.

        Other slots may be computed as well; their learning rate is 0.

        Args:
            grads: of each stack; slot by slot only for one that `takes_rows`.
            slots: those that hold a run.
            now: of each slot, its learning rate, its momentum, and how many steps it has taken, this one included.
            l2: a penalty that is not in the gradients yet; only for one that `takes_rows`.
        """
        raise NotImplementedError

    def _calls(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None) -> list[_Call]:
        """Return the calls of a kernel that update these slots; the same as before while nothing that they depend on changes."""
        reason = (tuple(slots), tuple(now.rates), tuple(now.momenta), l2)
        if self._planned[0] != reason:
            alone = {i for i, gradients in enumerate(grads) if isinstance(gradients, SlotGradients)}
            self._planned = reason, list(self._plan_calls(alone, slots, now, l2))
        return self._planned[1]

    def _plan_calls(self, alone: Set[int], slots: Sequence[int], now: Steering, l2: L2 | None) -> Iterator[_Call]:
        """Yield a call for each combination of coefficients, with the rows of all slots and stacks that they are those of.

        No two gradients made slot by slot are there at once: a call has one at most, and with it what else its slot has alone.
        """
        places: dict[tuple[float, float, float, tuple[int, int] | None], list[tuple[int, int]]] = {}
        for k in slots:
            stacks_by_strength: dict[float, list[int]] = {}
            for i in range(len(self._params)):
                stacks_by_strength.setdefault(l2.strengths[k] if l2 and i in l2.scope else 0.0, []).append(i)
            for strength, stacks in stacks_by_strength.items():
                single = [i for i in stacks if i in alone]
                for i in stacks:
                    owner = (k, i if i in alone else single[0]) if single else None
                    places.setdefault((now.rates[k], now.momenta[k], strength, owner), []).append((i, k))
        for (rate, momentum, strength, _), mine in places.items():
            params, *states = ([rows[i][k] for i, k in mine] for rows in self._rows)
            yield _Call(rate, momentum, strength, mine, params, states)


class Adam(ArrayOptimizer):
    """Adam (Kingma & Ba 2015, algorithm 1, as torch.optim.Adam computes it). AdamW is Adam with decoupled weight decay."""

    moments = 2
    takes_rows = True

    def __init__(self, stacks: Sequence[Stack], settings: TrainingSettings, *, fixed: bool = False) -> None:
        super().__init__(stacks, settings, fixed=fixed)
        self._counts = torch.zeros(self._params[0].shape[0])
        self._count_rows = self._counts.unbind()

    def step(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None = None) -> None:
        if self._fixed:
            self._step_stacks(of_all_slots(grads), now)
        else:
            self._step_rows(grads, slots, now, l2)

    def _step_rows(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None) -> None:
        self._counts.copy_(torch.tensor(now.counts))
        s, of_slot = self._settings, _of_slot(grads)
        for call in self._calls(grads, slots, now, l2):
            (first, second), counts = call.states, [self._count_rows[k] for _, k in call.places]
            torch._fused_adam_(
                call.params, call.grads(of_slot), first, second, [], counts, lr=call.rate, beta1=s.beta1, beta2=s.beta2,
                weight_decay=call.l2, eps=s.eps, amsgrad=False, maximize=False,
            )  # fmt: skip

    def _step_stacks(self, grads: Sequence[Tensor], now: Steering) -> None:
        s = self._settings
        correction, scale = now.corrections
        rate = -now.rate / correction
        for param, grad, first, second in zip(self._params, grads, *self._state, strict=True):
            first.lerp_(grad, 1.0 - s.beta1)
            second.mul_(s.beta2).addcmul_(grad, grad, value=1.0 - s.beta2)
            denominator = second.sqrt().div_(scale).add_(s.eps)
            param.addcdiv_(first * rate, denominator)


class SGD(ArrayOptimizer):
    """Gradient descent with momentum, Nesterov's if asked for (Sutskever et al. 2013), as torch.optim.SGD computes it."""

    moments = 1
    takes_rows = True

    def step(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None = None) -> None:
        if self._fixed:
            self._step_stacks(of_all_slots(grads), now)
        else:
            self._step_rows(grads, slots, now, l2)

    def _step_rows(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None) -> None:
        of_slot = _of_slot(grads)
        for call in self._calls(grads, slots, now, l2):
            torch._fused_sgd_(
                call.params, call.grads(of_slot), call.states[0] if call.momentum else [], weight_decay=call.l2,
                momentum=call.momentum, lr=call.rate, dampening=0.0, nesterov=self._settings.nesterov and call.momentum > 0,
                maximize=False, is_first_step=False,
            )  # fmt: skip

    def _step_stacks(self, grads: Sequence[Tensor], now: Steering) -> None:
        rate, momentum = -now.rate, now.momentum
        for param, grad, buffer in zip(self._params, grads, self._state[0], strict=True):
            buffer.mul_(momentum).add_(grad)
            direction = grad + momentum * buffer if self._settings.nesterov else buffer
            param.addcmul_(direction, rate)


class RMSprop(ArrayOptimizer):
    """RMSprop (Tieleman & Hinton 2012) with momentum, as torch.optim.RMSprop computes it."""

    moments = 2

    def step(self, grads: Sequence[Gradients], slots: Sequence[int], now: Steering, l2: L2 | None = None) -> None:
        s, rate, momentum = self._settings, -now.rate, now.momentum
        for param, grad, square, buffer in zip(self._params, of_all_slots(grads), *self._state, strict=True):
            square.mul_(s.alpha).addcmul_(grad, grad, value=1.0 - s.alpha)
            buffer.mul_(momentum).addcdiv_(grad, square.sqrt().add_(s.eps))
            param.addcmul_(buffer, rate)


OPTIMIZERS: dict[str, type[ArrayOptimizer]] = {"sgd": SGD, "adam": Adam, "adamw": Adam, "rmsprop": RMSprop}


def _of_slot(grads: Sequence[Gradients]) -> list[Callable[[int], Tensor]]:
    """Return what gives, for each stack, the gradient of a slot by its number."""
    return [gradients.make if isinstance(gradients, SlotGradients) else gradients.unbind().__getitem__ for gradients in grads]
