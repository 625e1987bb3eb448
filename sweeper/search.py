"""From a study's spec to what Optuna and the workers need: suggestions, first trials, runs, jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import Trial

from studies.data import DataSpec, NormalizeSpec
from studies.objectives import OBJECTIVES
from studies.search import loss_terms
from studies.section import ChoicesSpec, Number
from studies.spec import StudySpec
from studies.training import PenaltySpec
from sweeper.job import (
    ArrayPlan,
    Augmentation,
    DataSettings,
    Job,
    Layer,
    ModelSettings,
    Penalties,
    PenaltySettings,
    Schedule,
    TrainingSettings,
)
from sweeper.trial import Configuration, Run, derive_seed

FIELDS = tuple(field.name for field in fields(Configuration) if field.name not in ("loss", "loss_weights"))


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Return what Optuna is asked for, by name: numbers that every trial has, choices, numbers that go with a choice."""
    search = spec.search
    numbers: dict[str, BaseDistribution] = {name: _distribution(searched) for name, searched in search.ranges.items()}
    choices = {name: CategoricalDistribution(options) for name, options in search.choices.items()}
    conditional = {name: numbers.pop(name) for name in search.conditional}
    return numbers | choices | conditional


def _distribution(searched: Number) -> BaseDistribution:
    if isinstance(searched, ChoicesSpec):
        return CategoricalDistribution(searched.root)
    return FloatDistribution(searched.low, searched.high, log=searched.log, step=searched.step)


def suggest(trial: Trial, spec: StudySpec) -> Configuration:
    """Ask Optuna for one configuration, in the order of `distributions`, and return what it trains with."""
    params: dict[str, Any] = {}  # `trial.params` is copied at each look
    for name, distribution in distributions(spec).items():
        if not spec.search.has(name, params):
            continue
        if isinstance(distribution, CategoricalDistribution):
            params[name] = trial.suggest_categorical(name, distribution.choices)
        elif isinstance(distribution, FloatDistribution):
            low, high = distribution.low, distribution.high
            params[name] = trial.suggest_float(name, low, high, log=distribution.log, step=distribution.step)
    return configuration_of(params, spec)


def configuration_of(params: dict[str, Any], spec: StudySpec) -> Configuration:
    """Return what a trial with these parameters trains with."""
    search = spec.search
    values = searched_values(params, spec)
    settings = {name: getattr(search, name) for name in (*search.REGULARIZERS, *search.OTHERS)}
    settings |= {name: getattr(spec.training, name) for name in ("learning_rate", "momentum")}
    settings |= {name: search.OTHERS.get(name, 0.0) for name in settings if not search.has(name, params)}
    settings |= values
    elastic_net, ratio = settings.pop("elastic_net"), settings.pop("l1_ratio")
    if elastic_net:
        settings |= {"l1": elastic_net * ratio, "l2": elastic_net * (1.0 - ratio)}
    loss = params.get("loss", search.losses[0])
    terms = loss_terms(loss)
    weights = [term.weight if term.weight is not None else values.get(f"mix_{term.loss}", 1.0) for term in terms]
    if any(term.weight is None for term in terms):  # searched weights count by their proportion
        weights = [w / total for w in weights] if (total := sum(weights)) > 0 else [1.0 / len(weights)] * len(weights)
    mixture = tuple((term.loss, weight) for term, weight in zip(terms, weights, strict=True)) if len(terms) > 1 else ()
    return Configuration(loss=loss, loss_weights=mixture, **{name: settings[name] for name in FIELDS})


def searched_values(params: dict[str, Any], spec: StudySpec) -> dict[str, float]:
    """Return the searched numbers among a trial's parameters as they take effect: 0 for a value that stands for none."""
    return {name: searched.effective(params[name]) for name, searched in spec.search.ranges.items() if name in params}


def is_complete(params: Mapping[str, Any], spec: StudySpec) -> bool:
    """Whether these are all parameters that a trial needs: those of one that waits to be asked for are not."""
    search = spec.search
    chosen = all(name in params for name in search.choices)
    return chosen and all(name in params for name in search.ranges if search.has(name, params))


