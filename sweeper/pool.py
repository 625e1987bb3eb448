"""The workers of a study: what each was planned to hold, which are idle, which died."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from studies.spec import StudySpec
from sweeper.errors import WorkerError
from sweeper.events import event
from sweeper.executors.base import Died, Executor, Message
from sweeper.job import ArrayPlan
from sweeper.messages import Orders, Ready
from sweeper.search import make_job

DEATHS_IN_A_ROW = 3
"""So many deaths of workers without a report in between stop the study: something is wrong that replacing does not mend."""
GENERATIONS = 4
"""A planned array holds about a fourth of the trials that its worker will see, at most: the sampler learns only from trials that
were reported before it is asked, so an array as wide as the study would be a random search."""
POLL_SECONDS = 0.2
PATIENCE_EPOCHS, PATIENCE_SECONDS = 10.0, 60.0
"""A worker that needs so many times its longest epoch so far, and longer than so many seconds, hangs and is killed."""

log = logging.getLogger(__name__)


class WorkerPool:
    """One worker for each device, told apart by numbers.

    Args:
        spec: the study.
        executor: runs the workers; closed at the end.
        devices: one worker is started for each.
        data_root: folder of downloaded data sets and caches.
        stored: the plans of an earlier call, as `plans_to_store` returned them.
    """

    def __init__(
        self, spec: StudySpec, executor: Executor, devices: Sequence[str], data_root: str, stored: Mapping[str, Any]
    ) -> None:
        self._spec, self._executor, self._devices, self._data_root = spec, executor, list(devices), data_root
        self._plans: dict[int, ArrayPlan] = {}
        self._ready: dict[int, Ready] = {}
        self._idle: set[int] = set()
        self._deaths = 0
        self._sent: dict[int, float] = {}
        self._longest: dict[int, float] = {}
        for worker, entry in stored.items():
            if entry["asked"] == self._asked_of(int(worker)):
                measured = {int(pack): seconds for pack, seconds in entry["plan"]["measured"].items()}
                self._plans[int(worker)] = ArrayPlan(**(entry["plan"] | {"measured": measured}))

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def ready(self) -> dict[int, Ready]:
        """What the workers that are ready said, in their order."""
        return dict(sorted(self._ready.items()))

    @property
    def slots(self) -> int:
        """Slots of all workers that are ready."""
        return sum(ready.plan.width for ready in self._ready.values())

    @property
    def idle(self) -> list[int]:
        """Workers that wait for orders because there was nothing to train."""
        return sorted(self._idle)

    def width(self, worker: int) -> int:
        """Return how many trials a worker holds."""
        return self._plans[worker].width

    def epoch_seconds(self, worker: int) -> float:
        """Return how long a worker's epochs take at most, as far as is known."""
        return self._longest.get(worker, 0.0)

    def device(self, worker: int) -> str:
        """Return the device of a worker."""
        return self._devices[worker]

    def start(self, worker: int, trials_left: int, stream_epoch: int) -> None:
        """Start a worker, which plans an array for its share of the trials unless it has a plan."""
        most, plan = most_slots(trials_left / len(self)), self._plans.get(worker)
        job = make_job(self._spec, self._devices[worker], most, plan, self._data_root, stream_epoch)
        self._executor.start(worker, job)

    def receive(self) -> tuple[int, Message] | None:
        """Return the next message, if one comes soon; the silence of a worker that hangs is its death."""
        received = self._executor.receive(POLL_SECONDS)
        now = time.monotonic()
        if received is None:
            return self._killed_for_silence(now)
        worker = received[0]
        sent = self._sent.pop(worker, None)
        if sent is not None:
            self._longest[worker] = max(self._longest.get(worker, 0.0), now - sent)
        return received

    def welcome(self, worker: int, ready: Ready) -> None:
        """Count a worker among those that are ready, with its plan."""
        plan = ready.plan
        said = f"worker {worker} on {ready.device}: {plan.width} trials at once, {plan.pack} as one network; {plan.reason}"
        event(log, "worker_ready", said, worker=worker, device=ready.device, width=plan.width, pack=plan.pack, reason=plan.reason)
        self._ready[worker], self._plans[worker] = ready, ready.plan

    def replan(self, worker: int, plan: ArrayPlan) -> None:
        """Note what a worker goes on with, for whose plan so far memory was too short."""
        log.warning("worker %d: %s", worker, plan.reason)
        self._ready[worker], self._plans[worker] = replace(self._ready[worker], plan=plan), plan

    def plans_to_store(self) -> dict[str, Any]:
        """Return all plans as JSON, each with what it answers."""
        return {str(w): {"asked": self._asked_of(w), "plan": asdict(plan)} for w, plan in sorted(self._plans.items())}

    def send(self, worker: int, orders: Orders) -> None:
        """Let a worker train its next epoch."""
        self._idle.discard(worker)
        self._sent[worker] = time.monotonic()
        self._executor.send(worker, orders)

    def let_wait(self, worker: int) -> None:
        """Give a worker without trials no orders."""
        self._idle.add(worker)

    def heard(self) -> None:
        """Note that a worker has done its work: the deaths before were not in a row with those that may come."""
        self._deaths = 0

    def bury(self, worker: int, death: Died) -> None:
        """Note that a worker is gone.

        Raises:
            WorkerError: it was not the first one without a report in between.
        """
        self._deaths += 1
        if self._deaths >= DEATHS_IN_A_ROW:
            raise WorkerError(f"workers died {self._deaths} times in a row, the last one {death.reason}")
        said = f"worker {worker} died ({death.reason}) and is replaced"
        event(log, "worker_died", said, level=logging.WARNING, worker=worker, reason=death.reason)
        self._ready.pop(worker, None)
        self._sent.pop(worker, None)
        self._idle.discard(worker)

    def close(self) -> None:
        """End all workers now."""
        self._executor.close()

    def _killed_for_silence(self, now: float) -> tuple[int, Message] | None:
        """Kill the first worker whose epoch takes far too long, measured by its own earlier ones: there is none for the first."""
        for worker, sent in self._sent.items():
            silence = now - sent
            if worker in self._longest and silence > max(PATIENCE_SECONDS, PATIENCE_EPOCHS * self._longest[worker]):
                del self._sent[worker]
                self._executor.kill(worker)
                return worker, Died(f"killed: nothing was heard of it for {silence:.0f} s")
        return None

    def _asked_of(self, worker: int) -> list[str | int | None]:
        """Return what a plan answers; a stored one is kept as long as this stays the same."""
        device = self._devices[worker] if worker < len(self._devices) else None
        array = self._spec.array
        return [device, len(self._devices), array.width, array.pack, array.strategy]


def most_slots(trials: float) -> int:
    """Return how many slots a worker that will see so many trials is given at most."""
    return 1 << max(0, round(math.log2(max(1.0, trials) / GENERATIONS)))
