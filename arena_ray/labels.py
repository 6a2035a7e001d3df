"""Label selectors of Ray: what may be written, and whether a node's labels satisfy it.

A value is ``v``, ``!v``, ``in(a, b)`` or ``!in(a, b)``, as `ray._private.label_utils` of Ray 2.60 has it. A node that
lacks the label satisfies the two with ``!`` and neither of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Ray's label for the kind of GPU, e.g. ``H100``; Ray finds it out by itself.
ACCELERATOR_TYPE = "ray.io/accelerator-type"

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:{_NAME}(?:\.{_NAME})*/)?{_NAME}")
_CONDITION = re.compile(rf"(?P<negated>!?)(?:in\((?P<values>{_NAME}(?:, ?{_NAME})*)\)|(?P<value>{_NAME}))")


def check_selector(selector: Mapping[str, str]) -> Mapping[str, str]:
    """Return a selector if Ray would take it.

    Args:
        selector: Condition by label.

    Raises:
        ValueError: If a key or a condition is not of Ray's form.
    """
    for key, condition in selector.items():
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"{key!r} cannot be a label; write a name such as 'zone' or 'example.com/zone': letters, digits, '-', "
                "'_' and '.', at most 63, first and last a letter or digit"
            )
        check_condition(condition)
    return selector


def check_condition(condition: str) -> str:
    """Return a condition if Ray would take it.

    Raises:
        ValueError: If it is not of one of the four forms.
    """
    if not _CONDITION.fullmatch(condition):
        raise ValueError(
            f"{condition!r} is no condition on a label; write 'value', '!value', 'in(a, b)' or '!in(a, b)', each value "
            "of letters, digits, '-', '_' and '.', at most 63"
        )
    return condition


def satisfies(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a node with these labels is one that a selector means.

    Args:
        labels: Of the node.
        selector: Checked by `check_selector`.
    """
    return all(_holds(labels.get(key), condition) for key, condition in selector.items())


def _holds(label: str | None, condition: str) -> bool:
    values, negated = condition_parts(condition)
    return (label in values) != negated


def condition_parts(condition: str) -> tuple[frozenset[str], bool]:
    """Return the values of a condition that has been checked, and whether it is met by all others."""
    found = _CONDITION.fullmatch(condition)
    assert found is not None, condition
    values = re.split(", ?", found["values"]) if found["values"] else [found["value"]]
    return frozenset(values), bool(found["negated"])


def for_ray(selector: Mapping[str, str]) -> dict[str, str]:
    """Return a selector as Ray takes it: to Ray 2.60 a space behind a comma is part of the value."""
    return {key: condition.replace(", ", ",") for key, condition in selector.items()}


def selector_text(selector: Mapping[str, str]) -> str:
    """Return a selector, or labels, for people."""
    return ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
