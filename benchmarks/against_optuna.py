"""The demo's study by an ordinary Optuna script and by sweeper, in one run.

    python benchmarks/against_optuna.py [--model cnn|mlp] [--trials 120] [--repeat 1]

The peer is a careful script: the same data, network, losses, search space, sampler, pruner and epochs; one process a core with one
thread each; tensors in memory; L2 by the optimizer's weight decay, torch's fused Adam; one SQLite file. Both sides are timed twice,
up to the last finished trial: the whole run, from the start of its processes; and the search alone, from the start of its first
trial, which leaves out imports on both sides and sweeper's planning.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna

from studies.loader import load_study, with_changes
from studies.spec import StudySpec
from sweeper.api import run_study
from sweeper.devices import core_count

MLP = {"layers": ["dense 64", "dropout"]}


@dataclass(frozen=True)
class Outcome:
    """What one side did: `seconds` from the start of its processes, `search_seconds` from its first trial's start."""

    seconds: float
    search_seconds: float
    trials: int
    epochs: int
    pruned: int
    best: float

    def rates(self) -> list[float]:
        """Return trials a minute and epochs a second, of the whole run and of the search alone."""
        return [
            60 * self.trials / self.seconds,
            self.epochs / self.seconds,
            60 * self.trials / self.search_seconds,
            self.epochs / self.search_seconds,
        ]


def peer_worker(spec: StudySpec, url: str, seed: int, trials: int) -> None:
    """One process of the ordinary script."""
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
    images, held_out = data.inputs(train, slice(None)), data.inputs(validation, slice(None))

    def objective(trial: optuna.Trial) -> float:
        searched = {
            name: r.effective(trial.suggest_float(name, r.low, r.high, log=r.log)) for name, r in spec.search.ranges.items()
        }
        kind = trial.suggest_categorical("loss", spec.search.losses)
        torch.manual_seed(trial.number)
        network = build_network(job.model.layers, data.input_shape, data.classes)
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
                logits, target = network(images[rows]), train.labels[rows]
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
                accuracy = (network(held_out).argmax(1) == validation.labels).float().mean().item()
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    pruner = optuna.pruners.SuccessiveHalvingPruner(spec.pruner.min_epochs, spec.pruner.reduction_factor)
    study = optuna.load_study(study_name="peer", storage=url, sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    study.optimize(objective, n_trials=trials)


def run_peer(spec: StudySpec, folder: Path, processes: int) -> Outcome:
    """Run the ordinary script."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{folder / 'peer.db'}"
    begun = datetime.now()
    study = optuna.create_study(study_name="peer", storage=url, direction="maximize")
    context = multiprocessing.get_context("spawn")
    shares = [spec.trials // processes + (i < spec.trials % processes) for i in range(processes)]
    workers = [context.Process(target=peer_worker, args=(spec, url, spec.seed + i, share)) for i, share in enumerate(shares)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcome(begun, study)


def run_sweeper(spec: StudySpec, folder: Path) -> Outcome:
    """Run the same study by sweeper."""
    url = f"sqlite:///{folder / 'sweeper.db'}"
    begun = datetime.now()
    run_study(spec, storage=url, runs=folder / "runs", devices=["cpu"] * core_count(), confirm=False)
    return outcome(begun, optuna.load_study(study_name=spec.name, storage=url))


def outcome(begun: datetime, study: optuna.Study) -> Outcome:
    """Read from its database what a study came to, and when its last trial was finished."""
    trials = study.trials
    end = max(trial.datetime_complete for trial in trials)
    seconds = (end - begun).total_seconds()
    search_seconds = (end - min(trial.datetime_start for trial in trials)).total_seconds()
    complete = [t.value for t in trials if t.state.name == "COMPLETE"]
    return Outcome(
        seconds,
        search_seconds,
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
    rates = "trials/min  epochs/s"
    print(f"{'':>8} {'trials':>7} {'epochs':>7} {'pruned':>7} {'best':>8}   whole: s  {rates}  search: s  {rates}")
    ratios: list[list[float]] = []
    for repeat in range(options.repeat):
        spec = with_changes(spec, seed=repeat)
        with tempfile.TemporaryDirectory() as folder:
            peer, ours = run_peer(spec, Path(folder), cores), run_sweeper(spec, Path(folder))
        for name, side in (("optuna", peer), ("sweeper", ours)):
            whole_trials, whole_epochs, search_trials, search_epochs = side.rates()
            print(
                f"{name:>8} {side.trials:7} {side.epochs:7} {side.pruned / side.trials:7.0%} {side.best:8.2%} {side.seconds:10.1f} "
                f"{whole_trials:11.0f} {whole_epochs:9.1f} {side.search_seconds:10.1f} {search_trials:11.0f} {search_epochs:9.1f}"
            )
        ratios.append([a / b for a, b in zip(ours.rates(), peer.rates(), strict=True)])
    median = [statistics.median(values) for values in zip(*ratios, strict=True)]
    print(f"whole run, median ratio: {median[0]:.2f} times the trials a minute, {median[1]:.2f} times the epochs a second")
    print(f"search alone, median ratio: {median[2]:.2f} times the trials a minute, {median[3]:.2f} times the epochs a second")


if __name__ == "__main__":
    main()
