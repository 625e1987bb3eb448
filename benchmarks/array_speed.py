"""How many epochs of a trial are trained in a second: by the trial array, and by loops that train one network at a time.

    python benchmarks/array_speed.py --repeat 3                       # on every core, on digits and MNIST
    python benchmarks/array_speed.py mnist-cnn mnist-cnn-bf16
    python benchmarks/array_speed.py lenet batch-norm wide-mlp resnet18 --images 256 --random   # where an array gains less
    python benchmarks/array_speed.py --device cuda:0 --random --repeat 3   # a bare machine: torch, numpy and sweeper/training
    python benchmarks/array_speed.py --curve                          # one core: a step of one trial in packs of 1 to 256
    python benchmarks/array_speed.py --check                          # the array's weights against plain torch's in float64

All of one run do the same work: the same images, network, batches, Adam, cross-entropy, dropout and L2, and an evaluation after
each epoch.

- tutorial: a DataLoader over images that are made into tensors one by one, the penalty written into the loss.
- careful: images in the device's memory, one thread a process, torch's fused Adam with its own weight decay.
- array: sweeper's planner and trainer, with as many trials as it plans.

As many processes of each as there are cores; on a GPU one, and of the careful loop also several at once. Speeds are medians over
the repetitions; ratios are medians of the ratios within one repetition. On a CPU a second is one of the process's own time on its
core (every process has one thread), so that what else runs on the machine counts as little as it can.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.executors.local import huge_pages
from sweeper.job import DataSettings, Layer, Penalties, TrainingSettings
from sweeper.training.datasets import Data, Part, load_data
from sweeper.training.models import build_network, initial_state, resnet18
from sweeper.training.planner import PACKS, make_plan, seconds_per_trial_step
from sweeper.training.trainer import Trainer, make_recipe, stream
from sweeper.trial import Configuration, Run
from sweeper.worker import tune_process

CONFIGURATION = Configuration(l2=1e-4, dropout=0.2, learning_rate=1e-3)
CNN = (Layer("conv", 32, 3), Layer("pool", kernel=2), Layer("conv", 64, 3), Layer("pool", kernel=2), Layer("conv", 64, 3))


@dataclass(frozen=True)
class Case:
    """A network on images of a data set, and how many of them make an epoch; no layers: ResNet-18."""

    data: str
    layers: tuple[Layer, ...]
    batch: int
    sizes: tuple[int, int]
    precision: str = "float32"

    def build(self) -> nn.Module:
        shape = SHAPES[self.data]
        return build_network(self.layers, shape, 10) if self.layers else resnet18(shape, 10)


SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
HIDDEN = (Layer("dense", 64), Layer("dropout"))
LENET = (
    Layer("conv", 6, 5),
    Layer("pool", kernel=2),
    Layer("conv", 16, 5),
    Layer("pool", kernel=2),
    Layer("dense", 120),
    Layer("dense", 84),
)
NORMED = tuple(layer for units in (16, 32) for layer in (Layer("conv", units, 3, 1), Layer("batch_norm"), Layer("pool", kernel=2)))
CASES = {
    "digits-mlp": Case("digits", HIDDEN * 2, 32, (600, 597)),
    "digits-cnn": Case("digits", (Layer("conv", 16, 3), Layer("conv", 32, 3), Layer("pool", kernel=2), *HIDDEN), 32, (600, 597)),
    "mnist-mlp": Case("mnist", (Layer("dense", 128), Layer("dropout")), 64, (6400, 1000)),
    "mnist-cnn": Case("mnist", (*CNN, *HIDDEN), 64, (3200, 500)),
    "mnist-cnn-bf16": Case("mnist", (*CNN, *HIDDEN), 64, (3200, 500), "bfloat16"),
    "lenet": Case("cifar10", LENET, 4, (800, 200)),
    "batch-norm": Case("mnist", NORMED, 64, (3200, 500)),
    "wide-mlp": Case("mnist", (Layer("dropout"), *(Layer("dense", 1024), Layer("dropout")) * 2), 100, (1600, 500)),
    "resnet18": Case("cifar10", (), 128, (1280, 256)),
    "resnet18-bf16": Case("cifar10", (), 128, (1280, 256), "bfloat16"),
}
USUAL = [name for name in CASES if name.startswith(("digits", "mnist"))]


@dataclass(frozen=True)
class Bench:
    """What a process is told: whether its images are random, and for how long it works."""

    case: Case
    device: str
    random: bool
    root: str
    seconds: float

    def data(self, device: str | None = None, dtype: torch.dtype = torch.float32) -> Data:
        device, sizes = device or self.device, self.case.sizes
        if not self.random:
            return load_data(DataSettings(self.case.data, *sizes, root=self.root), device, dtype)
        generator = torch.Generator().manual_seed(0)
        shape = SHAPES[self.case.data]
        parts = [
            Part(
                torch.randint(256, (size, *shape), dtype=torch.uint8, generator=generator).to(device),
                torch.randint(10, (size,), generator=generator).to(device),
            )
            for size in (*sizes, 1)
        ]
        return Data(*parts, 10, torch.zeros(shape[0], 1, 1, device=device, dtype=dtype), torch.ones(1, 1, 1, device=device))

    def trainer(self, data: Data, width: int | None = None, eps: float = 1e-8) -> Trainer:
        settings = TrainingSettings(10**6, self.case.batch, precision=self.case.precision, eps=eps)
        recipe = make_recipe(self.case.build, data, settings, Penalties())
        rows = torch.arange(self.case.batch)
        images, labels = data.training_inputs(rows.to(data.device), 0), data.train.labels[rows.to(data.device)]
        plan = make_plan(recipe, images, labels, [CONFIGURATION], width=width, pack=None, strategy=None, most_slots=256)
        return Trainer(recipe, data, plan, 7)


Epochs = Iterator[int]
"""Yields, again and again, how many epochs of a trial it has trained just now."""


def tutorial(bench: Bench) -> Epochs:
    data, device = bench.data("cpu"), torch.device(bench.device)

    class Images(torch.utils.data.Dataset[Any]):
        def __init__(self, part: Part) -> None:
            self.images, self.labels = part.images.numpy(), part.labels.tolist()

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            return torch.from_numpy(self.images[row]).float() / data.brightest, self.labels[row]

    train = torch.utils.data.DataLoader(Images(data.train), bench.case.batch, shuffle=True)
    validation = torch.utils.data.DataLoader(Images(data.validation), 128)
    network = with_dropout(bench.case.build()).to(device)
    optimizer = torch.optim.Adam(network.parameters(), CONFIGURATION.learning_rate)
    while True:
        network.train()
        for batch, target in train:
            images, labels = batch.to(device), target.to(device)
            optimizer.zero_grad()
            penalty = sum(p.square().sum() for p in network.parameters() if p.dim() > 1)
            loss = F.cross_entropy(network(images), labels) + CONFIGURATION.l2 / 2 * penalty
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            sum((network(images.to(device)).argmax(1) == labels.to(device)).sum().item() for images, labels in validation)
        yield 1


def careful(bench: Bench) -> Epochs:
    data = bench.data()
    network = with_dropout(bench.case.build()).to(data.device)
    images, held_out = (data.inputs(part, slice(None)) for part in (data.train, data.validation))
    labels, targets = data.train.labels, data.validation.labels
    optimizer = fused_adam(network)
    while True:
        network.train()
        for rows in torch.randperm(len(images), device=data.device).split(bench.case.batch):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            hits = [(network(x).argmax(1) == y).sum() for x, y in zip(held_out.split(128), targets.split(128), strict=True)]
        torch.stack(hits).sum().item()
        yield 1


def array(bench: Bench) -> Epochs:
    tune_process(bench.device)
    trainer = bench.trainer(bench.data())
    for trial in range(trainer.plan.width):
        trainer.start(Run(trial, replace(CONFIGURATION, l2=1e-4 + 1e-6 * trial), trial, 10**6))  # no two alike, as in a search
    print(f"      {trainer.plan.width} trials in packs of {trainer.plan.pack}", flush=True)
    while True:
        trainer.epoch()
        yield trainer.plan.width


PEERS: dict[str, Callable[[Bench], Epochs]] = {"tutorial": tutorial, "careful": careful, "array": array}


def with_dropout(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = CONFIGURATION.dropout or 0.0
    return network


def fused_adam(network: nn.Module) -> torch.optim.Optimizer:
    weights, others = ([p for p in network.parameters() if (p.dim() > 1) == penalized] for penalized in (True, False))
    groups = [{"params": weights, "weight_decay": CONFIGURATION.l2}, {"params": others}]
    return torch.optim.Adam(groups, CONFIGURATION.learning_rate, fused=True)


def work(peer: str, bench: Bench, begin: Any, speeds: Any) -> None:
    """Be one of the processes that train at the same time; send how many epochs a second it trained."""
    torch.set_num_threads(1)
    epochs = PEERS[peer](bench)
    next(epochs)  # everything is loaded, chosen and warm
    gc.collect()
    gc.freeze()  # as sweeper's worker does, so that no side pays for walks through torch's objects
    begin.wait()
    clock = time.process_time if bench.device == "cpu" else time.perf_counter
    start, done = clock(), 0
    while clock() - start < bench.seconds:
        done += next(epochs)
    speeds.put(done / (clock() - start))
    gc.unfreeze()


def measure(peer: str, bench: Bench, processes: int) -> float:
    """Return the epochs of a trial that so many processes train in a second, together."""
    context = multiprocessing.get_context("spawn")
    begin, speeds = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=work, args=(peer, bench, begin, speeds)) for _ in range(processes)]
    for worker in workers:
        with huge_pages() if peer == "array" else nullcontext():  # as sweeper starts its workers
            worker.start()
    total = sum(speeds.get(timeout=600) for _ in workers)
    for worker in workers:
        worker.join()
    return total


def difference_from_float64(bench: Bench) -> float:
    """Return how far apart three trials of an array and plain torch in float64 are after ten steps, relative to their moves.

    Adam's eps is 1e-4 here: with its usual 1e-8, weights whose gradients are rounding errors move as far as all others.
    """
    steps, trials, eps = 10, 3, 1e-4
    bench = replace(bench, case=replace(bench.case, sizes=(steps * bench.case.batch, 100)))
    trainer = bench.trainer(bench.data(), trials, eps)
    configuration = replace(CONFIGURATION, dropout=0.0)
    for trial in range(trials):
        trainer.start(Run(trial, configuration, trial, 9))
    trainer.epoch()
    worst = 0.0
    data = bench.data("cpu", torch.float64)
    for trial in range(trials):
        start = initial_state(bench.case.build, trial)
        network = bench.case.build().double()
        network.load_state_dict(start)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        optimizer = torch.optim.Adam(network.parameters(), configuration.learning_rate, eps=eps)
        for rows in stream(7, 0, len(data.train)).split(bench.case.batch):
            optimizer.zero_grad()
            penalty = sum(p.square().sum() for p in network.parameters() if p.dim() > 1)
            loss = F.cross_entropy(network(data.inputs(data.train, rows)), data.train.labels[rows])
            (loss + configuration.l2 / 2 * penalty).backward()
            optimizer.step()
        mine, theirs = trainer.weights(trial), dict(network.named_parameters())
        apart = torch.cat([(mine[name].double().cpu() - p.detach()).flatten() for name, p in theirs.items()]).norm()
        moved = torch.cat([(p.detach() - start[name].double()).flatten() for name, p in theirs.items()]).norm()
        worst = max(worst, float(apart / moved))
    return worst


def curve(name: str, bench: Bench) -> None:
    """Print the time that a training step of one trial takes in packs of each width."""
    tune_process(bench.device)
    data = bench.data()
    recipe = make_recipe(bench.case.build, data, TrainingSettings(9, bench.case.batch, precision=bench.case.precision), Penalties())
    rows = torch.arange(bench.case.batch).to(data.device)
    images, labels = data.training_inputs(rows, 0), data.train.labels[rows]
    row = []
    for pack in PACKS:
        seconds = min(seconds_per_trial_step(recipe, images, labels, [CONFIGURATION], pack) for _ in range(3))
        row.append(f"{1e3 * seconds:.3g}")
        if seconds * pack > 3:
            break
    print(f"| {name} | {' | '.join(row)} |", flush=True)


def compare(name: str, bench: Bench, processes: int, repeat: int) -> None:
    """Print a row of speeds and ratios."""
    several = [2, 4, 8] if bench.device != "cpu" else []
    rounds: list[dict[str, float]] = []
    for _ in range(repeat):
        speeds = {peer: measure(peer, bench, processes) for peer in PEERS}
        speeds["packed processes"] = max([measure("careful", bench, n) for n in several], default=speeds["careful"])
        rounds.append(speeds)
    medians = {peer: statistics.median(speeds[peer] for speeds in rounds) for peer in rounds[0]}
    ratios = [statistics.median(speeds["array"] / speeds[peer] for speeds in rounds) for peer in rounds[0] if peer != "array"]
    shown = " | ".join(f"{speed:.3g}" for speed in medians.values())
    print(f"| {name} | {shown} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; those of digits and MNIST if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help="that make an epoch, in place of each case's own number")
    parser.add_argument("--random", action="store_true", help="random images, where no data set is at hand")
    parser.add_argument("--data-root", default=".")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each side works")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--curve", action="store_true", help="time packs of each width instead")
    parser.add_argument("--check", action="store_true", help="compare with plain torch in float64 instead")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = cores if options.device == "cpu" else 1
    names = options.cases or USUAL
    torch.set_num_threads(1)
    cases = {name: replace(CASES[name], sizes=(options.images or CASES[name].sizes[0], CASES[name].sizes[1])) for name in names}
    benches = {name: Bench(cases[name], options.device, options.random, options.data_root, options.seconds) for name in names}
    if options.curve:
        print(f"| ms | {' | '.join(map(str, PACKS))} |\n|{' --- |' * (len(PACKS) + 1)}")
        for name, bench in benches.items():
            curve(name, bench)
        return
    if options.check:
        for name, bench in benches.items():
            print(f"{name}: {difference_from_float64(bench):.1e} from float64 after ten steps, relative to the move", flush=True)
        return
    print("| epochs/s | tutorial | careful | array | careful, packed | array/tutorial | array/careful | array/packed |")
    print(f"|{' --- |' * 8}")
    for name, bench in benches.items():
        compare(name, bench, processes, options.repeat)


if __name__ == "__main__":
    main()