def baselines(spec: StudySpec) -> list[dict[str, Any]]:
    """Return the parameters of the baseline, one for each loss: no searched regularization at all."""
    return [spec.baseline_params(loss) for loss in spec.search.losses]


def first_trials(spec: StudySpec) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the parameters of the trials that come before any proposed one, and what they are: `baseline` or `enqueued`."""
    known = baselines(spec)
    yield from ((params, "baseline") for params in known)
    for values in spec.enqueue:
        params = spec.enqueued_params(values)
        if params not in known:
            known.append(params)
            yield params, "enqueued"


def samples(spec: StudySpec) -> tuple[Configuration, ...]:
    """Return configurations like those that will be proposed, one for each loss: the middle of every range, all penalties."""
    choices = {name: max(options, key=len) for name, options in spec.search.choices.items()}
    middle = {name: searched.middle for name, searched in spec.search.ranges.items()}
    return tuple(configuration_of(middle | choices | {"loss": loss}, spec) for loss in spec.search.losses)


def run_seed(seed: int, trial: int, run: int = 0) -> int:
    """Return the seed of a run of a trial in the search; it depends on the study's seed and on these numbers only."""
    return derive_seed(seed, "run", trial, *([run] if run else []))


def make_run(number: int, configuration: Configuration, spec: StudySpec, checkpoint: bytes | None = None) -> Run:
    """Return the run of a trial."""
    return Run(number, configuration, run_seed(spec.seed, number), spec.trial_epochs, checkpoint)


def make_job(
    spec: StudySpec, device: str, most_slots: int, plan: ArrayPlan | None = None, data_root: str = ".", stream_epoch: int = 0
) -> Job:
    """Return what a worker on this device is given before its first run."""
    training = spec.training.model_dump(exclude={"learning_rate", "momentum", "schedule", "class_weights"})
    weights = spec.training.class_weights
    return Job(
        data=_data_settings(spec.data, data_root),
        model=ModelSettings(
            tuple(Layer(**layer.model_dump()) for layer in spec.model.parsed), spec.model.name, dict(spec.model.options)
        ),
        training=TrainingSettings(
            **training,
            schedule=Schedule(**spec.training.schedule.model_dump()),
            monitor_minimized=OBJECTIVES[spec.training.monitor].minimized,
            objectives=tuple(spec.objectives),
            measure=tuple(spec.metrics),
            class_weights=tuple(weights) if isinstance(weights, list) else None if weights == "none" else weights,
        ),
        stream_seed=derive_seed(spec.seed, "stream"),
        stream_epoch=stream_epoch,
        penalties=Penalties(
            l1=_penalty_settings(spec.penalties.l1, spec.penalties.l1.scale, spec.penalties.l1.method),
            l2=_penalty_settings(spec.penalties.l2, spec.penalties.l2.scale),
            weight_decay=_penalty_settings(spec.penalties.weight_decay),
            max_norm=_penalty_settings(spec.penalties.max_norm),
        ),
        device=device,
        width=spec.array.width,
        pack=spec.array.pack,
        strategy=spec.array.strategy,
        most_slots=most_slots * spec.data.together,
        together=spec.data.together,
        plan=plan,
        samples=samples(spec),
    )


def _data_settings(data: DataSpec, root: str) -> DataSettings:
    table = data.normalize if isinstance(data.normalize, NormalizeSpec) else NormalizeSpec()
    return DataSettings(
        name=data.name,
        train_size=data.train_size,
        validation_size=data.validation_size,
        test_size=data.test_size,
        label_noise=data.label_noise,
        split_seed=data.split_seed,
        folds=data.folds or 0,
        fold_repeats=data.fold_repeats,
        standardize=data.normalize == "standard",
        mean=table.means,
        std=table.stds,
        augmentation=Augmentation(**data.augment.model_dump()),
        image_size=data.image_size,
        root=root,
    )


def _penalty_settings(spec: PenaltySpec, scale: str = "sum", method: str = "") -> PenaltySettings:
    return PenaltySettings(
        scope=tuple(spec.scope) if isinstance(spec.scope, list) else (spec.scope,),
        per_sample=scale == "mean",
        start_epoch=spec.start_epoch,
        warmup_epochs=spec.warmup_epochs,
        proximal=method == "proximal",
    )
