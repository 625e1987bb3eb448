"""The original configurations of a ready study, trained by a plain torch loop: what their networks are known to reach.

    python benchmarks/recipes.py mnist-l1-l2 --seeds 2
    python benchmarks/recipes.py cifar10-l2 --data folder:PATH

Nothing of sweeper trains here: its loader gives the images and the split, torch.nn, torch.optim and autograd do the rest. Prints
the validation accuracy of each baseline and enqueued configuration, one line a seed, for docs/results.md.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studies.loader import load_study, with_changes
from sweeper.api import default_data_root
from sweeper.job import Job
from sweeper.notation import describe_configuration
from sweeper.search import configuration_of, first_trials, make_job
from sweeper.training.datasets import Data, load_data
from sweeper.training.models import make_builder
from sweeper.trial import Configuration


def loss_of(name: str, logits: Tensor, target: Tensor) -> Tensor:
    """Return torch's mean loss."""
    if name == "mse":
        return F.mse_loss(logits.softmax(1), F.one_hot(target, logits.shape[1]).float())
    return F.multi_margin_loss(logits, target) if name == "hinge" else F.cross_entropy(logits, target)


def train(job: Job, data: Data, c: Configuration, seed: int) -> float:
    """Train one configuration as a tutorial would, and return its validation accuracy in the last epoch."""
    torch.manual_seed(seed)
    settings = job.training
    network = make_builder(job.model, data.input_shape, data.classes)()
    weighted = False
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = c.dropout_rate("dense" if weighted else "input") or 0.0
        weighted = weighted or isinstance(layer, nn.Conv2d | nn.Linear)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(network.parameters(), c.learning_rate, c.momentum)
    else:
        optimizer = torch.optim.Adam(network.parameters(), c.learning_rate)
    scheduler = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs) if settings.schedule.name == "cosine" else None
    )
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    scope = job.penalties.l2.scope
    squared = [p for name, p in weights.items() if scope == ("weights",) or name.removesuffix(".weight") in scope]
    for epoch in range(1, settings.epochs + 1):
        network.train()
        for rows in torch.randperm(len(data.train)).split(settings.batch_size):
            logits, target = network(data.inputs(data.train, rows)), data.train.labels[rows]
            loss = torch.stack([weight * loss_of(name, logits, target) for name, weight in c.loss_terms]).sum()
            if c.l1 and epoch >= job.penalties.l1.start_epoch:
                loss = loss + c.l1 * torch.stack([w.abs().sum() for w in weights.values()]).sum()
            if c.l2:
                loss = loss + c.l2 / 2 * torch.stack([w.square().sum() for w in squared]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if c.max_norm:
                with torch.no_grad():
                    for w in weights.values():
                        w.copy_(torch.renorm(w, 2, 0, c.max_norm))
        if scheduler:
            scheduler.step()
    network.eval()
    with torch.no_grad():
        parts = torch.arange(len(data.validation)).split(500)
        hits = [(network(data.inputs(data.validation, rows)).argmax(1) == data.validation.labels[rows]).sum() for rows in parts]
    return float(sum(hits)) / len(data.validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--data", help="data set instead of the study's")
    parser.add_argument("--data-root", default=str(default_data_root()))
    parser.add_argument("--epochs", type=int, help="instead of the study's")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    spec = load_study(options.study)
    if options.data:
        spec = with_changes(spec, data=spec.data.model_dump() | {"name": options.data})
    if options.epochs:
        penalties = spec.penalties.model_dump()
        for settings in penalties.values():  # what acts late acts in the last epoch
            settings["start_epoch"] = min(settings["start_epoch"], options.epochs)
        spec = with_changes(spec, training=spec.training.model_dump() | {"epochs": options.epochs}, penalties=penalties)
    torch.set_num_threads(1)
    job = make_job(spec, "cpu", 1, data_root=options.data_root)
    data = load_data(job.data)
    for params, role in first_trials(spec):
        configuration = configuration_of(params, spec)
        for seed in range(options.seeds):
            accuracy = train(job, data, configuration, seed)
            print(f"{options.study}  {role}  seed {seed}  {accuracy:.2%}  {describe_configuration(configuration)}", flush=True)


if __name__ == "__main__":
    main()
