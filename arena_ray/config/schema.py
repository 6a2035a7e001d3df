"""The JSON Schema of a job file, made from the specs."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.json_schema import models_json_schema

from arena_ray.specs import ENTRY_POINT_PATTERN, JOB_NAME_PATTERN, EvalJob, RunSettings, VideoRecordingCfg

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_DESCRIPTION = (
    "Job file of arena_ray, in YAML or JSON. Jobs in the form of IsaacLab-Arena's eval_runner are read too and are not "
    "described here."
)
_ENTRY_POINTS = (("EnvRef", "entry_point"), ("EnvRef", "seed_hook"), ("PolicyRef", "entry_point"))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a whole job file: `jobs`, `defaults` and `run`.

    What a job needs may stand in `defaults`: only without that section are `env` and `policy` required in each job.
    """
    definitions = _definitions()
    job = definitions["EvalJob"]
    return {
        "$schema": _DRAFT,
        "title": "arena_ray job file",
        "description": _DESCRIPTION,
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "jobs": {
                "type": "array",
                "minItems": 1,
                "description": "What to evaluate.",
                "items": {"$ref": "#/$defs/EvalJob"},
            },
            "defaults": _defaults(job),
            "run": {"$ref": "#/$defs/RunSettings"},
        },
        "if": {"not": {"required": ["defaults"]}},
        "then": {"properties": {"jobs": {"items": {"required": ["env", "policy"]}}}},
        "$defs": definitions,
    }


def _definitions() -> dict[str, Any]:
    _, schema = models_json_schema([(EvalJob, "validation"), (RunSettings, "validation")])
    definitions: dict[str, Any] = schema["$defs"]
    _complete_job(definitions["EvalJob"])
    _complete_video(definitions["VideoRecordingCfg"])
    for spec, key in _ENTRY_POINTS:
        _text_branch(definitions[spec]["properties"][key])["pattern"] = f"^{ENTRY_POINT_PATTERN}$"
    definitions["EnvRef"]["not"] = _both_given("id", "entry_point")
    definitions["PolicyRef"]["not"] = _both_given("type", "entry_point")
    return definitions


def _complete_job(job: dict[str, Any]) -> None:
    """Say what the specs check in code, and that `defaults` may give what a job lacks."""
    job["required"] = ["name"]
    job["properties"]["name"]["pattern"] = f"^{JOB_NAME_PATTERN}$"
    metrics = job["properties"]["metrics"]
    metrics["items"] = {"anyOf": [{"type": "string", "minLength": 1}, metrics["items"]]}
    job["not"] = _both_given("num_episodes", "num_steps")


def _complete_video(video: dict[str, Any]) -> None:
    """Take the fields' docs from the class's docstring; a job cannot choose `video_base_dir`."""
    docs = inspect.getdoc(VideoRecordingCfg) or ""
    video["description"] = docs.splitlines()[0]
    del video["properties"]["video_base_dir"]
    for name, text in re.findall(r"^    (\w+): (.+)$", docs, flags=re.MULTILINE):
        if name in video["properties"]:
            video["properties"][name]["description"] = text


def _text_branch(schema: dict[str, Any]) -> dict[str, Any]:
    return next(branch for branch in schema["anyOf"] if branch.get("type") == "string")


def _both_given(first: str, second: str) -> dict[str, Any]:
    given = {"not": {"type": "null"}}
    return {"required": [first, second], "properties": {first: given, second: given}}


def _defaults(job: dict[str, Any]) -> dict[str, Any]:
    properties = {key: value for key, value in job["properties"].items() if key != "name"}
    return {
        "type": "object",
        "additionalProperties": False,
        "description": "Merged under every job; a job's own budget, env or policy replaces the default one.",
        "properties": properties,
    }
