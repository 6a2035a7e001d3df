"""Putting `defaults` under a job."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

#: A job has exactly one of these.
BUDGETS = ("num_episodes", "num_steps")

#: Parts of a job that name what to build, and the keys that name it.
REFERENCES = {"env": ("id", "entry_point"), "policy": ("type", "entry_point")}


def merge_defaults(defaults: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job over the defaults, sharing nothing with either.

    Mappings are merged key by key, everything else (lists too) is replaced. Three defaults do not reach a job: a budget
    when the job has one of its own, and the default `env` or `policy` when the job names another one.
    """
    below = dict(defaults)
    if any(job.get(budget) is not None for budget in BUDGETS):
        below = {key: value for key, value in below.items() if key not in BUDGETS}
    for part, names in REFERENCES.items():
        if _names_another(below.get(part), job.get(part), names):
            del below[part]
    return copy.deepcopy(_merge(below, job))


def _names_another(default: object, own: object, names: tuple[str, ...]) -> bool:
    if not isinstance(default, Mapping) or not isinstance(own, Mapping):
        return False
    if all(default.get(name) is None for name in names):
        return False
    return any(own.get(name) is not None and own.get(name) != default.get(name) for name in names)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merge(below[key], above[key])
    return merged
