"""What to write instead of an unknown key."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pydantic import BaseModel

from arena_ray.config.problems import dotted, shown
from arena_ray.errors import nearest
from arena_ray.specs import (
    EnvRef,
    EvalJob,
    MetricSpec,
    PolicyRef,
    Resources,
    RunSettings,
    StopWhen,
    SuccessSpec,
    VideoRecordingCfg,
)

#: Keys of a job file's top level.
FILE_KEYS = ("jobs", "defaults", "run")

#: Why a job cannot say where its videos go.
NO_VIDEO_BASE_DIR = (
    "videos of a run lie in the run directory, in the job's folder; leave it out and set 'run.video_base_dir' "
    "(--video_base_dir) to choose where run directories are created"
)

_PARTS: dict[str, type] = {
    "env": EnvRef,
    "policy": PolicyRef,
    "success": SuccessSpec,
    "stop_when": StopWhen,
    "metrics": MetricSpec,
    "resources": Resources,
    "video": VideoRecordingCfg,
}
_RECORD = "write 'record_viewport_video' (what env.render() shows) or 'record_camera_video' (the observation's cameras)"
_TYPED_ARENA = "IsaacLab-Arena's typed experiments ('shared', 'runs') are not read; write 'defaults' and 'jobs'"

# Spellings of earlier days and of related projects: place -> key -> what to do.
_DIRECT: dict[str, dict[str, str]] = {
    "file": {"runs": _TYPED_ARENA, "shared": _TYPED_ARENA},
    "run": {
        "video": "write 'record_viewport_video'",
        "camera_video": "write 'record_camera_video'",
        "video_dir": "write 'video_base_dir'",
    },
    "job": {
        "environment": "write 'env'",
        "camera_video": "write 'video: {record_camera_video: true}'",
        "video_dir": NO_VIDEO_BASE_DIR,
        "video_base_dir": NO_VIDEO_BASE_DIR,
        "args_cli": "IsaacLab-Arena's 'args_cli' is not read; write 'env' and 'policy'",
        "policy_args": "IsaacLab-Arena's 'policy_args' is not read; write 'policy: {type: ..., kwargs: {...}}'",
    },
    "video": {
        "enabled": _RECORD,
        "video": "write 'record_viewport_video'",
        "camera_video": "write 'record_camera_video'",
        "video_dir": NO_VIDEO_BASE_DIR,
    },
}


def keys_of(spec: type) -> list[str]:
    """Return the keys that a mapping for this spec may have, as in a job file."""
    if issubclass(spec, BaseModel):
        return list(spec.model_fields)
    return [field.name for field in dataclasses.fields(spec) if field.name != "video_base_dir"]  # type: ignore[arg-type]


def unknown_key(spec: type, path: Sequence[str | int], value: object, prefix: str = "") -> str:
    """Return the text for an unknown key: what was found and what to write instead.

    Args:
        spec: `EvalJob` or `RunSettings`.
        path: The key, within a mapping for `spec`.
        value: What it was set to.
        prefix: Put in front of the key in the text, such as ``run.``.
    """
    part, key = (str(path[0]) if len(path) > 1 else ""), str(path[-1])
    place = part or ("run" if spec is RunSettings else "job")
    valid = keys_of(_PARTS.get(part, spec))
    return f"unknown key {prefix + dotted(path)!r} (found {shown(value)}); {_hint(place, key, valid)}"


def unknown_file_key(key: str, value: object) -> str:
    """Return the text for an unknown key at a job file's top level."""
    return f"unknown key {key!r} (found {shown(value)}); {_hint('file', key, list(FILE_KEYS))}"


def _hint(place: str, key: str, valid: list[str]) -> str:
    plain = key.replace("-", "_")
    if plain in _DIRECT.get(place, {}):
        return _DIRECT[place][plain]
    if plain in valid:
        return f"write {plain!r}: keys use underscores. Valid: {', '.join(sorted(valid))}"
    homes = _homes(place, plain)
    if homes:
        return f"did you mean {' or '.join(map(repr, homes))}? Valid here: {', '.join(sorted(valid))}"
    return nearest(plain, valid)


def _homes(place: str, key: str) -> list[str]:
    """Return where a key of another place belongs."""
    if place == "file":
        in_job = [f"defaults.{key}"] if key in EvalJob.model_fields else []
        return in_job + ([f"run.{key}"] if key in RunSettings.model_fields else [])
    if place == "run":
        return []
    if place == "job":
        in_parts = [f"{part}.{key}" for part, spec in _PARTS.items() if part != "metrics" and key in keys_of(spec)]
        return in_parts or ([f"run.{key}"] if key in RunSettings.model_fields else [])
    return []
