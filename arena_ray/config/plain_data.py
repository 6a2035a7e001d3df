"""Checking that what a user wrote is plain data: `run.json` must be able to hold it and give it back unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from arena_ray.config.problems import Problem, shown

_DEEPEST = 64


def plain_data(value: object) -> tuple[Any, list[Problem]]:
    """Return a deep copy of JSON types only, and what could not be copied.

    Tuples become lists, as they do in `run.json`. A value that is not a JSON type becomes ``None`` in the copy and a
    problem that names its key.
    """
    problems: list[Problem] = []
    return _copy(value, "", (), problems), problems


def _copy(value: object, key: str, above: tuple[int, ...], problems: list[Problem]) -> Any:
    """Copy a value that lies in containers with the ids `above`; a YAML anchor may put a mapping into itself."""
    if id(value) in above:
        problems.append(Problem(key, f"{key}: contains itself; write it out"))
        return None
    if len(above) > _DEEPEST:
        problems.append(Problem(key, f"{key}: lies more than {_DEEPEST} levels deep; make it flatter"))
        return None
    if isinstance(value, Mapping):
        return _copy_mapping(value, key, above, problems)
    if isinstance(value, (list, tuple)):
        return [_copy(item, f"{key}[{index}]", (*above, id(value)), problems) for index, item in enumerate(value)]
    complaint = _complaint(value)
    if complaint:
        problems.append(Problem(key, f"{key}: found {shown(value)}; {complaint}"))
        return None
    return value


def _copy_mapping(
    value: Mapping[Any, object], key: str, above: tuple[int, ...], problems: list[Problem]
) -> dict[str, Any]:
    copied = {}
    for name, item in value.items():
        path = f"{key}.{name}" if key else str(name)
        if isinstance(name, str) and not _complaint(name):
            copied[name] = _copy(item, path, (*above, id(value)), problems)
        else:
            problems.append(Problem(path, f"{path}: found the key {shown(name)}; keys must be text; put it in quotes"))
    return copied


def _complaint(value: object) -> str:
    if isinstance(value, str):
        return "" if _is_unicode(value) else "it is not valid Unicode text (a lone surrogate)"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "must be a finite number; JSON has no NaN and no infinity"
    if value is None or isinstance(value, (bool, int)):
        return ""
    return "must be a JSON type (text, number, true/false, null, list or mapping); put it in quotes to keep it as text"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
