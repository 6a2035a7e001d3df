"""From the `jobs` and `defaults` of a job file to `EvalJob`s."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from arena_ray.config.isaaclab_arena import fill_in_what_is_missing, is_arena_job, is_pending, to_native
from arena_ray.config.merging import BUDGETS, merge_defaults
from arena_ray.config.messages import validation_problems
from arena_ray.config.overrides import Override, apply_override, parse_overrides
from arena_ray.config.plain_data import plain_data
from arena_ray.config.problems import Problem, is_within, shown
from arena_ray.config.spelling import NO_VIDEO_BASE_DIR
from arena_ray.errors import ConfigError
from arena_ray.specs import EvalJob, VideoRecordingCfg

# A job in which nothing is wrong, to check `defaults` and budgets on their own.
_STAND_IN = {"name": "job", "env": {"id": "env"}, "policy": {"type": "zero"}, "num_episodes": 10**9}


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    position: int  # in the file, from 1
    job: dict[str, Any]
    problems: list[Problem]  # found before the defaults came in
    is_arena: bool = False  # in IsaacLab-Arena's form

    @property
    def name(self) -> Any:
        return self.job.get("name")

    @property
    def label(self) -> str:
        return f"job {self.name!r}" if isinstance(self.name, str) else f"job #{self.position}"


def build_jobs(
    raw_jobs: object, defaults: Mapping[str, Any], overrides: Iterable[str]
) -> tuple[tuple[EvalJob, ...], list[str]]:
    """Return the jobs in file order, and a line for everything that is wrong.

    Args:
        raw_jobs: What stands under `jobs`; items may be `EvalJob`s too.
        defaults: Put under every job.
        overrides: ``NAME:key=value`` each; they win over the job, a later one over an earlier one.
    """
    if not isinstance(raw_jobs, (list, tuple)):
        return (), [f"jobs: found {shown(raw_jobs)}; must be a list: write '- name: ...' for each job"]
    if not raw_jobs:
        return (), ["jobs: found an empty list; give at least one job"]
    entries, lines = _entries(raw_jobs)
    defaults, default_problems = _check_defaults(defaults)
    parsed, override_lines = parse_overrides(overrides, [entry.name for entry in entries if _is_text(entry.name)])
    lines += [f"defaults: {problem.text}" for problem in default_problems] + override_lines
    built = [_build(entry, defaults, default_problems, parsed, lines) for entry in entries]
    return tuple(job for job in built if job), lines + _same_names(entries)


def job_document(job: EvalJob) -> dict[str, Any]:
    """Return a job as strict JSON data that `load_plan` reads back into an equal job."""
    document = job.model_dump(mode="json")
    del document["video"]["video_base_dir"]  # a job cannot choose it, see NO_VIDEO_BASE_DIR
    for optional in ("memory_gb", "label_selector", "accelerator_type"):
        if not document["resources"][optional]:
            del document["resources"][optional]
    if job.stop_when is None:
        del document["stop_when"]
    return document


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _entries(raw_jobs: Sequence[object]) -> tuple[list[_Entry], list[str]]:
    entries, lines = [], []
    for position, raw in enumerate(raw_jobs, start=1):
        raw = _dumped(raw) if isinstance(raw, EvalJob) else raw
        if not isinstance(raw, Mapping):
            lines.append(f"job #{position}: found {shown(raw)}; must be a mapping with name, env and policy")
            continue
        job, problems = plain_data(raw)
        if not is_arena_job(job):
            entries.append(_Entry(position, job, problems))
        elif is_pending(job):
            native, more = to_native(job)
            entries.append(_Entry(position, native, problems + more, is_arena=True))
    if not entries and not lines:
        lines = ["jobs: every job has a 'status' other than 'pending', so none is left to run; set it to 'pending'"]
    return entries, lines


def _dumped(job: EvalJob) -> dict[str, Any]:
    data = job.model_dump()
    if job.video.video_base_dir == VideoRecordingCfg().video_base_dir:
        del data["video"]["video_base_dir"]
    return data


def _check_defaults(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    defaults, problems = plain_data(raw)
    if "name" in defaults:
        name = defaults.pop("name")
        problems.append(Problem("name", f"name: found {shown(name)}; every job has its own name, write it there"))
    _, more = _validated(merge_defaults(_STAND_IN, defaults), problems)
    # What concerns a job as a whole (its budget) can only be said of the job.
    return defaults, problems + [problem for problem in more if problem.key]


def _build(
    entry: _Entry,
    defaults: Mapping[str, Any],
    default_problems: Sequence[Problem],
    overrides: Sequence[Override],
    lines: list[str],
) -> EvalJob | None:
    data = merge_defaults(defaults, entry.job)
    if entry.is_arena:
        entry.problems.extend(fill_in_what_is_missing(data))
    mine = [override for override in overrides if override.applies_to(entry.name)]
    for override in mine:
        try:
            apply_override(data, override)
        except ConfigError as error:
            lines.append(f"override {override.text!r}: {entry.label}: {error}")
    job, problems = _validated(data, [*entry.problems, *default_problems])
    lines += [f"{_label(entry, problem, mine)}: {problem.text}" for problem in [*entry.problems, *problems]]
    return job


def _label(entry: _Entry, problem: Problem, overrides: Sequence[Override]) -> str:
    for override in overrides:
        is_below_unknown = problem.text.startswith("unknown key") and is_within(override.key, problem.key)
        if is_below_unknown or is_within(problem.key, override.key):
            return f"override {override.text!r}"
    return entry.label


def _validated(data: dict[str, Any], known: Sequence[Problem]) -> tuple[EvalJob | None, list[Problem]]:
    """Return the job, or ``None``, and its problems without those that are known already."""
    try:
        job, problems = EvalJob.model_validate(data), []
    except ValidationError as error:
        job, problems = None, validation_problems(error, data, EvalJob)
        problems += _budget_problems(data, problems)
    problems += _video_problems(data)
    return job, [problem for problem in problems if not _follows(problem, known)]


def _follows(problem: Problem, known: Sequence[Problem]) -> bool:
    """Return whether a problem says again what a known one says: not plain data became ``None``, see `plain_data`."""
    keys = {other.key for other in known}
    is_stand_in = problem.key in keys and "found None" in problem.text
    is_lost_budget = not problem.key and not keys.isdisjoint(BUDGETS)
    return problem in known or is_stand_in or is_lost_budget


def _budget_problems(data: Mapping[str, Any], problems: Sequence[Problem]) -> list[Problem]:
    """Return what is wrong with the budget, which pydantic only looks at when all else is right."""
    if any(not problem.key or problem.key in BUDGETS or problem.text.startswith("unknown") for problem in problems):
        return []
    budget = {key: data.get(key) for key in BUDGETS}
    try:
        EvalJob.model_validate({**_STAND_IN, **budget})
    except ValidationError as error:
        return validation_problems(error, budget, EvalJob)
    return []


def _video_problems(data: Mapping[str, Any]) -> list[Problem]:
    video = data.get("video")
    if not isinstance(video, Mapping) or "video_base_dir" not in video:
        return []
    key = "video.video_base_dir"
    return [Problem(key, f"{key}: found {shown(video['video_base_dir'])}; {NO_VIDEO_BASE_DIR}")]


def _same_names(entries: Sequence[_Entry]) -> list[str]:
    places: dict[str, list[_Entry]] = {}
    for entry in entries:
        if _is_text(entry.name):
            places.setdefault(entry.name.casefold(), []).append(entry)
    return [_same_name(same) for same in places.values() if len(same) > 1]


def _same_name(entries: Sequence[_Entry]) -> str:
    where = " and ".join(f"job #{entry.position} {entry.name!r}" for entry in entries)
    if len({entry.name for entry in entries}) == 1:
        return f"{where} have the same name; names must be unique, because each is a folder of the run directory"
    return f"{where} have names that differ only in case; on some file systems they would share a folder; rename one"
