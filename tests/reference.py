"""The same training by torch.nn, torch.optim and published formulas alone: what the array is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.job import Penalties, PenaltySettings, TrainingSettings
from sweeper.training.datasets import Data
from sweeper.training.models import initial_state
from sweeper.training.trainer import stream
from sweeper.trial import Configuration, Run, derive_seed

STREAM = 7
NO_SETTINGS = Penalties()


def torch_losses(name: str, logits: Tensor, target: Tensor, c: Configuration) -> Tensor:
    """A loss per sample: torch.nn.functional's where it has it, else the paper's formula."""
    one_hot = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    match name:
        case "mse":
            return F.mse_loss(logits.softmax(1), one_hot, reduction="none").mean(1)
        case "hinge":
            return F.multi_margin_loss(logits, target, reduction="none")
        case "squared_hinge":
            return F.multi_margin_loss(logits, target, p=2, reduction="none")
        case "square":  # Hui & Belkin 2020
            scale = 1 + (c.square_k - 1) * one_hot
            return (scale * (logits - c.square_m * one_hot) ** 2).sum(1) / logits.shape[1]
        case "focal":  # Lin et al. 2017, equation 4
            p = (logits.softmax(1) * one_hot).sum(1)
            return -((1 - p) ** c.focal_gamma) * p.log()
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=c.label_smoothing)


def torch_loss(logits: Tensor, target: Tensor, c: Configuration, class_weights: Tensor | None = None) -> Tensor:
    """The mean over a batch of a configuration's loss; with class weights, a weighted one as torch's of cross-entropy is."""
    weights = torch.ones_like(logits[0]) if class_weights is None else class_weights
    means = []
    for name, weight in c.loss_terms:
        if name == "cross_entropy":
            mean = F.cross_entropy(logits, target, weight=class_weights, label_smoothing=c.label_smoothing)
        else:
            mean = (torch_losses(name, logits, target, c) * weights[target]).sum() / weights[target].sum()
        means.append(weight * mean)
    return torch.stack(means).sum()


def in_scope(module: nn.Module, settings: PenaltySettings) -> list[nn.Parameter]:
    found = []
    for name, parameter in module.named_parameters():
        is_weight = parameter.dim() > 1
        named = any(fnmatchcase(name.rpartition(".")[0], pattern) for pattern in settings.scope)
        if settings.scope == ("all",) or (is_weight and (named or settings.scope == ("weights",))):
            found.append(parameter)
    return found


def strength(value: float, settings: PenaltySettings, epoch: int, train_size: int) -> float:
    """The strength of a penalty in an epoch, from 1."""
    value /= train_size if settings.per_sample else 1
    since = epoch - settings.start_epoch + 1
    return 0.0 if since < 1 else value * min(1.0, since / settings.warmup_epochs) if settings.warmup_epochs else value


def torch_optimizer(module: nn.Module, s: TrainingSettings, c: Configuration) -> torch.optim.Optimizer:
    parameters = list(module.parameters())
    match s.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, c.learning_rate, momentum=c.momentum, nesterov=s.nesterov and c.momentum > 0)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, c.learning_rate, alpha=s.alpha, eps=s.eps, momentum=c.momentum)
    return torch.optim.AdamW(parameters, c.learning_rate, (s.beta1, s.beta2), s.eps, weight_decay=0.0)


def torch_scheduler(
    optimizer: torch.optim.Optimizer, s: TrainingSettings, c: Configuration, epochs: int, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    schedule, module = s.schedule, torch.optim.lr_scheduler
    match schedule.name:
        case "step":
            return module.StepLR(optimizer, schedule.every, schedule.factor)
        case "cosine":
            return module.CosineAnnealingLR(optimizer, epochs, schedule.minimum)
        case "one_cycle":
            return module.OneCycleLR(
                optimizer, c.learning_rate, total_steps=epochs * steps, pct_start=schedule.warmup_share,
                div_factor=schedule.initial_divisor, final_div_factor=schedule.final_divisor, cycle_momentum=False,
            )  # fmt: skip
    return None


def train_plainly(
    build: Callable[[], nn.Module],
    data: Data,
    run: Run,
    settings: TrainingSettings,
    penalties: Penalties = NO_SETTINGS,
    *,
    start: int = 0,
    epochs: int | None = None,
    class_weights: Tensor | None = None,
    state: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Train a run from its seed as an ordinary script would, on the stream's epochs from `start` on; return its network."""
    c = run.configuration
    module = build().to(data.dtype)
    module.load_state_dict(initial_state(build, run.seed) if state is None else state)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout) and c.dropout is not None:
            layer.p = c.dropout
    optimizer = torch_optimizer(module, settings, c)
    steps = -(-len(data.train) // settings.batch_size)
    scheduler = torch_scheduler(optimizer, settings, c, run.epochs, steps)
    l1, l2, decay = (in_scope(module, s) for s in (penalties.l1, penalties.l2, penalties.weight_decay))
    limited = [p for p in in_scope(module, penalties.max_norm) if p.dim() > 1]
    for epoch in range(run.epochs if epochs is None else epochs):
        l1_now, l2_now, decay_now, limit = (
            strength(getattr(c, name), getattr(penalties, name), epoch + 1, len(data.train))
            for name in ("l1", "l2", "weight_decay", "max_norm")
        )
        changes = derive_seed("augmentation", STREAM, start + epoch)
        for rows in stream(STREAM, start + epoch, len(data.train)).split(settings.batch_size):
            loss = torch_loss(module(data.training_inputs(rows, changes)), data.train.labels[rows], c, class_weights)
            if l1_now and not penalties.l1.proximal:
                loss = loss + l1_now * sum(p.abs().sum() for p in l1)
            if l2_now:
                loss = loss + l2_now / 2 * sum(p.square().sum() for p in l2)
            optimizer.zero_grad()
            loss.backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
            rate = optimizer.param_groups[0]["lr"]
            with torch.no_grad():
                for p in decay:
                    p.mul_(1 - rate * decay_now)
                optimizer.step()
                if l1_now and penalties.l1.proximal:
                    for p in l1:
                        p.copy_(F.softshrink(p, rate * l1_now))
                if limit:
                    for p in limited:
                        p.copy_(torch.renorm(p.flatten(1), 2, 0, limit).view_as(p))
            if scheduler is not None and settings.schedule.name == "one_cycle":
                scheduler.step()
        if scheduler is not None and settings.schedule.name != "one_cycle":
            scheduler.step()
    return module


def assert_same_network(mine: dict[str, Tensor], module: nn.Module, tolerance: float = 1e-8) -> None:
    """Compare a slot's parameters and statistics with a module's."""
    theirs = dict(module.named_parameters()) | {n: b for n, b in module.named_buffers() if b.dim() > 0}
    assert {name for name in mine if mine[name].dim() > 0} == set(theirs)
    for name, tensor in theirs.items():
        difference = float((mine[name] - tensor.detach()).abs().max())
        assert difference < tolerance, f"{name}: {difference}"


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its squared standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    return float(x.mean()), float(x.var() / len(x))
