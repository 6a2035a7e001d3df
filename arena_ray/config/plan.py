"""The way in: a job file, overrides and flags become a plan."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arena_ray.config.job_file import read_job_file
from arena_ray.config.jobs import build_jobs, job_document
from arena_ray.config.messages import validation_problems
from arena_ray.config.plain_data import plain_data
from arena_ray.config.problems import raise_all, shown
from arena_ray.config.spelling import FILE_KEYS, unknown_file_key
from arena_ray.errors import ConfigError
from arena_ray.specs import EvalJob, RunSettings

_NO_JOBS = "missing required key 'jobs'; write 'jobs:' and a list of jobs"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanSource:
    """Where a plan was read from, so that `resume` can read it again.

    Attributes:
        job_file: Absolute path; ``None`` when the jobs did not come from a file.
        overrides: As they were given.
        flags: As they were given.
    """

    job_file: str | None = None
    overrides: tuple[str, ...] = ()
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``run.json``."""
        return {"job_file": self.job_file, "overrides": [*self.overrides], "flags": dict(self.flags)}


@dataclasses.dataclass(frozen=True, slots=True)
class EvalPlan:
    """Everything that was asked for, checked and resolved.

    Attributes:
        jobs: In the order of the file; names are unique, also when case is ignored.
        settings: The file's `run` section under the flags.
        folder: Absolute path of the job file's folder; ``None`` when the jobs did not come from a file.
        document: ``{"jobs": [...]}`` with defaults, overrides and flags worked in: strict JSON data for `run.json`,
            which `load_plan` reads back into equal jobs.
        source: Where all this was read from.
    """

    jobs: tuple[EvalJob, ...]
    settings: RunSettings
    folder: Path | None
    document: Mapping[str, Any]
    source: PlanSource = PlanSource()


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    origin: str
    document: Any
    path: Path | None = None


def load_plan(
    source: str | os.PathLike[str] | Mapping[str, Any] | Sequence[EvalJob],
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> EvalPlan:
    """Read jobs and settings, and check all of it before anything starts.

    Precedence, the strongest first: `flags` and `overrides`, the job, the file's `defaults`.

    Args:
        source: Path of a YAML or JSON job file, a mapping of the same structure, or `EvalJob`s.
        overrides: ``NAME:key=value`` or ``*:key=value`` each; keys dotted, values YAML; later ones win.
        flags: Fields of `RunSettings` that were given explicitly; they win over the file's `run` section.

    Raises:
        ConfigError: If anything is wrong; the text lists everything that is, a line each.
    """
    read = _read(source)
    overrides = (overrides,) if isinstance(overrides, str) else tuple(str(override) for override in overrides)
    flags = {key: _as_text(value) for key, value in (flags or {}).items()}
    lines = _top_level_lines(read.document)
    settings, more = _settings(_section(read.document, "run", lines), flags)
    lines += more
    defaults = _section(read.document, "defaults", lines)
    jobs: tuple[EvalJob, ...] = ()
    if "jobs" in read.document:
        jobs, more = build_jobs(read.document["jobs"], defaults, overrides)
        lines += more
    raise_all(read.origin, lines)
    jobs = tuple(_recorded(job, settings) for job in jobs)
    return EvalPlan(
        jobs=jobs,
        settings=settings,
        folder=None if read.path is None else read.path.parent,
        document={"jobs": [job_document(job) for job in jobs]},
        source=PlanSource(job_file=None if read.path is None else str(read.path), overrides=overrides, flags=flags),
    )


def _read(source: object) -> _Source:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        document = read_job_file(path)
        if not isinstance(document, Mapping):
            raise ConfigError(f"{path}: found {shown(document)}; must be a mapping with the key 'jobs'")
        return _Source(str(path), document, path.absolute())
    if isinstance(source, Mapping):
        return _Source("jobs", source)
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return _Source("jobs", {"jobs": list(source)})
    raise ConfigError(f"found {shown(source)}; must be the path of a job file, a mapping, or a list of EvalJob")


def _top_level_lines(document: Mapping[Any, Any]) -> list[str]:
    lines = [unknown_file_key(str(key), value) for key, value in document.items() if key not in FILE_KEYS]
    return lines if "jobs" in document else [*lines, _NO_JOBS]


def _section(document: Mapping[Any, Any], key: str, lines: list[str]) -> Mapping[str, Any]:
    value = document.get(key)
    if value is None or isinstance(value, Mapping):
        return value or {}
    lines.append(f"{key}: found {shown(value)}; must be a mapping")
    return {}


def _settings(section: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[RunSettings, list[str]]:
    """Return the flags over the section; each is checked on its own, so that no flag hides a mistake in the file."""
    run, lines = _checked_settings(section, prefix="run.")
    above, more = _checked_settings(flags, label="flags: ")
    lines += more
    return (RunSettings() if lines else RunSettings.model_validate({**run, **above})), lines


def _checked_settings(raw: Mapping[str, Any], prefix: str = "", label: str = "") -> tuple[dict[str, Any], list[str]]:
    data, bad = plain_data(raw)
    problems = [dataclasses.replace(problem, text=prefix + problem.text) for problem in bad]
    known = {problem.key for problem in bad}
    try:
        RunSettings.model_validate(data)
    except ValidationError as error:
        found = validation_problems(error, data, RunSettings, prefix)
        problems += [problem for problem in found if problem.key not in known]
    return data, [label + problem.text for problem in problems]


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _recorded(job: EvalJob, settings: RunSettings) -> EvalJob:
    """Return the job with the run's recording turned on; a run can add recording, never take it away."""
    video = dataclasses.replace(
        job.video,
        record_viewport_video=job.video.record_viewport_video or settings.record_viewport_video,
        record_camera_video=job.video.record_camera_video or settings.record_camera_video,
    )
    return job.model_copy(update={"video": video})
