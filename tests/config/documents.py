"""Documents that the tests of this folder vary, and reading them."""

from __future__ import annotations

from typing import Any

import pytest

from arena_ray.config import load_plan
from arena_ray.errors import ConfigError
from arena_ray.specs import EvalJob


def job(name: Any = "a", **changes: Any) -> dict[str, Any]:
    """Return a valid job with the changes; a change to ``...`` leaves the key out."""
    base = {"name": name, "env": {"id": "CartPole-v1"}, "policy": {"type": "random"}, "num_episodes": 3}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def document(*jobs: Any, **sections: Any) -> dict[str, Any]:
    return {"jobs": list(jobs), **sections}


def only_job(*args: Any, **kwargs: Any) -> EvalJob:
    """Return the one job of a plan."""
    (found,) = load_plan(*args, **kwargs).jobs
    return found


def refusal(*args: Any, **kwargs: Any) -> str:
    """Return the text with which `load_plan` refuses; without jargon, whatever it is about."""
    with pytest.raises(ConfigError) as caught:
        load_plan(*args, **kwargs)
    text = str(caught.value)
    for jargon in ("pydantic", "http", "Input should", "Value error", "validation error", "Field required"):
        assert jargon not in text
    return text


def lines(text: str) -> list[str]:
    """Return the problems that a refusal lists, checked against the number in its first line."""
    first, *rest = text.split("\n  ")
    assert first.endswith(f": {len(rest)} problem" + ("" if len(rest) == 1 else "s"))
    return rest
