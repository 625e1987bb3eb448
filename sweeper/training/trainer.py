"""Trains the runs of one array: start, one epoch, evaluate, refill, take out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy
import torch
from torch import Tensor, nn

from sweeper.job import ArrayPlan, JobError, Penalties, TrainingSettings
from sweeper.training.checkpoint import SlotState, decode, encode
from sweeper.training.datasets import Data, Part
from sweeper.training.early_stopping import Best
from sweeper.training.losses import balanced_weights, sample_losses
from sweeper.training.measures import MEASURES, image_scores
from sweeper.training.memory import TOO_LARGE, is_out_of_memory
from sweeper.training.pack import Pack, Recipe
from sweeper.training.streams import Course, stream, stream_seed
from sweeper.training.sums import EpochSums
from sweeper.trial import EpochResult, Metrics, Run, derive_seed

__all__ = ["Trainer", "make_recipe", "stream"]

EVALUATION_BATCH = {"cpu": 128, "cuda": 1024}
"""Images evaluated at once, by kind of device: enough to amortize a call, few enough for a core's cache, or a GPU's memory."""

WORTH_NARROWING = 0.8
"""A pack with a smaller share of occupied slots is replaced by a narrower one, which costs about as much as a training step."""


class Trainer:
    """An array of `plan.width` slots in packs of `plan.pack`.

    A pack trains its whole epoch before the next one begins, so that its parameters stay in the core's cache. Its slots share
    one stream of minibatches: those of a search all share stream 0, whose epochs count from `stream_epoch`; seeds of a
    confirmation and folds have their own streams, and so packs of their own. When trials run out, the array shrinks
    instead of training empty slots; it grows again, up to the plan, when more come. A pack that does not fit into the memory is
    split, and its epoch trained again from where it began; `plan` then tells the width that fits.
    """

    def __init__(self, recipe: Recipe, data: Data, plan: ArrayPlan, stream_seed: int, stream_epoch: int = 0) -> None:
        self.plan = plan
        self._recipe, self._settings = recipe, recipe.settings
        self._data, self._stream_seed = data, stream_seed
        self._stream_epoch = stream_epoch
        asked = {*recipe.settings.objectives, recipe.settings.monitor}
        self._measured_each_epoch = sorted(asked.intersection(MEASURES))
        self._packs: list[Pack] = []
        self._places: dict[int, tuple[Pack, int]] = {}

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of the trials that are in a slot."""
        return tuple(self._places)

    def start(self, run: Run, company: int = 1) -> None:
        """Put a run into a free slot, in the fullest pack of its stream; from its checkpoint on, if it has one that can be read.

        Args:
            run: what is trained.
            company: so many runs of its stream are about to start, this one included.
        """
        state = None if run.checkpoint is None else decode(run.checkpoint, replace(run, checkpoint=None), self._data.device)
        course = Course.of(run, state.occupant.epoch if state else 0)
        pack, slot = self._free_slot(course, company)
        if state is None:
            pack.place(slot, replace(run, checkpoint=None), self._stream_epoch)
        else:
            at = state.occupant
            resumed = at if run.places else replace(at, stream=(*at.stream, (at.epoch, self._stream_epoch)))
            pack.put_back(slot, replace(state, occupant=resumed))
        self._places[run.trial] = pack, slot

    def start_all(self, runs: Sequence[Run]) -> None:
        """Put runs into free slots, each as by `start`; those of one stream find room in one pack."""
        for i, run in enumerate(runs):
            self.start(run, sum(other.stream == run.stream for other in runs[i:]))

    def take_over(self, other: Trainer) -> None:
        """Let the runs of another trainer, of the same recipe and stream, go on here, where so many slots are free."""
        states = [pack.take_out(slot) for pack, slot in other._places.values()]
        other._places.clear()
        other._packs.clear()
        for i, state in enumerate(states):
            at = state.occupant
            if not at.run.places and other._stream_epoch != self._stream_epoch:
                at = replace(at, stream=(*at.stream, (at.epoch, self._stream_epoch)))
            course = Course.of(at.run, at.epoch)
            company = sum(Course.of(s.occupant.run, s.occupant.epoch) == course for s in states[i:])
            self._put(replace(state, occupant=at), *self._free_slot(course, company))

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
        results: dict[int, EpochResult] = {}
        waiting = deque(self._packs)
        while waiting:
            done = self._attempt_epoch(waiting[0])
            if done is None:
                waiting.extendleft(self._split(waiting.popleft()))
            else:
                results.update(done)
                waiting.popleft()
        self._stream_epoch += 1
        return [results[trial] for trial in self._places]

    def _attempt_epoch(self, pack: Pack) -> dict[int, EpochResult] | None:
        """Train a pack for an epoch; return None, and leave it as it was, if that takes more memory than there is."""
        pack.remember()
        try:
            return {result.trial: result for result in self._pack_epoch(pack)}
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

    def _pack_epoch(self, pack: Pack) -> list[EpochResult]:
        data, size = self._data.of_fold(pack.course.fold), self._settings.batch_size
        seed, position = stream_seed(self._stream_seed, pack.course.stream), pack.course.position(self._stream_epoch)
        order = data.rows[stream(seed, position, len(data.rows))]
        changes = derive_seed("augmentation", seed, position)
        pack.begin_epoch(-(-len(order) // size))
        trained = EpochSums()
        for step, (inputs, labels) in enumerate(self._data.training_batches(data.train, order, size, changes)):
            trained.add(*pack.train_step(step, inputs, labels), labels)
        validated, others = self._validate(pack, data.validation)
        train_loss, train_hits, loss, hits = trained.losses, trained.hits, validated.losses, validated.hits
        zeros, norms = pack.end_epoch(), pack.weight_norms()
        results: dict[int, EpochResult] = {}
        for slot in pack.occupied:
            metrics = Metrics(
                train_loss=train_loss[slot] / len(order),
                train_accuracy=train_hits[slot] / len(order),
                validation_loss=loss[slot] / len(data.validation),
                validation_accuracy=hits[slot] / len(data.validation),
                others=others[slot] | ({"zero_weights": zeros[slot]} if "zero_weights" in self._settings.objectives else {}),
            )
            best, stopped = self._look(pack, slot, metrics)
            at = pack.occupant(slot)
            results[slot] = EpochResult(
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
        ended = [slot for slot, run in pack.runs.items() if results[slot].stopped or results[slot].epoch >= run.epochs]
        self._examine(pack, {slot: results[slot] for slot in ended}, data.validation)
        return list(results.values())

    def _validate(self, pack: Pack, part: Part) -> tuple[EpochSums, dict[int, dict[str, float]]]:
        """Return the losses and hits on a part, and what else is measured each epoch, by occupied slot."""
        sums, answered = EpochSums(), list[Tensor]()
        for images, labels in self._data.batches(part, EVALUATION_BATCH[self._data.device.type]):
            losses, logits = pack.evaluate(images, labels)
            sums.add(losses, logits, labels)
            if self._measured_each_epoch:
                answered.append(logits)
        others: dict[int, dict[str, float]] = {slot: {} for slot in pack.occupied}
        if answered:
            logits = torch.cat(answered, dim=1)
            for slot, found in others.items():
                for name in self._measured_each_epoch:
                    value = MEASURES[name](logits[slot], part.labels)
                    assert isinstance(value, float)
                    found[name] = value
        return sums, others

    def _examine(self, pack: Pack, ended: dict[int, EpochResult], validation: Part) -> None:
        """Add to the last results of runs, by slot, what is to be known of single images and what else is to be measured."""
        at_once, measures = EVALUATION_BATCH[self._data.device.type], self._settings.measure
        for name, part in (("validation", validation), ("test", self._data.test)):
            asked = [slot for slot in ended if name in pack.runs[slot].examine]
            measured = list(ended) if measures and name == "validation" else []
            if not len(part) or not (asked or measured):
                continue
            logits = torch.cat([pack.logits(images) for images, _ in self._data.batches(part, at_once)], dim=1)
            for slot in asked:
                right = (logits[slot].argmax(dim=1) == part.labels).cpu().numpy()
                ended[slot].examined[name] = numpy.packbits(right).tobytes()
                if self._settings.objectives[0] != "accuracy":
                    scores = self._scores(pack.runs[slot], logits[slot], part.labels, ended[slot].best)
                    ended[slot].scores[name] = scores.float().cpu().numpy().tobytes()
            for slot in measured:
                ended[slot].measured.update({measure: MEASURES[measure](logits[slot], part.labels) for measure in measures})

    def _scores(self, run: Run, logits: Tensor, labels: Tensor, best: Metrics) -> Tensor:
        """Return how each image of a part adds to the metric that the search is after, `[N]`; the mean is the metric."""
        match self._settings.objectives[0]:
            case "loss":
                return sample_losses(run.configuration, logits, labels)
            case "gap":
                return best.train_accuracy - image_scores("accuracy", logits, labels)
            case "zero_weights":
                return logits.new_full((len(labels),), best.value("zero_weights"))
            case measure:
                return image_scores(measure, logits, labels)

    def _look(self, pack: Pack, slot: int, metrics: Metrics) -> tuple[Best, bool]:
        """Return the epoch that counts, and whether patience ran out; the best weights come back at the end of the run."""
        at, patience = pack.occupant(slot), self._settings.patience
        now = Best(at.epoch, metrics)
        if patience is None:
            return now, False
        if at.best is None or now.is_better_than(at.best, self._settings.monitor, minimized=self._settings.monitor_minimized):
            best = replace(now, weights=pack.weights(slot))
            pack.occupants[slot] = replace(at, best=best)
            return best, False
        stopped = at.epoch - at.best.epoch >= patience
        if (stopped or at.epoch >= at.run.epochs) and at.best.weights is not None:
            pack.restore(slot, at.best.weights)
        return at.best, stopped

    def _free_slot(self, course: Course, company: int) -> tuple[Pack, int]:
        open_packs = [pack for pack in self._packs if pack.course == course and None in pack.occupants]
        if not open_packs:
            free = self.plan.width - len(self._places)
            if free < 1:
                raise LookupError(f"all {self.plan.width} slots are occupied")
            open_packs = [self._new_pack(free if course == Course() else min(free, company), course)]
        pack = max(open_packs, key=lambda p: len(p.occupied))
        return pack, pack.occupants.index(None)

    def _new_pack(self, most: int, course: Course) -> Pack:
        """Add a pack of the plan's width, or of `most` slots if that is less; of fewer still if memory is short."""
        while True:
            width = min(most, self.plan.pack)
            try:
                self._packs.append(Pack(self._recipe, width, course))
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
            parts.append(self._new_pack(len(waiting), pack.course))
            for slot in range(parts[-1].width):
                self._put(waiting.popleft(), parts[-1], slot)
        return parts

    def _move(self, pack: Pack, slot: int, target: Pack) -> None:
        self._put(pack.take_out(slot), target, target.occupants.index(None))

    def _put(self, state: SlotState, target: Pack, slot: int) -> None:
        target.put_back(slot, state)
        self._places[state.occupant.run.trial] = target, slot

    def _fill_packs(self) -> None:
        """Empty the sparsest packs into the free slots of the others of their stream: a pack costs the same full or half full."""
        streams: dict[Course, list[Pack]] = {}
        for pack in sorted((p for p in self._packs if p.occupied), key=lambda p: -len(p.occupied)):
            streams.setdefault(pack.course, []).append(pack)
        for packs in streams.values():
            while len(packs) > 1:
                *others, sparsest = packs
                if len(sparsest.occupied) > sum(p.width - len(p.occupied) for p in others):
                    break
                for slot in sparsest.occupied:
                    self._move(sparsest, slot, next(p for p in others if None in p.occupants))
                packs.pop()
        self._packs = [pack for packs in streams.values() for pack in packs]

    def _narrow_packs(self) -> None:
        """Move the runs of packs that train too many empty slots into narrower ones."""
        for pack in list(self._packs):
            if len(pack.occupied) <= WORTH_NARROWING * pack.width:
                self._into_new_packs(pack)


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
    size = len(data.folds[0].rows) if data.folds else len(data.train)
    return Recipe(build, data.example, settings, penalties, size, of_classes, packable)
