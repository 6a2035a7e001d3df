"""Reading a YAML or JSON file into plain Python data; the only place that parses text."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from arena_ray.errors import ConfigError

# What PyYAML's safe constructors let through besides its own errors: "2024-13-40", "!!bool maybe", a thousand "[".
_CONSTRUCTOR_ERRORS = (ValueError, LookupError, AttributeError, TypeError, RecursionError)


class _StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses a key given twice; PyYAML keeps the last one silently (PyYAML #165)."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not in construct_mapping: by then `<<` merges may have added keys that a mapping rightly overrides.
        node = super().compose_mapping_node(anchor)
        seen: dict[Hashable, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                first = seen[key.tag, key.value].start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice, first in line {first}; keep one",
                    problem_mark=key.start_mark,
                )
            if isinstance(key, yaml.ScalarNode):
                seen[key.tag, key.value] = key
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Carry out merges (`<<`), and keep of each key what overrides: PyYAML 6.0.4 loses that in nested merges."""
        super().flatten_mapping(node)
        last = {(key.tag, key.value): at for at, (key, _) in enumerate(node.value) if isinstance(key, yaml.ScalarNode)}
        node.value = [
            (key, value)
            for at, (key, value) in enumerate(node.value)
            if not isinstance(key, yaml.ScalarNode) or last[key.tag, key.value] == at
        ]


def parse_yaml(text: str) -> Any:
    """Return the data of a YAML text with one document: safe types only, no key twice.

    Raises:
        ConfigError: If it cannot be read; the text says where and why.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_marked(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not readable as YAML: {_one_line(error)}") from None
    except _CONSTRUCTOR_ERRORS as error:
        raise ConfigError(f"not readable as YAML: {type(error).__name__}: {_one_line(error)}") from None


def parse_json(text: str) -> Any:
    """Return the data of a JSON text: no key twice.

    Raises:
        ConfigError: If it cannot be read; the text says where and why.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}, column {error.colno}: not readable as JSON: {error.msg}") from None
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not readable as JSON: {_one_line(error)}") from None


def read_job_file(path: str | os.PathLike[str]) -> Any:
    """Return the data of a job file: ``.json`` is JSON, ``.yaml`` and ``.yml`` YAML, else what the content is.

    Raises:
        ConfigError: If the file cannot be read, is empty or is not what its name says; the text names it.
    """
    text = _read_text(Path(path))
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; write 'jobs:' and a list of jobs")
    try:
        return _parser(Path(path), text)(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parser(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return parse_yaml
    return parse_json if suffix == ".json" or _is_json(text) else parse_yaml


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; the current folder is {Path.cwd()}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder; name the job file in it (.yaml or .json)") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r}: cannot be read: {error}") from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"the key {twice!r} is given twice in one mapping; keep one")
    return result


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{where}not readable as YAML: {what}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
