"""What has changed about the jobs of a run since it began."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from arena_ray.config.problems import shown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobChanges:
    """What has changed about the jobs of a run.

    Attributes:
        grown: Old and new `num_episodes` by name of the job. A job has grown when more episodes are asked for, in one
            build of the environment: the episodes that it had are then what they were.
        tightened: Old and new `stop_when` of jobs that shall know their success rate better than they were to.
        refused: A line for every other difference.
    """

    grown: Mapping[str, tuple[int, int]]
    tightened: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
    refused: Sequence[str]


def compare_jobs(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> JobChanges:
    """Return what has changed.

    Args:
        before: The jobs of ``run.json``, as `EvalPlan.document` has them.
        now: The same jobs as they are read now.
    """
    old, new = ({job["name"]: job for job in jobs} for jobs in (before, now))
    lines = [f"job {name!r}: it was there, and is gone" for name in old if name not in new]
    lines += [f"job {name!r}: it was not there, and is now" for name in new if name not in old]
    if not lines and list(old) != list(new):
        lines.append(f"the order of the jobs: was {', '.join(old)}, is now {', '.join(new)}")
    grown: dict[str, tuple[int, int]] = {}
    tightened: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for name in (name for name in old if name in new):
        for key, was, is_now in _differences(old[name], new[name]):
            if key == "num_episodes" and _is_growth(was, is_now) and old[name]["num_rebuilds"] == 1:
                grown[name] = (was, is_now)
            elif key in _TIGHTER and _TIGHTER[key](was, is_now):
                tightened[name] = (old[name]["stop_when"], new[name]["stop_when"])
            else:
                lines.append(f"job {name!r}: {key}: was {shown(was)}, is now {shown(is_now)}{_why(key, old[name])}")
    return JobChanges(grown=grown, tightened=tightened, refused=lines)


def _differences(was: Any, is_now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted key, old and new value of what differs; what is missing on one side is ``None``."""
    if isinstance(was, Mapping) and isinstance(is_now, Mapping):
        for name in dict.fromkeys((*was, *is_now)):
            yield from _differences(was.get(name), is_now.get(name), f"{key}.{name}" if key else name)
    elif _typed(was) != _typed(is_now):
        yield key, was, is_now


def _typed(value: Any) -> Any:
    """Return a value that equals others of its type only: to an environment, ``True`` is not 1 and 1 is not 1.0."""
    if isinstance(value, Mapping):
        return {name: _typed(item) for name, item in value.items()}
    return [_typed(item) for item in value] if isinstance(value, (list, tuple)) else (type(value), value)


def _is_growth(was: Any, is_now: Any) -> bool:
    return isinstance(was, int) and isinstance(is_now, int) and is_now > was


#: What makes a job run longer before it is sure: key, and whether a change of it does.
_TIGHTER: dict[str, Callable[[Any, Any], bool]] = {
    "stop_when.half_width": lambda was, is_now: isinstance(was, float) and isinstance(is_now, float) and is_now < was,
    "stop_when.confidence": lambda was, is_now: isinstance(was, float) and isinstance(is_now, float) and is_now > was,
}


def _why(key: str, job: Mapping[str, Any]) -> str:
    if key.split(".")[0] == "stop_when":
        return " (once episodes have run, it can be made narrower and surer, and nothing else)"
    if key == "num_episodes" and job["num_rebuilds"] > 1:
        return " (num_rebuilds splits the episodes, so their number cannot change)"
    return " (episodes that have run cannot be taken back)" if key == "num_episodes" and job[key] is not None else ""
