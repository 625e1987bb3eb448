"""Studies that nobody trained, for the report: as large as wanted in a second, with trials in every state."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage.engine import open_database
from storage.tables import EPOCHS
from storage.trials import TrialStorage
from studies.spec import StudySpec
from sweeper.results import SPEC_ATTR, VERSIONS_ATTR
from sweeper.search import configuration_of, distributions, first_trials

BEGUN = datetime(2026, 1, 2, 3, 4, 5)


def make_up_study(spec: StudySpec, url: str, *, finished: int | None = None, slots: int = 16) -> None:
    """Write a study of `spec.trials` trials, of which so many (all, if left out) have ended and the others run or wait."""
    storage = TrialStorage(open_database(url))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize")
    study.set_user_attr(SPEC_ATTR, spec.model_dump_json())
    study.set_user_attr(VERSIONS_ATTR, {"python": "3.11", "sweeper": "0"})
    plan = {"width": slots // 2, "pack": 4, "measured": {}, "reason": "made up"}
    study.set_user_attr("plans", {str(worker): {"asked": [], "plan": plan} for worker in range(2)})
    with storage.deferred():
        for trial, curve in _trials(spec, spec.trials if finished is None else finished, slots):
            trial_id = storage.create_new_trial(study._study_id, trial)
            for epoch, (train, validation) in enumerate(curve, start=1):
                storage.record(
                    trial_id, EPOCHS, run=0, epoch=epoch, train_loss=1 - train, train_accuracy=train,
                    validation_loss=1 - validation, validation_accuracy=validation, weight_norm=10.0, zero_weights=0.0, seconds=1.0,
                )  # fmt: skip
    storage.close()


def _trials(spec: StudySpec, finished: int, slots: int) -> Iterator[tuple[FrozenTrial, list[tuple[float, float]]]]:
    draw = np.random.default_rng(spec.seed)
    known = distributions(spec)
    first = list(first_trials(spec))
    epochs, free_at = spec.training.epochs, [0.0] * slots
    for number in range(spec.trials):
        params, role = first[number] if number < len(first) else ({}, "")
        if not params:
            for name, asked in known.items():
                if spec.search.has(name, params):
                    params[name] = _drawn(asked, draw)
        top = _reached(configuration_of(params, spec), draw)
        state = TrialState.COMPLETE
        if number >= finished:
            state = TrialState.RUNNING if number < finished + slots else TrialState.WAITING
        elif not role and number % 37 == 5:
            state = TrialState.FAIL
        elif not role and top < 0.93 + 0.02 * draw.random():
            state = TrialState.PRUNED
        length = {TrialState.COMPLETE: epochs, TrialState.FAIL: 2, TrialState.WAITING: 0}.get(
            state, max(1, epochs // (3 if top > 0.9 else 9))
        )
        curve = []
        for epoch in range(1, length + 1):
            risen = 1 - math.exp(-6 * epoch / epochs)
            validation = round(float(np.clip(0.1 + (top - 0.1) * risen + draw.normal(0, 0.004), 0, 1)), 5)
            curve.append((min(1.0, validation + 0.06 * risen), validation))
        slot = int(np.argmin(free_at))
        begin, free_at[slot] = free_at[slot], free_at[slot] + length * (1 + 0.1 * draw.random())
        ended = free_at[slot]
        if state == TrialState.RUNNING:
            free_at[slot] = math.inf
        facts = {"train_accuracy": curve[-1][0], "worker": 2 * slot // slots} if state.is_finished() else {}
        facts |= {"reason": "diverged in epoch 2: training loss nan"} if state == TrialState.FAIL else {}
        facts |= {role: True} if role else {}
        trial = create_trial(
            state=TrialState.COMPLETE, value=0.0, params=params, distributions={name: known[name] for name in params},
            user_attrs=json.loads(json.dumps(facts)),
            intermediate_values={e: v for e, (_, v) in enumerate(curve, 1)},
        )  # fmt: skip
        trial.state = state
        trial.values = [curve[-1][1]] if state == TrialState.COMPLETE else None
        waits = state == TrialState.WAITING
        trial.datetime_start = None if waits else BEGUN + timedelta(seconds=begin)
        trial.datetime_complete = BEGUN + timedelta(seconds=ended) if state.is_finished() else None
        if waits:
            trial.params, trial.distributions = {}, {}
        yield trial, curve


def _drawn(asked: BaseDistribution, draw: np.random.Generator) -> float | str:
    if isinstance(asked, CategoricalDistribution):
        chosen: float | str = asked.choices[draw.integers(len(asked.choices))]  # type: ignore[assignment]
        return chosen
    assert isinstance(asked, FloatDistribution)
    low, high = asked.low, asked.high
    return float(low * (high / low) ** draw.random() if asked.log else draw.uniform(low, high))


def _reached(configuration: object, draw: np.random.Generator) -> float:
    """Return an accuracy that is best in the middle of each regularizer and falls to chance where it is strong."""
    l1, l2, dropout = (getattr(configuration, name) or 0.0 for name in ("l1", "l2", "dropout"))
    top = 0.9 + 0.02 * math.exp(-((math.log10(l2 + 1e-9) + 3) ** 2)) + 0.03 * math.exp(-(((dropout - 0.45) / 0.2) ** 2))
    top += {"mse": -0.005, "hinge": -0.01}.get(str(getattr(configuration, "loss", "")), 0.0)
    top -= 0.85 / (1 + (2e-3 / (l1 + 1e-12)) ** 2) + 0.85 / (1 + (3e-2 / (l2 + 1e-12)) ** 3)
    return float(np.clip(top + draw.normal(0, 0.012), 0.1, 0.995))
