"""Trains the runs of one array: start, one epoch, evaluate, refill, take out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from sweeper.job import ArrayPlan, JobError, Penalties, TrainingSettings
from sweeper.training.checkpoint import SlotState, decode, encode
from sweeper.training.datasets import Data
from sweeper.training.early_stopping import Best
from sweeper.training.losses import balanced_weights
from sweeper.training.memory import TOO_LARGE, is_out_of_memory
from sweeper.training.pack import Pack, Recipe
from sweeper.trial import EpochResult, Metrics, Run, derive_seed

EVALUATION_BATCH = {"cpu": 128, "cuda": 1024}
"""Images evaluated at once, by kind of device: enough to amortize a call, few enough for a core's cache, or a GPU's memory."""

WORTH_NARROWING = 0.8
"""A pack with a smaller share of occupied slots is replaced by a narrower one, which costs about as much as a training step."""


class Trainer:
    """An array of `plan.width` slots in packs of `plan.pack`.

    A pack trains its whole epoch before the next one begins, so that its parameters stay in the core's cache. All slots share
    one stream of minibatches, `stream`, whose epochs count from `stream_epoch`. When trials run out, the array shrinks
    instead of training empty slots; it grows again, up to the plan, when more come. A pack that does not fit into the memory is
    split, and its epoch trained again from where it began; `plan` then tells the width that fits.
    """

    def __init__(self, recipe: Recipe, data: Data, plan: ArrayPlan, stream_seed: int, stream_epoch: int = 0) -> None:
        self.plan = plan
        self._recipe, self._settings = recipe, recipe.settings
        self._data, self._stream_seed = data, stream_seed
        self._stream_epoch = stream_epoch
        self._packs: list[Pack] = []
        self._places: dict[int, tuple[Pack, int]] = {}

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of the trials that are in a slot."""
        return tuple(self._places)

    def start(self, run: Run) -> None:
        """Put a run into a free slot, in the fullest pack that has one; from its checkpoint on, if it has one that can be read."""
        state = None if run.checkpoint is None else decode(run.checkpoint, replace(run, checkpoint=None), self._data.device)
        pack, slot = self._free_slot()
        if state is None:
            pack.place(slot, replace(run, checkpoint=None), self._stream_epoch)
        else:
            at = state.occupant
            resumed = replace(at, stream=(*at.stream, (at.epoch, self._stream_epoch)))
            pack.put_back(slot, replace(state, occupant=resumed))
        self._places[run.trial] = pack, slot

    def stop(self, trial: int) -> None:
        """Take a trial out of its slot."""
        pack, slot = self._places.pop(trial)
        pack.take_out(slot)

    def weights(self, trial: int) -> dict[str, Tensor]:
        """Return copies of the parameters of a trial that is in a slot."""
        pack, slot = self._places[trial]
        return pack.weights(slot)

    def checkpoint(self, trial: int) -> bytes:
        """Return all that a trial in a slot needs to go on elsewhere."""
        pack, slot = self._places[trial]
        return encode(pack.state(slot))

    def epoch(self) -> list[EpochResult]:
        """Train every run for one epoch and evaluate it; results come in the order of starting."""
        self._fill_packs()
        self._narrow_packs()
        order = stream(self._stream_seed, self._stream_epoch, len(self._data.train))
        results: dict[int, EpochResult] = {}
        waiting = deque(self._packs)
        while waiting:
            done = self._attempt_epoch(waiting[0], order)
            if done is None:
                waiting.extendleft(self._split(waiting.popleft()))
            else:
                results.update(done)
                waiting.popleft()
        self._stream_epoch += 1
        return [results[trial] for trial in self._places]

    def _attempt_epoch(self, pack: Pack, order: Tensor) -> dict[int, EpochResult] | None:
        """Train a pack for an epoch; return None, and leave it as it was, if that takes more memory than there is."""
        pack.remember()
        try:
            return {result.trial: result for result in self._pack_epoch(pack, order)}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        pack.go_back()
        return None

    def _split(self, pack: Pack) -> list[Pack]:
        """Put the runs of a pack into two of half its width, and make no such wide one again."""
        self._halve(pack.width)
        return self._into_new_packs(pack)

    def _halve(self, width: int) -> None:
        """Note that packs of this width do not fit into the memory, and plan with half of it.

        Raises:
            JobError: a pack of one does not.
        """
        if width == 1:
            raise JobError(TOO_LARGE)
        reason = f"{self.plan.reason}; packs of {width} did not fit into the memory".removeprefix("; ")
        self.plan = replace(self.plan, pack=min((width + 1) // 2, self.plan.pack), reason=reason)

    def _pack_epoch(self, pack: Pack, order: Tensor) -> Iterator[EpochResult]:
        train, validation, size = self._data.train, self._data.validation, self._settings.batch_size
        at_once = EVALUATION_BATCH[self._data.device.type]
        changes = derive_seed("augmentation", self._stream_seed, self._stream_epoch)
        pack.begin_epoch(-(-len(order) // size))
        train_loss, train_hits = _total(
            (len(labels), *pack.train_step(step, inputs, labels))
            for step, (inputs, labels) in enumerate(self._data.training_batches(order, size, changes))
        )
        loss, hits = _total(
            (len(labels), *pack.evaluate(inputs, labels)) for inputs, labels in self._data.batches(validation, at_once)
        )
        zeros, norms = pack.end_epoch(), pack.weight_norms()
        for slot in pack.occupied:
            metrics = Metrics(
                train_loss=train_loss[slot] / len(train),
                train_accuracy=train_hits[slot] / len(train),
                validation_loss=loss[slot] / len(validation),
                validation_accuracy=hits[slot] / len(validation),
            )
            best, stopped = self._look(pack, slot, metrics)
            at = pack.occupant(slot)
            yield EpochResult(
                trial=at.run.trial,
                epoch=at.epoch,
                metrics=metrics,
                stream=at.stream,
                best_epoch=best.epoch,
                best=best.metrics,
                stopped=stopped,
                zero_weights=zeros[slot],
                weight_norm=norms[slot],
            )

    def _look(self, pack: Pack, slot: int, metrics: Metrics) -> tuple[Best, bool]:
        """Return the epoch that counts, and whether patience ran out; the best weights come back at the end of the run."""
        at, patience = pack.occupant(slot), self._settings.patience
        now = Best(at.epoch, metrics)
        if patience is None:
            return now, False
        if at.best is None or now.is_better_than(at.best, self._settings.monitor):
            best = replace(now, weights=pack.weights(slot))
            pack.occupants[slot] = replace(at, best=best)
            return best, False
        stopped = at.epoch - at.best.epoch >= patience
        if (stopped or at.epoch >= at.run.epochs) and at.best.weights is not None:
            pack.restore(slot, at.best.weights)
        return at.best, stopped

    def _free_slot(self) -> tuple[Pack, int]:
        open_packs = [pack for pack in self._packs if None in pack.occupants]
        if not open_packs:
            if len(self._places) >= self.plan.width:
                raise LookupError(f"all {self.plan.width} slots are occupied")
            open_packs = [self._new_pack(self.plan.width - len(self._places))]
        pack = max(open_packs, key=lambda p: len(p.occupied))
        return pack, pack.occupants.index(None)

    def _new_pack(self, most: int) -> Pack:
        """Add a pack of the plan's width, or of `most` slots if that is less; of fewer still if memory is short."""
        while True:
            width = min(most, self.plan.pack)
            try:
                self._packs.append(Pack(self._recipe, width))
                return self._packs[-1]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(width)

    def _into_new_packs(self, pack: Pack) -> list[Pack]:
        """Replace a pack by as few as hold its runs, without empty slots."""
        waiting = deque(pack.take_out(slot) for slot in pack.occupied)
        self._packs.remove(pack)
        parts = []
        while waiting:
            parts.append(self._new_pack(len(waiting)))
            for slot in range(parts[-1].width):
                self._put(waiting.popleft(), parts[-1], slot)
        return parts

    def _move(self, pack: Pack, slot: int, target: Pack) -> None:
        self._put(pack.take_out(slot), target, target.occupants.index(None))

    def _put(self, state: SlotState, target: Pack, slot: int) -> None:
        target.put_back(slot, state)
        self._places[state.occupant.run.trial] = target, slot

    def _fill_packs(self) -> None:
        """Empty the sparsest packs into the free slots of the others: a pack costs the same full or half full."""
        self._packs = sorted((p for p in self._packs if p.occupied), key=lambda p: -len(p.occupied))
        while len(self._packs) > 1:
            *others, sparsest = self._packs
            if len(sparsest.occupied) > sum(p.width - len(p.occupied) for p in others):
                return
            for slot in sparsest.occupied:
                self._move(sparsest, slot, next(p for p in others if None in p.occupants))
            self._packs = others

    def _narrow_packs(self) -> None:
        """Move the runs of packs that train too many empty slots into narrower ones."""
        for pack in list(self._packs):
            if len(pack.occupied) <= WORTH_NARROWING * pack.width:
                self._into_new_packs(pack)


def stream(seed: int, epoch: int, size: int) -> Tensor:
    """Return the order of the training samples in an epoch of a stream, `[size]` int64."""
    generator = torch.Generator().manual_seed(derive_seed("stream", seed, epoch))
    return torch.randperm(size, generator=generator)


def make_recipe(
    build: Callable[[], nn.Module], data: Data, settings: TrainingSettings, penalties: Penalties, *, packable: bool = True
) -> Recipe:
    """Return what packs that train a network on these data have in common.

    Raises:
        JobError: the class weights are not one for each class.
    """
    weights = settings.class_weights
    if weights == "balanced":
        of_classes: Tensor | None = balanced_weights(data.train.labels, data.classes).to(data.device, data.dtype)
    elif isinstance(weights, tuple):
        if len(weights) != data.classes:
            raise JobError(f"training.class_weights: {len(weights)} weights for {data.classes} classes")
        of_classes = torch.tensor(weights, device=data.device, dtype=data.dtype)
    else:
        of_classes = None
    return Recipe(build, data.example, settings, penalties, len(data.train), of_classes, packable)


def _total(batches: Iterable[tuple[int, Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    """Sum over batches of (size, mean losses `[K]`, hits `[K]`): the losses weighted by size, and the hits, one value a slot."""
    losses, hits = zip(*((loss * size, hit) for size, loss, hit in batches), strict=True)
    return torch.stack(losses).sum(dim=0).tolist(), torch.stack(hits).sum(dim=0).tolist()
