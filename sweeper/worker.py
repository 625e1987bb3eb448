"""Owns one device and one array, in one lane or two: runs in, epoch results out. Never opens the database."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import numpy
import torch

from sweeper.job import ArrayPlan, Job, JobError
from sweeper.messages import EpochReport, Failure, Inputs, Orders, Ready
from sweeper.training.checks import check_job, obstacle_to_packing
from sweeper.training.datasets import load_data
from sweeper.training.models import make_builder
from sweeper.training.planner import in_lanes, make_plan
from sweeper.training.precision import check_precision
from sweeper.training.trainer import Trainer, make_recipe


class Worker:
    """The array of one study on one device."""

    def __init__(self, job: Job) -> None:
        with torch.random.fork_rng(devices=[]):
            self._prepare(job)

    def _prepare(self, job: Job) -> None:
        device = torch.device(job.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where streams and recorded steps go
        check_precision(job.training.precision, device)
        data = load_data(job.data, device)
        build = make_builder(job.model, data.input_shape, data.classes)
        obstacle = obstacle_to_packing(build, data.example)
        last_batch = (len(data.train) - 1) % job.training.batch_size + 1
        check_job(build, data.example, job.samples, last_batch, packable=obstacle is None)
        recipe = make_recipe(build, data, job.training, job.penalties, packable=obstacle is None)
        rows = torch.arange(min(job.training.batch_size, len(data.train)), device=device)
        plan = job.plan or make_plan(
            recipe, data.training_inputs(rows, 0), data.train.labels[rows], job.samples,
            width=job.width, pack=job.pack, strategy=job.strategy, most_slots=job.most_slots,
        )  # fmt: skip
        plan = replace(plan, width=max(1, plan.width // job.together) * job.together)
        if obstacle is not None:
            plan = replace(plan, pack=1, reason=f"trained one network at a time: {obstacle}")
        if job.plan is None and job.most_lanes > 1:
            plan = in_lanes(plan, job.together)
        self._plan = plan
        self._lanes = [
            Trainer(recipe, data, replace(plan, width=width), job.stream_seed, job.stream_epoch) for width in plan.lane_widths
        ]
        versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__}
        images = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
        mean, std = (tuple(values.flatten().tolist()) for values in (data.mean, data.std))
        inputs = Inputs(data.input_shape, data.classes, mean, std, data.brightest)
        self.ready = Ready(plan, _device_name(device), versions, images, inputs)

    def step(self, orders: Orders) -> EpochReport:
        """Obey orders at a lane's epoch boundary, then train it for one epoch."""
        begun, trainer = time.perf_counter(), self._lanes[orders.lane]
        others = [other for other in self._lanes if other is not trainer]
        with torch.random.fork_rng(devices=[]):  # in a notebook, the user's generator stays as it is
            for trial in orders.stop:
                next(lane for lane in self._lanes if trial in lane.trials).stop(trial)
            for other in others if orders.join else ():
                trainer.take_over(other)
            trainer.start_all(orders.start)
            results = tuple(trainer.epoch()) if orders.train else ()
        seconds = time.perf_counter() - begun
        checkpoints = {trial: trainer.checkpoint(trial) for trial in orders.checkpoint}
        return EpochReport(results, seconds, checkpoints, self._replanned(trainer), orders.lane)

    def _replanned(self, trainer: Trainer) -> ArrayPlan | None:
        """Return the plan that all lanes go on with, if memory was too short in this one for the plan so far."""
        pack, reason = trainer.plan.pack, trainer.plan.reason
        if pack == self._plan.pack:
            return None
        self._plan = replace(self._plan, pack=pack, reason=reason)
        for lane in self._lanes:
            lane.plan = replace(lane.plan, pack=pack, reason=reason)
        return self._plan


def serve(job: Job, receive: Callable[[], Orders | None], send: Callable[[Ready | EpochReport | Failure], None]) -> None:
    """Work until the orders end. An error leaves as the last message."""
    try:
        tune_process(job.device)
        worker = Worker(job)
        gc.collect()
        gc.freeze()  # torch alone has a million objects; looking through them again and again took 6 % of the time
        send(worker.ready)
        while (orders := receive()) is not None:
            send(worker.step(orders))
    except Exception as error:  # the boundary of the process: whatever it is, the orchestrator decides
        message = str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
        send(Failure(message, traceback.format_exc(), usage=isinstance(error, JobError)))


def tune_process(device: str) -> None:
    """Settle what holds for the whole process: one thread a worker, no denormal numbers, memory kept instead of returned.

    glibc gives large blocks back to the system at once and faults them in again at the next step; for many
    operations that takes longer than their arithmetic. M_MMAP_THRESHOLD (-3) and M_TRIM_THRESHOLD (-1) are in malloc.h.
    """
    if device == "cpu":
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, 2**31 - 1)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
