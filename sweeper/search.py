"""From a study's spec to what Optuna and the workers need: suggestions, baselines, runs, jobs."""

from __future__ import annotations

from typing import Any

from optuna.trial import Trial

from studies.spec import StudySpec
from sweeper.trial import ArrayPlan, Configuration, DataSettings, Job, Layer, Run, TrainingSettings, derive_seed


def suggest(trial: Trial, spec: StudySpec) -> Configuration:
    """Ask Optuna for one configuration, in the spec's order, and return what it trains with."""
    values: dict[str, float] = {}
    for name in ("l1", "l2", "dropout"):
        setting = getattr(spec.search, name)
        if name in spec.search.ranges:
            values[name] = setting.effective(trial.suggest_float(name, setting.low, setting.high, log=setting.log))
        else:
            values[name] = setting
    losses = spec.search.losses
    loss = trial.suggest_categorical("loss", losses) if isinstance(spec.search.loss, list) else losses[0]
    return Configuration(**values, loss=loss, learning_rate=spec.training.learning_rate)


def configuration_of(params: dict[str, Any], spec: StudySpec) -> Configuration:
    """Return what a finished trial with these parameters trained with."""
    values = {name: getattr(spec.search, name) for name in ("l1", "l2", "dropout")}
    values |= {name: r.effective(params[name]) for name, r in spec.search.ranges.items()}
    loss = params.get("loss", spec.search.losses[0])
    return Configuration(**values, loss=loss, learning_rate=spec.training.learning_rate)


def baselines(spec: StudySpec) -> list[dict[str, Any]]:
    """Return the parameters of the baseline, one for each loss: the low end of each range, where nothing is regularized."""
    lows: dict[str, Any] = {name: r.low for name, r in spec.search.ranges.items()}
    if isinstance(spec.search.loss, list):
        return [lows | {"loss": loss} for loss in spec.search.loss]
    return [lows]


def make_run(number: int, configuration: Configuration, spec: StudySpec) -> Run:
    """Return the run of a trial; its seed depends on the study's seed and the trial's number only."""
    return Run(number, configuration, derive_seed(spec.seed, "run", number), spec.training.epochs)


def make_job(spec: StudySpec, device: str, most_slots: int, plan: ArrayPlan | None = None) -> Job:
    """Return what a worker on this device is given before its first run."""
    data, training = spec.data, spec.training
    return Job(
        data=DataSettings(data.name, data.train_size, data.validation_size, data.test_size, data.label_noise, data.split_seed),
        layers=tuple(Layer(layer.kind, layer.units, layer.kernel, layer.padding) for layer in spec.model.parsed),
        training=TrainingSettings(training.epochs, training.batch_size),
        stream_seed=derive_seed(spec.seed, "stream"),
        device=device,
        width=spec.array.width,
        pack=spec.array.pack,
        most_slots=most_slots,
        plan=plan,
    )
