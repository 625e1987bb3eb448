"""The demo's study by an ordinary Optuna script and by sweeper, in one run.

    python benchmarks/against_optuna.py [--model cnn|mlp] [--trials 120] [--repeat 1]

The peer is a careful script: the same data, network, losses, search space, sampler, pruner and epochs; one process a core with one
thread each; tensors in memory; L2 by the optimizer's weight decay, torch's fused Adam; one SQLite file. Both sides are timed from
the start of their processes to the last finished trial. Epochs a second are those of the same span.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from studies.loader import load_study, with_changes
from studies.spec import StudySpec
from sweeper.devices import core_count

MLP = {"layers": ["dense 64", "dropout"]}


@dataclass(frozen=True)
class Outcome:
    """What one side did."""

    seconds: float
    trials: int
    epochs: int
    pruned: int
    best: float

    @property
    def trials_a_minute(self) -> float:
        return 60 * self.trials / self.seconds

    @property
    def epochs_a_second(self) -> float:
        return self.epochs / self.seconds


def peer_worker(spec: StudySpec, url: str, seed: int, trials: int) -> None:
    """One process of the ordinary script."""
    import optuna
    import torch
    import torch.nn.functional as F

    from sweeper.search import make_job
    from sweeper.training.datasets import load_data
    from sweeper.training.models import build_network

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    job = make_job(spec, "cpu", 1)
    data = load_data(job.data)
    train, validation = data.train, data.validation

    def objective(trial: optuna.Trial) -> float:
        searched = {
            name: r.effective(trial.suggest_float(name, r.low, r.high, log=r.log)) for name, r in spec.search.ranges.items()
        }
        kind = trial.suggest_categorical("loss", spec.search.losses)
        torch.manual_seed(trial.number)
        network = build_network(job.layers, data.input_shape, data.classes)
        for layer in network:
            if isinstance(layer, torch.nn.Dropout):
                layer.p = searched["dropout"]
        weights = [p for p in network.parameters() if p.ndim > 1]
        biases = [p for p in network.parameters() if p.ndim == 1]
        groups = [{"params": weights, "weight_decay": searched["l2"]}, {"params": biases}]
        optimizer = torch.optim.Adam(groups, spec.training.learning_rate, fused=True)
        accuracy = 0.0
        for epoch in range(1, spec.training.epochs + 1):
            network.train()
            for rows in torch.randperm(len(train)).split(spec.training.batch_size):
                logits, target = network(train.images[rows]), train.labels[rows]
                if kind == "mse":
                    loss = F.mse_loss(logits.softmax(1), F.one_hot(target, data.classes).float())
                elif kind == "hinge":
                    loss = F.multi_margin_loss(logits, target)
                else:
                    loss = F.cross_entropy(logits, target)
                if searched["l1"]:
                    loss = loss + searched["l1"] * sum(w.abs().sum() for w in weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            network.eval()
            with torch.inference_mode():
                accuracy = (network(validation.images).argmax(1) == validation.labels).float().mean().item()
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    pruner = optuna.pruners.SuccessiveHalvingPruner(spec.pruner.min_epochs, spec.pruner.reduction_factor)
    study = optuna.load_study(study_name="peer", storage=url, sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    study.optimize(objective, n_trials=trials)


def run_peer(spec: StudySpec, folder: Path, processes: int) -> Outcome:
    """Run the ordinary script."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{folder / 'peer.db'}"
    begun = time.perf_counter()
    study = optuna.create_study(study_name="peer", storage=url, direction="maximize")
    context = multiprocessing.get_context("spawn")
    shares = [spec.trials // processes + (i < spec.trials % processes) for i in range(processes)]
    workers = [context.Process(target=peer_worker, args=(spec, url, spec.seed + i, share)) for i, share in enumerate(shares)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcome(time.perf_counter() - begun, study)


def run_sweeper(spec: StudySpec, folder: Path) -> Outcome:
    """Run the same study by sweeper."""
    import optuna

    from sweeper.api import run_study

    url = f"sqlite:///{folder / 'sweeper.db'}"
    begun = time.perf_counter()
    run_study(spec, storage=url, runs=folder / "runs", devices=["cpu"] * core_count())
    return outcome(time.perf_counter() - begun, optuna.load_study(study_name=spec.name, storage=url))


def outcome(seconds: float, study: object) -> Outcome:
    """Read what a study in its database came to."""
    trials = study.trials  # type: ignore[attr-defined]
    complete = [t.value for t in trials if t.state.name == "COMPLETE"]
    return Outcome(
        seconds,
        len(trials),
        sum(len(t.intermediate_values) for t in trials),
        sum(t.state.name == "PRUNED" for t in trials),
        max(complete),
    )


def main() -> None:
    """Run both sides, in turn, and print what they did and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["cnn", "mlp"], default="cnn")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    spec = with_changes(load_study("digits"), trials=options.trials, model=MLP if options.model == "mlp" else None)
    cores = core_count()
    print(f"digits, {options.model}: {', '.join(spec.model.layers)}; {spec.trials} trials, {cores} processes a side")
    print(f"{'':>8} {'seconds':>8} {'trials':>7} {'epochs':>7} {'pruned':>7} {'best':>8} {'trials/min':>11} {'epochs/s':>9}")
    ratios: list[tuple[float, float]] = []
    for repeat in range(options.repeat):
        spec = with_changes(spec, seed=repeat)
        with tempfile.TemporaryDirectory() as folder:
            peer, ours = run_peer(spec, Path(folder), cores), run_sweeper(spec, Path(folder))
        for name, side in (("optuna", peer), ("sweeper", ours)):
            print(
                f"{name:>8} {side.seconds:8.1f} {side.trials:7} {side.epochs:7} {side.pruned / side.trials:7.0%} {side.best:8.2%} "
                f"{side.trials_a_minute:11.0f} {side.epochs_a_second:9.1f}"
            )
        ratios.append((ours.trials_a_minute / peer.trials_a_minute, ours.epochs_a_second / peer.epochs_a_second))
    trials, epochs = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"median ratio: {trials:.2f} times the trials a minute, {epochs:.2f} times the epochs a second")


if __name__ == "__main__":
    main()
