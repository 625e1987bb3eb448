"""A pack: c slots trained as one network, each with its own trial, coefficients, counters and random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from sweeper.job import Penalties, TrainingSettings
from sweeper.training import randomness
from sweeper.training.array import PackedNetwork
from sweeper.training.capture import Recorder, records_steps
from sweeper.training.checkpoint import Occupant, SlotState
from sweeper.training.losses import ArrayLoss, FixedArrayLoss
from sweeper.training.models import initial_state
from sweeper.training.optimizers import OPTIMIZERS
from sweeper.training.penalties import ArrayPenalties, clip_gradients
from sweeper.training.schedules import changes_within_epochs, learning_rate
from sweeper.training.slot_gradients import SlotGradients, of_all_slots, wide_layers
from sweeper.training.steering import Steering
from sweeper.training.streams import Course
from sweeper.trial import Configuration, Run


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the packs of an array have in common.

    `example` is one input, `[1, C, H, W]`; `class_weights` `[C]` or None; `packable`: whether several networks run as one.
    """

    build: Callable[[], nn.Module]
    example: Tensor
    settings: TrainingSettings
    penalties: Penalties
    train_size: int
    class_weights: Tensor | None = None
    packable: bool = True


class Pack:
    """One packed network with its optimizer. Every change happens in place, between two epochs."""

    def __init__(self, recipe: Recipe, width: int, course: Course | None = None) -> None:
        self.width, self.course = width, course or Course()
        self.occupants: list[Occupant | None] = [None] * width
        self._recipe, self._settings = recipe, recipe.settings
        self._network = PackedNetwork(
            recipe.build, width, recipe.example, packable=recipe.packable, precision=self._settings.precision
        ).train()
        self._stacks = self._network.stacks
        self._leaves = [stack.leaf for stack in self._stacks]
        self._device = recipe.example.device
        self._fixed = records_steps(self._device) and recipe.packable
        self._optimizer = OPTIMIZERS[self._settings.optimizer](self._stacks, self._settings, fixed=self._fixed)
        by_rows = self._optimizer.takes_rows and not self._fixed and self._settings.clip_norm is None
        self._penalties = ArrayPenalties(self._stacks, recipe.penalties, recipe.train_size, fixed=self._fixed, leave_l2=by_rows)
        self._slot_gradients = self._make_slot_gradients() if by_rows and self._settings.precision == "float32" else {}
        self._steering = Steering(width, self._stacks[0].rows, self._settings, fixed=self._fixed)
        self._fixed_loss = FixedArrayLoss(width, self._stacks[0].rows, recipe.class_weights)
        self._loss: ArrayLoss | FixedArrayLoss = self._fixed_loss
        self._recorder = Recorder()
        self._structure: tuple[object, ...] = ()
        for dropout in self._network.dropouts if self._fixed else ():
            dropout.keep_place(self._device)
        self._before: list[Tensor] = []
        self._occupants_before, self._course_before = self.occupants, self.course

    @property
    def occupied(self) -> list[int]:
        """The slots that hold a run."""
        return [k for k, occupant in enumerate(self.occupants) if occupant is not None]

    @property
    def runs(self) -> dict[int, Run]:
        """The run in each slot that holds one."""
        return {k: occupant.run for k, occupant in enumerate(self.occupants) if occupant is not None}

    def occupant(self, slot: int) -> Occupant:
        """Return what is in a slot that holds a run."""
        occupant = self.occupants[slot]
        if occupant is None:
            raise LookupError(f"slot {slot} is empty")
        return occupant

    def place(self, slot: int, run: Run, stream_epoch: int) -> None:
        """Start a run in a slot: fresh weights from its seed, an empty optimizer state."""
        self._network.load_member(slot, initial_state(self._recipe.build, run.seed))
        self._optimizer.reset(slot)
        self.occupants[slot] = Occupant(run, run.places or ((0, stream_epoch),))

    def take_out(self, slot: int) -> SlotState:
        """Empty a slot and return what was in it."""
        state = self.state(slot)
        self.occupants[slot] = None
        self._optimizer.reset(slot)
        return state

    def state(self, slot: int) -> SlotState:
        """Return a copy of what is in a slot."""
        return SlotState(self.occupant(slot), self.weights(slot), self._optimizer.state(slot))

    def put_back(self, slot: int, state: SlotState) -> None:
        """Let a run that was taken out elsewhere go on in a slot of this pack."""
        self._network.load_member(slot, state.network)
        self._optimizer.load(slot, state.optimizer)
        self.occupants[slot] = state.occupant

    def remember(self) -> None:
        """Keep a copy of what an epoch changes."""
        now = [*self._network.tensors, *self._optimizer.tensors]
        self._before = self._before or [torch.empty_like(tensor) for tensor in now]
        self._occupants_before, self._course_before = list(self.occupants), self.course
        for tensor, current in zip(self._before, now, strict=True):
            tensor.copy_(current)

    def go_back(self) -> None:
        """Undo what was done since `remember`."""
        self.occupants, self.course = list(self._occupants_before), self._course_before
        for tensor, before in zip([*self._network.tensors, *self._optimizer.tensors], self._before, strict=True):
            tensor.copy_(before)

    def weights(self, slot: int) -> dict[str, Tensor]:
        """Return copies of a slot's parameters and buffers, by name, in the shapes of the ordinary network."""
        return self._network.member(slot)

    def restore(self, slot: int, weights: dict[str, Tensor]) -> None:
        """Overwrite a slot's parameters and buffers."""
        self._network.load_member(slot, weights)

    def begin_epoch(self, steps: int) -> None:
        """Gather what the slots chose into vectors, and draw the random keys of the next `steps` training steps.

        An empty slot borrows a neighbour's loss, so that none is computed for it.
        """
        chosen = [o.run.configuration if o else None for o in self.occupants]
        some = next((c for c in chosen if c), Configuration())
        empty = Configuration(dropout=0.0, loss=some.loss, loss_weights=some.loss_weights, label_smoothing=some.label_smoothing)
        configurations = [c or empty for c in chosen]
        if self._fixed:
            self._fixed_loss.choose(configurations)
        else:
            self._loss = ArrayLoss(configurations, self._stacks[0].rows, self._recipe.class_weights)
        self._penalties.begin_epoch(configurations, [o.epoch + 1 if o else 1 for o in self.occupants])
        taken = [o.steps if o else 0 for o in self.occupants]
        rates = [self._rates_at(step, steps) for step in range(steps if changes_within_epochs(self._settings.schedule) else 1)]
        self._steering.begin_epoch(taken, [c.momentum for c in configurations], rates, steps)
        for slot, configuration in enumerate(configurations):
            self._network.set_dropout(slot, configuration.dropout_rate)
        self._seeds = [o.run.seed if o else 0 for o in self.occupants]
        seeds = torch.tensor(self._seeds, device=self._device)
        counts = torch.tensor(taken, device=self._device) + torch.arange(steps, device=self._device).unsqueeze(1)
        for layer, dropout in enumerate(self._network.dropouts):
            dropout.draw(randomness.step_keys(seeds, counts, layer))
        structure = (self._fixed_loss.functions, self._penalties.acting, *(dropout.active for dropout in self._network.dropouts))
        if structure != self._structure:
            self._structure = structure
            self._recorder.forget()

    def train_step(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train step number `step` of an epoch on a batch shared by the slots; return mean losses `[K]` and logits `[K, B, C]`."""
        for dropout in self._network.dropouts:
            dropout.begin(step)
        self._steering.begin_step(step)
        if not self._network.packable:  # whatever it draws from torch's own generator, it draws the same when replayed
            torch.manual_seed((self._seeds[0] << 10) ^ (self._steering.counts[0] - 1))
        return self._recorder.take(self._step, images, labels) if self._fixed else self._step(images, labels)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            logits = self._network(images)
            losses = self._loss(logits, labels)
            found = torch.autograd.grad(losses.sum(), self._leaves, allow_unused=True)
            with torch.no_grad():
                self._update(found)
        finally:
            for gradients in self._slot_gradients.values():
                gradients.forget()
        return losses.detach(), logits.detach()

    def _update(self, found: Sequence[Tensor | None]) -> None:
        """Let penalties and optimizer change the weights, by the gradients of the losses that autograd found for the leaves."""
        grads = [self._slot_gradients.get(i) or self._gradient(i, grad) for i, grad in enumerate(found)]
        if self._settings.clip_norm is not None:
            clip_gradients(of_all_slots(grads), self._settings.clip_norm)
        for i in range(len(grads)):
            if i not in self._slot_gradients:
                self._penalties.decay(i, self._steering)
        self._optimizer.step(grads, self.occupied, self._steering, self._penalties.l2_of_step)
        self._penalties.project(self._steering)

    def _gradient(self, number: int, found: Tensor | None) -> Tensor:
        """Return the gradient of a stack with the penalties', `[K, P]`, from what autograd found for its leaf."""
        stack = self._stacks[number]
        gradient = torch.zeros_like(stack.rows) if found is None else stack.as_rows(found)
        self._penalties.add_gradient(number, gradient)
        return gradient

    def _make_slot_gradients(self) -> dict[int, SlotGradients]:
        """Return what makes the gradients of wide dense layers, by the numbers of their stacks; they share memory for one."""
        layers = wide_layers(self._network)
        wide = {i: layers[stack.leaf] for i, stack in enumerate(self._stacks) if stack.leaf in layers}
        memory = self._stacks[0].rows.new_empty(max((self._stacks[i].rows.shape[1] for i in wide), default=0))
        return {i: SlotGradients(layer, memory, partial(self._complete, i)) for i, layer in wide.items()}

    def _complete(self, number: int, gradient: Tensor, slot: int) -> None:
        """Add what the penalties add to the gradient of a stack in one slot, `[P]`, and let the weights decay."""
        self._penalties.add_gradient(number, gradient, slot)
        self._penalties.decay(number, self._steering, slot)

    @torch.inference_mode()
    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean losses `[K]`, not weighted by class, and `logits` on a batch, without dropout."""
        logits = self.logits(images)
        return self._loss(logits, labels, weighted=False), logits

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Return what each slot answers for a batch, `[K, B, classes]`, without dropout."""
        self._network.eval()
        logits: Tensor = self._network(images)
        self._network.train()
        return logits

    def end_epoch(self) -> list[float]:
        """Count one more epoch for every occupant; return the share of zero weights in each slot."""
        self.course = self.course.after_epoch()
        counts = zip(self.occupants, self._steering.counts, strict=True)
        self.occupants = [o and replace(o, epoch=o.epoch + 1, steps=count) for o, count in counts]
        return self._penalties.zero_shares()

    def weight_norms(self) -> list[float]:
        """Return the Euclidean norm of all weights (no biases) of each slot."""
        weights = [stack.rows for stack in self._stacks if stack.is_weight] or [stack.rows for stack in self._stacks]
        norms = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in weights])
        of_slots: list[float] = torch.linalg.vector_norm(norms, dim=0).tolist()
        return of_slots

    def _rates_at(self, step: int, steps: int) -> list[float]:
        """Return the learning rate of each slot at a step of the epoch; 0 for an empty one."""
        return [
            learning_rate(self._settings.schedule, o.run.configuration.learning_rate, o.epoch, o.run.epochs, step, steps)
            if o
            else 0.0
            for o in self.occupants
        ]
