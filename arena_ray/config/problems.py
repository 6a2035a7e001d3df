"""One thing that is wrong with the input, and how keys and values are shown in its text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from arena_ray.errors import ConfigError

_LONGEST_VALUE = 80


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        key: Dotted key within its job or section; empty when it concerns the whole of it.
        text: What was found, why it is wrong and what to do; names the key.
    """

    key: str
    text: str


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as users write it: ``("metrics", 1, "key")`` is ``metrics[1].key``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def is_within(key: str, parent: str) -> bool:
    """Return whether a dotted key is `parent` or lies below it."""
    return key == parent or key.startswith((f"{parent}.", f"{parent}["))


def shown(value: object) -> str:
    """Return the repr of a value, cut to what fits on a line."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def raise_all(origin: str, lines: Sequence[str]) -> None:
    """Raise one error that lists every line; identical lines are listed once.

    Args:
        origin: What was read, such as the job file's path.
        lines: What is wrong, a line each; nothing happens when there is none.

    Raises:
        ConfigError: If there is any line.
    """
    unique = list(dict.fromkeys(lines))
    if unique:
        count = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
        raise ConfigError("\n  ".join([f"{origin}: {count}", *unique]))
