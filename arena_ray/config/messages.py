"""What pydantic found, in our words: the key, the value, why it is wrong, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from arena_ray.config.problems import Problem, dotted, shown
from arena_ray.config.spelling import unknown_key
from arena_ray.errors import nearest

_Path = tuple[str | int, ...]

_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_MAPPING = "a mapping"

_NEEDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', at most 100, the first a letter or digit",
    "tuple_type": "a list",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dataclass_type": _MAPPING,
    "mapping_type": _MAPPING,
    "dict_type": _MAPPING,
}

_EXAMPLES = {
    "name": "name: my-job",
    "env": "env: {id: FetchReach-v4}' or 'env: {entry_point: package.module:attribute}",
    "policy": "policy: {type: random}' or 'policy: {entry_point: package.module:attribute}",
    "success": "success: {key: is_success}",
    "stop_when": "stop_when: {metric: success_rate, half_width: 0.05, confidence: 0.95}",
    "resources": "resources: {num_gpus: 1}",
    "video": "video: {record_viewport_video: true}' or 'video: {record_camera_video: true}",
    "tags": "tags: {suite: fetch}",
    "metrics": "metrics: [distance]",
}


def validation_problems(error: ValidationError, data: Mapping[str, Any], spec: type, prefix: str = "") -> list[Problem]:
    """Return what a failed validation found, a problem for each key.

    Args:
        error: What pydantic raised for `data`.
        data: What was validated.
        spec: `EvalJob` or `RunSettings`.
        prefix: Put in front of keys in the texts, such as ``run.``.
    """
    grouped: dict[_Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(_path(detail, data), []).append(detail)
    return [Problem(dotted(path), _text(path, details, spec, prefix)) for path, details in grouped.items()]


def _path(detail: ErrorDetails, data: Any) -> _Path:
    """Return where in `data` the error is: pydantic ends the place of a union's error with the branch that it tried."""
    place = detail["loc"]
    if detail["type"] == "missing":
        return place
    for length, part in enumerate(place):
        if not _has(data, part):
            return place[:length]
        data = data[part]
    return place


def _has(data: object, part: str | int) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)


def _text(path: _Path, details: list[ErrorDetails], spec: type, prefix: str) -> str:
    first, key = details[0], prefix + dotted(path)
    if first["type"] == "missing":
        return f"missing required key {key!r}{_example(path)}"
    if first["type"] in _UNKNOWN_KEY:
        return unknown_key(spec, path, first["input"], prefix)
    return ": ".join(filter(None, [key, _complaint(path, details)]))


def _complaint(path: _Path, details: list[ErrorDetails]) -> str:
    first, value = details[0], details[0]["input"]
    if first["type"] == "value_error":
        return _own_words(str(first["ctx"]["error"]), path, value)
    if first["type"] == "literal_error" and len(details) == 1 and isinstance(value, str):
        return f"found {shown(value)}; {nearest(value, _choices(first))}"
    needs = " or ".join(dict.fromkeys(map(_need, details)))
    advice = _example(path) if needs in (_MAPPING, "a list") else _advice(needs, value)
    return f"found {shown(value)}; must be {needs}{advice}"


def _own_words(text: str, path: _Path, value: object) -> str:
    """Return the text of one of the specs' own validators, which may lack what was found."""
    return text if not path or shown(value) in text else f"found {shown(value)}; {text}"


def _need(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "greater_than_equal":
        return f"at least {context['ge']:g}"
    if kind == "greater_than":
        return f"more than {context['gt']:g}"
    if kind == "less_than":
        return f"less than {context['lt']:g}"
    if kind == "literal_error":
        choices = ", ".join(map(repr, _choices(detail)))
        return f"one of {choices}" if "," in choices else choices
    return _NEEDS.get(kind) or detail["msg"].removeprefix("Input should be ").removeprefix("Input should ")


def _choices(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", detail["ctx"]["expected"])


def _example(path: _Path) -> str:
    example = _EXAMPLES.get(dotted(path))
    return f"; write '{example}'" if example else ""


def _advice(needs: str, value: object) -> str:
    if needs == "text" and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    if needs.endswith("number") and isinstance(value, str) and _is_number(value):
        return "; it is text here: write it without quotes (YAML reads 1e3 as text and 1.0e+3 as a number)"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
