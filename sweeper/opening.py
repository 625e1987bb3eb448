"""Opens a study to work on it: made or continued, begun warm, with its spec and its note, which the dashboard shows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.study import StudyDirection

from storage import requests
from storage.checkpoints import UID_ATTR, checkpoint_folder, claim, is_uid, new_uid, take_along
from storage.queries import checkpoints
from storage.trials import TrialStorage
from studies.loader import with_changes
from studies.objectives import OBJECTIVES
from studies.spec import StudySpec
from sweeper.budget import extended
from sweeper.errors import NoSuchResult, OutputError, StudyChanged
from sweeper.events import event
from sweeper.results import SPEC_ATTR, Results
from sweeper.words import findings, what_it_runs

ANSWER_FILES = ("best.json", "report.html")
SIGNATURE = "*Written by sweeper. A note of your own in its place is kept.*"

log = logging.getLogger(__name__)


def open_study(spec: StudySpec, database: TrialStorage) -> optuna.Study:
    """Return the study of this name, made if there is none.

    Raises:
        StudyChanged: it exists, and this spec may not go on with it.
    """
    ways = {True: StudyDirection.MINIMIZE, False: StudyDirection.MAXIMIZE}
    directions = [ways[OBJECTIVES[name].minimized] for name in spec.objectives]
    study = optuna.create_study(study_name=spec.name, storage=database, directions=directions, load_if_exists=True)
    stored = study.user_attrs.get(SPEC_ATTR)
    if not study.get_trials(deepcopy=False):
        return study
    if stored is None:
        raise StudyChanged(f"a study {spec.name!r} exists in this storage that sweeper did not make; give this one another name")
    differences = StudySpec.model_validate_json(stored).differences(spec)
    if differences:
        raise StudyChanged(
            f"study {spec.name!r} exists with another search; give this one another name, or go back to:\n  "
            + "\n  ".join(differences)
        )
    return study


def take_in_requests(spec: StudySpec, study: optuna.Study, database: TrialStorage) -> StudySpec:
    """Return the spec with what was asked of an earlier leader too late for it: more trials, or more time."""
    pending = database.patiently(lambda: requests.pending(database.backend.engine, study._study_id))
    late = [request for request in pending if request.kind != requests.STOP]
    if late:
        spec = extended(spec, late)
        study.set_user_attr(SPEC_ATTR, spec.model_dump_json())
        database.transact(lambda connection: requests.remove(connection, late))
    return spec


def settle_spec(spec: StudySpec, study: optuna.Study) -> StudySpec:
    """Store the spec, its budget at least the trials that there are, and how the study is to be shown."""
    spec = spec.model_copy(update={"trials": max(spec.trials, len(study.get_trials(deepcopy=False)))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([OBJECTIVES[name].label for name in spec.objectives])
    study.set_user_attr(SPEC_ATTR, spec.model_dump_json())
    return spec


def own_checkpoints(study: optuna.Study, database: TrialStorage, runs: Path) -> Path:
    """Return the study's folder of checkpoints, which no other one shares; a study in a copied database gets copies of them.

    Raises:
        OutputError: the folder cannot be made.
    """
    engine, uid = database.backend.engine, study.user_attrs.get(UID_ATTR)
    name, new = study.study_name, new_uid()
    place = Path(engine.url.database or "").resolve() if engine.dialect.name == "sqlite" else engine.url.set(password=None)
    try:
        if is_uid(uid) and claim(there := checkpoint_folder(runs, name, uid), f"{place} {study._study_id}"):
            return there
        folder = checkpoint_folder(runs, name, new)
        claim(folder, f"{place} {study._study_id}")
        if is_uid(uid):
            needed = {checkpoint.file for checkpoint in database.patiently(lambda: checkpoints(engine, study._study_id))}
            take_along(checkpoint_folder(runs, name, uid), folder, needed)
    except OSError as error:
        raise OutputError(f"{error.filename}: checkpoints cannot be kept there: {error.strerror}") from error
    study.set_user_attr(UID_ATTR, new)
    return folder


def set_aside(folder: Path, uid: str) -> None:
    """Keep the answer that a study of this name in another database left in this one's folder.

    Args:
        folder: of the study's files.
        uid: of the study, which no other one has, wherever it is.

    Raises:
        OutputError: nothing can be written there.
    """
    owner = folder / ".study"
    try:
        before = owner.read_text(encoding="utf-8") if owner.exists() else uid
        if before != uid:
            aside = folder / f"before-{before[:8]}"
            aside.mkdir(exist_ok=True)
            for name in ANSWER_FILES:
                if (folder / name).exists():
                    (folder / name).replace(aside / name)
            log.warning("%s held the files of this study in another database, or of another one of its name; see %s", folder, aside)
        owner.write_text(uid, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written: {error.strerror}") from error


def begun_warm(spec: StudySpec, database: TrialStorage) -> StudySpec:
    """Return the spec with the best configurations of the study that it names enqueued; once begun, it keeps those it got.

    Those that do not fit its search are left out, and a warning says which and why.

    Raises:
        NoSuchResult: there is no such study, or none of its trials is complete.
    """
    warm = spec.warm_start
    if warm is None:
        return spec
    if begun := _spec_of_begun(spec.name, database):
        return with_changes(spec, enqueue=[*spec.enqueue, *(values for values in begun.enqueue if values not in spec.enqueue)])
    other = database.patiently(lambda: Results.load(warm.study, database.backend))
    best = other.ranked.head(warm.top)
    if best.empty:
        raise NoSuchResult(f"warm_start: study {warm.study!r} has no complete trial yet")
    fitting: list[dict[str, float | str]] = []
    left_out = []
    for number, row in best.iterrows():
        try:
            fitting.append(_as_enqueued(row, spec))
        except ValueError as error:
            left_out.append(f"trial {number} ({str(error).removeprefix('enqueue: ')})")
    said = f"warm start: {len(fitting)} of the best {len(best)} configurations of {warm.study} are enqueued"
    said += f"; left out: {', '.join(left_out)}" if left_out else ""
    level = logging.WARNING if left_out else logging.INFO
    event(log, "warm_start", said, level=level, study=warm.study, enqueued=len(fitting), left_out=left_out)
    return with_changes(spec, enqueue=[*spec.enqueue, *fitting])


def write_note(study: optuna.Study, spec: StudySpec, results: Results | None = None) -> None:
    """Write the study's note: what it asks and runs, what it found, and its spec; a note of somebody else's stays."""
    from optuna_dashboard import get_note, save_note

    if (there := get_note(study)) and SIGNATURE not in there:
        return
    body = "\n".join(_note(spec, results))
    if body != there:
        save_note(study, body)


def _note(spec: StudySpec, results: Results | None) -> Iterator[str]:
    yield from (f"# {spec.name}", "", spec.description.strip(), "")
    yield from (f"- {line}" for line in what_it_runs(spec))
    if results is not None:
        yield from ("", "## What it found", "", *(f"- {line}" for line in findings(results)))
    spec_text = spec.model_dump_json(indent=2, exclude_defaults=True, exclude={"description"})
    yield from ("", "## Its spec", "", "```json", spec_text, "```", "", SIGNATURE)


def _spec_of_begun(name: str, database: TrialStorage) -> StudySpec | None:
    """Return the stored spec of a study that has trials; None if there is no such study."""
    try:
        study_id = database.get_study_id_from_name(name)
    except KeyError:
        return None
    stored = database.get_study_user_attrs(study_id).get(SPEC_ATTR)
    if stored is None or not database.get_all_trials(study_id, deepcopy=False):
        return None
    return StudySpec.model_validate_json(stored)


def _as_enqueued(row: pd.Series[Any], spec: StudySpec) -> dict[str, float | str]:
    """Return what a trial of another study trained with, as a configuration to enqueue in this one.

    Raises:
        ValueError: it does not fit the search.
    """
    search, values = spec.search, dict[str, float | str]()
    if "loss" in search.choices:
        values["loss"] = str(row["loss"])
    elif row["loss"] != search.losses[0]:
        raise ValueError(f"its loss is {row['loss']}")
    if "penalty" in search.choices:
        values["penalty"] = " + ".join(name for name in ("l1", "l2") if row[name] > 0) or "none"
    for name in search.ranges:
        if not search.has(name, values):
            continue
        known = name in row.index and pd.notna(row[name])
        if not known and name in ("elastic_net", "l1_ratio"):
            raise ValueError(f"it has no {name}")
        if known:
            values[name] = float(row[name])
    spec.enqueued_params(values)
    return values
