"""The workers of a study: what each was planned to hold, which are idle, which died."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from studies.spec import StudySpec
from sweeper.errors import JobRefused, WorkerError
from sweeper.events import event
from sweeper.executors.base import Died, Executor, Message
from sweeper.job import ArrayPlan
from sweeper.messages import EpochReport, Failure, Lane, Orders, Ready
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
        self._idle: set[Lane] = set()
        self._left: dict[int, tuple[int, ...]] = {}
        self._deaths = 0
        self._lives_without_report = Counter[int]()
        self.closed = False
        self._sent: dict[Lane, float] = {}
        self._longest: dict[int, float] = {}
        for worker, entry in stored.items():
            if entry["asked"] == self._asked_of(int(worker)):
                measured = {int(pack): seconds for pack, seconds in entry["plan"]["measured"].items()}
                lanes = tuple(entry["plan"].get("lanes", ()))
                self._plans[int(worker)] = ArrayPlan(**(entry["plan"] | {"measured": measured, "lanes": lanes}))

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
    def idle(self) -> list[Lane]:
        """Lanes that wait for orders: there was nothing to train, or it is to go on in another lane."""
        return sorted(self._idle)

    def lanes(self, worker: int) -> list[Lane]:
        """Return the lanes of a worker that is ready."""
        return [Lane(worker, number) for number in range(len(self._plans[worker].lane_widths))]

    def works(self, lane: Lane) -> bool:
        """Return whether a lane has orders and has not reported yet."""
        return lane in self._sent

    def width(self, lane: Lane) -> int:
        """Return how many runs a lane holds."""
        return self._plans[lane.worker].lane_widths[lane.number]

    def pack(self, worker: int) -> int:
        """Return how many runs of a worker are trained as one network."""
        return self._plans[worker].pack

    def epoch_seconds(self, worker: int) -> float:
        """Return how long it takes at most from a lane's orders to its report, as far as is known."""
        return self._longest.get(worker, 0.0)

    def device(self, worker: int) -> str:
        """Return the device of a worker."""
        return self._devices[worker]

    def start(self, worker: int, trials_left: int, stream_epoch: int) -> None:
        """Start a worker, which plans an array for its share of the trials unless it has a plan."""
        most, plan = most_slots(trials_left / len(self)), self._plans.get(worker)
        job = make_job(self._spec, self._devices[worker], most, plan, self._data_root, stream_epoch)
        self._executor.start(worker, job)

    def receive(self, timeout: float = POLL_SECONDS) -> tuple[int, Message] | None:
        """Return the next message, if one comes soon; the silence of a worker that hangs is its death."""
        received = self._executor.receive(timeout)
        now = time.monotonic()
        if received is None:
            return self._killed_for_silence(now)
        worker, message = received
        if isinstance(message, EpochReport):
            sent = self._sent.pop(Lane(worker, message.lane))
            self._longest[worker] = max(self._longest.get(worker, 0.0), now - sent)
            del self._lives_without_report[worker]
        elif isinstance(message, Died):
            self._expect_nothing(worker)
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

    def send(self, lane: Lane, orders: Orders) -> None:
        """Let a lane train its next epoch."""
        self._idle.discard(lane)
        self._sent[lane] = time.monotonic()
        left = self._left.pop(lane.worker, ())
        self._executor.send(lane.worker, replace(orders, stop=(*left, *orders.stop), lane=lane.number))

    def let_wait(self, lane: Lane, stop: tuple[int, ...] = ()) -> None:
        """Give a lane no orders; the worker takes out trials of it that have ended when one of its lanes gets the next."""
        self._idle.add(lane)
        self._left[lane.worker] = (*self._left.get(lane.worker, ()), *stop)

    def heard(self) -> None:
        """Note that a worker has done its work: the deaths before were not in a row with those that may come."""
        self._deaths = 0

    def bury(self, worker: int, death: Died) -> None:
        """Note that a worker is gone.

        Raises:
            WorkerError: it was not the first one without a report in between, or this one has not reported for as many lives.
        """
        self._deaths += 1
        if self._deaths >= DEATHS_IN_A_ROW:
            raise WorkerError(f"workers died {self._deaths} times in a row, the last one {death.reason}")
        self._lives_without_report[worker] += 1
        if self._lives_without_report[worker] >= DEATHS_IN_A_ROW:  # others that work must not hide it
            times = self._lives_without_report[worker]
            raise WorkerError(
                f"worker {worker} on {self._devices[worker]} died {times} times without a report, last {death.reason}"
            )
        said = f"worker {worker} died ({death.reason}) and is replaced"
        event(log, "worker_died", said, level=logging.WARNING, worker=worker, reason=death.reason)
        self._ready.pop(worker, None)
        self._idle = {lane for lane in self._idle if lane.worker != worker}
        self._left.pop(worker, None)

    def close(self) -> None:
        """End all workers now."""
        self.closed = True
        self._executor.close()

    def _killed_for_silence(self, now: float) -> tuple[int, Message] | None:
        """Kill the first worker whose epoch takes far too long, measured by its own earlier ones: there is none for the first."""
        for (worker, _), sent in self._sent.items():
            silence = now - sent
            if worker in self._longest and silence > max(PATIENCE_SECONDS, PATIENCE_EPOCHS * self._longest[worker]):
                self._executor.kill(worker)
                self._expect_nothing(worker)
                return worker, Died(f"killed: nothing was heard of it for {silence:.0f} s")
        return None

    def _expect_nothing(self, worker: int) -> None:
        """Forget the orders of a worker that is gone."""
        self._sent = {lane: sent for lane, sent in self._sent.items() if lane.worker != worker}

    def _asked_of(self, worker: int) -> list[str | int | None]:
        """Return what a plan answers; a stored one is kept as long as this stays the same."""
        device = self._devices[worker] if worker < len(self._devices) else None
        array = self._spec.array
        return [device, len(self._devices), array.width, array.pack, array.strategy]


def failed(worker: int, device: str, failure: Failure) -> JobRefused | WorkerError:
    """Return the error for a worker that cannot go on."""
    said = f"worker {worker} cannot go on: {failure.message}"
    event(log, "worker_failed", said, worker=worker, traceback=failure.traceback)
    return JobRefused(failure.message) if failure.usage else WorkerError(f"worker {worker} on {device}: {failure.message}")


def most_slots(trials: float) -> int:
    """Return how many slots a worker that will see so many trials is given at most."""
    return 1 << max(0, round(math.log2(max(1.0, trials) / GENERATIONS)))
