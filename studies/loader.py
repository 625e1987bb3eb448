"""Finds study files by name or path and reads them; every mistake is told with its key and the nearest right spelling."""

from __future__ import annotations

import difflib
import errno
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from studies.data import UnknownName
from studies.errors import SpecInvalid, StudyUnknown
from studies.section import UNION_TAGS
from studies.spec import StudySpec


def ready_studies() -> dict[str, StudySpec]:
    """Return the studies that come with the package, by name."""
    folder = resources.files("studies") / "ready"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    specs = [parse_study((folder / name).read_text(encoding="utf-8"), name) for name in names]
    return {spec.name: spec for spec in specs}


def load_study(name_or_path: str, settings: Sequence[str] = ()) -> StudySpec:
    """Return a ready study by its name, or the study in a TOML file, some of its values replaced by `KEY=VALUE`.

    Raises:
        StudyUnknown: neither exists; the message lists the ready ones.
        SpecInvalid: the file, or a setting, is wrong.
    """
    folder = resources.files("studies") / "ready"
    ready = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if name_or_path in ready:
        return parse_study((folder / f"{name_or_path}.toml").read_text(encoding="utf-8"), name_or_path, settings)
    try:
        return parse_study(Path(name_or_path).read_text(encoding="utf-8"), name_or_path, settings)
    except UnicodeDecodeError as error:
        raise SpecInvalid(f"{name_or_path}: cannot be read: {error}") from error
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise SpecInvalid(f"{name_or_path}: cannot be read: {error.strerror}") from error
    near = difflib.get_close_matches(name_or_path, ready, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise StudyUnknown(f"no study {name_or_path!r}: neither a file nor a ready study ({', '.join(ready)}){hint}")


def parse_study(text: str, source: str, settings: Sequence[str] = ()) -> StudySpec:
    """Read a study from TOML, some of its values replaced by `KEY=VALUE`; `source` names it in messages.

    Raises:
        SpecInvalid: a line per mistake.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecInvalid(f"{source}: not TOML: {error}") from error
    for setting in settings:
        _set(table, setting)
    try:
        return StudySpec.model_validate(table)
    except ValidationError as error:
        raise SpecInvalid("\n".join(f"{source}: {line}" for line in _lines(error))) from error


def with_changes(spec: StudySpec, **changes: Any) -> StudySpec:
    """Return the spec with top-level values replaced and validated anew; None leaves a value as it is.

    Raises:
        SpecInvalid: a value is not allowed.
    """
    table = spec.model_dump() | {key: value for key, value in changes.items() if value is not None}
    try:
        return StudySpec.model_validate(table)
    except ValidationError as error:
        raise SpecInvalid("\n".join(_lines(error))) from error


def _set(table: dict[str, Any], setting: str) -> None:
    """Replace one value of a study file: `training.epochs=20`. The value is TOML's, or else a text as it stands.

    Raises:
        SpecInvalid: it is no such setting, or a key on the way is no table.
    """
    key, equals, text = setting.partition("=")
    *path, last = (part.strip() for part in key.split("."))
    if not equals or not all([*path, last]):
        raise SpecInvalid(f"{setting}: write KEY=VALUE, for instance training.epochs=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if re.search(r"""[][{}"'=#\n]""", text) or not text.strip():  # what was meant as TOML, not as a text
            raise SpecInvalid(f"{key}: {text!r} is not a value of TOML: {error}") from error
        value = text.strip()
    for place, part in enumerate(path):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SpecInvalid(f"{key}: {'.'.join(path[: place + 1])} is {table!r} in the file, not a table; set it as a whole")
    table[last] = value


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for mistake in error.errors(include_url=False):
        place = [part for part in mistake["loc"] if part not in UNION_TAGS]
        key = ".".join(str(part) for part in place) or "study"
        found = mistake["input"]
        match mistake["type"]:
            case "extra_forbidden":
                known = _keys_of(place[:-1])
                near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
                line = f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "") + f" (allowed: {', '.join(known)})"
            case "missing":
                line = f"{key}: missing"
            case "literal_error":
                allowed = mistake["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
                line = f"{key}: {_not_among(found, allowed)}"
            case "value_error" if isinstance(mistake["ctx"]["error"], UnknownName):
                line = f"{key}: {_not_among(found, mistake['ctx']['error'].known)}"
            case "value_error":
                shown = f"found {found!r}: " if isinstance(found, str | int | float) else ""
                line = f"{key}: {shown}{mistake['ctx']['error']}"
            case _:
                shown = f"found {found!r}: " if not isinstance(found, dict) else "found a table: "
                line = f"{key}: {shown}{mistake['msg'][:1].lower()}{mistake['msg'][1:]}"
        lines.append(line)
    return lines


def _not_among(found: Any, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(found), allowed, n=1, cutoff=0.5)
    return f"found {found!r}" + (f"; did you mean {near[0]}?" if near else "") + f" (allowed: {', '.join(allowed)})"


def _keys_of(place: list[str | int]) -> list[str]:
    """Return the keys that are allowed in the table at a place of a study file."""
    model: type[BaseModel] = StudySpec
    for part in place:
        model = next(_models_in(model.model_fields[str(part)].annotation))
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
