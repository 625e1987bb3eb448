"""A pack: c slots trained as one network, each with its own trial, coefficients, counters and random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sweeper.training import randomness
from sweeper.training.array import PackedNetwork
from sweeper.training.losses import ArrayLoss
from sweeper.training.models import initial_weights
from sweeper.training.optimizers import Adam
from sweeper.training.penalties import ArrayPenalty
from sweeper.trial import Configuration, Run, TrainingSettings


@dataclass(frozen=True, slots=True)
class Occupant:
    """A run in a slot: how many epochs it has behind it, and where in the shared index stream it began."""

    run: Run
    epoch: int
    stream_start: int


@dataclass(frozen=True, slots=True)
class SlotState:
    """All that a run needs to go on in another slot."""

    occupant: Occupant
    weights: dict[str, Tensor]
    moments: list[Tensor]
    step: int


class Pack:
    """One packed network with its optimizer. Every change happens in place, between two epochs."""

    def __init__(self, build: Callable[[], nn.Module], width: int, example: Tensor, settings: TrainingSettings) -> None:
        self.width = width
        self.occupants: list[Occupant | None] = [None] * width
        self._network = PackedNetwork(build, width, example)
        self._fresh = build().to(example.dtype)
        self._stacks = self._network.stacks
        self._leaves = [stack.leaf for stack in self._stacks]
        self._optimizer = Adam(self._stacks, settings.beta1, settings.beta2, settings.eps)
        self._device = example.device
        self._apply_coefficients()

    @property
    def occupied(self) -> list[int]:
        """The slots that hold a run."""
        return [k for k, occupant in enumerate(self.occupants) if occupant is not None]

    def place(self, slot: int, run: Run, stream_start: int) -> None:
        """Start a run in a slot: fresh weights from its seed, zero moments, step 0."""
        self._network.load_member(slot, initial_weights(self._fresh, run.seed))
        self._optimizer.reset(slot, run.configuration.learning_rate)
        self.occupants[slot] = Occupant(run, 0, stream_start)
        self._apply_coefficients()

    def take_out(self, slot: int) -> SlotState:
        """Empty a slot and return what was in it."""
        occupant = self.occupants[slot]
        if occupant is None:
            raise LookupError(f"slot {slot} is empty")
        state = SlotState(occupant, self._network.member(slot), self._optimizer.state(slot), self._optimizer.steps[slot])
        self.occupants[slot] = None
        self._optimizer.reset(slot, 0.0)
        self._apply_coefficients()
        return state

    def put_back(self, slot: int, state: SlotState) -> None:
        """Let a run that was taken out elsewhere go on in a slot of this pack."""
        self._network.load_member(slot, state.weights)
        self._optimizer.load(slot, state.occupant.run.configuration.learning_rate, state.step, state.moments)
        self.occupants[slot] = state.occupant
        self._apply_coefficients()

    def advance(self) -> None:
        """Count one more epoch for every occupant."""
        self.occupants = [o and replace(o, epoch=o.epoch + 1) for o in self.occupants]

    def begin_epoch(self, steps: int) -> None:
        """Draw the random keys of the next `steps` training steps."""
        counts = torch.tensor(self._optimizer.steps, device=self._device) + torch.arange(steps, device=self._device).unsqueeze(1)
        for layer, dropout in enumerate(self._network.dropouts):
            dropout.draw(randomness.step_keys(self._seeds, counts, layer))

    def train_step(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train step number `step` of an epoch on a batch shared by the slots; return mean losses and hits, `[K]` each."""
        for dropout in self._network.dropouts:
            dropout.step = step
        logits = self._network(images)
        losses = self._loss(logits, labels)
        grads = torch.autograd.grad(losses.sum(), self._leaves)
        with torch.no_grad():
            rows = [stack.as_rows(grad) for stack, grad in zip(self._stacks, grads, strict=True)]
            self._optimizer.step(rows, self.occupied, self._penalty)
        return losses.detach(), _hits(logits.detach(), labels)

    @torch.inference_mode()
    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean losses `[K]` and the counts of hits `[K]` on a batch, without dropout."""
        self._network.eval()
        logits = self._network(images)
        self._network.train()
        return self._loss(logits, labels), _hits(logits, labels)

    def weights(self, slot: int) -> dict[str, Tensor]:
        """Return copies of a slot's parameters, by name, in the shapes of the ordinary network."""
        return self._network.member(slot)

    def _apply_coefficients(self) -> None:
        """Gather what the slots chose into vectors. An empty slot borrows a neighbour's loss, so that none is computed for it."""
        chosen = [o.run.configuration if o else None for o in self.occupants]
        some = next((c for c in chosen if c), Configuration())
        filled = [c or replace(some, l1=0.0, l2=0.0, dropout=0.0) for c in chosen]
        self._loss = ArrayLoss([c.loss for c in filled], self._device)
        self._penalty = ArrayPenalty([c.l1 for c in filled], [c.l2 for c in filled], self._stacks[0].rows)
        for slot, configuration in enumerate(filled):
            self._network.set_dropout(slot, configuration.dropout)
        self._seeds = torch.tensor([o.run.seed if o else 0 for o in self.occupants], device=self._device)


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=2) == labels).sum(dim=1)
