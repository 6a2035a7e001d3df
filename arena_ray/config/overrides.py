"""Overrides of the command line: ``NAME:key=value``, or ``*:key=value`` for every job."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from arena_ray.config.job_file import parse_yaml
from arena_ray.config.merging import BUDGETS, REFERENCES
from arena_ray.config.plain_data import plain_data
from arena_ray.config.problems import dotted, shown
from arena_ray.errors import ConfigError, nearest

EVERY_JOB = "*"


def _pairs() -> dict[tuple[str, ...], str]:
    pairs: dict[tuple[str, ...], str] = {(BUDGETS[0],): BUDGETS[1], (BUDGETS[1],): BUDGETS[0]}
    for part, (first, second) in REFERENCES.items():
        pairs |= {(part, first): second, (part, second): first}
    return pairs


#: Of these pairs a job has one: setting one takes the other, its neighbour, away.
_EXCLUDES = _pairs()


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """One value that replaces what a job file says.

    Attributes:
        text: As the user wrote it.
        job: Name of a job, or ``*``.
        path: The key, split at its dots.
        value: Plain data.
    """

    text: str
    job: str
    path: tuple[str, ...]
    value: Any

    @property
    def key(self) -> str:
        """The dotted key."""
        return dotted(self.path)

    def applies_to(self, name: object) -> bool:
        """Return whether it changes the job of this name."""
        return self.job in (EVERY_JOB, name)


def parse_overrides(texts: Iterable[str], job_names: Iterable[str]) -> tuple[list[Override], list[str]]:
    """Return the overrides in the given order, and a line for each text that is not one.

    Args:
        texts: ``NAME:key=value`` each; a single text is taken as a list of one.
        job_names: The names that an override can name, besides ``*``.
    """
    names = list(job_names)
    overrides, lines = [], []
    for text in [texts] if isinstance(texts, str) else texts:
        try:
            overrides.append(_parse(text, names))
        except ConfigError as error:
            lines.append(f"override {text!r}: {error}")
    return overrides, lines


def _parse(text: str, names: list[str]) -> Override:
    target, equals, value_text = str(text).partition("=")
    name, colon, key = target.partition(":")
    if not (equals and colon and name):
        raise ConfigError("must be NAME:key=value with the name of a job, or '*:key=value' for every job")
    path = tuple(key.split("."))
    if not all(path):
        raise ConfigError(f"found the key {key!r}; must be a key such as num_episodes or env.kwargs.max_episode_steps")
    if name != EVERY_JOB and name not in names:
        raise ConfigError(f"there is no job {name!r}; {nearest(name, [*names, EVERY_JOB])}")
    if path == ("name",):
        raise ConfigError("'name' cannot be overridden; change it in the job file")
    return Override(text, name, path, _value(value_text))


def _value(text: str) -> Any:
    value, problems = plain_data(parse_yaml(text))
    if problems:
        raise ConfigError("; ".join(problem.text.removeprefix(": ") for problem in problems))
    return value


def apply_override(job: dict[str, Any], override: Override) -> None:
    """Set the override's value in the job, creating mappings on the way.

    Setting one of two keys that exclude each other (the budgets; `env.id` and `env.entry_point`; `policy.type` and
    `policy.entry_point`) takes the other away.

    Raises:
        ConfigError: If something on the way is there and is not a mapping.
    """
    parent = job
    for depth, part in enumerate(override.path[:-1], start=1):
        if parent.get(part) is None:
            parent[part] = {}
        if not isinstance(parent[part], dict):
            raise ConfigError(
                f"{dotted(override.path[:depth])} is {shown(parent[part])}, not a mapping, so it has no key "
                f"{override.path[depth]!r}"
            )
        parent = parent[part]
    parent[override.path[-1]] = override.value
    if override.value is not None and override.path in _EXCLUDES:
        parent.pop(_EXCLUDES[override.path], None)
