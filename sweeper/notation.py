"""How numbers, names and configurations are written, in the report and on the terminal alike."""

from __future__ import annotations

import math
import re

from studies.objectives import Objective
from studies.spec import StudySpec
from sweeper.trial import Configuration

LOSS_NAMES = {
    "cross_entropy": "cross-entropy",
    "mse": "MSE",
    "square": "square loss",
    "squared_hinge": "squared hinge",
}
HYPERPARAMETER_NAMES = {
    "l1": "λ₁",
    "l2": "λ₂",
    "elastic_net": "elastic net",
    "l1_ratio": "L1 ratio",
    "weight_decay": "weight decay",
    "max_norm": "max-norm",
    "dropout": "dropout",
    "dropout_input": "input dropout",
    "dropout_conv": "conv dropout",
    "dropout_dense": "dense dropout",
    "label_smoothing": "label smoothing",
    "focal_gamma": "focal γ",
    "square_k": "square k",
    "square_m": "square M",
    "learning_rate": "learning rate",
}
ALWAYS_SAID = ("l1", "l2", "dropout")
SAID_IF_APPLIED = ("weight_decay", "max_norm", "dropout_input", "dropout_conv", "dropout_dense", "label_smoothing")


def percent(share: float | None, decimals: int = 2) -> str:
    """Return a share as a percentage."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.{decimals}f} %"


def points(difference: float | None) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    return "–" if difference is None or math.isnan(difference) else f"{100 * difference:+.2f} points".replace("-", "−")


def metric_value(objective: Objective, value: float | None, decimals: int = 2) -> str:
    """Return a value of what a study is after: a percentage, or a number of two digits more than that has decimals."""
    if objective.is_share or value is None or math.isnan(value):
        return percent(value, decimals)
    return f"{value:.{2 + decimals}g}".replace("-", "−")


def metric_change(objective: Objective, difference: float | None) -> str:
    """Return a difference of two such values with its sign: percentage points, or a number of three digits."""
    if objective.is_share or difference is None or math.isnan(difference):
        return points(difference)
    return f"{difference:+.3g}".replace("-", "−")


def metric_amount(objective: Objective, difference: float) -> str:
    """Return the size of a difference of two such values."""
    return metric_change(objective, abs(difference)).lstrip("+")


def strength(value: float | None) -> str:
    """Return a regularization strength: 'none' for exactly 0, 'as built' for a dropout rate that was left to the network."""
    if value is None:
        return "as built"
    return "–" if math.isnan(value) else re.sub(r"e([+-])0", r"e\1", f"{float(f'{value:.2g}'):g}") if value else "none"


def describe_seconds(seconds: float) -> str:
    """Return a time span as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def baseline_name(spec: StudySpec) -> str:
    """Return what a study's baselines are called."""
    return "no regularization" if spec.baseline_is_bare else "no searched regularization"


def loss_name(loss: str) -> str:
    """Return a loss, or a mixture of losses, as people write it."""
    return re.sub(r"[a-z_]+", lambda name: LOSS_NAMES.get(name[0], name[0]), loss)


def hyperparameter_name(name: str) -> str:
    """Return a hyperparameter as people write it."""
    if name.startswith("mix_"):
        return f"weight of {loss_name(name.removeprefix('mix_'))}"
    return HYPERPARAMETER_NAMES.get(name, name.replace("_", " "))


def describe_configuration(configuration: Configuration) -> str:
    """Return the regularization and the loss of a configuration in one line."""
    said = [name for name in ALWAYS_SAID if getattr(configuration, name) is not None]
    names = [*said, *(name for name in SAID_IF_APPLIED if getattr(configuration, name))]
    parts = [f"{hyperparameter_name(name)} {strength(getattr(configuration, name))}" for name in names]
    if configuration.loss_weights:
        loss = " + ".join(f"{weight:.2g} {loss_name(name)}" for name, weight in configuration.loss_weights)
    else:
        loss = loss_name(configuration.loss)
    return ", ".join([*parts, loss])
