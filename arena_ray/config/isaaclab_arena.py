"""Jobs in the form of IsaacLab-Arena's `eval_runner` (June 2026, JSON) as jobs of ours.

What its `Job.from_dict` reads and we can run is translated; everything else is refused by name, because Arena's
environments and registered policies are built by Arena's own code, which is not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from arena_ray.config.problems import Problem, shown
from arena_ray.errors import nearest
from arena_ray.specs import ENTRY_POINT_PATTERN, POLICY_TYPES

_MARKS = ("arena_env_args", "policy_type")
_SAME = ("name", "num_steps", "num_episodes", "num_rebuilds", "language_instruction")
_KEYS = (*_SAME, *_MARKS, "policy_config_dict", "variations", "status")

_GYMNASIUM_ID = r"([\w.]+:)?([\w.-]+/)?[\w.-]+-v\d+"
_DOTTED_CLASS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
_POLICIES = {"zero_action": "zero", **{name: name for name in POLICY_TYPES}}

_NATIVE_ENV = "write the job with 'env: {entry_point: package.module:attribute}', a factory that builds it"
_INSTEAD = {
    "enable_cameras": "write the job with 'env' and 'video: {record_camera_video: true}'",
    "device": "write the job with 'env' and 'resources: {num_gpus: 1}'; each worker sees only its own GPUs",
    "headless": "leave it out: workers never open a window",
    "placement_seed": "every random choice follows 'seed' here; leave it out, or hand it to your own factory",
    "language_instruction": "write 'language_instruction' in the job itself",
}


def is_arena_job(job: Mapping[str, Any]) -> bool:
    """Return whether a job is in IsaacLab-Arena's form: it has `arena_env_args` or `policy_type`."""
    return any(mark in job for mark in _MARKS)


def is_pending(job: Mapping[str, Any]) -> bool:
    """Return whether Arena would queue the job: its `status` is ``pending`` or absent."""
    return job.get("status") in (None, "pending")


def to_native(job: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return a job of ours for one of IsaacLab-Arena's, and what could not be translated.

    Where something could not, the result holds a stand-in, so that the rest of the job can still be checked.
    """
    problems = [_unknown(key, job[key]) for key in job if key not in _KEYS]
    native = {key: job[key] for key in _SAME if key in job}
    if job.get("variations"):
        problems.append(_refused("variations", job["variations"], "leave it out and write a job for each variation"))
    return native | _environment(job, problems) | _policy(job, problems), problems


def fill_in_what_is_missing(native: dict[str, Any]) -> list[Problem]:
    """Put a stand-in where a translated job lacks environment or policy even with defaults; return what was lacking."""
    problems = []
    if "env" not in native:
        native["env"] = {"id": "stand-in"}
        text = "arena_env_args.environment: missing; write the environment's Gymnasium id there"
        problems.append(Problem("env", text))
    policy = native.setdefault("policy", {})
    if isinstance(policy, dict) and not policy.keys() & {"type", "entry_point"}:
        policy["type"] = "zero"
        text = f"policy_type: missing; write one of {', '.join(sorted(_POLICIES))}, or package.module.Class"
        problems.append(Problem("policy", text))
    return problems


def _unknown(key: str, value: object) -> Problem:
    hint = nearest(key, _KEYS)
    return Problem(key, f"unknown key {key!r} in a job of IsaacLab-Arena's form (found {shown(value)}); {hint}")


def _refused(key: str, value: object, instead: str) -> Problem:
    return Problem(key, f"{key}: found {shown(value)}; it belongs to IsaacLab-Arena's own builder; {instead}")


def _is_omitted(value: object) -> bool:
    """Return whether Arena leaves the argument out of its command line."""
    return value is None or value is False or value == []


def _mapping(job: Mapping[str, Any], key: str, problems: list[Problem]) -> dict[str, Any]:
    value = job.get(key)
    if value is None or isinstance(value, dict):
        return value or {}
    problems.append(Problem(key, f"{key}: found {shown(value)}; must be a mapping"))
    return {}


def _environment(job: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    arguments = _mapping(job, "arena_env_args", problems)
    given = {key: value for key, value in arguments.items() if not _is_omitted(value)}
    native: dict[str, Any] = {key: given.pop(key) for key in ("num_envs", "seed") if key in given}
    if "environment" in given:
        native["env"] = {"id": _environment_id(given.pop("environment"), problems)}
    for key, value in given.items():
        instead = _INSTEAD.get(key, f"{_NATIVE_ENV}, and put {key!r} in 'env.kwargs'")
        problems.append(_refused(f"arena_env_args.{key}", value, instead))
    return native


def _environment_id(environment: object, problems: list[Problem]) -> str:
    if isinstance(environment, str) and re.fullmatch(_GYMNASIUM_ID, environment):
        return environment
    what = "it is not a Gymnasium id (such as FetchReach-v4)"
    if str(environment).endswith((".yaml", ".yml")):
        what = "it is a graph spec"
    key = "arena_env_args.environment"
    text = f"{key}: found {shown(environment)}; {what}, and IsaacLab-Arena's own environments are built by its builder"
    problems.append(Problem(key, f"{text}; {_NATIVE_ENV}"))
    return "stand-in"


def _policy(job: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    kwargs = _mapping(job, "policy_config_dict", problems)
    if job.get("policy_type") is None:
        return {"policy": {"kwargs": kwargs}} if kwargs else {}
    return {"policy": {**_policy_name(job["policy_type"], problems), "kwargs": kwargs}}


def _policy_name(name: object, problems: list[Problem]) -> dict[str, str]:
    for matches, build in _POLICY_FORMS:
        if isinstance(name, str) and matches(name):
            return build(name)
    hint = nearest(str(name), _POLICIES)
    text = f"policy_type: found {shown(name)}; IsaacLab-Arena's registered policies are not here; write the class as "
    problems.append(Problem("policy_type", f"{text}package.module.Class, or a built-in type. {hint}"))
    return {"type": "zero"}


def _from_dotted_class(name: str) -> dict[str, str]:
    return {"entry_point": ":".join(name.rsplit(".", 1))}


_POLICY_FORMS: tuple[tuple[Callable[[str], Any], Callable[[str], dict[str, str]]], ...] = (
    (_POLICIES.__contains__, lambda name: {"type": _POLICIES[name]}),
    (lambda name: re.fullmatch(_DOTTED_CLASS, name), _from_dotted_class),
    (lambda name: re.fullmatch(ENTRY_POINT_PATTERN, name), lambda name: {"entry_point": name}),
)
